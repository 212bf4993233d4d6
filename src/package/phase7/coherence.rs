//! What a package says twice must agree, and what it claims must rest on something.

use super::defect::{Defect, Fault};
use super::deployment::{Clock, DeploymentConfig, Limit, contract};
use super::manifest::Manifest;
use super::open::Opened;
use super::signature::Port;
use super::{CONFIG_FILE, MANIFEST_FILE};
use crate::api::Metric;
use crate::api::bakejob::Verdict;

/// Checks manifest and deployment config against each other.
pub(super) fn check(manifest: &Manifest, config: &DeploymentConfig, opened: &mut Opened) {
    determinism(manifest, config, opened);
    batch_rows(config, opened);
    ranges(manifest, config, opened);
    limits(config, opened);
    gates(manifest, opened);
    training(manifest, opened);
}

fn without(detail: impl Into<String>) -> Fault {
    Fault::new(Defect::ClaimWithoutEvidence, detail)
}

fn against(detail: impl Into<String>) -> Fault {
    Fault::new(Defect::ClaimContradictsEvidence, detail)
}

fn determinism(manifest: &Manifest, config: &DeploymentConfig, opened: &mut Opened) {
    let (claims, evidence) = (config.bit_identical, &manifest.evidence.determinism);
    for (name, claimed, shown) in [
        ("runs", claims.runs, evidence.runs_equal()),
        ("threads", claims.threads, evidence.threads_equal()),
        ("processes", claims.processes, evidence.processes_equal()),
    ] {
        let field = format!("{CONFIG_FILE}: bitIdentical.{name}");
        let fault = match shown {
            None if claimed => Some(without(format!(
                "{field} is claimed, evidence.determinism.{name} of {MANIFEST_FILE} shows nothing"
            ))),
            Some(equal) if equal != claimed => {
                Some(against(format!("{field} is {claimed}, the digests in {MANIFEST_FILE} say {equal}")))
            }
            _ => None,
        };
        let found = shown.map_or_else(|| "no evidence".to_owned(), |equal| equal.to_string());
        opened.add(format!("evidence of bit-identical {name}"), claimed.to_string(), found, fault);
    }
}

fn batch_rows(config: &DeploymentConfig, opened: &mut Opened) {
    let claim = &config.batch_flexibility;
    let field = format!("{CONFIG_FILE}: batchFlexibility");
    let mut fault = None;
    for size in &claim.sizes {
        let within = size.max_difference.is_some_and(|d| d <= claim.tolerance);
        if size.within_tolerance != within || (size.bit_equal && size.max_difference != Some(0.0)) {
            fault = Some(against(format!("{field}: batch {} claims more than its difference shows", size.batch)));
        }
    }
    if claim.flexible && claim.sizes.is_empty() {
        fault = Some(without(format!("{field}.flexible is claimed, and no batch was compared")));
    } else if claim.flexible && !claim.sizes.iter().all(|s| s.within_tolerance) {
        fault = Some(against(format!("{field}.flexible is claimed, and a batch is not within the tolerance")));
    } else if claim.sizes.is_empty() && claim.not_compared.is_none() {
        fault = Some(without(format!("{field} neither compares a batch nor says why not")));
    }
    opened.add(
        "evidence of batch flexibility",
        claim.flexible.to_string(),
        format!("{} sizes", claim.sizes.len()),
        fault,
    );
}

fn ranges(manifest: &Manifest, config: &DeploymentConfig, opened: &mut Opened) {
    let samples = &manifest.evidence.samples;
    let signature = &config.signature;
    let claims: Vec<&Port> = signature.inputs.iter().chain(&signature.outputs).filter(|p| p.range.is_some()).collect();
    let backwards = claims.iter().find(|p| p.range.as_ref().is_some_and(|r| r.min > r.max));
    let fault = if !claims.is_empty() && (samples.validation_samples == 0 || samples.validation_sha256.is_empty()) {
        Some(without(format!(
            "{CONFIG_FILE}: signature gives ranges, and {MANIFEST_FILE} names no samples they were seen on"
        )))
    } else if samples.places.iter().any(|&p| p >= samples.validation_samples) {
        Some(against(format!("{MANIFEST_FILE}: evidence.samples.places names a sample that the split does not have")))
    } else {
        backwards.map(|p| against(format!("{CONFIG_FILE}: the range of {} ends before it begins", p.name)))
    };
    let found = format!("{} samples of the validation split", samples.validation_samples);
    opened.add("evidence of ranges and bounds", format!("{} ranges", claims.len()), found, fault);
}

fn limits(config: &DeploymentConfig, opened: &mut Opened) {
    for gate in contract() {
        let asked = Limit::judged(gate, None, None, 0);
        let claim = format!("limit {gate}");
        let field = format!("{CONFIG_FILE}: limits: {}", gate.metric);
        let Some(limit) = config.limits.iter().find(|l| l.metric == gate.metric) else {
            opened.add(
                claim,
                "stated",
                "-",
                Some(Fault::new(Defect::LimitMisstated, format!("{field} is not stated"))),
            );
            continue;
        };
        let follows = limit.follows();
        let fault = if (limit.min, limit.max) != (asked.min, asked.max) {
            Some(Fault::new(Defect::LimitMisstated, format!("{field} is another limit than that of the contract")))
        } else if limit.verdict != follows {
            Some(Fault::new(
                Defect::LimitMisstated,
                format!("{field} is said to be {}, its figure says {follows}", limit.verdict),
            ))
        } else if limit.measured != stated(config, limit) {
            Some(against(format!("{field}: measured is not the figure that stands beside it")))
        } else {
            None
        };
        opened.add(claim, limit.verdict.to_string(), follows.to_string(), fault);
    }
}

/// The figure of the deployment config that a limit reads: the first batch size, by the clock on the wall.
fn stated(config: &DeploymentConfig, limit: &Limit) -> Option<f64> {
    let first = config.batches.first();
    let wall = first.and_then(|b| b.latency.iter().find(|l| l.clock == Clock::Wall));
    match limit.metric {
        Metric::LatencyP99 => wall.and_then(|l| l.p99),
        Metric::Jitter => wall.and_then(|l| l.jitter),
        Metric::Throughput => first.map(|b| b.throughput),
        Metric::PeakMemory => config.memory.peak_bytes.map(|b| b as f64),
        _ => limit.measured,
    }
}

fn gates(manifest: &Manifest, opened: &mut Opened) {
    let trace = &manifest.traceability;
    let wrong =
        |detail: String| Fault::new(Defect::GateMisstated, format!("{MANIFEST_FILE}: traceability.gates: {detail}"));
    let any = |verdict| trace.gates.iter().any(|g| g.verdict == verdict);
    let follows = if any(Verdict::Fail) {
        Some(false)
    } else if any(Verdict::Inconclusive) || trace.gates.is_empty() {
        None
    } else {
        Some(true)
    };
    let fault =
        trace.gates.iter().find_map(|g| g.misstated().map(|why| wrong(format!("{}: {why}", g.metric)))).or_else(|| {
            (follows != trace.gates_passed).then(|| wrong("gatesPassed does not follow from the gates".to_owned()))
        });
    let text = |passed| match passed {
        Some(true) => "passed",
        Some(false) => "failed",
        None => "undecided",
    };
    opened.add("gates", format!("{} gates, {}", trace.gates.len(), text(trace.gates_passed)), text(follows), fault);
}

fn training(manifest: &Manifest, opened: &mut Opened) {
    let trace = &manifest.traceability;
    let of_a_package = trace.sources.iter().find(|s| matches!(s.role.as_str(), "Manifest" | "Weights"));
    let why = match (&trace.phase5, of_a_package) {
        (Some(claim), _) => claim.misstated(&trace.sources, &manifest.evidence.samples.validation_sha256),
        (None, Some(source)) => Some(format!("is missing, and the bake read {} of a package", source.uri)),
        (None, None) => None,
    };
    let fault =
        why.map(|why| Fault::new(Defect::TrainingMisstated, format!("{MANIFEST_FILE}: traceability.phase5: {why}")));
    let claimed = trace.phase5.as_ref().map_or_else(|| "a bare model".to_owned(), |claim| claim.identity.name.clone());
    let found = trace.phase5.as_ref().map_or(0, |claim| claim.files.iter().filter(|f| f.read).count());
    opened.add("package of phase 5", claimed, format!("{found} of its files were read"), fault);
}
