//! Writing a model file. Everything is written under a temporary name first: a half-written file is never visible.

use std::fs::Permissions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use prost::Message;
use tempfile::NamedTempFile;

use super::load::MAX_PROTOBUF;
use super::onnx::{
    ModelProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation, tensor_proto::DataType,
};
use super::{Model, ModelError, Tensor, mapped};

/// How to write a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SaveOptions {
    /// Initializers of at least this many bytes go to `<file>.data` beside the model. `None` keeps everything in one file while it fits in 2 GiB.
    pub external: Option<usize>,
}

/// What goes out of the file when a model is too large for one.
const LARGE_MODEL_THRESHOLD: usize = 1024;
/// Tensors of at least [`PAGE_ALIGNED_FROM`] bytes start on a page, so that a reader can map each on its own.
const PAGE: usize = 4096;
const PAGE_ALIGNED_FROM: usize = 64 << 10;
/// Smaller ones start on a cache line.
const LINE: usize = 64;

impl Model {
    /// The file's bytes, external data included. A model that was loaded and not edited gives the bytes it was loaded from.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.source.as_ref().map_or_else(|| self.proto.encode_to_vec(), |source| source.to_vec())
    }

    /// Number of bytes that [`Model::to_bytes`] gives, without encoding.
    pub fn encoded_len(&self) -> usize {
        self.source.as_ref().map_or_else(|| self.proto.encoded_len(), bytes::Bytes::len)
    }

    /// Writes the model, in one file where it fits.
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        self.save_with(path, SaveOptions::default())
    }

    /// Writes the model. External data is renamed into place before the model that names it.
    pub fn save_with(&self, path: &Path, options: SaveOptions) -> Result<(), ModelError> {
        let failed = |source| ModelError::Write { path: path.to_owned(), source };
        let threshold =
            options.external.or_else(|| (self.encoded_len() as u64 > MAX_PROTOBUF).then_some(LARGE_MODEL_THRESHOLD));
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let Some(threshold) = threshold else {
            let file = temporary(folder, |w| self.write_to(w));
            file.map_err(failed)?.persist(path).map_err(|e| failed(e.error))?;
            return Ok(());
        };
        let mut data_path = path.as_os_str().to_owned();
        data_path.push(".data");
        let data_path = Path::new(&data_path);
        let location = data_path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut proto = self.proto.clone();
        let mut moved = false;
        let data = temporary(folder, |w| {
            moved = move_out(&mut proto, threshold, &location, w)?;
            Ok(())
        });
        let data = data.map_err(|source| ModelError::Write { path: data_path.to_owned(), source })?;
        let encoded = proto.encoded_len() as u64;
        if encoded > MAX_PROTOBUF {
            return Err(ModelError::TooLarge { path: path.to_owned(), bytes: encoded });
        }
        let file = temporary(folder, |w| w.write_all(&proto.encode_to_vec())).map_err(failed)?;
        if moved {
            data.persist(data_path).map_err(|e| ModelError::Write { path: data_path.to_owned(), source: e.error })?;
        }
        file.persist(path).map_err(|e| failed(e.error))?;
        Ok(())
    }
}

/// A temporary file in `folder` with what `write` writes, on disk, readable as the umask says (a temporary file is private otherwise).
fn temporary(
    folder: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> std::io::Result<NamedTempFile> {
    let file = tempfile::Builder::new()
        .prefix(".bakehouse-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)?;
    let mut writer = BufWriter::new(file);
    write(&mut writer)?;
    let file = writer.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Writes the large initializers of the main graph to `out` and leaves references. Returns whether there was one.
fn move_out(proto: &mut ModelProto, threshold: usize, location: &str, out: &mut dyn Write) -> std::io::Result<bool> {
    let mut position = 0;
    for initializer in proto.graph.iter_mut().flat_map(|g| &mut g.initializer) {
        let Some(bytes) = raw_bytes(initializer).filter(|b| !b.is_empty() && b.len() >= threshold) else { continue };
        let align = if bytes.len() >= PAGE_ALIGNED_FROM { PAGE } else { LINE };
        let offset = usize::next_multiple_of(position, align);
        out.write_all(&[0; PAGE][..offset - position])?;
        mapped::pour(&bytes, out)?;
        position = offset + bytes.len();
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
        *initializer = TensorProto {
            dims: std::mem::take(&mut initializer.dims),
            data_type: initializer.data_type,
            name: initializer.name.take(),
            doc_string: initializer.doc_string.take(),
            metadata_props: std::mem::take(&mut initializer.metadata_props),
            data_location: Some(DataLocation::External as i32),
            external_data: vec![
                entry("location", location.to_owned()),
                entry("offset", offset.to_string()),
                entry("length", bytes.len().to_string()),
            ],
            ..TensorProto::default()
        };
    }
    Ok(position > 0)
}

/// The bytes of an initializer as `raw_data` would hold them. Strings have none.
fn raw_bytes(tensor: &TensorProto) -> Option<bytes::Bytes> {
    if tensor.data_type() == DataType::String as i32 {
        return None;
    }
    tensor.raw_data.clone().or_else(|| Tensor::from_proto(tensor).ok().map(|t| t.bytes().clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::onnx::tensor_proto::DataType;
    use crate::model::{DType, build::Builder};

    fn model() -> Model {
        let large: Vec<f32> = (0..20_000).map(|i| i as f32).collect();
        let mut model = Builder::new(17)
            .input("x", DType::F32, &["N", "200"])
            .initializer("small", Tensor::new(&[1], &[0.5_f32]))
            .initializer("w1", Tensor::new(&[200, 100], &large))
            .initializer("w2", Tensor::new(&[100, 200], &large))
            .node("MatMul", &["x", "w1"], "h", vec![])
            .node("Add", &["h", "small"], "i", vec![])
            .node("Add", &["i", "typed"], "j", vec![])
            .node("MatMul", &["j", "w2"], "y", vec![])
            .output("y", DType::F32, &["N", "200"])
            .build();
        let typed = TensorProto {
            dims: vec![100],
            data_type: Some(DataType::Float as i32),
            name: Some("typed".to_owned()),
            float_data: vec![1.5; 100],
            ..TensorProto::default()
        };
        model.graph_mut().initializer.push(typed);
        model
    }

    #[test]
    fn external_data_comes_back_with_the_same_values() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        let model = model();
        model.save_with(&path, SaveOptions { external: Some(100) }).unwrap();
        assert!(path.metadata().unwrap().len() < 2000);
        let again = Model::load(&path).unwrap();
        again.verify().unwrap();
        for (a, b) in model.graph().initializer.iter().zip(&again.graph().initializer) {
            assert_eq!((a.name(), Tensor::from_proto(a).unwrap()), (b.name(), Tensor::from_proto(b).unwrap()));
        }
        let files = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(files, 2, "nothing temporary is left");
    }

    #[test]
    fn saving_external_data_twice_gives_the_same_files() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&a).unwrap();
        std::fs::create_dir(&b).unwrap();
        model().save_with(&a.join("m.onnx"), SaveOptions { external: Some(64) }).unwrap();
        Model::load(&a.join("m.onnx"))
            .unwrap()
            .save_with(&b.join("m.onnx"), SaveOptions { external: Some(64) })
            .unwrap();
        for file in ["m.onnx", "m.onnx.data"] {
            assert_eq!(std::fs::read(a.join(file)).unwrap(), std::fs::read(b.join(file)).unwrap(), "{file}");
        }
    }

    #[test]
    fn large_tensors_start_on_a_page() {
        let mut proto = model().proto().clone();
        let mut out = Vec::new();
        assert!(move_out(&mut proto, 100, "d", &mut out).unwrap());
        let offsets: Vec<usize> =
            proto.graph.unwrap().initializer[1..].iter().map(|t| t.external_data[1].value().parse().unwrap()).collect();
        assert_eq!(offsets, [0, 81_920, 81_920 + 80_000]);
        assert_eq!(out.len(), 81_920 + 80_000 + 400);
    }

    #[test]
    fn a_model_may_be_saved_over_the_file_it_is_mapped_from() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        model().save_with(&path, SaveOptions { external: Some(64) }).unwrap();
        let loaded = Model::load(&path).unwrap();
        loaded.save_with(&path, SaveOptions { external: Some(64) }).unwrap();
        let again = Model::load(&path).unwrap();
        assert_eq!(again.graph().initializer[1].raw_data, loaded.graph().initializer[1].raw_data);
    }

    #[test]
    fn a_folder_that_does_not_exist_is_an_unwritable_output() {
        let error = model().save(Path::new("/nonexistent/m.onnx")).unwrap_err();
        assert_eq!(error.reason(), crate::api::Reason::OutputUnwritable);
    }
}
