//! Following small integer tensors by value: what exporters compute shapes with.

use super::super::edit::constant_value;
use super::super::onnx::TensorProto;
use super::super::{DType, Tensor};
use super::basics::axis;
use super::{Ctx, DimExpr};

/// More elements than any shape computation has.
const MAX_LEN: usize = 256;

/// One element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Num {
    /// Its value.
    Int(i64),
    /// The extent of this name, which is not negative.
    Symbol(String),
    /// Anything.
    Unknown,
}

impl Num {
    pub(crate) fn int(&self) -> Option<i64> {
        if let Self::Int(n) = self { Some(*n) } else { None }
    }

    /// As the extent of an axis.
    pub(crate) fn dim(&self) -> DimExpr {
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

/// A small tensor of integers, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Small {
    pub(crate) nums: Vec<Num>,
    pub(crate) shape: Vec<usize>,
}

impl Small {
    fn vector(nums: Vec<Num>) -> Self {
        Self { shape: vec![nums.len()], nums }
    }

    fn scalar(num: Num) -> Self {
        Self { nums: vec![num], shape: Vec::new() }
    }

    fn is_scalar(&self) -> bool {
        self.shape.is_empty()
    }

    fn is_vector(&self) -> bool {
        self.shape.len() == 1
    }

    pub(crate) fn dims(&self) -> Vec<DimExpr> {
        self.shape.iter().map(|&n| DimExpr::Known(n)).collect()
    }

    /// Of an initializer, when it is a small integer tensor.
    pub(crate) fn of_tensor(proto: &TensorProto) -> Option<Self> {
        let elements = proto.dims.iter().try_fold(1_usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?));
        let integer = DType::from_onnx(proto.data_type()).is_some_and(|t| !t.is_float());
        if integer && elements.is_some_and(|n| n <= MAX_LEN) {
            Self::of(&Tensor::from_proto(proto).ok()?)
        } else {
            None
        }
    }

    fn of(tensor: &Tensor) -> Option<Self> {
        if tensor.len() > MAX_LEN {
            return None;
        }
        Some(Self { nums: tensor.to_i64()?.iter().map(|&n| Num::Int(n)).collect(), shape: tensor.shape().to_vec() })
    }

    /// Gives every unknown element, none of which is negative, a name of its own.
    pub(super) fn name_unknown(&mut self, tensor: &str) {
        for (i, num) in self.nums.iter_mut().enumerate().filter(|(_, num)| **num == Num::Unknown) {
            *num = Num::Symbol(format!("{tensor}[{i}]"));
        }
    }

    /// Element `i`, or the only one.
    fn at(&self, i: usize) -> &Num {
        &self.nums[if self.nums.len() == 1 { 0 } else { i }]
    }

    /// The elements at these positions along an axis.
    fn pick(&self, axis: usize, positions: &[usize]) -> Self {
        let inner: usize = self.shape[axis + 1..].iter().product();
        let outer: usize = self.shape[..axis].iter().product();
        let extent = self.shape[axis];
        let mut nums = Vec::with_capacity(outer * positions.len() * inner);
        for o in 0..outer {
            for &p in positions {
                let from = (o * extent + p) * inner;
                nums.extend_from_slice(&self.nums[from..from + inner]);
            }
        }
        let mut shape = self.shape.clone();
        shape[axis] = positions.len();
        Self { nums, shape }
    }
}

/// The value of the node's first output, when it can be followed.
pub(super) fn propagate(ctx: &Ctx<'_>) -> Option<Small> {
    if !matches!(ctx.node.domain(), "" | "ai.onnx") {
        return None;
    }
    let small = match ctx.node.op_type() {
        "Constant" => Small::of(&constant_value(ctx.node)?),
        "Shape" => shape(ctx),
        "Size" => size(ctx),
        "Identity" => ctx.small(0).cloned(),
        // A cast between integer types keeps the value; through floats it is not followed.
        "Cast" => match DType::from_onnx(ctx.attr_int("to", 0) as i32)? {
            DType::I64 => ctx.small(0).cloned(),
            DType::I32 => Some(map(ctx.small(0)?, |n| match n {
                Num::Int(v) if i32::try_from(*v).is_err() => Num::Unknown,
                other => other.clone(),
            })),
            _ => None,
        },
        "Unsqueeze" => ctx.small(0).filter(|s| s.is_scalar()).map(|s| Small::vector(s.nums.clone())).filter(|_| {
            let axes = ctx.attr_ints("axes").map(<[i64]>::len).or_else(|| ctx.ints(1).map(|a| a.len()));
            axes == Some(1)
        }),
        "Squeeze" => {
            ctx.small(0).filter(|s| s.is_vector() && s.nums.len() == 1).map(|s| Small::scalar(s.nums[0].clone()))
        }
        "Reshape" => reshape(ctx),
        "Transpose" => transpose(ctx),
        "Gather" => gather(ctx),
        "Slice" => slice(ctx),
        "Concat" => concat(ctx),
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Max" | "Min" | "Equal" => binary(ctx),
        "Neg" => Some(map(ctx.small(0)?, |n| n.int().and_then(i64::checked_neg).map_or(Num::Unknown, Num::Int))),
        "Not" => Some(map(ctx.small(0)?, |n| n.int().map_or(Num::Unknown, |v| Num::Int(i64::from(v == 0))))),
        "Where" => select(ctx),
        "ConstantOfShape" => filled(ctx),
        "Expand" => expand(ctx),
        "Range" => range(ctx),
        "ReduceProd" => product(ctx),
        _ => None,
    }?;
    (small.nums.len() <= MAX_LEN).then_some(small)
}

/// Whether no element of the node's result is negative, whatever is fed.
pub(super) fn never_negative(ctx: &Ctx<'_>) -> bool {
    let none_negative = |small: &Small| small.nums.iter().all(|n| matches!(n, Num::Symbol(_) | Num::Int(0..)));
    match ctx.node.op_type() {
        "Size" => true,
        "Add" | "Mul" | "Div" | "ReduceProd" => {
            (0..ctx.node.input.len()).all(|i| ctx.small(i).is_some_and(none_negative))
        }
        _ => false,
    }
}

fn map(small: &Small, f: impl Fn(&Num) -> Num) -> Small {
    Small { nums: small.nums.iter().map(f).collect(), shape: small.shape.clone() }
}

fn shape(ctx: &Ctx<'_>) -> Option<Small> {
    let dims = ctx.dims(0)?;
    let (start, end) = shape_range(ctx, dims.len());
    Some(Small::vector(dims[start..end].iter().map(Num::from).collect()))
}

/// `start` and `end` of a `Shape` node (opset 15), clamped to the rank.
pub(super) fn shape_range(ctx: &Ctx<'_>, rank: usize) -> (usize, usize) {
    let clamp = |v: i64| (if v < 0 { v.saturating_add(rank as i64) } else { v }).clamp(0, rank as i64) as usize;
    let start = clamp(ctx.attr_int("start", 0));
    (start, clamp(ctx.attr_int("end", rank as i64)).max(start))
}

fn size(ctx: &Ctx<'_>) -> Option<Small> {
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

fn reshape(ctx: &Ctx<'_>) -> Option<Small> {
    let small = ctx.small(0)?;
    let target = ctx.ints(1)?;
    let mut shape = Vec::with_capacity(target.len());
    for (i, &n) in target.iter().enumerate() {
        shape.push(match n {
            -1 => {
                let rest = target
                    .iter()
                    .enumerate()
                    .filter(|(k, _)| *k != i)
                    .try_fold(1_usize, |p, (_, &n)| p.checked_mul(usize::try_from(n).ok()?))?;
                small.nums.len().checked_div(rest)?
            }
            n => usize::try_from(n).ok()?,
        });
    }
    let fits = shape.iter().try_fold(1_usize, |p, &n| p.checked_mul(n)) == Some(small.nums.len());
    fits.then(|| Small { nums: small.nums.clone(), shape })
}

fn transpose(ctx: &Ctx<'_>) -> Option<Small> {
    let small = ctx.small(0)?;
    match (&small.shape[..], ctx.attr_ints("perm")) {
        ([_], _) | (_, Some([0, 1])) => Some(small.clone()),
        (&[rows, columns], None | Some([1, 0])) => {
            let nums = (0..columns).flat_map(|c| (0..rows).map(move |r| small.nums[r * columns + c].clone())).collect();
            Some(Small { nums, shape: vec![columns, rows] })
        }
        _ => None,
    }
}

fn gather(ctx: &Ctx<'_>) -> Option<Small> {
    let (data, indices) = (ctx.small(0)?, ctx.small(1)?);
    if !data.is_vector() {
        return None;
    }
    let len = data.nums.len() as i64;
    let nums = indices.nums.iter().map(|i| {
        let i = i.int()?;
        data.nums.get(usize::try_from(if i < 0 { i.checked_add(len)? } else { i }).ok()?).cloned()
    });
    Some(Small { nums: nums.collect::<Option<_>>()?, shape: indices.shape.clone() })
}

fn slice(ctx: &Ctx<'_>) -> Option<Small> {
    let mut data = ctx.small(0)?.clone();
    let starts = ctx.ints_either("starts", 1)??;
    let ends = ctx.ints_either("ends", 2)??;
    let axes = ctx.ints_either("axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = if ctx.attr_ints("starts").is_none() && ctx.has(4) { ctx.ints(4)? } else { vec![1; starts.len()] };
    if [ends.len(), axes.len(), steps.len()].iter().any(|&n| n != starts.len()) {
        return None;
    }
    for (k, &a) in axes.iter().enumerate() {
        let axis = axis(a, data.shape.len())?;
        let positions = slice_positions(data.shape[axis] as i64, starts[k], ends[k], steps[k])?;
        data = data.pick(axis, &positions);
    }
    Some(data)
}

/// Positions that a slice of an axis of `len` elements takes. `None` for a step of 0.
fn slice_positions(len: i64, start: i64, end: i64, step: i64) -> Option<Vec<usize>> {
    let (first, count) = slice_extent(len, start, end, step)?;
    Some((0..count).map(|k| (first + k as i64 * step) as usize).collect())
}

/// First position and number of elements of a slice, as the operator defines clamping. `None` for a step of 0.
pub(super) fn slice_extent(len: i64, start: i64, end: i64, step: i64) -> Option<(i64, usize)> {
    let wrap = |v: i64| if v < 0 { v.saturating_add(len) } else { v };
    match step {
        1.. => {
            let (s, e) = (wrap(start).clamp(0, len), wrap(end).clamp(0, len));
            Some((s, if e > s { ((e - s - 1) / step + 1) as usize } else { 0 }))
        }
        0 => None,
        _ => {
            let (s, e) = (wrap(start).clamp(-1, len - 1), wrap(end).clamp(-1, len - 1));
            Some((s, if s > e { ((s - e - 1) / step.checked_neg()? + 1) as usize } else { 0 }))
        }
    }
}

fn concat(ctx: &Ctx<'_>) -> Option<Small> {
    let mut nums = Vec::new();
    for i in 0..ctx.node.input.len() {
        // A part of known length and unknown content still leaves the others in place.
        match ctx.small(i) {
            Some(small) if small.is_vector() => nums.extend_from_slice(&small.nums),
            Some(_) => return None,
            None => match ctx.dims(i)? {
                [DimExpr::Known(n)] if *n <= MAX_LEN && ctx.dtype(i).is_some_and(|t| !t.is_float()) => {
                    nums.extend(vec![Num::Unknown; *n]);
                }
                _ => return None,
            },
        }
    }
    Some(Small::vector(nums))
}

fn binary(ctx: &Ctx<'_>) -> Option<Small> {
    // `fmod` takes the sign of the dividend.
    if ctx.node.input.len() != 2 || ctx.attr_int("fmod", 0) != 0 {
        return None;
    }
    let op = ctx.node.op_type();
    zip(ctx.small(0)?, ctx.small(1)?, |a, b| compute(op, a, b))
}

/// Elementwise over equal shapes, or with a single element against any shape.
fn zip(a: &Small, b: &Small, f: impl Fn(&Num, &Num) -> Num) -> Option<Small> {
    let shape = match (a.nums.len(), b.nums.len()) {
        (1, 1) => {
            if a.shape.len() > b.shape.len() {
                &a.shape
            } else {
                &b.shape
            }
        }
        (_, 1) if b.shape.len() <= a.shape.len() => &a.shape,
        (1, _) if a.shape.len() <= b.shape.len() => &b.shape,
        _ if a.shape == b.shape => &a.shape,
        _ => return None,
    };
    let n = a.nums.len().max(b.nums.len());
    Some(Small { nums: (0..n).map(|i| f(a.at(i), b.at(i))).collect(), shape: shape.clone() })
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
        ("Max", Num::Symbol(s), Num::Int(n)) | ("Max", Num::Int(n), Num::Symbol(s)) if *n <= 0 => {
            Num::Symbol(s.clone())
        }
        ("Max" | "Min", a, b) if a == b => a.clone(),
        ("Equal", Num::Symbol(x), Num::Symbol(y)) if x == y => Num::Int(1),
        ("Equal", Num::Symbol(_), Num::Int(n)) | ("Equal", Num::Int(n), Num::Symbol(_)) if *n < 0 => Num::Int(0),
        _ => Num::Unknown,
    }
}

fn select(ctx: &Ctx<'_>) -> Option<Small> {
    let (cond, yes, no) = (ctx.small(0)?, ctx.small(1)?, ctx.small(2)?);
    let agreed = zip(yes, no, |a, b| if a == b { a.clone() } else { Num::Unknown })?;
    // The common shape of all three.
    let shaped = zip(cond, &agreed, |_, agreed| agreed.clone())?;
    let nums = shaped.nums.iter().enumerate().map(|(i, agreed)| match cond.at(i) {
        Num::Int(0) => no.at(i).clone(),
        Num::Int(_) => yes.at(i).clone(),
        _ => agreed.clone(),
    });
    Some(Small { nums: nums.collect(), shape: shaped.shape.clone() })
}

fn filled(ctx: &Ctx<'_>) -> Option<Small> {
    let shape = ctx.ints(0)?;
    let value = super::super::edit::attribute(ctx.node, "value")?.t.as_ref()?;
    let value = Num::Int(*Tensor::from_proto(value).ok()?.to_i64()?.first()?);
    match shape[..] {
        [] => Some(Small::scalar(value)),
        [n] => usize::try_from(n).ok().filter(|&n| n <= MAX_LEN).map(|n| Small::vector(vec![value; n])),
        _ => None,
    }
}

fn expand(ctx: &Ctx<'_>) -> Option<Small> {
    let data = ctx.small(0).filter(|d| d.shape.len() <= 1)?;
    let [n] = ctx.ints(1)?[..] else { return None };
    let n = usize::try_from(n).ok().filter(|&n| n <= MAX_LEN)?;
    match data.nums.len() {
        1 => Some(Small::vector(vec![data.nums[0].clone(); n])),
        len if n == 1 || n == len => Some(Small::vector(data.nums.clone())),
        _ => None,
    }
}

fn range(ctx: &Ctx<'_>) -> Option<Small> {
    let one = |i| ctx.ints(i).and_then(|v| v.first().copied());
    let (start, limit, delta) = (one(0)?, one(1)?, one(2)?);
    let n = range_len(start, limit, delta)?;
    (n <= MAX_LEN).then(|| {
        Small::vector((0..n as i64).map(|k| Num::Int(start.saturating_add(k.saturating_mul(delta)))).collect())
    })
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

fn product(ctx: &Ctx<'_>) -> Option<Small> {
    let small = ctx.small(0).filter(|s| s.shape.len() <= 1)?;
    let n = small.nums.iter().cloned().reduce(|a, b| multiply(&a, &b)).unwrap_or(Num::Int(1));
    Some(if ctx.attr_int("keepdims", 1) == 0 || small.is_scalar() { Small::scalar(n) } else { Small::vector(vec![n]) })
}
