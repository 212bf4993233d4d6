//! The closed list of metrics that a gate may name, with the unit and the better direction of each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A metric that a gate may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Metric {
    /// Accuracy of the baked model over that of the baseline.
    AccuracyRetention,
    /// Concordance of the outputs.
    OutputConsistency,
    /// Similarity of internal features (CKA).
    FeaturePreservation,
    /// One minus the scaled Wasserstein distance of the outputs.
    DistributionSimilarity,
    /// Baseline latency over baked latency, paired.
    Speedup,
    /// Median latency.
    LatencyP50,
    /// 95th percentile of the latency.
    LatencyP95,
    /// 99th percentile of the latency.
    LatencyP99,
    /// p99 minus p50.
    Jitter,
    /// Standard deviation of the latency over its mean.
    LatencyCV,
    /// Inferences per second.
    Throughput,
    /// Peak resident memory of a fresh process.
    PeakMemory,
    /// Bytes of the model's files.
    FileSize,
    /// Share of the bytes that is gone.
    SizeReduction,
    /// Share of the non-zero parameters that is gone.
    ParameterReduction,
}

/// Which way a metric is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// A gate gives `min`.
    Higher,
    /// A gate gives `max`.
    Lower,
}

/// What a metric's plain `f64` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A share whose bound lies between 0 and 1.
    Share,
    /// A ratio without an upper end.
    Ratio,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Inferences per second.
    PerSecond,
}

impl Unit {
    /// A value as gates are written: a decimal, a duration or a number of bytes.
    pub fn written(self, value: f64) -> String {
        match self {
            Self::Seconds if value < 1.0 => format!("{:.4}ms", value * 1e3),
            Self::Seconds => format!("{value:.4}s"),
            Self::Bytes => format!("{value:.0}"),
            Self::PerSecond => format!("{value:.1}"),
            Self::Ratio | Self::Share => format!("{value:.4}"),
        }
    }
}

impl Metric {
    /// Every metric, in the order of the schema.
    pub const ALL: [Self; 15] = [
        Self::AccuracyRetention,
        Self::OutputConsistency,
        Self::FeaturePreservation,
        Self::DistributionSimilarity,
        Self::Speedup,
        Self::LatencyP50,
        Self::LatencyP95,
        Self::LatencyP99,
        Self::Jitter,
        Self::LatencyCV,
        Self::Throughput,
        Self::PeakMemory,
        Self::FileSize,
        Self::SizeReduction,
        Self::ParameterReduction,
    ];

    /// The quality gates that apply unless a job sets them itself.
    pub const DEFAULT_GATES: [(Self, f64); 4] = [
        (Self::AccuracyRetention, 0.95),
        (Self::OutputConsistency, 0.95),
        (Self::FeaturePreservation, 0.85),
        (Self::DistributionSimilarity, 0.90),
    ];

    /// Which way this metric is better.
    #[must_use]
    pub fn direction(self) -> Direction {
        match self {
            Self::LatencyP50
            | Self::LatencyP95
            | Self::LatencyP99
            | Self::Jitter
            | Self::LatencyCV
            | Self::PeakMemory
            | Self::FileSize => Direction::Lower,
            _ => Direction::Higher,
        }
    }

    /// The unit of this metric's plain value.
    #[must_use]
    pub fn unit(self) -> Unit {
        match self {
            Self::AccuracyRetention
            | Self::OutputConsistency
            | Self::FeaturePreservation
            | Self::DistributionSimilarity
            | Self::SizeReduction
            | Self::ParameterReduction => Unit::Share,
            Self::Speedup | Self::LatencyCV => Unit::Ratio,
            Self::LatencyP50 | Self::LatencyP95 | Self::LatencyP99 | Self::Jitter => Unit::Seconds,
            Self::PeakMemory | Self::FileSize => Unit::Bytes,
            Self::Throughput => Unit::PerSecond,
        }
    }

    /// Whether this is one of the four quality metrics, measured on held-out data.
    #[must_use]
    pub fn is_quality(self) -> bool {
        Self::DEFAULT_GATES.iter().any(|(m, _)| *m == self)
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}
