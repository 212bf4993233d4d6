//! The search: which lossy passes, on which sites, make the best model under the goal within the quality budget.
//!
//! It sees calibration data and the search split only, never the samples that the verdict is made on. It ends in candidates, best first; each carries the
//! steps that replay it. Time is measured here and nowhere else in this room, through [`Judge`].

use schemars::JsonSchema;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize};

use super::driver::{Outcome, PassRecord, Work, encoded_len};
use super::explore::explore;
use super::rank::{rank, refusal};
use super::recipe::Step;
use super::repair::{Mended, Repair};
use super::room::{Form, form};
use super::sensitivity::Scan;
use crate::api::bakejob::Goal;
use crate::engine::EngineError;
use crate::model::laid::put_down;
use crate::model::{Effect, Model, Pass};

/// One quality metric of a candidate on the search split: a point estimate and what the gate asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Score {
    /// Name of the metric.
    pub metric: String,
    /// Point estimate; 1 is unchanged. JSON has no NaN: what could not be computed is `null` there.
    #[serde(deserialize_with = "or_nan")]
    #[schemars(with = "Option<f64>")]
    pub estimate: f64,
    /// The gate's threshold.
    pub threshold: f64,
    /// Slack that a candidate keeps at least, however sure its figure is. See [`Score::slack`].
    pub least: f64,
    /// Slack that a candidate keeps to be sure that the verdict's lower bound clears the gate on other samples: no less than `least`.
    pub needed: f64,
}

/// A number, or NaN for the `null` that it is written as.
fn or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl Score {
    /// The share of the room between threshold and 1 that is left: 1 unchanged, 0 at the threshold, negative below it.
    pub fn slack(&self) -> f64 {
        let slack = if self.threshold < 1.0 {
            (self.estimate - self.threshold) / (1.0 - self.threshold)
        } else {
            self.estimate - 1.0
        };
        if slack.is_nan() { f64::NEG_INFINITY } else { slack }
    }

    /// How far the slack is above what is needed.
    pub fn margin(&self) -> f64 {
        self.slack() - self.needed
    }
}

/// What was measured of a candidate's quality on the search split.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Quality {
    /// By the metrics that have gates.
    pub scores: Vec<Score>,
    /// How far the outputs are from the input's: 0 unchanged. What orders candidates of the same cost: unlike the scores it does not hang on a few samples.
    pub deviation: f64,
}

/// How much faster than the input: time of the input / time of the candidate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Speed {
    /// Median of the paired ratios.
    pub ratio: f64,
    /// Lower end of the 95 % interval.
    pub lower: f64,
    /// Upper end of the 95 % interval.
    pub upper: f64,
    /// Paired rounds.
    pub n: usize,
}

/// Measures candidates. Implemented by the pipeline on real data and a real engine.
pub trait Judge {
    /// Quality against the input on the search split.
    fn quality(&mut self, candidate: &Model) -> Result<Quality, EngineError>;
    /// Paired, interleaved timing against the input.
    fn speed(&mut self, candidate: &Model) -> Result<Speed, EngineError>;
    /// How far the outputs are from the input's, on a few samples of the search split: 0 unchanged, about 1 ruined. Cheap and continuous, to order sites by.
    fn harm(&mut self, candidate: &Model) -> Result<f64, EngineError>;
    /// A word on what is being tried, for whoever watches.
    fn trying(&mut self, candidate: &str);
}

/// A family of lossy rewrites, each of which can be left out site by site.
pub struct Variant {
    /// Stable name of the candidate, e.g. `dynamic-int8`.
    pub name: String,
    /// Neighbours of one kind run the same kernels on other numbers, the quickest first: the first that keeps enough quality stands for all of them, of measured
    /// ones that which loses least. If none keeps enough, the one that loses least is repaired.
    pub kind: &'static str,
    /// What can be left out: name, number of weights behind it, expected harm (relative error; only the order counts).
    pub sites: Vec<SiteInfo>,
    /// The passes for a choice of sites (`true` = rewritten).
    #[allow(clippy::type_complexity)]
    pub build: Box<dyn Fn(&[bool]) -> Vec<Box<dyn Pass>>>,
    /// A site that is tried alone first: where it does not make the model faster by itself, the variant is given up before its quality is looked at.
    pub probe: Option<usize>,
    /// How many of the sites, from the first on, cost time as well as save it, so that leaving small ones out may make it faster. Weights that are only
    /// stored in 8 bits are restored at load and cost nothing.
    pub tunable: usize,
    /// Whether the harm of each of those is measured before any is left out: where errors meet each other inside the model, estimates tell too little.
    pub measured: bool,
    /// Whether its file is the smallest there is, so that it is worth having where it is no faster, unless speed alone counts.
    pub smallest: bool,
    /// Whether it is given up where it does not keep the budget as a whole: a neighbour that loses less leaves sites out with more left.
    pub only_whole: bool,
    /// What may give quality back at no cost in time, in the order to be tried; see [`super::repair`].
    pub repairs: Vec<Repair>,
    /// What its first pass makes of the model, where that is the same for every choice of sites and takes long.
    pub begun: Option<Rc<Begun>>,
}

/// The first pass of a [`Variant`], run once for all of its candidates.
pub struct Begun {
    /// The model behind it, and the step that makes it last.
    pub work: Work,
    /// Its record.
    pub record: PassRecord,
}

impl Begun {
    /// Whether it is this pass that was run.
    fn is(&self, pass: &dyn Pass) -> bool {
        self.work.steps.last() == Some(&Step::of(pass))
    }
}

/// One site of a [`Variant`].
#[derive(Debug, Clone, PartialEq)]
pub struct SiteInfo {
    /// Name of the node's output or of the weight.
    pub name: String,
    /// What it is, in a word.
    pub part: &'static str,
    /// What leaving it out costs: its number of weights, or of multiplications.
    pub elements: usize,
    /// Expected harm.
    pub error: f64,
    /// Whether it only acts where its neighbours do.
    pub follows: bool,
}

/// A model that the search made, with what was measured of it on the search split.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Name of the variant.
    pub name: String,
    /// Model, facts and the steps that make it. A refused one has the model that the search began with, or the input, and its own steps: nobody runs it again, and
    /// who does all the same makes it again.
    pub work: Work,
    /// Records of the lossy passes.
    pub records: Vec<PassRecord>,
    /// Quality on the search split.
    pub quality: Vec<Score>,
    /// See [`Quality::deviation`]; absent where it was not measured or is no number.
    pub deviation: Option<f64>,
    /// Speed against the input, where it was measured.
    pub speed: Option<Speed>,
    /// Bytes of the file.
    pub bytes: usize,
    /// Nodes of the graph.
    pub nodes: usize,
    /// Sites left in float, with the reason in words.
    pub left_out: Vec<String>,
    /// Why it is not eligible under goal and budget, or `None` when it is.
    pub refused: Option<String>,
    /// The gate that it misses most, on the search split or behind it.
    pub missed: Option<Missed>,
    /// What its sites harm, of one that has sites which compute.
    pub scan: Option<Scan>,
}

/// A gate that a candidate does not reach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Missed {
    /// Name of the metric.
    pub metric: String,
    /// What was measured; `null` for what could not be computed.
    #[serde(deserialize_with = "or_nan")]
    #[schemars(with = "Option<f64>")]
    pub estimate: f64,
    /// What the gate asks for.
    pub threshold: f64,
    /// Whether more is better.
    pub at_least: bool,
    /// What has to be measured for the gate to pass on other samples; the threshold itself where the gate was decided.
    pub needed: f64,
    /// Whether that is on the verdict's samples; else on the search's.
    pub on_verdict: bool,
}

impl Candidate {
    /// A candidate that nothing was measured of.
    pub(crate) fn new(name: &str, work: Work) -> Self {
        Self {
            name: name.to_owned(),
            bytes: encoded_len(&work.model),
            nodes: work.model.graph().node.len(),
            work,
            records: Vec::new(),
            quality: Vec::new(),
            deviation: None,
            speed: None,
            left_out: Vec::new(),
            refused: None,
            missed: None,
            scan: None,
        }
    }

    /// How far the worst metric is above what it needs; negative when the candidate is not good enough.
    pub fn margin(&self) -> f64 {
        self.quality.iter().map(Score::margin).fold(1.0, f64::min)
    }

    /// Whether it is sure to be good enough, as far as the search split tells.
    pub(super) fn keeps(&self) -> bool {
        self.refused.is_none() && self.margin() >= 0.0
    }

    /// Whether its figures say that it is good enough, be they of too few samples to be sure or not.
    pub(super) fn may_keep(&self) -> bool {
        self.refused.is_none() && self.below().is_none()
    }

    /// Whether it may be good enough and is not sure to be.
    pub fn is_hopeful(&self) -> bool {
        self.may_keep() && !self.keeps()
    }

    /// How far the outputs are from the input's: what was not measured is as far as can be.
    pub(super) fn off(&self) -> f64 {
        self.deviation.unwrap_or(f64::INFINITY)
    }

    /// The quality metric that is furthest below the least that it has to be on the search split.
    pub(super) fn below(&self) -> Option<&Score> {
        let lacks = |score: &Score| score.slack() - score.least;
        let below = self.quality.iter().filter(|score| lacks(score) < 0.0);
        below.min_by(|a, b| lacks(a).total_cmp(&lacks(b)))
    }
}

/// What bounds the search.
#[derive(Debug, Clone)]
pub struct Limits {
    /// What is optimised for.
    pub goal: Goal,
    /// Bytes of the input's file.
    pub input_bytes: usize,
    /// No new candidate is begun after this; what was found until then stands.
    pub deadline: Instant,
    /// What variants with measured sites have at least, from when the first of them begins: the others, which come before them, may use up their own time.
    pub measuring: Duration,
    /// Bytes that a pass may take beside the model; `None` without a known limit.
    pub room: Option<u64>,
}

/// When the first of `parts` equal parts of the time that is left until `deadline` is over.
pub(super) fn first_part(deadline: Instant, parts: u32) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / parts
}

/// Tries every variant on top of `base` and returns all candidates, the eligible ones first and best first. `base` itself is among them.
pub fn search(base: &Work, variants: &[Variant], limits: &Limits, judge: &mut dyn Judge) -> Vec<Candidate> {
    let mut candidates = vec![lossless(base, judge)];
    let without = candidates[0].speed.map_or(1.0, |s| s.ratio);
    let mut limits = limits.clone();
    let mut measuring = false;
    for alike in variants.chunk_by(|a, b| a.kind == b.kind) {
        if alike.iter().all(|variant| variant.sites.is_empty()) {
            continue;
        }
        if !measuring && alike.iter().any(|variant| variant.measured) {
            measuring = true;
            limits.deadline = limits.deadline.max(Instant::now() + limits.measuring);
        }
        if Instant::now() >= limits.deadline {
            judge.trying("nothing more: the time of the search is up");
            break;
        }
        for mut candidate in explore(base, alike, without, &candidates, &limits, judge) {
            candidate.hold_less(base, &candidates);
            candidates.push(candidate);
        }
    }
    let mut seen = HashSet::new();
    candidates.retain(|c| c.refused.is_some() || seen.insert(c.work.model.sha256()));
    for candidate in &mut candidates {
        candidate.missed = candidate.below().map(missed);
        candidate.refused = candidate.refused.take().or_else(|| refusal(candidate, &limits));
    }
    rank(&mut candidates, &limits);
    candidates.iter_mut().filter(|c| c.refused.is_some()).for_each(|c| c.let_go(base));
    candidates
}

/// The lossless model as a candidate.
fn lossless(base: &Work, judge: &mut dyn Judge) -> Candidate {
    judge.trying("lossless");
    let (speed, refused) = match judge.speed(&base.model) {
        Ok(speed) => (Some(speed), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Candidate { speed, refused, ..Candidate::new("lossless", base.clone()) }
}

/// Applies the variant's passes for one choice of sites and scores the result. What goes wrong is the candidate's refusal, never an error of the bake.
pub(super) fn attempt(
    base: &Work,
    variant: &Mended<'_>,
    mask: &[bool],
    limits: &Limits,
    judge: &mut dyn Judge,
) -> Candidate {
    let mut candidate = make(base, variant, mask, limits);
    score(&mut candidate, judge);
    candidate
}

pub(super) fn score(candidate: &mut Candidate, judge: &mut dyn Judge) {
    if candidate.refused.is_none() {
        match judge.quality(&candidate.work.model) {
            Ok(Quality { scores, deviation }) => {
                candidate.quality = scores;
                candidate.deviation = Some(deviation).filter(|d| d.is_finite());
            }
            Err(error) => candidate.refused = Some(error.to_string()),
        }
    }
}

/// The candidate of one choice of sites, nothing measured yet.
pub(super) fn make(base: &Work, variant: &Mended<'_>, mask: &[bool], limits: &Limits) -> Candidate {
    make_by(base, variant, mask, &variant.passes(base, mask, limits), limits)
}

/// The same by these passes.
pub(super) fn make_by(
    base: &Work,
    variant: &Variant,
    mask: &[bool],
    passes: &[Box<dyn Pass>],
    limits: &Limits,
) -> Candidate {
    let begun = variant.begun.as_deref().zip(passes.first()).filter(|(begun, first)| begun.is(first.as_ref()));
    let (mut work, mut records) = match begun {
        Some((begun, _)) => (begun.work.clone(), vec![begun.record.clone()]),
        None => (base.clone(), Vec::new()),
    };
    let mut refused = None;
    for pass in &passes[records.len()..] {
        let record = apply(&mut work, pass.as_ref(), limits.room);
        if record.outcome == Outcome::Failed {
            refused.clone_from(&record.reason);
        }
        records.push(record);
        if refused.is_some() {
            break;
        }
    }
    if refused.is_none() && !records.iter().any(|r| r.outcome == Outcome::Applied) {
        let reasons: Vec<&str> = records.iter().filter_map(|r| r.reason.as_deref()).collect();
        refused = Some(format!("no pass of this candidate had anything to do: {}", reasons.join("; ")));
    }
    // Its passes have read what they rewrote, and whoever runs it needs the room.
    put_down(begun.map_or(&base.model, |(begun, _)| &begun.work.model));
    refused = refused.or_else(|| work.model.sort().and_then(|_| work.model.check()).err().map(|e| e.to_string()));
    let left_out = variant.sites.iter().zip(mask).filter(|(_, on)| !**on).map(|(s, _)| s.name.clone()).collect();
    Candidate { records, left_out, refused, ..Candidate::new(&variant.name, work) }
}

/// Runs one lossy pass, in the form that there is room for.
fn apply(work: &mut Work, pass: &dyn Pass, room: Option<u64>) -> PassRecord {
    let before = PassRecord::skipped(pass.name(), "", &work.model);
    let (cheaper, remark) = match form(pass, &work.model, room) {
        Ok(Form::Whole) => (None, None),
        Ok(Form::Cheaper(cheaper, why)) => (Some(cheaper), Some(why)),
        Err(why) => return PassRecord { reason: Some(why), ..before },
    };
    let pass = cheaper.as_deref().unwrap_or(pass);
    let started = Instant::now();
    let effect = pass.apply(&mut work.model, &mut work.facts);
    let seconds = started.elapsed().as_secs_f64();
    match effect {
        Err(error) => PassRecord { outcome: Outcome::Failed, reason: Some(error.to_string()), seconds, ..before },
        Ok(Effect::Skipped { reason }) => PassRecord { reason: Some(reason), seconds, ..before },
        Ok(Effect::Applied { rewrites, fused }) => {
            work.steps.push(Step::of(pass));
            PassRecord { seconds, ..before }.applied(&work.model, rewrites, fused, remark)
        }
    }
}

/// A score that is below what it needs, as a gate that is missed.
fn missed(score: &Score) -> Missed {
    let Score { metric, estimate, threshold, needed, .. } = score;
    Missed {
        metric: metric.clone(),
        estimate: *estimate,
        threshold: *threshold,
        at_least: true,
        // See [`Score::slack`]: the share of the room above the gate that has to be left.
        needed: threshold + needed * (1.0 - threshold).max(0.0),
        on_verdict: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slack_is_one_when_unchanged_zero_at_the_gate_and_fails_closed_on_nan() {
        let score = |estimate| Score { metric: "m".into(), estimate, threshold: 0.95, least: 0.5, needed: 0.5 };
        assert!((score(1.0).slack() - 1.0).abs() < 1e-12);
        assert!(score(0.95).slack().abs() < 1e-12 && score(0.95).margin() < 0.0);
        assert_eq!(score(f64::NAN).slack(), f64::NEG_INFINITY);
    }

    #[test]
    fn a_score_that_could_not_be_computed_is_still_one_after_it_was_written_and_read() {
        let score = Score { metric: "m".into(), estimate: f64::NAN, threshold: 0.95, least: 0.5, needed: 0.5 };
        let read: Score = serde_json::from_str(&serde_json::to_string(&score).unwrap()).unwrap();
        assert!(read.estimate.is_nan());
        assert!(serde_json::from_str::<Score>(r#"{"metric": "m", "threshold": 0.95, "needed": 0.5}"#).is_err());
    }
}
