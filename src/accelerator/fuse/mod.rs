//! Operators that an exporter wrote as several simpler ones, put together again where a standard operator of the model's opset says the same.

pub mod attention;
mod averages;
pub mod gelu;
pub mod hard_swish;
pub mod layer_norm;
pub mod softmax;

use super::net::{Id, Net, input};
use crate::model::Effect;
use crate::model::edit;
use crate::model::onnx::NodeProto;

/// The other operand of a commutative node of which one operand is the constant `value` (within a relative 1e-4, for exporters round differently).
fn other_than(net: &Net, node: &NodeProto, value: f64) -> Option<String> {
    let (a, b) = (input(node, 0)?, input(node, 1)?);
    let is = |name: &str| net.scalar(name).is_some_and(|v| (v - value).abs() <= 1e-4 * value.abs());
    if is(b) { Some(a.to_owned()) } else { is(a).then(|| b.to_owned()) }
}

/// The other operand of a two-operand node of which one is `tensor`.
fn partner(node: &NodeProto, tensor: &str) -> Option<String> {
    let (a, b) = (input(node, 0)?, input(node, 1)?);
    if a == tensor { Some(b.to_owned()) } else { (b == tensor).then(|| a.to_owned()) }
}

/// Whether a node reduces over its last axis alone and keeps it.
fn reduces_last(net: &Net, node: &NodeProto, rank: Option<usize>) -> bool {
    let axes = match input(node, 1) {
        Some(axes) => net.ints(axes),
        None => edit::ints_attribute(node, "axes").map(<[i64]>::to_vec),
    };
    let last = |a: i64| a == -1 || rank.is_some_and(|r| a + 1 == r as i64);
    edit::int_attribute(node, "keepdims", 1) != 0 && axes.is_some_and(|a| a.len() == 1 && last(a[0]))
}

/// Puts `fused` in place of the node in slot `id` and takes out what only that node needed.
fn replace(net: &mut Net, id: Id, fused: NodeProto) {
    let before: Vec<Id> =
        net.get(id).map(|n| n.input.iter().filter_map(|i| net.producer(i).map(|p| p.0)).collect()).unwrap_or_default();
    net.set(id, fused);
    for source in before {
        net.remove_unused(source);
    }
}

/// The effect of a pass that needs an opset.
fn below(net: &Net, opset: i64, found: usize, operator: &str) -> Option<Effect> {
    (net.opset() < opset && found > 0).then(|| Effect::Skipped {
        reason: format!(
            "{found} decomposed {operator} found, but the operator needs opset {opset} and the model has {}",
            net.opset()
        ),
    })
}

#[cfg(test)]
mod tests;
