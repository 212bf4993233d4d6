//! Arithmetic with a neutral constant, and choices that are already made.

use crate::accelerator::net::{Id, Net, input};
use crate::accelerator::shapes::Shapes;
use crate::model::infer::DimExpr;

/// Larger constants are not looked through for being neutral: they are weights.
const MOST: usize = 65_536;

/// x + 0, x - 0, x * 1, x / 1, x ^ 1.
pub(super) fn neutral(net: &mut Net, shapes: &Shapes, id: Id) -> bool {
    let Some(node) = net.get(id) else { return false };
    let Some((a, b)) = input(node, 0).zip(input(node, 1)) else { return false };
    let (value, either) = match node.op_type() {
        "Add" => (0.0, true),
        "Sub" => (0.0, false),
        "Mul" => (1.0, true),
        _ => (1.0, false),
    };
    let (a, b) = (a.to_owned(), b.to_owned());
    if all_equal(net, &b, value) && same_shape(net, shapes, &a, &b) {
        return net.bypass(id, &a);
    }
    either && all_equal(net, &a, value) && same_shape(net, shapes, &b, &a) && net.bypass(id, &b)
}

fn all_equal(net: &Net, tensor: &str, value: f64) -> bool {
    let Some((_, shape)) = net.constant_info(tensor) else { return false };
    let count = shape.iter().product::<usize>();
    (1..=MOST).contains(&count) && net.constant(tensor).is_some_and(|t| t.to_f64().iter().all(|&v| v == value))
}

/// Whether a constant that is combined with `x` leaves `x`'s shape as it is.
fn same_shape(net: &Net, shapes: &Shapes, x: &str, constant: &str) -> bool {
    let Some((_, small)) = net.constant_info(constant) else { return false };
    let Some(rank) = shapes.rank(net, x) else { return small.is_empty() };
    if small.len() > rank {
        return false;
    }
    let shape = shapes.get(net, x);
    let own = |i: usize| shape.as_ref().map(|s| &s[rank - small.len() + i]);
    small.iter().enumerate().all(|(i, &d)| d == 1 || own(i) == Some(&DimExpr::Known(d)))
}

/// A Where whose condition is constant and the same everywhere.
pub(super) fn known_condition(net: &mut Net, shapes: &Shapes, id: Id) -> bool {
    let Some(node) = net.get(id) else { return false };
    let (Some(condition), Some(output)) = (input(node, 0), node.output.first()) else { return false };
    let chosen = if all_equal(net, condition, 1.0) {
        input(node, 1)
    } else if all_equal(net, condition, 0.0) {
        input(node, 2)
    } else {
        None
    };
    let Some(chosen) = chosen else { return false };
    let same = shapes.get(net, chosen).zip(shapes.get(net, output)).is_some_and(|(a, b)| a == b);
    let chosen = chosen.to_owned();
    same && net.bypass(id, &chosen)
}
