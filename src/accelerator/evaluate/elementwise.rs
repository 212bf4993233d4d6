//! Arithmetic, comparison, logic and casts with broadcasting.

use half::{bf16, f16};

use super::{Call, broadcast, broadcast_walk, pick};
use crate::model::{DType, Element, Tensor, edit};

/// Operators of two inputs, or of any number for Min, Max and Sum.
pub(super) fn nary(call: &Call) -> Option<Tensor> {
    let op = call.node.op_type();
    if call.opset < 7 {
        return None;
    }
    let mut total = call.input(0)?.clone();
    if call.inputs.len() < 2 {
        return matches!(op, "Min" | "Max" | "Sum").then_some(total);
    }
    for position in 1..call.inputs.len() {
        total = binary(call, op, &total, call.input(position)?)?;
    }
    Some(total)
}

fn binary(call: &Call, op: &str, a: &Tensor, b: &Tensor) -> Option<Tensor> {
    // An exponent may have another type than its base; integers are only raised to integers.
    let cast_exponent;
    let b = if op == "Pow" && a.dtype() != b.dtype() {
        cast_exponent = convert(b, a.dtype())?;
        if b.dtype().is_float() && !a.dtype().is_float() {
            return None;
        }
        &cast_exponent
    } else {
        b
    };
    if a.dtype() != b.dtype() {
        return None;
    }
    let shape = broadcast(a.shape(), b.shape())?;
    call.fits(a.dtype(), &shape)?;
    let fmod = edit::int_attribute(call.node, "fmod", 0) != 0;
    macro_rules! float {
        ($t:ty, $pow:expr) => {
            match op {
                "Add" | "Sum" => zip::<$t>(a, b, &shape, |x, y| Some(x + y)),
                "Sub" => zip::<$t>(a, b, &shape, |x, y| Some(x - y)),
                "Mul" => zip::<$t>(a, b, &shape, |x, y| Some(x * y)),
                "Div" => zip::<$t>(a, b, &shape, |x, y| Some(x / y)),
                "Pow" => zip::<$t>(a, b, &shape, $pow),
                "Min" => zip::<$t>(a, b, &shape, |x, y| Some(if x.is_nan() || x < y { x } else { y })),
                "Max" => zip::<$t>(a, b, &shape, |x, y| Some(if x.is_nan() || x > y { x } else { y })),
                "Mod" if fmod => zip::<$t>(a, b, &shape, |x, y| Some(x % y)),
                _ => compare::<$t>(op, a, b, &shape),
            }
        };
    }
    macro_rules! integer {
        ($t:ty) => {
            match op {
                "Add" | "Sum" => zip::<$t>(a, b, &shape, |x, y| Some(x.wrapping_add(y))),
                "Sub" => zip::<$t>(a, b, &shape, |x, y| Some(x.wrapping_sub(y))),
                "Mul" => zip::<$t>(a, b, &shape, |x, y| Some(x.wrapping_mul(y))),
                "Div" => zip::<$t>(a, b, &shape, <$t>::checked_div),
                "Pow" => zip::<$t>(a, b, &shape, |x, y| Some(x.wrapping_pow(u32::try_from(y).ok()?))),
                "Min" => zip::<$t>(a, b, &shape, |x, y| Some(x.min(y))),
                "Max" => zip::<$t>(a, b, &shape, |x, y| Some(x.max(y))),
                // The result takes the divisor's sign, unless `fmod` asks for the dividend's.
                "Mod" => zip::<$t>(a, b, &shape, |x, y| {
                    let r = x.checked_rem(y)?;
                    let zero: $t = 0;
                    Some(if !fmod && r != zero && (r < zero) != (y < zero) { r.wrapping_add(y) } else { r })
                }),
                _ => compare::<$t>(op, a, b, &shape),
            }
        };
    }
    match a.dtype() {
        // Only the exponents whose power is exact by definition or by one rounded product: `powf` differs between machines' libraries.
        DType::F32 => float!(f32, power32),
        DType::F64 => float!(f64, |_, _| None),
        DType::I64 => integer!(i64),
        DType::I32 => integer!(i32),
        DType::I16 => integer!(i16),
        DType::I8 => integer!(i8),
        DType::U64 => integer!(u64),
        DType::U32 => integer!(u32),
        DType::U16 => integer!(u16),
        DType::U8 => integer!(u8),
        DType::Bool => logic(op, a, b, &shape),
        DType::F16 | DType::BF16 => None,
    }
}

fn power32(x: f32, y: f32) -> Option<f32> {
    if y == 0.0 {
        Some(1.0)
    } else if y == 1.0 {
        Some(x)
    } else if y == 2.0 {
        Some(x * x)
    } else if y == 0.5 {
        Some(x.sqrt())
    } else if y == -1.0 {
        Some(1.0 / x)
    } else if y == -0.5 {
        Some(1.0 / x.sqrt())
    } else {
        None
    }
}

fn zip<T: Element>(a: &Tensor, b: &Tensor, shape: &[usize], f: impl Fn(T, T) -> Option<T>) -> Option<Tensor> {
    let (x, y) = (a.values::<T>()?, b.values::<T>()?);
    let data: Vec<T> = if a.shape() == b.shape() {
        x.iter().zip(y.iter()).map(|(&x, &y)| f(x, y)).collect::<Option<_>>()?
    } else {
        let (i, j) = (broadcast_walk(a.shape(), shape), broadcast_walk(b.shape(), shape));
        i.into_iter().zip(j).map(|(i, j)| f(x[i], y[j])).collect::<Option<_>>()?
    };
    Some(Tensor::new(shape, &data))
}

fn compare<T: Element + PartialOrd>(op: &str, a: &Tensor, b: &Tensor, shape: &[usize]) -> Option<Tensor> {
    let test: fn(T, T) -> bool = match op {
        "Equal" => |x, y| x == y,
        "Less" => |x, y| x < y,
        "Greater" => |x, y| x > y,
        "LessOrEqual" => |x, y| x <= y,
        "GreaterOrEqual" => |x, y| x >= y,
        _ => return None,
    };
    let (x, y) = (a.values::<T>()?, b.values::<T>()?);
    let (i, j) = (broadcast_walk(a.shape(), shape), broadcast_walk(b.shape(), shape));
    let data: Vec<bool> = i.into_iter().zip(j).map(|(i, j)| test(x[i], y[j])).collect();
    Some(Tensor::from_bools(shape, &data))
}

fn logic(op: &str, a: &Tensor, b: &Tensor, shape: &[usize]) -> Option<Tensor> {
    let test: fn(bool, bool) -> bool = match op {
        "Equal" => |x, y| x == y,
        "And" => |x, y| x && y,
        "Or" => |x, y| x || y,
        "Xor" => |x, y| x != y,
        _ => return None,
    };
    let (i, j) = (broadcast_walk(a.shape(), shape), broadcast_walk(b.shape(), shape));
    let (x, y) = (a.bytes(), b.bytes());
    let data: Vec<bool> = i.into_iter().zip(j).map(|(i, j)| test(x[i] != 0, y[j] != 0)).collect();
    Some(Tensor::from_bools(shape, &data))
}

/// Operators of one input.
pub(super) fn unary(call: &Call) -> Option<Tensor> {
    let x = call.input(0)?;
    let op = call.node.op_type();
    macro_rules! float {
        ($t:ty) => {
            match op {
                "Neg" => map::<$t>(x, |v| -v),
                "Abs" => map::<$t>(x, <$t>::abs),
                "Sqrt" => map::<$t>(x, <$t>::sqrt),
                "Reciprocal" => map::<$t>(x, |v| 1.0 / v),
                "Floor" => map::<$t>(x, <$t>::floor),
                "Ceil" => map::<$t>(x, <$t>::ceil),
                "Relu" => map::<$t>(x, |v| if v < 0.0 { 0.0 } else { v }),
                "Sign" => map::<$t>(x, |v| {
                    if v > 0.0 {
                        1.0
                    } else if v < 0.0 {
                        -1.0
                    } else {
                        v
                    }
                }),
                _ => None,
            }
        };
    }
    macro_rules! integer {
        ($t:ty) => {
            match op {
                "Neg" => map::<$t>(x, <$t>::wrapping_neg),
                "Abs" => map::<$t>(x, <$t>::wrapping_abs),
                "Relu" => map::<$t>(x, |v| v.max(0)),
                "Sign" => map::<$t>(x, <$t>::signum),
                _ => None,
            }
        };
    }
    match x.dtype() {
        DType::F32 => float!(f32),
        DType::F64 => float!(f64),
        DType::I64 => integer!(i64),
        DType::I32 => integer!(i32),
        DType::I8 => integer!(i8),
        DType::Bool if op == "Not" => {
            let flipped: Vec<bool> = x.bytes().iter().map(|&b| b == 0).collect();
            Some(Tensor::from_bools(x.shape(), &flipped))
        }
        _ => None,
    }
}

fn map<T: Element>(x: &Tensor, f: impl Fn(T) -> T) -> Option<Tensor> {
    let data: Vec<T> = x.values::<T>()?.iter().map(|&v| f(v)).collect();
    Some(Tensor::new(x.shape(), &data))
}

/// `Cast`. A float that an integer type cannot hold is undefined in ONNX and left to the engine.
pub(super) fn cast(call: &Call) -> Option<Tensor> {
    let to = DType::from_onnx(i32::try_from(edit::int_attribute(call.node, "to", 0)).ok()?)?;
    convert(call.input(0)?, to)
}

/// A tensor in another element type.
#[allow(clippy::cast_lossless, reason = "one macro for types that are lossless and types that are not")]
pub(super) fn convert(x: &Tensor, to: DType) -> Option<Tensor> {
    if x.dtype() == to {
        return Some(x.clone());
    }
    let shape = x.shape();
    if x.dtype().is_float() {
        let v = x.to_f64();
        macro_rules! truncate {
            ($t:ty) => {{
                let data = v.iter().map(|&f| {
                    let whole = f.trunc();
                    // The upper bound is exclusive because the maximum of a 64-bit type is not a float.
                    let (low, high) = (<$t>::MIN as f64, <$t>::MAX as f64 + 1.0);
                    (low..high).contains(&whole).then_some(whole as $t)
                });
                Some(Tensor::new(shape, &data.collect::<Option<Vec<$t>>>()?))
            }};
        }
        return match to {
            // Rounding twice (to float64 and on) is harmless: every narrower float is exact in float64.
            DType::F32 => Some(Tensor::new(shape, &v.iter().map(|&f| f as f32).collect::<Vec<_>>())),
            DType::F64 => Some(Tensor::new(shape, &v)),
            DType::F16 => Some(Tensor::new(shape, &v.iter().map(|&f| f16::from_f64(f)).collect::<Vec<_>>())),
            DType::BF16 => Some(Tensor::new(shape, &v.iter().map(|&f| bf16::from_f64(f)).collect::<Vec<_>>())),
            DType::Bool => Some(Tensor::from_bools(shape, &v.iter().map(|&f| f != 0.0).collect::<Vec<_>>())),
            DType::I64 => truncate!(i64),
            DType::I32 => truncate!(i32),
            DType::I16 => truncate!(i16),
            DType::I8 => truncate!(i8),
            DType::U64 => truncate!(u64),
            DType::U32 => truncate!(u32),
            DType::U16 => truncate!(u16),
            DType::U8 => truncate!(u8),
        };
    }
    let v = x.to_i64()?;
    if x.dtype() == DType::U64 && v.iter().any(|&i| i < 0) {
        return None;
    }
    macro_rules! to {
        ($f:expr) => {
            Some(Tensor::new(shape, &v.iter().map($f).collect::<Vec<_>>()))
        };
    }
    match to {
        DType::F32 => to!(|&i| i as f32),
        DType::F64 => to!(|&i| i as f64),
        DType::Bool => Some(Tensor::from_bools(shape, &v.iter().map(|&i| i != 0).collect::<Vec<_>>())),
        DType::I64 => to!(|&i| i),
        DType::I32 => to!(|&i| i as i32),
        DType::I16 => to!(|&i| i as i16),
        DType::I8 => to!(|&i| i as i8),
        DType::U64 => to!(|&i| i as u64),
        DType::U32 => to!(|&i| i as u32),
        DType::U16 => to!(|&i| i as u16),
        DType::U8 => to!(|&i| i as u8),
        DType::F16 => to!(|&i| f16::from_f64(i as f64)),
        DType::BF16 => to!(|&i| bf16::from_f64(i as f64)),
    }
}

/// `Where`.
pub(super) fn select(call: &Call) -> Option<Tensor> {
    let (condition, a, b) = (call.input(0)?, call.input(1)?, call.input(2)?);
    if a.dtype() != b.dtype() || condition.dtype() != DType::Bool {
        return None;
    }
    let shape = broadcast(&broadcast(a.shape(), b.shape())?, condition.shape())?;
    call.fits(a.dtype(), &shape)?;
    let chosen = broadcast_walk(condition.shape(), &shape);
    let (i, j) = (broadcast_walk(a.shape(), &shape), broadcast_walk(b.shape(), &shape));
    // One tensor of both, so that choosing is picking.
    let both = Tensor::from_bytes(a.dtype(), vec![a.len() + b.len()], [&a.bytes()[..], &b.bytes()[..]].concat().into())
        .ok()?;
    let positions: Vec<usize> = chosen
        .into_iter()
        .zip(i.into_iter().zip(j))
        .map(|(c, (i, j))| if condition.bytes()[c] != 0 { i } else { a.len() + j })
        .collect();
    pick(&both, shape, &positions)
}
