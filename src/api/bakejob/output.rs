//! What is written, where, and what happens to it afterwards.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{digest, rule, writable_uri};

/// A format to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Export {
    /// ONNX with Bakehouse's operators where a level needs them.
    #[serde(rename = "ONNX")]
    Onnx,
    /// ONNX of standard operators only.
    #[serde(rename = "ONNXStandard")]
    OnnxStandard,
    /// NNEF for the embedded engine.
    #[serde(rename = "NNEF")]
    Nnef,
    /// The weights alone.
    SafeTensors,
    /// An OCI artifact.
    #[serde(rename = "OCI")]
    Oci,
    /// The package for deployment.
    Phase7,
}

pub(super) fn default_exports() -> Vec<Export> {
    vec![Export::Onnx]
}

/// Where the result goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// A folder or prefix. A path is relative to the job file.
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = writable_uri()))]
    pub uri: String,
    /// What happens to the files when the BakeJob is deleted.
    #[serde(default)]
    pub on_delete: OnDelete,
    /// How many runs' files are kept.
    #[serde(default = "default_keep_runs")]
    #[schemars(range(min = 1, max = 100))]
    pub keep_runs: u32,
    /// How many days a run's files are kept.
    #[serde(default = "default_keep_days")]
    #[schemars(range(min = 1, max = 3650))]
    pub keep_days: u32,
}

impl Output {
    /// An output at `uri` with every other field at its default.
    #[must_use]
    pub fn new(uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            on_delete: OnDelete::default(),
            keep_runs: default_keep_runs(),
            keep_days: default_keep_days(),
        }
    }
}

fn default_keep_runs() -> u32 {
    5
}

fn default_keep_days() -> u32 {
    90
}

/// What happens to the files when the `BakeJob` is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OnDelete {
    /// They stay.
    #[default]
    Retain,
    /// They go.
    Delete,
}

/// What happens to a result that passed its gates.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("self.policy == 'Never' || has(self.uri)", "policy Automatic or Manual needs uri: where to promote to"),
    rule("!has(self.approvedDigest) || self.policy == 'Manual'", "approvedDigest is only for policy Manual"),
]))]
pub struct Promotion {
    /// Automatic promotes at once, Manual waits for approvedDigest.
    #[serde(default)]
    pub policy: PromotionPolicy,
    /// Where promoted artifacts go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = writable_uri()))]
    pub uri: Option<String>,
    /// The artifact that a person approved; no other is promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71), extend("x-kubernetes-validations" = digest()))]
    pub approved_digest: Option<String>,
}

/// When a result is promoted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PromotionPolicy {
    /// As soon as the gates passed.
    Automatic,
    /// When a person approved its digest.
    Manual,
    /// Not at all.
    #[default]
    Never,
}

/// Whether an artifact baked before from the same inputs is taken. Unset means Off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Cache {
    /// Take it.
    Use,
    /// Bake again and replace it.
    Refresh,
    /// Neither read nor write the cache.
    Off,
}
