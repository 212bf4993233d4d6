//! Distribution similarity: how far each output channel's values moved, in units of the baseline's own spread.
//!
//! `1 - sum_c W1(a_c, b_c) / sum_c E|a_c - mean a_c|` with W1 the 1-Wasserstein distance, which for as many values on both sides is the mean distance of
//! the sorted values (Villani 2003, "Topics in optimal transportation", section 2.2). 0 when every sample gets the baseline's mean.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::figure::{Concern, Figure};
use super::retention::Effort;
use super::stats::jackknife::GROUPS;
use super::stats::{Groups, Interval, complement, group_jackknife};
use super::values::{Axis, Health, Pairs, default_class_axis, probability_axis};

/// The largest number of channels, those of largest spread.
pub const MAX_CHANNELS: usize = 4096;

/// Values of one output that are sorted at most; where there are more, positions at even steps of them are taken, and the figure says so.
const MAX_VALUES: usize = 1 << 24;

/// Channels listed as the worst.
const WORST: usize = 5;

/// Bins of the histograms behind the Jensen-Shannon divergence.
const BINS: usize = 64;

/// Similarity of one output, and figures beside it that are not gated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OutputDistribution {
    /// The output.
    pub output: String,
    /// Whether it counts for the gate.
    pub gated: bool,
    /// 1 - sum of distances / sum of spreads.
    pub figure: Figure,
    /// Channels measured.
    pub channels: usize,
    /// The channels that moved furthest for their spread.
    pub worst: Vec<Channel>,
    /// Mean over channels of the Jensen-Shannon divergence in bits, 64 bins: 0 equal, 1 disjoint.
    pub jensen_shannon: f64,
    /// Mean over channels of the Kolmogorov-Smirnov distance.
    pub kolmogorov_smirnov: f64,
}

/// One channel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Channel {
    /// Its number along the channel axis.
    pub channel: usize,
    /// W1 between baked and baseline values.
    pub distance: f64,
    /// The baseline's mean absolute deviation.
    pub spread: f64,
    /// Jensen-Shannon divergence in bits.
    pub jensen_shannon: f64,
    /// Kolmogorov-Smirnov distance.
    pub kolmogorov_smirnov: f64,
}

/// Similarity of every output; the figure is the lowest over those that `gated` marks.
pub(super) fn similarity(outputs: &[Pairs], gated: &[bool], effort: Effort) -> (Figure, Vec<OutputDistribution>) {
    let details: Vec<OutputDistribution> =
        outputs.iter().zip(gated).map(|(pairs, &gated)| output(pairs, gated, effort)).collect();
    let counted: Vec<Figure> = details.iter().filter(|d| d.gated).map(|d| d.figure.clone()).collect();
    (Figure::lowest(&counted).unwrap_or_default(), details)
}

fn output(pairs: &Pairs, gated: bool, effort: Effort) -> OutputDistribution {
    let method = if effort.intervals { format!("delete-group jackknife, {GROUPS} groups") } else { String::new() };
    let n = pairs.len();
    let concern = match &pairs.health {
        Health::BakedNotFinite(what) => Some(Concern::NotFinite(what.clone())),
        Health::BaselineNotFinite(what) => Some(Concern::BaselineNotFinite(what.clone())),
        Health::Sound => None,
    };
    let plain = |defect: f64, interval: Option<Interval>| Figure {
        identical: pairs.identical,
        concern: concern.clone(),
        ..Figure::new(complement(defect), interval.map(Interval::of_complement), n, &method)
    };
    let mut result = OutputDistribution {
        output: pairs.name.to_owned(),
        gated,
        figure: Figure::default(),
        channels: 0,
        worst: Vec::new(),
        jensen_shannon: 0.0,
        kolmogorov_smirnov: 0.0,
    };
    if concern.is_some() {
        result.figure = plain(1.0, None);
        return result;
    }
    let columns = Columns::new(pairs);
    let groups = Groups::new(n, effort.seed);
    let measured: Vec<(Channel, [Part; GROUPS + 1])> =
        columns.largest().into_par_iter().map(|c| columns.measure(c, &groups, effort.intervals)).collect();
    result.channels = measured.len();
    let share = |skip: usize| {
        let kept = (0..n).filter(|&i| skip == GROUPS || groups.of(i) != skip);
        let (matched, all) = kept.fold((0.0, 0.0), |(m, a), i| (m + f64::from(u8::from(pairs.matched[i])), a + 1.0));
        matched / all
    };
    let defect = |which: usize| {
        let (distance, spread) =
            measured.iter().fold((0.0, 0.0), |(d, s), (_, parts)| (d + parts[which].distance, s + parts[which].spread));
        // A baseline without spread has no unit to measure in: equal or not.
        let defect = if distance == 0.0 {
            0.0
        } else if spread > 0.0 {
            distance / spread
        } else {
            1.0
        };
        1.0 - share(which) + share(which) * defect
    };
    let estimate = defect(GROUPS);
    let interval = (effort.intervals && n >= GROUPS)
        .then(|| group_jackknife(estimate, &(0..GROUPS).map(defect).collect::<Vec<_>>()))
        .flatten();
    result.figure = plain(estimate, interval.map(|i| Interval { lower: i.lower.max(0.0), upper: i.upper }));
    if columns.step > 1 {
        result.figure.notes.push(format!("one of every {} positions was measured", columns.step));
    }
    let mut channels: Vec<Channel> = measured.into_iter().map(|(c, _)| c).collect();
    let mean = |of: fn(&Channel) -> f64| channels.iter().map(of).sum::<f64>() / channels.len().max(1) as f64;
    (result.jensen_shannon, result.kolmogorov_smirnov) = (mean(|c| c.jensen_shannon), mean(|c| c.kolmogorov_smirnov));
    let moved = |c: &Channel| c.distance / c.spread.max(f64::MIN_POSITIVE);
    channels.sort_by(|a, b| moved(b).total_cmp(&moved(a)).then(a.channel.cmp(&b.channel)));
    channels.truncate(WORST);
    result.worst = channels;
    result
}

/// W1 and spread of one channel over some samples.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    distance: f64,
    spread: f64,
}

/// An output's values by channel.
struct Columns<'p, 'a> {
    pairs: &'p Pairs<'a>,
    axes: Vec<Axis>,
    channels: usize,
    /// Positions taken: every `step`th.
    step: usize,
    /// The baseline's mean over samples of each element, for outputs of one shape.
    means: Option<Vec<f64>>,
}

impl<'p, 'a> Columns<'p, 'a> {
    fn new(pairs: &'p Pairs<'a>) -> Self {
        let at = probability_axis(pairs);
        let mut axes: Vec<Axis> =
            pairs.shapes.iter().map(|s| Axis::new(s, at.unwrap_or_else(|| default_class_axis(s.len())))).collect();
        if axes.windows(2).any(|w| w[0].classes != w[1].classes) {
            axes = pairs.shapes.iter().map(|s| Axis { outer: s.iter().product(), classes: 1, inner: 1 }).collect();
        }
        let values: usize = pairs.a.iter().map(super::values::Values::len).sum();
        let means = pairs.fixed.then(|| {
            let mut means = vec![0.0; pairs.a.first().map_or(0, super::values::Values::len)];
            let mut count = 0.0;
            for (a, _) in pairs.a.iter().zip(&pairs.matched).filter(|(_, m)| **m) {
                count += 1.0;
                for (mean, v) in means.iter_mut().zip(a.iter()) {
                    *mean += v;
                }
            }
            for mean in &mut means {
                *mean /= f64::max(count, 1.0);
            }
            means
        });
        Self {
            pairs,
            channels: axes.first().map_or(0, |a| a.classes),
            axes,
            step: values.div_ceil(MAX_VALUES).max(1),
            means,
        }
    }

    /// The channels of largest spread, at most [`MAX_CHANNELS`], ascending.
    fn largest(&self) -> Vec<usize> {
        let mut channels: Vec<usize> = (0..self.channels).collect();
        if self.channels > MAX_CHANNELS {
            let spreads: Vec<f64> =
                channels.par_iter().map(|&c| spread(self.values(c, false).iter().map(|v| v.0))).collect();
            channels.sort_by(|&a, &b| spreads[b].total_cmp(&spreads[a]).then(a.cmp(&b)));
            channels.truncate(MAX_CHANNELS);
            channels.sort_unstable();
        }
        channels
    }

    /// (value, sample) of a channel on one side.
    fn values(&self, channel: usize, baked: bool) -> Vec<(f64, u32)> {
        let mut values = Vec::new();
        for i in (0..self.pairs.len()).filter(|&i| self.pairs.matched[i]) {
            let (side, axis) = (if baked { &self.pairs.b[i] } else { &self.pairs.a[i] }, self.axes[i]);
            for p in (0..axis.positions()).step_by(self.step) {
                let at = axis.index(p, channel);
                values.push((side.get(at) - self.means.as_ref().map_or(0.0, |m| m[at]), i as u32));
            }
        }
        values
    }

    /// One channel: with all samples (the last part) and without each group.
    fn measure(&self, channel: usize, groups: &Groups, jackknife: bool) -> (Channel, [Part; GROUPS + 1]) {
        let sorted = |baked| {
            let mut values = self.values(channel, baked);
            values.sort_unstable_by(|x, y| x.0.total_cmp(&y.0));
            let values: Vec<(f64, u8)> = values.into_iter().map(|(v, i)| (v, groups.of(i as usize) as u8)).collect();
            values
        };
        let (a, b) = (sorted(false), sorted(true));
        let mut parts = [Part::default(); GROUPS + 1];
        // The positions' means are those of all samples throughout: they shift both sides alike, and W1 does not see that.
        for (skip, part) in parts.iter_mut().enumerate().filter(|(skip, _)| jackknife || *skip == GROUPS) {
            fn kept(side: &[(f64, u8)], skip: usize) -> impl Iterator<Item = f64> + Clone + '_ {
                side.iter().filter(move |v| usize::from(v.1) != skip).map(|v| v.0)
            }
            let (mut distance, mut count) = (0.0, 0.0);
            for (x, y) in kept(&a, skip).zip(kept(&b, skip)) {
                distance += (x - y).abs();
                count += 1.0;
            }
            *part = Part { distance: distance / f64::max(count, 1.0), spread: spread(kept(&a, skip)) };
        }
        let whole = parts[GROUPS];
        let only = |side: &[(f64, u8)]| -> Vec<f64> { side.iter().map(|v| v.0).collect() };
        let (a, b) = (only(&a), only(&b));
        let channel = Channel {
            channel,
            distance: whole.distance,
            spread: whole.spread,
            jensen_shannon: jensen_shannon(&a, &b),
            kolmogorov_smirnov: kolmogorov_smirnov(&a, &b),
        };
        (channel, parts)
    }
}

/// E|x - mean x|.
fn spread(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let (sum, count) = values.clone().fold((0.0, 0.0_f64), |(s, c), v| (s + v, c + 1.0));
    let mean = sum / count.max(1.0);
    values.map(|v| (v - mean).abs()).sum::<f64>() / count.max(1.0)
}

/// Largest distance of the distribution functions of two ascending samples.
fn kolmogorov_smirnov(a: &[f64], b: &[f64]) -> f64 {
    let (mut i, mut j, mut largest) = (0, 0, 0.0_f64);
    while i < a.len() && j < b.len() {
        let at = a[i].min(b[j]);
        while i < a.len() && a[i] <= at {
            i += 1;
        }
        while j < b.len() && b[j] <= at {
            j += 1;
        }
        largest = largest.max((i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs());
    }
    largest
}

/// Jensen-Shannon divergence in bits of the histograms of two ascending samples over their common range.
fn jensen_shannon(a: &[f64], b: &[f64]) -> f64 {
    let (Some(low), Some(high)) =
        (a.first().zip(b.first()).map(|(x, y)| x.min(*y)), a.last().zip(b.last()).map(|(x, y)| x.max(*y)))
    else {
        return 0.0;
    };
    if low == high {
        return 0.0;
    }
    let histogram = |side: &[f64]| {
        let mut bins = [0.0; BINS];
        for v in side {
            bins[(((v - low) / (high - low) * BINS as f64) as usize).min(BINS - 1)] += 1.0 / side.len() as f64;
        }
        bins
    };
    let term = |p: f64, m: f64| if p > 0.0 { 0.5 * p * (p / m).log2() } else { 0.0 };
    histogram(a)
        .iter()
        .zip(histogram(b))
        .map(|(&p, q)| term(p, f64::midpoint(p, q)) + term(q, f64::midpoint(p, q)))
        .sum::<f64>()
        .clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::model::Tensor;
    use crate::quality::moments::tests::noise;

    const EFFORT: Effort = Effort { seed: 1, intervals: true };

    fn of(a: &[Tensor], b: &[Tensor]) -> (Figure, OutputDistribution) {
        let (figure, mut details) = similarity(&[Pairs::new("y", a, b).unwrap()], &[true], EFFORT);
        (figure, details.remove(0))
    }

    fn rows(n: usize, shape: &[usize], seed: u64) -> Vec<Tensor> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n)
            .map(|_| Tensor::new(shape, &(0..shape.iter().product()).map(|_| noise(&mut rng)).collect::<Vec<_>>()))
            .collect()
    }

    fn map(rows: &[Tensor], f: impl Fn(usize, f32) -> f32) -> Vec<Tensor> {
        rows.iter()
            .map(|t| Tensor::new(t.shape(), &t.to_f32().iter().enumerate().map(|(k, &x)| f(k, x)).collect::<Vec<_>>()))
            .collect()
    }

    #[test]
    fn it_is_that_of_scipy() {
        // wasserstein_distance([1,2,4,9], [2,2,5,8]) = 0.75; mean absolute deviation of the first = 2.5.
        let t = |v: [f32; 4]| v.iter().map(|&x| Tensor::new(&[1, 1], &[x])).collect::<Vec<_>>();
        let (figure, details) = of(&t([9.0, 1.0, 4.0, 2.0]), &t([5.0, 8.0, 2.0, 2.0]));
        assert!((figure.estimate.unwrap() - 0.7).abs() < 1e-12, "{figure:?}");
        assert_eq!(details.kolmogorov_smirnov, 0.25);
    }

    #[test]
    fn it_is_one_when_equal_and_zero_for_the_baselines_mean() {
        for shape in [vec![1, 4], vec![1, 3, 2, 2], vec![4]] {
            let a = rows(60, &shape, 1);
            let (figure, _) = of(&a, &a);
            assert_eq!((figure.estimate, figure.lower, figure.identical), (Some(1.0), Some(1.0), true));
            let len = a[0].len();
            let mean: Vec<f32> =
                (0..len).map(|k| (a.iter().map(|t| f64::from(t.to_f32()[k])).sum::<f64>() / 60.0) as f32).collect();
            let constant = vec![Tensor::new(&shape, &mean); 60];
            let (figure, _) = of(&a, &constant);
            assert!(figure.estimate.unwrap().abs() < 1e-2, "{figure:?} of {shape:?}");
        }
    }

    #[test]
    fn a_shift_costs_its_size_in_units_of_the_spread_and_the_channel_is_named() {
        let a = rows(100, &[1, 3], 2);
        let (figure, details) = of(&a, &map(&a, |k, x| if k == 1 { x + 0.1 } else { x }));
        assert_eq!(details.worst[0].channel, 1);
        assert!((details.worst[0].distance - 0.1).abs() < 1e-6);
        let spreads: f64 = details.worst.iter().map(|c| c.spread).sum();
        assert!((figure.estimate.unwrap() - (1.0 - 0.1 / spreads)).abs() < 1e-6);
        assert!(figure.interval().unwrap().contains(figure.estimate.unwrap()));
    }

    #[test]
    fn the_channel_of_a_map_is_its_class_axis_and_positions_are_centred_first() {
        // Positions differ by a lot, which is no spread of the model; b is a with every sample's deviation halved.
        let a = map(&rows(80, &[1, 2, 3, 3], 3), |k, x| x + 100.0 * k as f32);
        let b = map(&a, |k, x| 100.0 * k as f32 + 0.5 * (x - 100.0 * k as f32));
        let (figure, details) = of(&a, &b);
        assert_eq!(details.channels, 2);
        assert!((figure.estimate.unwrap() - 0.5).abs() < 0.05, "{figure:?}");
    }

    #[test]
    fn the_jackknife_without_a_group_is_the_statistic_of_the_rest() {
        let a = rows(50, &[1, 2], 4);
        let b = map(&a, |k, x| 0.8 * x + 0.1 * k as f32);
        let groups = Groups::new(50, EFFORT.seed);
        let pick = |side: &[Tensor]| {
            side.iter().enumerate().filter(|(i, _)| groups.of(*i) != 6).map(|(_, t)| t.clone()).collect::<Vec<_>>()
        };
        let pairs = Pairs::new("y", &a, &b).unwrap();
        let columns = Columns::new(&pairs);
        let parts: Vec<Part> = columns.largest().into_iter().map(|c| columns.measure(c, &groups, true).1[6]).collect();
        let whole = 1.0 - parts.iter().map(|p| p.distance).sum::<f64>() / parts.iter().map(|p| p.spread).sum::<f64>();
        let (direct, _) = of(&pick(&a), &pick(&b));
        assert!((whole - direct.estimate.unwrap()).abs() < 1e-9);
    }

    #[test]
    fn the_interval_covers_the_truth_in_95_of_100_experiments() {
        // b = 0.8 a + 0.05 keeps the order, so W1 is E|0.2 a - 0.05|; both expectations from many draws.
        let mut rng = ChaCha8Rng::seed_from_u64(77);
        let (distance, spread) = (0..200_000)
            .map(|_| f64::from(noise(&mut rng)))
            .fold((0.0, 0.0), |(d, s), x| (d + (0.2 * x - 0.05).abs(), s + x.abs()));
        let truth = 1.0 - distance / spread;
        let hits = (0..400)
            .filter(|&seed| {
                let a = rows(100, &[1, 1], seed);
                of(&a, &map(&a, |_, x| 0.8 * x + 0.05)).0.interval().unwrap().contains(truth)
            })
            .count();
        assert!((366..=396).contains(&hits), "{hits} of 400");
    }

    #[test]
    fn samples_of_another_shape_count_as_zero_and_lengths_may_vary() {
        let a = rows(40, &[1, 4], 1);
        let mut b = a.clone();
        for t in &mut b[..10] {
            *t = t.reshaped(vec![4]).unwrap();
        }
        assert!((of(&a, &b).0.estimate.unwrap() - 0.75).abs() < 1e-12);
        let sequences: Vec<Tensor> = (0..40).map(|i| rows(1, &[1, 1 + i % 4, 3], i as u64).remove(0)).collect();
        let (figure, details) = of(&sequences, &map(&sequences, |_, x| x + 0.01));
        assert_eq!(details.channels, 3);
        assert!(figure.lower.unwrap() > 0.9, "{figure:?}");
    }

    #[test]
    fn only_the_channels_of_largest_spread_count_when_there_are_very_many() {
        let a: Vec<Tensor> =
            (0..20).map(|i| Tensor::new(&[1, 5000], &(0..5000).map(|k| (i * k) as f32).collect::<Vec<_>>())).collect();
        let b = map(&a, |k, x| if k < 800 { x + 1e6 } else { x });
        let (figure, details) = of(&a, &b);
        assert_eq!((details.channels, figure.estimate), (MAX_CHANNELS, Some(1.0)));
        assert!(!figure.identical);
    }

    #[test]
    fn jensen_shannon_is_one_bit_for_disjoint_samples_and_none_for_equal_ones() {
        assert!((jensen_shannon(&[0.0, 0.1], &[5.0, 6.0]) - 1.0).abs() < 1e-12);
        assert_eq!(jensen_shannon(&[0.0, 0.1], &[0.0, 0.1]), 0.0);
        assert_eq!(kolmogorov_smirnov(&[0.0, 0.1], &[5.0, 6.0]), 1.0);
    }
}
