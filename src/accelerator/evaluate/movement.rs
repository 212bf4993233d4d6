//! Operators that move elements without calculating: reshape, transpose, slice, concatenate, repeat, pad, split.

use bytes::Bytes;

use super::{Call, axis, broadcast, broadcast_walk, pick, strides, to_shape, walk};
use crate::model::{Tensor, edit};

/// Reshape, Flatten, Squeeze and Unsqueeze: the same bytes under another shape.
pub(super) fn reshape(call: &Call) -> Option<Tensor> {
    let x = call.input(0)?;
    let shape = match call.node.op_type() {
        "Reshape" => {
            let target = call.list(1, "shape")??;
            resolve(x.shape(), &target, edit::int_attribute(call.node, "allowzero", 0) != 0)?
        }
        "Flatten" => {
            let at = edit::int_attribute(call.node, "axis", 1);
            let at = usize::try_from(if at < 0 { at + x.shape().len() as i64 } else { at }).ok()?;
            let (outer, inner) = x.shape().split_at_checked(at)?;
            vec![outer.iter().product(), inner.iter().product()]
        }
        "Squeeze" => squeezed(x.shape(), call.list(1, "axes")?.as_deref())?,
        _ => unsqueezed(x.shape(), &call.list(1, "axes")??)?,
    };
    x.reshaped(shape).ok()
}

fn resolve(from: &[usize], target: &[i64], allow_zero: bool) -> Option<Vec<usize>> {
    let copied = |(i, &d): (usize, &i64)| if d == 0 && !allow_zero { from.get(i).map(|&n| n as i64) } else { Some(d) };
    let mut dims = target.iter().enumerate().map(copied).collect::<Option<Vec<_>>>()?;
    if let Some(open) = dims.iter().position(|&d| d == -1) {
        let known: i64 = dims.iter().enumerate().filter(|&(i, _)| i != open).map(|(_, &d)| d).product();
        let total = from.iter().product::<usize>() as i64;
        dims[open] = total.checked_div(known)?;
    }
    to_shape(&dims)
}

fn squeezed(from: &[usize], axes: Option<&[i64]>) -> Option<Vec<usize>> {
    let Some(axes) = axes else {
        return Some(from.iter().copied().filter(|&d| d != 1).collect());
    };
    let axes = axes.iter().map(|&a| axis(a, from.len())).collect::<Option<Vec<_>>>()?;
    Some(from.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, &d)| d).collect())
}

fn unsqueezed(from: &[usize], axes: &[i64]) -> Option<Vec<usize>> {
    let rank = from.len() + axes.len();
    let axes = axes.iter().map(|&a| axis(a, rank)).collect::<Option<Vec<_>>>()?;
    let mut rest = from.iter();
    (0..rank).map(|i| if axes.contains(&i) { Some(1) } else { rest.next().copied() }).collect()
}

/// Axis order of a Transpose; without the attribute the axes are reversed.
pub(crate) fn permutation(node: &crate::model::onnx::NodeProto, rank: usize) -> Option<Vec<usize>> {
    let Some(perm) = edit::ints_attribute(node, "perm") else {
        return Some((0..rank).rev().collect());
    };
    let perm = to_shape(perm)?;
    let mut seen = perm.clone();
    seen.sort_unstable();
    (perm.len() == rank && seen.iter().enumerate().all(|(i, &p)| i == p)).then_some(perm)
}

pub(super) fn transpose(call: &Call) -> Option<Tensor> {
    let x = call.input(0)?;
    transposed(x, &permutation(call.node, x.shape().len())?)
}

/// A tensor with its axes in another order: axis `i` of the result is axis `perm[i]` of `x`.
pub(crate) fn transposed(x: &Tensor, perm: &[usize]) -> Option<Tensor> {
    let own = strides(x.shape());
    let shape: Vec<usize> = perm.iter().map(|&p| x.shape()[p]).collect();
    let steps: Vec<isize> = perm.iter().map(|&p| own[p] as isize).collect();
    pick(x, shape.clone(), &walk(&shape, &steps, 0))
}

pub(super) fn expand(call: &Call) -> Option<Tensor> {
    let x = call.input(0)?;
    let shape = broadcast(x.shape(), &to_shape(&call.input(1)?.to_i64()?)?)?;
    call.fits(x.dtype(), &shape)?;
    pick(x, shape.clone(), &broadcast_walk(x.shape(), &shape))
}

pub(super) fn tile(call: &Call) -> Option<Tensor> {
    let x = call.input(0)?;
    let repeats = to_shape(&call.input(1)?.to_i64()?)?;
    if repeats.len() != x.shape().len() || call.opset < 6 {
        return None;
    }
    let shape: Vec<usize> = x.shape().iter().zip(&repeats).map(|(&d, &r)| d.saturating_mul(r)).collect();
    call.fits(x.dtype(), &shape)?;
    // Each axis as a pair (repeat, extent), the repeat with stride zero.
    let own = strides(x.shape());
    let pairs: Vec<usize> = x.shape().iter().zip(&repeats).flat_map(|(&d, &r)| [r, d]).collect();
    let steps: Vec<isize> = own.iter().flat_map(|&s| [0, s as isize]).collect();
    pick(x, shape, &walk(&pairs, &steps, 0))
}

pub(super) fn concat(call: &Call) -> Option<Tensor> {
    let parts = call.inputs.iter().map(Option::as_ref).collect::<Option<Vec<_>>>()?;
    let first = *parts.first()?;
    let along = axis(edit::int_attribute(call.node, "axis", 0), first.shape().len())?;
    let mut shape = first.shape().to_vec();
    shape[along] = parts.iter().map(|p| p.shape().get(along).copied().unwrap_or(0)).sum();
    let same = |p: &&Tensor| {
        let mut other = p.shape().to_vec();
        other.len() == shape.len() && p.dtype() == first.dtype() && {
            other[along] = shape[along];
            other == shape
        }
    };
    if !parts.iter().all(same) {
        return None;
    }
    call.fits(first.dtype(), &shape)?;
    let outer: usize = shape[..along].iter().product();
    let mut data = Vec::with_capacity(parts.iter().map(|p| p.bytes().len()).sum());
    for row in 0..outer {
        for part in &parts {
            let chunk = part.bytes().len() / outer;
            data.extend_from_slice(&part.bytes()[row * chunk..(row + 1) * chunk]);
        }
    }
    Tensor::from_bytes(first.dtype(), shape, Bytes::from(data)).ok()
}

/// One axis of a Slice, resolved against the axis' extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// First element.
    pub(crate) start: usize,
    /// Distance between elements, negative when reversed.
    pub(crate) step: i64,
    /// Number of elements.
    pub(crate) count: usize,
}

/// The rule of ONNX's Slice for one axis.
pub(crate) fn cut(extent: usize, start: i64, end: i64, step: i64) -> Option<Cut> {
    let n = extent as i64;
    let from_front = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
    let (start, end) = (from_front(start), from_front(end));
    let (start, count) = match step {
        0 => return None,
        1.. => {
            let (start, end) = (start.clamp(0, n), end.clamp(0, n));
            (start, ((end - start).max(0) as u64).div_ceil(step as u64))
        }
        _ => {
            let (start, end) = (start.clamp(-1, n - 1), end.clamp(-1, n - 1));
            (start.max(0), ((start - end).max(0) as u64).div_ceil(step.unsigned_abs()))
        }
    };
    Some(Cut { start: start as usize, step, count: count as usize })
}

pub(super) fn slice(call: &Call) -> Option<Tensor> {
    let x = call.input(0)?;
    let rank = x.shape().len();
    let (starts, ends) = (call.list(1, "starts")??, call.list(2, "ends")??);
    let axes = call.list(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = call.list(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return None;
    }
    let mut shape = x.shape().to_vec();
    let own = strides(x.shape());
    let mut step: Vec<isize> = own.iter().map(|&s| s as isize).collect();
    let mut offset = 0;
    for (i, &a) in axes.iter().enumerate() {
        let a = axis(a, rank)?;
        let cut = cut(x.shape()[a], starts[i], ends[i], steps[i])?;
        offset += cut.start * own[a];
        step[a] = own[a] as isize * cut.step as isize;
        shape[a] = cut.count;
    }
    pick(x, shape.clone(), &walk(&shape, &step, offset))
}

pub(super) fn pad(call: &Call) -> Option<Tensor> {
    let x = call.input(0)?;
    let rank = x.shape().len();
    let constant = edit::string_attribute(call.node, "mode").unwrap_or("constant") == "constant";
    if !constant || call.input(3).is_some() || call.opset < 11 {
        return None;
    }
    let pads = to_shape(&call.input(1)?.to_i64()?)?;
    let value = call.input(2);
    if pads.len() != 2 * rank || value.is_some_and(|v| v.dtype() != x.dtype() || v.len() != 1) {
        return None;
    }
    let shape: Vec<usize> = (0..rank).map(|i| x.shape()[i] + pads[i] + pads[i + rank]).collect();
    let count = call.fits(x.dtype(), &shape)?;
    let size = x.dtype().size();
    let fill = value.map_or_else(|| vec![0; size], |v| v.bytes().to_vec());
    let mut data = fill.repeat(count);
    let outer = strides(&shape);
    let offset = (0..rank).map(|i| pads[i] * outer[i]).sum();
    let steps: Vec<isize> = outer.iter().map(|&s| s as isize).collect();
    for (from, to) in walk(x.shape(), &steps, offset).into_iter().enumerate() {
        data[to * size..(to + 1) * size].copy_from_slice(&x.bytes()[from * size..(from + 1) * size]);
    }
    Tensor::from_bytes(x.dtype(), shape, Bytes::from(data)).ok()
}

pub(super) fn split(call: &Call) -> Option<Vec<Tensor>> {
    let x = call.input(0)?;
    let along = axis(edit::int_attribute(call.node, "axis", 0), x.shape().len())?;
    let parts = call.node.output.len();
    let extent = x.shape()[along];
    let sizes = if let Some(sizes) = call.list(1, "split")? {
        to_shape(&sizes)?
    } else {
        // From opset 18 on the last part may be smaller.
        let size = extent.div_ceil(parts.max(1));
        (0..parts).map(|i| size.min(extent.saturating_sub(i * size))).collect()
    };
    if sizes.len() != parts || sizes.iter().sum::<usize>() != extent {
        return None;
    }
    let own = strides(x.shape());
    let steps: Vec<isize> = own.iter().map(|&s| s as isize).collect();
    let mut start = 0;
    let part = |size: usize| {
        let mut shape = x.shape().to_vec();
        shape[along] = size;
        let positions = walk(&shape, &steps, start * own[along]);
        start += size;
        pick(x, shape, &positions)
    };
    sizes.into_iter().map(part).collect()
}
