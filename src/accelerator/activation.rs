//! Activations in a row: a Relu that changes nothing goes, a Clip at zero alone is a Relu.

use super::net::{self, Id, Net, input};
use crate::model::onnx::NodeProto;
use crate::model::{DType, Effect, Facts, Model, Pass, PassError, edit};

/// The pass `simplify-activations`.
#[derive(Debug, Clone, Copy, Default)]
pub struct SimplifyActivations;

impl Pass for SimplifyActivations {
    fn name(&self) -> &'static str {
        "simplify-activations"
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        let rewrites = net::edit(model, facts, |net| {
            let ids = net.ids();
            ids.into_iter().filter(|&id| relu(net, id) || clip(net, id)).count()
        });
        Ok(Effect::rewrites(rewrites, "no activation repeats the one before it"))
    }
}

/// The range that a Clip leaves, unbounded sides infinite; `None` when a bound is computed.
pub(super) fn bounds(net: &Net, node: &NodeProto) -> Option<(f64, f64)> {
    if net.opset() < 11 {
        let bound = |name: &str, default: f64| edit::attribute(node, name).and_then(|a| a.f).map_or(default, f64::from);
        let (low, high) = (bound("min", f64::NEG_INFINITY), bound("max", f64::INFINITY));
        // Exporters write the type's largest number for "none".
        let open = |v: f64| v.abs() >= f64::from(f32::MAX);
        return Some((if open(low) { f64::NEG_INFINITY } else { low }, if open(high) { f64::INFINITY } else { high }));
    }
    let bound = |position: usize, default: f64| input(node, position).map_or(Some(default), |name| net.scalar(name));
    Some((bound(1, f64::NEG_INFINITY)?, bound(2, f64::INFINITY)?))
}

/// Whether a node's results are never below zero.
fn never_negative(net: &Net, node: &NodeProto) -> bool {
    match node.op_type() {
        _ if !matches!(node.domain(), "" | "ai.onnx") => false,
        "Relu" | "Sigmoid" | "HardSigmoid" | "Softmax" | "Exp" | "Abs" | "Softplus" => true,
        "Clip" => bounds(net, node).is_some_and(|(low, high)| low >= 0.0 && high >= 0.0),
        _ => false,
    }
}

fn relu(net: &mut Net, id: Id) -> bool {
    let Some(x) = net.op(id, "Relu").and_then(|n| input(n, 0)).map(str::to_owned) else { return false };
    net.producer(&x).is_some_and(|(_, node)| never_negative(net, node)) && net.bypass(id, &x)
}

fn clip(net: &mut Net, id: Id) -> bool {
    let Some(node) = net.op(id, "Clip") else { return false };
    let Some((x, (low, high))) = input(node, 0).zip(bounds(net, node)) else { return false };
    let x = x.to_owned();
    if low == f64::NEG_INFINITY && high == f64::INFINITY {
        return net.bypass(id, &x);
    }
    if low != 0.0 {
        return false;
    }
    if high == f64::INFINITY && net.dtype(&x) == Some(DType::F32) {
        net.change(id, |node| {
            node.op_type = Some("Relu".to_owned());
            node.input.truncate(1);
            node.attribute.clear();
        });
        return true;
    }
    // Relu, then Clip from zero on: the Clip alone does both.
    let Some((inner, first)) = net.producer_op(&x, "Relu") else { return false };
    let Some(source) = input(first, 0).map(str::to_owned) else { return false };
    if high <= 0.0 || net.only_reader(&x) != Some(id) {
        return false;
    }
    net.change(id, |node| node.input[0] = source);
    net.remove_unused(inner);
    true
}
