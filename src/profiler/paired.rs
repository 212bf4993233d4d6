//! Paired, interleaved A/B: the machine's drift hits both sides alike, so their ratio holds where single times do not.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::clock;
use super::latency::{percentile, quantile_interval};

/// Each of the four parts of a round lasts at least this long.
const SHORTEST_SIDE_S: f64 = 0.5e-3;

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Rounds at least.
    pub min_rounds: usize,
    /// Rounds at most.
    pub max_rounds: usize,
    /// Stop once the interval is narrower than this share of the ratio.
    pub width: f64,
    /// Stop after this long by the clock of the rounds, but not before `min_rounds`.
    pub max_seconds: f64,
    /// CPU time of the calling thread instead of wall time. Right for one thread, wrong for more.
    pub cpu_time: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self { min_rounds: 21, max_rounds: 400, width: 0.02, max_seconds: 1.0, cpu_time: true }
    }
}

/// Time of A / time of B, over paired rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Paired {
    /// Median ratio: how many times faster B is.
    pub ratio: f64,
    /// Lower end of its 95 % interval, from order statistics.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
    /// The ratio of every round.
    pub ratios: Vec<f64>,
    /// Median seconds per run of A and of B.
    pub seconds: [f64; 2],
}

/// Times `a` against `b` in rounds of A B B A or B A A B. The order is drawn (from a fixed seed): a fixed one falls into step with the scheduler's slices on a
/// busy machine, and a function timed against itself then comes out faster or slower.
///
/// # Errors
/// The first error of either side.
pub fn compare<E>(
    plan: Plan,
    a: &mut dyn FnMut() -> Result<(), E>,
    b: &mut dyn FnMut() -> Result<(), E>,
) -> Result<Paired, E> {
    let now = || if plan.cpu_time { clock::thread_cpu_seconds() } else { clock::wall_seconds() };
    let time = |run: &mut dyn FnMut() -> Result<(), E>, runs: usize| -> Result<f64, E> {
        let start = now();
        for _ in 0..runs {
            run()?;
        }
        Ok((now() - start) / runs as f64)
    };
    // Warm-up, and how many runs make a side long enough.
    let runs_for = |run: &mut dyn FnMut() -> Result<(), E>| -> Result<usize, E> {
        time(run, 1)?;
        let once = time(run, 2)?;
        Ok((SHORTEST_SIDE_S / once.max(1e-9)).ceil().clamp(1.0, 10_000.0) as usize)
    };
    let (runs_a, runs_b) = (runs_for(a)?, runs_for(b)?);
    let (mut times_a, mut times_b, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut drawn = ChaCha8Rng::seed_from_u64(0);
    let began = now();
    while ratios.len() < plan.max_rounds {
        let (time_a, time_b);
        if drawn.random_bool(0.5) {
            let first = time(a, runs_a)?;
            time_b = f64::midpoint(time(b, runs_b)?, time(b, runs_b)?);
            time_a = f64::midpoint(first, time(a, runs_a)?);
        } else {
            let first = time(b, runs_b)?;
            time_a = f64::midpoint(time(a, runs_a)?, time(a, runs_a)?);
            time_b = f64::midpoint(first, time(b, runs_b)?);
        }
        times_a.push(time_a);
        times_b.push(time_b);
        ratios.push(time_a / time_b.max(1e-12));
        if ratios.len() >= plan.min_rounds && ratios.len() % 5 == 0 {
            let (ratio, [lower, upper]) = summary(&ratios);
            if upper - lower < plan.width * ratio || now() - began > plan.max_seconds {
                break;
            }
        }
    }
    let (ratio, [lower, upper]) = summary(&ratios);
    let seconds = [summary(&times_a).0, summary(&times_b).0];
    Ok(Paired { ratio, lower, upper, ratios, seconds })
}

fn summary(values: &[f64]) -> (f64, [f64; 2]) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (percentile(&sorted, 0.5), quantile_interval(&sorted, 0.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(units: u64) -> impl FnMut() -> Result<(), ()> {
        move || {
            std::hint::black_box((0..units * 2_000).fold(1_u64, |a, b| std::hint::black_box(a.rotate_left(5) ^ b)));
            Ok(())
        }
    }

    #[test]
    fn twice_the_work_is_seen_as_about_half_the_speed_and_the_interval_holds_the_ratio() {
        let paired = compare(Plan::default(), &mut work(40), &mut work(20)).unwrap();
        assert!((1.2..3.5).contains(&paired.ratio), "{paired:?}");
        assert!(paired.lower <= paired.ratio && paired.ratio <= paired.upper);
        assert!(paired.ratios.len() >= 21);
    }

    #[test]
    fn an_error_of_either_side_ends_the_comparison() {
        let mut good = || Ok(());
        let mut bad = || Err("b");
        assert_eq!(compare(Plan::default(), &mut good, &mut bad), Err("b"));
    }
}
