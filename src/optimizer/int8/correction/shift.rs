//! How far rounding shifts the outputs of a product on average: what its weights make of the mean of its activation, before less after.

use super::super::linear::{Operator, linear};
use super::super::qdq::StaticInt8;
use super::super::row::Row;
use super::Correction;
use super::means::{Activation, Means};
use crate::model::edit::{Index, int_attribute, is_op};
use crate::model::onnx::NodeProto;
use crate::model::{DType, Facts, Model, Tensor};
use crate::optimizer::driver::Work;

/// A product that a plan computes on codes and whose row can be corrected.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Product {
    pub(super) output: String,
    /// What it reads.
    pub(super) activation: Activation,
    /// Position of its node in the float model.
    at: usize,
    groups: usize,
}

/// Everything that `plan` computes on codes and that has a row, in graph order.
pub(super) fn products(model: &Model, facts: &Facts, plan: &StaticInt8) -> Vec<Product> {
    let index = Index::new(model.graph());
    let listed = plan.nodes.iter().filter_map(|node| index.producer(&node.output));
    let mut listed: Vec<usize> = listed.collect();
    listed.sort_unstable();
    let product = |at: usize| {
        let node = &model.graph().node[at];
        let found = linear(model, &index, facts, node).ok()?;
        Row::of(model, &index, at, &found)?;
        let codes = plan.activations.iter().find(|a| a.tensor == found.activation)?;
        let (last, shape) = (found.operator != Operator::Conv, found.matrix.shape());
        let groups = if last { 1 } else { usize::try_from(int_attribute(node, "group", 1)).ok()?.max(1) };
        let channels = if last { shape[0] } else { groups * shape[1] };
        let activation = Activation::new(&found.activation, last, channels, codes.scale as f32, codes.zero_point);
        Some(Product { output: node.output[0].clone(), activation, at, groups })
    };
    listed.into_iter().filter_map(product).collect()
}

/// What gives each of `products` of the float model its mean back in `quantised`, which computes with rounded weights; without those that are not shifted.
pub(super) fn corrections(products: &[Product], float: &Work, quantised: &Model, means: &Means) -> Vec<Correction> {
    let (exact, rounded) = (Index::new(float.model.graph()), Index::new(quantised.graph()));
    let correction = |product: &Product| {
        let mean = means.of(&product.activation)?;
        let found = linear(&float.model, &exact, &float.facts, &float.model.graph().node[product.at]).ok()?;
        let restored = restored(quantised, &rounded, &product.output)?;
        if restored.shape() != found.matrix.shape() {
            return None;
        }
        let groups = (found.operator == Operator::Conv).then_some(product.groups);
        let exact = expected(&found.matrix, groups, &mean.exact);
        // The quantised weights have the factor of the products in them.
        let rounded = expected(&restored, groups, &mean.rounded);
        let shifts = exact.iter().zip(&rounded).map(|(exact, rounded)| exact * f64::from(found.alpha) - rounded);
        let values: Vec<f32> = shifts.map(|shift| shift as f32).collect();
        let shifted = values.iter().all(|v| v.is_finite()) && values.iter().any(|v| *v != 0.0);
        shifted.then(|| Correction { output: product.output.clone(), values })
    };
    products.iter().filter_map(correction).collect()
}

/// The mean of every output channel, given that of every input channel. Weights are `[k, n]`, or of a convolution with `groups` `[n, channels / group, kernel...]`, every
/// position of whose kernel meets the same mean.
fn expected(weights: &Tensor, groups: Option<usize>, means: &[f64]) -> Vec<f64> {
    let (values, shape) = (weights.to_f32(), weights.shape());
    let Some(groups) = groups else {
        let mut sums = vec![0.0; shape[1]];
        for (row, mean) in values.chunks_exact(shape[1]).zip(means) {
            sums.iter_mut().zip(row).for_each(|(sum, weight)| *sum += f64::from(*weight) * mean);
        }
        return sums;
    };
    let (of_each, inner) = (shape[1], shape[2..].iter().product::<usize>());
    let outputs = (shape[0] / groups).max(1);
    let kernels = values.chunks_exact(of_each * inner).enumerate();
    let sum = |(output, kernel): (usize, &[f32])| {
        let met = means.iter().skip(output / outputs * of_each);
        let taps = kernel.chunks_exact(inner).map(|taps| taps.iter().map(|&weight| f64::from(weight)).sum::<f64>());
        taps.zip(met).map(|(weight, mean)| weight * mean).sum()
    };
    kernels.map(sum).collect()
}

/// The weights that a quantised model computes `output` with: codes times scales, as its `DequantizeLinear` restores them. `None` where it does not compute on codes.
fn restored(model: &Model, index: &Index, output: &str) -> Option<Tensor> {
    let made = |tensor: &str| index.producer(tensor).map(|at| &model.graph().node[at]);
    let mut product = made(output)?;
    // Where everyone reads the rounded values, those have the name.
    if is_op(product, "DequantizeLinear") {
        let codes = made(product.input.first()?).filter(|node| is_op(node, "QuantizeLinear"))?;
        product = made(codes.input.first()?)?;
    }
    let dequantize: &NodeProto = made(product.input.get(1)?).filter(|node| is_op(node, "DequantizeLinear"))?;
    let [codes, scales] = [0, 1].map(|at| dequantize.input.get(at).and_then(|name| model.constant(index, name)));
    let (codes, scales) = (codes.filter(|codes| codes.dtype() == DType::I8)?, scales?.to_f32().into_owned());
    let axis = usize::try_from(int_attribute(dequantize, "axis", 1)).ok()?;
    if codes.shape().get(axis) != Some(&scales.len()) {
        return None;
    }
    let inner = codes.shape()[axis + 1..].iter().product::<usize>().max(1);
    let values = codes.to_f32();
    let restore = |(at, code): (usize, &f32)| code * scales[at / inner % scales.len()];
    Some(Tensor::new(codes.shape(), &values.iter().enumerate().map(restore).collect::<Vec<f32>>()))
}
