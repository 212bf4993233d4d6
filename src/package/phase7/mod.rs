//! The phase 7 package: a baked model with all that a deployment must know of it, loadable without the rest of the bake.
//!
//! | file | what it holds |
//! |---|---|
//! | `manifest.json` | [`Manifest`]: every other file with its digest, where the model came from, and the evidence behind the figures |
//! | `deployment_config.json` | [`DeploymentConfig`]: inputs and outputs, figures beside the limits of the contract, what to do when something is off |
//! | `model.onnx` | the model; external data beside it where it is too large for one file |
//! | `samples.safetensors` | a few real samples, those among them in which each range and bound was attained |
//! | `outputs.safetensors` | what the model gave on them, as `output/sample` |
//! | `recipe.json` | how the model was made from the input |
//!
//! The consumer rests on the manifest alone: it is the one file without a digest inside, and the report of the bake names its digest.

mod coherence;
mod defect;
mod deployment;
mod manifest;
mod open;
mod phase5;
mod signature;

pub use defect::{Defect, Fault};
pub use deployment::{
    Action, BatchFigures, BatchFlexibility, BatchRows, BitIdentical, Clock, DEPLOYMENT_VERSION, DeploymentConfig, Hint,
    Latency, Limit, LimitVerdict, MemoryFigures, ModelRef, Runtime, Situation, contract,
};
pub use manifest::{
    DeterminismEvidence, Evidence, FileRole, GateClaim, LatencySamples, Machine, Manifest, ModelFacts, PHASE7_VERSION,
    PackageFile, PassClaim, RecipeClaim, SampleEvidence, SourceClaim, ThreadDigest, Traceability,
};
pub use open::{Checked, Opened, is_package, open};
pub use phase5::{FigureClaim, LeftOut, Phase5Claim, Phase5File, REPRODUCED_WITHIN};
pub use signature::{Axis, Port, Signature, ValueRange};

/// Name of the package's folder in the output of a bake.
pub const FOLDER: &str = "phase7";

/// Name of the manifest.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Name of the deployment config.
pub const CONFIG_FILE: &str = "deployment_config.json";

/// Name of the model's file.
pub const MODEL_FILE: &str = "model.onnx";

/// Name of the samples' file.
pub const SAMPLES_FILE: &str = "samples.safetensors";

/// Name of the file of what the model gave on the samples.
pub const OUTPUTS_FILE: &str = "outputs.safetensors";

/// Name of the recipe's file.
pub const RECIPE_FILE: &str = "recipe.json";

/// JSON Schema of [`Manifest`].
pub fn manifest_schema() -> serde_json::Value {
    schemars::schema_for!(Manifest).to_value()
}

/// JSON Schema of [`DeploymentConfig`].
pub fn deployment_schema() -> serde_json::Value {
    schemars::schema_for!(DeploymentConfig).to_value()
}

/// Name of one output of one sample in [`OUTPUTS_FILE`].
pub fn output_key(output: &str, sample: usize) -> String {
    format!("{output}/{sample}")
}
