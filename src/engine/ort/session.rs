//! A loaded model.

use std::borrow::Cow;

use ::ort::ErrorCode;
use ::ort::session::{Session as OrtSession, SessionInputValue};
use tempfile::TempDir;

use super::{one_line, values};
use crate::engine::tapped::TapOrder;
use crate::engine::{EngineError, Feed, Session};
use crate::model::Tensor;

/// A session of ONNX Runtime.
pub(super) struct OnnxRuntimeSession {
    engine: String,
    session: OrtSession,
    order: Option<TapOrder>,
    /// Mapped weights of a big model live here; dropped after the session.
    _weights: Option<TempDir>,
}

impl OnnxRuntimeSession {
    pub(super) fn new(engine: String, session: OrtSession, order: Option<TapOrder>, weights: Option<TempDir>) -> Self {
        Self { engine, session, order, _weights: weights }
    }

    fn error(&self, detail: String) -> EngineError {
        EngineError::Run { engine: self.engine.clone(), detail }
    }
}

impl Session for OnnxRuntimeSession {
    fn run(&mut self, feed: &Feed) -> Result<Vec<Tensor>, EngineError> {
        let engine = self.engine.clone();
        let failed = |e: &::ort::Error| {
            let detail = one_line(e.message());
            // An input that does not fit the declaration is the data's fault; a node that fails is not.
            if e.code() == ErrorCode::InvalidArgument && !detail.contains("while running") {
                EngineError::Data(format!("the sample does not fit the model: {detail}. Compare the shapes with `bakehouse inspect`."))
            } else {
                EngineError::Run { engine: engine.clone(), detail }
            }
        };
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::new();
        // Names are copied: `run` borrows the session mutably while it reads them.
        let names: Vec<String> = self.session.inputs().iter().map(|i| i.name().to_owned()).collect();
        for name in names {
            let tensor = feed.get(&name).ok_or_else(|| EngineError::Data(format!("input '{name}' has no value. Give every input of the model one.")))?;
            let value = values::to_ort(tensor).map_err(|e| failed(&e))?;
            inputs.push((Cow::Owned(name), value));
        }
        let outputs = self.session.run(inputs).map_err(|e| failed(&e))?;
        let mut returned = Vec::with_capacity(outputs.len());
        for (name, value) in &outputs {
            let tensor = values::from_ort(&value).map_err(|e| EngineError::Run { engine: engine.clone(), detail: format!("output '{name}': {e}") })?;
            returned.push(tensor);
        }
        drop(outputs);
        match &self.order {
            Some(order) => order.arrange(returned, feed).map_err(|detail| self.error(detail)),
            None => Ok(returned),
        }
    }
}
