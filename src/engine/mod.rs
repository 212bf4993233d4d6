//! Running a model. An [`Engine`] loads it, a [`Session`] runs it; every figure names the engine and its version.

pub mod batch;
pub mod blocks;
pub mod dataset;
pub mod declared;
pub mod error;
pub mod facts;
#[cfg(feature = "ort")]
pub mod ort;
#[cfg(feature = "tract")]
pub(crate) mod quiet;
pub mod registry;
pub(crate) mod tapped;
#[cfg(feature = "tract")]
pub mod tract;
mod watch;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use dataset::{Dataset, Feed};
pub use error::EngineError;
pub use registry::{BackendStatus, Engines, Selected};
pub use watch::Watcher;

use crate::model::{DType, Model, Tensor};

/// Which engine, and which version of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct EngineId {
    /// `onnxruntime` or `tract`.
    pub name: String,
    /// The library's own version, e.g. `1.32.0`.
    pub version: String,
}

impl std::fmt::Display for EngineId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// How to load a model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Threads inside one inference. 1 runs on the calling thread alone, so its CPU time is the thread's.
    pub threads: usize,
    /// Internal tensors to hand out behind the graph's outputs, in this order.
    pub taps: Vec<String>,
    /// Whether the engine may optimise the graph. Off for reference numerics of quantised graphs on tract.
    pub optimise: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { threads: 1, taps: Vec::new(), optimise: true }
    }
}

/// A runtime that can load models.
pub trait Engine: Send + Sync {
    /// Name and version.
    fn id(&self) -> &EngineId;

    /// Prepares a model for running. An operator that the engine lacks is [`EngineError::Unsupported`].
    fn load(&self, model: &Model, options: &LoadOptions) -> Result<Box<dyn Session>, EngineError>;

    /// Prepares a model for running on one thread. What a run returns are the graph's outputs; its taps are shown to the watcher instead of kept for it.
    fn watch(&self, model: &Model, taps: Vec<String>, watcher: Watcher) -> Result<Box<dyn Session>, EngineError> {
        let session = self.load(model, &LoadOptions { taps, ..LoadOptions::default() })?;
        Ok(Box::new(watch::Afterwards { session, outputs: model.graph().output.len(), watcher }))
    }
}

/// A loaded model.
pub trait Session: Send {
    /// Runs one feed. Returns the graph's outputs in their order, then the taps.
    fn run(&mut self, feed: &Feed) -> Result<Vec<Tensor>, EngineError>;

    /// As [`Session::run`], but float32 tensors may lie in the engine's own memory, which is lent until they are dropped: for a caller that looks at what a run
    /// gave and lets go of it, a large copy less. The session's memory lives until the last of them is dropped.
    fn lend(&mut self, feed: &Feed) -> Result<Vec<Tensor>, EngineError> {
        self.run(feed)
    }

    /// Element type and shape of what [`Session::run`] would return, without copying it; `None` for what is no tensor of numbers.
    fn observe(&mut self, feed: &Feed) -> Result<Vec<Option<Observed>>, EngineError> {
        Ok(self.run(feed)?.iter().map(|t| Some((t.dtype(), t.shape().to_vec()))).collect())
    }
}

/// Element type and shape of a tensor in one run.
pub type Observed = (DType, Vec<usize>);

/// Models of so many bytes are loaded with care: memory that is not in use is given back first, and ONNX Runtime reads them from files.
#[cfg(any(feature = "ort", feature = "tract"))]
const BIG_MODEL_BYTES: usize = 16 << 20;

/// Whether a model is loaded with care for memory.
#[cfg(any(feature = "ort", feature = "tract"))]
pub(crate) fn is_big(model: &Model) -> bool {
    model.encoded_len() >= BIG_MODEL_BYTES
}

/// A shared engine.
pub type SharedEngine = Arc<dyn Engine>;
