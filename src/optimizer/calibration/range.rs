//! From what was seen of a tensor to the range that its 256 codes are spread over.

use serde::{Deserialize, Serialize};

use super::Spread;
use super::histogram::Bin;

/// Codes of 8 bits, less one.
const STEPS: f64 = 255.0;

/// How a range was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Method {
    /// All that was seen.
    MinMax,
    /// All but the outermost share of the values.
    Percentile,
    /// The least squared error, all channels alike.
    Mse,
    /// The least Kullback-Leibler divergence of the rounded from the true distribution (Migacz 2017, "8-bit inference with TensorRT").
    Entropy,
}

/// Which methods may be chosen from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Per tensor whichever harms least what reads it, by estimate.
    LeastHarm,
    /// Nothing is clipped.
    Unclipped,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 2] = [Self::LeastHarm, Self::Unclipped];
}

/// A range, zero inside, and what it costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chosen {
    /// How it was found.
    pub method: Method,
    /// Lower end, at most 0.
    pub low: f64,
    /// Upper end, at least 0.
    pub high: f64,
    /// Estimated squared error in what reads the tensor, relative to its energy there.
    pub error: f64,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 4] = [Self::MinMax, Self::Percentile, Self::Mse, Self::Entropy];
}

impl Chosen {
    /// Whether another range is so near that nothing would tell them apart.
    fn is_like(&self, other: &Self) -> bool {
        let near = (self.high - self.low) * LIKE;
        (self.low - other.low).abs() <= near && (self.high - other.high).abs() <= near
    }

    /// Scale and zero point of unsigned 8-bit codes over the range: `value = (code - zero_point) * scale`, 0 is exact.
    pub fn codes(&self) -> (f32, u8) {
        // Scales that are denormal would be flushed to zero by many a runtime.
        let scale = (((self.high - self.low) / STEPS) as f32).max(f32::MIN_POSITIVE);
        let zero = (-self.low / f64::from(scale)).round_ties_even().clamp(0.0, STEPS);
        (scale, zero as u8)
    }
}

/// A share of the width by which ranges that are told apart differ.
const LIKE: f64 = 0.04;

/// Shares of the values that [`Method::Percentile`] cuts off.
const CUTS: [f64; 3] = [1e-3, 1e-4, 1e-5];

/// How far [`Method::Mse`] and [`Method::Entropy`] narrow an end, and in how many steps.
const NARROWEST: f64 = 0.2;
const NARROWINGS: usize = 40;

/// Groups that the values are merged into to see what 256 codes leave of their distribution.
const GROUPS: usize = 128;

impl Spread {
    /// The best range that the policy allows; `None` where there is none (see [`Spread::is_usable`]).
    pub fn range(&self, policy: Policy) -> Option<Chosen> {
        self.ranges(policy).into_iter().next()
    }

    /// Every range that the policy allows, the best first; of those that nearly agree one. None where there is none (see [`Spread::is_usable`]).
    pub fn ranges(&self, policy: Policy) -> Vec<Chosen> {
        let Some(histogram) = self.histogram.as_ref().filter(|_| self.is_usable()) else { return Vec::new() };
        let bins: Vec<Bin> = histogram.bins().collect();
        let energy: f64 = bins.iter().map(|b| b.weight * b.value * b.value).sum();
        let full = (f64::from(self.min).min(0.0), f64::from(self.max).max(0.0));
        let chosen = |method, (low, high): (f64, f64)| {
            let error = bins.iter().map(|b| b.weight * error(b.value, low, high)).sum::<f64>();
            // What only meets weights of zero harms nothing.
            Chosen { method, low, high, error: if energy > 0.0 { error / energy } else { 0.0 } }
        };
        let mut candidates = vec![chosen(Method::MinMax, full)];
        if policy == Policy::LeastHarm {
            candidates
                .extend(CUTS.iter().map(|&cut| chosen(Method::Percentile, percentile(&bins, self.zeros, full, cut))));
            candidates.push(chosen(Method::Mse, least_squares(&bins, full)));
            candidates.push(chosen(Method::Entropy, least_divergence(&bins, full)));
        }
        candidates.retain(|c| c.high > c.low);
        // Stable: the first of equals clips least.
        candidates.sort_by(|a, b| a.error.total_cmp(&b.error));
        candidates.dedup_by(|b, a| a.is_like(b));
        candidates
    }
}

/// Expected squared error of a value under a range: what is clipped, and rounding to the nearest of equally spaced codes (a twelfth of the step squared).
fn error(value: f64, low: f64, high: f64) -> f64 {
    (value - value.clamp(low, high)).powi(2) + rounding(low, high)
}

/// Expected squared error of rounding to the nearest of equally spaced codes.
fn rounding(low: f64, high: f64) -> f64 {
    let step = (high - low) / STEPS;
    step * step / 12.0
}

/// The range without the outermost `cut` of the values, half of it at either end.
fn percentile(bins: &[Bin], zeros: u64, full: (f64, f64), cut: f64) -> (f64, f64) {
    let total = bins.iter().map(|b| b.count).sum::<u64>() + zeros;
    let allowed = total as f64 * cut / 2.0;
    (reach(bins.iter(), allowed).clamp(full.0, 0.0), reach(bins.iter().rev(), allowed).clamp(0.0, full.1))
}

/// The first bin, from one end on, behind which more than `allowed` values lie.
fn reach<'b>(mut bins: impl Iterator<Item = &'b Bin>, allowed: f64) -> f64 {
    let mut left = allowed;
    let beyond = |bin: &&Bin| {
        left -= bin.count as f64;
        left < 0.0
    };
    bins.find(beyond).map_or(0.0, |b| b.value)
}

/// Widths that are tried, as shares of the full one.
fn narrowings() -> impl Iterator<Item = f64> + Clone {
    (0..NARROWINGS).map(|i| 1.0 - (1.0 - NARROWEST) * i as f64 / (NARROWINGS - 1) as f64)
}

fn least_squares(bins: &[Bin], full: (f64, f64)) -> (f64, f64) {
    let count: f64 = bins.iter().map(|b| b.count as f64).sum();
    let total = |(low, high): (f64, f64)| {
        let (first, end) = inside(bins, low, high);
        let clipped = |bins: &[Bin], to: f64| bins.iter().map(|b| b.count as f64 * (b.value - to).powi(2)).sum::<f64>();
        count * rounding(low, high) + clipped(&bins[..first], low) + clipped(&bins[end..], high)
    };
    let least = |tried: &mut dyn Iterator<Item = (f64, f64)>, so_far: (f64, f64)| {
        tried.fold((total(so_far), so_far), |best, range| {
            let sum = total(range);
            if sum < best.0 { (sum, range) } else { best }
        })
    };
    // Both ends together, then each by itself.
    let (_, both) = least(&mut narrowings().map(|n| (full.0 * n, full.1 * n)), full);
    let (_, low) = least(&mut narrowings().map(|n| (full.0 * n, both.1)), both);
    least(&mut narrowings().map(|n| (low.0, full.1 * n)), low).1
}

/// The first bin that is not below `low`, and the first behind it that is above `high`.
fn inside(bins: &[Bin], low: f64, high: f64) -> (usize, usize) {
    (bins.partition_point(|b| b.value < low), bins.partition_point(|b| b.value <= high))
}

fn least_divergence(bins: &[Bin], full: (f64, f64)) -> (f64, f64) {
    let shares = Shares::of(bins);
    let tried = narrowings().map(|n| (full.0 * n, full.1 * n));
    let scored = tried.map(|range| (shares.divergence(range), range));
    scored.reduce(|best, next| if next.0 < best.0 { next } else { best }).map_or(full, |(_, range)| range)
}

/// Shares of all values, bin by bin.
struct Shares<'b> {
    bins: &'b [Bin],
    total: f64,
    /// Sum of `p ln p` over the bins before each one, and over all.
    entropy: Vec<f64>,
}

impl<'b> Shares<'b> {
    fn of(bins: &'b [Bin]) -> Self {
        let total: f64 = bins.iter().map(|b| b.count as f64).sum();
        let mut entropy = vec![0.0];
        entropy.extend(bins.iter().scan(0.0, |sum, bin| {
            *sum += own(bin.count as f64 / total);
            Some(*sum)
        }));
        Self { bins, total, entropy }
    }

    /// Kullback-Leibler divergence of what a range leaves of the distribution from the clipped distribution: values outside go to the ends; inside, those of one
    /// group of neighbours become alike. `sum p ln (p / q)` is `sum p ln p` less `ln q` of each group times its share, so logarithms are of groups, not of bins.
    fn divergence(&self, (low, high): (f64, f64)) -> f64 {
        let (first, end) = inside(self.bins, low, high);
        let inner = &self.bins[first..end.max(first)];
        let Some(last) = inner.len().checked_sub(1) else { return f64::INFINITY };
        let outside = |bins: &[Bin]| bins.iter().map(|b| b.count as f64).sum::<f64>() / self.total;
        let (below, above) = (outside(&self.bins[..first]), outside(&self.bins[end..]));
        let kept = 1.0 - below - above;
        let share = |at: usize| {
            inner[at].count as f64 / self.total
                + if at == 0 { below } else { 0.0 }
                + if at == last { above } else { 0.0 }
        };
        // Of all but the ends, which what is clipped goes to.
        let mut sum = own(share(0));
        if last > 0 {
            sum += self.entropy[end - 1] - self.entropy[first + 1] + own(share(last));
        }
        let per_unit = GROUPS as f64 / (high - low);
        let group = |at: usize| (((inner[at].value - low) * per_unit) as usize).min(GROUPS - 1);
        let mut at = 0;
        while at <= last {
            let (begin, number) = (at, group(at));
            // What of the group lies inside, and what it stands for.
            let (mut own_share, mut clipped) = (0.0, 0.0);
            while at <= last && group(at) == number {
                own_share += inner[at].count as f64 / self.total;
                clipped += share(at);
                at += 1;
            }
            let alike = own_share / (at - begin) as f64 / kept;
            sum -= clipped * alike.ln();
        }
        sum
    }
}

/// `p ln p`.
fn own(share: f64) -> f64 {
    share * share.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::calibration::Channels;

    /// How often the bell is seen for each outlier.
    const TIMES: usize = 100;

    /// A number from 0 to 1 without a pattern (the last step of MurmurHash3).
    fn uniform(i: u32) -> f32 {
        let mut z = i.wrapping_mul(0x9E37_79B9);
        z = (z ^ (z >> 16)).wrapping_mul(0x85EB_CA6B);
        z = (z ^ (z >> 13)).wrapping_mul(0xC2B2_AE35);
        (z ^ (z >> 16)) as f32 / u32::MAX as f32
    }

    /// 6,000 values in the shape of a bell, within about 0.9.
    fn bell() -> Vec<f32> {
        (0..6000).map(|i| (0..4).map(|k| uniform(i * 4 + k) - 0.5).sum::<f32>() * 0.5).collect()
    }

    fn spread(outliers: &[f32]) -> Spread {
        let bell = bell();
        let mut spread = Spread::default();
        let mut add = |values: &[f32]| spread.merge(Spread::of(&[values.len()], values, None, usize::MAX));
        (0..TIMES).for_each(|_| add(&bell));
        add(outliers);
        spread
    }

    /// What rounding really costs, value by value.
    fn measured(outliers: &[f32], chosen: &Chosen) -> f64 {
        let (scale, zero) = chosen.codes();
        let round = |v: f32| {
            let code = ((v / scale).round_ties_even() + f32::from(zero)).clamp(0.0, 255.0);
            (code - f32::from(zero)) * scale
        };
        let sums = |values: &[f32]| {
            let error: f64 = values.iter().map(|&v| f64::from(v - round(v)).powi(2)).sum();
            (error, values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>())
        };
        let (bulk, rare) = (sums(&bell()), sums(outliers));
        (bulk.0 * TIMES as f64 + rare.0) / (bulk.1 * TIMES as f64 + rare.1)
    }

    #[test]
    fn the_estimate_is_what_rounding_costs() {
        for outliers in [&[][..], &[3.0], &[8.0, -5.0]] {
            for policy in [Policy::Unclipped, Policy::LeastHarm] {
                let chosen = spread(outliers).range(policy).unwrap();
                let measured = measured(outliers, &chosen);
                assert!((chosen.error / measured - 1.0).abs() < 0.15, "{policy:?} {chosen:?} measured {measured}");
            }
        }
    }

    #[test]
    fn an_outlier_is_clipped_where_that_costs_less_than_it_saves() {
        let outlier = [4.0];
        let [wide, narrow] = [Policy::Unclipped, Policy::LeastHarm].map(|p| spread(&outlier).range(p).unwrap());
        assert_eq!((wide.method, wide.high), (Method::MinMax, 4.0));
        assert!(narrow.high < 3.0, "{narrow:?}");
        assert!(measured(&outlier, &narrow) < 0.7 * measured(&outlier, &wide), "{narrow:?} {wide:?}");
    }

    #[test]
    fn what_meets_heavy_weights_is_not_clipped() {
        let mut values = bell();
        values.extend([6.0; 60]);
        let mut spread = Spread::default();
        let weights = values.iter().map(|v| if *v == 6.0 { 1e6 } else { 1e-3 }).collect();
        spread.merge(Spread::of(&[1, values.len()], &values, Some(&Channels { last: true, weights }), usize::MAX));
        let chosen = spread.range(Policy::LeastHarm).unwrap();
        assert!(chosen.high > 5.9, "{chosen:?}");
    }

    #[test]
    fn every_range_holds_zero_exactly_even_where_no_value_is_near_it() {
        for values in [&[2.0_f32, 2.5, 3.0][..], &[-7.0, -6.999], &[1e-20, 2e-20], &[5.0, 4.99]] {
            let mut spread = Spread::default();
            spread.merge(Spread::of(&[values.len()], values, None, usize::MAX));
            let chosen = spread.range(Policy::LeastHarm).unwrap();
            let (scale, zero) = chosen.codes();
            assert!(chosen.low <= 0.0 && chosen.high >= 0.0 && scale >= f32::MIN_POSITIVE, "{chosen:?}");
            let end = (if values[0] < 0.0 { 0.0 - f32::from(zero) } else { 255.0 - f32::from(zero) }) * scale;
            assert!(values.iter().all(|v| v.abs() <= end.abs() * 1.01), "{values:?} {chosen:?}");
        }
    }

    #[test]
    fn the_narrower_methods_stay_within_what_was_seen() {
        let mut values = bell();
        values.extend([4.0, -2.0]);
        let mut spread = Spread::default();
        spread.merge(Spread::of(&[values.len()], &values, None, usize::MAX));
        let bins: Vec<Bin> = spread.histogram.as_ref().unwrap().bins().collect();
        let full = (-2.0, 4.0);
        for (low, high) in [percentile(&bins, 0, full, 1e-3), least_squares(&bins, full), least_divergence(&bins, full)]
        {
            assert!(low >= full.0 && high <= full.1 && low < -0.3 && high > 0.3, "{low} {high}");
        }
        assert!(percentile(&bins, 0, full, 1e-3).1 < 2.0);
    }

    /// As the definition has it, bin by bin.
    fn divergence_by_bins(bins: &[Bin], (low, high): (f64, f64)) -> f64 {
        let inner: Vec<&Bin> = bins.iter().filter(|b| b.value >= low && b.value <= high).collect();
        let total: f64 = bins.iter().map(|b| b.count as f64).sum();
        let per_unit = GROUPS as f64 / (high - low);
        let group = |bin: &Bin| (((bin.value - low) * per_unit) as usize).min(GROUPS - 1);
        let kept: f64 = inner.iter().map(|b| b.count as f64).sum();
        let mut p: Vec<f64> = inner.iter().map(|b| b.count as f64 / total).collect();
        for bin in bins.iter().filter(|b| b.value < low) {
            p[0] += bin.count as f64 / total;
        }
        for bin in bins.iter().filter(|b| b.value > high) {
            *p.last_mut().unwrap() += bin.count as f64 / total;
        }
        let q = |bin: &Bin| {
            let alike: Vec<f64> = inner.iter().filter(|b| group(b) == group(bin)).map(|b| b.count as f64).collect();
            alike.iter().sum::<f64>() / alike.len() as f64 / kept
        };
        inner.iter().zip(&p).map(|(bin, p)| p * (p / q(bin)).ln()).sum()
    }

    #[test]
    fn divergence_and_squares_by_groups_are_those_by_bins() {
        for seed in 1..6 {
            let values: Vec<f32> = (0..9000).map(|i| ((i * seed) as f32 * 0.37).sin().powi(3) * 2.0 - 0.5).collect();
            let spread = Spread::of(&[values.len()], &values, None, usize::MAX);
            let bins: Vec<Bin> = spread.histogram.as_ref().unwrap().bins().collect();
            let full = (f64::from(spread.min), f64::from(spread.max));
            for (low, high) in [(1.0, 1.0), (0.5, 0.9), (0.2, 0.2), (1.0, 0.01), (0.9, 1.0)] {
                let range = (full.0 * low, full.1 * high);
                let (found, expected) = (Shares::of(&bins).divergence(range), divergence_by_bins(&bins, range));
                assert!((found - expected).abs() < 1e-9, "{seed} {range:?}: {found} {expected}");
            }
            assert_eq!(Shares::of(&bins).divergence((full.1 * 1.5, full.1 * 2.0)), f64::INFINITY);
            let squares =
                |range: (f64, f64)| bins.iter().map(|b| b.count as f64 * error(b.value, range.0, range.1)).sum::<f64>();
            let best = squares(least_squares(&bins, full));
            assert!(narrowings().all(|n| squares((full.0 * n, full.1 * n)) >= best * (1.0 - 1e-12)));
        }
    }
}
