//! Where the model and its data come from, and how storage is reached.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{digest, readable_uri, rule};

/// The trained model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// One .onnx file, or the folder of a package; in a bucket it ends in /. A path is relative to the job file.
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = readable_uri()))]
    pub uri: String,
    /// What file or manifest must hash to: sha256 and 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71), extend("x-kubernetes-validations" = digest()))]
    pub digest: Option<String>,
}

/// The data splits; they must be disjoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Data {
    /// Sets the ranges of quantised tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// Recovers accuracy by distillation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
    /// Decides the gates; never used to tune.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
}

/// The calibration split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Calibration {
    /// A .npz or .safetensors file.
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = readable_uri()))]
    pub uri: String,
    /// Use at most this many samples. Unset: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub samples: Option<u32>,
}

/// The training split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Training {
    /// A .npz or .safetensors file.
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = readable_uri()))]
    pub uri: String,
}

/// The validation split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("!has(self.topK) || has(self.metric) && self.metric == 'TopK'", "topK is only for metric TopK")]))]
pub struct Validation {
    /// A .npz or .safetensors file: one tensor per model input, and labels where they are known.
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = readable_uri()))]
    pub uri: String,
    /// What accuracy means here. Unset: inferred from the outputs; the report says how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<TaskMetric>,
    /// The K of metric TopK. Unset: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub top_k: Option<u32>,
    /// The model outputs that consistency and distribution are judged on. Unset: all but final recurrent states.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub outputs: Vec<String>,
}

/// What accuracy means here. Unset: inferred from the outputs; the report says how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaskMetric {
    /// The class of the largest output is right.
    Top1,
    /// The right class is among the K largest.
    TopK,
    /// Macro F1 over classes.
    F1,
    /// Coefficient of determination of a regression.
    R2,
    /// Cosine to the target after removing the mean.
    Cosine,
    /// The greedy CTC string is right.
    ArgmaxSequence,
}

/// How object storage is reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// The store's address. Unset: the cloud's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), extend("x-kubernetes-validations" = [rule("self.matches('^https?://.+')", "must start with https:// or http://")]))]
    pub endpoint: Option<String>,
    /// The bucket's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub region: Option<String>,
    /// The bucket is part of the path, not of the host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Certificates to trust beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<CaBundle>,
    /// Static credentials, mounted into the worker. Unset: workload identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
}

/// Certificates to trust.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaBundle {
    /// A ConfigMap of the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub config_map_name: String,
    /// The key that holds the PEM file.
    #[serde(default = "default_ca_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn default_ca_key() -> String {
    "ca.crt".into()
}

/// Static credentials.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// A Secret of the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}
