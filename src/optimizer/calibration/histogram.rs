//! A histogram that grows with what it sees: 2,048 bins whose width is a power of two, so that widening it merges whole bins and loses nothing but resolution.

use pulp::{Arch, NullaryFnOnce};
use serde::{Deserialize, Serialize};

/// Number of bins. From half of them on are in use.
pub const BINS: usize = 2048;

/// Values whose bins are found side by side, so that the processor does so at once.
const LANES: usize = 16;

/// Values whose bins are found before they are counted.
const BLOCK: usize = LANES * 16;

/// From here to twice of it all `f64` have one exponent, so the bits above the lowest [`FRACTION`] are their whole part.
const MAGIC: usize = 2 * BINS;
const FRACTION: u32 = f64::MANTISSA_DIGITS - 1 - MAGIC.ilog2();

/// Finer bins than this would need scales that a float cannot hold.
const FINEST: i32 = -100;

/// How often values fell into each bin, plain and weighted. Zeros are not in it: they are exact under every range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "Sparse", try_from = "Sparse")]
pub struct Histogram {
    /// A bin is `2^exponent` wide.
    exponent: i32,
    /// `2^-exponent`.
    per_unit: f64,
    /// The first bin begins at `first * 2^exponent`.
    first: i64,
    /// The bins; behind them one place for each lane's zeros, empty between two calls.
    places: Vec<Place>,
}

/// What fell into a bin. Both side by side: where the next value falls is anyone's guess, so each place that is looked up takes time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Place {
    count: u64,
    weight: f64,
}

/// Bins, and places for zeros.
const PLACES: usize = BINS + LANES;

/// A histogram as it is written: the bins that are not empty, with position, count and weight.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sparse {
    exponent: i32,
    first: i64,
    bins: Vec<(usize, u64, f64)>,
}

impl From<Histogram> for Sparse {
    fn from(histogram: Histogram) -> Self {
        let Histogram { exponent, first, places, per_unit: _ } = histogram;
        let bins = places.into_iter().enumerate().filter(|(_, bin)| bin.count > 0);
        Self { exponent, first, bins: bins.map(|(at, bin)| (at, bin.count, bin.weight)).collect() }
    }
}

impl TryFrom<Sparse> for Histogram {
    type Error = String;

    fn try_from(sparse: Sparse) -> Result<Self, String> {
        let mut histogram = Self::empty(sparse.exponent, sparse.first);
        for (at, count, weight) in sparse.bins {
            if at >= BINS {
                return Err(format!("there is no bin {at}"));
            }
            histogram.places[at] = Place { count, weight };
        }
        Ok(histogram)
    }
}

/// One bin that is not empty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bin {
    /// Its middle.
    pub value: f64,
    /// Values in it.
    pub count: u64,
    /// Sum of their weights.
    pub weight: f64,
}

impl Histogram {
    /// Bytes on the heap, always as many.
    pub(super) const HEAP_BYTES: usize = PLACES * size_of::<Place>();

    /// An empty histogram that can take values from `low` to `high`, both finite.
    pub fn new(low: f32, high: f32) -> Self {
        let (low, high) = (f64::from(low), f64::from(high));
        let span = (high - low).max(low.abs().max(high.abs()) * 1e-6);
        let guess = (span / BINS as f64).max(f64::MIN_POSITIVE).log2().floor() as i32 - 1;
        let mut exponent = guess.max(FINEST);
        while bin(high, exponent) - bin(low, exponent) >= BINS as i64 {
            exponent += 1;
        }
        Self::empty(exponent, bin(low, exponent))
    }

    fn empty(exponent: i32, first: i64) -> Self {
        Self { exponent, per_unit: exp2(-exponent), first, places: vec![Place::default(); PLACES] }
    }

    /// Takes in what another one counted. Bins are as wide as both need, so that those of either fall into them whole.
    pub fn merge(&mut self, other: &Self) {
        let Some(theirs) = other.used() else { return };
        let Some(ours) = self.used() else {
            self.clone_from(other);
            return;
        };
        let mut exponent = self.exponent.max(other.exponent);
        let ends = |exponent: i32| {
            let (ours, theirs) = (ours.map(self.wider(exponent)), theirs.map(other.wider(exponent)));
            (ours[0].min(theirs[0]), ours[1].max(theirs[1]))
        };
        while ends(exponent).1 - ends(exponent).0 >= BINS as i64 {
            exponent += 1;
        }
        let (low, high) = ends(exponent);
        if exponent > self.exponent || low < self.first || high >= self.first + BINS as i64 {
            let mut wider = Self::empty(exponent, low);
            wider.take(self, ours);
            *self = wider;
        }
        self.take(other, theirs);
    }

    /// Adds bins of another one from the first to the last of these numbers, which lie within its own and are no wider.
    fn take(&mut self, other: &Self, [low, high]: [i64; 2]) {
        let number = other.wider(self.exponent);
        // Empty ones too: that some are is anyone's guess, and a wrong one takes longer than adding nothing.
        for (bin, at) in other.places[(low - other.first) as usize..].iter().zip(low..=high) {
            let to = &mut self.places[(number(at) - self.first) as usize];
            to.count += bin.count;
            to.weight += bin.weight;
        }
    }

    /// Numbers of its bins among wider ones of `2^exponent`.
    fn wider(&self, exponent: i32) -> impl Fn(i64) -> i64 + use<> {
        let coarser = (exponent - self.exponent).clamp(0, i64::BITS as i32 - 1);
        move |number| number >> coarser
    }

    /// Numbers of the first and the last bin that are not empty.
    fn used(&self) -> Option<[i64; 2]> {
        let used = |bin: &Place| bin.count > 0;
        let bins = &self.places[..BINS];
        Some([bins.iter().position(used)?, bins.iter().rposition(used)?].map(|at| self.first + at as i64))
    }

    /// Counts finite values that it can take, each with its weight, and says how many were zero, which are left out.
    pub fn add(&mut self, values: &[f32], weights: &[f32]) -> u64 {
        Arch::new().dispatch(Counting { histogram: self, values, weights });
        self.places[BINS..].iter_mut().map(|zeros| std::mem::take(zeros).count).sum()
    }

    /// Where each value is counted. Without a branch: whether a value behind a rectifier is zero is anyone's guess, and a wrong one costs more than the rest.
    // Compiled into what calls it, or not for its vectors at all.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn find(&self, values: &[f32], places: &mut [u16; BLOCK]) {
        // Both are exact. So is their sum with any value but one less than 2^-FRACTION of a bin below zero, which is taken for one just above it.
        let (per_unit, offset) = (self.per_unit, (MAGIC as i64 - self.first) as f64);
        let (lowest, highest) = (MAGIC as f64, (MAGIC + BINS - 1) as f64);
        let place = |lane: usize, value: f32| {
            let value = f64::from(value);
            let number = value * per_unit + offset;
            // Unlike `clamp`, this is one instruction for each end.
            let number = if number > lowest { number } else { lowest };
            let number = if number < highest { number } else { highest };
            let number = if value == 0.0 { (MAGIC + BINS + lane) as f64 } else { number };
            (number.to_bits() >> FRACTION) as u16 & (MAGIC as u16 - 1)
        };
        let (blocks, rest) = values.as_chunks::<LANES>();
        let (of_blocks, of_rest) = places.split_at_mut(blocks.len() * LANES);
        for (block, of_block) in blocks.iter().zip(of_blocks.as_chunks_mut::<LANES>().0) {
            for (lane, (&value, to)) in block.iter().zip(of_block).enumerate() {
                *to = place(lane, value);
            }
        }
        for (lane, (&value, to)) in rest.iter().zip(of_rest).enumerate() {
            *to = place(lane, value);
        }
    }

    /// The bins that are not empty, ascending.
    pub fn bins(&self) -> impl Iterator<Item = Bin> {
        let width = exp2(self.exponent);
        let used = self.places[..BINS].iter().enumerate().filter(|(_, bin)| bin.count > 0);
        used.map(move |(at, bin)| Bin {
            value: ((self.first + at as i64) as f64 + 0.5) * width,
            count: bin.count,
            weight: bin.weight,
        })
    }
}

/// To be compiled for the widest vectors that the processor has. Where a value falls is the same on all of them.
struct Counting<'a> {
    histogram: &'a mut Histogram,
    values: &'a [f32],
    weights: &'a [f32],
}

impl NullaryFnOnce for Counting<'_> {
    type Output = ();

    // Compiled into what calls it, or not for its vectors at all.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn call(self) {
        let mut places = [0; BLOCK];
        for (values, weights) in self.values.chunks(BLOCK).zip(self.weights.chunks(BLOCK)) {
            self.histogram.find(values, &mut places);
            for (&place, &weight) in places.iter().zip(weights) {
                let place = &mut self.histogram.places[usize::from(place)];
                place.count += 1;
                place.weight += f64::from(weight);
            }
        }
    }
}

/// Number of the bin of this width that a value falls into.
fn bin(value: f64, exponent: i32) -> i64 {
    (value * exp2(-exponent)).floor() as i64
}

fn exp2(exponent: i32) -> f64 {
    2.0_f64.powi(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(chunks: &[&[f32]]) -> Histogram {
        let of = |chunk: &&[f32]| {
            let (low, high) = chunk.iter().fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
            let mut histogram = Histogram::new(low, high);
            let weights: Vec<f32> = chunk.iter().map(|v| v.abs()).collect();
            let zeros = chunk.iter().filter(|v| **v == 0.0).count() as u64;
            assert_eq!(histogram.add(chunk, &weights), zeros);
            histogram
        };
        let merged = |mut all: Histogram, one: Histogram| {
            all.merge(&one);
            all
        };
        chunks.iter().map(of).reduce(merged).unwrap()
    }

    #[test]
    fn the_same_values_in_any_order_fall_into_the_same_bins() {
        let small: Vec<f32> = (0..500).map(|i| (i as f32 - 250.0) * 0.001).collect();
        let large: Vec<f32> = (0..100).map(|i| i as f32 * 3.7 - 40.0).collect();
        let (one, other) = (filled(&[&small, &large]), filled(&[&large, &small]));
        let counts = |h: &Histogram| h.bins().map(|b| (b.value, b.count)).collect::<Vec<_>>();
        assert_eq!(counts(&one), counts(&other));
        assert_eq!(one.bins().map(|b| b.count).sum::<u64>(), 599, "all but one zero");
        let weight: f64 = small.iter().chain(&large).map(|v| f64::from(v.abs())).sum();
        assert!((one.bins().map(|b| b.weight).sum::<f64>() - weight).abs() < 1e-3);
    }

    #[test]
    fn a_value_lies_within_half_a_bin_of_its_bins_middle_and_half_the_bins_are_in_use() {
        let values: Vec<f32> = (0..4000).map(|i| (i as f32 * 0.77).sin() * 5.0 + 3.0).collect();
        let histogram = filled(&[&values]);
        let width = exp2(histogram.exponent);
        assert!(10.0 / width > BINS as f64 / 2.0 - 2.0, "{width}");
        for value in values {
            let near = histogram.bins().any(|b| (b.value - f64::from(value)).abs() <= width / 2.0);
            assert!(near, "{value}");
        }
    }

    #[test]
    fn every_value_is_counted_in_the_bin_that_begins_below_it_however_many_come_at_once() {
        let value = |i: usize| if i.is_multiple_of(3) { 0.0 } else { (i as f32 * 0.37).sin().powi(3) * 9.0 };
        for offset in [0.0, 2.5, -1e6] {
            for n in [1, LANES - 1, LANES, LANES + 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + LANES + 3] {
                let values: Vec<f32> = (0..n).map(|i| value(i) + offset).chain([offset + 1.0, offset - 8.0]).collect();
                let histogram = filled(&[&values]);
                let mut expected = vec![(0, 0.0); BINS];
                for value in values.iter().filter(|v| **v != 0.0) {
                    let place = &mut expected[(bin(f64::from(*value), histogram.exponent) - histogram.first) as usize];
                    *place = (place.0 + 1, place.1 + f64::from(value.abs()));
                }
                let counted: Vec<_> = histogram.bins().map(|b| (b.count, b.weight)).collect();
                expected.retain(|(count, _)| *count > 0);
                assert_eq!(counted, expected, "{n} values about {offset}");
            }
        }
    }

    #[test]
    fn one_value_alone_and_the_widest_floats_have_a_bin() {
        for values in [&[2.5_f32][..], &[1e-38, 1e-38], &[f32::MIN, f32::MAX], &[-0.5, 1e30]] {
            let histogram = filled(&[values]);
            assert_eq!(histogram.bins().map(|b| b.count).sum::<u64>(), values.len() as u64, "{values:?}");
        }
    }
}
