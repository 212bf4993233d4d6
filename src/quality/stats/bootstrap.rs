//! The bias-corrected and accelerated bootstrap (Efron 1987, "Better bootstrap confidence intervals", JASA 82), over samples.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

use super::quantile::{normal, normal_cdf, of_sorted};
use super::{ALPHA, Interval};

/// Resamples behind every bootstrap interval.
pub const RESAMPLES: usize = 2000;

/// Draws resamples of `n` samples with replacement. Resample `b` of a seed is the same on every machine and with any number of threads: it has its own
/// stream of the generator.
#[derive(Debug, Clone, Copy)]
pub struct Resampler {
    n: usize,
    seed: u64,
}

impl Resampler {
    /// Resamples of `n` samples under `seed`.
    #[must_use]
    pub fn new(n: usize, seed: u64) -> Self {
        Self { n, seed }
    }

    /// Writes how often each sample is in resample `b` to `weights`; they sum to n.
    pub fn weights(&self, b: usize, weights: &mut [f64]) {
        weights.fill(0.0);
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(b as u64 + 1);
        for _ in 0..self.n {
            // Multiply-shift: its bias, n / 2^32, is far below what 2,000 resamples can show.
            weights[((u64::from(rng.next_u32()) * self.n as u64) >> 32) as usize] += 1.0;
        }
    }

    /// `statistic` of every resample's weights, and of the samples with each one left out in turn.
    pub fn run(&self, statistic: impl Fn(&[f64]) -> f64 + Sync) -> Replicates {
        let n = self.n;
        let resampled = (0..RESAMPLES)
            .into_par_iter()
            .map_init(
                || vec![0.0; n],
                |weights, b| {
                    self.weights(b, weights);
                    statistic(weights)
                },
            )
            .collect();
        let left_out = (0..n)
            .into_par_iter()
            .map_init(
                || vec![1.0; n],
                |weights, i| {
                    weights[i] = 0.0;
                    let value = statistic(weights);
                    weights[i] = 1.0;
                    value
                },
            )
            .collect();
        Replicates { resampled, left_out }
    }
}

/// What the bootstrap is computed from.
#[derive(Debug, Clone, PartialEq)]
pub struct Replicates {
    /// The statistic of each resample.
    pub resampled: Vec<f64>,
    /// The statistic without sample i, for the acceleration.
    pub left_out: Vec<f64>,
}

/// The largest share of resamples in which the statistic may be undefined (a baseline of zero, say) before there is no interval.
const UNDEFINED_SHARE: f64 = 0.05;

/// The 95 % `BCa` interval. `None` when the statistic is undefined in more than 5 % of the resamples. When all resamples agree the interval has no
/// width; when all lie on one side of the estimate, the plain percentiles are taken, since the bias correction is infinite there.
pub fn bca(estimate: f64, replicates: &Replicates) -> Option<Interval> {
    let mut sorted: Vec<f64> = replicates.resampled.iter().copied().filter(|v| v.is_finite()).collect();
    let undefined = replicates.resampled.len() - sorted.len();
    if sorted.is_empty()
        || !estimate.is_finite()
        || undefined as f64 > UNDEFINED_SHARE * replicates.resampled.len() as f64
    {
        return None;
    }
    sorted.sort_by(f64::total_cmp);
    let (lowest, highest) = (sorted[0], sorted[sorted.len() - 1]);
    if lowest == highest {
        return Some(Interval { lower: lowest, upper: highest });
    }
    let below = sorted.partition_point(|&v| v < estimate);
    let equal = sorted.partition_point(|&v| v <= estimate) - below;
    // Ties count half, as in scipy.stats.bootstrap: many resamples of a nearly perfect model repeat the estimate exactly.
    let z0 = normal((below as f64 + 0.5 * equal as f64) / sorted.len() as f64);
    let a = acceleration(&replicates.left_out);
    let end = |p: f64| {
        if !z0.is_finite() {
            return of_sorted(&sorted, p);
        }
        let z = z0 + normal(p);
        let stretch = 1.0 - a * z;
        // Past the pole of the transformation the corrected quantile is the extreme one.
        let corrected = if stretch > 0.0 { normal_cdf(z0 + z / stretch) } else { f64::from(u8::from(z > 0.0)) };
        of_sorted(&sorted, corrected)
    };
    Some(Interval::new(end(ALPHA / 2.0), end(1.0 - ALPHA / 2.0)))
}

/// Skewness of the leave-one-out values, over 6 (Efron 1987, section 6).
fn acceleration(left_out: &[f64]) -> f64 {
    let finite: Vec<f64> = left_out.iter().copied().filter(|v| v.is_finite()).collect();
    let mean = finite.iter().sum::<f64>() / finite.len() as f64;
    let (mut squares, mut cubes) = (0.0, 0.0);
    for v in finite {
        let d = mean - v;
        squares += d * d;
        cubes += d * d * d;
    }
    let a = cubes / (6.0 * squares.powf(1.5));
    if a.is_finite() { a } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighted_mean(values: &[f64], weights: &[f64]) -> f64 {
        values.iter().zip(weights).map(|(v, w)| v * w).sum::<f64>() / weights.iter().sum::<f64>()
    }

    fn exponential(rng: &mut ChaCha8Rng) -> f64 {
        -((f64::from(rng.next_u32()) + 1.0) / (f64::from(u32::MAX) + 2.0)).ln()
    }

    #[test]
    fn the_interval_agrees_with_scipy() {
        // scipy.stats.bootstrap(([...],), np.mean, n_resamples=200000, method="BCa"): [3.85, 11.25] and, under another seed, [3.85, 11.2].
        let values = [1.0, 2.0, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 9.0, 20.0];
        let mean = weighted_mean(&values, &[1.0; 10]);
        let interval = bca(mean, &Resampler::new(10, 3).run(|w| weighted_mean(&values, w))).unwrap();
        assert!((interval.lower - 3.85).abs() < 0.1 && (interval.upper - 11.22).abs() < 0.6, "{interval:?}");
    }

    #[test]
    fn it_covers_the_mean_of_a_skewed_distribution_in_95_of_100_experiments() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let hits = (0..400)
            .filter(|&seed| {
                let values: Vec<f64> = (0..60).map(|_| exponential(&mut rng)).collect();
                let replicates = Resampler::new(60, seed).run(|w| weighted_mean(&values, w));
                bca(weighted_mean(&values, &[1.0; 60]), &replicates).unwrap().contains(1.0)
            })
            .count();
        assert!((364..=392).contains(&hits), "{hits} of 400");
    }

    #[test]
    fn resamples_that_all_agree_have_no_width() {
        let replicates = Resampler::new(30, 0).run(|_| 0.7);
        assert!(bca(0.7, &replicates).unwrap().is_zero_width());
    }

    #[test]
    fn a_statistic_that_is_often_undefined_has_no_interval() {
        let replicates = Resampler::new(20, 0).run(|w| if w[0] == 0.0 { f64::NAN } else { w[0] });
        assert_eq!(bca(1.0, &replicates), None);
    }

    #[test]
    fn an_estimate_outside_all_resamples_falls_back_to_percentiles() {
        let replicates = Resampler::new(20, 0).run(|w| w[0]);
        let interval = bca(-5.0, &replicates).unwrap();
        assert!(interval.lower >= 0.0 && interval.upper > interval.lower);
    }

    #[test]
    fn a_resample_depends_on_seed_and_number_alone() {
        let (mut a, mut b) = (vec![0.0; 50], vec![0.0; 50]);
        Resampler::new(50, 9).weights(17, &mut a);
        Resampler::new(50, 9).weights(17, &mut b);
        assert_eq!(a, b);
        assert_eq!(a.iter().sum::<f64>(), 50.0);
        Resampler::new(50, 9).weights(18, &mut b);
        assert_ne!(a, b);
    }
}
