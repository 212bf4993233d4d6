//! What the report says twice must agree: summaries with their raw samples, gates with the figures they were decided on, the outcome with the gates.

use super::{Holds, Verification};
use crate::api::bakejob::Verdict;
use crate::api::{Bound, Gate, Reason};
use crate::bake::figures::gate_figures;
use crate::bake::report::{ModelFigures, Report};
use crate::profiler::latency::{percentile, quantile_interval};
use crate::quality::{self, Figures, GateResult};

/// Room for the last digits of a decimal number in a report, relative.
const ROUNDING: f64 = 1e-9;

/// Checks the report against itself.
pub(super) fn follow(report: &Report, found: &mut Verification) {
    summaries(report, found);
    gates(report, found);
    digests(report, found);
}

/// The artifact's figures; those of the input where it is the artifact.
pub(super) fn baked(report: &Report) -> &ModelFigures {
    report.baked.as_ref().unwrap_or(&report.baseline)
}

/// Every figure that a gate may have read, as the report claims it.
pub(super) fn claimed_figures(report: &Report) -> Option<Figures> {
    let quality = report.quality.as_ref()?;
    let speedup = report.baked.is_some().then_some(report.speedup.as_slice());
    Some(gate_figures(quality, &report.baseline, baked(report), speedup))
}

/// The gates as they were asked for.
pub(super) fn asked(results: &[GateResult]) -> Vec<Gate> {
    let bound = |g: &GateResult| g.min.map(Bound::Min).or(g.max.map(Bound::Max));
    results.iter().filter_map(|g| Some(Gate { metric: g.metric, bound: bound(g)? })).collect()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= ROUNDING * a.abs().max(b.abs())
}

fn close_or_absent(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => close(a, b),
        (None, None) => true,
        _ => false,
    }
}

fn summaries(report: &Report, found: &mut Verification) {
    let mut wrong = Vec::new();
    for (who, figures) in [("baseline", Some(&report.baseline)), ("artifact", report.baked.as_ref())] {
        for latency in figures.into_iter().flat_map(|f| &f.latency) {
            let claimed = &latency.summary;
            let follows = latency.samples.summary().is_some_and(|s| {
                close(s.p50, claimed.p50)
                    && close_or_absent(s.p95, claimed.p95)
                    && close_or_absent(s.p99, claimed.p99)
                    && close(s.mean, claimed.mean)
                    && close(s.cv, claimed.cv)
                    && close(latency.batch as f64 / s.p50, latency.throughput)
            });
            if !follows {
                wrong.push(format!("latency of the {who} at batch {}", latency.batch));
            }
        }
    }
    for speedup in &report.speedup {
        let mut ratios = speedup.paired.ratios.clone();
        ratios.sort_by(f64::total_cmp);
        let [lower, upper] = quantile_interval(&ratios, 0.5);
        let follows = !ratios.is_empty()
            && close(percentile(&ratios, 0.5), speedup.paired.ratio)
            && close(lower, speedup.paired.lower)
            && close(upper, speedup.paired.upper);
        if !follows {
            wrong.push(format!("speedup at batch {}", speedup.batch));
        }
    }
    let holds = if wrong.is_empty() { Holds::Yes } else { Holds::No(format!("do not follow: {}", wrong.join(", "))) };
    found.add(
        "summaries of timings",
        "follow from their raw samples",
        if wrong.is_empty() { "they do" } else { "they do not" },
        holds,
    );
}

fn gates(report: &Report, found: &mut Verification) {
    const CLAIM: &str = "gates as reported";
    let claimed = format!("{} gates, {:?}", report.gates.len(), report.outcome.reason);
    let Some(figures) = claimed_figures(report) else {
        return found.add(
            CLAIM,
            claimed,
            "-",
            Holds::No("the report holds no quality figures to decide them on".to_owned()),
        );
    };
    let again = quality::decide(&asked(&report.gates), &figures);
    let differs = |(claimed, again): (&GateResult, &GateResult)| {
        let same = claimed.metric == again.metric
            && claimed.verdict == again.verdict
            && close_or_absent(claimed.observed, again.observed)
            && close_or_absent(claimed.interval.map(|i| i.lower), again.interval.map(|i| i.lower))
            && close_or_absent(claimed.interval.map(|i| i.upper), again.interval.map(|i| i.upper))
            && claimed.n == again.n;
        (!same).then(|| claimed.metric.to_string())
    };
    let mut wrong: Vec<String> = report.gates.iter().zip(&again).filter_map(differs).collect();
    if again.len() != report.gates.len() {
        wrong.push("a gate without a bound".to_owned());
    }
    let overall = quality::overall(&again);
    let (passed, reasons): (Option<bool>, &[Reason]) = match overall {
        Verdict::Pass => (Some(true), &[Reason::Baked, Reason::NoImprovement]),
        Verdict::Fail => (Some(false), &[Reason::GateFailed]),
        Verdict::Inconclusive => (None, &[Reason::GateInconclusive]),
    };
    if report.outcome.gate_passed != passed || !reasons.contains(&report.outcome.reason) {
        wrong.push(format!("the outcome ({overall:?})"));
    }
    let holds = if wrong.is_empty() {
        Holds::Yes
    } else {
        Holds::No(format!("other than the report's own figures give: {}", wrong.join(", ")))
    };
    found.add(CLAIM, claimed, format!("{} gates, {overall:?}", again.len()), holds);
}

fn digests(report: &Report, found: &mut Verification) {
    let listed = report.artifacts.iter().find(|a| a.file == crate::bake::MODEL_FILE);
    // External data is part of the model.
    let parts = report.artifacts.iter().filter(|a| matches!(a.format.as_str(), "ONNX" | "ONNXData"));
    let stored: u64 = parts.map(|a| a.bytes).sum();
    let figures = baked(report);
    let same = listed.is_some_and(|a| a.sha256.eq_ignore_ascii_case(&figures.sha256) && stored == figures.bytes);
    let holds = if same { Holds::Yes } else { Holds::No("the measured model is not the listed file".to_owned()) };
    found.add("measured model", "is the listed model.onnx", if same { "it is" } else { "it is not" }, holds);
}
