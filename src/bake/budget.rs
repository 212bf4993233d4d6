//! A budget that no quantised candidate reaches: said with the nearest one, beside whatever the bake ended in. The artifact is then what does pass.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choose::Chosen;
use super::passes;
use crate::api::bakejob::Verdict;
use crate::api::metric::Unit;
use crate::api::{Metric, Reason};
use crate::optimizer::int8::{DynamicInt8, StaticInt8};
use crate::optimizer::{Candidate, Judge, Missed, Outcome, Speed, Work};
use crate::quality::GateResult;

/// How messages, remarks and the runbook call it.
pub const BUDGET_UNREACHABLE: &str = "BudgetUnreachable";

/// No candidate that computes in 8 bits reaches the gates (of a goal or level without such candidates: none that is quantised at all).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BudgetUnreachable {
    /// Name of the candidate that came nearest.
    pub nearest: String,
    /// The gate that it misses most.
    pub missed: Missed,
    /// Bytes of its file.
    pub bytes: usize,
    /// Bytes of the input's file.
    pub input_bytes: usize,
    /// Its speed against the input, where it was timed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<Speed>,
    /// Sites that it has in float.
    pub left_out: usize,
    /// Candidates that were tried and miss a gate.
    pub candidates: usize,
    /// All of it in a sentence, with what to do.
    pub message: String,
}

/// Whether a candidate was changed in more than what is lossless.
fn is_quantised(candidate: &Candidate) -> bool {
    candidate.records.iter().any(|r| r.outcome == Outcome::Applied)
}

/// Whether it computes in 8 bits; what is only stored in them is restored when the model loads.
fn computes(candidate: &Candidate) -> bool {
    let integer = |name: &str| name == StaticInt8::NAME || name == DynamicInt8::NAME;
    candidate.records.iter().any(|r| r.outcome == Outcome::Applied && integer(&r.name))
}

/// The candidates that a budget is about.
fn meant(candidates: &[Candidate]) -> Vec<&Candidate> {
    let computing: Vec<&Candidate> = candidates.iter().filter(|c| computes(c)).collect();
    if computing.is_empty() { candidates.iter().filter(|c| is_quantised(c)).collect() } else { computing }
}

/// Of those that miss a gate the nearest: one that the search let pass before one that it did not, and then whichever has most margin.
pub(super) fn nearest(candidates: &[Candidate]) -> Option<&Candidate> {
    let missing = meant(candidates).into_iter().filter(|c| c.missed.is_some());
    let key = |c: &Candidate| (c.missed.as_ref().is_some_and(|m| m.on_verdict), c.margin());
    missing.reduce(|a, b| {
        let (of_a, of_b) = (key(a), key(b));
        if of_b.0.cmp(&of_a.0).then(of_b.1.total_cmp(&of_a.1)).is_gt() { b } else { a }
    })
}

/// Times the candidate that would be named, where the search did not: what misses the budget is not worth its time there. `base` is what the search began with.
pub(super) fn time_nearest(candidates: &mut [Candidate], base: &Work, judge: &mut dyn Judge) {
    let reached = meant(candidates).iter().any(|c| c.missed.is_none() && !c.quality.is_empty());
    let Some(name) = nearest(candidates).filter(|c| !reached && c.speed.is_none()).map(|c| c.name.clone()) else {
        return;
    };
    judge.trying(&name);
    let nearest = candidates.iter_mut().find(|c| c.name == name && c.missed.is_some());
    if let Some(candidate) = nearest {
        let again = passes::go_on(base, &candidate.work.steps).ok();
        candidate.speed = again.and_then(|work| judge.speed(&work.model).ok());
    }
}

/// The finding; `None` where a candidate reaches the gates or might, or where nothing was tried.
pub(super) fn unreachable(candidates: &[Candidate], chosen: &Chosen, input_bytes: usize) -> Option<BudgetUnreachable> {
    found(candidates, chosen.reason, input_bytes)
}

fn found(candidates: &[Candidate], reason: Reason, input_bytes: usize) -> Option<BudgetUnreachable> {
    let meant = meant(candidates);
    // What was measured and misses nothing reached the budget, whatever else it was refused for.
    let reached = meant.iter().any(|c| c.missed.is_none() && !c.quality.is_empty());
    if reason == Reason::GateInconclusive || (reached && reason != Reason::GateFailed) {
        return None;
    }
    let candidate = nearest(candidates)?;
    let missed = candidate.missed.clone()?;
    let tried = meant.iter().filter(|c| c.missed.is_some()).count();
    let mut found = BudgetUnreachable {
        nearest: candidate.name.clone(),
        missed,
        bytes: candidate.bytes,
        input_bytes,
        speed: candidate.speed,
        left_out: candidate.left_out.len(),
        candidates: tried,
        message: String::new(),
    };
    found.message = found.sentence();
    Some(found)
}

impl BudgetUnreachable {
    fn sentence(&self) -> String {
        let Missed { metric, estimate, threshold, at_least, needed, on_verdict } = &self.missed;
        let sign = if *at_least { ">=" } else { "<=" };
        let where_ = if *on_verdict { "on the verdict split" } else { "on the search split" };
        let unit = unit(metric);
        let value = if estimate.is_finite() { unit.written(*estimate) } else { "not to be computed".to_owned() };
        // Near enough for these samples, too near for others.
        let needed = if needed == threshold {
            String::new()
        } else {
            format!(" ({} there, so that other samples reach it too)", unit.written(*needed))
        };
        let speed = match self.speed {
            Some(s) => format!("{:.2}x as fast [{:.2}, {:.2}]", s.ratio, s.lower, s.upper),
            None => "of a speed that was not measured".to_owned(),
        };
        let float = match self.left_out {
            0 => String::new(),
            1 => " with 1 site in float".to_owned(),
            n => format!(" with {n} sites in float"),
        };
        let remedy = if is_quality(metric) {
            "Lower that gate if the loss is acceptable, or give more calibration samples that are like the validation data"
        } else {
            "Ask for less of that gate"
        };
        format!(
            "{BUDGET_UNREACHABLE}: of {} in 8 bits none reaches the gates. Nearest is {}{float}: its {metric} is {value} {where_}, asked for {sign} {}{needed}; it \
             would be {:.1} % of the size and {speed}. {remedy}.",
            if self.candidates == 1 { "1 candidate".to_owned() } else { format!("{} candidates", self.candidates) },
            self.nearest,
            unit.written(*threshold),
            100.0 * self.bytes as f64 / self.input_bytes.max(1) as f64,
        )
    }
}

/// Whether a metric of this name is one of quality.
pub(super) fn is_quality(metric: &str) -> bool {
    Metric::DEFAULT_GATES.iter().any(|(quality, _)| quality.to_string() == metric)
}

fn unit(metric: &str) -> Unit {
    Metric::ALL.into_iter().find(|known| known.to_string() == metric).map_or(Unit::Ratio, Metric::unit)
}

/// The first gate that failed on the verdict's samples.
pub(super) fn missed(gates: &[GateResult]) -> Option<Missed> {
    let gate = gates.iter().find(|g| g.verdict == Verdict::Fail)?;
    let threshold = gate.min.or(gate.max)?;
    Some(Missed {
        metric: gate.metric.to_string(),
        estimate: gate.observed.unwrap_or(f64::NAN),
        threshold,
        at_least: gate.min.is_some(),
        needed: threshold,
        on_verdict: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::Builder;
    use crate::model::{DType, Facts};
    use crate::optimizer::{PassRecord, Score};

    fn missed(metric: Metric, estimate: f64, on_verdict: bool) -> Missed {
        let needed = if on_verdict { 0.95 } else { 0.975 };
        Missed { metric: metric.to_string(), estimate, threshold: 0.95, at_least: true, needed, on_verdict }
    }

    fn candidate(name: &str, pass: Option<&str>, estimate: f64, missed: Option<Missed>) -> Candidate {
        let model = Builder::new(17)
            .input("x", DType::F32, &["N"])
            .node("Relu", &["x"], "y", vec![])
            .output("y", DType::F32, &["N"])
            .build();
        let record = |name: &str| PassRecord {
            outcome: Outcome::Applied,
            reason: None,
            ..PassRecord::skipped(name, "", &model)
        };
        let score = Score { metric: "OutputConsistency".into(), estimate, threshold: 0.95, least: 0.5, needed: 0.5 };
        let records = pass.map(record).into_iter().collect();
        Candidate {
            records,
            quality: pass.map(|_| score).into_iter().collect(),
            speed: pass.map(|_| Speed { ratio: 2.1, lower: 2.0, upper: 2.2, n: 60 }),
            bytes: 270,
            left_out: vec!["a".into(), "b".into()],
            refused: missed.as_ref().map(|_| "too near".to_owned()),
            missed,
            ..Candidate::new(name, Work { model, facts: Facts::default(), steps: Vec::new() })
        }
    }

    fn lossless() -> Candidate {
        candidate("lossless", None, 1.0, None)
    }

    fn far(name: &str, estimate: f64) -> Candidate {
        candidate(name, Some("static-int8"), estimate, Some(missed(Metric::OutputConsistency, estimate, false)))
    }

    #[test]
    fn the_nearest_is_named_with_what_it_lacks_and_what_it_would_have_given() {
        let candidates = [lossless(), far("static-int8", 0.90), far("static-int8-unclipped", 0.93)];
        let found = found(&candidates, Reason::NoImprovement, 1000).unwrap();
        assert_eq!((found.nearest.as_str(), found.candidates, found.left_out), ("static-int8-unclipped", 2, 2));
        assert_eq!(
            found.message,
            "BudgetUnreachable: of 2 candidates in 8 bits none reaches the gates. Nearest is static-int8-unclipped with 2 sites in float: its \
             OutputConsistency is 0.9300 on the search split, asked for >= 0.9500 (0.9750 there, so that other samples reach it too); it would be 27.0 % of the \
             size and 2.10x as fast [2.00, 2.20]. Lower that gate if the loss is acceptable, or give more calibration samples that are like the validation data."
        );
    }

    #[test]
    fn weights_that_are_only_stored_in_8_bits_do_not_reach_it_for_those_that_compute() {
        let stored = candidate("stored-int8", Some("weight-int8"), 0.99, None);
        let candidates = [stored.clone(), lossless(), far("static-int8", 0.5)];
        assert_eq!(found(&candidates, Reason::Baked, 1000).unwrap().nearest, "static-int8");
        assert_eq!(found(&[stored, lossless()], Reason::Baked, 1000), None, "nothing that computes was tried");
        assert_eq!(found(&[lossless()], Reason::Baked, 1000), None);
    }

    #[test]
    fn one_that_reaches_the_gates_is_enough_and_what_is_not_decided_is_not_unreachable() {
        let slow = Candidate {
            refused: Some("slower than the input".into()),
            ..candidate("dynamic-int8", Some("dynamic-int8"), 0.99, None)
        };
        let candidates = [lossless(), slow, far("static-int8", 0.5)];
        assert_eq!(found(&candidates, Reason::NoImprovement, 1000), None);
        assert_eq!(found(&candidates[2..], Reason::GateInconclusive, 1000), None);
    }

    #[test]
    fn what_only_the_verdict_refused_is_nearer_and_a_gate_of_speed_is_one_too() {
        let judged = candidate("static-int8", Some("static-int8"), 0.98, Some(missed(Metric::Speedup, 0.9, true)));
        let candidates = [far("dynamic-int8", 0.949), judged, candidate("other", Some("static-int8"), 0.99, None)];
        let found = found(&candidates, Reason::GateFailed, 1000).unwrap();
        assert_eq!(found.nearest, "static-int8");
        assert!(
            found.message.contains("its Speedup is 0.9000 on the verdict split, asked for >= 0.9500; it"),
            "{}",
            found.message
        );
        assert!(found.message.ends_with("Ask for less of that gate."), "{}", found.message);
    }
}
