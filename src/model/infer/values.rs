//! Following small integer tensors by value: what exporters compute shapes with.

use super::super::edit::constant_value;
use super::super::onnx::TensorProto;
use super::super::{DType, Tensor};
use super::{Ctx, DimExpr};

/// More elements than any shape computation has.
const MAX_LEN: usize = 256;

/// One element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Num {
    /// Its value.
    Int(i64),
    /// The extent of this name, which is not negative.
    Symbol(String),
    Unknown,
}

impl Num {
    pub(super) fn int(&self) -> Option<i64> {
        if let Self::Int(n) = self { Some(*n) } else { None }
    }

    /// As the extent of an axis.
    pub(super) fn dim(&self) -> DimExpr {
        match self {
            Self::Int(n) => usize::try_from(*n).map_or(DimExpr::Unknown, DimExpr::Known),
            Self::Symbol(s) => DimExpr::Symbol(s.clone()),
            Self::Unknown => DimExpr::Unknown,
        }
    }
}

impl From<&DimExpr> for Num {
    fn from(dim: &DimExpr) -> Self {
        match dim {
            DimExpr::Known(n) => i64::try_from(*n).map_or(Self::Unknown, Self::Int),
            DimExpr::Symbol(s) => Self::Symbol(s.clone()),
            DimExpr::Unknown => Self::Unknown,
        }
    }
}

/// A scalar or vector of integers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Small {
    pub(super) nums: Vec<Num>,
    pub(super) scalar: bool,
}

impl Small {
    fn vector(nums: Vec<Num>) -> Self {
        Self { nums, scalar: false }
    }

    fn scalar(num: Num) -> Self {
        Self { nums: vec![num], scalar: true }
    }

    pub(super) fn dims(&self) -> Vec<DimExpr> {
        if self.scalar { Vec::new() } else { vec![DimExpr::Known(self.nums.len())] }
    }

    /// Of an initializer, when it is a small integer scalar or vector.
    pub(super) fn of_tensor(proto: &TensorProto) -> Option<Self> {
        let small = proto.dims.len() <= 1 && proto.dims.iter().all(|&d| usize::try_from(d).is_ok_and(|d| d <= MAX_LEN));
        let integer = DType::from_onnx(proto.data_type()).is_some_and(|t| !t.is_float());
        if small && integer { Self::of(&Tensor::from_proto(proto).ok()?) } else { None }
    }

    fn of(tensor: &Tensor) -> Option<Self> {
        if tensor.shape().len() > 1 || tensor.len() > MAX_LEN {
            return None;
        }
        Some(Self { nums: tensor.to_i64()?.iter().map(|&n| Num::Int(n)).collect(), scalar: tensor.shape().is_empty() })
    }
}

/// The value of the node's first output, when it can be followed.
pub(super) fn propagate(ctx: &Ctx<'_, '_>) -> Option<Small> {
    if !matches!(ctx.node.domain(), "" | "ai.onnx") {
        return None;
    }
    let small = match ctx.node.op_type() {
        "Constant" => Small::of(&constant_value(ctx.node)?),
        "Shape" => shape(ctx),
        "Size" => size(ctx),
        "Identity" => ctx.small(0).cloned(),
        // A cast between integer types keeps the value; through floats it is not followed.
        "Cast" => DType::from_onnx(ctx.attr_int("to", 0) as i32).filter(|t| matches!(t, DType::I32 | DType::I64)).and_then(|_| ctx.small(0).cloned()),
        "Unsqueeze" => ctx.small(0).filter(|s| s.scalar).map(|s| Small::vector(s.nums.clone())).filter(|_| {
            let axes = ctx.attr_ints("axes").map(<[i64]>::len).or_else(|| ctx.ints(1).map(|a| a.len()));
            axes == Some(1)
        }),
        "Squeeze" => ctx.small(0).filter(|s| s.nums.len() == 1).map(|s| Small::scalar(s.nums[0].clone())),
        "Reshape" => reshape(ctx),
        "Gather" => gather(ctx),
        "Slice" => slice(ctx),
        "Concat" => concat(ctx),
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Max" | "Min" | "Equal" => binary(ctx),
        "Neg" => map(ctx.small(0)?, |n| if let Num::Int(v) = n { v.checked_neg().map_or(Num::Unknown, Num::Int) } else { Num::Unknown }),
        "Not" => map(ctx.small(0)?, |n| if let Num::Int(v) = n { Num::Int(i64::from(*v == 0)) } else { Num::Unknown }),
        "Where" => select(ctx),
        "ConstantOfShape" => filled(ctx),
        "Expand" => expand(ctx),
        "Range" => range(ctx),
        "ReduceProd" => product(ctx),
        _ => None,
    }?;
    (small.nums.len() <= MAX_LEN).then_some(small)
}

fn map(small: &Small, f: impl Fn(&Num) -> Num) -> Option<Small> {
    Some(Small { nums: small.nums.iter().map(f).collect(), scalar: small.scalar })
}

fn shape(ctx: &Ctx<'_, '_>) -> Option<Small> {
    let dims = ctx.dims(0)?;
    let (start, end) = shape_range(ctx, dims.len());
    Some(Small::vector(dims[start..end].iter().map(Num::from).collect()))
}

/// `start` and `end` of a `Shape` node (opset 15), clamped to the rank.
pub(super) fn shape_range(ctx: &Ctx<'_, '_>, rank: usize) -> (usize, usize) {
    let clamp = |v: i64| (if v < 0 { v.saturating_add(rank as i64) } else { v }).clamp(0, rank as i64) as usize;
    let start = clamp(ctx.attr_int("start", 0));
    (start, clamp(ctx.attr_int("end", rank as i64)).max(start))
}

fn size(ctx: &Ctx<'_, '_>) -> Option<Small> {
    let n = ctx.dims(0)?.iter().map(Num::from).reduce(|a, b| multiply(&a, &b)).unwrap_or(Num::Int(1));
    Some(Small::scalar(n))
}

fn multiply(a: &Num, b: &Num) -> Num {
    match (a, b) {
        (Num::Int(a), Num::Int(b)) => a.checked_mul(*b).map_or(Num::Unknown, Num::Int),
        (Num::Int(1), other) | (other, Num::Int(1)) => other.clone(),
        (Num::Int(0), _) | (_, Num::Int(0)) => Num::Int(0),
        _ => Num::Unknown,
    }
}

fn reshape(ctx: &Ctx<'_, '_>) -> Option<Small> {
    let small = ctx.small(0)?;
    match ctx.small(1)?.nums.len() {
        0 if small.nums.len() == 1 => Some(Small::scalar(small.nums[0].clone())),
        1 => Some(Small::vector(small.nums.clone())),
        _ => None,
    }
}

fn gather(ctx: &Ctx<'_, '_>) -> Option<Small> {
    let (data, indices) = (ctx.small(0)?, ctx.small(1)?);
    if data.scalar {
        return None;
    }
    let len = data.nums.len() as i64;
    let nums = indices.nums.iter().map(|i| {
        let i = i.int()?;
        data.nums.get(usize::try_from(if i < 0 { i.checked_add(len)? } else { i }).ok()?).cloned()
    });
    Some(Small { nums: nums.collect::<Option<_>>()?, scalar: indices.scalar })
}

fn slice(ctx: &Ctx<'_, '_>) -> Option<Small> {
    let data = ctx.small(0)?;
    if data.scalar {
        return None;
    }
    let starts = ctx.ints_either("starts", 1)??;
    let ends = ctx.ints_either("ends", 2)??;
    let steps = if ctx.has(4) { ctx.ints(4)? } else { vec![1] };
    let ([start], [end], [step]) = (&starts[..], &ends[..], &steps[..]) else { return None };
    let picked = slice_positions(data.nums.len() as i64, *start, *end, *step)?;
    Some(Small::vector(picked.into_iter().map(|i| data.nums[i].clone()).collect()))
}

/// Positions that a slice of an axis of `len` elements takes. `None` for a step of 0.
pub(super) fn slice_positions(len: i64, start: i64, end: i64, step: i64) -> Option<Vec<usize>> {
    let (first, count) = slice_extent(len, start, end, step)?;
    Some((0..count).map(|k| (first + k as i64 * step) as usize).collect())
}

/// First position and number of elements of a slice, as the operator defines clamping. `None` for a step of 0.
pub(super) fn slice_extent(len: i64, start: i64, end: i64, step: i64) -> Option<(i64, usize)> {
    let wrap = |v: i64| if v < 0 { v.saturating_add(len) } else { v };
    if step > 0 {
        let (s, e) = (wrap(start).clamp(0, len), wrap(end).clamp(0, len));
        Some((s, if e > s { ((e - s - 1) / step + 1) as usize } else { 0 }))
    } else if step < 0 {
        let (s, e) = (wrap(start).clamp(-1, len - 1), wrap(end).clamp(-1, len - 1));
        Some((s, if s > e { ((s - e - 1) / step.checked_neg()? + 1) as usize } else { 0 }))
    } else {
        None
    }
}

fn concat(ctx: &Ctx<'_, '_>) -> Option<Small> {
    let mut nums = Vec::new();
    for i in 0..ctx.node.input.len() {
        // A part of known length and unknown content still leaves the others in place.
        match ctx.small(i) {
            Some(small) if !small.scalar => nums.extend_from_slice(&small.nums),
            Some(_) => return None,
            None => match ctx.dims(i)? {
                [DimExpr::Known(n)] if *n <= MAX_LEN && ctx.dtype(i).is_some_and(|t| !t.is_float()) => nums.extend(vec![Num::Unknown; *n]),
                _ => return None,
            },
        }
    }
    Some(Small::vector(nums))
}

fn binary(ctx: &Ctx<'_, '_>) -> Option<Small> {
    if ctx.node.input.len() != 2 {
        return None;
    }
    let op = ctx.node.op_type();
    zip(ctx.small(0)?, ctx.small(1)?, |a, b| compute(op, a, b))
}

fn zip(a: &Small, b: &Small, f: impl Fn(&Num, &Num) -> Num) -> Option<Small> {
    let len = match (a.nums.len(), b.nums.len()) {
        (x, y) if x == y => x,
        (1, y) => y,
        (x, 1) => x,
        _ => return None,
    };
    let at = |s: &Small, i: usize| s.nums[if s.nums.len() == 1 { 0 } else { i }].clone();
    Some(Small { nums: (0..len).map(|i| f(&at(a, i), &at(b, i))).collect(), scalar: a.scalar && b.scalar })
}

fn compute(op: &str, a: &Num, b: &Num) -> Num {
    if let (Num::Int(x), Num::Int(y)) = (a, b) {
        let (x, y) = (*x, *y);
        let value = match op {
            "Add" => x.checked_add(y),
            "Sub" => x.checked_sub(y),
            "Mul" => x.checked_mul(y),
            "Div" => x.checked_div(y),
            // Integer Mod takes the sign of the divisor.
            "Mod" => x.checked_rem(y).map(|r| if r != 0 && (r < 0) != (y < 0) { r + y } else { r }),
            "Max" => Some(x.max(y)),
            "Min" => Some(x.min(y)),
            "Equal" => Some(i64::from(x == y)),
            _ => None,
        };
        return value.map_or(Num::Unknown, Num::Int);
    }
    match (op, a, b) {
        ("Mul", a, b) => multiply(a, b),
        ("Div", a, Num::Int(1)) | ("Add" | "Sub", a, Num::Int(0)) => a.clone(),
        ("Add", Num::Int(0), b) => b.clone(),
        ("Sub", Num::Symbol(x), Num::Symbol(y)) if x == y => Num::Int(0),
        ("Max", Num::Symbol(s), Num::Int(n)) | ("Max", Num::Int(n), Num::Symbol(s)) if *n <= 0 => Num::Symbol(s.clone()),
        ("Max" | "Min", a, b) if a == b => a.clone(),
        ("Equal", Num::Symbol(x), Num::Symbol(y)) if x == y => Num::Int(1),
        ("Equal", Num::Symbol(_), Num::Int(n)) | ("Equal", Num::Int(n), Num::Symbol(_)) if *n < 0 => Num::Int(0),
        _ => Num::Unknown,
    }
}

fn select(ctx: &Ctx<'_, '_>) -> Option<Small> {
    let both = zip(ctx.small(1)?, ctx.small(2)?, |a, b| if a == b { a.clone() } else { Num::Unknown })?;
    let yes = zip(ctx.small(1)?, &both, |a, _| a.clone())?;
    let no = zip(ctx.small(2)?, &both, |a, _| a.clone())?;
    let cond = zip(ctx.small(0)?, &both, |c, _| c.clone())?;
    let at = |s: &Small, i: usize| s.nums[if s.nums.len() == 1 { 0 } else { i }].clone();
    let nums = (0..cond.nums.len()).map(|i| match &cond.nums[i] {
        Num::Int(0) => at(&no, i),
        Num::Int(_) => at(&yes, i),
        _ => at(&both, i),
    });
    Some(Small { nums: nums.collect(), scalar: cond.scalar && both.scalar })
}

fn filled(ctx: &Ctx<'_, '_>) -> Option<Small> {
    let shape = ctx.ints(0)?;
    let value = super::super::edit::attribute(ctx.node, "value")?.t.as_ref()?;
    let value = Num::Int(*Tensor::from_proto(value).ok()?.to_i64()?.first()?);
    match shape[..] {
        [] => Some(Small::scalar(value)),
        [n] => usize::try_from(n).ok().filter(|&n| n <= MAX_LEN).map(|n| Small::vector(vec![value; n])),
        _ => None,
    }
}

fn expand(ctx: &Ctx<'_, '_>) -> Option<Small> {
    let data = ctx.small(0)?;
    let [n] = ctx.ints(1)?[..] else { return None };
    let n = usize::try_from(n).ok().filter(|&n| n <= MAX_LEN)?;
    match data.nums.len() {
        1 => Some(Small::vector(vec![data.nums[0].clone(); n])),
        len if n == 1 || n == len => Some(Small::vector(data.nums.clone())),
        _ => None,
    }
}

fn range(ctx: &Ctx<'_, '_>) -> Option<Small> {
    let one = |i| ctx.ints(i).and_then(|v| v.first().copied());
    let (start, limit, delta) = (one(0)?, one(1)?, one(2)?);
    let n = range_len(start, limit, delta)?;
    (n <= MAX_LEN).then(|| Small::vector((0..n as i64).map(|k| Num::Int(start.saturating_add(k.saturating_mul(delta)))).collect()))
}

/// Number of elements of a `Range`. `None` for a step of 0.
pub(super) fn range_len(start: i64, limit: i64, delta: i64) -> Option<usize> {
    let span = i128::from(limit) - i128::from(start);
    let delta = i128::from(delta);
    if delta == 0 {
        return None;
    }
    let n = if (span > 0) == (delta > 0) && span != 0 { (span.abs() + delta.abs() - 1) / delta.abs() } else { 0 };
    usize::try_from(n).ok()
}

fn product(ctx: &Ctx<'_, '_>) -> Option<Small> {
    let small = ctx.small(0)?;
    let n = small.nums.iter().cloned().reduce(|a, b| multiply(&a, &b)).unwrap_or(Num::Int(1));
    Some(if ctx.attr_int("keepdims", 1) == 0 || small.scalar { Small::scalar(n) } else { Small::vector(vec![n]) })
}
