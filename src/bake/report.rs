//! The evidence of a bake, as `report.json` holds it: raw samples and everything computed from them. Every figure shown anywhere is taken from here.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::budget::BudgetUnreachable;
pub use super::calibrated::{CalibrationFigures, Unranged};
pub use super::front::FrontPoint;
use super::probe::Seen;
use super::progress::StageRecord;
use super::source::SourceFile;
use crate::api::Reason;
use crate::engine::{BackendStatus, EngineId};
use crate::hardware::MachineFacts;
use crate::model::IntakeNotes;
use crate::model::stats::Stats;
use crate::optimizer::{Missed, PassRecord, Scan, Score, Speed};
use crate::package::{Layout, Manifest};
use crate::profiler::{Latency, Paired, Samples};
use crate::quality::{GateResult, QualityReport};

/// Schema of [`Report`].
pub const REPORT_VERSION: &str = "bakehouse.dev/report/v1";

/// A finished bake.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub api_version: String,
    /// Version of Bakehouse.
    pub bakehouse: String,
    /// What was asked for.
    pub job: JobFigures,
    /// How it ended.
    pub outcome: OutcomeFigures,
    /// Start and end of each stage.
    pub stages: Vec<StageRecord>,
    /// The machine that every figure was measured on.
    pub machine: MachineFacts,
    /// The engine that every figure was measured on.
    pub engine: EngineId,
    /// Threads of the engine in the timed runs.
    pub threads: usize,
    /// `thread CPU` or `wall`: what the seconds of the timed runs are.
    pub clock: String,
    /// Backends and whether they are there.
    pub backends: Vec<BackendStatus>,
    /// What was done to the file on intake.
    pub intake: IntakeNotes,
    /// The phase 5 package that the input came in, with all that its trainer says; absent for a bare model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<PackageFigures>,
    /// Remarks about data and engine.
    pub remarks: Vec<String>,
    /// Which samples served for what.
    pub data: DataFigures,
    /// The passes that led to the artifact, the lossless ones first.
    pub passes: Vec<PassRecord>,
    /// What calibration saw; absent where nothing was calibrated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationFigures>,
    /// What the search ran; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchFigures>,
    /// Every candidate of the search, the eligible ones first, best first.
    pub candidates: Vec<CandidateFigures>,
    /// The candidates that no other one beats in size, speed and quality together, the fastest first. Those that miss a gate of quality are not among them.
    #[serde(default)]
    pub front: Vec<FrontPoint>,
    /// That no candidate which computes in 8 bits reaches the gates, where that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_unreachable: Option<BudgetUnreachable>,
    /// The input model.
    pub baseline: ModelFigures,
    /// The artifact; absent when none was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baked: Option<ModelFigures>,
    /// Time of the input / time of the artifact, per batch size. Empty when the artifact is the input.
    pub speedup: Vec<BatchSpeedup>,
    /// Quality of the best candidate on the verdict split; absent when the input itself is the artifact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<QualityReport>,
    /// The gates.
    pub gates: Vec<GateResult>,
    /// What the engine itself fuses when it loads the artifact: operators before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine_fusion: Option<EngineFusion>,
    /// Where all of this comes from, when it was not baked for this job: everything but the job's name, spec digest and paths is then that of an earlier
    /// bake of the same inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<FromCache>,
    /// The files.
    pub artifacts: Vec<Artifact>,
}

/// How many models the search made and ran on real samples. Only some of them are candidates: the others tell what one site harms, or what a repair is worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SearchFigures {
    /// Seconds of it all: making, running, timing.
    pub seconds: f64,
    /// Models whose quality was measured on the whole search split.
    pub judged: usize,
    /// Models whose harm was looked at on a few of its samples.
    pub glanced: usize,
    /// Models that were timed against the input.
    pub timed: usize,
}

/// The bake that a result was taken from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FromCache {
    /// SHA-256 of its inputs: what the cache knows it by.
    pub key: String,
    /// Where it was kept.
    pub uri: String,
    /// Name of the job that it was baked for.
    pub job: String,
    /// Spec digest of that job.
    pub spec_digest: String,
    /// When its last stage ended (RFC 3339, UTC).
    pub baked_at: String,
}

/// What was asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct JobFigures {
    pub name: String,
    pub spec_digest: String,
    pub level: String,
    pub goal: String,
    pub seed: u64,
}

/// How it ended.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutcomeFigures {
    /// From the closed set.
    pub reason: Reason,
    /// A sentence.
    pub message: String,
    /// Whether the gates passed; absent when inconclusive.
    pub gate_passed: Option<bool>,
    /// Name of the chosen candidate; `input` when the input itself is the artifact.
    pub candidate: String,
}

/// The phase 5 package that the input came in.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackageFigures {
    /// How it is laid out.
    pub layout: Layout,
    /// Its folder, as an absolute path, or as the URI it was fetched from.
    pub path: PathBuf,
    /// SHA-256 of its manifest, which pins every other file; absent in the trainer's own layout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_sha256: Option<String>,
    /// Its manifest: identity, training, the trainer's figures, files. Of the trainer's own layout, what was found.
    pub manifest: Manifest,
    /// The trainer's figures that can be measured again, and what they are here.
    pub baseline: Vec<Reproduced>,
}

/// A figure of the trainer, measured again on the input model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reproduced {
    /// Its name.
    pub metric: String,
    /// What the package says.
    pub claimed: f64,
    /// What the input model scores on the package's validation split; absent when it could not be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<f64>,
    /// Samples that it was measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Whether the two agree; absent when it could not be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<bool>,
    /// A sentence.
    pub message: String,
}

/// Which samples served for what. Indices count in the validation file.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataFigures {
    /// Calibration samples.
    pub calibration_samples: usize,
    /// Validation samples.
    pub validation_samples: usize,
    /// Whether there are labels.
    pub labelled: bool,
    /// Samples that the search looked at.
    pub search: Vec<usize>,
    /// Samples that only the verdict saw.
    pub verdict: Vec<usize>,
    /// Internal tensors that feature preservation looks at.
    pub taps: Vec<String>,
    /// The files that were read.
    #[serde(default)]
    pub files: Vec<SourceFile>,
}

/// One candidate of the search. Its quality is on the search split and decides nothing but the order.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CandidateFigures {
    /// Name of the variant.
    pub name: String,
    /// Bytes of the file.
    pub bytes: usize,
    /// Nodes of the graph.
    pub nodes: usize,
    /// Quality on the search split, point estimates.
    pub quality: Vec<Score>,
    /// How far its outputs are from the input's there: 1 - concordance, of probabilities on their logits. Orders candidates that run the same kernels, and says whether a repair helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deviation: Option<f64>,
    /// Speed against the input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed: Option<Speed>,
    /// Records of its lossy passes.
    pub passes: Vec<PassRecord>,
    /// Sites left in float.
    pub left_out: Vec<String>,
    /// Why it was not chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The gate that it misses most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<Missed>,
    /// What its sites harm, of one that has sites which compute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<Scan>,
    /// Whether it is the artifact.
    pub chosen: bool,
}

/// One model, measured.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelFigures {
    /// SHA-256 of the file.
    pub sha256: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// Parameters, operators, multiplications.
    pub stats: Stats,
    /// Latency per batch size, the gates' one first.
    pub latency: Vec<BatchLatency>,
    /// What a fresh process saw.
    pub fresh_process: Seen,
    /// Whether outputs are bit-identical over runs, threads and processes.
    pub determinism: Determinism,
}

/// Latency at one batch size.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchLatency {
    /// Rows per run.
    pub batch: usize,
    /// Percentiles and spread, seconds.
    pub summary: Latency,
    /// Rows per second at the median.
    pub throughput: f64,
    /// Raw samples.
    pub samples: Samples,
}

/// Speedup at one batch size.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchSpeedup {
    /// Rows per run.
    pub batch: usize,
    /// The paired measurement.
    pub paired: Paired,
}

/// Whether outputs are bit-identical.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Determinism {
    /// Between two runs of one session.
    pub runs: bool,
    /// Between one thread and two.
    pub threads: bool,
    /// Between this process and a fresh one.
    pub processes: bool,
}

/// What an engine does to the graph when it loads it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EngineFusion {
    /// Nodes of the artifact and of the engine's plan.
    pub nodes: [usize; 2],
    /// Operators of the plan that the artifact does not have, with their number: the engine's own fusions.
    pub fused: std::collections::BTreeMap<String, usize>,
}

/// A file of the result.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Artifact {
    pub format: String,
    pub file: String,
    pub sha256: String,
    pub bytes: u64,
}

/// JSON Schema of [`Report`], with the meaning and the unit of every field.
pub fn report_schema() -> serde_json::Value {
    schemars::schema_for!(Report).to_value()
}
