//! What each channel of an activation is on average, exact and rounded to codes: running sums over samples, so memory does not grow with their number.

use std::collections::BTreeMap;
use std::time::Instant;

use rayon::prelude::*;

use super::super::scheme::Codes;
use crate::engine::{EngineError, Feed, LoadOptions, SharedEngine};
use crate::model::{Model, Tensor};
use crate::optimizer::calibration::{looked_at, run_of_channel};

/// Samples that a mean is taken over at least, whatever time there is.
const FEWEST_FEEDS: usize = 8;

/// An activation as a product reads it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Activation {
    pub(super) tensor: String,
    /// Whether channels lie on the last axis (of a matrix product's operand) or on the second (of a convolution's).
    pub(super) last: bool,
    pub(super) channels: usize,
    /// The bits of the scale of its codes, for a float has no order.
    scale: u32,
    zero_point: u8,
}

impl Activation {
    pub(super) fn new(tensor: &str, last: bool, channels: usize, scale: f32, zero_point: u8) -> Self {
        Self { tensor: tensor.to_owned(), last, channels, scale: scale.to_bits(), zero_point }
    }
}

/// The mean of every channel of an activation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mean {
    /// Of the float values.
    pub(super) exact: Vec<f64>,
    /// Of what codes leave of them, rounded and clipped.
    pub(super) rounded: Vec<f64>,
}

/// The means that were seen of one float model.
#[derive(Debug, Default)]
pub(super) struct Means {
    /// Digest of the model.
    model: String,
    of: BTreeMap<Activation, Mean>,
}

impl Means {
    /// The mean of an activation that was looked at. `None` where it had other axes than its reader's weight says.
    pub(super) fn of(&self, activation: &Activation) -> Option<&Mean> {
        self.of.get(activation)
    }

    /// Runs `model` over `feeds` and looks at those of `wanted` that were not seen yet: once for a model, and again only where a choice of sites gives an activation another
    /// scale. As many samples as calibration uses, or as half the time until `until` allows. Means of another model are forgotten.
    ///
    /// # Errors
    /// What the engine says of the model with these activations as outputs.
    pub(super) fn see(
        &mut self,
        engine: &SharedEngine,
        model: &Model,
        wanted: &[Activation],
        feeds: &[Feed],
        until: Instant,
    ) -> Result<(), EngineError> {
        let digest = model.sha256();
        if self.model != digest {
            *self = Self { model: digest, of: BTreeMap::new() };
        }
        let mut missing: Vec<&Activation> = wanted.iter().filter(|a| !self.of.contains_key(a)).collect();
        missing.sort_unstable();
        missing.dedup();
        let mut taps: Vec<String> = missing.iter().map(|a| a.tensor.clone()).collect();
        taps.dedup();
        if taps.is_empty() {
            return Ok(());
        }
        // The order of the activations is that of their names first, so each finds its tap by its name.
        let at: Vec<usize> = missing.iter().map(|a| taps.partition_point(|tap| *tap < a.tensor)).collect();
        let threads = rayon::current_num_threads();
        let mut session = engine.load(model, &LoadOptions { threads, taps, ..LoadOptions::default() })?;
        let outputs = model.graph().output.len();
        let mut sums: Vec<Sum> = missing.iter().map(|activation| Sum::none(activation)).collect();
        let began = Instant::now();
        let share = until.saturating_duration_since(began) / 2;
        for (done, feed) in looked_at(feeds).iter().enumerate() {
            if done >= FEWEST_FEEDS && began.elapsed() >= share {
                break;
            }
            let seen = session.run(feed)?;
            feed.put_down();
            // Each activation is summed in the order of the samples, so that threads change nothing.
            sums.par_iter_mut().zip(&at).for_each(|(sum, at)| sum.add(&seen[outputs + at]));
        }
        let means = missing.iter().zip(sums).filter(|(_, sum)| sum.count > 0);
        let means: Vec<(Activation, Mean)> = means.map(|(&activation, sum)| (activation.clone(), sum.mean())).collect();
        self.of.extend(means);
        Ok(())
    }
}

/// Running sums of every channel of an activation.
struct Sum<'a> {
    activation: &'a Activation,
    exact: Vec<f64>,
    /// Of the codes, less the zero point.
    codes: Vec<f64>,
    count: usize,
}

impl<'a> Sum<'a> {
    fn none(activation: &'a Activation) -> Self {
        let zeros = || vec![0.0; activation.channels];
        Self { activation, exact: zeros(), codes: zeros(), count: 0 }
    }

    fn add(&mut self, tensor: &Tensor) {
        let channels = self.activation.channels;
        let run = run_of_channel(tensor.shape(), self.activation.last, channels).filter(|&run| run > 0 && channels > 0);
        let Some(run) = run else { return };
        let Activation { scale, zero_point, .. } = *self.activation;
        let of = Codes { scale: f32::from_bits(scale), zero: f32::from(zero_point) };
        let values = tensor.to_f32();
        for (at, run) in values.chunks_exact(run).enumerate() {
            let (exact, codes) = run
                .iter()
                .fold((0.0, 0.0), |(exact, codes), &v| (exact + f64::from(v), codes + f64::from(of.centred(v))));
            self.exact[at % channels] += exact;
            self.codes[at % channels] += codes;
        }
        self.count += values.len() / channels;
    }

    fn mean(self) -> Mean {
        let (scale, count) = (f64::from(f32::from_bits(self.activation.scale)), self.count as f64);
        Mean {
            exact: self.exact.into_iter().map(|sum| sum / count).collect(),
            rounded: self.codes.into_iter().map(|sum| sum / count * scale).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_is_that_of_each_channel_wherever_channels_lie() {
        let tensor = Tensor::new(&[1, 2, 2], &[1.0_f32, 3.0, 5.0, 9.0]);
        for (last, exact) in [(false, vec![2.0, 7.0]), (true, vec![3.0, 6.0])] {
            let activation = Activation::new("x", last, 2, 1.0, 0);
            let mut sum = Sum::none(&activation);
            sum.add(&tensor);
            sum.add(&tensor);
            assert_eq!(sum.mean(), Mean { rounded: exact.clone(), exact }, "{last}");
        }
    }

    #[test]
    fn rounded_values_are_those_of_codes_halves_to_even_and_the_ends_clipped() {
        let tensor = Tensor::new(&[1, 6], &[0.25_f32, 0.75, -0.3, -100.0, 1000.0, 0.0]);
        let activation = Activation::new("x", true, 6, 0.5, 55);
        let mut sum = Sum::none(&activation);
        sum.add(&tensor);
        assert_eq!(sum.mean().rounded, [0.0, 1.0, -0.5, -27.5, 100.0, 0.0]);
    }

    #[test]
    fn an_activation_of_other_axes_than_its_reader_says_is_not_summed() {
        for shape in [&[3, 2][..], &[4], &[0, 4], &[]] {
            let activation = Activation::new("x", false, 4, 1.0, 0);
            let mut sum = Sum::none(&activation);
            sum.add(&Tensor::new(shape, &vec![1.0_f32; shape.iter().product()]));
            assert_eq!(sum.count, 0, "{shape:?}");
        }
    }
}
