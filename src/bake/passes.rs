//! Every pass by name: which a job runs, how a recipe's step becomes a pass again, and which backends are not there to serve one.

use crate::accelerator;
use crate::api::ResolvedJob;
use crate::api::digest::sha256_hex;
use crate::api::job::PinnedFile;
use crate::engine::Engines;
use crate::model::opset::OpsetUpgrade;
use crate::model::{Model, Pass};
use crate::optimizer::recipe::{Recipe, Step};
use crate::optimizer::{PassRecord, Work, int8};

use super::BakeError;

/// The lossy passes.
const INT8: &[&str] = &[
    int8::Equalise::NAME,
    int8::RoundWeights::NAME,
    int8::BiasCorrection::NAME,
    int8::StaticInt8::NAME,
    int8::DynamicInt8::NAME,
    int8::EmbeddingInt8::NAME,
    int8::WeightInt8::NAME,
    int8::Int4Blocks::NAME,
];

/// Those of them that run only where a job names them.
const ON_DEMAND: &[&str] = &[int8::Int4Blocks::NAME];

/// Names that `spec.optimization.passes` may hold.
pub fn names() -> Vec<&'static str> {
    std::iter::once(&"opset-upgrade").chain(accelerator::PASS_NAMES).chain(INT8).copied().collect()
}

/// The names that a job without a list of its own stands for.
pub fn names_by_default() -> Vec<&'static str> {
    names().into_iter().filter(|name| !ON_DEMAND.contains(name)).collect()
}

/// Whether a job may run the pass of this name.
pub(super) fn allows(job: &ResolvedJob, pass: &str) -> bool {
    job.passes.as_ref().map_or(!ON_DEMAND.contains(&pass), |names| names.iter().any(|n| n == pass))
}

/// The lossless passes of a job, in order.
pub(super) fn lossless(job: &ResolvedJob) -> Vec<Box<dyn Pass>> {
    let wanted = |pass: &dyn Pass| allows(job, pass.name());
    // First of all the opset that the others need; checked and rolled back like any of them.
    let upgrade: Box<dyn Pass> = Box::new(OpsetUpgrade::default());
    std::iter::once(upgrade).chain(accelerator::conservative_passes()).filter(|pass| wanted(pass.as_ref())).collect()
}

/// The pass of a recipe's step.
pub fn of_step(step: &Step) -> Option<Box<dyn Pass>> {
    if step.pass == OpsetUpgrade::default().name() {
        let target = step.parameters.get("target")?.as_i64()?;
        return Some(Box::new(OpsetUpgrade { target }));
    }
    accelerator::from_parameters(&step.pass, &step.parameters)
        .or_else(|| int8::from_parameters(&step.pass, &step.parameters))
}

/// Replays the recipe of a file on `input`.
pub(super) fn replay(pinned: &PinnedFile, input: &Model) -> Result<Work, BakeError> {
    let wrong = |detail: String| BakeError::Job { field: "spec.optimization.recipe".to_owned(), detail };
    let text = std::fs::read(&pinned.path).map_err(|e| wrong(format!("cannot read {}: {e}", pinned.path.display())))?;
    let given = sha256_hex(&text);
    if let Some(expected) = pinned.digest.as_deref().map(|d| d.trim_start_matches("sha256:")).filter(|d| *d != given) {
        return Err(wrong(format!("{} has sha256 {given}, the job pins {expected}", pinned.path.display())));
    }
    let recipe: Recipe =
        serde_json::from_slice(&text).map_err(|e| wrong(format!("{} is no recipe: {e}", pinned.path.display())))?;
    let model = recipe.replay(input, &of_step)?;
    Ok(Work { model, facts: recipe.facts, steps: recipe.steps })
}

/// `begin` with those of `steps` that it has not taken yet. An error is a sentence.
pub(super) fn go_on(begin: &Work, steps: &[Step]) -> Result<Work, String> {
    let rest = steps.strip_prefix(begin.steps.as_slice()).ok_or("its steps do not begin where they began")?;
    let mut work = begin.clone();
    work.replay(rest, &of_step).map_err(|e| e.to_string())?;
    Ok(work)
}

/// A record for each backend that is not there: a pass that would have used it, skipped.
pub(super) fn absent_backends(engines: &Engines, model: &Model) -> Vec<PassRecord> {
    let absent = engines.backends().iter().filter(|b| !b.available);
    absent
        .map(|b| {
            PassRecord::skipped(&format!("backend-{}", b.name), format!("BackendUnavailable: {}", b.detail), model)
        })
        .collect()
}
