//! Tensors to ONNX Runtime and back.

use std::borrow::Cow;

use ::ort::session::SessionInputValue;
use ::ort::value::{DynValue, PrimitiveTensorElementType, Tensor as OrtTensor, TensorElementType, TensorRef};
use bytes::Bytes;
use half::{bf16, f16};

use crate::engine::Observed;
use crate::model::tensor::element_count;
use crate::model::{DType, Element, Tensor};

/// A view of a tensor; copied only when its bytes are not aligned, or are booleans, whose bytes Rust must check first.
pub(super) fn to_ort(tensor: &Tensor) -> ::ort::Result<SessionInputValue<'_>> {
    match tensor.dtype() {
        DType::F32 => view::<f32>(tensor),
        DType::F64 => view::<f64>(tensor),
        DType::F16 => view::<f16>(tensor),
        DType::BF16 => view::<bf16>(tensor),
        DType::I8 => view::<i8>(tensor),
        DType::I16 => view::<i16>(tensor),
        DType::I32 => view::<i32>(tensor),
        DType::I64 => view::<i64>(tensor),
        DType::U8 => view::<u8>(tensor),
        DType::U16 => view::<u16>(tensor),
        DType::U32 => view::<u32>(tensor),
        DType::U64 => view::<u64>(tensor),
        DType::Bool => {
            let values: Vec<bool> = tensor.bytes().iter().map(|&b| b != 0).collect();
            Ok(OrtTensor::from_array((tensor.shape().to_vec(), values))?.into())
        }
    }
}

fn view<T: Element + PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static>(
    tensor: &Tensor,
) -> ::ort::Result<SessionInputValue<'_>> {
    let shape = tensor.shape().to_vec();
    match tensor.values::<T>().expect("the caller matched the element type") {
        Cow::Borrowed(values) => Ok(TensorRef::from_array_view((shape, values))?.into()),
        Cow::Owned(values) => Ok(OrtTensor::from_array((shape, values))?.into()),
    }
}

/// Element type and shape of what ONNX Runtime returned; `None` when it is no tensor of numbers.
pub(super) fn observed(value: &DynValue) -> Option<Observed> {
    let dtype = dtype_of(value.dtype().tensor_type()?)?;
    let shape = value.dtype().tensor_shape()?.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()?;
    Some((dtype, shape))
}

fn dtype_of(ty: TensorElementType) -> Option<DType> {
    Some(match ty {
        TensorElementType::Float32 => DType::F32,
        TensorElementType::Float64 => DType::F64,
        TensorElementType::Float16 => DType::F16,
        TensorElementType::Bfloat16 => DType::BF16,
        TensorElementType::Int8 => DType::I8,
        TensorElementType::Int16 => DType::I16,
        TensorElementType::Int32 => DType::I32,
        TensorElementType::Int64 => DType::I64,
        TensorElementType::Uint8 => DType::U8,
        TensorElementType::Uint16 => DType::U16,
        TensorElementType::Uint32 => DType::U32,
        TensorElementType::Uint64 => DType::U64,
        TensorElementType::Bool => DType::Bool,
        _ => return None,
    })
}

fn copy<T: Element + PrimitiveTensorElementType>(value: &DynValue) -> ::ort::Result<Bytes> {
    Ok(Bytes::copy_from_slice(bytemuck::cast_slice(value.try_extract_tensor::<T>()?.1)))
}

/// A copy of what ONNX Runtime returned.
pub(super) fn from_ort(value: &DynValue) -> Result<Tensor, String> {
    let (dtype, shape) =
        observed(value).ok_or_else(|| format!("is {}, not a tensor of numbers of a byte or more", value.dtype()))?;
    if element_count(&shape) == Some(0) {
        // An empty tensor may have no address at all.
        return Tensor::from_bytes(dtype, shape, Bytes::new()).map_err(|e| e.to_string());
    }
    let data = match dtype {
        DType::F32 => copy::<f32>(value),
        DType::F64 => copy::<f64>(value),
        DType::F16 => copy::<f16>(value),
        DType::BF16 => copy::<bf16>(value),
        DType::I8 => copy::<i8>(value),
        DType::I16 => copy::<i16>(value),
        DType::I32 => copy::<i32>(value),
        DType::I64 => copy::<i64>(value),
        DType::U8 => copy::<u8>(value),
        DType::U16 => copy::<u16>(value),
        DType::U32 => copy::<u32>(value),
        DType::U64 => copy::<u64>(value),
        DType::Bool => {
            value.try_extract_tensor::<bool>().map(|(_, values)| values.iter().map(|&b| u8::from(b)).collect())
        }
    };
    Tensor::from_bytes(dtype, shape, data.map_err(|e| e.to_string())?).map_err(|e| e.to_string())
}

/// Float32 numbers where ONNX Runtime left them.
struct Floats(DynValue);

impl AsRef<[u8]> for Floats {
    fn as_ref(&self) -> &[u8] {
        self.0.try_extract_tensor::<f32>().map_or(&[], |(_, values)| bytemuck::cast_slice(values))
    }
}

/// What ONNX Runtime returned: float32 numbers where they are, anything else a copy.
pub(super) fn lent(value: DynValue) -> Result<Tensor, String> {
    match observed(&value) {
        Some((DType::F32, shape)) if element_count(&shape) != Some(0) => {
            Tensor::from_bytes(DType::F32, shape, Bytes::from_owner(Floats(value))).map_err(|e| e.to_string())
        }
        _ => from_ort(&value),
    }
}
