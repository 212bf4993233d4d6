//! Named tensors in a `.safetensors` file: read from one, and written to one byte for byte the same way each time. Nothing in it could run.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::Path;

use ::safetensors::tensor::TensorView;
use ::safetensors::{Dtype, SafeTensorError, SafeTensors};
use bytes::Bytes;

use super::{DType, Tensor, mapped};

fn from_file(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
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
        _ => return None,
    })
}

fn to_file(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I8 => Dtype::I8,
        DType::I16 => Dtype::I16,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
        DType::U8 => Dtype::U8,
        DType::U16 => Dtype::U16,
        DType::U32 => Dtype::U32,
        DType::U64 => Dtype::U64,
        DType::Bool => Dtype::BOOL,
    }
}

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
        let dtype = from_file(view.dtype()).ok_or_else(|| {
            format!(
                "tensor '{name}' has the type {:?}, which is no input of a model. Save it as float32 or int64.",
                view.dtype()
            )
        })?;
        let tensor = Tensor::from_bytes(dtype, view.shape().to_vec(), bytes.slice_ref(view.data()))
            .map_err(|e| format!("tensor '{name}': {e}"))?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
}

/// A file of these tensors, with one remark in its metadata: a second one would make the order of its bytes a matter of chance.
pub fn write(tensors: &BTreeMap<String, Tensor>, remark: Option<(&str, &str)>) -> Result<Vec<u8>, String> {
    ::safetensors::serialize(views(tensors)?, metadata(remark)).map_err(|e| e.to_string())
}

/// The same straight to a file, and on the disk when this returns.
///
/// # Errors
/// Those of the file; what cannot be written in this format is of kind `InvalidData`.
pub fn save(tensors: &BTreeMap<String, Tensor>, remark: Option<(&str, &str)>, path: &Path) -> io::Result<()> {
    let invalid = |detail: String| io::Error::new(io::ErrorKind::InvalidData, detail);
    ::safetensors::serialize_to_file(views(tensors).map_err(invalid)?, metadata(remark), path).map_err(
        |e| match e {
            SafeTensorError::IoError(error) => error,
            other => invalid(other.to_string()),
        },
    )?;
    mapped::release();
    File::open(path)?.sync_all()
}

fn views(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<(&str, TensorView<'_>)>, String> {
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let view = TensorView::new(to_file(tensor.dtype()), tensor.shape().to_vec(), tensor.bytes());
        views.push((name.as_str(), view.map_err(|e| format!("tensor '{name}': {e}"))?));
    }
    Ok(views)
}

fn metadata(remark: Option<(&str, &str)>) -> Option<HashMap<String, String>> {
    remark.map(|(key, value)| HashMap::from([(key.to_owned(), value.to_owned())]))
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

    #[test]
    fn what_is_written_is_read_back_and_is_the_same_bytes_each_time() {
        let tensors: BTreeMap<String, Tensor> = [
            ("w/1", Tensor::new(&[2, 2], &[1.0_f32, -0.0, f32::NAN, 4.0])),
            ("b", Tensor::new(&[3], &[1_i64, 2, 3])),
            ("none", Tensor::new::<f32>(&[0, 4], &[])),
            ("flag", Tensor::from_bools(&[2], &[true, false])),
            ("one", Tensor::scalar(7_u8)),
        ]
        .map(|(name, tensor)| (name.to_owned(), tensor))
        .into();
        let file = write(&tensors, Some(("model_sha256", "00"))).unwrap();
        let dir = tempfile::tempdir().unwrap();
        save(&tensors, Some(("model_sha256", "00")), &dir.path().join("w")).unwrap();
        assert_eq!(std::fs::read(dir.path().join("w")).unwrap(), file);
        assert_eq!(read(&Bytes::from(file.clone())).unwrap(), tensors);
        assert_eq!(write(&tensors, Some(("model_sha256", "00"))).unwrap(), file);
    }
}
