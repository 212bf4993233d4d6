//! The delete-group jackknife: the statistic again without each of 20 groups of samples (Kott 2001, "The delete-a-group jackknife", Journal of
//! Official Statistics 17). It never repeats a sample, unlike the bootstrap, which debiased CKA would read as similarity and W1 as noise.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::quantile::student_t;
use super::{ALPHA, Interval};

/// Number of groups, so 19 degrees of freedom.
pub const GROUPS: usize = 20;

/// A random assignment of samples to [`GROUPS`] groups of equal size (differing by one at most).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    of: Vec<u8>,
}

impl Groups {
    /// Assigns `n` samples. Random, since data sets are often sorted by class; seeded, so that it can be repeated.
    #[must_use]
    pub fn new(n: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(u64::MAX);
        let mut of: Vec<u8> = (0..n).map(|i| (i % GROUPS) as u8).collect();
        for i in (1..n).rev() {
            of.swap(i, ((u64::from(rng.next_u32()) * (i as u64 + 1)) >> 32) as usize);
        }
        Self { of }
    }

    /// The group of sample `i`, below [`GROUPS`].
    #[must_use]
    pub fn of(&self, i: usize) -> usize {
        usize::from(self.of[i])
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

/// Standard error of the statistic from its values without each group: `sqrt((G-1)/G * sum (x_g - mean)^2)`.
#[must_use]
pub fn standard_error(without: &[f64]) -> f64 {
    let groups = without.len() as f64;
    let mean = without.iter().sum::<f64>() / groups;
    ((groups - 1.0) / groups * without.iter().map(|v| (v - mean).powi(2)).sum::<f64>()).sqrt()
}

/// The 95 % interval `estimate ± t(19) * standard error`. `None` unless there are exactly [`GROUPS`] finite values.
#[must_use]
pub fn group_jackknife(estimate: f64, without: &[f64]) -> Option<Interval> {
    if without.len() != GROUPS || !estimate.is_finite() || without.iter().any(|v| !v.is_finite()) {
        return None;
    }
    let half = student_t(1.0 - ALPHA / 2.0, GROUPS as f64 - 1.0) * standard_error(without);
    Some(Interval { lower: estimate - half, upper: estimate + half })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_of_equal_size_and_shuffled() {
        let groups = Groups::new(205, 4);
        let sizes: Vec<usize> = (0..GROUPS).map(|g| (0..205).filter(|&i| groups.of(i) == g).count()).collect();
        assert!(sizes.iter().all(|&s| s == 10 || s == 11), "{sizes:?}");
        assert!((0..205).any(|i| groups.of(i) != i % GROUPS));
        assert_eq!(groups, Groups::new(205, 4));
    }

    #[test]
    fn of_a_mean_it_is_the_standard_error_of_the_group_means() {
        let values: Vec<f64> = (0..GROUPS).map(|i| (i as f64).sqrt()).collect();
        let mean = values.iter().sum::<f64>() / 20.0;
        let without: Vec<f64> = values.iter().map(|v| (mean * 20.0 - v) / 19.0).collect();
        let classic = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (19.0 * 20.0)).sqrt();
        assert!((standard_error(&without) - classic).abs() < 1e-12);
    }

    #[test]
    fn it_covers_a_ratio_of_means_in_95_of_100_experiments() {
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        let mut exponential = || -((f64::from(rng.next_u32()) + 1.0) / (f64::from(u32::MAX) + 2.0)).ln();
        let hits = (0..1000)
            .filter(|&seed| {
                let pairs: Vec<(f64, f64)> = (0..200).map(|_| (exponential() + 1.0, exponential() + 3.0)).collect();
                let groups = Groups::new(200, seed);
                let ratio = |skip: Option<usize>| {
                    let kept = pairs.iter().enumerate().filter(|(i, _)| Some(groups.of(*i)) != skip);
                    let (a, b) = kept.fold((0.0, 0.0), |(a, b), (_, p)| (a + p.0, b + p.1));
                    a / b
                };
                let without: Vec<f64> = (0..GROUPS).map(|g| ratio(Some(g))).collect();
                group_jackknife(ratio(None), &without).unwrap().contains(0.5)
            })
            .count();
        assert!((930..=970).contains(&hits), "{hits} of 1000");
    }

    #[test]
    fn too_few_groups_or_an_undefined_value_give_no_interval() {
        assert_eq!(group_jackknife(1.0, &[1.0; 19]), None);
        let mut without = [1.0; GROUPS];
        without[3] = f64::NAN;
        assert_eq!(group_jackknife(1.0, &without), None);
    }
}
