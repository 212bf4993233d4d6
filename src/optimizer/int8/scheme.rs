//! Symmetric 8-bit quantisation per channel: a weight `w` is stored as the integer `q = round(w / scale)`, and `q * scale` stands for it.
//!
//! Every result is the same on every machine: channels are independent, each is summed in its own order, and IEEE division and addition are exact rules.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::model::{DType, Tensor};

/// How the range of a channel is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Range {
    /// The largest magnitude is the last code: no weight is clipped, none is off by more than half a scale.
    #[default]
    MaxAbs,
    /// The clip, out of 20 from the largest magnitude down to 0.62 of it, with the least squared error.
    Mse,
}

/// Ratios that [`Range::Mse`] tries, and the step between them.
const MSE_STEPS: usize = 20;
const MSE_STEP: f32 = 0.02;

/// Adding and subtracting this rounds a float below 2^22 to the nearest integer, ties to even, without a call to the maths library.
const ROUND: f32 = 12_582_912.0;

/// Channels gathered together when they are columns, so that a cache line is read once.
const TILE: usize = 16;

/// How the elements of a row-major tensor fall into channels: element `((block * outer + o) * channels + c) * inner + i` belongs to channel `block * channels + c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    blocks: usize,
    outer: usize,
    channels: usize,
    inner: usize,
}

impl Layout {
    /// One channel for each index along `axes`. `None` when the axes are not some leading axes followed by one run of neighbours, or are out of range.
    pub fn new(shape: &[usize], axes: &[usize]) -> Option<Self> {
        if axes.windows(2).any(|w| w[0] >= w[1]) || axes.last().is_some_and(|&a| a >= shape.len()) {
            return None;
        }
        let product = |range: std::ops::Range<usize>| shape[range].iter().product::<usize>();
        let prefix = axes.iter().enumerate().take_while(|&(i, &a)| i == a).count();
        let Some(&start) = axes.get(prefix) else {
            return Some(Self {
                blocks: 1,
                outer: 1,
                channels: product(0..prefix),
                inner: product(prefix..shape.len()),
            });
        };
        let end = start + axes.len() - prefix;
        (axes[axes.len() - 1] + 1 == end).then(|| Self {
            blocks: product(0..prefix),
            outer: product(prefix..start),
            channels: product(start..end),
            inner: product(end..shape.len()),
        })
    }

    /// Number of channels.
    pub fn count(self) -> usize {
        self.blocks * self.channels
    }

    /// `f` of every channel's elements, in the channels' order.
    fn map<R: Send>(self, values: &[f32], f: impl Fn(&[f32]) -> R + Sync) -> Vec<R> {
        let Self { outer, channels, inner, .. } = self;
        if self.count() == 0 {
            return Vec::new();
        }
        if outer == 1 {
            // Each channel lies in one piece; an empty one is still a channel.
            return (0..self.count()).into_par_iter().map(|c| f(&values[c * inner..(c + 1) * inner])).collect();
        }
        let tiles = channels.div_ceil(TILE);
        let tile = |t: usize| {
            let (block, first) = (t / tiles, t % tiles * TILE);
            let width = TILE.min(channels - first);
            let mut columns = vec![Vec::with_capacity(outer * inner); width];
            for o in 0..outer {
                let row = &values[((block * outer + o) * channels + first) * inner..][..width * inner];
                if inner == 1 {
                    columns.iter_mut().zip(row).for_each(|(column, &v)| column.push(v));
                } else {
                    columns
                        .iter_mut()
                        .zip(row.chunks_exact(inner))
                        .for_each(|(column, run)| column.extend_from_slice(run));
                }
            }
            columns.iter().map(|column| f(column)).collect::<Vec<R>>()
        };
        (0..self.blocks * tiles).into_par_iter().flat_map_iter(tile).collect()
    }
}

/// Unsigned 8-bit codes of an activation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Codes {
    /// Value of one step.
    pub(super) scale: f32,
    /// The code of 0, a whole number.
    pub(super) zero: f32,
}

/// The largest of them.
const LAST_CODE: f32 = 255.0;

impl Codes {
    /// As `DynamicQuantizeLinear` chooses them for values from `low` to `high`, 0 between.
    pub(super) fn over(low: f32, high: f32) -> Self {
        let scale = ((high - low) / LAST_CODE).max(f32::MIN_POSITIVE);
        Self { scale, zero: (-low / scale).round_ties_even() }
    }

    /// The code of a value, less the code of 0.
    pub(super) fn centred(self, value: f32) -> f32 {
        ((value / self.scale).round_ties_even() + self.zero).clamp(0.0, LAST_CODE) - self.zero
    }

    /// What is left of a value.
    pub(super) fn restored(self, value: f32) -> f32 {
        self.centred(value) * self.scale
    }
}

/// Codes and scales of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantised {
    /// One code per element, in the tensor's order.
    pub codes: Vec<i8>,
    /// One scale per channel.
    pub scales: Vec<f32>,
}

/// Quantises to codes from `-limit` to `limit` (at most 127). `None` when an element is infinite or no number: then the tensor stays float.
pub fn quantise(values: &[f32], layout: Layout, limit: u8, range: Range) -> Option<Quantised> {
    let limit = f32::from(limit.min(127));
    let scales =
        layout.map(values, |channel| scale(channel, limit, range)).into_iter().collect::<Option<Vec<f32>>>()?;
    let mut codes = vec![0_i8; values.len()];
    let Layout { outer, channels, inner, .. } = layout;
    if inner == 1 {
        codes.par_chunks_mut(channels.max(1)).zip(values.par_chunks(channels.max(1))).enumerate().for_each(
            |(row, (codes, values))| {
                let scales = &scales[row / outer * channels..][..channels];
                codes.iter_mut().zip(values).zip(scales).for_each(|((q, &v), &s)| *q = code(v, s, limit) as i8);
            },
        );
    } else {
        codes.par_chunks_mut(inner.max(1)).zip(values.par_chunks(inner.max(1))).enumerate().for_each(
            |(run, (codes, values))| {
                let s = scales[run / (outer * channels) * channels + run % channels];
                codes.iter_mut().zip(values).for_each(|(q, &v)| *q = code(v, s, limit) as i8);
            },
        );
    }
    Some(Quantised { codes, scales })
}

/// Relative RMS error that 8-bit weights would have: sqrt(sum (q * scale - w)^2 / sum w^2). An estimate of harm that needs no run, good for ordering.
/// Infinite when the tensor cannot be quantised this way; 0 when it is all zero.
pub fn weight_error(weight: &Tensor, axes: &[usize], limit: u8, range: Range) -> f64 {
    let (Some(layout), DType::F32) = (Layout::new(weight.shape(), axes), weight.dtype()) else {
        return f64::INFINITY;
    };
    let limit = f32::from(limit.min(127));
    let sums = layout.map(&weight.to_f32(), |channel| {
        let energy: f64 = channel.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        scale(channel, limit, range).map(|s| (squared_error(channel, s, limit), energy))
    });
    let Some(sums) = sums.into_iter().collect::<Option<Vec<_>>>() else {
        return f64::INFINITY;
    };
    let (error, energy) = sums.into_iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
    if energy > 0.0 { (error / energy).sqrt() } else { 0.0 }
}

/// The integer that stands for `value`, as a float. `scale` is such that the quotient is far below 2^22.
fn code(value: f32, scale: f32, limit: f32) -> f32 {
    ((value / scale + ROUND) - ROUND).clamp(-limit, limit)
}

fn squared_error(channel: &[f32], scale: f32, limit: f32) -> f64 {
    channel.iter().map(|&v| f64::from(code(v, scale, limit) * scale - v).powi(2)).sum()
}

/// The scale of one channel. A channel of zeros, or of values so small that the scale would be denormal (which many runtimes flush to zero), gets 1 and codes 0.
fn scale(channel: &[f32], limit: f32, range: Range) -> Option<f32> {
    // The bits of magnitudes order like the magnitudes, infinities and NaN above all.
    let max = f32::from_bits(channel.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff)));
    if !max.is_finite() {
        return None;
    }
    let full = max / limit;
    if full < f32::MIN_POSITIVE {
        return Some(1.0);
    }
    if range == Range::MaxAbs {
        return Some(full);
    }
    let clips = (0..MSE_STEPS).map(|step| max * (1.0 - MSE_STEP * step as f32) / limit);
    let tried = clips.filter(|s| *s >= f32::MIN_POSITIVE).map(|s| (squared_error(channel, s, limit), s));
    // The first of equals is the widest range.
    tried.reduce(|best, next| if next.0 < best.0 { next } else { best }).map(|(_, s)| s)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013 * (1.0 + (i % 7) as f32)).collect()
    }

    /// The channel of every element, the slow way.
    fn channel_of(shape: &[usize], axes: &[usize], mut flat: usize) -> usize {
        let mut index = vec![0; shape.len()];
        for axis in (0..shape.len()).rev() {
            index[axis] = flat % shape[axis];
            flat /= shape[axis];
        }
        axes.iter().fold(0, |c, &a| c * shape[a] + index[a])
    }

    #[test]
    fn no_weight_is_off_by_more_than_half_its_channels_scale() {
        let cases: [(&[usize], &[usize]); 9] = [
            (&[6, 5], &[1]),
            (&[6, 5], &[0]),
            (&[33, 35], &[1]),
            (&[4, 3, 2, 2], &[0]),
            (&[4, 3, 2, 2], &[1]),
            (&[2, 6, 5], &[0, 1]),
            (&[2, 6, 5], &[0, 2]),
            (&[2, 3, 4, 5], &[0, 2, 3]),
            (&[7, 3], &[]),
        ];
        for (shape, axes) in cases {
            let values = wave(shape.iter().product());
            let layout = Layout::new(shape, axes).unwrap();
            let q = quantise(&values, layout, 127, Range::MaxAbs).unwrap();
            assert_eq!(q.scales.len(), axes.iter().map(|&a| shape[a]).product::<usize>(), "{shape:?} {axes:?}");
            let mut reached = vec![false; q.scales.len()];
            for (i, (&v, &c)) in values.iter().zip(&q.codes).enumerate() {
                let channel = channel_of(shape, axes, i);
                let s = q.scales[channel];
                assert!((f32::from(c) * s - v).abs() <= s * 0.500_01, "{shape:?} {axes:?} element {i}");
                reached[channel] |= c.unsigned_abs() == 127;
            }
            assert!(reached.iter().all(|r| *r), "each channel uses its whole range: {shape:?} {axes:?}");
        }
    }

    #[test]
    fn axes_that_are_no_run_have_no_layout() {
        for axes in [&[1, 3][..], &[3, 1], &[1, 1], &[4]] {
            assert_eq!(Layout::new(&[2, 3, 4, 5], axes), None, "{axes:?}");
        }
    }

    #[test]
    fn zero_and_denormal_channels_get_scale_one_and_codes_zero() {
        let values = [0.0, 0.0, 1e-39, -1e-40, 2.0, -1.0];
        let q = quantise(&values, Layout::new(&[3, 2], &[0]).unwrap(), 127, Range::Mse).unwrap();
        assert_eq!((&q.scales[..2], &q.codes[..4]), (&[1.0, 1.0][..], &[0, 0, 0, 0][..]));
        assert_eq!(q.codes[4], 127);
    }

    #[test]
    fn a_tensor_with_nan_or_infinity_is_refused() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let layout = Layout::new(&[2, 2], &[0]).unwrap();
            assert_eq!(quantise(&[1.0, 2.0, bad, 3.0], layout, 127, Range::MaxAbs), None);
            assert_eq!(
                weight_error(&Tensor::new(&[2, 2], &[1.0, 2.0, bad, 3.0]), &[0], 127, Range::MaxAbs),
                f64::INFINITY
            );
        }
    }

    #[test]
    fn the_searched_range_is_never_worse_and_clips_an_outlier() {
        let mut values = wave(4096);
        values.iter_mut().for_each(|v| *v *= 0.1);
        values[17] = 4.0;
        let tensor = Tensor::new(&[1, 4096], &values);
        let [wide, narrow] = [Range::MaxAbs, Range::Mse].map(|r| weight_error(&tensor, &[0], 127, r));
        assert!(narrow < wide, "{narrow} {wide}");
    }

    #[test]
    fn fewer_codes_mean_more_error() {
        let tensor = Tensor::new(&[64, 64], &wave(4096));
        let [full, reduced] = [127, 64].map(|limit| weight_error(&tensor, &[1], limit, Range::MaxAbs));
        assert!(full > 0.0 && full < 0.01 && reduced > 1.5 * full, "{full} {reduced}");
    }

    #[test]
    fn halves_round_to_even() {
        assert_eq!([0.5, 1.5, 2.5, -0.5, -1.5].map(|v| code(v, 1.0, 127.0)), [0.0, 2.0, 2.0, 0.0, -2.0]);
    }

    #[test]
    fn an_empty_tensor_has_no_codes() {
        let q = quantise(&[], Layout::new(&[0, 4], &[1]).unwrap(), 127, Range::MaxAbs).unwrap();
        assert_eq!((q.codes.len(), q.scales.len()), (0, 4));
    }
}
