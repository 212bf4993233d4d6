//! `manifest.json` of a phase 5 package.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::PackageError;
use super::files::{wrong_digest, wrong_path};
use crate::api::bakejob::TaskMetric;

/// Schema of [`Manifest`].
pub const PHASE5_VERSION: &str = "bakehouse.dev/phase5/v1";

/// Name of the manifest's file.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The largest manifest that is read, in bytes.
pub const MOST_MANIFEST: u64 = 4 << 20;

/// The largest file of a package, in bytes: as much external data as a model may have.
const MOST_FILE: u64 = 64 << 30;

/// A package as the trainer describes it. Files stand in it with their digests; what is known of the training is carried along to the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`PHASE5_VERSION`]; a later minor version, as in `v1.2`, may hold fields that are not known here.
    pub api_version: String,
    /// Which model this is.
    pub identity: Identity,
    /// What trained and exported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub framework: Option<Framework>,
    /// The files of the model.
    pub model: ModelFiles,
    /// Inputs and outputs. They must be those of the graph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// How it was trained.
    #[serde(default)]
    pub training: Training,
    /// What the trainer measured at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<FinalMetric>,
    /// Whether the weights are quantised already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
    /// How many weights are zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<Sparsity>,
    /// Where it was trained.
    #[serde(default)]
    pub environment: Environment,
    /// The data splits; they must be disjoint.
    #[serde(default)]
    pub splits: Splits,
}

/// Which model this is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Name of the model.
    pub name: String,
    /// Its version, in the trainer's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The run that trained it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// When the package was made, as RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What trained and exported it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Framework {
    /// `pytorch`, for example.
    pub name: String,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What wrote the ONNX graph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exporter: Option<String>,
}

/// A file of the package.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackagedFile {
    /// Where it lies, relative to the manifest, parts separated by `/`.
    pub path: String,
    /// SHA-256 of its bytes: 64 hexadecimal digits.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

/// The files of the model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelFiles {
    /// The ONNX graph.
    pub graph: PackagedFile,
    /// External data of the graph: every file that it names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external_data: Vec<PackagedFile>,
    /// Weights that take the place of the graph's own. Unset: the graph holds them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
}

/// Trained weights apart from the graph. A tensor goes to the initializer of its name, of the same shape and type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Weights {
    /// A `.safetensors` file, or a `.pt` file that `torch.save` wrote.
    #[serde(flatten)]
    pub file: PackagedFile,
    /// Tensors that go to an initializer of another name, or transposed, as exporters leave them. Nothing of this is ever guessed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tensors: BTreeMap<String, WeightTarget>,
    /// Initializers that keep the values of the graph.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub keep: BTreeSet<String>,
}

/// Where a tensor goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WeightTarget {
    /// The initializer.
    pub initializer: String,
    /// Whether the initializer holds the transpose of this matrix.
    #[serde(default)]
    pub transpose: bool,
}

/// Inputs and outputs of the graph.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Signature {
    /// What is fed.
    pub inputs: Vec<TensorInfo>,
    /// What comes out.
    pub outputs: Vec<TensorInfo>,
}

/// A tensor that goes in or comes out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TensorInfo {
    /// Its name in the graph.
    pub name: String,
    /// Its element type: `float32`, for example.
    pub dtype: String,
    /// Its extents: numbers, or the names of those that may change.
    #[serde(default)]
    pub shape: Vec<String>,
}

/// How the model was trained. What stands in it is the trainer's own and is carried along as it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Training {
    /// The configuration of the training.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub config: Map<String, Value>,
    /// Hyper-parameters.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub hyper_parameters: Map<String, Value>,
    /// What the training ended with.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub results: Map<String, Value>,
    /// Anything else.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
}

/// Where the model was trained, in the trainer's own words.
pub type Environment = Map<String, Value>;

/// A figure that the trainer measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FinalMetric {
    /// `Top1`, `Top5`, `F1`, `R2`, `Cosine` or `ArgmaxSequence` are measured again on the validation split; any other name is carried along.
    pub name: String,
    /// Its value; of the metrics that are measured again, as a share or coefficient, not in percent.
    pub value: f64,
    /// The split that it was measured on. Unset: `validation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// How many samples it was measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
    /// Where it was taken from, when it stood somewhere else first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// A metric that can be measured again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The metric.
    pub metric: TaskMetric,
    /// The K of `TopK`.
    pub k: u32,
}

impl FinalMetric {
    /// The metric by its name, when it is one that can be measured again and was measured on the validation split.
    pub fn claim(&self) -> Option<Claim> {
        let on_validation = self.split.as_deref().is_none_or(|split| split == "validation");
        metric_named(&self.name).filter(|_| on_validation)
    }
}

/// The metric of this name.
pub(super) fn metric_named(name: &str) -> Option<Claim> {
    let metric = match name {
        "Top1" => TaskMetric::Top1,
        "F1" => TaskMetric::F1,
        "R2" => TaskMetric::R2,
        "Cosine" => TaskMetric::Cosine,
        "ArgmaxSequence" => TaskMetric::ArgmaxSequence,
        other => {
            let k = other.strip_prefix("Top")?.parse().ok().filter(|k| (1..=1000).contains(k))?;
            return Some(Claim { metric: TaskMetric::TopK, k });
        }
    };
    Some(Claim { metric, k: 1 })
}

/// Whether the weights are quantised already.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quantization {
    /// `none`, or how: `int8 dynamic`, for example.
    pub scheme: String,
    /// Bits of a weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<f64>,
}

/// How many weights are zero.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sparsity {
    /// Share of the weights that are zero, from 0 to 1.
    pub share: f64,
    /// `unstructured`, `2:4`, `channels`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
}

/// The data splits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Splits {
    /// Decides the gates; never used to tune.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationSplit>,
    /// Sets the ranges of quantised tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<PackagedFile>,
    /// Recovers accuracy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<PackagedFile>,
}

/// The validation split.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValidationSplit {
    /// A `.npz` or `.safetensors` file.
    #[serde(flatten)]
    pub file: PackagedFile,
    /// What accuracy means for this model. Unset: inferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<TaskMetric>,
    /// The K of metric `TopK`. Unset: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// The outputs that are judged. Unset: all but final recurrent states.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
}

impl Manifest {
    /// Reads and checks a manifest; `path` is for messages. With it, remarks about what of it is not known here.
    ///
    /// # Errors
    /// No JSON, another major version, a field that is missing, unknown or wrong: each by name.
    pub fn parse(text: &[u8], path: &Path) -> Result<(Self, Vec<String>), PackageError> {
        let no_manifest = |detail: String| PackageError::NoManifest { path: path.to_owned(), detail };
        if text.len() as u64 > MOST_MANIFEST {
            return Err(no_manifest(format!("is larger than {MOST_MANIFEST} bytes, which no manifest is.")));
        }
        let written: Value = serde_json::from_slice(text)
            .map_err(|e| no_manifest(format!("is no JSON ({e}). `bakehouse package` writes a manifest.")))?;
        let minor = match written["apiVersion"].as_str() {
            None => {
                return Err(no_manifest(format!(
                    "has no apiVersion, so it is no manifest of a package. It should begin with \"apiVersion\": \"{PHASE5_VERSION}\"."
                )));
            }
            Some(version) => minor_version(version)
                .ok_or_else(|| PackageError::Version { path: path.to_owned(), version: version.to_owned() })?,
        };
        let manifest: Self = serde_json::from_value(written.clone()).map_err(|e| {
            no_manifest(format!(
                "does not keep the schema of {PHASE5_VERSION} ({e}). `bakehouse package-schema phase5` prints it."
            ))
        })?;
        let known = serde_json::to_value(&manifest).map_err(|e| no_manifest(e.to_string()))?;
        let unknown = unknown_fields(&written, &known, "");
        if let (0, Some(field)) = (minor, unknown.first()) {
            let detail = format!(
                "is no field of {PHASE5_VERSION}. Correct its name, or leave it out; training.metadata takes anything."
            );
            return Err(PackageError::Field { path: path.to_owned(), field: field.clone(), detail });
        }
        let remarks = unknown.iter().map(|field| {
            format!("The package's {field} is of a later version than this build knows, and was not looked at.")
        });
        let remarks = remarks.collect();
        manifest.check().map_err(|(field, detail)| PackageError::Field { path: path.to_owned(), field, detail })?;
        Ok((manifest, remarks))
    }

    /// What no schema tells, with the field that is wrong.
    fn check(&self) -> Result<(), (String, String)> {
        let wrong = |field: &str, detail: String| Err((field.to_owned(), detail));
        if self.identity.name.trim().is_empty() {
            return wrong("identity.name", "is empty. Name the model.".to_owned());
        }
        let mut seen = BTreeMap::new();
        for (field, file) in self.files() {
            if let Some(detail) = wrong_path(&file.path) {
                return wrong(&format!("{field}.path"), detail);
            }
            if let Some(detail) = wrong_digest(&file.sha256) {
                return wrong(&format!("{field}.sha256"), detail);
            }
            if file.bytes > MOST_FILE {
                return wrong(
                    &format!("{field}.bytes"),
                    format!("{} is more than the {MOST_FILE} bytes that a file of a package may have", file.bytes),
                );
            }
            if let Some(other) = seen.insert(&file.path, field.clone()) {
                return wrong(
                    &format!("{field}.path"),
                    format!("'{}' is {other} too. Each file serves one purpose.", file.path),
                );
            }
        }
        if let Some(metric) = self.metrics.iter().find(|m| m.name.trim().is_empty() || !m.value.is_finite()) {
            return wrong(
                "metrics",
                format!("'{}' has the value {}. A metric has a name and a number.", metric.name, metric.value),
            );
        }
        if self.sparsity.as_ref().is_some_and(|s| !(0.0..=1.0).contains(&s.share)) {
            return wrong("sparsity.share", "is a share from 0 to 1".to_owned());
        }
        let split = self.splits.validation.as_ref();
        if split.is_some_and(|s| s.top_k.is_some() && s.metric != Some(TaskMetric::TopK)) {
            return wrong("splits.validation.topK", "is only for metric TopK".to_owned());
        }
        if split.and_then(|s| s.top_k).is_some_and(|k| !(1..=1000).contains(&k)) {
            return wrong("splits.validation.topK", "is from 1 to 1000".to_owned());
        }
        Ok(())
    }

    /// Every file that it names, with its field.
    pub fn files(&self) -> Vec<(String, &PackagedFile)> {
        let mut files = vec![("model.graph".to_owned(), &self.model.graph)];
        let external = self.model.external_data.iter().enumerate();
        files.extend(external.map(|(i, file)| (format!("model.externalData[{i}]"), file)));
        let weights = self.model.weights.as_ref().map(|weights| &weights.file);
        let validation = self.splits.validation.as_ref().map(|split| &split.file);
        let rest = [
            ("model.weights", weights),
            ("splits.validation", validation),
            ("splits.calibration", self.splits.calibration.as_ref()),
            ("splits.training", self.splits.training.as_ref()),
        ];
        files.extend(rest.into_iter().filter_map(|(field, file)| Some((field.to_owned(), file?))));
        files
    }
}

/// The minor version of a manifest of this major version: 0 of `v1`, 2 of `v1.2`.
fn minor_version(version: &str) -> Option<u32> {
    let minor = version.strip_prefix(PHASE5_VERSION)?;
    if minor.is_empty() { Some(0) } else { minor.strip_prefix('.')?.parse().ok() }
}

/// Fields that were written and are gone after a round trip: nothing here knows them. What is empty does not count.
fn unknown_fields(written: &Value, known: &Value, at: &str) -> Vec<String> {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    match (written, known) {
        (Value::Object(written), Value::Object(known)) => written
            .iter()
            .flat_map(|(name, value)| {
                let field = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                match known.get(name) {
                    Some(there) => unknown_fields(value, there, &field),
                    None if empty(value) => Vec::new(),
                    None => vec![field],
                }
            })
            .collect(),
        (Value::Array(written), Value::Array(known)) => {
            let items = written.iter().zip(known).enumerate();
            items.flat_map(|(i, (written, known))| unknown_fields(written, known, &format!("{at}[{i}]"))).collect()
        }
        _ => Vec::new(),
    }
}

/// JSON Schema of [`Manifest`].
pub fn manifest_schema() -> Value {
    schemars::schema_for!(Manifest).to_value()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn whole() -> Value {
        let file = |path: &str| json!({"path": path, "sha256": "0".repeat(64), "bytes": 7});
        json!({
            "apiVersion": PHASE5_VERSION,
            "identity": {"name": "digits"},
            "model": {"graph": file("model.onnx")},
            "training": {"config": {"epochs": 3, "anything": {"at": ["all", null]}}},
            "metrics": [{"name": "Top1", "value": 0.97}],
            "splits": {"validation": file("validation.npz")},
        })
    }

    fn said(edit: impl FnOnce(&mut Value)) -> String {
        let mut manifest = whole();
        edit(&mut manifest);
        Manifest::parse(manifest.to_string().as_bytes(), Path::new("p/manifest.json")).unwrap_err().to_string()
    }

    #[test]
    fn a_manifest_survives_a_round_trip_with_whatever_the_trainer_put_into_it() {
        let (manifest, remarks) = Manifest::parse(whole().to_string().as_bytes(), Path::new("m")).unwrap();
        assert!(remarks.is_empty(), "{remarks:?}");
        assert_eq!(manifest.training.config["anything"], json!({"at": ["all", null]}));
        let text = serde_json::to_vec(&manifest).unwrap();
        assert_eq!(Manifest::parse(&text, Path::new("m")).unwrap().0, manifest);
    }

    #[test]
    fn another_major_version_is_refused_and_a_later_minor_one_is_read() {
        for version in [
            "bakehouse.dev/phase5/v2",
            "bakehouse.dev/phase5/v10",
            "bakehouse.dev/phase7/v1",
            "v1",
            "bakehouse.dev/phase5/v1beta1",
        ] {
            assert!(
                said(|m| m["apiVersion"] = json!(version)).contains(&format!("'{version}' is not known")),
                "{version}"
            );
        }
        assert!(said(|m| m["apiVersion"] = Value::Null).contains("no apiVersion"));
        let mut later = whole();
        later["apiVersion"] = json!("bakehouse.dev/phase5/v1.3");
        later["model"]["graph"]["license"] = json!("MIT");
        let (_, remarks) = Manifest::parse(later.to_string().as_bytes(), Path::new("m")).unwrap();
        assert!(remarks[0].contains("model.graph.license"), "{remarks:?}");
    }

    #[test]
    fn each_wrong_field_is_named() {
        let table: [(fn(&mut Value), &str); 13] = [
            (|m| m["spilts"] = json!({"validation": 1}), "p/manifest.json: spilts: is no field"),
            (|m| m["splits"]["validation"]["sha265"] = json!("x"), "splits.validation.sha265: is no field"),
            (|m| m["identity"]["name"] = json!(" "), "identity.name: is empty"),
            (|m| m["model"]["graph"]["path"] = json!("../m.onnx"), "model.graph.path: '../m.onnx' leaves the package"),
            (
                |m| m["splits"]["validation"]["path"] = json!("/etc/passwd"),
                "splits.validation.path: '/etc/passwd' leaves",
            ),
            (|m| m["model"]["graph"]["sha256"] = json!("abc"), "model.graph.sha256: 'abc' is no SHA-256"),
            (|m| m["model"]["graph"]["bytes"] = json!(1_u64 << 40), "model.graph.bytes: 1099511627776 is more"),
            (
                |m| m["splits"]["validation"]["path"] = json!("model.onnx"),
                "splits.validation.path: 'model.onnx' is model.graph too",
            ),
            (|m| m["metrics"][0]["name"] = json!(""), "metrics: ''"),
            (|m| m["sparsity"] = json!({"share": 1.5}), "sparsity.share"),
            (|m| m["splits"]["validation"]["topK"] = json!(3), "splits.validation.topK: is only for metric TopK"),
            (|m| m["model"] = json!({}), "missing field `graph`"),
            (|m| m["metrics"][0]["value"] = json!("high"), "does not keep the schema"),
        ];
        for (edit, expected) in table {
            let said = said(edit);
            assert!(said.contains(expected), "{expected}: {said}");
        }
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let said = |text: &[u8]| Manifest::parse(text, Path::new("m")).unwrap_err().to_string();
        assert!(said(b"not json").contains("is no JSON"));
        assert!(said(b"[]").contains("no apiVersion"));
        assert!(said(&vec![b' '; MOST_MANIFEST as usize + 1]).contains("is larger than"));
    }

    #[test]
    fn a_metric_is_measured_again_when_its_name_and_split_allow_it() {
        let claim = |name: &str, split: Option<&str>| {
            FinalMetric { name: name.into(), split: split.map(Into::into), ..FinalMetric::default() }.claim()
        };
        assert_eq!(claim("Top1", None), Some(Claim { metric: TaskMetric::Top1, k: 1 }));
        assert_eq!(claim("Top5", Some("validation")), Some(Claim { metric: TaskMetric::TopK, k: 5 }));
        for (name, split) in
            [("Top1", Some("test")), ("Top0", None), ("TopK", None), ("val_loss", None), ("top1", None)]
        {
            assert_eq!(claim(name, split), None, "{name}");
        }
    }
}
