//! ONNX of ONNX's own operators, and the weights alone.

use std::collections::BTreeMap;

use super::{Artifact, Handoff, artifact};
use crate::bake::measure::PROBE_SAMPLES;
use crate::bake::probe::{self, WeightsRequest};
use crate::bake::publish::Staging;
use crate::bake::{BakeError, MODEL_FILE};
use crate::model::{IntakeOptions, Model, Tensor, safetensors};
use crate::package::phase7::ModelFacts;

/// Name of the model of plain operators.
const STANDARD_FILE: &str = "model.standard.onnx";

/// Name of the weights' file.
const WEIGHTS_FILE: &str = "weights.safetensors";

/// Every weight of the main graph by name; an error is a sentence on the one that the format cannot hold.
pub(super) fn weights_of(model: &Model) -> Result<BTreeMap<String, Tensor>, String> {
    let graph = model.graph();
    if !graph.sparse_initializer.is_empty() {
        return Err("the model has sparse weights, which the format does not know".to_owned());
    }
    let read = |t: &crate::model::onnx::TensorProto| {
        Tensor::from_proto(t).map(|tensor| (t.name().to_owned(), tensor)).map_err(|e| e.to_string())
    };
    graph.initializer.iter().map(read).collect()
}

impl Handoff<'_> {
    /// The artifact in ONNX's own operators. A fresh process must give the same outputs with it.
    pub(super) fn standard(&self, staging: &mut Staging) -> Result<Vec<Artifact>, BakeError> {
        let mut model = Model::load(&staging.path(MODEL_FILE))?;
        if !ModelFacts::of(&model).other_operators.is_empty() {
            // Functions of the file's own stand for standard operators.
            model = model.prepare(&IntakeOptions::default())?.0;
        }
        let others = ModelFacts::of(&model).other_operators;
        if !others.is_empty() {
            // A pass that a job names is refused before the bake; one that a recipe holds is seen here.
            let detail = format!(
                "ONNXStandard cannot be written: the recipe brings in operators of other domains ({}). Leave ONNXStandard out.",
                others.join(", ")
            );
            return Err(BakeError::Job { field: "spec.exports".to_owned(), detail });
        }
        let path = staging.path(STANDARD_FILE);
        model.save(&path)?;
        let request = probe::Request {
            model: path.clone(),
            data: self.job.validation.path.clone(),
            samples: PROBE_SAMPLES,
            runtime: self.loaded.engine.runtime,
            ort_lib: self.options.ort_lib.clone(),
            threads: 1,
        };
        let seen = probe::spawn(&self.options.program, &request)?;
        if seen.outputs_sha256 != self.chosen.figures.fresh_process.outputs_sha256 {
            return Err(BakeError::Reload(format!("{STANDARD_FILE} gives other outputs than {MODEL_FILE}")));
        }
        let mut written = vec![artifact("ONNXStandard", STANDARD_FILE, &path)?];
        staging.adopt(STANDARD_FILE);
        let data = format!("{STANDARD_FILE}.data");
        let beside = staging.path(&data);
        if beside.exists() {
            written.push(artifact("ONNXStandardData", &data, &beside)?);
            staging.adopt(&data);
        }
        Ok(written)
    }

    /// The artifact's weights. A fresh process must find in them what the model holds.
    pub(super) fn weights(&self, staging: &mut Staging) -> Result<Artifact, BakeError> {
        let model = staging.path(MODEL_FILE);
        let weights = weights_of(&Model::load(&model)?).map_err(BakeError::Internal)?;
        let path = staging.path(WEIGHTS_FILE);
        safetensors::save(&weights, Some(("model_sha256", &self.files[0].sha256)), &path).map_err(
            |source| match source.kind() {
                std::io::ErrorKind::InvalidData => BakeError::Internal(source.to_string()),
                _ => BakeError::Output { path: path.clone(), source },
            },
        )?;
        staging.adopt(WEIGHTS_FILE);
        let seen = probe::spawn_weights(&self.options.program, &WeightsRequest { model, weights: path.clone() })?;
        if seen.tensors != weights.len() || !seen.different.is_empty() {
            let detail = format!("{WEIGHTS_FILE} differs from {MODEL_FILE} in {}", seen.different.join(", "));
            return Err(BakeError::Reload(detail));
        }
        artifact("SafeTensors", WEIGHTS_FILE, &path)
    }
}
