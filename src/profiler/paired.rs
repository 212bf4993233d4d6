//! Which of two is faster, and by how much: interleaved runs of both under the same conditions.
//!
//! One round times A, B, B, A or B, A, A, B. A drift that is linear within a round (clock speed, temperature, a neighbour's load) cancels. Which of the two
//! orders comes first in each pair of rounds is drawn from a fixed sequence: a scheduler whose time slice is about as long as a round would otherwise hit
//! the same side again and again, which looks like a difference. The round's ratio is time of A / time of B; the speedup is the median of the ratios with
//! an order-statistic interval, which asks nothing of their distribution and does not mind outliers.

use serde::{Deserialize, Serialize};

use super::latency::{repeat, runs_for};
use super::order::{interval, quantile, sorted};
use super::{Clock, Estimate, PairedFigure};

/// How to compare.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairedOptions {
    /// Runs of each side before the first round; at least one is always made.
    pub warmup: usize,
    /// Rounds below which nothing is decided; at least one is always made. 6 are needed for an interval.
    pub min_rounds: usize,
    /// Rounds at most.
    pub max_rounds: usize,
    /// Seconds of wall time after which no further round is begun.
    pub max_seconds: f64,
    /// Seconds that each side of a half round lasts at least; shorter runs are repeated.
    pub side_seconds: f64,
    /// Width of the interval, relative to the speedup, that is narrow enough to stop.
    pub precision: f64,
    /// What time is read from.
    pub clock: Clock,
}

impl Default for PairedOptions {
    fn default() -> Self {
        Self {
            warmup: 3,
            min_rounds: 20,
            max_rounds: 200,
            max_seconds: 5.0,
            side_seconds: 1e-3,
            precision: 0.02,
            clock: Clock::ThreadCpu,
        }
    }
}

/// The precision is looked at every so many rounds: looking after each would favour intervals that are narrow by chance.
const LOOK_EVERY: usize = 10;

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Paired {
    /// Seconds per run of A, by round.
    pub baseline_s: Vec<f64>,
    /// Seconds per run of B, by round.
    pub candidate_s: Vec<f64>,
    /// Runs of A in one half of a round.
    pub baseline_runs: usize,
    /// Runs of B in one half of a round.
    pub candidate_runs: usize,
    /// What time was read from.
    pub clock: Clock,
}

/// Compares B with the baseline A. The first error of either ends it.
pub fn compare<E>(
    a: &mut dyn FnMut() -> Result<(), E>,
    b: &mut dyn FnMut() -> Result<(), E>,
    options: &PairedOptions,
) -> Result<Paired, E> {
    let begin = Clock::Wall.now();
    let spent = || Clock::Wall.since(begin);
    let clock = options.clock;
    let warm = |run: &mut dyn FnMut() -> Result<(), E>, until: f64| {
        let mut fastest = f64::INFINITY;
        for i in 0..options.warmup.max(1) {
            if i > 0 && spent() > until {
                break;
            }
            let (seconds, result) = clock.time(&mut *run);
            result?;
            fastest = fastest.min(seconds);
        }
        Ok(runs_for(options.side_seconds, fastest))
    };
    let baseline_runs = warm(a, options.max_seconds / 8.0)?;
    let candidate_runs = warm(b, options.max_seconds / 4.0)?;
    let mut paired = Paired { baseline_s: Vec::new(), candidate_s: Vec::new(), baseline_runs, candidate_runs, clock };
    let side = |run: &mut dyn FnMut() -> Result<(), E>, k: usize| {
        let (seconds, result) = clock.time(|| repeat(run, k));
        result.map(|()| seconds)
    };
    loop {
        let (first_a, first_b, second_b, second_a);
        if baseline_outside(paired.baseline_s.len()) {
            first_a = side(a, baseline_runs)?;
            first_b = side(b, candidate_runs)?;
            second_b = side(b, candidate_runs)?;
            second_a = side(a, baseline_runs)?;
        } else {
            first_b = side(b, candidate_runs)?;
            first_a = side(a, baseline_runs)?;
            second_a = side(a, baseline_runs)?;
            second_b = side(b, candidate_runs)?;
        }
        paired.baseline_s.push((first_a + second_a) / (2 * baseline_runs) as f64);
        paired.candidate_s.push((first_b + second_b) / (2 * candidate_runs) as f64);
        let n = paired.baseline_s.len();
        let precise =
            n >= options.min_rounds && n.is_multiple_of(LOOK_EVERY) && paired.precision() <= options.precision;
        if n >= options.max_rounds || spent() >= options.max_seconds || precise {
            return Ok(paired);
        }
    }
}

/// Whether round `n` runs A, B, B, A. Every pair of rounds has one of each order; which comes first is a fixed pseudo-random bit (`SplitMix64`'s finaliser,
/// Steele, Lea and Flood 2014).
fn baseline_outside(n: usize) -> bool {
    let mut z = (n as u64 / 2 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z >> 63) == 1) != n.is_multiple_of(2)
}

impl Paired {
    /// Time of A / time of B, by round.
    pub fn ratios(&self) -> Vec<f64> {
        // A clock that did not advance would make a ratio infinite; a nanosecond is its grain.
        self.baseline_s.iter().zip(&self.candidate_s).map(|(a, b)| a.max(1e-9) / b.max(1e-9)).collect()
    }

    /// Width of the interval relative to the speedup; infinite while there is none.
    fn precision(&self) -> f64 {
        let speedup = self.speedup();
        speedup.interval.map_or(f64::INFINITY, |i| i.relative_width(speedup.value))
    }

    /// The median ratio with its interval. 0 without rounds, which [`compare`] never returns.
    pub fn speedup(&self) -> Estimate {
        let ratios = sorted(&self.ratios());
        Estimate { value: quantile(&ratios, 0.5).unwrap_or(0.0), interval: interval(&ratios, 0.5) }
    }

    /// The figure for the report.
    pub fn figure(&self) -> PairedFigure {
        let median = |samples: &[f64]| quantile(&sorted(samples), 0.5).unwrap_or(0.0);
        PairedFigure {
            unit: "ratio".to_owned(),
            clock: self.clock,
            n: self.baseline_s.len(),
            speedup: self.speedup(),
            baseline_s: median(&self.baseline_s),
            candidate_s: median(&self.candidate_s),
            baseline_runs: self.baseline_runs,
            candidate_runs: self.candidate_runs,
            ratios: self.ratios(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_round_runs_both_sides_in_mirrored_order() {
        let order = RefCell::new(String::new());
        let mut a = || {
            order.borrow_mut().push('a');
            std::thread::sleep(std::time::Duration::from_millis(2));
            Ok::<(), ()>(())
        };
        let mut b = || {
            order.borrow_mut().push('b');
            std::thread::sleep(std::time::Duration::from_millis(2));
            Ok::<(), ()>(())
        };
        let options =
            PairedOptions { warmup: 1, min_rounds: 2, max_rounds: 2, clock: Clock::Wall, ..PairedOptions::default() };
        let paired = compare(&mut a, &mut b, &options).unwrap();
        let order = order.into_inner();
        assert!(["ababbabaab", "abbaababba"].contains(&order.as_str()), "{order}");
        assert_eq!((paired.baseline_s.len(), paired.baseline_runs), (2, 1));
        assert_eq!(paired.speedup().interval, None, "two rounds are too few for an interval");
    }

    #[test]
    fn both_orders_come_equally_often_and_without_a_period() {
        let outside: Vec<bool> = (0..200).map(baseline_outside).collect();
        assert_eq!(outside.iter().filter(|&&o| o).count(), 100);
        for period in 1..=20 {
            let agree =
                outside.iter().zip(&outside[period..]).filter(|(x, y)| x == y).count() as f64 / (200 - period) as f64;
            assert!((0.2..0.8).contains(&agree), "period {period}: {agree}");
        }
    }

    #[test]
    fn the_speedup_is_the_median_of_ratios_and_outliers_do_not_move_it() {
        let mut baseline_s = vec![2.0; 11];
        baseline_s[4] = 900.0;
        let paired = Paired {
            baseline_s,
            candidate_s: vec![1.0; 11],
            baseline_runs: 1,
            candidate_runs: 3,
            clock: Clock::ThreadCpu,
        };
        let figure = paired.figure();
        assert_eq!((figure.speedup.value, figure.n, figure.candidate_s), (2.0, 11, 1.0));
        let interval = figure.speedup.interval.unwrap();
        assert_eq!((interval.low, interval.high), (2.0, 2.0));
        assert!(figure.is_faster());
    }

    #[test]
    fn an_error_of_either_side_ends_the_comparison() {
        let mut fine = || Ok(());
        let mut broken = || Err("no");
        let options = PairedOptions { max_rounds: 1, ..PairedOptions::default() };
        assert_eq!(compare(&mut fine, &mut broken, &options), Err("no"));
    }

    #[test]
    fn no_round_is_begun_after_the_time_is_spent() {
        let mut run = || Ok::<(), ()>(());
        let options = PairedOptions { max_seconds: 0.0, ..PairedOptions::default() };
        assert_eq!(compare(&mut run, &mut || Ok(()), &options).unwrap().baseline_s.len(), 1);
    }
}
