//! Pairs of outputs, made ready for the metrics: shapes compared, infinities and NaN judged, elements readable as `f64` without copying them all.

use std::borrow::Cow;

use super::QualityError;
use crate::model::{DType, Tensor};

/// One graph output on every sample.
#[derive(Debug, Clone)]
pub struct OutputPair {
    /// The output's name.
    pub name: String,
    /// The baseline's values, one tensor per sample.
    pub baseline: Vec<Tensor>,
    /// The baked model's values of the same samples in the same order.
    pub baked: Vec<Tensor>,
}

/// Elements of one tensor.
#[derive(Debug, Clone)]
pub(super) enum Values<'a> {
    F32(Cow<'a, [f32]>),
    F64(Cow<'a, [f64]>),
    I64(Cow<'a, [i64]>),
}

impl<'a> Values<'a> {
    pub(super) fn of(tensor: &'a Tensor) -> Self {
        if let Some(v) = tensor.to_i64() {
            Self::I64(v)
        } else if tensor.dtype() == DType::F64 {
            Self::F64(tensor.to_f64())
        } else {
            Self::F32(tensor.to_f32())
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::I64(v) => v.len(),
        }
    }

    #[inline]
    pub(super) fn get(&self, i: usize) -> f64 {
        match self {
            Self::F32(v) => f64::from(v[i]),
            Self::F64(v) => v[i],
            Self::I64(v) => v[i] as f64,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = f64> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }

    fn all_finite(&self) -> bool {
        match self {
            Self::F32(v) => v.iter().all(|x| x.is_finite()),
            Self::F64(v) => v.iter().all(|x| x.is_finite()),
            Self::I64(_) => true,
        }
    }

    fn zero(&mut self, i: usize) {
        match self {
            Self::F32(v) => v.to_mut()[i] = 0.0,
            Self::F64(v) => v.to_mut()[i] = 0.0,
            Self::I64(_) => {}
        }
    }

    fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::F32(a), Self::F32(b)) => a == b,
            (Self::F64(a), Self::F64(b)) => a == b,
            (Self::I64(a), Self::I64(b)) => a == b,
            _ => self.len() == other.len() && self.iter().eq(other.iter()),
        }
    }
}

/// Whether the values can be measured at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Health {
    Sound,
    /// The baked model gives NaN, or an infinity that the baseline does not give: where.
    BakedNotFinite(String),
    /// The baseline gives NaN, or an infinity where the baked model is finite: where.
    BaselineNotFinite(String),
}

/// One output's pairs, read once.
#[derive(Debug)]
pub(super) struct Pairs<'a> {
    pub(super) name: &'a str,
    pub(super) a: Vec<Values<'a>>,
    pub(super) b: Vec<Values<'a>>,
    /// The baseline's shape of each sample.
    pub(super) shapes: Vec<&'a [usize]>,
    /// Whether the baked shape is the baseline's; a sample where it is not counts as 0.
    pub(super) matched: Vec<bool>,
    /// Whether all baseline samples have one shape.
    pub(super) fixed: bool,
    /// Whether the baseline's elements are integers or booleans.
    pub(super) integer: bool,
    /// Whether every element of every sample is equal in both (so bit-identical, but for the sign of a zero).
    pub(super) identical: bool,
    pub(super) health: Health,
}

impl<'a> Pairs<'a> {
    pub(super) fn new(name: &'a str, baseline: &'a [Tensor], baked: &'a [Tensor]) -> Result<Self, QualityError> {
        if baseline.len() != baked.len() {
            return Err(QualityError::SampleCount { name: name.to_owned(), baseline: baseline.len(), baked: baked.len() });
        }
        let mut pairs = Self {
            name,
            a: Vec::with_capacity(baseline.len()),
            b: Vec::with_capacity(baseline.len()),
            shapes: baseline.iter().map(Tensor::shape).collect(),
            matched: Vec::with_capacity(baseline.len()),
            fixed: baseline.windows(2).all(|w| w[0].shape() == w[1].shape()),
            integer: baseline.first().is_some_and(|t| !t.dtype().is_float()),
            identical: true,
            health: Health::Sound,
        };
        for (i, (ta, tb)) in baseline.iter().zip(baked).enumerate() {
            let (mut a, mut b) = (Values::of(ta), Values::of(tb));
            let matched = ta.shape() == tb.shape();
            if !(a.all_finite() && b.all_finite()) {
                pairs.judge(i, &mut a, &mut b, matched);
            }
            pairs.identical &= matched && a.equals(&b);
            pairs.matched.push(matched);
            pairs.a.push(a);
            pairs.b.push(b);
        }
        Ok(pairs)
    }

    /// An infinity that both models give (a masked logit) is no difference, so it is left out; anything else that is not finite cannot be measured.
    fn judge(&mut self, sample: usize, a: &mut Values, b: &mut Values, matched: bool) {
        let mut shared = Vec::new();
        for i in 0..b.len() {
            let (y, x) = (b.get(i), if matched { a.get(i) } else { 0.0 });
            if y.is_nan() || (y.is_infinite() && x != y) {
                self.health = Health::BakedNotFinite(format!("output '{}' is {y} at element {i} of sample {sample}", self.name));
                self.identical = false;
                return;
            } else if y.is_infinite() {
                shared.push(i);
            }
        }
        for &i in &shared {
            a.zero(i);
            b.zero(i);
        }
        if let Some(i) = (0..a.len()).find(|&i| !a.get(i).is_finite()) {
            self.identical = false;
            if self.health == Health::Sound {
                self.health = Health::BaselineNotFinite(format!("output '{}' is {} at element {i} of sample {sample}", self.name, a.get(i)));
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.a.len()
    }

    /// Everything but the values, for pairs of other values of the same shapes.
    pub(super) fn shallow(&self) -> Self {
        Self {
            name: self.name,
            a: Vec::new(),
            b: Vec::new(),
            shapes: self.shapes.clone(),
            matched: self.matched.clone(),
            fixed: self.fixed,
            integer: self.integer,
            identical: self.identical,
            health: self.health.clone(),
        }
    }
}

/// A tensor's axes around its class axis: element (outer, class, inner) lies at `(outer * classes + class) * inner_len + inner`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Axis {
    pub(super) outer: usize,
    pub(super) classes: usize,
    pub(super) inner: usize,
}

impl Axis {
    /// Around axis `at`; a scalar has one class.
    pub(super) fn new(shape: &[usize], at: usize) -> Self {
        if at >= shape.len() {
            return Self { outer: 1, classes: 1, inner: 1 };
        }
        Self { outer: shape[..at].iter().product(), classes: shape[at], inner: shape[at + 1..].iter().product() }
    }

    pub(super) fn positions(self) -> usize {
        self.outer * self.inner
    }

    #[inline]
    pub(super) fn index(self, position: usize, class: usize) -> usize {
        (position / self.inner * self.classes + class) * self.inner + position % self.inner
    }
}

/// The class axis where the values do not tell: axis 1 of a map (rank 4 and more, as ONNX lays images out), else the last.
pub(super) fn default_class_axis(rank: usize) -> usize {
    if rank >= 4 { 1 } else { rank.saturating_sub(1) }
}

/// The axis along which the baseline is a probability: non-negative, sums within 1e-3 of 1, at least two classes, on every sample. The last such axis.
pub(super) fn probability_axis(pairs: &Pairs) -> Option<usize> {
    let rank = pairs.shapes.first()?.len();
    if pairs.integer || pairs.shapes.iter().any(|s| s.len() != rank) {
        return None;
    }
    if pairs.a.iter().any(|v| v.iter().any(|x| x < 0.0)) {
        return None;
    }
    (0..rank).rev().find(|&at| {
        pairs.a.iter().zip(&pairs.shapes).all(|(values, shape)| {
            let axis = Axis::new(shape, at);
            axis.classes >= 2
                && (0..axis.positions()).all(|p| {
                    let sum: f64 = (0..axis.classes).map(|c| values.get(axis.index(p, c))).sum();
                    (sum - 1.0).abs() <= 1e-3
                })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs<'a>(a: &'a [Tensor], b: &'a [Tensor]) -> Pairs<'a> {
        Pairs::new("y", a, b).unwrap()
    }

    #[test]
    fn the_class_axis_is_found_from_the_values() {
        let map = Tensor::new(&[1, 2, 3], &[0.1_f32, 0.2, 0.3, 0.9, 0.8, 0.7]);
        let maps = [map.clone(), map];
        assert_eq!(probability_axis(&pairs(&maps, &maps)), Some(1));
        let logits = [Tensor::new(&[1, 2], &[-0.5_f32, 1.5])];
        assert_eq!(probability_axis(&pairs(&logits, &logits)), None);
        let axis = Axis::new(&[1, 2, 3], 1);
        assert_eq!((axis.positions(), axis.index(2, 1)), (3, 5));
    }

    #[test]
    fn nan_in_the_baked_output_is_never_sound_and_a_shared_infinity_is() {
        let t = |v: &[f32]| vec![Tensor::new(&[1, 2], v)];
        for (a, b, sound) in [
            ([1.0, f32::NEG_INFINITY], [1.5, f32::NEG_INFINITY], true),
            ([1.0, 2.0], [1.0, f32::NAN], false),
            ([1.0, f32::NAN], [1.0, f32::NAN], false),
            ([1.0, 2.0], [1.0, f32::INFINITY], false),
        ] {
            let (a, b) = (t(&a), t(&b));
            assert_eq!(matches!(pairs(&a, &b).health, Health::Sound), sound);
            assert_eq!(!matches!(pairs(&a, &b).health, Health::BakedNotFinite(_)), sound);
        }
        let (a, b) = (t(&[f32::NAN, 0.0]), t(&[1.0, 0.0]));
        assert!(matches!(pairs(&a, &b).health, Health::BaselineNotFinite(_)));
    }

    #[test]
    fn another_number_of_samples_is_refused() {
        let one = [Tensor::scalar(1.0_f32)];
        assert!(matches!(Pairs::new("y", &one, &[]), Err(QualityError::SampleCount { .. })));
    }
}
