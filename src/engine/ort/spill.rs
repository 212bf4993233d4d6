//! Loading a big model from files: the graph in one, the big initializers beside it, where ONNX Runtime maps them. What is mapped from a file already gets
//! a second name there; the rest is written.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::model::onnx::{StringStringEntryProto, tensor_proto::DataLocation};
use crate::model::{Model, mapped};

/// Smaller initializers stay in the graph.
const MIN_SPILLED: usize = 1 << 10;
/// ONNX asks for offsets at multiples of the page size, so that the file can be mapped.
const ALIGNMENT: u64 = 4096;
/// What kernels may expect of the address of a weight. A map begins at a page, so the offset in its file decides.
const LINKED_ALIGNMENT: u64 = 64;
/// The file of what is written.
const WEIGHTS: &str = "weights.bin";

/// Puts `model.onnx` and its weights into `dir` and returns the path of the former.
pub(super) fn write(model: &Model, dir: &Path) -> Result<PathBuf, String> {
    let failed = |e: std::io::Error| format!("the weights cannot be written to {}: {e}", dir.display());
    let mut outside = model.clone();
    let mut written = Written { path: dir.join(WEIGHTS), file: None, end: 0 };
    for tensor in &mut outside.graph_mut().initializer {
        let Some(data) = tensor.raw_data.take_if(|data| data.len() >= MIN_SPILLED) else {
            continue;
        };
        let linked = mapped::link(&data, dir).filter(|(_, offset)| offset.is_multiple_of(LINKED_ALIGNMENT));
        let (location, offset) = match linked {
            Some(place) => place,
            None => (WEIGHTS.to_owned(), written.add(&data).map_err(failed)?),
        };
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
        tensor.external_data = vec![
            entry("location", location),
            entry("offset", offset.to_string()),
            entry("length", data.len().to_string()),
        ];
        tensor.data_location = Some(DataLocation::External as i32);
    }
    written.finish().map_err(failed)?;
    let path = dir.join("model.onnx");
    std::fs::write(&path, outside.to_bytes()).map_err(failed)?;
    Ok(path)
}

/// Weights that are in no file of their own.
struct Written {
    path: PathBuf,
    file: Option<BufWriter<File>>,
    end: u64,
}

impl Written {
    /// Where the weight begins.
    fn add(&mut self, data: &[u8]) -> std::io::Result<u64> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(BufWriter::new(File::create(&self.path)?)),
        };
        let offset = self.end.next_multiple_of(ALIGNMENT);
        file.write_all(&[0; ALIGNMENT as usize][..(offset - self.end) as usize])?;
        mapped::pour(data, file)?;
        self.end = offset + data.len() as u64;
        Ok(offset)
    }

    fn finish(self) -> std::io::Result<()> {
        self.file.map_or(Ok(()), |mut file| file.flush())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    use crate::model::build::Builder;
    use crate::model::onnx::ModelProto;
    use crate::model::{DType, Tensor};

    #[test]
    fn big_initializers_lie_page_aligned_beside_the_graph_and_small_ones_inside() {
        let big: Vec<f32> = (0..300).map(|v| v as f32).collect();
        let weights = Tensor::new(&[300], &big);
        let builder = Builder::new(17).initializer("s", Tensor::scalar(1.0_f32));
        let builder = builder.initializer("a", weights.clone()).initializer("b", weights);
        let model = builder.output("a", DType::F32, &["300"]).build();
        let dir = tempfile::tempdir().unwrap();
        // Decoded as it lies there: a load would bring the weights in again.
        let bytes = std::fs::read(write(&model, dir.path()).unwrap()).unwrap();
        let graph = ModelProto::decode(bytes.as_slice()).unwrap().graph.unwrap();
        let [s, a, b] = &graph.initializer[..] else { panic!() };
        assert!(s.raw_data.is_some() && a.raw_data.is_none());
        assert_eq!(a.data_location(), DataLocation::External);
        assert_eq!(b.external_data[1].value(), "4096");
        assert_eq!(
            std::fs::read(dir.path().join("weights.bin")).unwrap()[4096..],
            *bytemuck::cast_slice::<f32, u8>(&big)
        );
    }

    #[test]
    fn what_is_mapped_from_an_aligned_place_is_not_written_again() {
        let root = tempfile::tempdir().unwrap();
        let big: Vec<f32> = (0..300).map(|v| v as f32).collect();
        let model = Builder::new(17)
            .initializer("a", Tensor::new(&[300], &big))
            .initializer("b", Tensor::new(&[300], &big))
            .output("a", DType::F32, &["300"])
            .build();
        let dir = root.path().join("session");
        std::fs::create_dir(&dir).unwrap();
        let path = root.path().join("m.onnx");
        let options = crate::model::SaveOptions { external: Some(1) };
        model.save_with(&path, options).unwrap();
        let loaded = Model::load(&path).unwrap();
        let spilled = Model::load(&write(&loaded, &dir).unwrap()).unwrap();
        assert_eq!(spilled, loaded);
        let names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(!dir.join(WEIGHTS).exists());
    }
}
