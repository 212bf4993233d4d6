//! What can go wrong while a model runs.

use crate::api::Reason;

/// Why a model could not be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum EngineError {
    #[error("{engine} cannot run this model: {detail}. {hint}")]
    Unsupported { engine: String, detail: String, hint: String },
    #[error("no engine at hand can run this model: {said}. Export it with operators of the standard opsets, or run `make ort` to bring ONNX Runtime along.")]
    NoEngine { said: String },
    #[error("{engine} failed while running: {detail}")]
    Run { engine: String, detail: String },
    #[error("{name} is not available: {detail}")]
    Unavailable { name: String, detail: String },
    #[error("data: {0}")]
    Data(String),
}

impl EngineError {
    /// The closed-set reason that status, events and the exit code carry.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unsupported { .. } | Self::NoEngine { .. } | Self::Unavailable { .. } => Reason::UnsupportedOperator,
            Self::Run { .. } => Reason::Internal,
            Self::Data(_) => Reason::InvalidData,
        }
    }
}
