//! Tensors to ONNX Runtime and back.

use std::borrow::Cow;

use ::ort::session::SessionInputValue;
use ::ort::value::{DynValue, PrimitiveTensorElementType, Tensor as OrtTensor, TensorElementType, TensorRef};
use bytes::Bytes;
use half::{bf16, f16};

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

fn view<T: Element + PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static>(tensor: &Tensor) -> ::ort::Result<SessionInputValue<'_>> {
    let shape = tensor.shape().to_vec();
    match tensor.values::<T>().expect("the caller matched the element type") {
        Cow::Borrowed(values) => Ok(TensorRef::from_array_view((shape, values))?.into()),
        Cow::Owned(values) => Ok(OrtTensor::from_array((shape, values))?.into()),
    }
}

/// A copy of what ONNX Runtime returned.
pub(super) fn from_ort(value: &DynValue) -> Result<Tensor, String> {
    let (Some(ty), Some(shape)) = (value.dtype().tensor_type(), value.dtype().tensor_shape()) else {
        return Err(format!("is {}, not a tensor of numbers", value.dtype()));
    };
    let shape: Option<Vec<usize>> = shape.iter().map(|&d| usize::try_from(d).ok()).collect();
    let shape = shape.ok_or("has no complete shape")?;
    macro_rules! copy {
        ($($ty:ident => $rust:ty, $dtype:ident);*) => {
            match ty {
                // An empty tensor may have no address at all.
                $(TensorElementType::$ty if element_count(&shape) == Some(0) => (DType::$dtype, Bytes::new()),
                TensorElementType::$ty => {
                    let (_, values) = value.try_extract_tensor::<$rust>().map_err(|e| e.to_string())?;
                    (DType::$dtype, Bytes::copy_from_slice(bytemuck::cast_slice(values)))
                })*
                TensorElementType::Bool if element_count(&shape) == Some(0) => (DType::Bool, Bytes::new()),
                TensorElementType::Bool => {
                    let (_, values) = value.try_extract_tensor::<bool>().map_err(|e| e.to_string())?;
                    (DType::Bool, values.iter().map(|&b| u8::from(b)).collect())
                }
                other => return Err(format!("has elements of type {other}, which are no numbers of a byte or more")),
            }
        };
    }
    let (dtype, data) = copy!(
        Float32 => f32, F32; Float64 => f64, F64; Float16 => f16, F16; Bfloat16 => bf16, BF16; Int8 => i8, I8; Int16 => i16, I16; Int32 => i32, I32;
        Int64 => i64, I64; Uint8 => u8, U8; Uint16 => u16, U16; Uint32 => u32, U32; Uint64 => u64, U64
    );
    Tensor::from_bytes(dtype, shape, data).map_err(|e| e.to_string())
}
