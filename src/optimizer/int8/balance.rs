//! Balancing: where a few channels of an activation are much larger than the others, one scale for all of them leaves the others few codes. Each channel is
//! divided by a factor and the weights that meet it are multiplied by the same (Xiao et al. 2022, "SmoothQuant", equation 4: `s = max|x|^a / max|w|^(1-a)`).
//!
//! The factors are powers of two, so that in float arithmetic nothing changes at all, and a recipe holds them as small integers. How far to go (the exponent
//! `a`, or not at all) is decided by the error of the products on real activations, with the rounding of both operands simulated.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::candidates::DynamicSite;
use super::linear::{Operator, linear};
use super::scheme::{Codes, Layout, Range, quantise};
use crate::engine::{EngineError, Feed, LoadOptions, SharedEngine};
use crate::model::edit::Index;
use crate::model::{Facts, Model, Tensor};

/// Powers of two that the channels of an activation are divided by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balance {
    /// The activation.
    pub activation: String,
    /// One exponent per channel, its last axis.
    pub exponents: Vec<i8>,
}

impl Balance {
    /// What the channels of the activation are multiplied by.
    pub fn divisors(&self) -> Vec<f32> {
        divisors(&self.exponents)
    }

    /// `weights`, `[channels, n]`, with each row multiplied by its channel's factor; `None` when there is another number of rows.
    pub fn balanced(&self, weights: &Tensor) -> Option<Tensor> {
        balanced(weights, &self.exponents)
    }
}

fn divisors(exponents: &[i8]) -> Vec<f32> {
    exponents.iter().map(|&e| exp2(-i32::from(e))).collect()
}

fn balanced(weights: &Tensor, exponents: &[i8]) -> Option<Tensor> {
    let n = weights.len().checked_div(exponents.len())?;
    if weights.shape() != [exponents.len(), n] || n == 0 {
        return None;
    }
    let values = weights.to_f32();
    let rows = values.chunks(n).zip(exponents);
    let scaled: Vec<f32> = rows.flat_map(|(row, &e)| row.iter().map(move |v| v * exp2(i32::from(e)))).collect();
    Some(Tensor::new(weights.shape(), &scaled))
}

/// Strengths that are tried, beside none.
const STRENGTHS: [f32; 5] = [0.4, 0.5, 0.6, 0.7, 0.8];

/// The largest exponent; beyond it a channel is as good as alone.
const LARGEST: f32 = 12.0;

/// Balancing costs a multiplication per element at run time, so it has to take away this share of the squared error.
const WORTH: f64 = 0.5;

/// Feeds that the ranges come from.
const RANGE_FEEDS: usize = 16;

/// Feeds, and rows of each, that errors are measured on.
const ERROR_FEEDS: usize = 4;
const ERROR_ROWS: usize = 32;

/// Runs `model` on some of `feeds`, sets each site's error to that of its products on real activations, and returns the balances worth having.
/// `limit` is the largest code of a weight. Convolutions stay as they are.
///
/// # Errors
/// What the engine says of the model with these activations as outputs.
pub fn balance(
    engine: &SharedEngine,
    model: &Model,
    facts: &Facts,
    sites: &mut [DynamicSite],
    feeds: &[Feed],
    limit: u8,
) -> Result<Vec<Balance>, EngineError> {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, site) in sites.iter().enumerate().filter(|(_, s)| s.operator != Operator::Conv) {
        groups.entry(site.activation.clone()).or_default().push(at);
    }
    let names: Vec<String> = groups.keys().cloned().collect();
    let seen = activations(engine, model, &names, feeds)?;
    let index = Index::new(model.graph());
    let weights_of = |output: &str| -> Option<Array2<f32>> {
        let node = &model.graph().node[index.producer(output)?];
        let matrix = linear(model, &index, facts, node).ok()?.matrix;
        Array2::from_shape_vec((*matrix.shape().first()?, *matrix.shape().get(1)?), matrix.to_f32().into_owned()).ok()
    };
    let found: Vec<Option<(Vec<f64>, Option<Balance>)>> = names
        .par_iter()
        .zip(&seen)
        .map(|(name, activation)| {
            let weights: Option<Vec<_>> = groups[name].iter().map(|&at| weights_of(&sites[at].output)).collect();
            let weights = weights.filter(|w| w.iter().all(|w| w.nrows() == activation.largest.len()))?;
            let (errors, exponents) = activation.best(&weights, limit)?;
            Some((errors, exponents.map(|exponents| Balance { activation: name.clone(), exponents })))
        })
        .collect();
    let mut balances = Vec::new();
    for (name, found) in names.iter().zip(found) {
        let Some((errors, balance)) = found else { continue };
        groups[name].iter().zip(errors).for_each(|(&at, error)| sites[at].error = error.sqrt());
        balances.extend(balance);
    }
    Ok(balances)
}

/// What was seen of one activation.
#[derive(Default)]
struct Activation {
    /// Largest magnitude of each channel.
    largest: Vec<f32>,
    samples: Vec<Sample>,
}

/// One run's tensor: some of its rows, and the range of each channel over all of them.
struct Sample {
    rows: Array2<f32>,
    low: Vec<f32>,
    high: Vec<f32>,
}

/// Reads the named tensors, feed by feed.
fn activations(
    engine: &SharedEngine,
    model: &Model,
    names: &[String],
    feeds: &[Feed],
) -> Result<Vec<Activation>, EngineError> {
    let mut seen: Vec<Activation> = names.iter().map(|_| Activation::default()).collect();
    if names.is_empty() {
        return Ok(seen);
    }
    let mut session = engine.load(model, &LoadOptions { taps: names.to_vec(), ..LoadOptions::default() })?;
    let outputs = model.graph().output.len();
    for (at, feed) in feeds.iter().take(RANGE_FEEDS).enumerate() {
        for (activation, tensor) in seen.iter_mut().zip(session.run(feed)?.drain(outputs..)) {
            activation.add(&tensor, at < ERROR_FEEDS);
        }
        feed.put_down();
    }
    Ok(seen)
}

impl Activation {
    fn add(&mut self, tensor: &Tensor, keep: bool) {
        let Some(&k) = tensor.shape().last().filter(|&&k| k > 0) else { return };
        let values = tensor.to_f32();
        let (mut low, mut high) = (vec![0.0_f32; k], vec![0.0_f32; k]);
        for row in values.chunks_exact(k) {
            for ((low, high), &v) in low.iter_mut().zip(&mut high).zip(row) {
                *low = low.min(v);
                *high = high.max(v);
            }
        }
        self.largest.resize(k, 0.0);
        for ((largest, low), high) in self.largest.iter_mut().zip(&low).zip(&high) {
            *largest = largest.max(-low).max(*high);
        }
        if keep {
            let step = (values.len() / k).div_ceil(ERROR_ROWS).max(1);
            let rows: Vec<f32> = values.chunks_exact(k).step_by(step).flatten().copied().collect();
            if let Ok(rows) = Array2::from_shape_vec((rows.len() / k, k), rows) {
                self.samples.push(Sample { rows, low, high });
            }
        }
    }

    /// Relative squared error of each product, and the exponents that make their sum smallest where that is worth it. `None` without a finite error.
    fn best(&self, weights: &[Array2<f32>], limit: u8) -> Option<(Vec<f64>, Option<Vec<i8>>)> {
        let exact: Vec<Vec<Array2<f32>>> =
            weights.iter().map(|w| self.samples.iter().map(|s| s.rows.dot(w)).collect()).collect();
        let errors = |exponents: &[i8]| -> Option<Vec<f64>> {
            weights.iter().zip(&exact).map(|(w, exact)| self.error(w, exact, exponents, limit)).collect()
        };
        let none = vec![0; self.largest.len()];
        let plain = errors(&none)?;
        let tried = STRENGTHS.iter().filter_map(|&strength| {
            let exponents = exponents(&self.largest, &largest_per_row(weights), strength);
            let errors = (exponents != none).then(|| errors(&exponents)).flatten()?;
            Some((errors.iter().sum::<f64>(), exponents))
        });
        let best = tried.min_by(|a, b| a.0.total_cmp(&b.0));
        let worth = best.filter(|(error, _)| *error < (1.0 - WORTH) * plain.iter().sum::<f64>());
        Some((plain, worth.map(|(_, exponents)| exponents)))
    }

    /// `|x w - q(x) q(w)|^2 / |x w|^2` over the samples, `q` the rounding of a dynamic product.
    fn error(&self, weights: &Array2<f32>, exact: &[Array2<f32>], exponents: &[i8], limit: u8) -> Option<f64> {
        let divisors = divisors(exponents);
        let scaled = balanced(&Tensor::new(weights.shape(), weights.as_slice()?), exponents)?;
        let layout = Layout::new(scaled.shape(), &[1])?;
        let quantised = quantise(&scaled.to_f32(), layout, limit, Range::MaxAbs)?;
        let n = weights.ncols();
        let restored: Vec<f32> =
            quantised.codes.iter().enumerate().map(|(i, &q)| f32::from(q) * quantised.scales[i % n]).collect();
        let restored = ArrayView2::from_shape(weights.dim(), &restored).ok()?;
        let (mut error, mut energy) = (0.0, 0.0);
        for (sample, exact) in self.samples.iter().zip(exact) {
            let products = sample.rounded(&divisors).dot(&restored);
            error += products.iter().zip(exact).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            energy += exact.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        }
        (error.is_finite() && energy > 0.0).then(|| error / energy)
    }
}

impl Sample {
    /// The rows divided and rounded as `DynamicQuantizeLinear` does: unsigned 8 bits, one scale and zero point, zero exact.
    fn rounded(&self, divisors: &[f32]) -> Array2<f32> {
        let extreme =
            |bounds: &[f32], pick: fn(f32, f32) -> f32| bounds.iter().zip(divisors).map(|(b, d)| b * d).fold(0.0, pick);
        let (low, high) = (extreme(&self.low, f32::min), extreme(&self.high, f32::max));
        let codes = Codes::over(low, high);
        let mut rows = self.rows.clone();
        for mut row in rows.rows_mut() {
            for (v, d) in row.iter_mut().zip(divisors) {
                *v = codes.restored(*v * d);
            }
        }
        rows
    }
}

/// Exponents of two nearest to `x^strength / w^(1 - strength)`, their mean zero: what matters is how channels compare.
pub(super) fn exponents(activations: &[f32], weights: &[f32], strength: f32) -> Vec<i8> {
    let log = |(&x, &w): (&f32, &f32)| {
        (x > 0.0 && w > 0.0 && x.is_finite()).then(|| strength * x.log2() - (1.0 - strength) * w.log2())
    };
    let logs: Vec<Option<f32>> = activations.iter().zip(weights).map(log).collect();
    let known: Vec<f32> = logs.iter().flatten().copied().collect();
    let mean = known.iter().sum::<f32>() / known.len().max(1) as f32;
    logs.iter().map(|l| l.map_or(0, |l| (l - mean).round().clamp(-LARGEST, LARGEST) as i8)).collect()
}

/// Largest magnitude of each row over all matrices.
fn largest_per_row(weights: &[Array2<f32>]) -> Vec<f32> {
    let rows = weights.first().map_or(0, Array2::nrows);
    let largest = |row: usize| weights.iter().flat_map(|w| w.row(row).to_vec()).fold(0.0_f32, |m, v| m.max(v.abs()));
    (0..rows).map(largest).collect()
}

fn exp2(exponent: i32) -> f32 {
    2.0_f32.powi(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One channel a hundred times the others.
    fn lopsided() -> (Activation, Array2<f32>) {
        let x = |i: usize, k: usize| ((i * 31 + k * 17) % 23) as f32 / 11.0 - 1.0;
        let values: Vec<f32> =
            (0..16 * 8).map(|at| x(at / 8, at % 8) * if at % 8 == 3 { 100.0 } else { 1.0 }).collect();
        let mut activation = Activation::default();
        activation.add(&Tensor::new(&[2, 8, 8], &values), true);
        let weights = Array2::from_shape_fn((8, 5), |(k, n)| ((k * 7 + n * 3) % 11) as f32 / 5.0 - 1.0);
        (activation, weights)
    }

    #[test]
    fn an_outlying_channel_is_divided_most_and_the_error_of_the_products_falls() {
        let (activation, weights) = lopsided();
        assert!((activation.largest[3] - 100.0).abs() < 10.0, "{:?}", activation.largest);
        let (plain, exponents) = activation.best(std::slice::from_ref(&weights), 64).unwrap();
        let exponents = exponents.unwrap();
        assert_eq!(exponents.iter().max(), Some(&exponents[3]));
        let exact: Vec<_> = activation.samples.iter().map(|s| s.rows.dot(&weights)).collect();
        assert!(activation.error(&weights, &exact, &exponents, 64).unwrap() < 0.8 * plain[0]);
    }

    #[test]
    fn channels_alike_are_left_alone() {
        let mut activation = Activation::default();
        let values: Vec<f32> = (0..64).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        activation.add(&Tensor::new(&[8, 8], &values), true);
        let weights = Array2::from_shape_fn((8, 3), |(k, n)| if (k + n) % 3 == 0 { 0.5 } else { -0.5 });
        assert_eq!(activation.best(&[weights], 64).unwrap().1, None);
    }

    #[test]
    fn the_factors_of_activation_and_weight_cancel_exactly() {
        let balance = Balance { activation: "x".into(), exponents: vec![3, -2] };
        let weights = balance.balanced(&Tensor::new(&[2, 2], &[0.1_f32, 0.2, 0.3, 0.4])).unwrap();
        let back: Vec<f32> =
            weights.to_f32().iter().zip([0, 0, 1, 1]).map(|(w, k)| w * balance.divisors()[k]).collect();
        assert_eq!(back, [0.1, 0.2, 0.3, 0.4]);
        assert_eq!(balance.balanced(&Tensor::new(&[3, 1], &[1.0_f32; 3])), None);
    }
}
