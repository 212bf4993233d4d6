//! How far to equalise: the exponents whose expected error is least, from the range and energy of every channel on real samples.
//!
//! Rounding an activation to steps of `d` adds `d^2 / 12` to every value, which each product that it reaches sums up by the energy of the weights that meet the channel. Rounding
//! the weights of an output channel to steps of `c` adds `c^2 / 12` to each, which is summed up by the energy of the values that they meet. Factors trade one against the other.

use rayon::prelude::*;

use super::super::balance::exponents;
use super::super::linear::{Linear, Operator};
use super::seam::Seam;
use crate::engine::{EngineError, Feed, LoadOptions, SharedEngine};
use crate::model::{Model, Tensor};
use crate::optimizer::calibration::run_of_channel;

/// Strengths that are tried: how much of the difference between channels goes to the weights.
const STRENGTHS: [f32; 7] = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];

/// The share of the expected squared error that has to go. It costs nothing at run time, but every fold is one more thing that ranges have to be seen for anew.
const WORTH: f64 = 0.1;

/// What rounding weights costs, as a share of what the nearest codes cost: those that mind each other ([`super::super::round`]) took the RMS error of a logit from 0.41 to
/// 0.05, and a squared error of values weighs what is loud, while what is quiet often decides.
const OF_WEIGHTS: f64 = 1.0 / 64.0;

/// Samples that are looked at.
const MOST_SAMPLES: usize = 32;

/// Steps between the ends of an activation's range.
const STEPS: f64 = 255.0;

/// What was seen of one activation, channel by channel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    last: bool,
    low: Vec<f32>,
    high: Vec<f32>,
    squares: Vec<f64>,
    count: usize,
}

/// The weights of one reader, as magnitudes: output channels by the input channels of each.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reader {
    /// Largest magnitude that connects a pair, row by row.
    largest: Vec<f32>,
    /// Sum of squares that connects a pair.
    energy: Vec<f64>,
    columns: usize,
    /// Output channels of each group.
    rows: usize,
    /// Weights that connect a pair.
    taps: f64,
    /// The number of the tensor that it reads.
    of: usize,
}

impl Reader {
    pub(super) fn of(found: &Linear, group: usize, of: usize) -> Self {
        let shape = found.matrix.shape();
        let values = found.matrix.to_f32();
        let squared = |v: &f32| f64::from(*v) * f64::from(*v);
        if found.operator == Operator::Conv {
            let inner = shape[2..].iter().product::<usize>().max(1);
            let pairs = || values.chunks(inner);
            return Self {
                largest: pairs().map(|p| p.iter().fold(0.0, |m: f32, v| m.max(v.abs()))).collect(),
                energy: pairs().map(|p| p.iter().map(squared).sum()).collect(),
                columns: shape[1],
                rows: (shape[0] / group).max(1),
                taps: inner as f64,
                of,
            };
        }
        let (k, n) = (shape[0], shape[1]);
        let transposed = || (0..n).flat_map(|column| values.iter().skip(column).step_by(n));
        Self {
            largest: transposed().map(|v| v.abs()).collect(),
            energy: transposed().map(squared).collect(),
            columns: k,
            rows: n,
            taps: 1.0,
            of,
        }
    }

    /// The input channel of every pair of output channel `row`.
    fn channel(&self, row: usize, column: usize) -> usize {
        row / self.rows * self.columns + column
    }

    /// Sum of squares of the weights that meet each of the channels.
    fn by_channel(&self, channels: usize) -> Vec<f64> {
        let mut sums = vec![0.0; channels];
        self.pairs().for_each(|(_, channel, _, energy)| sums[channel] += energy);
        sums
    }

    /// What rounding the weights costs, each channel's times its factor: the square of the step of each output channel times the energy of the values that its weights meet.
    fn rounding(&self, met: &Seen, factors: &[f64], limit: u8) -> f64 {
        let rows = self.largest.len() / self.columns.max(1);
        let (mut largest, mut energy) = (vec![0.0_f64; rows], vec![0.0_f64; rows]);
        for (row, channel, magnitude, _) in self.pairs() {
            let factor = factors[channel];
            largest[row] = largest[row].max(f64::from(magnitude) * factor);
            energy[row] += self.taps * met.energy(channel) / (factor * factor);
        }
        largest.iter().zip(&energy).map(|(largest, energy)| (largest / f64::from(limit)).powi(2) * energy).sum()
    }

    /// Output channel, input channel, largest magnitude and energy of every pair.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize, f32, f64)> {
        let columns = self.columns.max(1);
        let each = self.largest.iter().zip(&self.energy).enumerate();
        each.map(move |(at, (&largest, &energy))| {
            (at / columns, self.channel(at / columns, at % columns), largest, energy)
        })
    }
}

/// The tensors of a seam that are rounded, and the products that read some of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stream {
    held: Vec<Seen>,
    /// The products that the rounding of each reaches.
    reaches: Vec<Vec<usize>>,
    readers: Vec<Reader>,
}

/// Reads what `seams` hold, sample by sample.
pub(super) fn seen(
    engine: &SharedEngine,
    model: &Model,
    seams: &[Seam],
    feeds: &[Feed],
) -> Result<Vec<Vec<Seen>>, EngineError> {
    let held = || seams.iter().flat_map(|seam| seam.held.iter().map(|held| (seam.channels, held)));
    let mut all: Vec<Seen> = held().map(|(channels, held)| Seen::none(channels, held.last)).collect();
    let taps: Vec<String> = held().map(|(_, held)| held.tensor.clone()).collect();
    if !taps.is_empty() {
        let mut session = engine.load(model, &LoadOptions { taps, ..LoadOptions::default() })?;
        let outputs = model.graph().output.len();
        for feed in feeds.iter().take(MOST_SAMPLES) {
            let tensors: Vec<Tensor> = session.run(feed)?.drain(outputs..).collect();
            all.par_iter_mut().zip(&tensors).for_each(|(seen, tensor)| seen.add(tensor));
            feed.put_down();
        }
    }
    let mut all = all.into_iter();
    Ok(seams.iter().map(|seam| all.by_ref().take(seam.held.len()).collect()).collect())
}

impl Seen {
    fn none(channels: usize, last: bool) -> Self {
        Self { last, low: vec![0.0; channels], high: vec![0.0; channels], squares: vec![0.0; channels], count: 0 }
    }

    fn add(&mut self, tensor: &Tensor) {
        let channels = self.low.len();
        let run = run_of_channel(tensor.shape(), self.last, channels).filter(|&run| run > 0 && channels > 0);
        let Some(run) = run else { return };
        let values = tensor.to_f32();
        for (at, run) in values.chunks_exact(run).enumerate() {
            let channel = at % channels;
            for &v in run {
                self.low[channel] = self.low[channel].min(v);
                self.high[channel] = self.high[channel].max(v);
                self.squares[channel] += f64::from(v) * f64::from(v);
            }
        }
        self.count += values.len() / channels;
    }

    /// Largest magnitude of a channel.
    fn size(&self, channel: usize) -> f32 {
        self.high[channel].max(-self.low[channel])
    }

    /// Mean square of a channel.
    fn energy(&self, channel: usize) -> f64 {
        self.squares[channel] / self.count.max(1) as f64
    }

    /// Energy of the products of the values with weights of this energy.
    fn sum_of(&self, by_channel: &[f64]) -> f64 {
        by_channel.iter().enumerate().map(|(channel, energy)| energy * self.energy(channel)).sum()
    }

    /// The step between two codes where each channel is divided by its factor.
    fn step(&self, factors: &[f64]) -> f64 {
        let end = |ends: &[f32], pick: fn(f64, f64) -> f64| {
            ends.iter().zip(factors).map(|(v, factor)| f64::from(*v) / factor).fold(0.0, pick)
        };
        (end(&self.high, f64::max) - end(&self.low, f64::min)) / STEPS
    }
}

impl Stream {
    pub(super) fn new(seam: &Seam, held: Vec<Seen>, readers: Vec<Reader>) -> Self {
        Self { held, reaches: seam.held.iter().map(|held| held.reaches.clone()).collect(), readers }
    }

    /// The exponents of least expected error over all readers, where they are worth having.
    pub(super) fn exponents(&self, limit: u8) -> Option<Vec<i8>> {
        let channels = self.held.first()?.low.len();
        let by_channel: Vec<Vec<f64>> = self.readers.iter().map(|reader| reader.by_channel(channels)).collect();
        let plain = self.error(&by_channel, &vec![0; channels], limit)?;
        let sizes = self.sizes(channels);
        let mut weights = vec![0.0_f32; channels];
        for (_, channel, largest, _) in self.readers.iter().flat_map(Reader::pairs) {
            weights[channel] = weights[channel].max(largest);
        }
        let tried = STRENGTHS.iter().filter_map(|&strength| {
            let exponents = exponents(&sizes, &weights, strength);
            Some((self.error(&by_channel, &exponents, limit)?, exponents))
        });
        let best = tried.min_by(|a, b| a.0.total_cmp(&b.0))?;
        (best.0 < (1.0 - WORTH) * plain).then_some(best.1)
    }

    /// The largest magnitude of each channel, as the largest share of the range of a tensor that it takes.
    fn sizes(&self, channels: usize) -> Vec<f32> {
        let mut sizes = vec![0.0_f32; channels];
        for seen in &self.held {
            let range = (0..channels).map(|channel| seen.size(channel)).fold(f32::MIN_POSITIVE, f32::max);
            sizes.iter_mut().enumerate().for_each(|(channel, size)| *size = size.max(seen.size(channel) / range));
        }
        sizes
    }

    /// The expected squared error of the products relative to their energy, summed over the readers. `None` where it is no finite number.
    fn error(&self, by_channel: &[Vec<f64>], exponents: &[i8], limit: u8) -> Option<f64> {
        let factors = factors(exponents);
        let of_weights = |(reader, by_channel): (&Reader, &Vec<f64>)| {
            let met = &self.held[reader.of];
            reader.rounding(met, &factors, limit) / met.sum_of(by_channel)
        };
        let of_weights: f64 = self.readers.iter().zip(by_channel).map(of_weights).sum();
        let sum = (self.of_values(by_channel, &factors) + OF_WEIGHTS * of_weights) / 12.0;
        sum.is_finite().then_some(sum)
    }

    /// What rounding the values costs: the square of each step times the energy of the weights that it reaches.
    fn of_values(&self, by_channel: &[Vec<f64>], factors: &[f64]) -> f64 {
        let gain = |(reader, by_channel): (&Reader, &Vec<f64>)| {
            let energy = by_channel.iter().zip(factors).map(|(energy, factor)| energy * factor * factor);
            energy.sum::<f64>() / self.held[reader.of].sum_of(by_channel)
        };
        let gains: Vec<f64> = self.readers.iter().zip(by_channel).map(gain).collect();
        let each = self.held.iter().zip(&self.reaches);
        each.map(|(seen, reaches)| seen.step(factors).powi(2) * reaches.iter().map(|&at| gains[at]).sum::<f64>()).sum()
    }
}

fn factors(exponents: &[i8]) -> Vec<f64> {
    exponents.iter().map(|&exponent| 2.0_f64.powi(i32::from(exponent))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(sizes: &[f32]) -> Seen {
        let mut seen = Seen::none(sizes.len(), true);
        let values: Vec<f32> =
            (0..64).flat_map(|i| sizes.iter().map(move |s| s * ((i * 37 % 64) as f32 / 32.0 - 1.0))).collect();
        seen.add(&Tensor::new(&[64, sizes.len()], &values));
        seen
    }

    /// Every input meets every output with weights of one size.
    fn reader(inputs: usize) -> Reader {
        let largest = vec![0.5_f32; inputs * 4];
        Reader { energy: vec![0.25; largest.len()], largest, columns: inputs, rows: 4, taps: 1.0, of: 0 }
    }

    fn stream(held: Vec<Seen>, reaches: &[&[usize]], readers: Vec<Reader>) -> Stream {
        Stream { held, reaches: reaches.iter().map(|reached| reached.to_vec()).collect(), readers }
    }

    fn error(stream: &Stream, exponents: &[i8], limit: u8) -> f64 {
        let by_channel: Vec<Vec<f64>> =
            stream.readers.iter().map(|reader| reader.by_channel(exponents.len())).collect();
        stream.error(&by_channel, exponents, limit).unwrap()
    }

    #[test]
    fn a_channel_much_larger_than_the_others_is_divided_and_the_expected_error_falls() {
        let stream = stream(vec![seen(&[1.0, 1.0, 300.0, 1.0, 1.0, 1.0])], &[&[0]], vec![reader(6)]);
        let exponents = stream.exponents(127).unwrap();
        assert!(exponents.iter().enumerate().all(|(at, e)| at == 2 || *e < exponents[2]), "{exponents:?}");
        assert!(error(&stream, &exponents, 127) < 0.9 * error(&stream, &[0; 6], 127));
    }

    #[test]
    fn what_is_summed_counts_as_well_as_what_is_read() {
        // The same is read of both. What it is the sum of has channels alike, or not.
        let read = seen(&[0.2, 0.2, 0.2, 0.2, 0.2, 1.0]);
        let (even, uneven) = (seen(&[0.1; 6]), seen(&[1.0, 1.0, 1.0, 1.0, 1.0, 30.0]));
        let of_even = stream(vec![read.clone(), even], &[&[0], &[0]], vec![reader(6)]);
        assert_eq!(of_even.exponents(127), None);
        let of_sum = stream(vec![read, uneven], &[&[0], &[0]], vec![reader(6)]);
        let exponents = of_sum.exponents(127).unwrap();
        assert!(exponents[..5].iter().all(|e| *e < exponents[5]), "{exponents:?}");
    }

    #[test]
    fn channels_alike_and_channels_never_seen_are_left_alone() {
        assert_eq!(stream(vec![seen(&[1.0; 8])], &[&[0]], vec![reader(8)]).exponents(127), None);
        assert_eq!(stream(vec![seen(&[0.0; 8])], &[&[0]], vec![reader(8)]).exponents(127), None);
    }

    #[test]
    fn a_factor_common_to_all_channels_changes_no_expected_error() {
        let stream = stream(vec![seen(&[1.0, 7.0, 2.0])], &[&[0]], vec![reader(3)]);
        assert!((error(&stream, &[0; 3], 64) / error(&stream, &[5; 3], 64) - 1.0).abs() < 1e-12);
    }
}
