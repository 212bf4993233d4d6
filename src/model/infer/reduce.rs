//! Reductions: `Reduce*`, `ArgMax`, `ArgMin`, `TopK`.

use super::super::DType;
use super::basics::axis;
use super::{Ctx, DimExpr, Inferred};

/// `Reduce*`, whose axes are an attribute or input 1.
pub(super) fn reduce(ctx: &Ctx<'_>) -> Vec<Inferred> {
    vec![Inferred::new(ctx.dtype(0), reduced(ctx))]
}

fn reduced(ctx: &Ctx<'_>) -> Option<Vec<DimExpr>> {
    let dims = ctx.dims(0)?;
    let keep = ctx.attr_int("keepdims", 1) != 0;
    let axes = ctx.ints_either("axes", 1);
    let Some(axes) = axes else {
        // Which axes is unknown, but with kept dimensions the rank is not.
        return keep.then(|| vec![DimExpr::Unknown; dims.len()]);
    };
    let axes = axes.unwrap_or_default();
    if axes.is_empty() && ctx.attr_int("noop_with_empty_axes", 0) != 0 {
        return Some(dims.to_vec());
    }
    let axes = axes.iter().map(|&a| axis(a, dims.len())).collect::<Option<Vec<_>>>()?;
    let gone = |i: &usize| axes.is_empty() || axes.contains(i);
    Some(drop_axes(dims, gone, keep))
}

fn drop_axes(dims: &[DimExpr], gone: impl Fn(&usize) -> bool, keep: bool) -> Vec<DimExpr> {
    let mut out = Vec::with_capacity(dims.len());
    for (i, dim) in dims.iter().enumerate() {
        if !gone(&i) {
            out.push(dim.clone());
        } else if keep {
            out.push(DimExpr::Known(1));
        }
    }
    out
}

/// `ArgMax` and `ArgMin`.
pub(super) fn arg(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = ctx.dims(0).and_then(|dims| {
        let axis = axis(ctx.attr_int("axis", 0), dims.len())?;
        Some(drop_axes(dims, |&i| i == axis, ctx.attr_int("keepdims", 1) != 0))
    });
    vec![Inferred::new(Some(DType::I64), dims)]
}

/// `TopK`: values and indices.
pub(super) fn top_k(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = ctx.dims(0).and_then(|dims| {
        let axis = axis(ctx.attr_int("axis", -1), dims.len())?;
        let mut dims = dims.to_vec();
        let attribute = ctx.attr_int("k", -1);
        dims[axis] = if attribute >= 0 {
            DimExpr::Known(attribute as usize)
        } else {
            ctx.small(1).and_then(|k| k.nums.first()).map_or(DimExpr::Unknown, super::values::Num::dim)
        };
        Some(dims)
    });
    vec![Inferred::new(ctx.dtype(0), dims.clone()), Inferred::new(Some(DType::I64), dims)]
}
