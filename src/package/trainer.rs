//! The trainer's own layout: `trained_model.pt` with `model_state_dict`, `config`, `training_results` and `phase5_metadata`; beside it
//! `phase5_metadata.json`, an ONNX graph of the same architecture, and data splits by name. A manifest is made of what is found.

use std::path::Path;

use serde_json::{Map, Value};

use super::PackageError;
use super::files::{Folder, measured};
use super::manifest::{
    FinalMetric, Framework, Identity, Manifest, ModelFiles, PHASE5_VERSION, PackagedFile, Sparsity, Training,
    ValidationSplit, Weights,
};
use super::open::{beside, read_bounded, signature};
use super::torch::Checkpoint;
use crate::model::{Model, external};

/// Name of the checkpoint's file.
pub(super) const CHECKPOINT: &str = "trained_model.pt";

/// Name of the graph's file.
pub const GRAPH: &str = "model.onnx";

/// Name of the metadata's file.
const METADATA: &str = "phase5_metadata.json";

/// The largest metadata file that is read.
const MOST_METADATA: u64 = 4 << 20;

/// Extensions that a split may have.
const EXTENSIONS: [&str; 2] = ["npz", "safetensors"];

/// Keys of a trainer's results, the metric that each stands for, and the split. The first that is there is taken for each metric.
const RESULTS: [(&str, &str, &str); 13] = [
    ("final_val_accuracy", "Top1", "validation"),
    ("val_accuracy", "Top1", "validation"),
    ("validation_accuracy", "Top1", "validation"),
    ("final_accuracy", "Top1", "validation"),
    ("accuracy", "Top1", "validation"),
    ("test_accuracy", "Top1", "test"),
    ("val_f1", "F1", "validation"),
    ("final_f1", "F1", "validation"),
    ("f1_score", "F1", "validation"),
    ("val_r2", "R2", "validation"),
    ("final_r2", "R2", "validation"),
    ("r2_score", "R2", "validation"),
    ("final_loss", "loss", "training"),
];

/// The files of the layout: their names, the field of a manifest that each would be, and whether it must be there.
pub fn files() -> Vec<(String, &'static str, bool)> {
    let mut files = vec![
        (CHECKPOINT.to_owned(), "model.weights", true),
        (GRAPH.to_owned(), "model.graph", true),
        (METADATA.to_owned(), "training.metadata", false),
    ];
    for (split, field) in
        [("validation", "splits.validation"), ("calibration", "splits.calibration"), ("training", "splits.training")]
    {
        files.extend(EXTENSIONS.map(|extension| (format!("{split}.{extension}"), field, false)));
    }
    files
}

/// The manifest that such a folder would have, with remarks; `None` when there is no checkpoint in it.
pub(super) fn manifest(folder: &Path, files: &Folder) -> Result<Option<(Manifest, Vec<String>)>, PackageError> {
    let wrong =
        |field: &str, detail: String| PackageError::Field { path: folder.to_owned(), field: field.to_owned(), detail };
    let found = |field: &'static str, name: &str| files.find(name).map_err(|detail| wrong(field, detail));
    let Some(checkpoint) = found("model.weights", CHECKPOINT)? else { return Ok(None) };
    let graph = found("model.graph", GRAPH)?.ok_or_else(|| {
        wrong(
            "model.graph",
            format!("'{GRAPH}' is not there. A checkpoint holds weights and no graph; export one of the same architecture beside it with torch.onnx.export."),
        )
    })?;
    let refused = |detail: String| PackageError::Weights { path: checkpoint.clone(), detail };
    let known = Known::of(&Checkpoint::open(&checkpoint).map_err(refused)?, folder, files)?;
    let packaged = |name: &str| measure(folder, name);
    let mut external_data = Vec::new();
    for location in external::locations(&graph)? {
        let path = beside(GRAPH, &location);
        if path != GRAPH {
            external_data.push(packaged(&path)?);
        }
    }
    let split = |split: &str| -> Result<Option<PackagedFile>, PackageError> {
        let mut there = Vec::new();
        for extension in EXTENSIONS {
            let name = format!("{split}.{extension}");
            if files.find(&name).map_err(|detail| wrong(&format!("splits.{split}"), detail))?.is_some() {
                there.push(name);
            }
        }
        match there.as_slice() {
            [] => Ok(None),
            [name] => packaged(name).map(Some),
            _ => Err(wrong(&format!("splits.{split}"), format!("{} are both there. Keep one.", there.join(" and ")))),
        }
    };
    let mut manifest = known.manifest(folder);
    manifest.model = ModelFiles {
        graph: packaged(GRAPH)?,
        external_data,
        weights: Some(Weights { file: packaged(CHECKPOINT)?, ..Weights::default() }),
    };
    manifest.signature = Some(signature(&Model::load(&graph)?));
    manifest.splits.validation =
        split("validation")?.map(|file| ValidationSplit { file, ..ValidationSplit::default() });
    manifest.splits.calibration = split("calibration")?;
    manifest.splits.training = split("training")?;
    Ok(Some((manifest, known.remarks)))
}

fn measure(folder: &Path, name: &str) -> Result<PackagedFile, PackageError> {
    let path = folder.join(name);
    let (sha256, bytes) = measured(&path).map_err(|source| PackageError::Read { path, source })?;
    Ok(PackagedFile { path: name.to_owned(), sha256, bytes })
}

/// What a trainer leaves behind about its training.
#[derive(Debug, Default)]
pub(super) struct Known {
    config: Map<String, Value>,
    results: Map<String, Value>,
    metadata: Map<String, Value>,
    /// Whether a checkpoint of PyTorch is among it.
    checkpoint: bool,
    remarks: Vec<String>,
}

impl Known {
    /// What a checkpoint holds, and what the file beside it says. Where they differ, the file counts.
    fn of<R: std::io::Read + std::io::Seek>(
        checkpoint: &Checkpoint<R>,
        folder: &Path,
        files: &Folder,
    ) -> Result<Self, PackageError> {
        let mut known = Self::in_checkpoint(checkpoint);
        let path = folder.join(METADATA);
        let refused = |detail: String| PackageError::NoManifest { path: path.clone(), detail };
        if files.find(METADATA).map_err(refused)?.is_some() {
            known.add(&path)?;
        }
        Ok(known)
    }

    /// What a checkpoint holds beside its weights.
    pub(super) fn in_checkpoint<R: std::io::Read + std::io::Seek>(checkpoint: &Checkpoint<R>) -> Self {
        Self {
            config: checkpoint.object("config"),
            results: checkpoint.object("training_results"),
            metadata: checkpoint.object("phase5_metadata"),
            checkpoint: true,
            remarks: Vec::new(),
        }
    }

    /// Adds a JSON file of metadata.
    pub(super) fn add(&mut self, path: &Path) -> Result<(), PackageError> {
        let no_object = |detail: String| PackageError::NoManifest { path: path.to_owned(), detail };
        let text = read_bounded(path, MOST_METADATA)?;
        let value: Value = serde_json::from_slice(&text)
            .map_err(|e| no_object(format!("is no JSON ({e}). Write an object of names and values.")))?;
        let Value::Object(object) = value else {
            return Err(no_object("holds no object. Write an object of names and values.".to_owned()));
        };
        for (name, value) in object {
            if self.metadata.get(&name).is_some_and(|inside| *inside != value) {
                self.remarks.push(format!(
                    "'{name}' is another in {METADATA} than in the checkpoint; that of {METADATA} counts."
                ));
            }
            self.metadata.insert(name, value);
        }
        Ok(())
    }

    /// What stands under one of these names, in the metadata or in the configuration.
    fn text(&self, names: &[&str]) -> Option<String> {
        let value = names.iter().find_map(|name| self.metadata.get(*name).or_else(|| self.config.get(*name)))?;
        match value {
            Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    fn object(&self, names: &[&str]) -> Map<String, Value> {
        let value = names.iter().find_map(|name| self.metadata.get(*name).or_else(|| self.config.get(*name)));
        value.and_then(Value::as_object).cloned().unwrap_or_default()
    }

    /// The figures that the training ended with.
    fn metrics(&self) -> Vec<FinalMetric> {
        let mut metrics: Vec<FinalMetric> = Vec::new();
        let nested = self.metadata.get("training_results").and_then(Value::as_object).cloned().unwrap_or_default();
        for (name, metric, split) in RESULTS {
            if metrics.iter().any(|m| m.name == metric && m.split.as_deref() == Some(split)) {
                continue;
            }
            let places = [
                ("training_results", &self.results),
                ("phase5_metadata", &self.metadata),
                ("phase5_metadata.training_results", &nested),
            ];
            let found = places.into_iter().find_map(|(place, object)| Some((place, object.get(name)?.as_f64()?)));
            if let Some((place, value)) = found {
                metrics.push(FinalMetric {
                    name: metric.to_owned(),
                    value,
                    split: Some(split.to_owned()),
                    samples: None,
                    source: Some(format!("{place}.{name}")),
                });
            }
        }
        metrics
    }

    /// A manifest without files.
    pub(super) fn manifest(&self, folder: &Path) -> Manifest {
        let of_folder =
            || folder.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
        let sparsity =
            self.metadata.get("sparsity").and_then(Value::as_f64).filter(|share| (0.0..=1.0).contains(share));
        Manifest {
            api_version: PHASE5_VERSION.to_owned(),
            identity: Identity {
                name: self.text(&["name", "model_name", "model_id"]).unwrap_or_else(of_folder),
                version: self.text(&["version", "model_version"]),
                run: self.text(&["run", "run_id"]),
                created: self.text(&["created", "created_at", "timestamp"]),
                description: self.text(&["description"]),
            },
            framework: self.text(&["framework"]).or_else(|| self.checkpoint.then(|| "pytorch".to_owned())).map(
                |name| Framework {
                    name,
                    version: self.text(&["framework_version", "pytorch_version", "torch_version"]),
                    exporter: None,
                },
            ),
            model: ModelFiles::default(),
            signature: None,
            training: Training {
                config: if self.config.is_empty() { self.object(&["config"]) } else { self.config.clone() },
                hyper_parameters: self.object(&["hyper_parameters", "hyperparameters"]),
                results: self.results.clone(),
                metadata: self.metadata.clone(),
            },
            metrics: self.metrics(),
            quantization: None,
            sparsity: sparsity.map(|share| Sparsity { share, pattern: None }),
            environment: self.object(&["environment"]),
            splits: super::Splits::default(),
        }
    }

    /// Sentences for the report.
    pub(super) fn remarks(&self) -> &[String] {
        &self.remarks
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn known(results: Value, metadata: Value) -> Known {
        let object = |value: Value| value.as_object().cloned().unwrap();
        Known { results: object(results), metadata: object(metadata), ..Known::default() }
    }

    #[test]
    fn figures_are_taken_from_known_keys_and_say_from_which() {
        let metrics = known(
            json!({"final_accuracy": 0.97, "accuracy": 0.5, "test_accuracy": 0.9, "epochs": 3}),
            json!({"val_f1": 0.8}),
        )
        .metrics();
        let said: Vec<_> = metrics
            .iter()
            .map(|m| (m.name.as_str(), m.value, m.split.as_deref().unwrap(), m.source.as_deref().unwrap()))
            .collect();
        assert_eq!(
            said,
            [
                ("Top1", 0.97, "validation", "training_results.final_accuracy"),
                ("Top1", 0.9, "test", "training_results.test_accuracy"),
                ("F1", 0.8, "validation", "phase5_metadata.val_f1"),
            ]
        );
        assert!(known(json!({"accuracy": "high"}), json!({})).metrics().is_empty());
    }

    #[test]
    fn identity_comes_from_the_metadata_or_the_folder() {
        let named = known(
            json!({}),
            json!({"model_name": "digits", "version": 3, "environment": {"host": "a"}, "sparsity": 0.25}),
        )
        .manifest(Path::new("/p/x"));
        assert_eq!((named.identity.name.as_str(), named.identity.version.as_deref()), ("digits", Some("3")));
        assert_eq!(named.environment["host"], json!("a"));
        assert_eq!(named.sparsity, Some(Sparsity { share: 0.25, pattern: None }));
        assert_eq!(known(json!({}), json!({})).manifest(Path::new("/p/x")).identity.name, "x");
    }

    #[test]
    fn the_file_beside_the_checkpoint_counts_and_a_difference_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METADATA);
        std::fs::write(&path, r#"{"version": 2, "note": "new"}"#).unwrap();
        let mut known = known(json!({}), json!({"version": 1}));
        known.add(&path).unwrap();
        assert_eq!((&known.metadata["version"], &known.metadata["note"]), (&json!(2), &json!("new")));
        assert!(known.remarks[0].contains("'version' is another"), "{:?}", known.remarks);
        std::fs::write(&path, "[1]").unwrap();
        assert!(known.add(&path).unwrap_err().to_string().contains("holds no object"));
    }
}
