//! Decomposed GELU to `Gelu` (opset 20; Hendrycks and Gimpel 2016). Not among the default passes: engines that gain from it fuse the pattern themselves, and
//! raising a model's opset for it alone shuts older runtimes out.

use super::{below, other_than, partner, replace};
use crate::accelerator::net::{self, Id, Net, input};
use crate::model::build::string_attribute;
use crate::model::onnx::NodeProto;
use crate::model::{Effect, Facts, Model, Pass, PassError, edit};

/// The pass `fuse-gelu`.
#[derive(Debug, Clone, Copy, Default)]
pub struct FuseGelu;

impl Pass for FuseGelu {
    fn name(&self) -> &'static str {
        "fuse-gelu"
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        Ok(net::edit(model, facts, |net| {
            let found = net.ids().into_iter().filter(|&id| matched(net, id).is_some()).count();
            if let Some(skipped) = below(net, 20, found, "Gelu") {
                return skipped;
            }
            let mut fused = Vec::new();
            for id in net.ids() {
                let Some((x, tanh)) = matched(net, id) else { continue };
                let Some(node) = net.get(id) else { continue };
                let name = edit::label(node);
                let attributes = if tanh { vec![string_attribute("approximate", "tanh")] } else { vec![] };
                let mut gelu = edit::node("Gelu", &name, &[&x], &[&node.output[0]], attributes);
                gelu.metadata_props.clone_from(&node.metadata_props);
                replace(net, id, gelu);
                fused.push(format!("Gelu: {name}"));
            }
            net.sweep();
            crate::accelerator::fused(fused, "no GELU written with Erf or Tanh is there")
        }))
    }
}

/// The input of the GELU whose last multiplication stands in slot `id`, and whether it is the tanh approximation.
fn matched(net: &Net, id: Id) -> Option<(String, bool)> {
    let last = net.op(id, "Mul")?;
    // One of: 0.5 * (x * g), x * (0.5 * g), (0.5 * x) * g, with g = 1 + f(x).
    if let Some(product) = other_than(net, last, 0.5) {
        let (_, product) = net.producer_op(&product, "Mul")?;
        return gated(net, product);
    }
    let (a, b) = (input(last, 0)?.to_owned(), input(last, 1)?.to_owned());
    [(&a, &b), (&b, &a)].into_iter().find_map(|(half, rest)| {
        let inner = other_than(net, net.producer_op(half, "Mul")?.1, 0.5)?;
        if let Some(found) = gate(net, rest).filter(|(x, _)| *x == inner) {
            return Some(found);
        }
        gate(net, &inner).filter(|(x, _)| x == rest)
    })
}

fn gated(net: &Net, product: &NodeProto) -> Option<(String, bool)> {
    let (a, b) = (input(product, 0)?, input(product, 1)?);
    let pair = |x: &str, g: &str| gate(net, g).filter(|(of, _)| of == x);
    pair(a, b).or_else(|| pair(b, a))
}

/// `1 + erf(x / sqrt 2)` or `1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))`: x, and whether it is the latter.
fn gate(net: &Net, tensor: &str) -> Option<(String, bool)> {
    let f = other_than(net, net.producer_op(tensor, "Add")?.1, 1.0)?;
    if let Some((_, erf)) = net.producer_op(&f, "Erf") {
        let (_, scaled) = net.producer(input(erf, 0)?)?;
        let root = std::f64::consts::SQRT_2;
        let x = match scaled.op_type() {
            "Div" => {
                net.scalar(input(scaled, 1)?).filter(|v| (v - root).abs() < 1e-4).and(input(scaled, 0))?.to_owned()
            }
            "Mul" => other_than(net, scaled, 1.0 / root)?,
            _ => return None,
        };
        return Some((x, false));
    }
    let (_, tanh) = net.producer_op(&f, "Tanh")?;
    let sum = other_than(net, net.producer_op(input(tanh, 0)?, "Mul")?.1, (2.0 / std::f64::consts::PI).sqrt())?;
    let (_, sum) = net.producer_op(&sum, "Add")?;
    let (a, b) = (input(sum, 0)?, input(sum, 1)?);
    let fits = |x: &str, cubic: &str| is_cubic(net, cubic, x).then(|| (x.to_owned(), true));
    fits(a, b).or_else(|| fits(b, a))
}

/// Whether `tensor` is 0.044715 * x^3, in any grouping that exporters use.
fn is_cubic(net: &Net, tensor: &str, x: &str) -> bool {
    let Some((_, product)) = net.producer_op(tensor, "Mul") else { return false };
    if let Some(cube) = other_than(net, product, 0.044_715) {
        return power(net, &cube, x) == Some(3);
    }
    let scaled = |rest: &str| -> Option<i64> {
        let inner = other_than(net, net.producer_op(rest, "Mul")?.1, 0.044_715)?;
        power(net, &inner, x)
    };
    let Some((a, b)) = input(product, 0).zip(input(product, 1)) else { return false };
    let total = |plain: &str, rest: &str| Some(power(net, plain, x)? + cubic_rest(net, rest, x, scaled)?);
    total(a, b) == Some(3) || total(b, a) == Some(3)
}

/// Power of x in `0.044715 * x^n`, possibly with another x in front.
fn cubic_rest(net: &Net, rest: &str, x: &str, scaled: impl Fn(&str) -> Option<i64>) -> Option<i64> {
    scaled(rest).or_else(|| {
        let inner = partner(net.producer_op(rest, "Mul")?.1, x)?;
        Some(1 + scaled(&inner)?)
    })
}

/// n where `tensor` is x^n.
fn power(net: &Net, tensor: &str, x: &str) -> Option<i64> {
    if tensor == x {
        return Some(1);
    }
    let (_, node) = net.producer(tensor)?;
    match node.op_type() {
        "Pow" if input(node, 0) == Some(x) => {
            net.scalar(input(node, 1)?).filter(|v| v.fract() == 0.0).map(|v| v as i64)
        }
        "Mul" => Some(power(net, input(node, 0)?, x)? + power(net, input(node, 1)?, x)?),
        _ => None,
    }
}
