//! The closed set of reasons, and the exit codes that scripts and the controller rely on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a bake ended as it did. The names stand in conditions, events, metrics and reports; the runbook has an entry for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum Reason {
    /// An artifact better than the input passed every gate.
    Baked,
    /// Nothing better than the input passed; the input itself is the artifact.
    NoImprovement,
    /// A gate failed on the best candidate.
    GateFailed,
    /// A gate could not be decided with the samples at hand.
    GateInconclusive,
    /// The command line or the `BakeJob` is wrong, or names something that is not built yet.
    InvalidJob,
    /// The model file is damaged or not ONNX.
    InvalidModel,
    /// No engine at hand can run an operator of the model.
    UnsupportedOperator,
    /// The data does not fit the model, is empty, or its splits overlap.
    InvalidData,
    /// A file may not be read.
    AccessDenied,
    /// The output cannot be written, or the disk is full.
    OutputUnwritable,
    /// Object storage does not answer.
    StorageUnreachable,
    /// The accelerator went away.
    DeviceLost,
    /// The memory limit is below what the smallest plan needs.
    MemoryLimitTooSmall,
    /// A fault of Bakehouse itself.
    Internal,
}

impl Reason {
    /// The process's exit code (0 success; 2 usage; 3 and 4 verdicts; 10-14 and 22 permanent; 20 and 21 worth a retry; 70 a fault of ours).
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Baked | Self::NoImprovement => 0,
            Self::InvalidJob => 2,
            Self::GateFailed => 3,
            Self::GateInconclusive => 4,
            Self::InvalidModel => 10,
            Self::UnsupportedOperator => 11,
            Self::InvalidData => 12,
            Self::AccessDenied => 13,
            Self::OutputUnwritable => 14,
            Self::StorageUnreachable => 20,
            Self::DeviceLost => 21,
            Self::MemoryLimitTooSmall => 22,
            Self::Internal => 70,
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}
