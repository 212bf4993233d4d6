//! Packages: what is handed over between the phases, as files that say what they are; that of phase 7 in [`phase7`]. The rest is of phase 5: what a trainer hands over. A folder with a manifest that names model, data splits and their digests, and carries how the model was
//! trained and how good it was; or the trainer's own layout, a PyTorch checkpoint beside an ONNX graph.
//!
//! ```text
//!  folder ── open ──▶ Package ── check ──▶ every used file is the one that is named ── settle ──▶ a job of plain paths
//!                                                weights ── apply ──▶ the graph with its weights
//!  loose files ── Draft ──▶ folder
//! ```
//!
//! Everything in a package comes from outside: paths are confined to its folder, sizes are bounded, digests are compared before anything is used, and a
//! pickle is read without running it. Knows nothing of engines.

mod apply;
mod build;
mod error;
mod files;
mod manifest;
pub mod oci;
mod open;
pub mod phase7;
mod pickle;
mod settle;
mod torch;
mod trainer;

pub use build::{Draft, Parts};
pub use error::PackageError;
pub use manifest::{
    Claim, Environment, FinalMetric, Framework, Identity, MANIFEST_FILE, MOST_MANIFEST, Manifest, ModelFiles,
    PHASE5_VERSION, PackagedFile, Quantization, Signature, Sparsity, Splits, TensorInfo, Training, ValidationSplit,
    WeightTarget, Weights, manifest_schema,
};
pub use open::{Layout, Package, Wanted, assemble};
pub use settle::{Settled, settle};
pub use trainer::{GRAPH as TRAINER_GRAPH, files as trainer_files};
