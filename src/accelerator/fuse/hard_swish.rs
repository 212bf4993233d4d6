//! `x * clip(x + 3, 0, 6) / 6` to `HardSwish` (opset 14; Howard et al. 2019), or to `HardSigmoid` and a Mul below.

use super::{other_than, partner, replace};
use crate::accelerator::activation::bounds;
use crate::accelerator::net::{self, Id, Net, input};
use crate::model::onnx::NodeProto;
use crate::model::{DType, Effect, Facts, Model, Pass, PassError, edit};

/// The pass `fuse-hard-swish`.
#[derive(Debug, Clone, Copy, Default)]
pub struct FuseHardSwish;

impl Pass for FuseHardSwish {
    fn name(&self) -> &'static str {
        "fuse-hard-swish"
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        let fused = net::edit(model, facts, |net| {
            let mut fused = Vec::new();
            for id in net.ids() {
                fused.extend(swish(net, id).or_else(|| sigmoid(net, id)));
            }
            net.sweep();
            fused
        });
        Ok(crate::accelerator::fused(fused, "no activation written as x * clip(x + 3, 0, 6) / 6 is there"))
    }
}

/// x of `clip(x + 3, 0, 6)`.
fn ramp(net: &Net, tensor: &str) -> Option<String> {
    let (_, clip) = net.producer_op(tensor, "Clip")?;
    let range = bounds(net, clip)?;
    let x = other_than(net, net.producer_op(input(clip, 0)?, "Add")?.1, 3.0)?;
    (range == (0.0, 6.0) && net.dtype(&x) == Some(DType::F32)).then_some(x)
}

/// What a node divides by six.
fn sixth(net: &Net, node: &NodeProto) -> Option<String> {
    match node.op_type() {
        "Div" => net.scalar(input(node, 1)?).filter(|&v| v == 6.0).and(input(node, 0)).map(str::to_owned),
        "Mul" => other_than(net, node, 1.0 / 6.0),
        _ => None,
    }
}

/// x of `clip(x + 3, 0, 6) / 6`, however it is written.
fn gate(net: &Net, tensor: &str) -> Option<String> {
    let (_, node) = net.producer(tensor)?;
    if edit::is_op(node, "HardSigmoid") {
        let alpha = edit::float_attribute(node, "alpha", 0.2);
        let beta = edit::float_attribute(node, "beta", 0.5);
        return ((alpha - 1.0 / 6.0).abs() < 1e-6 && beta == 0.5).then(|| input(node, 0).map(str::to_owned))?;
    }
    ramp(net, &sixth(net, node)?)
}

/// x of the hard swish that ends in slot `id`.
fn matched(net: &Net, id: Id) -> Option<String> {
    let last = net.get(id).filter(|n| matches!(n.domain(), "" | "ai.onnx"))?;
    if let Some(product) = sixth(net, last)
        && let Some((_, product)) = net.producer_op(&product, "Mul")
    {
        let (a, b) = (input(product, 0)?, input(product, 1)?);
        let pair = |x: &str, g: &str| ramp(net, g).filter(|of| of == x);
        if let Some(x) = pair(a, b).or_else(|| pair(b, a)) {
            return Some(x);
        }
    }
    let product = net.op(id, "Mul")?;
    let (a, b) = (input(product, 0)?, input(product, 1)?);
    gate(net, b).filter(|x| x == a).or_else(|| gate(net, a).filter(|x| x == b))
}

fn swish(net: &mut Net, id: Id) -> Option<String> {
    let x = matched(net, id)?;
    let node = net.get(id)?;
    let (name, output, metadata) = (edit::label(node), node.output.first()?.clone(), node.metadata_props.clone());
    if net.opset() >= 14 {
        let mut fused = edit::node("HardSwish", &name, &[&x], &[&output], vec![]);
        fused.metadata_props = metadata;
        replace(net, id, fused);
        return Some(format!("HardSwish: {name}"));
    }
    // Already the shorter form.
    let short = partner(node, &x).is_some_and(|g| net.producer_op(&g, "HardSigmoid").is_some());
    if short || net.opset() < 6 {
        return None;
    }
    let gate = net.fresh_name(&format!("{output}_gate"));
    let sigmoid = edit::node("HardSigmoid", &format!("{name}_gate"), &[&x], &[&gate], slope());
    net.insert(id, sigmoid);
    let mut fused = edit::node("Mul", &name, &[&x, &gate], &[&output], vec![]);
    fused.metadata_props = metadata;
    replace(net, id, fused);
    Some(format!("HardSigmoid+Mul: {name}"))
}

/// A gate alone, as squeeze-and-excitation blocks use it.
fn sigmoid(net: &mut Net, id: Id) -> Option<String> {
    let node = net.get(id).filter(|n| matches!(n.domain(), "" | "ai.onnx"))?;
    let x = ramp(net, &sixth(net, node)?).filter(|_| net.opset() >= 6)?;
    let name = edit::label(node);
    let mut fused = edit::node("HardSigmoid", &name, &[&x], &[node.output.first()?], slope());
    fused.metadata_props.clone_from(&node.metadata_props);
    replace(net, id, fused);
    Some(format!("HardSigmoid: {name}"))
}

fn slope() -> Vec<crate::model::onnx::AttributeProto> {
    vec![edit::float("alpha", 1.0 / 6.0), edit::float("beta", 0.5)]
}
