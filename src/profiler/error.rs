//! What can go wrong while measuring.

use std::path::PathBuf;

use crate::api::Reason;

/// Why a measurement could not be made. Errors of the measured code itself are passed on as they are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ProfilerError {
    #[error(
        "cannot take the timing lock {path}: {source}. Make the folder writable for this user, or set XDG_RUNTIME_DIR or TMPDIR to one that is."
    )]
    Lock { path: PathBuf, source: std::io::Error },
    #[error("cannot read {path}: {detail}. Memory figures need a mounted /proc.")]
    Proc { path: PathBuf, detail: String },
}

impl ProfilerError {
    /// The closed-set reason that status, events and the exit code carry.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Lock { .. } => Reason::AccessDenied,
            Self::Proc { .. } => Reason::Internal,
        }
    }
}
