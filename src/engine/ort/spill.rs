//! Writing a model whose weights do not fit into one protobuf message: the graph in one file, the big initializers in another beside it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::model::Model;
use crate::model::onnx::{StringStringEntryProto, tensor_proto::DataLocation};

/// Smaller initializers stay in the graph.
const MIN_SPILLED: usize = 1 << 10;
/// ONNX asks for offsets at multiples of the page size, so that the file can be mapped.
const ALIGNMENT: u64 = 4096;

/// Bytes of the main graph's initializers that are held as raw data.
pub(super) fn weight_bytes(model: &Model) -> usize {
    model.graph().initializer.iter().map(|t| t.raw_data.as_ref().map_or(0, bytes::Bytes::len)).sum()
}

/// Writes `model.onnx` and `weights.bin` into `dir` and returns the path of the former.
pub(super) fn write(model: &Model, dir: &Path) -> Result<PathBuf, String> {
    let failed = |e: std::io::Error| format!("the weights cannot be written to {}: {e}", dir.display());
    let mut outside = model.clone();
    let mut weights = BufWriter::new(File::create(dir.join("weights.bin")).map_err(failed)?);
    let mut offset = 0_u64;
    for tensor in &mut outside.graph_mut().initializer {
        let Some(data) = tensor.raw_data.take_if(|data| data.len() >= MIN_SPILLED) else {
            continue;
        };
        let padding = offset.next_multiple_of(ALIGNMENT) - offset;
        weights.write_all(&vec![0; padding as usize]).and_then(|()| weights.write_all(&data)).map_err(failed)?;
        offset += padding;
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
        tensor.external_data = vec![
            entry("location", "weights.bin".to_owned()),
            entry("offset", offset.to_string()),
            entry("length", data.len().to_string()),
        ];
        tensor.data_location = Some(DataLocation::External as i32);
        offset += data.len() as u64;
    }
    weights.flush().map_err(failed)?;
    let path = dir.join("model.onnx");
    std::fs::write(&path, outside.to_bytes()).map_err(failed)?;
    Ok(path)
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
}
