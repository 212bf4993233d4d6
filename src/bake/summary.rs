//! The short form of a result: what a person reads at the end, what `--json` prints and what a batch collects.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::api::Reason;

/// A figure with its 95 % interval and how many measurements it rests on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate.
    pub estimate: f64,
    /// Lower end.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
    /// Samples or rounds.
    pub n: usize,
}

/// How one bake ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Name of the job.
    pub job: String,
    /// How it ended, from the closed set.
    pub reason: Reason,
    /// One sentence more.
    pub message: String,
    /// Seconds from start to end.
    pub seconds: f64,
    /// Largest resident memory of this process so far, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
    /// What was made; absent when the bake ended with an error.
    #[serde(flatten)]
    pub result: Option<ResultFigures>,
}

/// The figures of an artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResultFigures {
    /// Level and goal, e.g. `Light/Balanced`.
    pub plan: String,
    /// Engine the figures were measured on.
    pub engine: String,
    /// Name of the chosen candidate; `input` when the input itself is the artifact.
    pub candidate: String,
    /// Folder of the results.
    pub folder: PathBuf,
    /// SHA-256 of the artifact; absent when none was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Bytes of input and artifact.
    pub bytes: [u64; 2],
    /// Nodes of input and artifact.
    pub nodes: [usize; 2],
    /// Time of the input / time of the artifact, paired. Absent when the artifact is the input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speedup: Option<Interval>,
    /// Accuracy retention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Interval>,
    /// One line per gate: metric, threshold, observed, verdict.
    pub gates: Vec<GateLine>,
    /// The HTML report.
    pub report: PathBuf,
    /// SHA-256 of the report that was written, by which whoever reads it again knows it.
    #[serde(skip)]
    pub report_sha256: String,
}

/// One gate of the result table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GateLine {
    /// Name of the metric.
    pub metric: String,
    /// `>= 0.95`.
    pub threshold: String,
    /// `0.998 [0.991, 1.002]`, or `no data`.
    pub observed: String,
    /// Pass, Fail or Inconclusive.
    pub verdict: String,
}

impl Summary {
    /// The summary of a bake that ended with an error.
    pub fn failed(job: &str, reason: Reason, message: String, seconds: f64) -> Self {
        Self { job: job.to_owned(), reason, message, seconds, peak_rss_bytes: None, result: None }
    }
}
