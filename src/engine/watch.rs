//! Internal tensors that somebody looks at and nobody keeps: shown where a run has them at hand instead of handed out behind it.

use std::sync::Arc;

use super::{EngineError, Feed, Session};
use crate::model::{DType, Tensor};

/// What a watcher is: it is given the tap's number among those asked for, the shape, and the values, which are lent for the call.
type Look = dyn Fn(usize, &[usize], &[f32]) + Send + Sync;

/// Looks at taps that hold float32 numbers, on the thread that runs the model.
#[derive(Clone)]
pub struct Watcher(Arc<Look>);

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watcher")
    }
}

impl Watcher {
    /// Of `look(tap, shape, values)`.
    pub fn new(look: impl Fn(usize, &[usize], &[f32]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(look))
    }

    /// Shows values of one tap.
    pub(super) fn show(&self, tap: usize, shape: &[usize], values: &[f32]) {
        (self.0)(tap, shape, values);
    }

    /// Shows a tensor, if it holds float32 numbers.
    pub(super) fn show_tensor(&self, tap: usize, tensor: &Tensor) {
        if tensor.dtype() == DType::F32 {
            self.show(tap, tensor.shape(), &tensor.to_f32());
        }
    }
}

/// A session that hands taps out behind its outputs, each of which is shown when a run is over.
pub(super) struct Afterwards {
    pub(super) session: Box<dyn Session>,
    /// Number of outputs of the model.
    pub(super) outputs: usize,
    pub(super) watcher: Watcher,
}

impl Session for Afterwards {
    fn run(&mut self, feed: &Feed) -> Result<Vec<Tensor>, EngineError> {
        let mut outputs = self.session.lend(feed)?;
        let taps = outputs.split_off(self.outputs);
        taps.iter().enumerate().for_each(|(tap, tensor)| self.watcher.show_tensor(tap, tensor));
        Ok(outputs)
    }
}
