//! Clean-up: nodes that change nothing go, chains that move or reshape in several steps do it in one.

mod arithmetic;
mod branch;
mod movement;

use super::net::{self, Id, Net, input};
use super::shapes::Shapes;
use crate::model::{DType, Effect, Facts, Model, Pass, PassError, edit};

/// The pass `clean-up`.
#[derive(Debug, Clone, Copy, Default)]
pub struct CleanUp;

impl Pass for CleanUp {
    fn name(&self) -> &'static str {
        "clean-up"
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        let rewrites = net::edit(model, facts, |net| {
            let shapes = Shapes::infer(net);
            let mut rewrites = 0;
            for id in net.ids() {
                rewrites += usize::from(clean(net, &shapes, id));
            }
            if rewrites > 0 {
                net.sweep();
            }
            rewrites
        });
        Ok(Effect::rewrites(
            rewrites,
            "no node is without effect and no chain of reshapes or transposes can be shortened",
        ))
    }
}

fn clean(net: &mut Net, shapes: &Shapes, id: Id) -> bool {
    let Some(node) = net.get(id) else { return false };
    if !matches!(node.domain(), "" | "ai.onnx") {
        return false;
    }
    match node.op_type() {
        "Identity" => bypass(net, id, 0),
        "Dropout" => dropout(net, id),
        "Cast" => cast(net, id),
        "Concat" | "Sum" | "Mean" | "Max" | "Min" if node.input.len() == 1 => bypass(net, id, 0),
        "Transpose" => movement::transpose(net, shapes, id),
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => movement::reshape(net, shapes, id),
        "Expand" | "Tile" | "Pad" | "Slice" => movement::keeps_all(net, shapes, id) && bypass(net, id, 0),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" => arithmetic::neutral(net, shapes, id),
        "Where" => arithmetic::known_condition(net, shapes, id),
        "If" => branch::inline(net, id),
        _ => false,
    }
}

fn bypass(net: &mut Net, id: Id, position: usize) -> bool {
    let Some(to) = net.get(id).and_then(|n| input(n, position)).map(str::to_owned) else { return false };
    net.bypass(id, &to)
}

fn dropout(net: &mut Net, id: Id) -> bool {
    let Some(node) = net.get(id) else { return false };
    let training = match (net.opset(), input(node, 2)) {
        (..=6, _) => true,
        (_, Some(flag)) => net.ints(flag).is_none_or(|v| v.iter().any(|&b| b != 0)),
        (_, None) => false,
    };
    let masked = node.output.iter().skip(1).any(|mask| !net.unused(mask));
    !training && !masked && bypass(net, id, 0)
}

fn cast(net: &mut Net, id: Id) -> bool {
    let target = |node| i32::try_from(edit::int_attribute(node, "to", 0)).ok().and_then(DType::from_onnx);
    let Some((node, from)) = net.get(id).and_then(|n| Some((n, input(n, 0)?))) else { return false };
    let Some(to) = target(node) else { return false };
    if net.dtype(from) == Some(to) {
        return bypass(net, id, 0);
    }
    // A cast that keeps every value, before another cast, adds nothing.
    let Some((inner, first)) = net.producer_op(from, "Cast") else { return false };
    let Some(source) = input(first, 0).map(str::to_owned) else { return false };
    let lossless = net.dtype(&source).zip(target(first)).is_some_and(|(a, b)| keeps_every_value(a, b));
    if lossless {
        net.change(id, |node| node.input[0] = source);
        net.remove_unused(inner);
    }
    lossless
}

fn keeps_every_value(from: DType, to: DType) -> bool {
    use DType::{BF16, Bool, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
    match from {
        Bool => to != Bool,
        F16 | BF16 => matches!(to, F32 | F64),
        F32 => to == F64,
        I8 => matches!(to, I16 | I32 | I64 | F32 | F64),
        U8 => matches!(to, I16 | I32 | I64 | U16 | U32 | U64 | F32 | F64),
        I16 => matches!(to, I32 | I64 | F32 | F64),
        U16 => matches!(to, I32 | I64 | U32 | U64 | F32 | F64),
        I32 => matches!(to, I64 | F64),
        U32 => matches!(to, I64 | U64 | F64),
        I64 | U64 | F64 => false,
    }
}

#[cfg(test)]
mod tests;
