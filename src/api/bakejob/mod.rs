//! The `BakeJob` custom resource, version `v1alpha1`. The doc comments are the descriptions in the CRD, so they speak to the person who
//! writes the YAML, and stay short: the whole CRD fits in 40 KB.

#![allow(clippy::doc_markdown, reason = "`kubectl explain` shows the docs as they are, backticks included")]
#![allow(clippy::duplicated_attributes, reason = "printer columns repeat their type, which the lint takes for a slip")]

mod gate;
mod hardware;
mod optimization;
mod output;
mod rules;
mod source;
mod status;
mod worker;

pub use gate::GateSpec;
pub use hardware::{Cpu, Device, Fallback, Gpu, Hardware, Profile, Runtime};
pub use optimization::{Goal, Level, Optimization, RecipeRef};
pub use output::{Cache, Export, OnDelete, Output, Promotion, PromotionPolicy};
pub use source::{CaBundle, Calibration, Credentials, Data, Source, Storage, TaskMetric, Training, Validation};
pub use status::{
    Artifact, AttemptStatus, BakeJobStatus, Figures, FileRef, GateStatus, HardwareStatus, JobRef, PassOutcome,
    PassStatus, PromotionStatus, RunRecord, Stage, Verdict,
};
pub use worker::{PullSecret, Worker};

pub(crate) use rules::root_rules;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What to bake, what it must keep, and where the result goes.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "bakehouse.dev",
    version = "v1alpha1",
    kind = "BakeJob",
    plural = "bakejobs",
    namespaced,
    shortname = "bj",
    category = "bake",
    status = "BakeJobStatus",
    derive = "PartialEq",
    doc = "A BakeJob makes a trained model smaller and faster, proves that it kept its quality, and writes it out.",
    printcolumn(
        name = "Succeeded",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Succeeded\")].status"
    ),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Succeeded\")].reason"),
    printcolumn(name = "Gate", type_ = "string", json_path = ".status.conditions[?(@.type==\"GatePassed\")].status"),
    printcolumn(name = "Device", type_ = "string", json_path = ".status.hardware.device"),
    printcolumn(name = "Speedup", type_ = "string", json_path = ".status.baked.speedup"),
    printcolumn(name = "Retention", type_ = "string", json_path = ".status.baked.accuracyRetention"),
    printcolumn(name = "Progress", type_ = "integer", json_path = ".status.progress"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Artifact", type_ = "string", json_path = ".status.artifacts[0].uri", priority = 1),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.artifacts[0].sha256", priority = 1),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.hardware.node", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct BakeJobSpec {
    /// The trained model.
    pub source: Source,
    /// The data splits. Unset: those that the source's package names.
    #[serde(default)]
    pub data: Data,
    /// How object storage is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// What may be done to the model.
    #[serde(default)]
    pub optimization: Optimization,
    /// The hardware to bake for and on.
    #[serde(default)]
    pub hardware: Hardware,
    /// The engine that latency is measured on. Unset: OnnxRuntime where its library is found, else Bakehouse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
    /// How latency is measured.
    #[serde(default)]
    pub profile: Profile,
    /// What the result must keep. The four quality gates apply unless listed here.
    #[serde(default)]
    #[schemars(length(max = 15), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["metric"]))]
    pub gates: Vec<GateSpec>,
    /// The formats to write.
    #[serde(default = "output::default_exports")]
    #[schemars(length(min = 1, max = 6), extend("x-kubernetes-list-type" = "set"))]
    pub exports: Vec<Export>,
    /// Where the result goes.
    pub output: Output,
    /// What happens to a result that passed its gates.
    #[serde(default)]
    pub promotion: Promotion,
    /// The pod that bakes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<Worker>,
    /// Who bakes it; other controllers leave it alone.
    #[serde(default = "default_manager")]
    #[schemars(length(min = 1, max = 63), extend("x-kubernetes-validations" = [rules::rule("self == oldSelf", "is fixed at creation")]))]
    pub managed_by: String,
    /// Do not start, or stop what runs; a finished stage is not repeated on resume.
    #[serde(default)]
    pub suspend: bool,
    /// Seconds a run may take, queueing not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub active_deadline_seconds: Option<u32>,
    /// How often a failed attempt is repeated. Permanent errors are not repeated.
    #[serde(default = "default_backoff_limit")]
    #[schemars(range(min = 0, max = 20))]
    pub backoff_limit: u32,
    /// Seconds after its end until the BakeJob deletes itself. Under GitOps leave it unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub ttl_seconds_after_finished: Option<u32>,
    /// Whether an artifact baked before from the same inputs is taken. Unset means Off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
}

/// The value of `managedBy` that means the operator of this project.
pub const MANAGER: &str = "bakehouse.dev/operator";

fn default_manager() -> String {
    MANAGER.to_owned()
}

fn default_backoff_limit() -> u32 {
    3
}

impl BakeJobSpec {
    /// The URIs of what a bake reads, each with its field.
    pub fn inputs(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let data = &self.data;
        let uris = [
            ("spec.source.uri", Some(&self.source.uri)),
            ("spec.data.calibration.uri", data.calibration.as_ref().map(|split| &split.uri)),
            ("spec.data.training.uri", data.training.as_ref().map(|split| &split.uri)),
            ("spec.data.validation.uri", data.validation.as_ref().map(|split| &split.uri)),
            ("spec.optimization.recipe.uri", self.optimization.recipe.as_ref().map(|recipe| &recipe.uri)),
        ];
        uris.into_iter().filter_map(|(field, uri)| Some((field, uri?)))
    }

    /// The URIs of what is written, each with its field: by the bake, and by the promotion of its result.
    pub fn outputs(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let promotion = self.promotion.uri.as_ref().map(|uri| ("spec.promotion.uri", uri));
        std::iter::once(("spec.output.uri", &self.output.uri)).chain(promotion)
    }

    /// The URIs of all that is read or written, to be changed.
    pub fn uris_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let data = &mut self.data;
        let uris = [
            Some(&mut self.source.uri),
            data.calibration.as_mut().map(|split| &mut split.uri),
            data.training.as_mut().map(|split| &mut split.uri),
            data.validation.as_mut().map(|split| &mut split.uri),
            self.optimization.recipe.as_mut().map(|recipe| &mut recipe.uri),
            Some(&mut self.output.uri),
            self.promotion.uri.as_mut(),
        ];
        uris.into_iter().flatten()
    }

    /// The spec of a bare model: `source`, `validation` and `output` are URIs or paths, everything else has its default.
    #[must_use]
    pub fn new(source: impl Into<String>, validation: impl Into<String>, output: impl Into<String>) -> Self {
        Self {
            source: Source { uri: source.into(), digest: None },
            data: Data {
                validation: Some(Validation { uri: validation.into(), metric: None, top_k: None, outputs: Vec::new() }),
                ..Data::default()
            },
            storage: None,
            optimization: Optimization::default(),
            hardware: Hardware::default(),
            runtime: None,
            profile: Profile::default(),
            gates: Vec::new(),
            exports: output::default_exports(),
            output: Output::new(output),
            promotion: Promotion::default(),
            worker: None,
            managed_by: default_manager(),
            suspend: false,
            active_deadline_seconds: None,
            backoff_limit: default_backoff_limit(),
            ttl_seconds_after_finished: None,
            cache: None,
        }
    }
}
