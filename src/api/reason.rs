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
    /// Every reason.
    pub const ALL: [Self; 14] = [
        Self::Baked,
        Self::NoImprovement,
        Self::GateFailed,
        Self::GateInconclusive,
        Self::InvalidJob,
        Self::InvalidModel,
        Self::UnsupportedOperator,
        Self::InvalidData,
        Self::AccessDenied,
        Self::OutputUnwritable,
        Self::StorageUnreachable,
        Self::DeviceLost,
        Self::MemoryLimitTooSmall,
        Self::Internal,
    ];

    /// The failure that an exit code stands for; `None` for 0, verdicts and codes outside the contract.
    #[must_use]
    pub fn from_exit_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|r| i32::from(r.exit_code()) == code && !matches!(code, 0 | 3 | 4))
    }

    /// Whether the same pod may do better when it is started again.
    #[must_use]
    pub fn worth_a_retry(self) -> bool {
        matches!(self, Self::StorageUnreachable | Self::DeviceLost)
    }

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
