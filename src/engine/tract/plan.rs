//! Plans: what tract makes of a graph before it runs. One for the shapes that the model declares, symbols kept; where that fails, one per shape that is fed.

use std::collections::VecDeque;
use std::sync::Arc;

use prost::Message;
use tract_linalg::multithread::Executor;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{InferenceFact, InferenceModelExt, TractError, TractResult, TypedModel, TypedSimplePlan};
use tract_onnx::tract_core::runtime::RunOptions;

use super::{caught, weights};
use crate::model::{DType, Model};

/// Plans kept at once. Each holds packed weights, so this bounds memory for data whose lengths all differ.
const KEPT: usize = 8;

/// What a plan was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shapes {
    /// The model's own declaration.
    Declared,
    /// The inputs of a feed, in the model's order.
    Fed(Vec<(DType, Vec<usize>)>),
}

/// Why no plan could be made.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) detail: String,
    /// The graph could not even be read; other shapes do not help.
    pub(super) while_reading: bool,
}

/// A graph and the plans made of it so far, the one used last at the front.
pub(super) struct Plans {
    /// Ours, since it shares its weights; tract's form is a copy and lives only while a plan is made.
    model: Model,
    pub(super) inputs: Vec<String>,
    executor: Executor,
    pub(super) optimise: bool,
    made: VecDeque<(Shapes, Arc<TypedSimplePlan>)>,
    declared_failed: Option<String>,
}

impl Plans {
    pub(super) fn new(model: Model, inputs: Vec<String>, threads: usize, optimise: bool) -> Self {
        // One thread is the calling thread, so that its CPU time is the inference's.
        let executor = if threads > 1 { Executor::multithread(threads) } else { Executor::SingleThread };
        Self { model, inputs, executor, optimise, made: VecDeque::new(), declared_failed: None }
    }

    /// Makes a plan; nothing is kept.
    pub(super) fn build(&self, shapes: &Shapes) -> Result<Arc<TypedSimplePlan>, Failure> {
        self.build_as(shapes, self.optimise)
    }

    pub(super) fn build_as(&self, shapes: &Shapes, optimise: bool) -> Result<Arc<TypedSimplePlan>, Failure> {
        let mut while_reading = true;
        let made = caught(|| -> TractResult<Arc<TypedSimplePlan>> {
            let typed = typed(&self.model, shapes, &mut while_reading)?;
            let typed = if optimise { typed.into_optimized()? } else { typed };
            TypedSimplePlan::new_with_options(
                typed,
                &RunOptions { executor: Some(self.executor.clone()), ..RunOptions::default() },
            )
        });
        let failure = |detail: String| Failure { detail: one_line(&detail), while_reading };
        match made {
            Ok(Ok(plan)) => Ok(plan),
            Ok(Err(error)) => Err(failure(format!("{error:#}"))),
            Err(panic) => Err(failure(panic)),
        }
    }

    /// The plan for a feed: the one for the declared shapes, unless that failed; made now where it is not there.
    pub(super) fn for_feed(&mut self, fed: &Shapes) -> Result<Arc<TypedSimplePlan>, Failure> {
        let usable = |shapes: &Shapes| shapes == fed || (*shapes == Shapes::Declared && self.declared_failed.is_none());
        if let Some(at) = self.made.iter().position(|(shapes, _)| usable(shapes)) {
            let entry = self.made.remove(at).expect("the position was just found");
            let plan = entry.1.clone();
            self.made.push_front(entry);
            return Ok(plan);
        }
        let plan = self.build(fed)?;
        self.keep(fed.clone(), plan.clone());
        Ok(plan)
    }

    pub(super) fn keep(&mut self, shapes: Shapes, plan: Arc<TypedSimplePlan>) {
        self.made.push_front((shapes, plan));
        self.made.truncate(KEPT);
    }

    /// From now on a plan is made for each shape that is fed.
    pub(super) fn declared_failed(&mut self, why: String) {
        self.made.retain(|(shapes, _)| *shapes != Shapes::Declared);
        self.declared_failed = Some(why);
    }

    /// Whether the plan for the declared shapes is in use.
    pub(super) fn uses_declared(&self) -> bool {
        self.declared_failed.is_none()
    }

    /// Gives up the optimised plans.
    pub(super) fn stop_optimising(&mut self) {
        self.optimise = false;
        self.made.clear();
        if self.uses_declared() {
            match self.build(&Shapes::Declared) {
                Ok(plan) => self.keep(Shapes::Declared, plan),
                Err(failure) => self.declared_failed(failure.detail),
            }
        }
    }
}

/// tract's form of a graph, nothing optimised. `reading` is true while another shape would not help.
pub(super) fn typed(model: &Model, shapes: &Shapes, reading: &mut bool) -> TractResult<TypedModel> {
    let mut onnx = tract_onnx::onnx().with_ignore_value_info(true).with_ignore_output_shapes(true);
    let (graph, weights) = weights::apart(model);
    onnx.provider = Arc::new(weights);
    let proto = ModelProto::decode(graph.as_slice())?;
    let parsed = onnx.parse(&proto, Some(weights::FOLDER))?;
    if !parsed.unresolved_inputs.is_empty() {
        return Err(TractError::msg(format!("inputs of nodes are missing: {:?}", parsed.unresolved_inputs)));
    }
    let mut model = parsed.model;
    drop((proto, graph));
    *reading = false;
    if let Shapes::Fed(inputs) = shapes {
        for (position, (dtype, shape)) in inputs.iter().enumerate() {
            let dtype = super::values::datum_type(*dtype)
                .ok_or_else(|| TractError::msg(format!("{dtype} inputs are not known to it")))?;
            model.set_input_fact(position, InferenceFact::dt_shape(dtype, shape))?;
        }
    }
    model.into_typed()
}

/// tract's message on one line, at most 400 characters.
pub(super) fn one_line(message: &str) -> String {
    let mut line = message.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_owned();
    if let Some((cut, _)) = line.char_indices().nth(400) {
        line.truncate(cut);
        line.push('…');
    }
    line
}
