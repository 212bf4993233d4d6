//! The graph that tract reads, and the weights that it then asks for one at a time: decoded in one piece, a model would be in memory three times over while
//! a plan is made.

use std::path::Path;

use bytes::Bytes;
use tract_onnx::data_resolver::ModelDataResolver;
use tract_onnx::prelude::{TractError, TractResult};

use crate::model::onnx::{StringStringEntryProto, tensor_proto::DataLocation};
use crate::model::{Model, mapped};

/// Smaller weights stay in the graph.
const MIN_APART: usize = 64 << 10;

/// tract looks for external data in a folder, at a path that is there. Ours lies in none: the offset is the number of the weight.
pub(super) const FOLDER: &str = "/";
const LOCATION: &str = ".";

/// The large initializers of a graph.
pub(super) struct Weights(Vec<Bytes>);

/// The graph in a file's bytes, without its large initializers, and those.
pub(super) fn apart(model: &Model) -> (Vec<u8>, Weights) {
    let mut graph = model.clone();
    let mut weights = Vec::new();
    for tensor in &mut graph.graph_mut().initializer {
        let Some(data) = tensor.raw_data.take_if(|data| data.len() >= MIN_APART) else { continue };
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
        tensor.external_data = vec![entry("location", LOCATION.to_owned()), entry("offset", weights.len().to_string())];
        tensor.data_location = Some(DataLocation::External as i32);
        weights.push(data);
    }
    (graph.to_bytes(), Weights(weights))
}

impl ModelDataResolver for Weights {
    fn read_bytes_from_path(&self, buffer: &mut Vec<u8>, _: &Path, offset: usize, _: Option<usize>) -> TractResult<()> {
        let weight = self.0.get(offset).ok_or_else(|| TractError::msg(format!("there is no weight {offset}")))?;
        buffer.reserve_exact(weight.len());
        Ok(mapped::pour(weight, buffer)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::Builder;
    use crate::model::{DType, Tensor};

    #[test]
    fn large_weights_are_handed_out_by_their_number_and_small_ones_stay() {
        let large = |from: u32| Tensor::new(&[20_000], &(from..from + 20_000).map(|i| i as f32).collect::<Vec<_>>());
        let model = Builder::new(17)
            .initializer("a", large(0))
            .initializer("small", Tensor::scalar(1.0_f32))
            .initializer("b", large(7))
            .output("a", DType::F32, &["20000"])
            .build();
        let (graph, weights) = apart(&model);
        assert!(graph.len() < 1_000);
        let mut read = Vec::new();
        weights.read_bytes_from_path(&mut read, Path::new(FOLDER), 1, None).unwrap();
        assert!(read == large(7).bytes()[..]);
        assert!(weights.read_bytes_from_path(&mut read, Path::new(FOLDER), 2, None).is_err());
    }
}
