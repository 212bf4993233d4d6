//! Calibration: what values the tensors of a model take, from one pass over real samples.
//!
//! Memory does not grow with the number of samples, every range method reads the same [`Spread`], and all candidates of a search share one pass.

pub mod histogram;
pub mod range;

use std::collections::BTreeMap;

use rayon::prelude::*;

pub use histogram::Histogram;
pub use range::{Chosen, Method, Policy};

use crate::engine::{EngineError, Feed, LoadOptions, SharedEngine};
use crate::model::{DType, Model, Tensor};

/// Samples that are looked at. What more of them would add to a range is less than what rounding takes.
pub const MOST_FEEDS: usize = 128;

/// Elements of one tensor and run that are counted; of a larger one as many, evenly spread. Minimum, maximum and moments see all.
const MOST_COUNTED: usize = 1 << 15;

/// A tensor to look at.
#[derive(Debug, Clone, PartialEq)]
pub struct Watch {
    /// Its name.
    pub tensor: String,
    /// How much an error in each channel harms what reads it: the energy of the weights that meet the channel. `None`: all alike.
    pub channels: Option<Channels>,
}

/// Weight of each channel of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Channels {
    /// Whether channels lie on the last axis (of a product's operand) or on the second (of a convolution's).
    pub last: bool,
    /// One weight per channel.
    pub weights: Vec<f32>,
}

/// Everything seen of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Spread {
    /// Smallest value.
    pub min: f32,
    /// Largest value.
    pub max: f32,
    /// Number of values.
    pub count: u64,
    /// Zeros among those that were counted.
    pub zeros: u64,
    /// Sum of the values.
    pub sum: f64,
    /// Sum of their squares.
    pub squares: f64,
    /// Values that were infinite or no number.
    pub broken: u64,
    /// Where the counted values lie, zeros left out; `None` while only zeros were seen.
    pub histogram: Option<Histogram>,
}

impl Default for Spread {
    fn default() -> Self {
        Self { min: 0.0, max: 0.0, count: 0, zeros: 0, sum: 0.0, squares: 0.0, broken: 0, histogram: None }
    }
}

impl Spread {
    /// Whether a range can be made of it: finite throughout, and not zero throughout.
    pub fn is_usable(&self) -> bool {
        self.broken == 0 && self.histogram.is_some()
    }

    /// Takes in one run's tensor.
    pub fn add(&mut self, tensor: &Tensor, channels: Option<&Channels>) {
        let values = tensor.to_f32();
        let Ends { low, high, sum, squares, finite } = Ends::of(&values);
        self.broken += values.len() as u64 - finite;
        if finite == 0 {
            return;
        }
        (self.min, self.max) = if self.count == 0 { (low, high) } else { (self.min.min(low), self.max.max(high)) };
        self.count += finite;
        self.sum += sum;
        self.squares += squares;
        // An odd step meets every channel whatever a power of two their number is.
        let step = values.len().div_ceil(MOST_COUNTED) | 1;
        if low == 0.0 && high == 0.0 {
            self.zeros += finite.div_ceil(step as u64);
            return;
        }
        match &mut self.histogram {
            Some(histogram) => histogram.cover(low, high),
            none => *none = Some(Histogram::new(low, high)),
        }
        let Some(histogram) = &mut self.histogram else { return };
        let weight = weights(tensor.shape(), channels);
        for (at, &value) in values.iter().enumerate().step_by(step).filter(|(_, v)| v.is_finite()) {
            if value == 0.0 {
                self.zeros += 1;
            } else {
                histogram.add(value, weight(at));
            }
        }
    }
}

/// Ends and moments of the finite values of one run.
struct Ends {
    low: f32,
    high: f32,
    sum: f64,
    squares: f64,
    finite: u64,
}

/// Sums side by side, so that the processor adds them at once.
const LANES: usize = 8;

impl Ends {
    fn of(values: &[f32]) -> Self {
        let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        let (mut sum, mut squares) = ([0.0_f64; LANES], [0.0_f64; LANES]);
        for run in values.chunks(LANES) {
            for (lane, &value) in run.iter().enumerate() {
                low[lane] = low[lane].min(value);
                high[lane] = high[lane].max(value);
                sum[lane] += f64::from(value);
                squares[lane] += f64::from(value) * f64::from(value);
            }
        }
        let ends = Self {
            low: low.into_iter().fold(f32::INFINITY, f32::min),
            high: high.into_iter().fold(f32::NEG_INFINITY, f32::max),
            sum: sum.iter().sum(),
            squares: squares.iter().sum(),
            finite: values.len() as u64,
        };
        // The squares of all floats fit; what makes their sum infinite or no number is a value that is.
        if ends.squares.is_finite() {
            return ends;
        }
        let finite: Vec<f32> = values.iter().copied().filter(|v| v.is_finite()).collect();
        Self::of(&finite)
    }
}

/// The weight of each element of a tensor of this shape.
fn weights<'c>(shape: &[usize], channels: Option<&'c Channels>) -> impl Fn(usize) -> f32 + use<'c> {
    let axis = channels.and_then(|c| if c.last { shape.len().checked_sub(1) } else { Some(1) });
    let fitting = axis.filter(|&a| channels.is_some_and(|c| shape.get(a) == Some(&c.weights.len())));
    let inner = fitting.map_or(1, |a| shape[a + 1..].iter().product::<usize>()).max(1);
    let weights = channels.filter(|_| fitting.is_some()).map(|c| c.weights.as_slice());
    move |at| weights.map_or(1.0, |w| w[at / inner % w.len()])
}

/// Runs `model` over `feeds` once and returns what was seen of every watched tensor that holds float32 numbers.
///
/// # Errors
/// What the engine says of the model with these tensors as outputs.
pub fn calibrate(
    engine: &SharedEngine,
    model: &Model,
    watched: &[Watch],
    feeds: &[Feed],
) -> Result<BTreeMap<String, Spread>, EngineError> {
    let mut spreads: Vec<Spread> = vec![Spread::default(); watched.len()];
    if watched.is_empty() {
        return Ok(BTreeMap::new());
    }
    let taps = watched.iter().map(|w| w.tensor.clone()).collect();
    let mut session = engine.load(model, &LoadOptions { taps, ..LoadOptions::default() })?;
    let outputs = model.graph().output.len();
    for feed in feeds.iter().take(MOST_FEEDS) {
        let seen: Vec<Tensor> = session.run(feed)?.drain(outputs..).collect();
        // Each tensor is summed in the order of the samples, so that threads change nothing.
        spreads.par_iter_mut().zip(watched).zip(&seen).for_each(|((spread, watch), tensor)| {
            if tensor.dtype() == DType::F32 {
                spread.add(tensor, watch.channels.as_ref());
            }
        });
    }
    let names = watched.iter().map(|w| w.tensor.clone());
    Ok(names.zip(spreads).filter(|(_, spread)| spread.count + spread.broken > 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_ends_and_zeros_are_those_of_all_values() {
        let mut spread = Spread::default();
        spread.add(&Tensor::new(&[2, 2], &[0.0_f32, 1.0, -3.0, 0.0]), None);
        spread.add(&Tensor::new(&[1, 2], &[4.0_f32, 2.0]), None);
        assert_eq!((spread.min, spread.max, spread.count, spread.zeros), (-3.0, 4.0, 6, 2));
        assert_eq!((spread.sum, spread.squares), (4.0, 30.0));
        assert!(spread.is_usable());
    }

    #[test]
    fn what_is_never_finite_or_always_zero_has_no_range() {
        let mut zeros = Spread::default();
        zeros.add(&Tensor::new(&[3], &[0.0_f32; 3]), None);
        assert!(!zeros.is_usable());
        for bad in [f32::NAN, f32::INFINITY] {
            let mut spread = Spread::default();
            spread.add(&Tensor::new(&[3], &[1.0, bad, 2.0]), None);
            assert!(!spread.is_usable() && spread.broken == 1 && spread.max == 2.0, "{spread:?}");
        }
    }

    #[test]
    fn every_element_counts_by_its_channel_wherever_the_channels_lie() {
        let tensor = Tensor::new(&[1, 2, 2], &[1.0_f32, 2.0, 3.0, 4.0]);
        for (last, expected) in [(false, [10.0, 10.0, 1.0, 1.0]), (true, [10.0, 1.0, 10.0, 1.0])] {
            let mut spread = Spread::default();
            spread.add(&tensor, Some(&Channels { last, weights: vec![10.0, 1.0] }));
            let weights: Vec<f64> = spread.histogram.unwrap().bins().map(|b| b.weight).collect();
            assert_eq!(weights, expected, "{last}");
        }
        let other = Channels { last: true, weights: vec![1.0; 7] };
        assert_eq!(weights(&[1, 2, 2], Some(&other))(3), 1.0, "weights of another tensor are not used");
    }

    #[test]
    fn memory_is_the_same_however_many_samples_there_are() {
        let mut spread = Spread::default();
        for i in 0..50 {
            let values: Vec<f32> = (0..100).map(|v| (v * i) as f32 - 100.0).collect();
            spread.add(&Tensor::new(&[100], &values), None);
            assert!(spread.histogram.as_ref().unwrap().bins().count() <= histogram::BINS);
        }
        assert_eq!(spread.count, 5000);
    }
}
