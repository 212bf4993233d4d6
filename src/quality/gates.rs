//! Gates: a figure against its bound, decided three ways. What is missing, too uncertain or suspicious is inconclusive, never a pass.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::figure::{Concern, Figure};
use super::stats::Interval;
use crate::api::bakejob::Verdict;
use crate::api::metric::Unit;
use crate::api::{Bound, Gate, Metric};

/// Fewer samples than this decide no quality gate.
pub const MIN_SAMPLES: usize = 20;

/// Measured figures by metric. In base units: seconds, bytes, inferences per second, shares and ratios as they are.
pub type Figures = BTreeMap<Metric, Figure>;

/// Why a gate was decided as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GateReason {
    /// The whole interval keeps the bound.
    BoundKept,
    /// The whole interval breaks the bound.
    BoundBroken,
    /// The bound lies inside the interval.
    NoiseAboveMargin,
    /// Nothing was measured, or there is no interval to it.
    MissingData,
    /// Fewer than 20 samples.
    TooFewSamples,
    /// The interval has no width although the models differ, so it says nothing about its own uncertainty.
    ZeroWidthInterval,
    /// The baseline is no better than a constant answer.
    BaselineAtChance,
    /// The baseline gives NaN or infinities.
    BaselineNotFinite,
    /// The statistic is undefined on these samples.
    Undefined,
    /// The baked model gives NaN or infinities.
    NotFinite,
    /// The baked model answers the same whatever its input.
    Collapsed,
}

impl std::fmt::Display for GateReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// One gate's decision with what it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GateResult {
    /// What was measured.
    pub metric: Metric,
    /// The least that passes, where the bound is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The most that passes, where the bound is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// The point estimate.
    pub observed: Option<f64>,
    /// Its 95 % interval.
    pub interval: Option<Interval>,
    /// Samples behind it.
    pub n: usize,
    /// The decision.
    pub verdict: Verdict,
    /// Why.
    pub reason: GateReason,
    /// The same in words, with what to do where something is to be done.
    pub message: String,
    /// Of an inconclusive gate: about how many samples would decide it, if the estimate holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples_needed: Option<u64>,
}

/// Decides every gate.
#[must_use]
pub fn decide(gates: &[Gate], figures: &Figures) -> Vec<GateResult> {
    gates.iter().map(|gate| decide_one(*gate, figures.get(&gate.metric))).collect()
}

/// The verdict over all gates: the worst of them. No gates at all decide nothing.
#[must_use]
pub fn overall(results: &[GateResult]) -> Verdict {
    let any = |verdict| results.iter().any(|r| r.verdict == verdict);
    if any(Verdict::Fail) {
        Verdict::Fail
    } else if any(Verdict::Inconclusive) || results.is_empty() {
        Verdict::Inconclusive
    } else {
        Verdict::Pass
    }
}

/// About how many samples would decide all that is inconclusive; `None` where more samples would not help, or nothing is inconclusive.
#[must_use]
pub fn samples_needed(results: &[GateResult]) -> Option<u64> {
    results
        .iter()
        .filter(|r| r.verdict == Verdict::Inconclusive)
        .map(|r| r.samples_needed)
        .try_fold(None, |most, n| n.map(|n| most.max(Some(n))))?
}

fn decide_one(gate: Gate, figure: Option<&Figure>) -> GateResult {
    let (verdict, reason, detail) = judge(gate, figure);
    let interval = figure.and_then(Figure::interval);
    let observed = figure.and_then(|f| f.estimate);
    let n = figure.map_or(0, |f| f.n);
    let samples_needed = match reason {
        GateReason::NoiseAboveMargin => needed(gate.bound, observed, interval, n),
        GateReason::TooFewSamples => {
            Some(needed(gate.bound, observed, interval, n).unwrap_or(0).max(MIN_SAMPLES as u64))
        }
        _ => None,
    };
    let (min, max) = match gate.bound {
        Bound::Min(v) => (Some(v), None),
        Bound::Max(v) => (None, Some(v)),
    };
    let more = samples_needed.map(|s| format!("; about {s} samples would decide")).unwrap_or_default();
    GateResult {
        metric: gate.metric,
        min,
        max,
        observed,
        interval,
        n,
        verdict,
        reason,
        message: format!("{gate}: {detail}{more}"),
        samples_needed,
    }
}

fn judge(gate: Gate, figure: Option<&Figure>) -> (Verdict, GateReason, String) {
    use Verdict::{Fail, Inconclusive, Pass};
    let missing = |what: &str| (Inconclusive, GateReason::MissingData, what.to_owned());
    let Some(figure) = figure else { return missing("it was not measured") };
    if let Some(concern) = &figure.concern {
        let (verdict, reason) = match concern {
            Concern::NotFinite(_) => (Fail, GateReason::NotFinite),
            Concern::Collapsed(_) => (Fail, GateReason::Collapsed),
            Concern::BaselineAtChance(_) => (Inconclusive, GateReason::BaselineAtChance),
            Concern::BaselineNotFinite(_) => (Inconclusive, GateReason::BaselineNotFinite),
            Concern::Undefined(_) => (Inconclusive, GateReason::Undefined),
        };
        return (verdict, reason, concern.detail().to_owned());
    }
    let Some(estimate) = figure.estimate.filter(|e| e.is_finite()) else { return missing("it could not be computed") };
    let quality = gate.metric.is_quality();
    if quality && figure.n < MIN_SAMPLES {
        return (
            Inconclusive,
            GateReason::TooFewSamples,
            format!("{} samples, and a verdict needs at least {MIN_SAMPLES}", figure.n),
        );
    }
    let interval =
        if figure.exact && !quality { Some(Interval { lower: estimate, upper: estimate }) } else { figure.interval() };
    let Some(interval) = interval.filter(|i| i.lower <= i.upper) else { return missing("there is no interval to it") };
    if quality && interval.is_zero_width() && !figure.identical {
        let detail = "the interval has no width although the models differ; give more varied samples".to_owned();
        return (Inconclusive, GateReason::ZeroWidthInterval, detail);
    }
    let (kept, broken) = match gate.bound {
        Bound::Min(bound) => (interval.lower >= bound, interval.upper < bound),
        Bound::Max(bound) => (interval.upper <= bound, interval.lower > bound),
    };
    let show = |value: f64| match gate.metric.unit() {
        Unit::Share | Unit::Ratio => format!("{value:.6}"),
        unit => unit.written(value),
    };
    let shown = if interval.is_zero_width() {
        show(estimate)
    } else {
        format!("{} [{}, {}]", show(estimate), show(interval.lower), show(interval.upper))
    };
    if kept {
        (Pass, GateReason::BoundKept, shown)
    } else if broken {
        (Fail, GateReason::BoundBroken, shown)
    } else {
        (Inconclusive, GateReason::NoiseAboveMargin, format!("{shown} reaches both sides of the bound"))
    }
}

/// The half width towards the bound shrinks with the square root of the samples, so n grows with the square of how much too wide it is. `None` when the
/// estimate lies on the bound itself.
fn needed(bound: Bound, estimate: Option<f64>, interval: Option<Interval>, n: usize) -> Option<u64> {
    let (estimate, interval) = (estimate?, interval?);
    let (Bound::Min(bound) | Bound::Max(bound)) = bound;
    let (half, margin) = if estimate >= bound {
        (estimate - interval.lower, estimate - bound)
    } else {
        (interval.upper - estimate, bound - estimate)
    };
    let factor = (half / margin).powi(2);
    let samples = (n as f64 * factor).ceil();
    (samples.is_finite() && samples < 1e12).then(|| (samples as u64).max(n as u64 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(metric: Metric, min: f64) -> Gate {
        Gate { metric, bound: Bound::Min(min) }
    }

    fn measured(lower: f64, estimate: f64, upper: f64, n: usize) -> Figure {
        Figure::new(estimate, Some(Interval { lower, upper }), n, "m")
    }

    fn one(gate: Gate, figure: Figure) -> GateResult {
        decide(&[gate], &Figures::from([(gate.metric, figure)])).remove(0)
    }

    #[test]
    fn a_quality_gate_is_decided_three_ways() {
        use GateReason as R;
        use Verdict::{Fail, Inconclusive, Pass};
        let q = gate(Metric::OutputConsistency, 0.95);
        let identical = Figure { identical: true, ..measured(1.0, 1.0, 1.0, 40) };
        let with = |concern: Concern| measured(0.99, 0.995, 1.0, 100).with_concern(concern);
        let s = String::new;
        for (figure, verdict, reason) in [
            (measured(0.95, 0.97, 0.99, 100), Pass, R::BoundKept),
            (measured(0.90, 0.93, 0.949, 100), Fail, R::BoundBroken),
            (measured(0.93, 0.96, 0.98, 100), Inconclusive, R::NoiseAboveMargin),
            (measured(0.90, 0.93, 0.95, 100), Inconclusive, R::NoiseAboveMargin),
            (measured(0.97, 0.98, 0.99, 19), Inconclusive, R::TooFewSamples),
            (measured(0.99, 0.99, 0.99, 100), Inconclusive, R::ZeroWidthInterval),
            (identical, Pass, R::BoundKept),
            (Figure::new(0.99, None, 100, "m"), Inconclusive, R::MissingData),
            (Figure::new(f64::NAN, None, 100, "m"), Inconclusive, R::MissingData),
            (Figure { exact: true, ..Figure::new(0.99, None, 100, "m") }, Inconclusive, R::MissingData),
            (measured(0.99, 0.98, 0.97, 100), Inconclusive, R::MissingData),
            (with(Concern::NotFinite(s())), Fail, R::NotFinite),
            (with(Concern::Collapsed(s())), Fail, R::Collapsed),
            (with(Concern::BaselineAtChance(s())), Inconclusive, R::BaselineAtChance),
            (with(Concern::BaselineNotFinite(s())), Inconclusive, R::BaselineNotFinite),
            (with(Concern::Undefined(s())), Inconclusive, R::Undefined),
        ] {
            let result = one(q, figure.clone());
            assert_eq!((result.verdict, result.reason), (verdict, reason), "{figure:?}");
        }
    }

    #[test]
    fn what_was_not_measured_is_inconclusive() {
        let result = decide(&[gate(Metric::Speedup, 1.5)], &Figures::new()).remove(0);
        assert_eq!(
            (result.verdict, result.reason, result.observed),
            (Verdict::Inconclusive, GateReason::MissingData, None)
        );
    }

    #[test]
    fn a_gate_whose_bound_is_no_number_never_passes() {
        let result = one(gate(Metric::OutputConsistency, f64::NAN), measured(0.9, 0.95, 1.0, 100));
        assert_eq!(result.verdict, Verdict::Inconclusive);
    }

    #[test]
    fn upper_bounds_and_exact_figures() {
        let max = |metric, v| Gate { metric, bound: Bound::Max(v) };
        assert_eq!(one(max(Metric::LatencyP99, 0.05), measured(0.040, 0.045, 0.05, 100)).verdict, Verdict::Pass);
        assert_eq!(one(max(Metric::LatencyP99, 0.05), measured(0.051, 0.06, 0.07, 100)).verdict, Verdict::Fail);
        assert_eq!(
            one(max(Metric::LatencyP99, 0.05), measured(0.045, 0.049, 0.055, 100)).verdict,
            Verdict::Inconclusive
        );
        assert_eq!(one(max(Metric::FileSize, 1000.0), Figure::exact(1000.0)).verdict, Verdict::Pass);
        assert_eq!(one(max(Metric::FileSize, 1000.0), Figure::exact(1001.0)).verdict, Verdict::Fail);
    }

    #[test]
    fn the_worst_gate_is_the_verdict_and_no_gates_decide_nothing() {
        use Verdict::{Fail, Inconclusive, Pass};
        let result = |verdict| GateResult { verdict, ..one(gate(Metric::Speedup, 1.0), measured(1.1, 1.2, 1.3, 30)) };
        assert_eq!(overall(&[]), Inconclusive);
        assert_eq!(overall(&[result(Pass), result(Pass)]), Pass);
        assert_eq!(overall(&[result(Pass), result(Inconclusive)]), Inconclusive);
        assert_eq!(overall(&[result(Fail), result(Inconclusive)]), Fail);
    }

    #[test]
    fn the_samples_that_would_decide_grow_with_the_square_of_the_noise() {
        // The half width is 0.04 where the margin is 0.02: four times the samples.
        let result = one(gate(Metric::OutputConsistency, 0.95), measured(0.93, 0.97, 0.99, 100));
        assert!((399..=401).contains(&result.samples_needed.unwrap()), "{result:?}");
        let few = one(gate(Metric::OutputConsistency, 0.95), measured(0.96, 0.97, 0.98, 10));
        assert_eq!(few.samples_needed, Some(20));
        let on_it = one(gate(Metric::OutputConsistency, 0.95), measured(0.93, 0.95, 0.97, 100));
        assert_eq!(on_it.samples_needed, None);
        assert_eq!(samples_needed(&[result.clone(), few.clone()]), result.samples_needed);
        assert_eq!(samples_needed(&[result, on_it]), None);
        assert_eq!(samples_needed(&[]), None);
    }
}
