//! Latency of one model: repeated runs, raw samples kept, percentiles only where there are enough samples for them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statrs::distribution::{Binomial, DiscreteCDF};

use super::clock;

/// Runs shorter than this are timed several at a time, for the clock's own cost would show.
const SHORTEST_SAMPLE_S: f64 = 20e-6;

/// How long and how often to measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Runs before the first sample.
    pub warmup: usize,
    /// Samples.
    pub iterations: usize,
    /// Stop sampling after this long by the clock of the samples, but not before a tenth of the samples.
    pub max_seconds: f64,
    /// CPU time of the calling thread instead of wall time. Right for one thread, wrong for more.
    pub cpu_time: bool,
}

/// Raw samples of one measurement, seconds per run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Samples {
    /// Seconds per run, in the order measured.
    pub seconds: Vec<f64>,
    /// Runs averaged in each sample; 1 unless a run is too short to time alone.
    pub runs_per_sample: usize,
}

/// What the samples say, in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 95 % interval of the median, from order statistics.
    pub p50_interval: [f64; 2],
    /// 95th percentile; absent below 20 samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95: Option<f64>,
    /// 99th percentile; absent below 100 samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// Mean.
    pub mean: f64,
    /// Standard deviation / mean.
    pub cv: f64,
    /// Shortest and longest.
    pub range: [f64; 2],
    /// Samples.
    pub n: usize,
}

/// Measures `run`.
///
/// # Errors
/// The first error of `run`.
pub fn measure<E>(plan: Plan, run: &mut dyn FnMut() -> Result<(), E>) -> Result<Samples, E> {
    let now = || if plan.cpu_time { clock::thread_cpu_seconds() } else { clock::wall_seconds() };
    let mut shortest = f64::INFINITY;
    for _ in 0..plan.warmup.max(1) {
        let start = now();
        run()?;
        shortest = shortest.min(now() - start);
    }
    let runs_per_sample = (SHORTEST_SAMPLE_S / shortest.max(1e-9)).ceil().clamp(1.0, 1_000.0) as usize;
    let mut seconds = Vec::with_capacity(plan.iterations);
    let began = now();
    while seconds.len() < plan.iterations {
        let start = now();
        for _ in 0..runs_per_sample {
            run()?;
        }
        seconds.push((now() - start) / runs_per_sample as f64);
        if now() - began > plan.max_seconds && seconds.len() * 10 >= plan.iterations {
            break;
        }
    }
    Ok(Samples { seconds, runs_per_sample })
}

impl Samples {
    /// Percentiles and spread; `None` without a sample.
    pub fn summary(&self) -> Option<Latency> {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let mean = sorted.iter().sum::<f64>() / n as f64;
        let variance = sorted.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n.max(2) - 1) as f64;
        Some(Latency {
            p50: percentile(&sorted, 0.50),
            p50_interval: quantile_interval(&sorted, 0.5),
            p95: (n >= 20).then(|| percentile(&sorted, 0.95)),
            p99: (n >= 100).then(|| percentile(&sorted, 0.99)),
            mean,
            cv: variance.sqrt() / mean,
            range: [first, last],
            n,
        })
    }

    /// 95 % interval of the quantile `q`, from order statistics.
    pub fn interval(&self, q: f64) -> Option<[f64; 2]> {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        (!sorted.is_empty()).then(|| quantile_interval(&sorted, q))
    }
}

/// The `q` quantile of ascending values, nearest rank: always a value that was measured.
pub fn percentile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// Distribution-free 95 % interval of the `q` quantile of ascending values: the ranks between which the binomial(n, q) lies with 95 %
/// (Conover, Practical Nonparametric Statistics, section 3.2). The whole range where there are too few values.
pub fn quantile_interval(sorted: &[f64], q: f64) -> [f64; 2] {
    let n = sorted.len();
    let (Some(&first), Some(&last)) = (sorted.first(), sorted.last()) else { return [f64::NAN; 2] };
    let Ok(ranks) = Binomial::new(q, n as u64) else { return [first, last] };
    let below = ranks.inverse_cdf(0.025) as usize;
    let above = ranks.inverse_cdf(0.975) as usize + 1;
    [if below == 0 { first } else { sorted[below - 1] }, if above > n { last } else { sorted[above - 1] }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(n: usize) -> Samples {
        Samples { seconds: (1..=n).map(|i| i as f64).collect(), runs_per_sample: 1 }
    }

    #[test]
    fn percentiles_are_measured_values_and_absent_without_enough_of_them() {
        let all = samples(100).summary().unwrap();
        assert_eq!((all.p50, all.p95, all.p99, all.n), (50.0, Some(95.0), Some(99.0), 100));
        let few = samples(19).summary().unwrap();
        assert_eq!((few.p95, few.p99), (None, None));
        assert_eq!(samples(0).summary(), None);
    }

    #[test]
    fn the_interval_of_the_median_has_the_tabled_ranks() {
        // n = 100, q = 0.5: ranks 40 and 61 (binomial tables).
        assert_eq!(samples(100).summary().unwrap().p50_interval, [40.0, 61.0]);
        assert_eq!(samples(3).summary().unwrap().p50_interval, [1.0, 3.0]);
    }

    #[test]
    fn a_short_run_is_timed_several_at_a_time_and_an_error_ends_it() {
        let plan = Plan { warmup: 3, iterations: 5, max_seconds: 1.0, cpu_time: false };
        let measured = measure::<()>(plan, &mut || Ok(())).unwrap();
        assert_eq!(measured.seconds.len(), 5);
        assert!(measured.runs_per_sample > 1);
        assert_eq!(measure(plan, &mut || Err("broken")), Err("broken"));
    }
}
