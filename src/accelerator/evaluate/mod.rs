//! A small reference interpreter for constant folding: plain loops over host tensors, the same result on every machine.
//!
//! Integers are computed exactly (wrapping as ONNX engines do), `float32` in `float32`, `float64` in `float64`; half precision is only moved and cast, never
//! calculated with. What is not listed is not folded; above all `DequantizeLinear`, for 8-bit weights have to stay 8 bits wide in the file.

mod elementwise;
mod index;
pub(crate) mod movement;
mod reduce;

use bytes::Bytes;

use crate::model::onnx::NodeProto;
use crate::model::tensor::element_count;
use crate::model::{DType, Tensor, edit};

/// What a node is evaluated with.
pub(crate) struct Call<'a> {
    /// The node.
    pub(crate) node: &'a NodeProto,
    /// Its inputs; a left-out one is `None`.
    pub(crate) inputs: &'a [Option<Tensor>],
    /// Version of ONNX's own operators.
    pub(crate) opset: i64,
    /// No output may have more bytes.
    pub(crate) limit: usize,
}

impl<'a> Call<'a> {
    fn input(&self, position: usize) -> Option<&'a Tensor> {
        self.inputs.get(position)?.as_ref()
    }

    /// A list of integers that newer opsets take as an input and older ones as an attribute. `Some(None)` when it is left out.
    #[allow(clippy::option_option, reason = "left out and unreadable are two things")]
    fn list(&self, position: usize, attribute: &str) -> Option<Option<Vec<i64>>> {
        if let Some(tensor) = self.input(position) {
            return Some(Some(tensor.to_i64()?.into_owned()));
        }
        Some(edit::ints_attribute(self.node, attribute).map(<[i64]>::to_vec))
    }

    /// Number of elements of a shape, when a tensor of it is within the limit.
    fn fits(&self, dtype: DType, shape: &[usize]) -> Option<usize> {
        element_count(shape).filter(|n| n.checked_mul(dtype.size()).is_some_and(|bytes| bytes <= self.limit))
    }
}

/// Evaluates a node of ONNX's own domain on constants. `None` when the operator, a type or a form of it is not known here, or an output would be over the limit.
pub(crate) fn evaluate(call: &Call) -> Option<Vec<Tensor>> {
    let node = call.node;
    if !matches!(node.domain(), "" | "ai.onnx") {
        return None;
    }
    let one = match node.op_type() {
        "Identity" => call.input(0)?.clone(),
        "Constant" => edit::constant_value(node)?,
        "Shape" => shape(call)?,
        "Size" => Tensor::scalar(call.input(0)?.len() as i64),
        "ConstantOfShape" => constant_of_shape(call)?,
        "Cast" => elementwise::cast(call)?,
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Min" | "Max" | "Sum" | "Equal" | "Less" | "Greater"
        | "LessOrEqual" | "GreaterOrEqual" | "And" | "Or" | "Xor" => elementwise::nary(call)?,
        "Neg" | "Sqrt" | "Reciprocal" | "Abs" | "Floor" | "Ceil" | "Relu" | "Not" | "Sign" => elementwise::unary(call)?,
        "Where" => elementwise::select(call)?,
        "Gather" => index::gather(call)?,
        "OneHot" => index::one_hot(call)?,
        "NonZero" => index::non_zero(call)?,
        "ScatterND" => index::scatter_nd(call)?,
        "Range" => index::range(call)?,
        "EyeLike" => index::eye_like(call)?,
        "Trilu" => index::trilu(call)?,
        "Concat" => movement::concat(call)?,
        "Slice" => movement::slice(call)?,
        "Squeeze" | "Unsqueeze" | "Reshape" | "Flatten" => movement::reshape(call)?,
        "Transpose" => movement::transpose(call)?,
        "Expand" => movement::expand(call)?,
        "Tile" => movement::tile(call)?,
        "Pad" => movement::pad(call)?,
        "Split" => return movement::split(call),
        "ReduceProd" | "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" => reduce::reduce(call)?,
        _ => return None,
    };
    (one.bytes().len() <= call.limit).then(|| vec![one])
}

fn shape(call: &Call) -> Option<Tensor> {
    let dims: Vec<i64> = call.input(0)?.shape().iter().map(|&d| d as i64).collect();
    let (start, end) = shape_range(call.node, dims.len());
    let part = dims.get(start..end).unwrap_or_default();
    Some(Tensor::new(&[part.len()], part))
}

/// The axes that `Shape` reports: `start` and `end` exist from opset 15 on.
pub(crate) fn shape_range(node: &NodeProto, rank: usize) -> (usize, usize) {
    let rank = rank as i64;
    let clamp = |v: i64| (if v < 0 { v + rank } else { v }).clamp(0, rank) as usize;
    let (start, end) = (clamp(edit::int_attribute(node, "start", 0)), clamp(edit::int_attribute(node, "end", rank)));
    (start, end.max(start))
}

fn constant_of_shape(call: &Call) -> Option<Tensor> {
    let shape = to_shape(&call.input(0)?.to_i64()?)?;
    let value = match edit::attribute(call.node, "value") {
        Some(attribute) => Tensor::from_proto(attribute.t.as_ref()?).ok()?,
        None => Tensor::scalar(0.0_f32),
    };
    let count = call.fits(value.dtype(), &shape)?;
    Tensor::from_bytes(value.dtype(), shape, Bytes::from(value.bytes().repeat(count))).ok()
}

/// A shape from integers; `None` when one is negative.
pub(crate) fn to_shape(dims: &[i64]) -> Option<Vec<usize>> {
    dims.iter().map(|&d| usize::try_from(d).ok()).collect()
}

/// An axis counted from the front; `None` when it is outside of `rank`.
pub(crate) fn axis(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(axis).ok().filter(|&a| a < rank)
}

/// The shape that both broadcast to; `None` when they do not fit.
pub(crate) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| if i + s.len() < rank { 1 } else { s[i + s.len() - rank] };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (1, n) | (n, 1) => Some(n),
            (m, n) => (m == n).then_some(n),
        })
        .collect()
}

/// Row-major strides, in elements.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// Positions, in elements, that a strided walk over `shape` visits. A stride may be zero (broadcast) or negative (reversed).
pub(crate) fn walk(shape: &[usize], strides: &[isize], offset: usize) -> Vec<usize> {
    let count = shape.iter().product();
    let mut positions = Vec::with_capacity(count);
    let mut index = vec![0_usize; shape.len()];
    let mut position = offset as isize;
    for _ in 0..count {
        positions.push(position as usize);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            position += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            position -= strides[axis] * shape[axis] as isize;
            index[axis] = 0;
        }
    }
    positions
}

/// Positions in a tensor of shape `from` that broadcasting it to `to` visits.
pub(crate) fn broadcast_walk(from: &[usize], to: &[usize]) -> Vec<usize> {
    let own = strides(from);
    let lead = to.len() - from.len();
    let stride = |i: usize| if i < lead || from[i - lead] == 1 { 0 } else { own[i - lead] as isize };
    walk(to, &(0..to.len()).map(stride).collect::<Vec<_>>(), 0)
}

/// A tensor of the elements at `positions` of another.
pub(crate) fn pick(from: &Tensor, shape: Vec<usize>, positions: &[usize]) -> Option<Tensor> {
    let size = from.dtype().size();
    let bytes = from.bytes();
    let mut data = Vec::with_capacity(positions.len() * size);
    for &p in positions {
        data.extend_from_slice(bytes.get(p * size..(p + 1) * size)?);
    }
    Tensor::from_bytes(from.dtype(), shape, Bytes::from(data)).ok()
}

#[cfg(test)]
mod tests;
