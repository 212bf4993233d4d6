//! A fresh process that loads a model file, runs a few samples and says what it saw: proof that the artifact reloads, its memory, and its outputs' digest.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::BakeError;
use super::observe::SMALL_MODEL_BYTES;
use crate::api::bakejob::Runtime;
use crate::api::digest::{hex, sha256_hex_of};
use crate::engine::{Dataset, Engines, LoadOptions, dataset};
use crate::model::{Model, Tensor, safetensors};
use crate::profiler::clock;

/// What a fresh process is asked to do.
#[derive(Debug, Clone)]
pub struct Request {
    /// The model file.
    pub model: PathBuf,
    /// The data file; its first samples are run.
    pub data: PathBuf,
    /// How many samples.
    pub samples: usize,
    /// Which engine.
    pub runtime: Runtime,
    /// ONNX Runtime's library, where it is not in the usual places.
    pub ort_lib: Option<PathBuf>,
    /// Threads of the engine.
    pub threads: usize,
}

/// What it saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// SHA-256 of the file that was loaded.
    pub file_sha256: String,
    /// SHA-256 over all outputs of all samples.
    pub outputs_sha256: String,
    /// Samples run.
    pub samples: usize,
    /// Largest resident memory of the process, bytes: binary, engine, model, one sample's working memory.
    pub peak_rss_bytes: Option<u64>,
    /// Resident memory before the model was loaded, bytes.
    pub idle_rss_bytes: Option<u64>,
}

/// A model and a file that should hold its weights.
#[derive(Debug, Clone)]
pub struct WeightsRequest {
    /// The model file.
    pub model: PathBuf,
    /// The weights' file.
    pub weights: PathBuf,
}

/// What a fresh process found in a file of weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WeightsSeen {
    /// Tensors in the file.
    pub tensors: usize,
    /// Names that the model holds with other bytes, or that only one of the two holds.
    pub different: Vec<String>,
}

/// A model and an archive of NNEF that should compute the same.
#[cfg(feature = "tract")]
#[derive(Debug, Clone)]
pub struct NnefRequest {
    /// The model file.
    pub model: PathBuf,
    /// The archive.
    pub nnef: PathBuf,
    /// The data file; its first samples are run.
    pub data: PathBuf,
    /// How many samples.
    pub samples: usize,
}

/// What a fresh process saw of an archive of NNEF.
#[cfg(feature = "tract")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NnefSeen {
    /// Samples run on both.
    pub samples: usize,
    /// The largest difference of an output relative to max(1, the output's largest value); `None` where types or shapes differ or a difference is no number.
    pub max_difference: Option<f64>,
}

/// Loads both on tract and compares what they compute, in the process that calls it.
#[cfg(feature = "tract")]
pub fn run_nnef(request: &NnefRequest) -> Result<NnefSeen, BakeError> {
    use crate::engine::Engine;
    use crate::engine::tract::TractEngine;
    let model = Model::load(&request.model)?;
    let data = Dataset::load(&request.data, &model, dataset::Limits::default())?.dataset;
    let engine = TractEngine::new();
    let inputs = model.input_names().into_iter().map(str::to_owned).collect();
    let mut archive = engine.load_nnef(&request.nnef, inputs)?;
    // Of a quantised graph, this plan is the one that is right.
    let mut session = engine.load(&model, &LoadOptions { optimise: false, ..LoadOptions::default() })?;
    let feeds = &data.feeds[..request.samples.min(data.feeds.len())];
    let mut max_difference = Some(0.0);
    for feed in feeds {
        let (expected, found) = (session.run(feed)?, archive.run(feed)?);
        let same_number = (expected.len() == found.len()).then_some(0.0);
        let pairs = expected.iter().zip(&found).map(|(a, b)| super::handoff::difference(a, b));
        max_difference = pairs.chain([same_number]).fold(max_difference, |most, d| Some(f64::max(most?, d?)));
    }
    Ok(NnefSeen { samples: feeds.len(), max_difference })
}

/// Starts a fresh process of this program for it.
#[cfg(feature = "tract")]
pub fn spawn_nnef(program: &Path, request: &NnefRequest) -> Result<NnefSeen, BakeError> {
    let mut command = Command::new(program);
    command.arg("probe").arg(&request.model).arg("--nnef").arg(&request.nnef).arg("--data").arg(&request.data);
    command.args(["--samples", &request.samples.to_string()]);
    answer(program, &mut command)
}

/// Finds out what an OCI image layout holds, every blob checked, in a fresh process of this program.
pub fn spawn_layout(program: &Path, layout: &Path) -> Result<Vec<crate::package::oci::File>, BakeError> {
    let mut command = Command::new(program);
    command.arg("probe").arg(layout).arg("--layout");
    answer(program, &mut command)
}

/// Compares weights, in the process that calls it.
pub fn run_weights(request: &WeightsRequest) -> Result<WeightsSeen, BakeError> {
    let model = Model::load(&request.model)?;
    let mut found = safetensors::load(&request.weights)
        .map_err(|e| BakeError::Reload(format!("{} {e}", request.weights.display())))?;
    let tensors = found.len();
    let mut different = Vec::new();
    for initializer in &model.graph().initializer {
        if found.remove(initializer.name()) != Some(Tensor::from_proto(initializer)?) {
            different.push(initializer.name().to_owned());
        }
    }
    different.extend(found.into_keys());
    Ok(WeightsSeen { tensors, different })
}

/// Starts a fresh process of this program for it.
pub fn spawn_weights(program: &Path, request: &WeightsRequest) -> Result<WeightsSeen, BakeError> {
    let mut command = Command::new(program);
    command.arg("probe").arg(&request.model).arg("--weights").arg(&request.weights);
    answer(program, &mut command)
}

/// Does the work, in the process that calls it.
pub fn run(request: &Request) -> Result<Seen, BakeError> {
    let engines = Engines::discover(request.ort_lib.as_deref());
    let engine = engines.get(request.runtime)?;
    let idle_rss_bytes = clock::rss_bytes();
    // Read in small parts: the file as a whole would count as memory of the model.
    let file_sha256 = std::fs::File::open(&request.model)
        .and_then(sha256_hex_of)
        .map_err(|source| crate::model::ModelError::Read { path: request.model.clone(), source })?;
    let model = Model::load(&request.model)?;
    let data = Dataset::load(&request.data, &model, dataset::Limits::default())?.dataset;
    let mut session = engine.load(&model, &LoadOptions { threads: request.threads, ..LoadOptions::default() })?;
    let outputs =
        data.feeds.iter().take(request.samples).map(|feed| session.run(feed)).collect::<Result<Vec<_>, _>>()?;
    Ok(Seen {
        file_sha256,
        outputs_sha256: outputs_digest(outputs.iter().flatten()),
        samples: outputs.len(),
        peak_rss_bytes: clock::peak_rss_bytes(),
        idle_rss_bytes,
    })
}

/// Starts a fresh process of this program for it.
pub fn spawn(program: &Path, request: &Request) -> Result<Seen, BakeError> {
    let mut command = Command::new(program);
    command.arg("probe").arg(&request.model).arg("--data").arg(&request.data);
    command.args(["--samples", &request.samples.to_string(), "--threads", &request.threads.to_string()]);
    command.args([
        "--runtime",
        match request.runtime {
            Runtime::OnnxRuntime => "onnxruntime",
            Runtime::Bakehouse => "bakehouse",
        },
    ]);
    if let Some(library) = &request.ort_lib {
        command.arg("--ort-lib").arg(library);
    }
    answer(program, &mut command)
}

/// The same for several requests about a model of so many bytes: all at once, for nothing that they look at is disturbed by the others. Of a larger model one
/// after the other, or they would need the memory of all of them.
pub fn spawn_all(program: &Path, requests: &[Request], model_bytes: u64) -> Result<Vec<Seen>, BakeError> {
    if model_bytes >= SMALL_MODEL_BYTES as u64 {
        return requests.iter().map(|request| spawn(program, request)).collect();
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = requests.iter().map(|request| scope.spawn(move || spawn(program, request))).collect();
        let failed = || BakeError::Internal("whoever waits for a fresh process panicked".to_owned());
        threads.into_iter().map(|thread| thread.join().map_err(|_| failed())?).collect()
    })
}

/// What a fresh process prints.
fn answer<T: serde::de::DeserializeOwned>(program: &Path, command: &mut Command) -> Result<T, BakeError> {
    let output = crate::signals::output(command.stdin(Stdio::null()))
        .map_err(|e| BakeError::Internal(format!("cannot start {}: {e}", program.display())))?;
    if !output.status.success() {
        return Err(BakeError::Reload(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|e| BakeError::Reload(format!("it printed what is not a result ({e})")))
}

/// SHA-256 over types, shapes and bytes of outputs.
pub fn outputs_digest<'a>(outputs: impl Iterator<Item = &'a Tensor>) -> String {
    let mut hash = Sha256::new();
    for tensor in outputs {
        hash.update(format!("{}{:?}", tensor.dtype(), tensor.shape()));
        hash.update(tensor.bytes());
    }
    hex(&hash.finalize())
}
