//! Elementwise operators, broadcasting, and the arithmetic of extents.

use super::super::DType;
use super::{Ctx, DimExpr, Inferred};

/// Operators of one tensor that calculate each element for itself and keep the element type.
pub(crate) fn unary(op: &str) -> bool {
    matches!(
        op,
        "Abs"
            | "Acos"
            | "Acosh"
            | "Asin"
            | "Asinh"
            | "Atan"
            | "Atanh"
            | "BitwiseNot"
            | "Ceil"
            | "Celu"
            | "Clip"
            | "Cos"
            | "Cosh"
            | "Elu"
            | "Erf"
            | "Exp"
            | "Floor"
            | "Gelu"
            | "HardSigmoid"
            | "HardSwish"
            | "Identity"
            | "LeakyRelu"
            | "Log"
            | "Mish"
            | "Neg"
            | "Not"
            | "Reciprocal"
            | "Relu"
            | "Round"
            | "Selu"
            | "Shrink"
            | "Sigmoid"
            | "Sign"
            | "Sin"
            | "Sinh"
            | "Softplus"
            | "Softsign"
            | "Sqrt"
            | "Swish"
            | "Tan"
            | "Tanh"
            | "ThresholdedRelu"
    )
}

/// Operators whose inputs broadcast to a result of their own element type.
pub(super) fn arithmetic(op: &str) -> bool {
    matches!(
        op,
        "Add"
            | "BitShift"
            | "BitwiseAnd"
            | "BitwiseOr"
            | "BitwiseXor"
            | "Div"
            | "Max"
            | "Mean"
            | "Min"
            | "Mod"
            | "Mul"
            | "Pow"
            | "Sub"
            | "Sum"
    )
}

/// Operators whose inputs broadcast to booleans.
pub(super) fn compares(op: &str) -> bool {
    matches!(op, "And" | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Or" | "Xor")
}

/// Operators that calculate each element for itself from inputs that broadcast.
pub(crate) fn broadcasts(op: &str) -> bool {
    arithmetic(op) || compares(op) || matches!(op, "PRelu" | "Where")
}

/// The common shape of two operands under `NumPy`'s rule, or `None` when they do not fit.
pub(super) fn broadcast(a: &[DimExpr], b: &[DimExpr]) -> Option<Vec<DimExpr>> {
    let rank = a.len().max(b.len());
    let at =
        |dims: &[DimExpr], i: usize| (i + dims.len()).checked_sub(rank).map_or(DimExpr::Known(1), |k| dims[k].clone());
    (0..rank).map(|i| broadcast_dim(at(a, i), at(b, i))).collect()
}

fn broadcast_dim(a: DimExpr, b: DimExpr) -> Option<DimExpr> {
    use DimExpr::{Known, Unknown};
    Some(match (a, b) {
        (Known(1), x) | (x, Known(1)) => x,
        (Known(x), Known(y)) => return (x == y).then_some(Known(x)),
        // The other operand is 1 or equal: the result is this extent either way.
        (Known(x), _) | (_, Known(x)) => Known(x),
        (x, y) if x == y => x,
        _ => Unknown,
    })
}

/// The common shape of several operands.
pub(super) fn broadcast_inputs(ctx: &Ctx<'_>, inputs: impl IntoIterator<Item = usize>) -> Option<Vec<DimExpr>> {
    let mut dims = Vec::new();
    for i in inputs {
        dims = broadcast(&dims, ctx.dims(i)?)?;
    }
    Some(dims)
}

/// Product of extents: a number, or a single symbol when the rest is 1.
pub(super) fn product(dims: &[DimExpr]) -> DimExpr {
    ratio(dims, &[])
}

/// `product(over) / product(under)`, with equal symbols cancelled. Used to resolve the -1 of a Reshape.
pub(super) fn ratio(over: &[DimExpr], under: &[DimExpr]) -> DimExpr {
    let (Some((n, mut symbols)), Some((d, cancel))) = (split(over), split(under)) else { return DimExpr::Unknown };
    for s in cancel {
        match symbols.iter().position(|t| *t == s) {
            Some(i) => {
                symbols.swap_remove(i);
            }
            None => return DimExpr::Unknown,
        }
    }
    match symbols[..] {
        [] if d != 0 && n % d == 0 => DimExpr::Known(n / d),
        [one] if d != 0 && n == d => DimExpr::Symbol(one.to_owned()),
        _ => DimExpr::Unknown,
    }
}

/// The numbers' product and the symbols; `None` when an extent is unknown or the product overflows.
fn split(dims: &[DimExpr]) -> Option<(usize, Vec<&str>)> {
    let (mut n, mut symbols) = (1_usize, Vec::new());
    for dim in dims {
        match dim {
            DimExpr::Known(k) => n = n.checked_mul(*k)?,
            DimExpr::Symbol(s) => symbols.push(s.as_str()),
            DimExpr::Unknown => return None,
        }
    }
    Some((n, symbols))
}

/// A negative axis counts from the end. `None` when it is out of range.
pub(super) fn axis(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
    usize::try_from(axis).ok().filter(|&a| a < rank)
}

/// Type and shape of input 0.
pub(super) fn same(ctx: &Ctx<'_>) -> Option<Vec<Inferred>> {
    Some(vec![ctx.input(0)?.clone()])
}

/// All inputs broadcast; element type of the first whose type is known.
pub(super) fn elementwise(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let n = ctx.node.input.len();
    vec![Inferred::new((0..n).find_map(|i| ctx.dtype(i)), broadcast_inputs(ctx, 0..n))]
}

/// All inputs broadcast, to booleans.
pub(super) fn comparison(ctx: &Ctx<'_>) -> Vec<Inferred> {
    vec![Inferred::new(Some(DType::Bool), broadcast_inputs(ctx, 0..ctx.node.input.len()))]
}

/// `Where(condition, a, b)`.
pub(super) fn select(ctx: &Ctx<'_>) -> Vec<Inferred> {
    vec![Inferred::new(ctx.dtype(1).or(ctx.dtype(2)), broadcast_inputs(ctx, 0..3))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(text: &str) -> Vec<DimExpr> {
        text.split_whitespace()
            .map(|t| match t.parse() {
                Ok(n) => DimExpr::Known(n),
                Err(_) if t == "?" => DimExpr::Unknown,
                Err(_) => DimExpr::Symbol(t.to_owned()),
            })
            .collect()
    }

    #[test]
    fn shapes_broadcast_from_the_right() {
        for (a, b, want) in [
            ("2 3", "3", Some("2 3")),
            ("B 1 4", "5 1", Some("B 5 4")),
            ("B", "B", Some("B")),
            ("B", "C", Some("?")),
            ("B", "7", Some("7")),
            ("? 1", "1 ?", Some("? ?")),
            ("", "2", Some("2")),
            ("2", "3", None),
        ] {
            assert_eq!(broadcast(&dims(a), &dims(b)), want.map(dims), "{a} with {b}");
        }
    }

    #[test]
    fn equal_symbols_cancel_in_a_ratio() {
        for (over, under, want) in [
            ("B S 384", "B S 12", "32"),
            ("B S 384", "B 384", "S"),
            ("B 6", "4", "?"),
            ("B 8", "C 8", "?"),
            ("6 4", "", "24"),
            ("B ?", "B", "?"),
            ("0 3", "0", "?"),
        ] {
            assert_eq!(vec![ratio(&dims(over), &dims(under))], dims(want), "{over} / {under}");
        }
    }
}
