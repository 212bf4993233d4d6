//! Why a package was refused: which file, which field or tensor, what to do.

use std::io;
use std::path::PathBuf;

use crate::api::Reason;
use crate::model::ModelError;

/// What is wrong with a package.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum PackageError {
    #[error("cannot read {path}: {source}. Check the path and its permissions.")]
    Read { path: PathBuf, source: io::Error },
    #[error("{folder} is no package: {detail}")]
    NoPackage { folder: PathBuf, detail: String },
    #[error("{path}: {detail}")]
    NoManifest { path: PathBuf, detail: String },
    #[error(
        "{path}: apiVersion: '{version}' is not known; this build reads '{}' and later minor versions of it. Use a newer Bakehouse, or write the package again \
         with `bakehouse package`.",
        super::PHASE5_VERSION
    )]
    Version { path: PathBuf, version: String },
    #[error("{path}: {field}: {detail}")]
    Field { path: PathBuf, field: String, detail: String },
    #[error("{path}: {field}: {detail}")]
    Split { path: PathBuf, field: String, detail: String },
    #[error("{path}: {detail}")]
    Weights { path: PathBuf, detail: String },
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("{field}: {detail}")]
    Job { field: String, detail: String },
    #[error("cannot write {path}: {source}. Check that the folder may be written and has free space.")]
    Output { path: PathBuf, source: io::Error },
    #[error("{path} is there already; a package is never written over. Give another --out, or remove it.")]
    Exists { path: PathBuf },
}

impl PackageError {
    /// The closed-set reason that status, events and the exit code carry.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Reason::AccessDenied,
            Self::Split { .. } => Reason::InvalidData,
            Self::Model(error) => error.reason(),
            Self::Job { .. } => Reason::InvalidJob,
            Self::Output { .. } | Self::Exists { .. } => Reason::OutputUnwritable,
            Self::Read { .. }
            | Self::NoPackage { .. }
            | Self::NoManifest { .. }
            | Self::Version { .. }
            | Self::Field { .. }
            | Self::Weights { .. } => Reason::InvalidModel,
        }
    }
}
