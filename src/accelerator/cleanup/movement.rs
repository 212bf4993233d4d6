//! No-op and chained Transpose, Reshape, Slice, Pad, Expand and Tile.

use crate::accelerator::evaluate::{axis, movement::permutation};
use crate::accelerator::net::{Id, Net, input};
use crate::accelerator::shapes::{Shapes, is_extent, list};
use crate::model::infer::{DimExpr, Num, OPEN_END};
use crate::model::onnx::NodeProto;
use crate::model::{Tensor, edit};

pub(super) fn transpose(net: &mut Net, shapes: &Shapes, id: Id) -> bool {
    let Some((node, from)) = net.get(id).and_then(|n| Some((n, input(n, 0)?.to_owned()))) else { return false };
    let rank = edit::ints_attribute(node, "perm").map(<[_]>::len).or_else(|| shapes.rank(net, &from));
    let Some(perm) = rank.and_then(|rank| permutation(node, rank)) else { return false };
    if perm.is_sorted() {
        return net.bypass(id, &from);
    }
    let Some((inner, first)) = net.producer_op(&from, "Transpose") else { return over_unsqueeze(net, id, &perm) };
    let Some((source, before)) = input(first, 0).map(str::to_owned).zip(permutation(first, perm.len())) else {
        return false;
    };
    let both: Vec<i64> = perm.iter().map(|&p| before[p] as i64).collect();
    if both.is_sorted() {
        if !net.bypass(id, &source) {
            return false;
        }
    } else {
        net.change(id, |node| {
            node.input[0] = source;
            node.attribute = vec![edit::ints("perm", &both)];
        });
    }
    net.remove_unused(inner);
    true
}

/// Transpose, Unsqueeze, Transpose: the second Transpose moves in front of the Unsqueeze and into the first.
fn over_unsqueeze(net: &mut Net, id: Id, perm: &[usize]) -> bool {
    let found = || -> Option<_> {
        let from = input(net.get(id)?, 0)?;
        let (middle, unsqueeze) = net.producer_op(from, "Unsqueeze")?;
        let between = input(unsqueeze, 0)?;
        let (inner, first) = net.producer_op(between, "Transpose")?;
        let alone = net.only_reader(from) == Some(id) && net.only_reader(between) == Some(middle);
        let axes = list(net, unsqueeze, 1, "axes").filter(|_| alone)?;
        let axes = axes.iter().map(|&a| axis(a, perm.len())).collect::<Option<Vec<_>>>()?;
        let before = permutation(first, perm.len().checked_sub(axes.len())?)?;
        // Where the new axes stand behind the second Transpose, and where the others come from.
        let new: Vec<i64> = (0..perm.len()).filter(|&i| axes.contains(&perm[i])).map(|i| i as i64).collect();
        let old = perm.iter().filter(|p| !axes.contains(p));
        let both: Vec<i64> = old.map(|&p| before[p - axes.iter().filter(|&&a| a < p).count()] as i64).collect();
        Some((middle, inner, input(first, 0)?.to_owned(), unsqueeze.input.len() > 1, new, both))
    };
    let Some((middle, inner, source, as_input, new, both)) = found() else { return false };
    let Some(output) = net.get(id).and_then(|n| n.output.first()).cloned() else { return false };
    let source = if both.is_sorted() {
        source
    } else {
        let moved = net.fresh_name(&format!("{output}_moved"));
        net.insert(inner, edit::node("Transpose", &moved, &[&source], &[&moved], vec![edit::ints("perm", &both)]));
        moved
    };
    let axes = as_input.then(|| net.add_constant(&format!("{output}_axes"), &Tensor::new(&[new.len()], &new)));
    net.change(id, |node| {
        node.op_type = Some("Unsqueeze".to_owned());
        node.attribute = if axes.is_none() { vec![edit::ints("axes", &new)] } else { vec![] };
        node.input = std::iter::once(source).chain(axes).collect();
    });
    net.remove_unused(middle);
    true
}

/// Reshape, Flatten, Squeeze, Unsqueeze: gone when the shape stays, one Reshape in place of a chain.
pub(super) fn reshape(net: &mut Net, shapes: &Shapes, id: Id) -> bool {
    let Some((output, from)) = net.get(id).and_then(|n| Some((n.output.first()?.clone(), input(n, 0)?.to_owned())))
    else {
        return false;
    };
    let Some(to) = shapes.get(net, &output) else { return false };
    if shapes.get(net, &from).as_ref() == Some(&to) {
        return net.bypass(id, &from);
    }
    // Only a tensor that nothing else reads: otherwise the earlier step has to be computed anyway.
    let Some((inner, first)) = net.producer(&from) else { return false };
    if net.only_reader(&from) != Some(id) || !keeps_order(net, shapes, first) {
        return false;
    }
    let Some(source) = input(first, 0).map(str::to_owned) else { return false };
    let Some(source_shape) = shapes.get(net, &source) else { return false };
    if source_shape == to {
        if !net.bypass(id, &source) {
            return false;
        }
        net.remove_unused(inner);
        return true;
    }
    // Below opset 5 the target is an attribute; such models are left alone.
    let Some(target) = Shapes::reshape_target(&source_shape, &to).filter(|_| net.opset() >= 5) else { return false };
    let name = net.add_constant(&format!("{output}_shape"), &Tensor::new(&[target.len()], &target));
    net.change(id, |node| {
        node.op_type = Some("Reshape".to_owned());
        node.input = vec![source, name];
        node.attribute.clear();
    });
    net.remove_unused(inner);
    true
}

/// Whether a node gives its input's elements in the same order: a reshape of any kind, or a Transpose that only moves axes of extent one.
fn keeps_order(net: &Net, shapes: &Shapes, node: &NodeProto) -> bool {
    if !matches!(node.domain(), "" | "ai.onnx") {
        return false;
    }
    match node.op_type() {
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => true,
        "Transpose" => {
            let Some(shape) = input(node, 0).and_then(|x| shapes.get(net, x)) else { return false };
            permutation(node, shape.len())
                .is_some_and(|perm| perm.into_iter().filter(|&p| shape[p] != DimExpr::Known(1)).is_sorted())
        }
        _ => false,
    }
}

/// Whether an Expand, Tile, Pad or Slice gives back its whole input.
pub(super) fn keeps_all(net: &Net, shapes: &Shapes, id: Id) -> bool {
    let Some(node) = net.get(id) else { return false };
    match node.op_type() {
        "Expand" => expands_nothing(net, shapes, node).unwrap_or(false),
        "Tile" => constant_input(net, node, 1).is_some_and(|repeats| repeats.iter().all(|&r| r == 1)),
        "Pad" => {
            let pads = if net.opset() >= 11 {
                constant_input(net, node, 1)
            } else {
                edit::ints_attribute(node, "pads").map(<[i64]>::to_vec)
            };
            pads.is_some_and(|pads| pads.iter().all(|&p| p == 0))
        }
        _ => covers_all(net, shapes, node).unwrap_or(false),
    }
}

fn constant_input(net: &Net, node: &NodeProto, position: usize) -> Option<Vec<i64>> {
    net.ints(input(node, position)?)
}

fn expands_nothing(net: &Net, shapes: &Shapes, node: &NodeProto) -> Option<bool> {
    let (x, target) = (input(node, 0)?, input(node, 1)?);
    let rank = shapes.rank(net, x)?;
    let target = shapes.values(net, target)?.nums;
    if target.len() > rank {
        return Some(false);
    }
    if target.iter().all(|d| *d == Num::Int(1)) {
        return Some(true);
    }
    let shape = shapes.get(net, x)?;
    let own = &shape[rank - target.len()..];
    Some(target.iter().zip(own).all(|(t, d)| *t == Num::Int(1) || is_extent(t, d)))
}

fn covers_all(net: &Net, shapes: &Shapes, node: &NodeProto) -> Option<bool> {
    let x = input(node, 0)?;
    let (starts, ends) = (list(net, node, 1, "starts")?, list(net, node, 2, "ends")?);
    let axes = match list(net, node, 3, "axes") {
        Some(axes) => axes,
        None if input(node, 3).is_some() => return None,
        None => (0..starts.len() as i64).collect(),
    };
    let steps = if input(node, 4).is_some() { list(net, node, 4, "steps")? } else { vec![1; starts.len()] };
    let shape = shapes.get(net, x);
    let rank = shapes.rank(net, x)?;
    let whole = |i: usize| -> Option<bool> {
        let at = axis(*axes.get(i)?, rank)?;
        let extent = shape.as_ref().map(|s| &s[at]);
        let end = *ends.get(i)?;
        let reaches = match extent {
            Some(DimExpr::Known(n)) => usize::try_from(end).is_ok_and(|end| end >= *n),
            _ => end >= OPEN_END,
        };
        Some(starts[i] == 0 && steps.get(i) == Some(&1) && reaches)
    };
    (0..starts.len()).map(whole).try_fold(true, |all, one| Some(all && one?))
}
