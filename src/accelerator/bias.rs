//! Constant factors and summands behind a linear operator go into its weight and bias; a `MatMul` with a bias becomes a Gemm; constants in a row become one.

use super::evaluate::{Call, evaluate};
use super::linear::{Affine, Linear};
use super::net::{self, Id, Net, input};
use super::shapes::Shapes;
use crate::model::{DType, Effect, Facts, Model, Pass, PassError, edit};

/// The pass `fold-bias`.
#[derive(Debug, Clone, Copy, Default)]
pub struct FoldBias;

impl Pass for FoldBias {
    fn name(&self) -> &'static str {
        "fold-bias"
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        let fused = net::edit(model, facts, |net| {
            let shapes = Shapes::infer(net);
            let mut fused = Vec::new();
            for id in net.ids() {
                let found = fold(net, &shapes, id).or_else(|| gemm(net, &shapes, id)).or_else(|| merge(net, id));
                fused.extend(found);
            }
            if !fused.is_empty() {
                net.sweep();
            }
            fused
        });
        Ok(super::fused(fused, "no constant is added to or multiplied with the result of a Conv, Gemm or MatMul"))
    }
}

/// The constant operand and the other one, in the order (other, constant), and whether the constant comes first.
fn operands(net: &Net, id: Id) -> Option<(String, String, bool)> {
    let node = net.get(id).filter(|n| matches!(n.domain(), "" | "ai.onnx") && n.input.len() == 2)?;
    let (a, b) = (input(node, 0)?, input(node, 1)?);
    match (net.is_constant(a), net.is_constant(b)) {
        (false, true) => Some((a.to_owned(), b.to_owned(), false)),
        (true, false) => Some((b.to_owned(), a.to_owned(), true)),
        _ => None,
    }
}

fn fold(net: &mut Net, shapes: &Shapes, id: Id) -> Option<String> {
    let op = net.get(id)?.op_type().to_owned();
    if !matches!(op.as_str(), "Add" | "Sub" | "Mul" | "Div") || net.opset() < 7 {
        return None;
    }
    let (x, constant, first) = operands(net, id)?;
    let linear = Linear::before(net, &x, id)?;
    let values = linear.per_channel(net, &constant, shapes.rank(net, &x))?;
    let negated = || values.iter().map(|v| -v).collect::<Vec<_>>();
    let affine = match (op.as_str(), first) {
        ("Add", _) => Affine::shifting(values),
        ("Sub", false) => Affine::shifting(negated()),
        ("Sub", true) => Affine { scale: vec![-1.0; values.len()], shift: values },
        ("Mul", _) => Affine::scaling(values),
        ("Div", false) if values.iter().all(|&v| v != 0.0) => Affine::scaling(values.iter().map(|v| 1.0 / v).collect()),
        _ => return None,
    };
    let label = format!("{}+{op}: {}", net.get(linear.id)?.op_type(), edit::label(net.get(linear.id)?));
    if !linear.absorb(net, &affine) {
        return None;
    }
    net.bypass(id, &x);
    Some(label)
}

/// `MatMul` of two matrices plus a constant vector.
fn gemm(net: &mut Net, shapes: &Shapes, id: Id) -> Option<String> {
    net.op(id, "Add").filter(|_| net.opset() >= 7)?;
    let (x, constant, _) = operands(net, id)?;
    let (matmul, node) = net.producer_op(&x, "MatMul")?;
    let (a, w) = (input(node, 0)?, input(node, 1)?);
    let (dtype, weight) = net.constant_info(w)?;
    let (bias_dtype, bias) = net.constant_info(&constant)?;
    let vector = bias.len() <= 2 && bias.last() == weight.get(1) && bias.iter().rev().skip(1).all(|&d| d == 1);
    let matrices = shapes.rank(net, a) == Some(2) && weight.len() == 2;
    if dtype != DType::F32 || bias_dtype != dtype || !vector || !matrices || net.only_reader(&x) != Some(id) {
        return None;
    }
    let mut fused = net.remove(matmul)?;
    fused.op_type = Some("Gemm".to_owned());
    fused.input.push(constant);
    fused.output.clone_from(&net.get(id)?.output);
    let label = format!("MatMul+Add: {}", edit::label(&fused));
    net.set(id, fused);
    Some(label)
}

/// Two constant factors, or two constant summands, in a row.
fn merge(net: &mut Net, id: Id) -> Option<String> {
    let op = net.get(id).map(|n| n.op_type().to_owned()).filter(|op| matches!(op.as_str(), "Add" | "Mul"))?;
    let (x, outer, _) = operands(net, id)?;
    let (inner_id, inner_node) = net.producer_op(&x, &op)?;
    let inner_name = edit::label(inner_node);
    if net.only_reader(&x) != Some(id) {
        return None;
    }
    let (source, inner, _) = operands(net, inner_id)?;
    let (a, b) = (net.constant_info(&inner)?, net.constant_info(&outer)?);
    if !a.0.is_float() || a.0 != b.0 {
        return None;
    }
    let limit = 4 * a.1.iter().product::<usize>().max(b.1.iter().product());
    let node = edit::node(&op, "", &["a", "b"], &["y"], vec![]);
    let inputs = [net.constant(&inner), net.constant(&outer)];
    let value = evaluate(&Call { node: &node, inputs: &inputs, opset: net.opset(), limit })?.pop()?;
    // A product of extremes that only the two steps together keep in range is left as two steps.
    if value.to_f64().iter().any(|v| !v.is_finite() || (*v == 0.0 && op == "Mul")) {
        return None;
    }
    let name = net.add_constant(&format!("{outer}_merged"), &value);
    net.change(id, |node| node.input = vec![source, name]);
    net.remove_unused(inner_id);
    Some(format!("{op}+{op}: {inner_name}"))
}
