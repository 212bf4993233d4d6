//! A loaded model.

use std::borrow::Cow;

use ::ort::ErrorCode;
use ::ort::session::{Session as OrtSession, SessionInputValue};
use ::ort::value::DynValue;

use super::{one_line, values};
use crate::engine::tapped::TapOrder;
use crate::engine::{EngineError, Feed, Observed, Session};
use crate::model::Tensor;
use crate::signals::HeldFolder;

/// A session of ONNX Runtime.
pub(super) struct OnnxRuntimeSession {
    engine: String,
    session: OrtSession,
    order: Option<TapOrder>,
    /// Mapped weights of a big model live here; dropped after the session.
    _weights: Option<HeldFolder>,
}

impl OnnxRuntimeSession {
    pub(super) fn new(
        engine: String,
        session: OrtSession,
        order: Option<TapOrder>,
        weights: Option<HeldFolder>,
    ) -> Self {
        Self { engine, session, order, _weights: weights }
    }

    fn error(&self, detail: String) -> EngineError {
        EngineError::Run { engine: self.engine.clone(), detail }
    }

    fn arranged(&self, returned: Vec<Tensor>, feed: &Feed) -> Result<Vec<Tensor>, EngineError> {
        match &self.order {
            Some(order) => order.arrange(returned, feed, Tensor::clone).map_err(|detail| self.error(detail)),
            None => Ok(returned),
        }
    }

    /// Runs one feed and reads each output by `read`, in the order of ONNX Runtime.
    fn run_with<T>(
        &mut self,
        feed: &Feed,
        read: impl Fn(DynValue) -> Result<T, String>,
    ) -> Result<Vec<T>, EngineError> {
        let engine = self.engine.clone();
        let failed = |e: &::ort::Error| {
            let detail = one_line(e.message());
            // An input that does not fit the declaration is the data's fault; a node that fails is not.
            if e.code() == ErrorCode::InvalidArgument && !detail.contains("while running") {
                EngineError::Data(format!(
                    "the sample does not fit the model: {detail}. Compare the shapes with `bakehouse inspect`."
                ))
            } else {
                EngineError::Run { engine: engine.clone(), detail }
            }
        };
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::new();
        for input in self.session.inputs() {
            let name = input.name();
            let missing =
                || EngineError::Data(format!("input '{name}' has no value. Give every input of the model one."));
            let value = values::to_ort(feed.get(name).ok_or_else(missing)?).map_err(|e| failed(&e))?;
            // The name is copied: `run` borrows the session mutably while it reads it.
            inputs.push((Cow::Owned(name.to_owned()), value));
        }
        let outputs = self.session.run(inputs).map_err(|e| failed(&e))?;
        let read = |(name, value): (&str, DynValue)| {
            read(value).map_err(|e| EngineError::Run { engine: engine.clone(), detail: format!("output '{name}' {e}") })
        };
        outputs.into_iter().map(read).collect()
    }
}

impl Session for OnnxRuntimeSession {
    fn run(&mut self, feed: &Feed) -> Result<Vec<Tensor>, EngineError> {
        let returned = self.run_with(feed, |value| values::from_ort(&value))?;
        self.arranged(returned, feed)
    }

    fn lend(&mut self, feed: &Feed) -> Result<Vec<Tensor>, EngineError> {
        let returned = self.run_with(feed, values::lent)?;
        self.arranged(returned, feed)
    }

    fn observe(&mut self, feed: &Feed) -> Result<Vec<Option<Observed>>, EngineError> {
        let returned = self.run_with(feed, |value| Ok(values::observed(&value)))?;
        match &self.order {
            Some(order) => order
                .arrange(returned, feed, |t| Some((t.dtype(), t.shape().to_vec())))
                .map_err(|detail| self.error(detail)),
            None => Ok(returned),
        }
    }
}
