//! `deployment_config.json`: what whoever deploys the model must know. Figures stand beside the limits; one that was not measured is absent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::manifest::Machine;
use super::signature::Signature;
use crate::api::job::Bound;
use crate::api::{Gate, Metric};

/// Schema of [`DeploymentConfig`].
pub const DEPLOYMENT_VERSION: &str = "bakehouse.dev/phase7-deployment/v1";

/// The limits of the hand-off: p99 within 50 ms, p99 - p50 within 5 ms, at least 30 inferences per second, within 100 MB.
pub fn contract() -> [Gate; 4] {
    [
        Gate { metric: Metric::LatencyP99, bound: Bound::Max(0.050) },
        Gate { metric: Metric::Jitter, bound: Bound::Max(0.005) },
        Gate { metric: Metric::Throughput, bound: Bound::Min(30.0) },
        Gate { metric: Metric::PeakMemory, bound: Bound::Max(100e6) },
    ]
}

/// All that a deployment must know of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentConfig {
    /// Always `bakehouse.dev/phase7-deployment/v1`.
    pub api_version: String,
    /// Name of the job that made it.
    pub name: String,
    /// What may be concluded from this file, and what not.
    pub statement: String,
    /// The model's file.
    pub model: ModelRef,
    /// Inputs with the ranges, outputs with the bounds that were seen on the validation split.
    pub signature: Signature,
    /// What ran the model.
    pub runtime: Runtime,
    /// The machine that every figure was measured on.
    pub machine: Machine,
    /// Latency and throughput, the batch size that the limits read first.
    pub batches: Vec<BatchFigures>,
    /// Memory of a fresh process that loads and runs the model.
    pub memory: MemoryFigures,
    /// Whether outputs are bit-identical.
    pub bit_identical: BitIdentical,
    /// Whether rows of a batch are what single runs give.
    pub batch_flexibility: BatchFlexibility,
    /// The limits of the contract, each with what was measured.
    pub limits: Vec<Limit>,
    /// What to watch for when the model runs, and what to do then.
    pub fail_safe: Vec<Hint>,
}

/// The model's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelRef {
    /// Its name in the package.
    pub file: String,
    /// `ONNX`.
    pub format: String,
    /// SHA-256 of the file.
    pub sha256: String,
}

/// What ran the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Runtime {
    /// `onnxruntime` or `tract`.
    pub engine: String,
    /// Its version.
    pub version: String,
    /// Threads inside one inference, in the timed runs.
    pub threads: usize,
}

/// What a latency counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Clock {
    /// The clock on the wall: what a deadline is kept by. Whatever else ran on the machine is in it.
    Wall,
    /// CPU time of the one thread that ran: what the gates of a bake read.
    ThreadCpu,
}

impl std::fmt::Display for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Wall => "wall",
            Self::ThreadCpu => "thread CPU",
        })
    }
}

/// Latency by one clock, in seconds. Raw samples stand in the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// What the seconds count.
    pub clock: Clock,
    /// Median.
    pub p50: f64,
    /// 95th percentile; absent below 20 samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95: Option<f64>,
    /// 99th percentile; absent below 100 samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// p99 - p50; absent without a p99.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<f64>,
    /// Samples.
    pub n: usize,
}

/// Figures at one batch size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchFigures {
    /// Rows per run.
    pub batch: usize,
    /// Latency by each clock that was read.
    pub latency: Vec<Latency>,
    /// Rows per second at the median of the wall clock.
    pub throughput: f64,
}

/// Memory of a fresh process that loads the model and runs the samples of the package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemoryFigures {
    /// Largest resident memory, bytes: program, engine, model and working memory together. Absent where the system does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// Resident memory before the model was loaded, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_bytes: Option<u64>,
    /// Bytes of the model's files.
    pub model_bytes: u64,
}

/// Whether outputs are bit-identical. The digests stand in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BitIdentical {
    /// Between runs of one session.
    pub runs: bool,
    /// Between one thread and more.
    pub threads: bool,
    /// Between processes.
    pub processes: bool,
}

/// Whether rows of a batch are what single runs give.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchFlexibility {
    /// Whether every compared row of every size is within the tolerance.
    pub flexible: bool,
    /// Why nothing was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_compared: Option<String>,
    /// The largest difference that counts as equal, relative to max(1, max |single run|) of the output: what reordering float sums costs.
    pub tolerance: f64,
    /// What was compared.
    pub sizes: Vec<BatchRows>,
}

/// Rows of one batch against single runs of the same rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchRows {
    /// Rows of the batch.
    pub batch: usize,
    /// Whether every bit of every row is the same.
    pub bit_equal: bool,
    /// Largest difference, relative to max(1, max |single run|); absent when a shape differs or a difference is no number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_difference: Option<f64>,
    /// Whether it is within the tolerance.
    pub within_tolerance: bool,
}

/// How a limit fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LimitVerdict {
    /// The figure keeps it, with the whole of its 95 % interval.
    Met,
    /// The figure misses it.
    NotMet,
    /// The figure keeps it, but its interval does not, or there is none.
    Unproven,
    /// There is no figure.
    NotMeasured,
}

impl std::fmt::Display for LimitVerdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Met => "met",
            Self::NotMet => "not met",
            Self::Unproven => "unproven",
            Self::NotMeasured => "not measured",
        })
    }
}

/// A limit of the contract and what was measured, in base units: seconds, bytes, inferences per second. Times are by the clock on the wall.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// What is limited.
    pub metric: Metric,
    /// The least that is asked for, where the limit is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The most that is allowed, where the limit is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// What was measured; absent when nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<f64>,
    /// 95 % interval of it. A figure that was counted has none and needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Measurements behind it.
    pub n: usize,
    /// How it fared.
    pub verdict: LimitVerdict,
}

impl Limit {
    /// A limit with its verdict. `interval` is `None` for too few samples; a counted figure gives `[v, v]`.
    pub fn judged(gate: Gate, measured: Option<f64>, interval: Option<[f64; 2]>, n: usize) -> Self {
        let (min, max) = match gate.bound {
            Bound::Min(v) => (Some(v), None),
            Bound::Max(v) => (None, Some(v)),
        };
        let mut limit =
            Self { metric: gate.metric, min, max, measured, interval, n, verdict: LimitVerdict::NotMeasured };
        limit.verdict = limit.follows();
        limit
    }

    /// The verdict that follows from the figures.
    pub fn follows(&self) -> LimitVerdict {
        let Some(measured) = self.measured.filter(|v| v.is_finite()) else { return LimitVerdict::NotMeasured };
        if !self.kept_by(measured) {
            LimitVerdict::NotMet
        } else if self.n > 0 && self.interval.is_some_and(|ends| ends.into_iter().all(|end| self.kept_by(end))) {
            LimitVerdict::Met
        } else {
            LimitVerdict::Unproven
        }
    }

    /// Whether a value keeps the limit.
    pub fn kept_by(&self, value: f64) -> bool {
        self.min.is_none_or(|min| value >= min) && self.max.is_none_or(|max| value <= max)
    }
}

/// What may happen when the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Situation {
    /// An input has another type or shape than the signature.
    InputOfAnotherShape,
    /// An input holds NaN or infinities.
    InputNotFinite,
    /// An input holds values outside the range that was seen.
    InputOutOfRange,
    /// An output holds NaN or infinities.
    OutputNotFinite,
    /// An output lies outside the bounds that were seen.
    OutputOutOfBounds,
    /// A run takes longer than the limit.
    DeadlineMissed,
    /// A digest of a file is another one.
    FileChanged,
}

/// What to do then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// Do not run the model on it.
    RejectInput,
    /// Do not use the result; take the fallback of the system around the model.
    DiscardOutput,
    /// Use the result only with the fallback at hand, and log it: the model was not tested there.
    Distrust,
    /// Do not load the model.
    RefuseToLoad,
}

/// What to watch for, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hint {
    /// What happened.
    pub when: Situation,
    /// What to do.
    pub action: Action,
    /// Where the values to compare with stand, and why.
    pub detail: String,
}

impl Hint {
    /// The hints that go with every package.
    pub fn all() -> Vec<Self> {
        use Action::{DiscardOutput, Distrust, RefuseToLoad, RejectInput};
        use Situation::{
            DeadlineMissed, FileChanged, InputNotFinite, InputOfAnotherShape, InputOutOfRange, OutputNotFinite,
            OutputOutOfBounds,
        };
        [
            (
                InputOfAnotherShape,
                RejectInput,
                "signature.inputs names type and shape; batch sizes are those of batchFlexibility.",
            ),
            (InputNotFinite, RejectInput, "The validation split held no such value, so nothing is known of the answer."),
            (
                InputOutOfRange,
                Distrust,
                "signature.inputs[].range is what the validation split held; no figure here speaks of values outside.",
            ),
            (OutputNotFinite, DiscardOutput, "signature.outputs[].range.nonFinite counts those of the validation split."),
            (
                OutputOutOfBounds,
                Distrust,
                "signature.outputs[].range is what the model gave on the validation split; bounds were observed, not proven.",
            ),
            (
                DeadlineMissed,
                DiscardOutput,
                "limits names the deadline; a figure that was measured elsewhere says nothing of this machine.",
            ),
            (FileChanged, RefuseToLoad, "manifest.json names the digest of every file."),
        ]
        .into_iter()
        .map(|(when, action, detail)| Self { when, action, detail: detail.to_owned() })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_met_only_with_its_whole_interval_and_missed_by_its_figure() {
        let [p99, _, throughput, _] = contract();
        for (gate, measured, interval, n, verdict) in [
            (p99, Some(0.04), Some([0.03, 0.05]), 400, LimitVerdict::Met),
            (p99, Some(0.04), Some([0.03, 0.06]), 400, LimitVerdict::Unproven),
            (p99, Some(0.04), None, 120, LimitVerdict::Unproven),
            (p99, Some(0.04), Some([0.03, 0.05]), 0, LimitVerdict::Unproven),
            (p99, Some(0.06), Some([0.03, 0.08]), 400, LimitVerdict::NotMet),
            (p99, None, None, 0, LimitVerdict::NotMeasured),
            (p99, Some(f64::NAN), None, 9, LimitVerdict::NotMeasured),
            (throughput, Some(31.0), Some([30.0, 33.0]), 9, LimitVerdict::Met),
            (throughput, Some(29.0), Some([28.0, 33.0]), 9, LimitVerdict::NotMet),
        ] {
            assert_eq!(Limit::judged(gate, measured, interval, n).verdict, verdict, "{gate} {measured:?} {interval:?}");
        }
    }
}
