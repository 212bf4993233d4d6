//! Big models, whose weights lie beside the graph: baked in bounded memory, and with more than 2 GiB, which one protobuf message cannot hold, inspected, saved
//! and verified too.
//!
//! What is bounded is the peak resident set of the whole bake (`VmHWM`: anonymous memory and mapped files together), as the kernel counts it.
//!
//! The full size needs 10 GB of memory and 15 GB of disk in the temporary folder, and minutes:
//! `cargo test --test large -- --ignored --nocapture`.
#![cfg(all(feature = "ort", feature = "tract"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bakehouse::engine::ort::OrtEngine;
use bakehouse::model::build::Builder;
use bakehouse::model::onnx::{StringStringEntryProto, TensorProto, tensor_proto::DataLocation};
use bakehouse::model::{DType, Model};
use npyz::WriterBuilder;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Files of one synthetic model: layers of a product and a Relu, their weights in one file beside the graph. One more weight is read by nobody.
struct Made {
    root: TempDir,
    width: usize,
    layers: usize,
}

impl Made {
    fn new(width: usize, layers: usize) -> Self {
        let made = Self { root: tempfile::tempdir().unwrap(), width, layers };
        made.write_weights();
        made.write_graph();
        made.write_data(60);
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn weight_bytes(&self) -> u64 {
        (self.width * self.width * 4) as u64
    }

    fn bytes(&self) -> u64 {
        self.path("model.onnx").metadata().unwrap().len() + self.path("weights.bin").metadata().unwrap().len()
    }

    /// Weights of a size that keeps what flows through the layers at its scale, by a generator that any machine repeats.
    fn write_weights(&self) {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(self.path("weights.bin")).unwrap());
        let scale = (6.0 / self.width as f32).sqrt() / (1 << 23) as f32;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut row = vec![0_u8; self.width * 4];
        for _ in 0..(self.layers + 1) * self.width {
            for value in row.chunks_exact_mut(4) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let value_24 = ((state >> 40) as i32 - (1 << 23)) as f32;
                value.copy_from_slice(&(value_24 * scale).to_le_bytes());
            }
            file.write_all(&row).unwrap();
        }
        file.flush().unwrap();
    }

    fn write_graph(&self) {
        let shape = ["N".to_owned(), self.width.to_string()];
        let shape: Vec<&str> = shape.iter().map(String::as_str).collect();
        let mut builder = Builder::new(17).input("x", DType::F32, &shape);
        for layer in 0..self.layers {
            let from = if layer == 0 { "x".to_owned() } else { format!("h{}", layer - 1) };
            let to = if layer + 1 == self.layers { "y".to_owned() } else { format!("h{layer}") };
            let (weight, product) = (format!("w{layer}"), format!("p{layer}"));
            builder =
                builder.node("MatMul", &[&from, &weight], &product, vec![]).node("Relu", &[&product], &to, vec![]);
        }
        let mut model = builder.output("y", DType::F32, &shape).build();
        for layer in 0..=self.layers {
            let entry =
                |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
            model.graph_mut().initializer.push(TensorProto {
                name: Some(if layer == self.layers { "unread".to_owned() } else { format!("w{layer}") }),
                data_type: Some(DType::F32.to_onnx()),
                dims: vec![self.width as i64; 2],
                data_location: Some(DataLocation::External as i32),
                external_data: vec![
                    entry("location", "weights.bin".to_owned()),
                    entry("offset", (layer as u64 * self.weight_bytes()).to_string()),
                    entry("length", self.weight_bytes().to_string()),
                ],
                ..TensorProto::default()
            });
        }
        fs::write(self.path("model.onnx"), model.to_bytes()).unwrap();
    }

    fn write_data(&self, samples: usize) {
        let mut archive = npyz::npz::NpzWriter::create(self.path("validation.npz")).unwrap();
        let shape = [samples as u64, 1, self.width as u64];
        let mut array = archive.array("x", defaults()).unwrap().default_dtype().shape(&shape).begin_nd().unwrap();
        array.extend((0..samples * self.width).map(|i| (i as f32 * 0.37).sin())).unwrap();
        array.finish().unwrap();
    }

    /// Bakes at Conservative, and returns the summary and the peak of memory.
    fn bake(&self, runtime: &str, out: &str) -> (Value, Peak) {
        let job = json!({
            "apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob", "metadata": {"name": "large"},
            "spec": {"source": {"uri": "model.onnx"}, "data": {"validation": {"uri": "validation.npz"}}, "runtime": runtime,
                     "optimization": {"level": "Conservative", "goal": "Size"}, "output": {"uri": out},
                     "profile": {"warmup": 1, "iterations": 10, "batchSizes": [1]}},
        });
        let file = self.path("bakejob.yaml");
        fs::write(&file, job.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bakehouse"));
        command.args(["bake", "--json", "-f"]).arg(&file).env_remove("BAKEHOUSE_MEMORY_LIMIT");
        let (summary, peak) = watched(&mut command);
        let of_model = |bytes: u64| bytes as f64 / self.bytes() as f64;
        println!(
            "{runtime}: model {:.3} GB, peak RSS {:.3} GB = {:.2} x (anonymous {:.2} x, mapped {:.2} x), {:.0} s",
            self.bytes() as f64 / 1e9,
            peak.resident as f64 / 1e9,
            of_model(peak.resident),
            of_model(peak.anonymous),
            of_model(peak.mapped),
            summary["seconds"].as_f64().unwrap()
        );
        assert_eq!(summary["reason"], "Baked", "the weight that nothing reads is gone: {summary}");
        let [before, after] = [0, 1].map(|i| summary["bytes"][i].as_u64().unwrap());
        // The graph itself may be written in a few more bytes.
        assert!(before > after + self.weight_bytes() * 99 / 100, "{summary}");
        (summary, peak)
    }
}

/// The most memory that a process held, bytes. `resident` is the kernel's own peak, the parts are the largest that were seen every few milliseconds.
#[derive(Debug, Default)]
struct Peak {
    resident: u64,
    anonymous: u64,
    mapped: u64,
}

/// Runs a command to its end and watches its memory. What it prints is JSON.
fn watched(command: &mut Command) -> (Value, Peak) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let path = format!("/proc/{}/status", child.id());
    let mut peak = Peak::default();
    let status = loop {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.trim().strip_suffix(" kB"));
            line.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        peak.resident = peak.resident.max(field("VmHWM:"));
        peak.anonymous = peak.anonymous.max(field("RssAnon:"));
        peak.mapped = peak.mapped.max(field("RssFile:"));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    // Short enough for the pipe to hold it.
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    assert!(peak.resident > 0, "the process was seen");
    (serde_json::from_str(&printed).unwrap_or_else(|e| panic!("{e}: {printed} ({status})")), peak)
}

fn bakehouse(arguments: &[&str], path: &Path) -> Value {
    watched(Command::new(env!("CARGO_BIN_EXE_bakehouse")).args(arguments).arg(path)).0
}

/// Whether ONNX Runtime is there, as it must be where the environment says so.
fn onnx_runtime() -> bool {
    match OrtEngine::open(None) {
        Ok(_) => true,
        Err(error) if std::env::var_os("BAKEHOUSE_REQUIRE_ORT").is_some_and(|v| v == "1") => panic!("{error}"),
        Err(error) => {
            eprintln!("left out: {error}");
            false
        }
    }
}

#[test]
fn a_bake_takes_no_more_memory_than_inspect_says_and_two_and_a_half_times_the_model_on_onnx_runtime() {
    let made = Made::new(1_120, 30);
    let foreseen = bakehouse(&["inspect", "--json"], &made.path("model.onnx"));
    for (runtime, name) in [("OnnxRuntime", "onnxruntime"), ("Bakehouse", "tract")] {
        if name == "onnxruntime" && !onnx_runtime() {
            continue;
        }
        let (_, peak) = made.bake(runtime, name);
        let foreseen = foreseen["bakeMemory"]["Conservative"][name].as_u64().unwrap();
        assert!(peak.resident <= foreseen, "{name}: {peak:?}, foreseen {foreseen}");
        // The program and the engine take the rest, whatever the model.
        let bound = made.bytes() * 5 / 2 + 200_000_000;
        assert!(name == "tract" || peak.resident <= bound, "{name}: {peak:?}, bound {bound}");
    }
}

#[test]
#[ignore = "needs 10 GB of memory, 15 GB of disk, and minutes"]
fn a_model_of_three_gigabytes_is_baked_in_two_and_a_half_times_its_size_and_500_mb() {
    assert!(onnx_runtime());
    // Weights of 26 MB, which the allocator keeps when they are freed: larger ones go back to the system by themselves.
    let made = Made::new(2_560, 124);
    assert!(made.bytes() > 3_000_000_000);
    let (summary, peak) = made.bake("OnnxRuntime", "out");
    println!("bake: {}", serde_json::to_string_pretty(&summary).unwrap());
    assert!(peak.resident <= made.bytes() * 5 / 2 + 500_000_000, "{peak:?} for {} bytes", made.bytes());
    let out = made.path("out");
    assert!(
        out.join("model.onnx").metadata().unwrap().len() < 1 << 20,
        "the graph alone: protobuf holds no more than 2 GiB"
    );
    let baked = Model::load(&out.join("model.onnx")).unwrap();
    assert_eq!(baked.graph().initializer.len(), made.layers);
    baked.verify().unwrap();
    drop(baked);

    let found = bakehouse(&["verify", "--json"], &out);
    for check in found["checks"].as_array().unwrap() {
        println!("verify: {} {}", check["claim"], check["holds"]);
        assert_ne!(check["holds"]["state"], "No", "{check}");
    }
    fs::remove_dir_all(&out).unwrap();

    let path = made.path("model.onnx");
    let inspected = bakehouse(&["inspect", "--json"], &path);
    assert!(peak.resident <= inspected["bakeMemory"]["Conservative"]["onnxruntime"].as_u64().unwrap(), "{inspected}");
    let model = Model::load(&path).unwrap();
    assert!(model.encoded_len() as u64 > 2 << 30);
    let copy = made.path("copy.onnx");
    model.save(&copy).unwrap();
    assert!(copy.metadata().unwrap().len() < 1 << 20 && made.path("copy.onnx.data").exists());
    assert_eq!(Model::load(&copy).unwrap(), model, "what is saved in two files is the same model");
}

/// Options of an archive entry, whose type no crate here exports.
fn defaults<T: Default>() -> T {
    T::default()
}
