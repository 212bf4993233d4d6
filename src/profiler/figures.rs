//! The figures that a report holds: value, interval, n and unit, with the raw samples beside them.

use serde::{Deserialize, Serialize};

use super::Clock;

/// A 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Width in units of `value`; infinite when `value` is 0.
    pub fn relative_width(&self, value: f64) -> f64 {
        if value == 0.0 { f64::INFINITY } else { (self.high - self.low) / value.abs() }
    }
}

/// A value with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The point estimate.
    pub value: f64,
    /// Its 95 % interval; absent when n is too small for one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub interval: Option<Interval>,
}

/// Latency of one inference, in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LatencyFigure {
    /// `s`.
    pub unit: String,
    /// What it was read from.
    pub clock: Clock,
    /// Rows per inference.
    pub batch_rows: usize,
    /// Samples.
    pub n: usize,
    /// Inferences per sample: above 1 each sample is the mean of a short burst, and tails within a burst are not seen.
    pub runs_per_sample: usize,
    /// Median.
    pub p50: Estimate,
    /// 95th percentile; absent below 20 samples.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p95: Option<Estimate>,
    /// 99th percentile; absent below 100 samples.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p99: Option<Estimate>,
    /// p99 - p50; absent without p99.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub jitter: Option<f64>,
    /// Mean.
    pub mean: f64,
    /// Standard deviation over mean; absent below 2 samples.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cv: Option<f64>,
    /// Fastest.
    pub min: f64,
    /// Slowest.
    pub max: f64,
    /// Every sample in the order taken, seconds per inference.
    pub samples: Vec<f64>,
}

/// Speedup of B over the baseline A: time of A / time of B.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairedFigure {
    /// `ratio`.
    pub unit: String,
    /// What time was read from.
    pub clock: Clock,
    /// Rounds; each times both sides twice.
    pub n: usize,
    /// Median of the rounds' ratios, with its interval. Above 1: B is faster.
    pub speedup: Estimate,
    /// Median seconds per run of A.
    pub baseline_s: f64,
    /// Median seconds per run of B.
    pub candidate_s: f64,
    /// Runs of A in one half of a round.
    pub baseline_runs: usize,
    /// Runs of B in one half of a round.
    pub candidate_runs: usize,
    /// Ratio of every round, in order.
    pub ratios: Vec<f64>,
}

impl PairedFigure {
    /// Whether B is slower beyond doubt: the upper end of the interval lies below 1.
    pub fn is_slower(&self) -> bool {
        self.speedup.interval.is_some_and(|i| i.high < 1.0)
    }

    /// Whether B is faster beyond doubt: the lower end of the interval lies above 1.
    pub fn is_faster(&self) -> bool {
        self.speedup.interval.is_some_and(|i| i.low > 1.0)
    }
}

/// Memory, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryFigure {
    /// `bytes`.
    pub unit: String,
    /// Processes measured.
    pub n: usize,
    /// The largest peak of resident memory.
    pub peak: u64,
    /// The smallest peak: with n = 1 the same.
    pub min: u64,
    /// Every process's peak.
    pub samples: Vec<u64>,
}

impl MemoryFigure {
    /// Of the peaks of some processes; `None` without any.
    pub fn of(samples: Vec<u64>) -> Option<Self> {
        let (&peak, &min) = (samples.iter().max()?, samples.iter().min()?);
        Some(Self { unit: "bytes".to_owned(), n: samples.len(), peak, min, samples })
    }
}

/// Inferences per second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ThroughputFigure {
    /// `1/s`.
    pub unit: String,
    /// Rows per inference.
    pub batch_rows: usize,
    /// Threads that ran inferences side by side.
    pub threads: usize,
    /// Latency samples or runs behind the figure.
    pub n: usize,
    /// Rows per second.
    pub rows_per_second: Estimate,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_figure_keeps_every_process() {
        let figure = MemoryFigure::of(vec![5, 9, 7]).unwrap();
        assert_eq!((figure.n, figure.peak, figure.min), (3, 9, 5));
        assert_eq!(MemoryFigure::of(Vec::new()), None);
    }

    #[test]
    fn an_absent_interval_proves_nothing() {
        let figure = |interval| PairedFigure {
            unit: "ratio".to_owned(),
            clock: Clock::Wall,
            n: 3,
            speedup: Estimate { value: 0.5, interval },
            baseline_s: 1.0,
            candidate_s: 2.0,
            baseline_runs: 1,
            candidate_runs: 1,
            ratios: vec![0.5; 3],
        };
        assert!(!figure(None).is_slower() && !figure(None).is_faster());
        assert!(figure(Some(Interval { low: 0.4, high: 0.6 })).is_slower());
        assert!(!figure(Some(Interval { low: 0.4, high: 1.1 })).is_slower());
        let json = serde_json::to_string(&figure(None)).unwrap();
        assert!(!json.contains("interval"), "{json}");
        assert_eq!(serde_json::from_str::<PairedFigure>(&json).unwrap(), figure(None));
    }
}
