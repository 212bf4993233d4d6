//! Reductions, for shape arithmetic and small constants.

use super::{Call, axis, strides, walk};
use crate::model::{DType, Element, Tensor, edit};

/// Above this many elements the order of a float sum matters more than the node that folding saves.
const MOST: usize = 65_536;

pub(super) fn reduce(call: &Call) -> Option<Tensor> {
    let x = call.input(0)?;
    let rank = x.shape().len();
    if x.len() > MOST {
        return None;
    }
    let axes = call.list(1, "axes")?.unwrap_or_default();
    if axes.is_empty() && edit::int_attribute(call.node, "noop_with_empty_axes", 0) != 0 {
        return Some(x.clone());
    }
    let reduced: Vec<usize> = if axes.is_empty() {
        (0..rank).collect()
    } else {
        axes.iter().map(|&a| axis(a, rank)).collect::<Option<_>>()?
    };
    let keep = edit::int_attribute(call.node, "keepdims", 1) != 0;
    let own = strides(x.shape());
    let pair = |kept: bool| -> (Vec<usize>, Vec<isize>) {
        let axes = (0..rank).filter(|a| reduced.contains(a) != kept);
        axes.map(|a| (x.shape()[a], own[a] as isize)).unzip()
    };
    let ((outer_shape, outer_steps), (inner_shape, inner_steps)) = (pair(true), pair(false));
    let starts = walk(&outer_shape, &outer_steps, 0);
    let inner = walk(&inner_shape, &inner_steps, 0);
    let shape: Vec<usize> = if keep {
        (0..rank).map(|a| if reduced.contains(&a) { 1 } else { x.shape()[a] }).collect()
    } else {
        outer_shape
    };
    if inner.is_empty() {
        return None;
    }
    let op = call.node.op_type();
    macro_rules! float {
        ($t:ty) => {
            match op {
                "ReduceSum" => over::<$t>(x, &shape, &starts, &inner, |v| v.sum()),
                "ReduceProd" => over::<$t>(x, &shape, &starts, &inner, |v| v.product()),
                "ReduceMean" => over::<$t>(x, &shape, &starts, &inner, |v| v.sum::<$t>() / inner.len() as $t),
                "ReduceMax" => over::<$t>(x, &shape, &starts, &inner, |v| v.fold(<$t>::NEG_INFINITY, <$t>::max)),
                _ => over::<$t>(x, &shape, &starts, &inner, |v| v.fold(<$t>::INFINITY, <$t>::min)),
            }
        };
    }
    macro_rules! integer {
        ($t:ty) => {
            match op {
                "ReduceSum" => over::<$t>(x, &shape, &starts, &inner, |v| v.fold(0, <$t>::wrapping_add)),
                "ReduceProd" => over::<$t>(x, &shape, &starts, &inner, |v| v.fold(1, <$t>::wrapping_mul)),
                "ReduceMax" => over::<$t>(x, &shape, &starts, &inner, |v| v.max().unwrap_or(<$t>::MIN)),
                "ReduceMin" => over::<$t>(x, &shape, &starts, &inner, |v| v.min().unwrap_or(<$t>::MAX)),
                _ => None,
            }
        };
    }
    match x.dtype() {
        DType::F32 => float!(f32),
        DType::F64 => float!(f64),
        DType::I64 => integer!(i64),
        DType::I32 => integer!(i32),
        _ => None,
    }
}

fn over<T: Element>(
    x: &Tensor,
    shape: &[usize],
    starts: &[usize],
    inner: &[usize],
    f: impl Fn(&mut dyn Iterator<Item = T>) -> T,
) -> Option<Tensor> {
    let values = x.values::<T>()?;
    let data: Vec<T> = starts.iter().map(|&s| f(&mut inner.iter().map(|&i| values[s + i]))).collect();
    Some(Tensor::new(shape, &data))
}
