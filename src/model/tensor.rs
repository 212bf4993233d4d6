//! Host tensors: an element type, a shape and the bytes, row-major and little-endian.

use std::borrow::Cow;

use bytes::Bytes;
use half::{bf16, f16};

use super::ModelError;
use super::onnx::{TensorProto, tensor_proto::DataType};

/// The elements of a strided view in row-major order. `strides` count elements of `size` bytes, and every element that they reach lies in `data`.
pub(crate) fn gathered(shape: &[usize], strides: &[u64], data: &[u8], size: usize) -> Vec<u8> {
    let count = shape.iter().product::<usize>();
    let mut out = Vec::with_capacity(count * size);
    let mut index = vec![0_usize; shape.len()];
    for _ in 0..count {
        let at = index.iter().zip(strides).map(|(&i, &stride)| i * stride as usize).sum::<usize>() * size;
        out.extend_from_slice(&data[at..at + size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

/// Element type of a [`Tensor`]. The variants are ONNX's data types of 8 bits and more; narrower ones never leave the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum DType {
    F32,
    F64,
    F16,
    BF16,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
}

impl DType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    /// Whether the elements are floating point.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::F16 | Self::BF16)
    }

    /// ONNX's number for this type (`TensorProto.DataType`).
    pub fn to_onnx(self) -> i32 {
        (match self {
            Self::F32 => DataType::Float,
            Self::F64 => DataType::Double,
            Self::F16 => DataType::Float16,
            Self::BF16 => DataType::Bfloat16,
            Self::I8 => DataType::Int8,
            Self::I16 => DataType::Int16,
            Self::I32 => DataType::Int32,
            Self::I64 => DataType::Int64,
            Self::U8 => DataType::Uint8,
            Self::U16 => DataType::Uint16,
            Self::U32 => DataType::Uint32,
            Self::U64 => DataType::Uint64,
            Self::Bool => DataType::Bool,
        }) as i32
    }

    /// The type of ONNX's number, or `None` for strings, complex and sub-byte types.
    pub fn from_onnx(number: i32) -> Option<Self> {
        Some(match DataType::try_from(number).ok()? {
            DataType::Float => Self::F32,
            DataType::Double => Self::F64,
            DataType::Float16 => Self::F16,
            DataType::Bfloat16 => Self::BF16,
            DataType::Int8 => Self::I8,
            DataType::Int16 => Self::I16,
            DataType::Int32 => Self::I32,
            DataType::Int64 => Self::I64,
            DataType::Uint8 => Self::U8,
            DataType::Uint16 => Self::U16,
            DataType::Uint32 => Self::U32,
            DataType::Uint64 => Self::U64,
            DataType::Bool => Self::Bool,
            _ => return None,
        })
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::Bool => "bool",
        })
    }
}

/// A Rust type that a [`Tensor`] can be viewed as.
pub trait Element: bytemuck::Pod {
    /// The element type that this Rust type stores.
    const DTYPE: DType;
}

macro_rules! element {
    ($($rust:ty => $dtype:ident),*) => { $(impl Element for $rust { const DTYPE: DType = DType::$dtype; })* };
}
element!(f32 => F32, f64 => F64, f16 => F16, bf16 => BF16, i8 => I8, i16 => I16, i32 => I32, i64 => I64, u8 => U8, u16 => U16, u32 => U32, u64 => U64);

/// An n-dimensional array in host memory. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Bytes,
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({}{:?}, {} bytes)", self.dtype, self.shape, self.data.len())
    }
}

impl Tensor {
    /// A tensor over `data`; the length must be exactly `shape`'s number of elements times the element's size.
    pub fn from_bytes(dtype: DType, shape: Vec<usize>, data: Bytes) -> Result<Self, ModelError> {
        let expected = element_count(&shape).and_then(|n| n.checked_mul(dtype.size()));
        if expected != Some(data.len()) {
            return Err(ModelError::TensorSize { dtype, shape, bytes: data.len() });
        }
        Ok(Self { dtype, shape, data })
    }

    /// A tensor that owns a copy of `values`.
    ///
    /// # Panics
    /// When `values` does not have `shape`'s number of elements: that is a bug of the caller, never of the input.
    pub fn new<T: Element>(shape: &[usize], values: &[T]) -> Self {
        assert_eq!(
            shape.iter().product::<usize>(),
            values.len(),
            "shape {shape:?} does not hold {} values",
            values.len()
        );
        Self { dtype: T::DTYPE, shape: shape.to_vec(), data: Bytes::copy_from_slice(bytemuck::cast_slice(values)) }
    }

    /// A tensor of booleans.
    pub fn from_bools(shape: &[usize], values: &[bool]) -> Self {
        let bytes: Vec<u8> = values.iter().map(|&b| u8::from(b)).collect();
        Self { dtype: DType::Bool, ..Self::new(shape, &bytes) }
    }

    /// A tensor of rank 0.
    pub fn scalar<T: Element>(value: T) -> Self {
        Self::new(&[], &[value])
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extent of every axis, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len() / self.dtype.size()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The raw bytes, row-major, little-endian.
    pub fn bytes(&self) -> &Bytes {
        &self.data
    }

    /// The elements as `T`, or `None` when the element type is another. Borrowed when the bytes are aligned.
    pub fn values<T: Element>(&self) -> Option<Cow<'_, [T]>> {
        (T::DTYPE == self.dtype).then(|| match bytemuck::try_cast_slice(&self.data) {
            Ok(slice) => Cow::Borrowed(slice),
            Err(_) => Cow::Owned(self.data.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()),
        })
    }

    /// The elements as `f32`, converted from whatever they are.
    pub fn to_f32(&self) -> Cow<'_, [f32]> {
        if let Some(v) = self.values::<f32>() { v } else { Cow::Owned(self.map_to(|v| v as f32)) }
    }

    /// The elements as `f64`, converted from whatever they are.
    pub fn to_f64(&self) -> Cow<'_, [f64]> {
        if let Some(v) = self.values::<f64>() { v } else { Cow::Owned(self.map_to(|v| v)) }
    }

    /// The elements as `i64`; `None` for floating-point tensors.
    #[allow(clippy::cast_lossless)] // one macro for every integer type, `u64` included
    pub fn to_i64(&self) -> Option<Cow<'_, [i64]>> {
        if let Some(v) = self.values::<i64>() {
            return Some(v);
        }
        macro_rules! widen {
            ($($t:ty),*) => { $(if let Some(v) = self.values::<$t>() { return Some(v.iter().map(|&x| x as i64).collect()); })* };
        }
        widen!(i8, i16, i32, u8, u16, u32, u64);
        (self.dtype == DType::Bool).then(|| self.data.iter().map(|&b| i64::from(b != 0)).collect())
    }

    fn map_to<T>(&self, convert: impl Fn(f64) -> T) -> Vec<T> {
        macro_rules! each {
            ($($t:ty => $to:expr),*) => { $(if let Some(v) = self.values::<$t>() { return v.iter().map(|&x| convert($to(x))).collect(); })* };
        }
        each!(f32 => f64::from, f64 => f64::from, f16 => f64::from, bf16 => f64::from, i8 => f64::from, i16 => f64::from, i32 => f64::from,
              u8 => f64::from, u16 => f64::from, u32 => f64::from, i64 => (|x| x as f64), u64 => (|x| x as f64));
        self.data.iter().map(|&b| convert(f64::from(u8::from(b != 0)))).collect()
    }

    /// The same elements under another shape of as many elements.
    pub fn reshaped(&self, shape: Vec<usize>) -> Result<Self, ModelError> {
        Self::from_bytes(self.dtype, shape, self.data.clone())
    }

    /// Reads an initializer or attribute whose data is inside the file (raw or typed fields). External data is resolved on load.
    pub fn from_proto(proto: &TensorProto) -> Result<Self, ModelError> {
        let name = proto.name();
        let unsupported = || ModelError::TensorType { name: name.to_owned(), data_type: proto.data_type() };
        let dtype = DType::from_onnx(proto.data_type()).ok_or_else(unsupported)?;
        let bad = || ModelError::TensorData { name: name.to_owned() };
        let shape = proto.dims.iter().map(|&d| usize::try_from(d)).collect::<Result<Vec<_>, _>>().map_err(|_| bad())?;
        let data = if let Some(raw) = &proto.raw_data {
            raw.clone()
        } else {
            let ints = &proto.int32_data;
            match dtype {
                DType::F32 => Bytes::copy_from_slice(bytemuck::cast_slice(&proto.float_data)),
                DType::F64 => Bytes::copy_from_slice(bytemuck::cast_slice(&proto.double_data)),
                DType::I64 => Bytes::copy_from_slice(bytemuck::cast_slice(&proto.int64_data)),
                DType::U64 => Bytes::copy_from_slice(bytemuck::cast_slice(&proto.uint64_data)),
                DType::U32 => proto.uint64_data.iter().flat_map(|&v| (v as u32).to_le_bytes()).collect(),
                DType::I32 => Bytes::copy_from_slice(bytemuck::cast_slice(ints)),
                DType::I16 | DType::U16 | DType::F16 | DType::BF16 => {
                    ints.iter().flat_map(|&v| (v as u16).to_le_bytes()).collect()
                }
                DType::I8 | DType::U8 => ints.iter().map(|&v| v as u8).collect(),
                DType::Bool => ints.iter().map(|&v| u8::from(v != 0)).collect(),
            }
        };
        Self::from_bytes(dtype, shape, data).map_err(|_| bad())
    }

    /// An initializer of this name. The bytes are shared, not copied.
    pub fn to_proto(&self, name: &str) -> TensorProto {
        TensorProto {
            dims: self.shape.iter().map(|&d| d as i64).collect(),
            data_type: Some(self.dtype.to_onnx()),
            name: Some(name.to_owned()),
            raw_data: Some(self.data.clone()),
            ..TensorProto::default()
        }
    }
}

/// Number of elements of a shape, or `None` when it overflows.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_survives_the_trip_through_the_protobuf() {
        for tensor in [
            Tensor::new(&[2, 3], &[1.0_f32, -2.0, 0.5, f32::NAN, 4.0, 5.0]),
            Tensor::new(&[3], &[i64::MIN, 0, i64::MAX]),
            Tensor::from_bools(&[2], &[true, false]),
            Tensor::scalar(7_u8),
        ] {
            assert_eq!(Tensor::from_proto(&tensor.to_proto("t")).unwrap(), tensor);
        }
    }

    #[test]
    fn typed_fields_are_read_like_raw_ones() {
        let proto = TensorProto {
            dims: vec![2],
            data_type: Some(DType::F16.to_onnx()),
            int32_data: vec![0x3c00, 0xc000],
            ..TensorProto::default()
        };
        assert_eq!(&*Tensor::from_proto(&proto).unwrap().to_f32(), &[1.0, -2.0]);
    }

    #[test]
    fn a_size_that_does_not_match_the_shape_is_refused() {
        let proto = TensorProto {
            dims: vec![3],
            data_type: Some(DType::F32.to_onnx()),
            float_data: vec![1.0],
            ..TensorProto::default()
        };
        assert!(matches!(Tensor::from_proto(&proto), Err(ModelError::TensorData { .. })));
        assert!(Tensor::from_bytes(DType::F32, vec![usize::MAX, 2], Bytes::new()).is_err());
    }
}
