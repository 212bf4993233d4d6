//! Which operators do not mind the order of the axes, and what changes in them when it does.

use std::collections::BTreeMap;

use crate::accelerator::evaluate::{axis, movement::transposed};
use crate::accelerator::net::{Id, Net, input};
use crate::model::infer::{broadcasts, unary};
use crate::model::onnx::NodeProto;
use crate::model::{Tensor, edit};

/// What has to be adapted in a node of a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing beside the names.
    Plain,
    /// Constant operands turn with the axes.
    Broadcast,
    /// The attribute `axis`.
    Axis(i64),
    /// A list per axis, begins before ends (`pads`): values in the new order, and the position of the input that holds them.
    Pads(Vec<i64>, Option<usize>),
    /// A list of axes, and the position of the input that holds them.
    Axes(Vec<i64>, Option<usize>),
}

/// The inputs of a node that carry the axes.
pub(super) fn data_inputs(node: &NodeProto) -> impl Iterator<Item = &str> {
    let count = if broadcasts(node.op_type()) || node.op_type() == "Concat" { node.input.len() } else { 1 };
    node.input.iter().take(count).map(String::as_str).filter(|i| !i.is_empty())
}

/// What changes in `node` when its data comes in the order before a Transpose of `perm`; `None` when the node does mind.
pub(super) fn plan(net: &Net, node: &NodeProto, perm: &[usize]) -> Option<Plan> {
    if !matches!(node.domain(), "" | "ai.onnx") || net.opset() < 7 {
        return None;
    }
    let rank = perm.len();
    let moved = |a: i64| axis(a, rank).map(|a| perm[a] as i64);
    match node.op_type() {
        op if unary(op) || op == "Cast" => Some(Plan::Plain),
        op if broadcasts(op) => {
            let fits = |name: &str| net.constant_info(name).is_none_or(|(_, shape)| shape.len() <= rank);
            data_inputs(node).all(fits).then_some(Plan::Broadcast)
        }
        "Concat" => {
            // Constant parts would have to be turned whole; leave those to the engine.
            let constant = node.input.iter().any(|i| net.is_constant(i));
            (!constant).then(|| moved(edit::int_attribute(node, "axis", 0)).map(Plan::Axis))?
        }
        "Softmax" | "LogSoftmax" if net.opset() >= 13 => moved(edit::int_attribute(node, "axis", -1)).map(Plan::Axis),
        "Split" => moved(edit::int_attribute(node, "axis", 0)).map(Plan::Axis),
        "QuantizeLinear" | "DequantizeLinear" => net.scalar(input(node, 1)?).map(|_| Plan::Plain),
        "Pad" => {
            let at = (net.opset() >= 11).then_some(1);
            let pads = match at {
                Some(at) => net.ints(input(node, at)?)?,
                None => edit::ints_attribute(node, "pads")?.to_vec(),
            };
            if pads.len() != 2 * rank || input(node, 3).is_some() {
                return None;
            }
            let mut turned = pads.clone();
            for a in 0..rank {
                (turned[perm[a]], turned[rank + perm[a]]) = (pads[a], pads[rank + a]);
            }
            Some(Plan::Pads(turned, at))
        }
        "Slice" if net.opset() >= 10 => {
            let count = net.ints(input(node, 1)?)?.len();
            let axes = match input(node, 3) {
                Some(axes) => net.ints(axes)?,
                None => (0..count as i64).collect(),
            };
            Some(Plan::Axes(axes.into_iter().map(moved).collect::<Option<_>>()?, Some(3)))
        }
        op if op.starts_with("Reduce") && edit::int_attribute(node, "keepdims", 1) != 0 => {
            let (axes, at) = reduced(net, node)?;
            Some(Plan::Axes(axes.into_iter().map(moved).collect::<Option<_>>()?, at))
        }
        _ => None,
    }
}

/// The axes that a reduction names, and the position of the input that holds them.
fn reduced(net: &Net, node: &NodeProto) -> Option<(Vec<i64>, Option<usize>)> {
    match input(node, 1) {
        Some(axes) => Some((net.ints(axes)?, Some(1))),
        None => Some((edit::ints_attribute(node, "axes")?.to_vec(), None)),
    }
    .filter(|(axes, _)| !axes.is_empty())
}

impl Plan {
    /// Rewrites the node in slot `id`: names by `names`, constants and attributes by the plan.
    pub(super) fn apply(&self, net: &mut Net, id: Id, perm: &[usize], names: &BTreeMap<String, String>) {
        let Some(node) = net.get(id) else { return };
        let data: Vec<String> = data_inputs(node).map(str::to_owned).collect();
        let mut node = node.clone();
        let data_count = data.len();
        for (position, name) in node.input.iter_mut().enumerate().take(data_count.max(1)) {
            if let Some(moved) = names.get(name.as_str()) {
                moved.clone_into(name);
            } else if *self == Self::Broadcast
                && position < data_count
                && let Some(turned) = net.constant(name).and_then(|c| turned(&c, perm))
            {
                *name = net.add_constant(&format!("{name}_moved"), &turned);
            }
        }
        for output in &mut node.output {
            if let Some(moved) = names.get(output.as_str()) {
                moved.clone_into(output);
            }
        }
        match self {
            Self::Plain | Self::Broadcast => {}
            Self::Axis(axis) => set(&mut node, edit::int("axis", *axis)),
            Self::Pads(values, at) => set_list(net, &mut node, "pads", values, *at),
            Self::Axes(values, at) => set_list(net, &mut node, "axes", values, *at),
        }
        net.set(id, node);
    }
}

/// A constant operand in the order before the Transpose; `None` when it is the same either way.
fn turned(constant: &Tensor, perm: &[usize]) -> Option<Tensor> {
    if constant.len() == 1 {
        return None;
    }
    let lead = perm.len().checked_sub(constant.shape().len())?;
    let shape = [&vec![1; lead], constant.shape()].concat();
    transposed(&constant.reshaped(shape).ok()?, &super::inverse(perm))
}

fn set(node: &mut NodeProto, attribute: crate::model::onnx::AttributeProto) {
    node.attribute.retain(|a| a.name() != attribute.name());
    node.attribute.push(attribute);
}

fn set_list(net: &mut Net, node: &mut NodeProto, name: &str, values: &[i64], at: Option<usize>) {
    let Some(at) = at else { return set(node, edit::ints(name, values)) };
    let stem = format!("{}_{name}", node.output.first().map_or("", String::as_str));
    let constant = net.add_constant(&stem, &Tensor::new(&[values.len()], values));
    node.input.resize(node.input.len().max(at + 1), String::new());
    node.input[at] = constant;
}

/// A reduction that drops its axes and so can read the order before the Transpose: what is left stands in the same order.
pub(super) struct Absorbed {
    axes: Vec<i64>,
    at: Option<usize>,
}

/// Whether the node in a slot absorbs a Transpose of `perm` in front of it.
pub(super) fn absorbs(net: &Net, id: Id, perm: &[usize]) -> Option<Absorbed> {
    let node = net.get(id).filter(|n| matches!(n.domain(), "" | "ai.onnx") && n.op_type().starts_with("Reduce"))?;
    if edit::int_attribute(node, "keepdims", 1) != 0 {
        return None;
    }
    let (axes, at) = reduced(net, node)?;
    let axes = axes.into_iter().map(|a| axis(a, perm.len())).collect::<Option<Vec<_>>>()?;
    let kept = (0..perm.len()).filter(|a| !axes.contains(a)).map(|a| perm[a]);
    kept.is_sorted().then(|| Absorbed { axes: axes.iter().map(|&a| perm[a] as i64).collect(), at })
}

impl Absorbed {
    /// Lets the reduction in slot `id` read `source`.
    pub(super) fn apply(&self, net: &mut Net, id: Id, source: &str) {
        let Some(mut node) = net.get(id).cloned() else { return };
        source.clone_into(&mut node.input[0]);
        set_list(net, &mut node, "axes", &self.axes, self.at);
        net.set(id, node);
    }
}
