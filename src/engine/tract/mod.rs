//! The embedded engine: tract. Always there, no library needed.
//!
//! Two things about it shape this module. It knows operators by name only, whatever their domain, and fails late on what it lacks; so the graph is looked at first.
//! And its optimiser is wrong on one pattern of quantised graphs (see [`fault`]); so such a graph runs on the plan that was not optimised, and every other
//! quantised graph is compared on its first sample with that plan before the optimised one is trusted.

mod arithmetic;
mod fault;
mod nnef;
mod plan;
mod session;
mod values;
mod weights;

pub use self::nnef::Form as NnefForm;
use self::plan::{Plans, Shapes};
use self::session::TractSession;
use super::declared::Declared;
use super::quiet::caught;
use super::tapped::Tapped;
use super::{Engine, EngineError, EngineId, Feed, LoadOptions, Session, is_big};
use crate::model::edit::label;
use crate::model::{Model, mapped};

/// tract's version; the dependency is pinned to exactly this one.
const VERSION: &str = "0.23.9";

/// Above this difference (root mean square, relative to the unoptimised plan's output) an optimised plan of a quantised graph is not trusted. Requantisation that
/// flips by one step stays below 0.02 on real transformers; the known fault gives about 1.
const TRUSTED: f64 = 0.1;

/// How far tract's optimised plan is from its plain one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// Largest absolute difference over all outputs.
    pub max_abs: f64,
    /// Root of the summed squared differences over the root of the summed squares of the plain plan's outputs; infinite where shapes differ or a NaN appears.
    pub relative_rms: f64,
}

impl Agreement {
    /// Whether the optimised plan computes the same up to rounding.
    pub fn agrees(&self) -> bool {
        self.relative_rms <= TRUSTED
    }

    fn of(plain: &[crate::model::Tensor], optimised: &[crate::model::Tensor]) -> Self {
        let apart = Self { max_abs: f64::INFINITY, relative_rms: f64::INFINITY };
        if plain.len() != optimised.len() {
            return apart;
        }
        let (mut max_abs, mut difference, mut size) = (0.0_f64, 0.0_f64, 0.0_f64);
        for (a, b) in plain.iter().zip(optimised) {
            if a.shape() != b.shape() {
                return apart;
            }
            for (&x, &y) in a.to_f64().iter().zip(b.to_f64().iter()) {
                if x == y || (x.is_nan() && y.is_nan()) {
                    size += if x.is_finite() { x * x } else { 0.0 };
                } else if (x - y).is_finite() {
                    max_abs = max_abs.max((x - y).abs());
                    difference += (x - y) * (x - y);
                    size += x * x;
                } else {
                    return apart;
                }
            }
        }
        let relative_rms = if difference == 0.0 { 0.0 } else { (difference / size).sqrt() };
        Self { max_abs, relative_rms }
    }
}

/// tract on the CPU.
#[derive(Debug, Clone)]
pub struct TractEngine {
    id: EngineId,
}

impl Default for TractEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl TractEngine {
    /// The embedded engine.
    pub fn new() -> Self {
        Self { id: EngineId { name: "tract".to_owned(), version: VERSION.to_owned() } }
    }

    /// Compares tract's optimised plan of `model` with its plain one on `feed`. The plain plan is the one that is right where they disagree.
    pub fn canary(&self, model: &Model, feed: &Feed) -> Result<Agreement, EngineError> {
        let outputs = |optimise| {
            self.session(model, &LoadOptions { optimise, ..LoadOptions::default() }, Trust::Blind)?.run(feed)
        };
        Ok(Agreement::of(&outputs(false)?, &outputs(true)?))
    }

    fn unsupported(&self, detail: impl Into<String>) -> EngineError {
        let hint = "Use ONNX Runtime (run `make ort`, or set BAKEHOUSE_ORT_LIB to its library).".to_owned();
        EngineError::Unsupported { engine: self.id.to_string(), detail: plan::one_line(&detail.into()), hint }
    }

    fn session(&self, model: &Model, options: &LoadOptions, trust: Trust) -> Result<TractSession, EngineError> {
        let tapped = Tapped::new(model, &options.taps)
            .map_err(|detail| EngineError::Run { engine: self.id.to_string(), detail })?;
        self.check_operators(model)?;
        let give_back = || {
            if is_big(model) {
                mapped::release();
            }
        };
        give_back();
        let inputs: Vec<String> = model.input_names().into_iter().map(str::to_owned).collect();
        let quantised = fault::is_quantised(model);
        let optimise = options.optimise && !(trust == Trust::Checked && quantised && fault::has_softmax_between(model));
        let mut plans = Plans::new(tapped.model, inputs, options.threads.max(1), optimise);
        match plans.build(&Shapes::Declared) {
            Ok(plan) => plans.keep(Shapes::Declared, plan),
            // Reading the graph failed, not working out its shapes: no feed will change that.
            Err(failure) if failure.while_reading => return Err(self.unsupported(failure.detail)),
            Err(failure) => plans.declared_failed(failure.detail),
        }
        // What was needed on the way is not needed any more.
        give_back();
        let canary = trust == Trust::Checked && optimise && quantised;
        Ok(TractSession::new(self.id.to_string(), plans, tapped.order, Declared::inputs(model), canary))
    }

    /// Names the first operator that tract lacks. tract itself would read the graph and fail later with less to say, or run an operator of another domain that
    /// happens to have a known name.
    fn check_operators(&self, model: &Model) -> Result<(), EngineError> {
        let known = tract_onnx::onnx().op_register.0;
        let functions: Vec<(&str, &str)> = model.proto().functions.iter().map(|f| (f.domain(), f.name())).collect();
        let mut graphs = vec![model.graph()];
        while let Some(graph) = graphs.pop() {
            for node in &graph.node {
                let (domain, op) = (node.domain(), node.op_type());
                let qualified = if domain.is_empty() { op.to_owned() } else { format!("{domain}:{op}") };
                let at = label(node);
                if functions.contains(&(domain, op)) {
                    return Err(self.unsupported(format!(
                        "node '{at}' calls the model's own function {qualified}, which must be inlined first"
                    )));
                }
                if !known.contains_key(op) || !matches!(domain, "" | "ai.onnx" | "ai.onnx.ml" | "com.microsoft") {
                    return Err(self.unsupported(format!("operator {qualified} of node '{at}' is not known to it")));
                }
                graphs.extend(crate::model::edit::subgraphs(node));
            }
        }
        Ok(())
    }
}

/// Whether a session guards against the known fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// As every caller but the canary wants it.
    Checked,
    /// The optimised plan as it comes.
    Blind,
}

impl Engine for TractEngine {
    fn id(&self) -> &EngineId {
        &self.id
    }

    fn load(&self, model: &Model, options: &LoadOptions) -> Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(self.session(model, options, Trust::Checked)?))
    }
}
