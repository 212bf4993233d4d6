//! A loaded model.

use std::sync::Arc;

use tract_onnx::prelude::{TValue, TVec, TypedSimplePlan};

use super::plan::{Plans, Shapes, one_line};
use super::{Agreement, caught, values};
use crate::engine::declared::Declared;
use crate::engine::tapped::TapOrder;
use crate::engine::{EngineError, Feed, Observed, Session};
use crate::model::Tensor;

/// A session of tract.
pub(super) struct TractSession {
    engine: String,
    plans: Plans,
    order: TapOrder,
    declared: Vec<Declared>,
    /// The optimised plan is still to be compared with the plain one.
    canary: bool,
}

impl TractSession {
    pub(super) fn new(engine: String, plans: Plans, order: TapOrder, declared: Vec<Declared>, canary: bool) -> Self {
        Self { engine, plans, order, declared, canary }
    }

    fn failed(&self, detail: &str) -> EngineError {
        EngineError::Run { engine: self.engine.clone(), detail: one_line(detail) }
    }

    /// A run that failed on a feed which is not what the model declares is the data's fault.
    fn blame(&self, detail: &str, feed: &Feed) -> EngineError {
        let contradicted =
            self.declared.iter().find_map(|d| Some((d, feed.get(&d.name)?)).filter(|(d, t)| d.contradicts(t.shape())));
        match contradicted {
            Some((declared, tensor)) => EngineError::Data(format!(
                "the sample does not fit the model: input '{}' is declared as {}, but the sample is {:?}. Compare the shapes with `bakehouse inspect`.",
                declared.name,
                declared.shape_text(),
                tensor.shape()
            )),
            None => self.failed(detail),
        }
    }

    fn run_feed(&mut self, shapes: &Shapes, inputs: &TVec<TValue>) -> Result<TVec<TValue>, String> {
        let first = self.plans.for_feed(shapes).map_err(|f| f.detail).and_then(|plan| run_plan(&plan, inputs.clone()));
        match first {
            Ok(outputs) => Ok(outputs),
            // Symbols that do not stand for what the file says, or a declared extent that the data does not have: the fed shapes decide.
            Err(declared) if self.plans.uses_declared() => {
                let made = self
                    .plans
                    .build(shapes)
                    .map_err(|f| f.detail)
                    .and_then(|plan| Ok((run_plan(&plan, inputs.clone())?, plan)));
                match made {
                    Ok((outputs, plan)) => {
                        self.plans.declared_failed(declared);
                        self.plans.keep(shapes.clone(), plan);
                        Ok(outputs)
                    }
                    Err(_) => Err(declared),
                }
            }
            Err(detail) => Err(detail),
        }
    }
}

/// Runs a plan once.
pub(super) fn run_plan(plan: &Arc<TypedSimplePlan>, inputs: TVec<TValue>) -> Result<TVec<TValue>, String> {
    caught(|| plan.run(inputs))?.map_err(|e| format!("{e:#}"))
}

pub(super) fn tensors(values: &TVec<TValue>) -> Result<Vec<Tensor>, String> {
    values.iter().map(|value| values::from_tract(value)).collect()
}

impl TractSession {
    /// Runs one feed on the plan that is right for it; tract's own values, in its order.
    fn outputs(&mut self, feed: &Feed) -> Result<TVec<TValue>, EngineError> {
        let mut inputs: TVec<TValue> = TVec::new();
        let mut shapes = Vec::with_capacity(self.plans.inputs.len());
        for name in &self.plans.inputs {
            let tensor = feed.get(name).ok_or_else(|| {
                EngineError::Data(format!("input '{name}' has no value. Give every input of the model one."))
            })?;
            inputs.push(values::to_tract(tensor).map_err(|e| self.failed(&format!("input '{name}' {e}")))?);
            shapes.push((tensor.dtype(), tensor.shape().to_vec()));
        }
        let shapes = Shapes::Fed(shapes);
        let outputs = self.run_feed(&shapes, &inputs).map_err(|detail| self.blame(&detail, feed))?;
        if !std::mem::take(&mut self.canary) {
            return Ok(outputs);
        }
        let target = if self.plans.uses_declared() { &Shapes::Declared } else { &shapes };
        let failed = |detail: String| self.failed(&detail);
        let plain = self.plans.build_as(target, false).map_err(|f| failed(f.detail))?;
        let plain = run_plan(&plain, inputs).map_err(failed)?;
        if Agreement::of(&tensors(&plain).map_err(failed)?, &tensors(&outputs).map_err(failed)?).agrees() {
            return Ok(outputs);
        }
        self.plans.stop_optimising();
        Ok(plain)
    }
}

impl Session for TractSession {
    fn run(&mut self, feed: &Feed) -> Result<Vec<Tensor>, EngineError> {
        let outputs = self.outputs(feed)?;
        let arranged = tensors(&outputs).and_then(|t| self.order.arrange(t, feed, Tensor::clone));
        arranged.map_err(|detail| self.failed(&detail))
    }

    fn observe(&mut self, feed: &Feed) -> Result<Vec<Option<Observed>>, EngineError> {
        let outputs = self.outputs(feed)?;
        let observed = outputs.iter().map(|value| values::observed(value)).collect();
        let arranged = self.order.arrange(observed, feed, |t| Some((t.dtype(), t.shape().to_vec())));
        arranged.map_err(|detail| self.failed(&detail))
    }
}
