//! From a finished bake to its termination message. Every figure is taken from the report that lies in the output, read back: what the
//! status shows is what was written.

use std::path::Path;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::api::bakejob::{Artifact, Figures, FileRef, GateStatus, PassOutcome, PassStatus, Stage};
use crate::api::digest::sha256_hex;
use crate::api::metric::Unit;
use crate::api::wire::Outcome;
use crate::api::{Metric, Reason, floor};
use crate::bake::report::{Artifact as Written, ModelFigures};
use crate::bake::{REPORT, Report, Summary};

/// The outcome of a bake whose files lie in `folder`, which the job calls `uri`.
pub(super) fn of(summary: &Summary, folder: &Path, uri: &str) -> Outcome {
    let path = folder.join(REPORT);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let message = format!("the bake ended, but {} cannot be read back: {error}", path.display());
            return Outcome::bare(Reason::OutputUnwritable, message);
        }
    };
    match serde_json::from_slice::<Report>(&bytes) {
        Ok(report) => from_report(&report, summary, uri, &sha256_hex(&bytes)),
        Err(error) => Outcome::bare(Reason::Internal, format!("report.json is not a report: {error}")),
    }
}

fn from_report(report: &Report, summary: &Summary, uri: &str, report_sha256: &str) -> Outcome {
    let at = |file: &str| format!("{}/{file}", uri.trim_end_matches('/'));
    let digest = |hex: &str| format!("sha256:{hex}");
    let features: Vec<&str> = report.machine.features.iter().map(String::as_str).collect();
    Outcome {
        cpu: Some(format!("{} ({})", report.machine.cpu, features.join(" "))),
        engine: Some(report.engine.to_string()),
        baseline: Some(model(&report.baseline)),
        baked: Some(baked(report, summary)),
        gates: report.gates.iter().map(gate).collect(),
        artifacts: models(&report.artifacts)
            .map(|a| Artifact {
                format: a.format.clone(),
                uri: at(&a.file),
                sha256: digest(&a.sha256),
                bytes: i64::try_from(a.bytes).unwrap_or(i64::MAX),
            })
            .collect(),
        report: Some(FileRef { uri: at(REPORT), sha256: digest(report_sha256) }),
        recipe: report
            .artifacts
            .iter()
            .find(|a| a.format == "Recipe")
            .map(|a| FileRef { uri: at(&a.file), sha256: digest(&a.sha256) }),
        // Stages of an earlier bake were none of this run.
        stages: report
            .stages
            .iter()
            .filter(|_| report.cache.is_none())
            .map(|s| Stage {
                name: format!("{:?}", s.name),
                start_time: time(&s.start_time),
                completion_time: time(&s.completion_time),
            })
            .collect(),
        passes: report.passes.iter().map(pass).collect(),
        ..Outcome::bare(report.outcome.reason, summary.message.clone())
    }
}

/// The artifact's figures; those of the input when the input is the artifact.
fn baked(report: &Report, summary: &Summary) -> Figures {
    let decimal = |value: f64| format!("{value:.4}");
    let quality = report.quality.as_ref();
    let figures = summary.result.as_ref();
    Figures {
        accuracy_retention: quality.and_then(|q| q.accuracy_retention.estimate).map(decimal),
        output_consistency: quality.and_then(|q| q.output_consistency.estimate).map(decimal),
        feature_preservation: quality.and_then(|q| q.feature_preservation.estimate).map(decimal),
        distribution_similarity: quality.and_then(|q| q.distribution_similarity.estimate).map(decimal),
        speedup: figures.and_then(|f| f.speedup).map(|s| format!("{:.2}", s.estimate)),
        ..model(report.baked.as_ref().unwrap_or(&report.baseline))
    }
}

fn model(figures: &ModelFigures) -> Figures {
    let first = figures.latency.first();
    let seconds = |value: f64| Unit::Seconds.written(value);
    Figures {
        latency_p50: first.map(|l| seconds(l.summary.p50)),
        latency_p95: first.and_then(|l| l.summary.p95).map(seconds),
        latency_p99: first.and_then(|l| l.summary.p99).map(seconds),
        throughput: first.map(|l| Unit::PerSecond.written(l.throughput)),
        peak_memory: figures.fresh_process.peak_rss_bytes.map(|bytes| bytes.to_string()),
        file_size: Some(figures.bytes.to_string()),
        parameters: i64::try_from(figures.stats.parameters.all).ok(),
        nodes: i64::try_from(figures.stats.nodes.computing).ok(),
        ..Figures::default()
    }
}

/// The outcome with a mark on the gates whose bound a floor of the platform has set.
pub(super) fn marked(mut outcome: Outcome, raised: &[Metric]) -> Outcome {
    for gate in outcome.gates.iter_mut().filter(|gate| raised.contains(&gate.metric)) {
        gate.threshold.push_str(floor::MARK);
    }
    outcome
}

/// The files that are the model in one format or another; the one that was measured comes first. A package is one of them: its manifest names the
/// other files with their digests.
pub(super) fn models(artifacts: &[Written]) -> impl Iterator<Item = &Written> {
    artifacts.iter().filter(|a| !matches!(a.format.as_str(), "Recipe" | "HTML" | "Phase7File" | "OCIFile"))
}

pub(super) fn gate(gate: &crate::quality::GateResult) -> GateStatus {
    let show = |value: f64| gate.metric.unit().written(value);
    GateStatus {
        metric: gate.metric,
        threshold: match (gate.min, gate.max) {
            (Some(min), _) => format!(">= {}", show(min)),
            (None, Some(max)) => format!("<= {}", show(max)),
            (None, None) => String::new(),
        },
        observed: gate.observed.map(show),
        interval: gate.interval.map(|i| format!("[{}, {}]", show(i.lower), show(i.upper))),
        verdict: gate.verdict,
    }
}

fn pass(record: &crate::optimizer::PassRecord) -> PassStatus {
    use crate::optimizer::Outcome as Ended;
    let applied = record.outcome == Ended::Applied;
    PassStatus {
        name: record.name.clone(),
        outcome: match record.outcome {
            Ended::Applied => PassOutcome::Applied,
            Ended::Skipped => PassOutcome::Skipped,
            Ended::Failed => PassOutcome::Failed,
            Ended::RolledBack => PassOutcome::RolledBack,
        },
        reason: record.reason.clone(),
        deltas: applied.then(|| {
            let [nodes, bytes] = [record.nodes, record.bytes].map(|[before, after]| format!("{before} -> {after}"));
            format!("nodes {nodes}, bytes {bytes}")
        }),
    }
}

fn time(text: &str) -> Option<Time> {
    let time: Timestamp = text.parse().ok()?;
    Timestamp::from_second(time.as_second()).ok().map(Time)
}
