//! Reading a model file. Nothing is copied: weights are slices of the memory map, inside the file or beside it.

use std::path::Path;

use bytes::Bytes;
use prost::Message;

use super::onnx::ModelProto;
use super::{Model, ModelError, external, mapped};

/// Largest protobuf message that any reader accepts, in bytes.
pub const MAX_PROTOBUF: u64 = i32::MAX as u64;

/// What a model was loaded from: its file and the files of its external data, as they were mapped then. Another file put in the place of one of them later
/// does not change these bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The model file.
    pub file: Bytes,
    /// Files of external data, each once, by the location that the model gives (relative to its folder).
    pub beside: Vec<(String, Bytes)>,
}

impl Source {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.beside.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>() + self.file.len() as u64
    }
}

/// Bounds on what a model file may make us map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// Bytes of external data in all, counted per tensor.
    pub external_bytes: u64,
}

impl Default for Limits {
    /// 64 GiB of external data.
    fn default() -> Self {
        Self { external_bytes: 64 << 30 }
    }
}

impl Model {
    /// Decodes a model from bytes, sharing the weights with them. `path` is only for messages: external data is not looked for, see [`Model::load`].
    pub fn from_bytes(bytes: Bytes, path: &Path) -> Result<Self, ModelError> {
        let not_onnx = |detail: String| ModelError::NotOnnx { path: path.to_owned(), detail };
        if bytes.is_empty() {
            return Err(ModelError::Empty { path: path.to_owned() });
        }
        if bytes.len() as u64 > MAX_PROTOBUF {
            return Err(ModelError::TooLarge { path: path.to_owned(), bytes: bytes.len() as u64 });
        }
        let proto = ModelProto::decode(bytes.clone())
            .map_err(|e| not_onnx(format!("{}; it starts like {}", e, first_bytes(&bytes))))?;
        if proto.graph.as_ref().is_none_or(|g| g.node.is_empty() && g.output.is_empty()) {
            return Err(not_onnx("it holds no graph".to_owned()));
        }
        Ok(Self { proto, source: Some(bytes) })
    }

    /// Loads a model file and the external data it names, which must lie inside the file's folder.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        Self::load_with(path, Limits::default())
    }

    /// [`Model::load`] with other limits.
    pub fn load_with(path: &Path, limits: Limits) -> Result<Self, ModelError> {
        Self::load_source(path, limits).map(|(model, _)| model)
    }

    /// [`Model::load_with`], with the files that were read. They are mapped, so that neither takes memory of its own.
    pub fn load_source(path: &Path, limits: Limits) -> Result<(Self, Source), ModelError> {
        let file = mapped::map(path).map_err(|source| ModelError::Read { path: path.to_owned(), source })?;
        let mut model = Self::from_bytes(file.clone(), path)?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let beside = external::resolve(&mut model.proto, folder, limits)?;
        if beside.is_some() {
            model.source = None;
        }
        Ok((model, Source { file, beside: beside.unwrap_or_default() }))
    }

    /// Bytes on disk of the model at `path`, external data included.
    pub fn stored_bytes(path: &Path) -> Result<u64, ModelError> {
        Self::load_source(path, Limits::default()).map(|(_, source)| source.bytes())
    }
}

/// What a file that is not a protobuf looks like, for the message.
fn first_bytes(bytes: &[u8]) -> &'static str {
    const KNOWN: &[(&[u8], &str)] = &[
        (b"\x89PNG", "a PNG image"),
        (b"\xff\xd8\xff", "a JPEG image"),
        (b"PK\x03\x04", "a zip archive (a PyTorch or npz file?)"),
        (b"\x80\x02", "a Python pickle"),
        (b"\x80\x04", "a Python pickle"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"version https://git-lfs", "a Git LFS pointer; fetch the real file"),
        (b"<", "HTML or XML"),
        (b"{", "JSON"),
        (b"\x89HDF", "an HDF5 file"),
    ];
    KNOWN
        .iter()
        .find(|(magic, _)| bytes.starts_with(magic))
        .map_or("ONNX, but is truncated or damaged", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DType, Tensor, build::Builder};

    fn linear() -> Model {
        Builder::new(17)
            .input("x", DType::F32, &["N", "2"])
            .initializer("w", Tensor::new(&[2, 1], &[1.0_f32, 2.0]))
            .node("MatMul", &["x", "w"], "y", vec![])
            .output("y", DType::F32, &["N", "1"])
            .build()
    }

    #[test]
    fn an_unedited_model_gives_back_its_file_to_the_byte_even_with_unknown_fields() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        let mut file = linear().to_bytes();
        file.extend([0xfa, 0x3e, 3, b'a', b'b', b'c']); // field 1007, which no version of ONNX has
        std::fs::write(&path, &file).unwrap();
        let mut model = Model::load(&path).unwrap();
        assert_eq!(model.to_bytes(), file);
        model.graph_mut();
        assert_eq!(model.to_bytes(), linear().to_bytes(), "an edited model is encoded anew");
    }

    #[test]
    fn weights_are_shared_with_the_file_not_copied() {
        let bytes = Bytes::from(linear().to_bytes());
        let model = Model::from_bytes(bytes.clone(), Path::new("m")).unwrap();
        let weights = model.graph().initializer[0].raw_data.as_ref().unwrap();
        assert!(bytes.as_ptr_range().contains(&weights.as_ptr()));
    }
}
