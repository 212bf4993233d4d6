//! `exp(x - max(x)) / sum(exp(x - max(x)))` to Softmax (opset 13, where the axis means a single axis).

use super::{below, reduces_last, replace};
use crate::accelerator::net::{self, Id, Net, input};
use crate::accelerator::shapes::Shapes;
use crate::model::infer::DimExpr;
use crate::model::{Effect, Facts, Model, Pass, PassError, edit};

/// The pass `fuse-softmax`.
#[derive(Debug, Clone, Copy, Default)]
pub struct FuseSoftmax;

impl Pass for FuseSoftmax {
    fn name(&self) -> &'static str {
        "fuse-softmax"
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        Ok(net::edit(model, facts, |net| {
            if !net.ids().iter().any(|&id| net.op(id, "Exp").is_some()) {
                return Effect::Skipped { reason: NONE.to_owned() };
            }
            let shapes = Shapes::infer(net);
            let found: Vec<Id> = net.ids().into_iter().filter(|&id| matched(net, &shapes, id).is_some()).collect();
            if let Some(skipped) = below(net, 13, found.len(), "Softmax") {
                return skipped;
            }
            let mut fused = Vec::new();
            for id in found {
                let Some((x, node)) = matched(net, &shapes, id).zip(net.get(id)) else { continue };
                let name = edit::label(node);
                let mut softmax = edit::node("Softmax", &name, &[&x], &[&node.output[0]], vec![edit::int("axis", -1)]);
                softmax.metadata_props.clone_from(&node.metadata_props);
                replace(net, id, softmax);
                fused.push(format!("Softmax: {name}"));
            }
            net.sweep();
            crate::accelerator::fused(fused, NONE)
        }))
    }
}

const NONE: &str = "no softmax written with Exp, ReduceSum and Div is there";

/// x of the softmax over the last axis whose division stands in slot `id`.
fn matched(net: &Net, shapes: &Shapes, id: Id) -> Option<String> {
    let div = net.op(id, "Div")?;
    let (exp_of, sum_of) = (input(div, 0)?, input(div, 1)?);
    let (_, exp) = net.producer_op(exp_of, "Exp")?;
    let (_, sum) =
        net.producer_op(&same(net, sum_of)?, "ReduceSum").or_else(|| net.producer_op(sum_of, "ReduceSum"))?;
    let (_, sub) = net.producer_op(input(exp, 0)?, "Sub")?;
    let x = input(sub, 0)?;
    let max_of = input(sub, 1)?;
    let (_, max) = net.producer_op(&same(net, max_of)?, "ReduceMax")?;
    let rank = shapes.rank(net, x)?;
    let last = reduces_last_or_restored(net, shapes, sum, sum_of, rank)
        && reduces_last_or_restored(net, shapes, max, max_of, rank);
    (input(sum, 0) == Some(exp_of) && input(max, 0) == Some(x) && last).then(|| x.to_owned())
}

/// The reduction behind what may only restore its dropped axis (Reshape, Unsqueeze, an Expand that repeats nothing) or bound it by minus infinity (Max).
fn same(net: &Net, tensor: &str) -> Option<String> {
    let (_, node) = net.producer(tensor)?;
    match node.op_type() {
        "ReduceSum" | "ReduceMax" => Some(tensor.to_owned()),
        "Reshape" | "Unsqueeze" | "Expand" => same(net, input(node, 0)?),
        "Max" => {
            let (a, b) = (input(node, 0)?, input(node, 1)?);
            let open = |name: &str| net.scalar(name) == Some(f64::NEG_INFINITY);
            if open(a) { same(net, b) } else { open(b).then(|| same(net, a))? }
        }
        _ => None,
    }
}

/// Whether a reduction is over the last axis and `used`, what is made of it, has that axis with extent one: then it lines up with x again.
fn reduces_last_or_restored(
    net: &Net,
    shapes: &Shapes,
    node: &crate::model::onnx::NodeProto,
    used: &str,
    rank: usize,
) -> bool {
    if reduces_last(net, node, Some(rank)) {
        return node.output.first().is_some_and(|o| o == used) || restored(net, shapes, node, used, rank);
    }
    let mut kept = node.clone();
    kept.attribute.retain(|a| a.name() != "keepdims");
    reduces_last(net, &kept, Some(rank)) && restored(net, shapes, node, used, rank)
}

fn restored(net: &Net, shapes: &Shapes, node: &crate::model::onnx::NodeProto, used: &str, rank: usize) -> bool {
    let Some((x, shape)) = input(node, 0).and_then(|x| shapes.get(net, x)).zip(shapes.get(net, used)) else {
        return false;
    };
    let mut expected = x;
    if let Some(last) = expected.last_mut() {
        *last = DimExpr::Known(1);
    }
    shape.len() == rank && shape == expected
}
