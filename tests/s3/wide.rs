//! A model that is more than one part of an upload, and more than one range of a download.

use std::collections::BTreeMap;

use bakehouse::model::build::Builder;
use bakehouse::model::onnx::{StringStringEntryProto, TensorProto, tensor_proto::DataLocation};
use bakehouse::model::{DType, Model};
use serde_json::{Value, json};

use super::server::Server;

const INNER: usize = 25_600;

/// Bytes of its weights.
pub(crate) const WEIGHTS: usize = 2 * 64 * INNER * size_of::<f32>();

/// `y = Relu(x a) b` with 13 MB of weights beside the model.
pub(crate) fn model() -> (Model, Vec<u8>) {
    let shape = ["N", "64"];
    let mut model = Builder::new(17)
        .input("x", DType::F32, &shape)
        .node("MatMul", &["x", "a"], "h", vec![])
        .node("Relu", &["h"], "r", vec![])
        .node("MatMul", &["r", "b"], "y", vec![])
        .output("y", DType::F32, &shape)
        .build();
    let weights = |seed: u32| {
        (0..64 * INNER as u32)
            .map(move |i| ((i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0 - 0.5) * 0.05)
    };
    let bytes: Vec<u8> = weights(1).chain(weights(7)).flat_map(f32::to_le_bytes).collect();
    for (i, (name, dims)) in [("a", [64, INNER]), ("b", [INNER, 64])].into_iter().enumerate() {
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
        let size = bytes.len() / 2;
        model.graph_mut().initializer.push(TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(DType::F32.to_onnx()),
            dims: dims.map(|d| d as i64).to_vec(),
            data_location: Some(DataLocation::External as i32),
            external_data: vec![
                entry("location", "weights.bin".to_owned()),
                entry("offset", (i * size).to_string()),
                entry("length", size.to_string()),
            ],
            ..TensorProto::default()
        });
    }
    (model, bytes)
}

pub(crate) fn samples(count: usize) -> Vec<u8> {
    let values: Vec<u8> = (0..count * 64).flat_map(|i| (i as f32 * 0.37).sin().to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![count, 1, 64], &values).unwrap();
    safetensors::serialize(BTreeMap::from([("x", view)]), None).unwrap()
}

/// Its files, and a bucket for its results.
pub(crate) fn stock(server: &Server) {
    let (model, weights) = model();
    server.put("models", "wide/model.onnx", &model.to_bytes());
    server.put("models", "wide/weights.bin", &weights);
    server.put("data", "wide/validation.safetensors", &samples(60));
    server.bucket("baked");
}

/// A short bake of it.
pub(crate) fn spec(output: &str) -> Value {
    json!({
        "source": {"uri": "s3://models/wide/model.onnx"},
        "data": {"validation": {"uri": "s3://data/wide/validation.safetensors"}},
        "optimization": {"level": "Conservative"},
        "profile": {"warmup": 1, "iterations": 10},
        "output": {"uri": output},
        "runtime": "Bakehouse",
    })
}
