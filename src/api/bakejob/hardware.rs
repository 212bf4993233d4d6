//! The hardware to bake for, the engine, and how latency is measured.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{bytes, rule};

/// The hardware to bake for and on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("!has(self.gpu) || self.device != 'CPU'", "gpu is only for device CUDA or Auto")]))]
pub struct Hardware {
    /// Auto takes a GPU where gpu asks for one and a node has it, else the CPU.
    #[serde(default)]
    pub device: Device,
    /// What to do when no node has the device.
    #[serde(default)]
    pub fallback: Fallback,
    /// What the CPU must offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// What the GPU must offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
}

/// The kind of device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Device {
    /// Decided from the nodes at hand.
    #[default]
    Auto,
    /// The processor.
    #[serde(rename = "CPU")]
    Cpu,
    /// An NVIDIA GPU.
    #[serde(rename = "CUDA")]
    Cuda,
}

/// What to do without the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Fallback {
    /// Bake for the CPU, and say so.
    #[default]
    #[serde(rename = "CPU")]
    Cpu,
    /// Wait.
    None,
}

/// What the CPU must offer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule(
    "!has(self.features) || self.features.all(f, f.matches('^[a-z0-9_.]+$'))",
    "features are lower-case instruction sets such as avx2 or avx512_vnni"
)]))]
pub struct Cpu {
    /// Threads of the measured engine. Unset: the cores of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub threads: Option<u32>,
    /// Instruction sets that must be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 32)), extend("x-kubernetes-list-type" = "set"))]
    pub features: Vec<String>,
}

/// What the GPU must offer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// How many.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 16))]
    pub count: u32,
    /// Memory of each, such as 16Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("x-kubernetes-validations" = bytes()))]
    pub min_memory: Option<String>,
    /// Lowest compute capability, such as "8.0".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), extend("x-kubernetes-validations" = [rule("self.matches('^[0-9]+[.][0-9]+$')", "must be major.minor in quotes, such as \"8.0\"")]))]
    pub min_compute_capability: Option<String>,
    /// The extended resource that is asked for.
    #[serde(default = "default_resource_name")]
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = [rule("self.matches('^[a-z0-9.-]+/[A-Za-z0-9._-]+$')", "must be domain/name, such as nvidia.com/gpu")]))]
    pub resource_name: String,
}

fn one() -> u32 {
    1
}

fn default_resource_name() -> String {
    "nvidia.com/gpu".into()
}

/// The engine that latency is measured on. Unset: OnnxRuntime where its library is found, else Bakehouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Runtime {
    /// The embedded engine.
    Bakehouse,
    /// ONNX Runtime.
    OnnxRuntime,
}

/// How latency is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// Batch sizes to measure; gates read the first. Unset: that of the validation data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(range(min = 1, max = 4096)), extend("x-kubernetes-list-type" = "set"))]
    pub batch_sizes: Vec<u32>,
    /// Shapes of inputs by name, batch axis included. Unset: those of the validation data.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "shapes")]
    pub shapes: BTreeMap<String, Vec<u32>>,
    /// Runs before measuring.
    #[serde(default = "default_warmup")]
    #[schemars(range(min = 0, max = 100_000))]
    pub warmup: u32,
    /// Measured runs.
    #[serde(default = "default_iterations")]
    #[schemars(range(min = 10, max = 1_000_000))]
    pub iterations: u32,
}

impl Default for Profile {
    fn default() -> Self {
        Self { batch_sizes: Vec::new(), shapes: BTreeMap::new(), warmup: default_warmup(), iterations: default_iterations() }
    }
}

fn default_warmup() -> u32 {
    10
}

fn default_iterations() -> u32 {
    100
}

fn shapes(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "array", "maxItems": 8, "items": {"type": "integer", "minimum": 1, "maximum": 1_000_000}},
    })
}
