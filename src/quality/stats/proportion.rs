//! Intervals for counts: one proportion (Wilson), and the ratio of two proportions of the same samples (Bonett and Price).

use super::quantile::normal;
use super::{ALPHA, Interval};

/// Wilson's score interval for `successes` of `n` (Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22).
/// Everything is possible when `n` is 0.
#[must_use]
pub fn wilson(successes: u64, n: u64) -> Interval {
    if n == 0 {
        return Interval { lower: 0.0, upper: 1.0 };
    }
    let interval = wilson_at(successes as f64, n as f64, normal(1.0 - ALPHA / 2.0));
    // At the ends the formula is exact in real numbers and off by a rounding in binary ones.
    Interval {
        lower: if successes == 0 { 0.0 } else { interval.lower.max(0.0) },
        upper: if successes == n { 1.0 } else { interval.upper.min(1.0) },
    }
}

fn wilson_at(x: f64, n: f64, z: f64) -> Interval {
    let centre = 2.0 * x + z * z;
    let half = z * (z * z + 4.0 * x * (1.0 - x / n)).max(0.0).sqrt();
    let scale = 2.0 * (n + z * z);
    Interval { lower: (centre - half) / scale, upper: (centre + half) / scale }
}

/// Outcomes of the same samples under two conditions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PairedCounts {
    /// Successes in both.
    pub both: u64,
    /// Successes of the first condition (the baked model) only.
    pub only_first: u64,
    /// Successes of the second condition (the baseline) only.
    pub only_second: u64,
}

impl PairedCounts {
    /// Counts pairs of outcomes `(first, second)`.
    pub fn of(pairs: impl IntoIterator<Item = (bool, bool)>) -> Self {
        let mut counts = Self::default();
        for pair in pairs {
            match pair {
                (true, true) => counts.both += 1,
                (true, false) => counts.only_first += 1,
                (false, true) => counts.only_second += 1,
                (false, false) => {}
            }
        }
        counts
    }
}

/// Interval for the ratio of the first success rate to the second when both are of the same samples: Wilson score intervals of the two proportions at a
/// reduced z, divided crosswise (Bonett and Price 2006, "Confidence intervals for a ratio of binomial proportions based on paired data", Statistics in
/// Medicine 25:3039-3047). Pairs without any success do not enter. `None` when the second never succeeds.
#[must_use]
pub fn ratio_of_paired_proportions(counts: PairedCounts) -> Option<Interval> {
    let first = (counts.both + counts.only_first) as f64;
    let second = (counts.both + counts.only_second) as f64;
    if second == 0.0 {
        return None;
    }
    let n = (counts.both + counts.only_first + counts.only_second) as f64;
    let discordant = (counts.only_first + counts.only_second) as f64;
    let paired = ((discordant + 2.0) / ((first + 1.0) * (second + 1.0))).sqrt();
    let alone = |x: f64| ((1.0 - (x + 1.0) / (n + 2.0)) / (x + 1.0)).sqrt();
    let z = paired / (alone(first) + alone(second)) * normal(1.0 - ALPHA / 2.0);
    let (a, b) = (wilson_at(first, n, z), wilson_at(second, n, z));
    Some(Interval { lower: a.lower.max(0.0) / b.upper, upper: a.upper / b.lower })
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::*;

    fn uniform(rng: &mut ChaCha8Rng) -> f64 {
        f64::from(rng.next_u32()) / f64::from(u32::MAX)
    }

    #[test]
    fn the_ratio_interval_is_that_of_the_authors_own_example() {
        // `ci.ratio.prop.ps(.05, 12, 4, 26, 6)` of D. G. Bonett's R package statpsych: 3.2 [1.766544, 5.796628].
        let interval = ratio_of_paired_proportions(PairedCounts { both: 6, only_first: 26, only_second: 4 }).unwrap();
        assert!((interval.lower - 1.766_544).abs() < 1e-6 && (interval.upper - 5.796_628).abs() < 1e-6, "{interval:?}");
    }

    #[test]
    fn without_a_discordant_pair_the_ratio_is_still_uncertain_and_less_so_with_more_samples() {
        let width = |both| {
            let i = ratio_of_paired_proportions(PairedCounts { both, only_first: 0, only_second: 0 }).unwrap();
            assert!(i.contains(1.0) && i.lower < 1.0);
            i.upper - i.lower
        };
        assert!(width(20) > width(100) && width(100) > width(1000));
    }

    #[test]
    fn a_second_condition_that_never_succeeds_has_no_ratio() {
        assert_eq!(ratio_of_paired_proportions(PairedCounts { only_first: 9, ..PairedCounts::default() }), None);
    }

    #[test]
    fn the_wilson_interval_is_that_of_the_tables() {
        // Newcombe 1998, table I: 81/263 gives [0.2553, 0.3662]; 0/20 gives [0, 0.1611].
        let i = wilson(81, 263);
        assert!((i.lower - 0.2553).abs() < 5e-5 && (i.upper - 0.3662).abs() < 5e-5, "{i:?}");
        let i = wilson(0, 20);
        assert!(i.lower == 0.0 && (i.upper - 0.1611).abs() < 5e-5, "{i:?}");
        assert_eq!(wilson(20, 20).upper, 1.0);
        assert_eq!(wilson(0, 0), Interval { lower: 0.0, upper: 1.0 });
    }

    #[test]
    fn wilson_covers_the_truth_in_95_of_100_experiments() {
        for p in [0.5, 0.9, 0.97] {
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let hits = (0..2000)
                .filter(|_| wilson((0..100).filter(|_| uniform(&mut rng) < p).count() as u64, 100).contains(p))
                .count();
            assert!((1840..=1970).contains(&hits), "{hits} of 2000 at p = {p}");
        }
    }

    #[test]
    fn the_ratio_interval_covers_the_truth_in_95_of_100_experiments() {
        // Rates (both, only baked, only baseline), the rest fails in both; and the most hits: with one discordant pair or two it is conservative.
        for (both, first, second, most) in
            [(0.90, 0.02, 0.03, 1970), (0.60, 0.05, 0.10, 1950), (0.95, 0.005, 0.005, 2000)]
        {
            let truth = (both + first) / (both + second);
            let mut rng = ChaCha8Rng::seed_from_u64(2);
            let hits = (0..2000)
                .filter(|_| {
                    let pairs = (0..200).map(|_| {
                        let u = uniform(&mut rng);
                        (u < both + first, u < both || (both + first..both + first + second).contains(&u))
                    });
                    ratio_of_paired_proportions(PairedCounts::of(pairs)).unwrap().contains(truth)
                })
                .count();
            assert!((1840..=most).contains(&hits), "{hits} of 2000 at {both}, {first}, {second}");
        }
    }
}
