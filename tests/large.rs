//! A model of more than 2 GiB, which one protobuf message cannot hold: loaded, inspected, saved, and baked on ONNX Runtime, with the memory that it took.
//!
//! Needs about 10 GiB of memory and of disk in the temporary folder, and minutes: `cargo test --test large -- --ignored --nocapture`.
#![cfg(feature = "ort")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use assert_cmd::Command;
use bakehouse::model::build::Builder;
use bakehouse::model::onnx::{StringStringEntryProto, TensorProto, tensor_proto::DataLocation};
use bakehouse::model::{DType, Model};
use npyz::WriterBuilder;
use serde_json::{Value, json};

const WIDTH: usize = 8192;
/// 256 MiB each.
const LAYERS: usize = 9;
const WEIGHT_BYTES: u64 = (WIDTH * WIDTH * 4) as u64;

/// `LAYERS` products with a diagonal matrix each, and one weight that nothing reads. The file is sparse: only pages that hold a diagonal are on the disk.
fn write_model(folder: &Path) {
    let mut data = File::create(folder.join("weights.bin")).unwrap();
    data.set_len(WEIGHT_BYTES * (LAYERS as u64 + 1)).unwrap();
    let input = ["N".to_owned(), WIDTH.to_string()];
    let shape: Vec<&str> = input.iter().map(String::as_str).collect();
    let mut builder = Builder::new(17).input("x", DType::F32, &shape);
    for layer in 0..LAYERS {
        for i in 0..WIDTH {
            let at = layer as u64 * WEIGHT_BYTES + ((i * WIDTH + i) * 4) as u64;
            data.seek(SeekFrom::Start(at)).unwrap();
            // Another matrix in each layer, or they would be one weight.
            data.write_all(&(0.9_f32 + 0.01 * layer as f32).to_le_bytes()).unwrap();
        }
        let from = if layer == 0 { "x".to_owned() } else { format!("h{}", layer - 1) };
        let to = if layer + 1 == LAYERS { "y".to_owned() } else { format!("h{layer}") };
        let (weight, product) = (format!("w{layer}"), format!("p{layer}"));
        builder = builder.node("MatMul", &[&from, &weight], &product, vec![]).node("Relu", &[&product], &to, vec![]);
    }
    let mut model = builder.output("y", DType::F32, &shape).build();
    for layer in 0..=LAYERS {
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
        model.graph_mut().initializer.push(TensorProto {
            name: Some(if layer == LAYERS { "unread".to_owned() } else { format!("w{layer}") }),
            data_type: Some(DType::F32.to_onnx()),
            dims: vec![WIDTH as i64; 2],
            data_location: Some(DataLocation::External as i32),
            external_data: vec![
                entry("location", "weights.bin".to_owned()),
                entry("offset", (layer as u64 * WEIGHT_BYTES).to_string()),
                entry("length", WEIGHT_BYTES.to_string()),
            ],
            ..TensorProto::default()
        });
    }
    fs::write(folder.join("model.onnx"), model.to_bytes()).unwrap();
}

fn write_data(path: &Path, samples: usize) {
    let mut archive = npyz::npz::NpzWriter::create(path).unwrap();
    let shape = [samples as u64, 1, WIDTH as u64];
    let mut array = archive.array("x", defaults()).unwrap().default_dtype().shape(&shape).begin_nd().unwrap();
    array.extend((0..samples * WIDTH).map(|i| (i as f32 * 0.37).sin())).unwrap();
    array.finish().unwrap();
}

fn bakehouse(arguments: &[&str], path: &Path) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_bakehouse")).args(arguments).arg(path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said} ({})", output.status))
}

#[test]
#[ignore = "needs about 10 GiB of memory and of disk, and minutes"]
fn a_model_of_more_than_two_gibibytes_is_inspected_saved_and_baked() {
    let root = tempfile::tempdir().unwrap();
    write_model(root.path());
    write_data(&root.path().join("validation.npz"), 60);
    let path = root.path().join("model.onnx");

    let model = Model::load(&path).unwrap();
    assert!(model.encoded_len() as u64 > 2 << 30);
    let copy = root.path().join("copy.onnx");
    model.save(&copy).unwrap();
    assert!(copy.metadata().unwrap().len() < 1 << 20 && root.path().join("copy.onnx.data").exists());
    assert_eq!(Model::load(&copy).unwrap(), model, "what is saved in two files is the same model");
    fs::remove_file(root.path().join("copy.onnx.data")).unwrap();
    drop(model);

    let inspected = bakehouse(&["inspect", "--json"], &path);
    println!("inspect: {}", inspected["stats"]["parameters"]);

    let job = json!({
        "apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob", "metadata": {"name": "large"},
        "spec": {"source": {"uri": "model.onnx"}, "data": {"validation": {"uri": "validation.npz"}}, "runtime": "OnnxRuntime",
                 "optimization": {"level": "Conservative", "goal": "Size"}, "profile": {"warmup": 1, "iterations": 5, "batchSizes": [1]},
                 "output": {"uri": "out"}},
    });
    let file = root.path().join("bakejob.yaml");
    fs::write(&file, job.to_string()).unwrap();
    let summary = bakehouse(&["bake", "--json", "-f"], &file);
    println!("bake: {}", serde_json::to_string_pretty(&summary).unwrap());
    assert_eq!(summary["reason"], "Baked", "the weight that nothing reads is gone");
    let [before, after] = [0, 1].map(|i| summary["bytes"][i].as_u64().unwrap());
    assert!(before - after >= WEIGHT_BYTES && after > 2 << 30, "{summary}");
    let out = root.path().join("out");
    assert!(
        out.join("model.onnx").metadata().unwrap().len() < 1 << 20,
        "the graph alone: protobuf holds no more than 2 GiB"
    );
    let baked = Model::load(&out.join("model.onnx")).unwrap();
    assert_eq!(baked.graph().initializer.len(), LAYERS);
    baked.verify().unwrap();

    let found = bakehouse(&["verify", "--json"], &out);
    for check in found["checks"].as_array().unwrap() {
        println!("verify: {} {}", check["claim"], check["holds"]);
        assert_ne!(check["holds"]["state"], "No", "{check}");
    }
}

/// Options of an archive entry, whose type no crate here exports.
fn defaults<T: Default>() -> T {
    T::default()
}
