//! Reading `.safetensors` files: named tensors, nothing that could run.

use std::collections::BTreeMap;
use std::path::Path;

use ::safetensors::{Dtype, SafeTensors};
use bytes::Bytes;

use super::{DType, Tensor, mapped};

/// Every tensor of a file. The file is mapped, so the tensors take no memory of their own.
///
/// # Errors
/// A sentence about the file, to be put behind its name.
pub fn load(path: &Path) -> Result<BTreeMap<String, Tensor>, String> {
    let bytes =
        mapped::map(path).map_err(|error| format!("cannot be read: {error}. Check the path and its permissions."))?;
    read(&bytes)
}

/// Every tensor in these bytes, which they share.
///
/// # Errors
/// A sentence about the file, to be put behind its name.
pub fn read(bytes: &Bytes) -> Result<BTreeMap<String, Tensor>, String> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| format!("is not a readable .safetensors file ({e}). Save it again."))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::I8 => DType::I8,
            Dtype::I16 => DType::I16,
            Dtype::I32 => DType::I32,
            Dtype::I64 => DType::I64,
            Dtype::U8 => DType::U8,
            Dtype::U16 => DType::U16,
            Dtype::U32 => DType::U32,
            Dtype::U64 => DType::U64,
            Dtype::BOOL => DType::Bool,
            other => {
                return Err(format!(
                    "tensor '{name}' has the type {other:?}, which is no input of a model. Save it as float32 or int64."
                ));
            }
        };
        let tensor = Tensor::from_bytes(dtype, view.shape().to_vec(), bytes.slice_ref(view.data()))
            .map_err(|e| format!("tensor '{name}': {e}"))?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_read_and_damage_is_refused() {
        let header = r#"{"x":{"dtype":"I64","shape":[1,2],"data_offsets":[0,16]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([3_i64, -4].iter().flat_map(|v| v.to_le_bytes()));
        assert_eq!(read(&Bytes::from(bytes.clone())).unwrap()["x"], Tensor::new(&[1, 2], &[3_i64, -4]));
        bytes.pop();
        assert!(read(&Bytes::from(bytes)).unwrap_err().contains("not a readable"));
    }
}
