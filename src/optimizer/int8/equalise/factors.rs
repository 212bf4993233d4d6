//! How far to equalise: the exponents whose expected error is least, from the range and energy of every channel on real samples.
//!
//! Rounding an activation to steps of `d` adds `d^2 / 12` to every value, which each product sums up by the energy of the weights that meet the channel. Rounding the weights of
//! an output channel to steps of `c` adds `c^2 / 12` to each, which is summed up by the energy of the values that they meet. Factors trade one against the other.

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
}

impl Reader {
    pub(super) fn of(found: &Linear, group: usize) -> Self {
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
        }
    }

    /// The input channel of every pair of output channel `row`.
    fn channel(&self, row: usize, column: usize) -> usize {
        row / self.rows * self.columns + column
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

/// Reads the activations of `seams`, sample by sample.
pub(super) fn seen(
    engine: &SharedEngine,
    model: &Model,
    seams: &[Seam],
    feeds: &[Feed],
) -> Result<Vec<Seen>, EngineError> {
    let mut all: Vec<Seen> = seams.iter().map(|seam| Seen::none(seam.channels, seam.last)).collect();
    if seams.is_empty() {
        return Ok(all);
    }
    let taps = seams.iter().map(|seam| seam.activation.clone()).collect();
    let mut session = engine.load(model, &LoadOptions { taps, ..LoadOptions::default() })?;
    let outputs = model.graph().output.len();
    for feed in feeds.iter().take(MOST_SAMPLES) {
        let tensors: Vec<Tensor> = session.run(feed)?.drain(outputs..).collect();
        all.par_iter_mut().zip(&tensors).for_each(|(seen, tensor)| seen.add(tensor));
    }
    Ok(all)
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

    /// The exponents of least expected error over all readers, where they are worth having.
    pub(super) fn exponents(&self, readers: &[Reader], limit: u8) -> Option<Vec<i8>> {
        let sizes: Vec<f32> = self.low.iter().zip(&self.high).map(|(low, high)| high.max(-low)).collect();
        let mut weights = vec![0.0_f32; sizes.len()];
        for (_, channel, largest, _) in readers.iter().flat_map(Reader::pairs) {
            weights[channel] = weights[channel].max(largest);
        }
        let none = vec![0_i8; sizes.len()];
        let plain = self.error(readers, &none, limit)?;
        let tried = STRENGTHS.iter().filter_map(|&strength| {
            let exponents = exponents(&sizes, &weights, strength);
            let error = (exponents != none).then(|| self.error(readers, &exponents, limit)).flatten()?;
            Some((error, exponents))
        });
        let best = tried.min_by(|a, b| a.0.total_cmp(&b.0))?;
        (best.0 < (1.0 - WORTH) * plain).then_some(best.1)
    }

    /// The expected squared error of the products relative to their energy, summed over the readers. `None` where it is no finite number.
    fn error(&self, readers: &[Reader], exponents: &[i8], limit: u8) -> Option<f64> {
        let factor = |channel: usize| 2.0_f64.powi(i32::from(exponents[channel]));
        let end = |ends: &[f32], pick: fn(f64, f64) -> f64| {
            ends.iter().enumerate().map(|(channel, v)| f64::from(*v) / factor(channel)).fold(0.0, pick)
        };
        let step = (end(&self.high, f64::max) - end(&self.low, f64::min)) / STEPS;
        let energy_of = |channel: usize| self.squares[channel] / self.count.max(1) as f64;
        let mut sum = 0.0;
        for reader in readers {
            let rows = reader.largest.len() / reader.columns.max(1);
            // Largest weight of each output channel, and energy of the values that its weights meet.
            let (mut largest, mut met) = (vec![0.0_f64; rows], vec![0.0_f64; rows]);
            let (mut of_values, mut whole) = (0.0, 0.0);
            for (row, channel, magnitude, energy) in reader.pairs() {
                let factor = factor(channel);
                largest[row] = largest[row].max(f64::from(magnitude) * factor);
                met[row] += reader.taps * energy_of(channel) / (factor * factor);
                of_values += step * step * energy * factor * factor;
                whole += energy * energy_of(channel);
            }
            let of_weights: f64 =
                largest.iter().zip(&met).map(|(largest, met)| (largest / f64::from(limit)).powi(2) * met).sum();
            sum += (of_values + OF_WEIGHTS * of_weights) / 12.0 / whole;
        }
        sum.is_finite().then_some(sum)
    }
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
        Reader { energy: vec![0.25; largest.len()], largest, columns: inputs, rows: 4, taps: 1.0 }
    }

    #[test]
    fn a_channel_much_larger_than_the_others_is_divided_and_the_expected_error_falls() {
        let (seen, readers) = (seen(&[1.0, 1.0, 300.0, 1.0, 1.0, 1.0]), [reader(6)]);
        let exponents = seen.exponents(&readers, 127).unwrap();
        assert!(exponents.iter().enumerate().all(|(at, e)| at == 2 || *e < exponents[2]), "{exponents:?}");
        let error = |exponents: &[i8]| seen.error(&readers, exponents, 127).unwrap();
        assert!(error(&exponents) < 0.9 * error(&[0; 6]));
    }

    #[test]
    fn channels_alike_and_channels_never_seen_are_left_alone() {
        assert_eq!(seen(&[1.0; 8]).exponents(&[reader(8)], 127), None);
        assert_eq!(seen(&[0.0; 8]).exponents(&[reader(8)], 127), None);
    }

    #[test]
    fn a_factor_common_to_all_channels_changes_no_expected_error() {
        let (seen, readers) = (seen(&[1.0, 7.0, 2.0]), [reader(3)]);
        let error = |e: i8| seen.error(&readers, &[e; 3], 64).unwrap();
        assert!((error(0) / error(5) - 1.0).abs() < 1e-12);
    }
}
