//! Tensors to tract and back.

use half::f16;
use tract_onnx::prelude::{Datum, DatumType, IntoTValue, TDim, TValue, Tensor as TractTensor, TractResult};

use crate::model::{DType, Element, Tensor};

/// tract's name of an element type; `None` for bfloat16, which it lacks.
pub(super) fn datum_type(dtype: DType) -> Option<DatumType> {
    Some(match dtype {
        DType::F32 => f32::datum_type(),
        DType::F64 => f64::datum_type(),
        DType::F16 => f16::datum_type(),
        DType::BF16 => return None,
        DType::I8 => i8::datum_type(),
        DType::I16 => i16::datum_type(),
        DType::I32 => i32::datum_type(),
        DType::I64 => i64::datum_type(),
        DType::U8 => u8::datum_type(),
        DType::U16 => u16::datum_type(),
        DType::U32 => u32::datum_type(),
        DType::U64 => u64::datum_type(),
        DType::Bool => bool::datum_type(),
    })
}

/// A copy. Errors continue `input 'x' …`.
pub(super) fn to_tract(tensor: &Tensor) -> Result<TValue, String> {
    fn copy<T: Element + Datum + Copy>(tensor: &Tensor) -> TractResult<TractTensor> {
        TractTensor::from_shape(tensor.shape(), &tensor.values::<T>().expect("the caller matched the element type"))
    }
    let copied = match tensor.dtype() {
        DType::F32 => copy::<f32>(tensor),
        DType::F64 => copy::<f64>(tensor),
        DType::F16 => copy::<f16>(tensor),
        DType::I8 => copy::<i8>(tensor),
        DType::I16 => copy::<i16>(tensor),
        DType::I32 => copy::<i32>(tensor),
        DType::I64 => copy::<i64>(tensor),
        DType::U8 => copy::<u8>(tensor),
        DType::U16 => copy::<u16>(tensor),
        DType::U32 => copy::<u32>(tensor),
        DType::U64 => copy::<u64>(tensor),
        DType::Bool => TractTensor::from_shape(tensor.shape(), &tensor.bytes().iter().map(|&b| b != 0).collect::<Vec<bool>>()),
        DType::BF16 => return Err("is bfloat16, which tract lacks".to_owned()),
    };
    copied.map(IntoTValue::into_tvalue).map_err(|e| e.to_string())
}

/// A copy of what tract returned. Shapes that tract computed symbolically come back as the int64 that ONNX says they are.
pub(super) fn from_tract(tensor: &TractTensor) -> Result<Tensor, String> {
    let shape = tensor.shape();
    let error = |e: tract_onnx::prelude::TractError| e.to_string();
    let dt = tensor.datum_type();
    if dt == TDim::datum_type() {
        let concrete = tensor.cast_to::<i64>().map_err(error)?;
        return from_tract(&concrete);
    }
    let view = tensor.try_as_plain_ram().map_err(error)?;
    macro_rules! copy {
        ($($rust:ty),*) => {
            $(if dt == <$rust>::datum_type() {
                return Ok(Tensor::new(shape, view.as_slice::<$rust>().map_err(error)?));
            })*
        };
    }
    copy!(f32, f64, f16, i8, i16, i32, i64, u8, u16, u32, u64);
    if dt == bool::datum_type() {
        return Ok(Tensor::from_bools(shape, view.as_slice::<bool>().map_err(error)?));
    }
    Err(format!("an output has elements of type {dt:?}, which are no numbers of a byte or more"))
}
