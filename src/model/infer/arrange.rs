//! Operators that move, cut, repeat or make elements without computing on them.

use super::super::DType;
use super::super::edit::attribute;
use super::basics::{axis, broadcast, product, ratio};
use super::values::{Num, range_len, slice_extent};
use super::{Ctx, DimExpr, Inferred};

fn one(ctx: &Ctx<'_>, dims: Option<Vec<DimExpr>>) -> Vec<Inferred> {
    vec![Inferred::new(ctx.dtype(0), dims)]
}

/// Extents that a small integer input spells out; unknown ones, when only its length is known.
fn spelled(ctx: &Ctx<'_>, i: usize) -> Option<Vec<DimExpr>> {
    if let Some(small) = ctx.small(i) {
        return Some(small.nums.iter().map(Num::dim).collect());
    }
    match ctx.dims(i)? {
        [DimExpr::Known(n)] if *n <= 64 => Some(vec![DimExpr::Unknown; *n]),
        _ => None,
    }
}

pub(super) fn reshape(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let Some(small) = ctx.small(1) else { return spelled(ctx, 1) };
        let copy_zero = ctx.attr_int("allowzero", 0) == 0;
        let input = ctx.dims(0);
        let mut free = None;
        let mut dims = Vec::with_capacity(small.nums.len());
        for (i, num) in small.nums.iter().enumerate() {
            dims.push(match num {
                Num::Int(0) if copy_zero => input.and_then(|d| d.get(i)).cloned().unwrap_or(DimExpr::Unknown),
                Num::Int(-1) => {
                    free = Some(i);
                    DimExpr::Unknown
                }
                other => other.dim(),
            });
        }
        if let (Some(i), Some(input)) = (free, input) {
            let rest: Vec<DimExpr> = dims.iter().enumerate().filter(|(k, _)| *k != i).map(|(_, d)| d.clone()).collect();
            dims[i] = ratio(input, &rest);
        }
        Some(dims)
    };
    one(ctx, dims())
}

pub(super) fn flatten(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let dims = ctx.dims(0)?;
        let at = ctx.attr_int("axis", 1);
        let at = usize::try_from(if at < 0 { at + dims.len() as i64 } else { at }).ok().filter(|&a| a <= dims.len())?;
        Some(vec![product(&dims[..at]), product(&dims[at..])])
    };
    one(ctx, dims())
}

pub(super) fn transpose(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let dims = ctx.dims(0)?;
        match ctx.attr_ints("perm") {
            None => Some(dims.iter().rev().cloned().collect()),
            Some(perm) if perm.len() == dims.len() => {
                perm.iter().map(|&p| dims.get(usize::try_from(p).ok()?).cloned()).collect()
            }
            Some(_) => None,
        }
    };
    one(ctx, dims())
}

pub(super) fn concat(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let first = ctx.dims(0)?;
        let axis = axis(ctx.attr_int("axis", 0), first.len())?;
        let mut out = first.to_vec();
        for i in 1..ctx.node.input.len() {
            let part = ctx.dims(i)?;
            if part.len() != out.len() {
                return None;
            }
            for (k, dim) in part.iter().enumerate() {
                if k == axis {
                    out[k] = sum(&out[k], dim);
                } else if matches!((&out[k], dim), (DimExpr::Unknown, _) | (DimExpr::Symbol(_), DimExpr::Known(_))) {
                    // All parts agree here, so whatever any part knows holds for the result.
                    out[k] = dim.clone();
                }
            }
        }
        Some(out)
    };
    one(ctx, dims())
}

fn sum(a: &DimExpr, b: &DimExpr) -> DimExpr {
    match (a, b) {
        (DimExpr::Known(x), DimExpr::Known(y)) => x.checked_add(*y).map_or(DimExpr::Unknown, DimExpr::Known),
        (DimExpr::Known(0), other) | (other, DimExpr::Known(0)) => other.clone(),
        _ => DimExpr::Unknown,
    }
}

pub(super) fn slice(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let dims = ctx.dims(0)?;
        let starts = ctx.ints_either("starts", 1);
        let ends = ctx.ints_either("ends", 2);
        let old = ctx.attr_ints("starts").is_some();
        let count =
            starts.as_ref().and_then(|s| s.as_ref().map(Vec::len)).or_else(|| spelled(ctx, 1).map(|d| d.len()))?;
        let axes = match ctx.ints_either("axes", 3) {
            Some(Some(axes)) => axes,
            Some(None) => (0..count as i64).collect(),
            // Some axes are cut, but not known which.
            None => return Some(vec![DimExpr::Unknown; dims.len()]),
        };
        let steps = if !old && ctx.has(4) { ctx.ints(4) } else { Some(vec![1; count]) };
        let mut out = dims.to_vec();
        for (k, &a) in axes.iter().enumerate() {
            let a = axis(a, dims.len())?;
            let at = |list: &Option<Option<Vec<i64>>>| list.as_ref()?.as_ref()?.get(k).copied();
            let step = steps.as_ref().and_then(|s| s.get(k)).copied();
            out[a] = match (at(&starts), at(&ends), step) {
                (Some(s), Some(e), Some(step)) => cut(&dims[a], s, e, step),
                // `x[0:n]` with n the named extent of some axis: at most n; equal when it is this axis.
                (Some(0), None, Some(1)) => match ctx.small(2).and_then(|v| v.nums.get(k)) {
                    Some(num) if num.dim() == dims[a] && num.dim() != DimExpr::Unknown => dims[a].clone(),
                    _ => DimExpr::Unknown,
                },
                _ => DimExpr::Unknown,
            };
        }
        Some(out)
    };
    one(ctx, dims())
}

/// Exporters write the largest integer for "to the end", or this number (tf2onnx). No axis is as long.
pub(crate) const OPEN_END: i64 = 1_000_000_000;

fn cut(dim: &DimExpr, start: i64, end: i64, step: i64) -> DimExpr {
    match dim {
        DimExpr::Known(n) => {
            slice_extent(*n as i64, start, end, step).map_or(DimExpr::Unknown, |(_, n)| DimExpr::Known(n))
        }
        // Everything, in order or reversed.
        symbol if (start, step) == (0, 1) && end >= OPEN_END => symbol.clone(),
        symbol if (start, step) == (-1, -1) && end <= i64::from(i32::MIN) + 1 => symbol.clone(),
        _ => DimExpr::Unknown,
    }
}

pub(super) fn split(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let parts = ctx.node.output.len();
    let extents = || -> Option<(Vec<DimExpr>, usize)> {
        let dims = ctx.dims(0)?;
        Some((dims.to_vec(), axis(ctx.attr_int("axis", 0), dims.len())?))
    };
    let Some((dims, axis)) = extents() else { return vec![Inferred::new(ctx.dtype(0), None); parts] };
    let sizes: Vec<DimExpr> = match ctx.ints_either("split", 1) {
        Some(Some(sizes)) if sizes.len() == parts => sizes.iter().map(|&n| Num::Int(n).dim()).collect(),
        Some(None) => match dims[axis] {
            // Equal parts; the last is smaller when it does not divide (opset 18).
            DimExpr::Known(n) => {
                let chunk = n.div_ceil(parts.max(1));
                (0..parts).map(|k| DimExpr::Known(n.saturating_sub(k * chunk).min(chunk))).collect()
            }
            _ => vec![DimExpr::Unknown; parts],
        },
        _ => vec![DimExpr::Unknown; parts],
    };
    let part = |size: DimExpr| {
        let mut dims = dims.clone();
        dims[axis] = size;
        Inferred::new(ctx.dtype(0), Some(dims))
    };
    sizes.into_iter().map(part).collect()
}

pub(super) fn gather(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let (data, indices) = (ctx.dims(0)?, ctx.dims(1)?);
        let axis = axis(ctx.attr_int("axis", 0), data.len())?;
        Some([&data[..axis], indices, &data[axis + 1..]].concat())
    };
    one(ctx, dims())
}

/// `GatherElements`: the shape of the indices.
pub(super) fn gather_elements(ctx: &Ctx<'_>) -> Vec<Inferred> {
    one(ctx, ctx.dims(1).map(<[DimExpr]>::to_vec))
}

pub(super) fn gather_nd(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let (data, indices) = (ctx.dims(0)?, ctx.dims(1)?);
        let batch = usize::try_from(ctx.attr_int("batch_dims", 0)).ok()?;
        let (last, outer) = indices.split_last()?;
        let from = batch.checked_add(last.known()?)?;
        (from <= data.len()).then(|| [outer, &data[from..]].concat())
    };
    one(ctx, dims())
}

pub(super) fn shape_of(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = ctx.dims(0).map(|d| {
        let (start, end) = super::values::shape_range(ctx, d.len());
        vec![DimExpr::Known(end - start)]
    });
    vec![Inferred::new(Some(DType::I64), Some(dims.unwrap_or_else(|| vec![DimExpr::Unknown])))]
}

pub(super) fn squeeze(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let dims = ctx.dims(0)?;
        match ctx.ints_either("axes", 1)? {
            Some(axes) => {
                let axes = axes.iter().map(|&a| axis(a, dims.len())).collect::<Option<Vec<_>>>()?;
                Some(dims.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d.clone()).collect())
            }
            // All axes of extent 1 go; an axis of unknown extent may or may not.
            None if dims.iter().all(|d| d.known().is_some()) => {
                Some(dims.iter().filter(|d| **d != DimExpr::Known(1)).cloned().collect())
            }
            None => None,
        }
    };
    one(ctx, dims())
}

pub(super) fn unsqueeze(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let dims = ctx.dims(0)?;
        let axes = ctx.ints_either("axes", 1)??;
        let rank = dims.len() + axes.len();
        let axes = axes.iter().map(|&a| axis(a, rank)).collect::<Option<Vec<_>>>()?;
        let mut rest = dims.iter();
        let out: Vec<DimExpr> = (0..rank)
            .map(|i| if axes.contains(&i) { Some(DimExpr::Known(1)) } else { rest.next().cloned() })
            .collect::<Option<_>>()?;
        rest.next().is_none().then_some(out)
    };
    one(ctx, dims())
}

pub(super) fn expand(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let (dims, target) = (ctx.dims(0)?, spelled(ctx, 1)?);
        broadcast(dims, &target)
    };
    one(ctx, dims())
}

pub(super) fn tile(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let dims = ctx.dims(0)?;
        let Some(repeats) = spelled(ctx, 1) else { return Some(vec![DimExpr::Unknown; dims.len()]) };
        (repeats.len() == dims.len()).then(|| dims.iter().zip(repeats).map(|(d, r)| product(&[d.clone(), r])).collect())
    };
    one(ctx, dims())
}

pub(super) fn pad(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let dims = ctx.dims(0)?;
        let Some(Some(pads)) = ctx.ints_either("pads", 1) else { return Some(vec![DimExpr::Unknown; dims.len()]) };
        let axes = if ctx.has(3) {
            ctx.ints(3)?.iter().map(|&a| axis(a, dims.len())).collect::<Option<Vec<_>>>()?
        } else {
            (0..dims.len()).collect()
        };
        if pads.len() != 2 * axes.len() {
            return None;
        }
        let mut out = dims.to_vec();
        for (k, &a) in axes.iter().enumerate() {
            let extra = pads[k].checked_add(pads[k + axes.len()])?;
            out[a] = match &dims[a] {
                DimExpr::Known(n) => Num::Int((*n as i64).checked_add(extra)?).dim(),
                other if extra == 0 => other.clone(),
                _ => DimExpr::Unknown,
            };
        }
        Some(out)
    };
    one(ctx, dims())
}

/// `Resize` (sizes, or constant scales) and `Upsample`.
pub(super) fn resize(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let upsample = ctx.node.op_type() == "Upsample";
    // Opset 10 has (x, scales), opset 11 and later (x, roi, scales, sizes).
    let two_inputs = upsample || ctx.scope.opset < 11;
    let dims = || {
        let dims = ctx.dims(0)?;
        let axes = match ctx.attr_ints("axes") {
            Some(axes) => axes.iter().map(|&a| axis(a, dims.len())).collect::<Option<Vec<_>>>()?,
            None => (0..dims.len()).collect(),
        };
        let mut out = dims.to_vec();
        if !two_inputs && ctx.has(3) {
            let keep_ratio = super::super::edit::string_attribute(ctx.node, "keep_aspect_ratio_policy")
                .is_some_and(|p| p != "stretch");
            let sizes = spelled(ctx, 3).filter(|s| s.len() == axes.len() && !keep_ratio);
            for (k, &a) in axes.iter().enumerate() {
                out[a] = sizes.as_ref().map_or(DimExpr::Unknown, |s| s[k].clone());
            }
            return Some(out);
        }
        let scales = match attribute(ctx.node, "scales") {
            Some(scales) => Some(scales.floats.iter().map(|&s| f64::from(s)).collect()),
            None => ctx.floats(if two_inputs { 1 } else { 2 }).map(<[f64]>::to_vec),
        };
        let scales = scales.filter(|s| s.len() == axes.len());
        for (k, &a) in axes.iter().enumerate() {
            out[a] = match (&dims[a], scales.as_ref().map(|s| s[k])) {
                (other, Some(1.0)) => other.clone(),
                // floor(extent * scale), computed in single precision as the runtimes do.
                (DimExpr::Known(n), Some(s)) if s > 0.0 && s.is_finite() => {
                    DimExpr::Known((*n as f32 * s as f32).floor() as usize)
                }
                _ => DimExpr::Unknown,
            };
        }
        Some(out)
    };
    one(ctx, dims())
}

pub(super) fn space_depth(ctx: &Ctx<'_>, to_depth: bool) -> Vec<Inferred> {
    let dims = || {
        let [n, c, h, w] = ctx.dims(0)? else { return None };
        let block = usize::try_from(ctx.attr_int("blocksize", 0)).ok().filter(|&b| b > 0)?;
        let times =
            |d: &DimExpr, f: usize| d.known().and_then(|d| d.checked_mul(f)).map_or(DimExpr::Unknown, DimExpr::Known);
        let over = |d: &DimExpr, f: usize| d.known().map_or(DimExpr::Unknown, |d| DimExpr::Known(d / f));
        let area = block.checked_mul(block)?;
        Some(if to_depth {
            vec![n.clone(), times(c, area), over(h, block), over(w, block)]
        } else {
            vec![n.clone(), over(c, area), times(h, block), times(w, block)]
        })
    };
    one(ctx, dims())
}

pub(super) fn constant(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let Some(attribute) = ctx.node.attribute.first() else { return Vec::new() };
    let known = |dims: &[usize]| Some(dims.iter().map(|&d| DimExpr::Known(d)).collect());
    vec![match attribute.name() {
        "value" => attribute.t.as_ref().map_or_else(Inferred::default, |t| {
            let dims = t.dims.iter().map(|&d| Num::Int(d).dim()).collect();
            Inferred::new(DType::from_onnx(t.data_type()), Some(dims))
        }),
        "value_float" => Inferred::new(Some(DType::F32), known(&[])),
        "value_int" => Inferred::new(Some(DType::I64), known(&[])),
        "value_floats" => Inferred::new(Some(DType::F32), known(&[attribute.floats.len()])),
        "value_ints" => Inferred::new(Some(DType::I64), known(&[attribute.ints.len()])),
        "value_string" => Inferred::new(None, known(&[])),
        "value_strings" => Inferred::new(None, known(&[attribute.strings.len()])),
        _ => Inferred::default(),
    }]
}

pub(super) fn constant_of_shape(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let value = attribute(ctx.node, "value").and_then(|a| a.t.as_ref());
    vec![Inferred::new(value.map_or(Some(DType::F32), |t| DType::from_onnx(t.data_type())), spelled(ctx, 0))]
}

pub(super) fn range(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let whole = |i| ctx.ints(i).and_then(|v| v.first().copied());
    let n = match (whole(0), whole(1), whole(2)) {
        (Some(s), Some(l), Some(d)) => range_len(s, l, d).map_or(DimExpr::Unknown, DimExpr::Known),
        // Range(0, n, 1) has n elements.
        (Some(0), None, Some(1)) => ctx.small(1).and_then(|s| s.nums.first()).map_or(DimExpr::Unknown, Num::dim),
        _ => DimExpr::Unknown,
    };
    vec![Inferred::new(ctx.dtype(0).or(ctx.dtype(1)), Some(vec![n]))]
}

pub(super) fn one_hot(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let mut dims = ctx.dims(0)?.to_vec();
        let at = axis(ctx.attr_int("axis", -1), dims.len() + 1)?;
        dims.insert(at, ctx.small(1).and_then(|s| s.nums.first()).map_or(DimExpr::Unknown, Num::dim));
        Some(dims)
    };
    vec![Inferred::new(ctx.dtype(2), dims())]
}

pub(super) fn non_zero(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let rank = ctx.dims(0).map_or(DimExpr::Unknown, |d| DimExpr::Known(d.len()));
    vec![Inferred::new(Some(DType::I64), Some(vec![rank, DimExpr::Unknown]))]
}

/// A type named by an attribute, else the type of `like`.
pub(super) fn retyped(ctx: &Ctx<'_>, attribute: &str, like: Option<DType>) -> Vec<Inferred> {
    let number = ctx.attr_int(attribute, 0) as i32;
    let dtype = if number == 0 { like } else { DType::from_onnx(number) };
    vec![Inferred::new(dtype, ctx.dims(0).map(<[DimExpr]>::to_vec))]
}
