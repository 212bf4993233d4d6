//! How long one inference takes.

use serde::{Deserialize, Serialize};

use super::order::{interval, quantile, sorted};
use super::{Clock, Estimate, LatencyFigure};

/// How to measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LatencyOptions {
    /// Runs before the first sample; at least one is always made.
    pub warmup: usize,
    /// Samples to take; at least one is always taken.
    pub iterations: usize,
    /// Seconds of wall time after which no further warm-up run or sample is begun.
    pub max_seconds: f64,
    /// What time is read from.
    pub clock: Clock,
}

impl Default for LatencyOptions {
    fn default() -> Self {
        Self { warmup: 10, iterations: 100, max_seconds: 10.0, clock: Clock::Wall }
    }
}

/// Below this a single run is too short against the cost and grain of the clock, seconds.
const SHORTEST_SAMPLE: f64 = 20e-6;

/// More runs per sample than any real model needs.
const MOST_RUNS: usize = 10_000;

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Latencies {
    /// Seconds per run, in the order taken.
    pub samples_s: Vec<f64>,
    /// Runs that each sample is the mean of.
    pub runs_per_sample: usize,
    /// What time was read from.
    pub clock: Clock,
}

/// Times `run` until the iterations or the seconds are used up. The first error ends it.
pub fn measure<E>(run: &mut dyn FnMut() -> Result<(), E>, options: &LatencyOptions) -> Result<Latencies, E> {
    let begin = Clock::Wall.now();
    let spent = || Clock::Wall.since(begin);
    // Warm-up may use a quarter of the time, so that a slow model still gets samples.
    let mut fastest = f64::INFINITY;
    for i in 0..options.warmup.max(1) {
        if i > 0 && spent() > options.max_seconds / 4.0 {
            break;
        }
        let (seconds, result) = options.clock.time(&mut *run);
        result?;
        fastest = fastest.min(seconds);
    }
    let k = runs_for(SHORTEST_SAMPLE, fastest);
    let mut samples_s = Vec::with_capacity(options.iterations.max(1));
    while samples_s.is_empty() || (samples_s.len() < options.iterations && spent() < options.max_seconds) {
        let (seconds, result) = options.clock.time(|| repeat(run, k));
        result?;
        samples_s.push(seconds / k as f64);
    }
    Ok(Latencies { samples_s, runs_per_sample: k, clock: options.clock })
}

/// How many runs of `one` seconds last `target` seconds.
pub(super) fn runs_for(target: f64, one: f64) -> usize {
    if one >= target { 1 } else { ((target / one.max(1e-9)).ceil() as usize).clamp(1, MOST_RUNS) }
}

pub(super) fn repeat<E>(run: &mut dyn FnMut() -> Result<(), E>, times: usize) -> Result<(), E> {
    for _ in 0..times {
        run()?;
    }
    Ok(())
}

/// The distribution in a few numbers, seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Samples.
    pub n: usize,
    /// Median.
    pub p50: Estimate,
    /// 95th percentile; absent below 20 samples, where it would be the maximum.
    pub p95: Option<Estimate>,
    /// 99th percentile; absent below 100 samples, where it would be the maximum.
    pub p99: Option<Estimate>,
    /// Mean.
    pub mean: f64,
    /// Standard deviation (n - 1) over mean; absent below 2 samples.
    pub cv: Option<f64>,
    /// Fastest.
    pub min: f64,
    /// Slowest.
    pub max: f64,
}

impl Summary {
    /// Summarises samples; `None` without any.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        let n = sorted.len();
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let mean = sorted.iter().sum::<f64>() / n as f64;
        let variance = || sorted.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
        let cv = (n > 1 && mean > 0.0).then(|| variance().sqrt() / mean);
        // A percentile needs at least one sample above it to differ from the maximum.
        let estimate = |q: f64, least: usize| {
            if n < least {
                None
            } else {
                Some(Estimate { value: quantile(&sorted, q)?, interval: interval(&sorted, q) })
            }
        };
        Some(Self { n, p50: estimate(0.5, 1)?, p95: estimate(0.95, 20), p99: estimate(0.99, 100), mean, cv, min, max })
    }

    /// p99 - p50, when p99 is known.
    pub fn jitter(&self) -> Option<f64> {
        Some(self.p99?.value - self.p50.value)
    }
}

impl Latencies {
    /// The distribution in a few numbers.
    ///
    /// # Panics
    /// Never for what [`measure`] returned, which holds at least one sample.
    pub fn summary(&self) -> Summary {
        Summary::of(&self.samples_s).expect("measure takes at least one sample")
    }

    /// The figure for the report.
    pub fn figure(&self, batch_rows: usize) -> LatencyFigure {
        let s = self.summary();
        LatencyFigure {
            unit: "s".to_owned(),
            clock: self.clock,
            batch_rows,
            n: s.n,
            runs_per_sample: self.runs_per_sample,
            jitter: s.jitter(),
            p50: s.p50,
            p95: s.p95,
            p99: s.p99,
            mean: s.mean,
            cv: s.cv,
            min: s.min,
            max: s.max,
            samples: self.samples_s.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_runs_are_batched_and_counted() {
        let mut runs = 0_usize;
        let mut run = || {
            runs += 1;
            Ok::<(), ()>(())
        };
        let options = LatencyOptions { warmup: 3, iterations: 4, max_seconds: 60.0, clock: Clock::ThreadCpu };
        let latencies = measure(&mut run, &options).unwrap();
        assert_eq!(latencies.samples_s.len(), 4);
        assert!(latencies.runs_per_sample > 1);
        assert_eq!(runs, 3 + 4 * latencies.runs_per_sample);
    }

    #[test]
    fn one_sample_is_taken_even_without_time() {
        let mut runs = 0;
        let mut run = || {
            runs += 1;
            std::thread::sleep(std::time::Duration::from_millis(1));
            Ok::<(), ()>(())
        };
        let options = LatencyOptions { warmup: 0, iterations: 0, max_seconds: 0.0, clock: Clock::Wall };
        let latencies = measure(&mut run, &options).unwrap();
        assert_eq!((latencies.samples_s.len(), latencies.runs_per_sample, runs), (1, 1, 2));
    }

    #[test]
    fn the_first_error_ends_the_measurement() {
        let mut left = 2;
        let mut run = || {
            left -= 1;
            if left == 0 { Err("boom") } else { Ok(()) }
        };
        assert_eq!(measure(&mut run, &LatencyOptions::default()), Err("boom"));
    }

    #[test]
    fn percentiles_that_n_does_not_allow_are_absent() {
        let samples = |n: usize| (0..n).map(|i| i as f64).collect::<Vec<_>>();
        let few = Summary::of(&samples(19)).unwrap();
        assert_eq!((few.p95, few.p99, few.jitter()), (None, None, None));
        let some = Summary::of(&samples(100)).unwrap();
        assert!(some.p95.unwrap().interval.is_some() && some.p99.unwrap().interval.is_none());
        assert!((some.jitter().unwrap() - (98.01 - 49.5)).abs() < 1e-9);
        let many = Summary::of(&samples(1000)).unwrap();
        let p99 = many.p99.unwrap();
        let interval = p99.interval.unwrap();
        assert!(interval.low < p99.value && p99.value < interval.high);
        assert_eq!(Summary::of(&[2.0]).unwrap().cv, None);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn mean_and_spread_are_the_textbook_ones() {
        let summary = Summary::of(&[1.0, 2.0, 3.0, 6.0]).unwrap();
        assert_eq!((summary.mean, summary.min, summary.max, summary.p50.value), (3.0, 1.0, 6.0, 2.5));
        assert!((summary.cv.unwrap() - (14.0_f64 / 3.0).sqrt() / 3.0).abs() < 1e-12);
    }
}
