//! Why a bake could not be done.

use std::path::PathBuf;

use crate::api::Reason;
use crate::engine::EngineError;
use crate::model::ModelError;
use crate::optimizer::recipe::ReplayError;
use crate::package::PackageError;
use crate::quality::QualityError;

use super::memory::quantity;

/// A bake that did not end with an artifact.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum BakeError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Package(#[from] PackageError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Quality(#[from] QualityError),
    #[error(
        "cannot write {path}: {source}. Check that the folder exists, may be written and has free space, or give another one with --out."
    )]
    Output { path: PathBuf, source: std::io::Error },
    #[error("spec.data: {0}")]
    Data(String),
    #[error("spec.optimization.recipe: {0}")]
    Recipe(#[from] ReplayError),
    #[error("{field}: {detail}")]
    Job { field: String, detail: String },
    #[error(
        "the memory limit of {limit} bytes is below the {needed} bytes that the smallest plan needs (estimated from model and data). Raise the limit; in a \
         BakeJob, set spec.worker.resources.limits.memory to {} or more.", quantity(*needed)
    )]
    Memory { limit: u64, needed: u64 },
    #[error(
        "a fresh process could not reload the artifact: {0}. This is a fault of Bakehouse; please report it with the model."
    )]
    Reload(String),
    #[error("internal fault: {0}. This is a fault of Bakehouse; please report it.")]
    Internal(String),
}

impl BakeError {
    /// The closed-set reason that status, events and the exit code carry.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Model(e) => e.reason(),
            Self::Package(e) => e.reason(),
            Self::Engine(e) => e.reason(),
            Self::Quality(e) => e.reason(),
            Self::Output { .. } => Reason::OutputUnwritable,
            Self::Data(_) => Reason::InvalidData,
            Self::Recipe(_) | Self::Job { .. } => Reason::InvalidJob,
            Self::Memory { .. } => Reason::MemoryLimitTooSmall,
            Self::Reload(_) | Self::Internal(_) => Reason::Internal,
        }
    }
}
