//! Operators that make or use indices.

use bytes::Bytes;

use super::elementwise::convert;
use super::{Call, axis, pick, strides};
use crate::model::{DType, Tensor, edit};

pub(super) fn gather(call: &Call) -> Option<Tensor> {
    let (x, indices) = (call.input(0)?, call.input(1)?);
    let along = axis(edit::int_attribute(call.node, "axis", 0), x.shape().len())?;
    let wanted = indices.to_i64()?;
    let rows = wanted.iter().map(|&i| axis(i, x.shape()[along])).collect::<Option<Vec<_>>>()?;
    let shape = [&x.shape()[..along], indices.shape(), &x.shape()[along + 1..]].concat();
    call.fits(x.dtype(), &shape)?;
    let outer: usize = x.shape()[..along].iter().product();
    let inner = x.shape()[along + 1..].iter().product::<usize>() * x.dtype().size();
    let mut data = Vec::with_capacity(outer * rows.len() * inner);
    for block in 0..outer {
        for row in &rows {
            let at = (block * x.shape()[along] + row) * inner;
            data.extend_from_slice(&x.bytes()[at..at + inner]);
        }
    }
    Tensor::from_bytes(x.dtype(), shape, Bytes::from(data)).ok()
}

pub(super) fn range(call: &Call) -> Option<Tensor> {
    let (start, limit, delta) = (call.input(0)?, call.input(1)?, call.input(2)?);
    if start.dtype() != limit.dtype() || start.dtype() != delta.dtype() {
        return None;
    }
    if start.dtype().is_float() {
        let (a, b, d) = (*start.to_f64().first()?, *limit.to_f64().first()?, *delta.to_f64().first()?);
        let count = ((b - a) / d).ceil().max(0.0);
        let count = (count.is_finite() && count <= call.limit as f64).then_some(count as usize)?;
        // In the type itself, as engines do: start + i * delta.
        return match start.dtype() {
            DType::F32 => {
                let values: Vec<f32> = (0..count).map(|i| a as f32 + i as f32 * d as f32).collect();
                Some(Tensor::new(&[count], &values))
            }
            DType::F64 => Some(Tensor::new(&[count], &(0..count).map(|i| a + i as f64 * d).collect::<Vec<_>>())),
            _ => None,
        };
    }
    let first = |t: &Tensor| t.to_i64()?.first().copied();
    let (a, b, d) = (first(start)?, first(limit)?, first(delta)?);
    let span = i128::from(b) - i128::from(a);
    let count = match d {
        0 => return None,
        _ if (span > 0) != (d > 0) => 0,
        _ => span.unsigned_abs().div_ceil(u128::from(d.unsigned_abs())),
    };
    let count = usize::try_from(count).ok().filter(|&n| n <= call.limit / 8)?;
    let values: Vec<i64> = (0..count as i64).map(|i| a + i * d).collect();
    convert(&Tensor::new(&[count], &values), start.dtype())
}

pub(super) fn one_hot(call: &Call) -> Option<Tensor> {
    let (indices, depth, values) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let depth = usize::try_from(*depth.to_i64()?.first()?).ok()?;
    let rank = indices.shape().len();
    let along = axis(edit::int_attribute(call.node, "axis", -1), rank + 1)?;
    let wanted = indices.to_i64()?;
    let mut shape = indices.shape().to_vec();
    shape.insert(along, depth);
    call.fits(values.dtype(), &shape)?;
    let inner: usize = indices.shape()[along..].iter().product();
    let outer: usize = indices.shape()[..along].iter().product();
    let mut positions = vec![0_usize; outer * depth * inner];
    for block in 0..outer {
        for at in 0..inner {
            // An index out of range leaves the whole vector at the off value.
            if let Some(hot) = axis(wanted[block * inner + at], depth) {
                positions[(block * depth + hot) * inner + at] = 1;
            }
        }
    }
    (values.len() == 2).then(|| pick(values, shape, &positions))?
}

pub(super) fn non_zero(call: &Call) -> Option<Tensor> {
    let x = call.input(0)?;
    let own = strides(x.shape());
    let hits: Vec<usize> = x.to_f64().iter().enumerate().filter(|(_, v)| **v != 0.0).map(|(i, _)| i).collect();
    if x.shape().is_empty() {
        return None;
    }
    let rows = x.shape().iter().zip(&own).flat_map(|(&d, &s)| hits.iter().map(move |&h| (h / s % d) as i64));
    Some(Tensor::new(&[x.shape().len(), hits.len()], &rows.collect::<Vec<_>>()))
}

pub(super) fn scatter_nd(call: &Call) -> Option<Tensor> {
    let (data, indices, updates) = (call.input(0)?, call.input(1)?, call.input(2)?);
    if edit::string_attribute(call.node, "reduction").is_some_and(|r| r != "none") || data.dtype() != updates.dtype() {
        return None;
    }
    let depth = *indices.shape().last()?;
    let rows = indices.len().checked_div(depth)?;
    if depth > data.shape().len() {
        return None;
    }
    let own = strides(data.shape());
    let chunk = data.shape()[depth..].iter().product::<usize>();
    if updates.len() != rows * chunk {
        return None;
    }
    let size = data.dtype().size();
    let mut bytes = data.bytes().to_vec();
    let wanted = indices.to_i64()?;
    for row in 0..rows {
        let mut at = 0;
        for k in 0..depth {
            at += axis(wanted[row * depth + k], data.shape()[k])? * own[k];
        }
        let update = &updates.bytes()[row * chunk * size..(row + 1) * chunk * size];
        bytes[at * size..(at + chunk) * size].copy_from_slice(update);
    }
    Tensor::from_bytes(data.dtype(), data.shape().to_vec(), Bytes::from(bytes)).ok()
}

pub(super) fn eye_like(call: &Call) -> Option<Tensor> {
    let x = call.input(0)?;
    let [rows, columns] = *x.shape() else { return None };
    let dtype = match edit::int_attribute(call.node, "dtype", 0) {
        0 => x.dtype(),
        number => DType::from_onnx(i32::try_from(number).ok()?)?,
    };
    call.fits(dtype, x.shape())?;
    let k = edit::int_attribute(call.node, "k", 0);
    let ones: Vec<i64> =
        (0..rows * columns).map(|i| i64::from((i % columns) as i64 - (i / columns) as i64 == k)).collect();
    convert(&Tensor::new(&[rows, columns], &ones), dtype)
}

pub(super) fn trilu(call: &Call) -> Option<Tensor> {
    let x = call.input(0)?;
    let [.., rows, columns] = *x.shape() else { return None };
    let k = match call.input(1) {
        Some(k) => *k.to_i64()?.first()?,
        None => 0,
    };
    let upper = edit::int_attribute(call.node, "upper", 1) != 0;
    let size = x.dtype().size();
    let mut bytes = x.bytes().to_vec();
    for i in 0..x.len() {
        let distance = (i % columns) as i64 - (i / columns % rows) as i64;
        if (upper && distance < k) || (!upper && distance > k) {
            bytes[i * size..(i + 1) * size].fill(0);
        }
    }
    Tensor::from_bytes(x.dtype(), x.shape().to_vec(), Bytes::from(bytes)).ok()
}
