//! The contract of a graph pass. Passes live in `accelerator` and `optimizer`; the transactional driver runs them, checks the result and rolls back.

use super::{Facts, Model, ModelError};

/// What a pass did to the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The graph changed.
    Applied {
        /// How many places were rewritten.
        rewrites: usize,
        /// Fusions among them, each as `pattern: name of the resulting node`, for the report.
        fused: Vec<String>,
    },
    /// Nothing to do here, and why, in words a user understands.
    Skipped {
        /// The reason, a sentence.
        reason: String,
    },
}

impl Effect {
    /// The effect of `rewrites` rewrites that fused nothing; skipped with `reason` when there was none.
    pub fn rewrites(rewrites: usize, reason: &str) -> Self {
        if rewrites == 0 {
            Self::Skipped { reason: reason.to_owned() }
        } else {
            Self::Applied { rewrites, fused: Vec::new() }
        }
    }
}

/// Why a pass failed. The driver rolls the model back and goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassError {
    /// The model holds something that the pass cannot read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The pass met a graph that it cannot handle at this node.
    #[error("node '{node}': {detail}")]
    Node {
        /// Name of the node (or of its first output).
        node: String,
        /// What was wrong.
        detail: String,
    },
}

/// One transformation of the graph. It must be deterministic: the same model, facts and parameters give the same bytes on any machine, for the recipe
/// that a bake ends in is a list of passes to replay. So a pass reads no clock, no random source and runs no engine.
pub trait Pass: Send + Sync {
    /// Stable kebab-case name, as it stands in recipe, report and `optimization.passes`.
    fn name(&self) -> &'static str;

    /// Every decision of this pass, resolved, such that the pass can be rebuilt from name and parameters alone.
    fn parameters(&self) -> serde_json::Value {
        serde_json::Value::Object(serde_json::Map::new())
    }

    /// Bytes that the pass may take beside `model`, at most; 0 where that is nothing to speak of.
    fn working_bytes(&self, _model: &Model) -> u64 {
        0
    }

    /// The same pass in a form that takes less memory and may do less; `None` where there is none.
    fn cheaper(&self) -> Option<Box<dyn Pass>> {
        None
    }

    /// Rewrites `model`. `facts` are what was observed of the *input* model's tensors; a pass that creates tensors whose facts later passes need adds them.
    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError>;
}
