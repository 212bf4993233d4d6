//! Calibration: what values the tensors of a model take, from one pass over real samples.
//!
//! Memory does not grow with the number of samples, every range method reads the same [`Spread`], and all candidates of a search share one pass.

mod ends;
pub mod histogram;
mod key;
pub mod range;
mod run;
mod shift;

pub use histogram::Histogram;
pub use key::key;
pub use range::{Chosen, Method, Policy};
pub use run::{calibrate, looked_at};
pub use shift::{Shift, of_inputs, shift};

use serde::{Deserialize, Serialize};

use ends::Ends;

/// Elements of one tensor that are counted over all runs. What more of them would add to a bin is less than its width.
const MOST_COUNTED: usize = 3 << 18;

/// The elements of one tensor that are counted in each of so many runs; of a larger tensor as many, evenly spread. Minimum, maximum and moments see all.
pub fn counted_of_each(runs: usize) -> usize {
    (MOST_COUNTED / runs.max(1)).clamp(1 << 12, 1 << 15)
}

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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
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

/// Why no range can be made of what was seen of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Defect {
    /// So many of its values, of so many, were infinite or no number.
    NotFinite(u64, u64),
    /// It was zero throughout.
    Zero,
    /// It was this throughout, so nothing says what else it may be.
    Constant(f32),
}

impl std::fmt::Display for Defect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFinite(broken, all) => write!(f, "{broken} of its {all} values were infinite or no number"),
            Self::Zero => f.write_str("it was zero throughout"),
            Self::Constant(value) => write!(f, "it was {value} throughout"),
        }
    }
}

impl Spread {
    /// Whether a range can be made of it: finite throughout, and not the same throughout.
    pub fn is_usable(&self) -> bool {
        self.defect().is_none()
    }

    /// Why no range can be made of it; `None` when one can.
    pub fn defect(&self) -> Option<Defect> {
        if self.broken > 0 {
            Some(Defect::NotFinite(self.broken, self.count + self.broken))
        } else if self.histogram.is_none() {
            Some(Defect::Zero)
        } else if self.min >= self.max {
            Some(Defect::Constant(self.min))
        } else {
            None
        }
    }

    /// Mean and standard deviation of its finite values.
    pub fn moments(&self) -> (f64, f64) {
        let n = self.count.max(1) as f64;
        let mean = self.sum / n;
        (mean, (self.squares / n - mean * mean).max(0.0).sqrt())
    }

    /// Bytes that it takes in memory, whatever it saw.
    pub fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.histogram.as_ref().map_or(0, |_| Histogram::HEAP_BYTES)
    }

    /// Of what one run gave for a tensor of this shape; at most `counted` of its values fall into the histogram (see [`counted_of_each`]).
    pub fn of(shape: &[usize], values: &[f32], channels: Option<&Channels>, counted: usize) -> Self {
        // An odd step meets every channel whatever a power of two their number is.
        let step = values.len().div_ceil(counted.max(1)) | 1;
        let (Ends { low, high, sum, squares, finite }, mut picked) = Ends::of(values, step);
        let broken = values.len() as u64 - finite;
        if finite == 0 {
            return Self { broken, ..Self::default() };
        }
        let mut left_out = 0;
        if broken > 0 {
            for value in picked.iter_mut().filter(|v| !v.is_finite()) {
                (*value, left_out) = (0.0, left_out + 1);
            }
        }
        let zeros_only = low == 0.0 && high == 0.0;
        let mut histogram = (!zeros_only).then(|| Histogram::new(low, high));
        let zeros = match &mut histogram {
            Some(histogram) => histogram.add(&picked, &weights(shape, channels, step, picked.len())),
            None => picked.len() as u64,
        } - left_out;
        Self { min: low, max: high, count: finite, zeros, sum, squares, broken, histogram }
    }

    /// Takes in what was seen in another run.
    pub fn merge(&mut self, other: Self) {
        self.broken += other.broken;
        if other.count == 0 {
            return;
        }
        let ends = (other.min, other.max);
        (self.min, self.max) = if self.count == 0 { ends } else { (self.min.min(ends.0), self.max.max(ends.1)) };
        self.count += other.count;
        self.zeros += other.zeros;
        self.sum += other.sum;
        self.squares += other.squares;
        match (&mut self.histogram, other.histogram) {
            (Some(ours), Some(theirs)) => ours.merge(&theirs),
            (ours @ None, theirs) => *ours = theirs,
            (Some(_), None) => {}
        }
    }
}

/// Elements of one channel that lie side by side in a tensor of this shape, the channels on its last axis or on the second; `None` where it has not so many there.
pub(in crate::optimizer) fn run_of_channel(shape: &[usize], last: bool, channels: usize) -> Option<usize> {
    let axis = if last { shape.len().checked_sub(1)? } else { 1 };
    (shape.get(axis) == Some(&channels)).then(|| shape[axis + 1..].iter().product())
}

/// The weights of `n` elements of a tensor of this shape, every `step`th from the first on.
fn weights(shape: &[usize], channels: Option<&Channels>, step: usize, n: usize) -> Vec<f32> {
    let fitting = channels.and_then(|c| Some((&c.weights, run_of_channel(shape, c.last, c.weights.len())?.max(1))));
    let Some((of_channel, run)) = fitting.filter(|(weights, _)| !weights.is_empty()) else { return vec![1.0; n] };
    let mut weights = Vec::with_capacity(n);
    // A step goes so many channels on, and so many elements of one.
    let (channels, elements) = (step / run % of_channel.len(), step % run);
    let (mut channel, mut element) = (0, 0);
    while weights.len() < n {
        // Steps that stay in the channel. Where none can there is nothing to divide, which is what takes time.
        let stay = if step >= run { 0 } else { (run - 1 - element) / step };
        weights.extend(std::iter::repeat_n(of_channel[channel], (stay + 1).min(n - weights.len())));
        (channel, element) = (channel + channels, element + stay * step + elements);
        if element >= run {
            (channel, element) = (channel + 1, element - run);
        }
        if channel >= of_channel.len() {
            channel -= of_channel.len();
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Tensor;

    const ALL: usize = usize::MAX;

    fn of(tensor: &Tensor, channels: Option<&Channels>, counted: usize) -> Spread {
        Spread::of(tensor.shape(), &tensor.to_f32(), channels, counted)
    }

    #[test]
    fn moments_ends_and_zeros_are_those_of_all_values() {
        let mut spread = Spread::default();
        spread.merge(of(&Tensor::new(&[2, 2], &[0.0_f32, 1.0, -3.0, 0.0]), None, ALL));
        spread.merge(of(&Tensor::new(&[1, 2], &[4.0_f32, 2.0]), None, ALL));
        assert_eq!((spread.min, spread.max, spread.count, spread.zeros), (-3.0, 4.0, 6, 2));
        assert_eq!((spread.sum, spread.squares), (4.0, 30.0));
        assert!(spread.is_usable());
    }

    #[test]
    fn what_is_never_finite_or_always_zero_has_no_range() {
        let mut zeros = Spread::default();
        zeros.merge(of(&Tensor::new(&[3], &[0.0_f32; 3]), None, ALL));
        assert!(!zeros.is_usable());
        assert_eq!(zeros.defect(), Some(Defect::Zero));
        for bad in [f32::NAN, f32::INFINITY] {
            let mut spread = Spread::default();
            spread.merge(of(&Tensor::new(&[3], &[1.0, bad, 2.0]), None, ALL));
            assert!(!spread.is_usable() && spread.broken == 1 && spread.max == 2.0, "{spread:?}");
            assert_eq!(spread.defect(), Some(Defect::NotFinite(1, 3)));
        }
        let mut same = Spread::default();
        same.merge(of(&Tensor::new(&[2], &[2.5_f32; 2]), None, ALL));
        assert_eq!((same.defect(), same.range(Policy::Unclipped)), (Some(Defect::Constant(2.5)), None));
        same.merge(of(&Tensor::new(&[2], &[2.5_f32, 2.25]), None, ALL));
        assert!(same.is_usable());
    }

    #[test]
    fn a_spread_is_the_same_to_the_bit_after_it_was_written_and_read() {
        let mut spread = Spread::default();
        for i in 1..40 {
            let values: Vec<f32> = (0..500).map(|v| ((v * i) as f32 * 0.37).sin() / i as f32).collect();
            spread.merge(of(
                &Tensor::new(&[1, 5, 100], &values),
                Some(&Channels { last: false, weights: vec![0.1; 5] }),
                ALL,
            ));
        }
        let read: Spread = serde_json::from_str(&serde_json::to_string(&spread).unwrap()).unwrap();
        assert_eq!(read, spread);
        assert_eq!(read.range(Policy::LeastHarm), spread.range(Policy::LeastHarm));
        let whole = serde_json::to_value(&spread).unwrap();
        let mut beyond = whole.clone();
        beyond["histogram"]["bins"][0][0] = histogram::BINS.into();
        assert!(serde_json::from_value::<Spread>(whole).is_ok() && serde_json::from_value::<Spread>(beyond).is_err());
    }

    #[test]
    fn every_element_counts_by_its_channel_wherever_the_channels_lie() {
        let tensor = Tensor::new(&[1, 2, 2], &[1.0_f32, 2.0, 3.0, 4.0]);
        for (last, expected) in [(false, [10.0, 10.0, 1.0, 1.0]), (true, [10.0, 1.0, 10.0, 1.0])] {
            let mut spread = Spread::default();
            spread.merge(of(&tensor, Some(&Channels { last, weights: vec![10.0, 1.0] }), ALL));
            let weights: Vec<f64> = spread.histogram.unwrap().bins().map(|b| b.weight).collect();
            assert_eq!(weights, expected, "{last}");
        }
        let other = Channels { last: true, weights: vec![1.0; 7] };
        assert_eq!(weights(&[1, 2, 2], Some(&other), 3, 2), [1.0, 1.0], "weights of another tensor are not used");
    }

    #[test]
    fn picked_elements_have_the_weights_of_their_channels_whatever_the_step() {
        let of_channel: Vec<f32> = (0..6).map(|c| c as f32).collect();
        for (shape, last, run) in
            [([5, 6, 7], false, 7), ([5, 6, 1], false, 1), ([5, 7, 6], true, 1), ([2, 6, 90], false, 90)]
        {
            let channels = Channels { last, weights: of_channel.clone() };
            let all = shape.iter().product::<usize>();
            for step in [1, 3, 5, 7, 9, 13, 41, 97] {
                let expected: Vec<f32> = (0..all).step_by(step).map(|at| of_channel[at / run % 6]).collect();
                assert_eq!(weights(&shape, Some(&channels), step, expected.len()), expected, "{shape:?} by {step}");
            }
        }
    }

    #[test]
    fn of_many_values_no_more_than_asked_for_are_counted_and_ends_and_moments_see_all() {
        let values: Vec<f32> = (0..50_000).map(|v| if v % 4 == 0 { 0.0 } else { v as f32 }).collect();
        let mut spread = Spread::default();
        spread.merge(of(&Tensor::new(&[values.len()], &values), None, counted_of_each(128)));
        let counted = spread.histogram.as_ref().unwrap().bins().map(|b| b.count).sum::<u64>() + spread.zeros;
        assert!((4000..=8192).contains(&counted), "{counted}");
        assert!((0.2..0.3).contains(&(spread.zeros as f64 / counted as f64)), "{}", spread.zeros);
        assert_eq!((spread.count, spread.max), (50_000, 49_999.0));
        assert_eq!(spread.sum, values.iter().map(|&v| f64::from(v)).sum::<f64>());
        assert_eq!([0, 1, 64, 1 << 30].map(counted_of_each), [1 << 15, 1 << 15, 3 << 12, 1 << 12]);
    }

    #[test]
    fn memory_is_the_same_however_many_samples_there_are() {
        let mut spread = Spread::default();
        for i in 0..50 {
            let values: Vec<f32> = (0..100).map(|v| (v * i) as f32 - 100.0).collect();
            spread.merge(of(&Tensor::new(&[100], &values), None, ALL));
            assert!(spread.histogram.as_ref().unwrap().bins().count() <= histogram::BINS);
            assert_eq!(spread.held_bytes(), size_of::<Spread>() + Histogram::HEAP_BYTES);
        }
        assert_eq!(spread.count, 5000);
    }
}
