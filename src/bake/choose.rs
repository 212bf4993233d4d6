//! From candidates to the artifact: the first that passes every gate on the verdict split; else the best inconclusive one; else the input itself.

use std::path::Path;

use super::artifact::Files;
use super::budget;
use super::figures;
use super::intake::Loaded;
use super::judge::Bench;
use super::measure::Measurer;
use super::progress::Stage;
use super::publish::Staging;
use super::report::{BatchSpeedup, EngineFusion, ModelFigures};
use super::{BakeError, MODEL_FILE, Options, Stages};
use crate::api::bakejob::{Goal, Verdict};
use crate::api::{Metric, Reason, ResolvedJob};
use crate::model::stats::node_stats;
use crate::model::{Model, external};
use crate::optimizer::rank::{is_slower, merit};
use crate::optimizer::search::{Candidate, Speed};
use crate::optimizer::{PassRecord, Step};
use crate::profiler::paired;
use crate::quality::{self, GateResult, QualityReport};

/// The most candidates that are measured on the verdict split. More would make the verdict a search of its own.
const MOST_VERDICTS: usize = 4;

/// The most of them that the search split was too small to be sure of: what is sure to pass has to have its turn.
const MOST_UNSURE: usize = 2;

/// The artifact and why it is the one.
pub(super) struct Chosen {
    pub(super) name: String,
    /// The model's file, and its external data where it is too large for one.
    pub(super) files: Files,
    /// SHA-256 of the model as one file, which a replay of its recipe must give.
    pub(super) sha256: String,
    pub(super) steps: Vec<Step>,
    pub(super) records: Vec<PassRecord>,
    /// What ONNX Runtime itself fuses when it loads the artifact.
    pub(super) engine_fusion: Option<EngineFusion>,
    pub(super) figures: ModelFigures,
    pub(super) speedup: Vec<BatchSpeedup>,
    pub(super) quality: QualityReport,
    pub(super) gates: Vec<GateResult>,
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Chosen {
    /// Whether the input itself is the artifact.
    pub(super) fn is_input(&self) -> bool {
        self.name == INPUT
    }

    fn failing(&self) -> Vec<crate::api::Metric> {
        self.gates.iter().filter(|g| g.verdict == Verdict::Fail).map(|g| g.metric).collect()
    }
}

/// Name of the candidate that is the input itself.
pub(super) const INPUT: &str = "input";

/// Measures candidates in order of rank until one passes. What each lacked is written into its `refused`.
#[allow(clippy::too_many_arguments)]
pub(super) fn choose(
    job: &ResolvedJob,
    loaded: &Loaded,
    bench: &Bench<'_>,
    measurer: &Measurer<'_>,
    baseline: &ModelFigures,
    candidates: &mut [Candidate],
    staging: &Staging,
    stages: &mut Stages<'_>,
) -> Result<Chosen, BakeError> {
    let mut inconclusive: Option<Chosen> = None;
    let mut failed: Vec<Chosen> = Vec::new();
    let mut turns = Turns::default();
    for candidate in candidates.iter_mut().filter(|c| c.refused.is_none()) {
        if candidate.work.steps.is_empty() {
            // It is the input; whatever a clock says of the two is chance.
            candidate.refused = Some("no pass changed anything".to_owned());
            continue;
        }
        if let Err(reason) = turns.take(candidate.is_hopeful()) {
            candidate.refused = Some(reason);
            continue;
        }
        stages.enter(Stage::Validate);
        stages.progress.detail(&candidate.name);
        let quality = quality_of(job, loaded, bench, &candidate.work.model)?;
        stages.enter(Stage::Profile);
        let folder = staging.candidate(turns.taken)?;
        candidate.work.model.save(&folder.join(MODEL_FILE))?;
        let speedup = measurer.speedup(&loaded.model, &candidate.work.model, final_plan(job))?;
        if let Some(reason) = no_gain(job.goal, candidate, &speedup, loaded.file_bytes as usize) {
            candidate.refused = Some(reason);
            // Its place on the disk is another candidate's.
            let _ = std::fs::remove_dir_all(&folder);
            continue;
        }
        let made = assemble(job, candidate, &folder, quality, speedup, measurer, baseline)?;
        stages.enter(Stage::Gate);
        match quality::overall(&made.gates) {
            Verdict::Pass => return Ok(made),
            Verdict::Inconclusive => {
                candidate.refused = Some(format!("inconclusive: {}", figures::worst_gate(&made.gates)));
                inconclusive = inconclusive.or(Some(made));
            }
            Verdict::Fail => {
                candidate.refused = Some(format!("failed: {}", figures::worst_gate(&made.gates)));
                candidate.missed = budget::missed(&made.gates);
                failed.push(made);
            }
        }
    }
    if let Some(best) = inconclusive {
        return Ok(best);
    }
    let input = the_input(job, measurer.options, loaded, bench, baseline, candidates)?;
    // A candidate that fails only what the input fails too is still the better of the two.
    let excused = input.failing();
    let better = failed.into_iter().find(|c| !excused.is_empty() && c.failing().iter().all(|m| excused.contains(m)));
    Ok(better.unwrap_or(input))
}

/// Whose turn it is to be measured on the verdict split.
#[derive(Debug, Default)]
struct Turns {
    taken: usize,
    /// By candidates that the search split was not sure of.
    unsure: usize,
}

impl Turns {
    /// Takes a turn, or says why there is none left.
    fn take(&mut self, unsure: bool) -> Result<(), String> {
        if self.taken == MOST_VERDICTS {
            return Err(format!("not measured on the verdict split: {MOST_VERDICTS} better ones were"));
        }
        if unsure && self.unsure == MOST_UNSURE {
            let few = "the search split is too small to be sure of it";
            return Err(format!("not measured on the verdict split: {few}, and {MOST_UNSURE} like it did not pass"));
        }
        self.taken += 1;
        self.unsure += usize::from(unsure);
        Ok(())
    }
}

fn quality_of(
    job: &ResolvedJob,
    loaded: &Loaded,
    bench: &Bench<'_>,
    model: &Model,
) -> Result<QualityReport, BakeError> {
    let pairs = bench.pairs(model)?;
    Ok(quality::evaluate(&figures::evaluation(job, loaded, pairs, bench.split.labels.as_ref()))?)
}

fn final_plan(job: &ResolvedJob) -> paired::Plan {
    // Where the speedup decides, it is worth a narrower interval.
    let decides = job.goal == Goal::Latency || job.gates.iter().any(|g| g.metric == Metric::Speedup);
    let max_seconds = if decides { 0.5 } else { 0.25 };
    paired::Plan { max_rounds: job.profile.iterations.max(21) * 4, max_seconds, ..paired::Plan::default() }
}

/// Why a candidate is no improvement by the final, longer measurement, or `None` when it is one.
fn no_gain(goal: Goal, candidate: &Candidate, speedup: &[BatchSpeedup], input_bytes: usize) -> Option<String> {
    let first = speedup.first().map(|s| &s.paired)?;
    if is_slower(goal, first.upper) {
        return Some(format!("slower than the input: {:.2}x [{:.2}, {:.2}]", first.ratio, first.lower, first.upper));
    }
    let speed = Speed { ratio: first.ratio, lower: first.lower, upper: first.upper, n: first.ratios.len() };
    (merit(goal, Some(speed), candidate.bytes, input_bytes) <= 0.0)
        .then(|| "no better than the input under the goal".to_owned())
}

fn assemble(
    job: &ResolvedJob,
    candidate: &Candidate,
    folder: &Path,
    quality: QualityReport,
    speedup: Vec<BatchSpeedup>,
    measurer: &Measurer<'_>,
    baseline: &ModelFigures,
) -> Result<Chosen, BakeError> {
    let model = &candidate.work.model;
    let file = folder.join(MODEL_FILE);
    let figures = measurer.figures(model, &file)?;
    let gates = quality::decide(&job.gates, &figures::gate_figures(&quality, baseline, &figures, Some(&speedup)));
    let (reason, message) = figures::verdict(&candidate.name, &gates);
    let in_one_file = external::locations(&file)?.is_empty();
    Ok(Chosen {
        name: candidate.name.clone(),
        sha256: if in_one_file { figures.sha256.clone() } else { model.sha256() },
        files: Files::Made(folder.to_owned()),
        engine_fusion: engine_fusion(measurer.options, model),
        steps: candidate.work.steps.clone(),
        records: candidate.records.clone(),
        figures,
        speedup,
        quality,
        gates,
        reason,
        message,
    })
}

/// Operators of the engine's own plan that the graph does not have; `None` where the engine does not show its plan.
fn engine_fusion(options: &Options, model: &Model) -> Option<EngineFusion> {
    let plan = options.engines.optimised_graph(model)?.ok()?;
    let (before, after) = (node_stats(model.graph()), node_stats(plan.graph()));
    let fused = after
        .by_type
        .iter()
        .filter(|(op, _)| !before.by_type.contains_key(*op))
        .map(|(op, n)| (op.clone(), *n))
        .collect();
    Some(EngineFusion { nodes: [before.computing, after.computing], fused })
}

/// The input as its own artifact: nothing that passes is better.
fn the_input(
    job: &ResolvedJob,
    options: &Options,
    loaded: &Loaded,
    bench: &Bench<'_>,
    baseline: &ModelFigures,
    candidates: &[Candidate],
) -> Result<Chosen, BakeError> {
    let quality = quality_of(job, loaded, bench, &loaded.model)?;
    let gates = quality::decide(&job.gates, &figures::gate_figures(&quality, baseline, baseline, None));
    let why =
        candidates.iter().find_map(|c| c.refused.as_ref().map(|r| format!("{}: {r}", c.name))).unwrap_or_default();
    let (reason, message) = match figures::verdict(INPUT, &gates) {
        (Reason::Baked, _) => {
            (Reason::NoImprovement, format!("The input is returned unchanged, nothing better passed ({why})."))
        }
        other => other,
    };
    Ok(Chosen {
        name: INPUT.to_owned(),
        files: Files::Input(loaded.source.clone()),
        sha256: baseline.sha256.clone(),
        engine_fusion: engine_fusion(options, &loaded.model),
        steps: Vec::new(),
        records: Vec::new(),
        figures: baseline.clone(),
        speedup: Vec::new(),
        quality,
        gates,
        reason,
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sure_has_its_turn_behind_two_that_are_not() {
        let mut turns = Turns::default();
        let unsure = [turns.take(true), turns.take(true), turns.take(true)];
        assert!(unsure[..2].iter().all(Result::is_ok));
        assert!(unsure[2].as_ref().unwrap_err().contains("2 like it did not pass"), "{unsure:?}");
        assert!(turns.take(false).is_ok() && turns.take(false).is_ok());
        assert!(turns.take(false).unwrap_err().contains("4 better ones were"));
    }
}
