//! Runs passes as transactions: snapshot, apply, check the structure, run on real inputs, keep or roll back, and say why.

use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recipe::Step;
use super::room::{Form, form};
use crate::engine::{EngineError, Feed, LoadOptions, SharedEngine};
use crate::model::{Effect, Facts, Model, Pass, PassError, Tensor};

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Outcome {
    /// It changed the model, and the result was kept.
    Applied,
    /// It had nothing to do, or was not asked to.
    Skipped,
    /// It gave up with an error; the model is as before.
    Failed,
    /// Its result was wrong, worse or slower; the model is as before.
    RolledBack,
}

/// What one pass did, for report and status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PassRecord {
    /// Name of the pass.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it was skipped, failed or rolled back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Places rewritten.
    pub rewrites: usize,
    /// Fusions, as `pattern: node`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fused: Vec<String>,
    /// Nodes before and after.
    pub nodes: [usize; 2],
    /// Bytes of the file before and after.
    pub bytes: [usize; 2],
    /// Largest difference of an output on the checked inputs, relative to max(1, max |a|). Absent when the pass changed nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_difference: Option<f64>,
    /// Seconds that the pass itself took.
    pub seconds: f64,
    /// Seconds that its check took.
    pub check_seconds: f64,
}

impl PassRecord {
    /// The record, made of `model` as it was before, of a pass that changed it; `remark` says what is worth a word.
    pub(super) fn applied(self, model: &Model, rewrites: usize, fused: Vec<String>, remark: Option<String>) -> Self {
        Self {
            outcome: Outcome::Applied,
            reason: remark,
            rewrites,
            fused,
            nodes: [self.nodes[0], model.graph().node.len()],
            bytes: [self.bytes[0], encoded_len(model)],
            ..self
        }
    }

    /// A pass that was not run, and why.
    pub fn skipped(name: &str, reason: impl Into<String>, model: &Model) -> Self {
        let (nodes, bytes) = (model.graph().node.len(), encoded_len(model));
        Self {
            name: name.to_owned(),
            outcome: Outcome::Skipped,
            reason: Some(reason.into()),
            rewrites: 0,
            fused: Vec::new(),
            nodes: [nodes; 2],
            bytes: [bytes; 2],
            max_difference: None,
            seconds: 0.0,
            check_seconds: 0.0,
        }
    }
}

/// Lossless passes may differ by this much, relative to max(1, max |a|) of each output: what reordering float sums costs.
pub const LOSSLESS_TOLERANCE: f64 = 1e-5;

/// The most rounds of a list of passes: each may open work for an earlier one.
const MAX_ROUNDS: usize = 3;

/// A model on its way through the passes, with the facts and the steps so far.
#[derive(Debug, Clone)]
pub struct Work {
    /// The model as it stands.
    pub model: Model,
    /// What is known of its tensors.
    pub facts: Facts,
    /// The passes kept so far.
    pub steps: Vec<Step>,
}

impl Work {
    /// What passes make of it, one after the other. Nothing is recorded: for a look at what they would give.
    pub(super) fn behind<'p>(&self, passes: impl IntoIterator<Item = &'p dyn Pass>) -> Result<Self, PassError> {
        let mut work = self.clone();
        for pass in passes {
            pass.apply(&mut work.model, &mut work.facts)?;
            work.model.sort()?;
        }
        Ok(work)
    }
}

/// Checks every lossless pass against the outputs of the input model.
pub struct Driver {
    engine: SharedEngine,
    feeds: Vec<Feed>,
    reference: Vec<Vec<Tensor>>,
    room: Option<u64>,
}

impl Driver {
    /// Runs the input model on `feeds` (a few real samples) to have what every later result is compared with.
    pub fn new(engine: SharedEngine, input: &Model, feeds: Vec<Feed>) -> Result<Self, EngineError> {
        let reference = run_all(&engine, input, &feeds)?;
        Ok(Self { engine, feeds, reference, room: None })
    }

    /// The same with a limit on what passes may take beside the model, in bytes.
    #[must_use]
    pub fn with_room(self, room: Option<u64>) -> Self {
        Self { room, ..self }
    }

    /// Runs `passes` in rounds until nothing changes, each as a transaction. Returns one record per pass, the rounds added up.
    pub fn run_lossless(&self, work: &mut Work, passes: &[Box<dyn Pass>]) -> Vec<PassRecord> {
        let mut records: Vec<PassRecord> = Vec::new();
        let mut given_up = vec![false; passes.len()];
        for round in 0..MAX_ROUNDS {
            let mut changed = false;
            for (position, pass) in passes.iter().enumerate() {
                if given_up[position] {
                    continue;
                }
                let record = self.transaction(work, pass.as_ref());
                changed |= record.outcome == Outcome::Applied;
                given_up[position] = matches!(record.outcome, Outcome::Failed | Outcome::RolledBack);
                if round == 0 {
                    records.push(record);
                } else {
                    merge(&mut records[position], record);
                }
            }
            if !changed {
                break;
            }
        }
        records
    }

    /// Runs one pass once, as a transaction.
    pub fn transaction(&self, work: &mut Work, pass: &dyn Pass) -> PassRecord {
        match form(pass, &work.model, self.room) {
            Ok(Form::Whole) => self.apply(work, pass, None),
            Ok(Form::Cheaper(cheaper, why)) => self.apply(work, cheaper.as_ref(), Some(why)),
            Err(why) => PassRecord::skipped(pass.name(), why, &work.model),
        }
    }

    /// One pass; `remark` stands as the reason of a result that is kept.
    fn apply(&self, work: &mut Work, pass: &dyn Pass, remark: Option<String>) -> PassRecord {
        let (mut model, mut facts) = (work.model.clone(), work.facts.clone());
        let started = Instant::now();
        let effect = pass.apply(&mut model, &mut facts);
        let mut record = PassRecord {
            seconds: started.elapsed().as_secs_f64(),
            ..PassRecord::skipped(pass.name(), "", &work.model)
        };
        let refuse =
            |record: PassRecord, outcome, reason: String| PassRecord { outcome, reason: Some(reason), ..record };
        match effect {
            Err(error) => refuse(record, Outcome::Failed, error.to_string()),
            Ok(Effect::Skipped { reason }) => PassRecord { reason: Some(reason), ..record },
            Ok(Effect::Applied { rewrites, fused }) => {
                let started = Instant::now();
                let difference = model
                    .sort()
                    .and_then(|_| model.check())
                    .map_err(|e| e.to_string())
                    .and_then(|()| self.difference(&model));
                record.check_seconds = started.elapsed().as_secs_f64();
                match difference {
                    Err(reason) => refuse(record, Outcome::RolledBack, reason),
                    Ok(d) if d > LOSSLESS_TOLERANCE => {
                        let reason = format!(
                            "an output changed by {d:.1e}, more than the {LOSSLESS_TOLERANCE:.0e} a lossless pass may"
                        );
                        PassRecord {
                            max_difference: Some(d).filter(|d| d.is_finite()),
                            ..refuse(record, Outcome::RolledBack, reason)
                        }
                    }
                    Ok(d) => {
                        record.max_difference = Some(d);
                        record = record.applied(&model, rewrites, fused, remark);
                        work.steps.push(Step::of(pass));
                        (work.model, work.facts) = (model, facts);
                        record
                    }
                }
            }
        }
    }

    /// Largest difference of any output of `model` from the input model's, over all feeds.
    fn difference(&self, model: &Model) -> Result<f64, String> {
        let outputs = run_all(&self.engine, model, &self.feeds).map_err(|e| e.to_string())?;
        let pairs = self.reference.iter().flatten().zip(outputs.iter().flatten());
        Ok(pairs.map(|(a, b)| difference(a, b)).fold(0.0, f64::max))
    }
}

/// Runs a model on every feed, unoptimised, so that what differs is the graph and not the engine's own rewriting.
fn run_all(engine: &SharedEngine, model: &Model, feeds: &[Feed]) -> Result<Vec<Vec<Tensor>>, EngineError> {
    let mut session = engine.load(model, &LoadOptions { optimise: false, ..LoadOptions::default() })?;
    feeds.iter().map(|feed| session.run(feed)).collect()
}

/// max |a - b| / max(1, max |a|); infinite for another type or shape, a differing integer, or a NaN on one side only.
pub fn difference(a: &Tensor, b: &Tensor) -> f64 {
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        return f64::INFINITY;
    }
    if a.bytes() == b.bytes() {
        return 0.0;
    }
    if !a.dtype().is_float() {
        return f64::INFINITY;
    }
    let (a, b) = (a.to_f64(), b.to_f64());
    let scale = a.iter().filter(|x| x.is_finite()).fold(1.0_f64, |m, x| m.max(x.abs()));
    let gap = |(&x, &y): (&f64, &f64)| if x == y || (x.is_nan() && y.is_nan()) { 0.0 } else { (x - y).abs() };
    let worst = a.iter().zip(&*b).map(gap).fold(0.0_f64, |m, d| if d.is_nan() { f64::INFINITY } else { m.max(d) });
    worst / scale
}

/// Bytes of the model's file, without encoding it.
pub fn encoded_len(model: &Model) -> usize {
    prost::Message::encoded_len(model.proto())
}

/// Adds a later round's record of the same pass to the first one's.
fn merge(total: &mut PassRecord, next: PassRecord) {
    total.seconds += next.seconds;
    total.check_seconds += next.check_seconds;
    match next.outcome {
        Outcome::Skipped => {}
        Outcome::Applied => {
            let (first_nodes, first_bytes) = if total.outcome == Outcome::Applied {
                (total.nodes[0], total.bytes[0])
            } else {
                (next.nodes[0], next.bytes[0])
            };
            total.outcome = Outcome::Applied;
            total.reason = None;
            total.rewrites += next.rewrites;
            total.fused.extend(next.fused);
            total.nodes = [first_nodes, next.nodes[1]];
            total.bytes = [first_bytes, next.bytes[1]];
            total.max_difference = Some(total.max_difference.unwrap_or(0.0).max(next.max_difference.unwrap_or(0.0)));
        }
        // What an earlier round kept stands; that a later one was undone is worth a word.
        Outcome::Failed | Outcome::RolledBack if total.outcome == Outcome::Applied => {
            total.reason = next.reason.map(|r| format!("a later round was undone: {r}"));
        }
        Outcome::Failed | Outcome::RolledBack => {
            total.outcome = next.outcome;
            total.reason = next.reason;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_relative_to_the_larger_of_one_and_the_reference() {
        let small = (Tensor::new(&[2], &[0.5_f32, 0.0]), Tensor::new(&[2], &[0.5_f32, 0.25]));
        assert!((difference(&small.0, &small.1) - 0.25).abs() < 1e-12);
        let large = (Tensor::new(&[2], &[100.0_f32, 0.0]), Tensor::new(&[2], &[101.0_f32, 0.0]));
        assert!((difference(&large.0, &large.1) - 0.01).abs() < 1e-12);
    }

    #[test]
    fn nan_shape_type_and_integers_count_as_differences() {
        let one = Tensor::new(&[1], &[1.0_f32]);
        for other in [Tensor::new(&[1], &[f32::NAN]), Tensor::new(&[1, 1], &[1.0_f32]), Tensor::new(&[1], &[1.0_f64])] {
            assert_eq!(difference(&one, &other), f64::INFINITY, "{other:?}");
        }
        assert_eq!(difference(&Tensor::new(&[1], &[f32::NAN]), &Tensor::new(&[1], &[1.0_f32])), f64::INFINITY);
        assert_eq!(difference(&Tensor::new(&[2], &[3_i64, 4]), &Tensor::new(&[2], &[3_i64, 5])), f64::INFINITY);
        assert_eq!(difference(&Tensor::new(&[1], &[f32::NEG_INFINITY]), &Tensor::new(&[1], &[f32::NEG_INFINITY])), 0.0);
    }
}
