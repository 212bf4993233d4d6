//! The search: which lossy passes, on which sites, make the best model under the goal within the quality budget.
//!
//! It sees calibration data and the search split only, never the samples that the verdict is made on. It ends in candidates, best first; each carries the
//! steps that replay it. Time is measured here and nowhere else in this room, through [`Judge`].

use schemars::JsonSchema;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize};

use super::driver::{Outcome, PassRecord, Work, encoded_len};
use super::mixed;
use super::recipe::Step;
use super::repair::{Mended, Repair, mend};
use super::room::{Form, form};
use super::sensitivity::Scan;
use crate::api::bakejob::Goal;
use crate::engine::EngineError;
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
    /// Slack that a candidate keeps, so that the verdict's lower bound clears the gate on other samples. See [`Score::slack`].
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
    fn quality(&mut self, candidate: &Model) -> Result<Vec<Score>, EngineError>;
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
    /// Neighbours of one kind run the same kernels on other numbers, the quickest first: the first that keeps enough quality stands for all of them, and if
    /// none does, the one that keeps most is repaired.
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
    /// What may give quality back at no cost in time, in the order to be tried; see [`super::repair`].
    pub repairs: Vec<Repair>,
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
    /// Model, facts and the steps that make it. Of a refused one that an earlier process made, the model is the input: nobody runs it again.
    pub work: Work,
    /// Records of the lossy passes.
    pub records: Vec<PassRecord>,
    /// Quality on the search split.
    pub quality: Vec<Score>,
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
    /// How far the worst metric is above what it needs; negative when the candidate is not good enough.
    pub fn margin(&self) -> f64 {
        self.quality.iter().map(Score::margin).fold(1.0, f64::min)
    }

    /// Whether it may be the result, as far as quality says.
    pub(super) fn keeps(&self) -> bool {
        self.refused.is_none() && self.margin() >= 0.0
    }

    /// What is lost of all metrics together: 0 unchanged.
    fn loss(&self) -> f64 {
        let lost: f64 = self.quality.iter().map(|score| (1.0 - score.estimate).max(0.0)).sum();
        if lost.is_nan() { f64::INFINITY } else { lost }
    }

    /// The quality metric that is furthest below what it needs on the search split.
    fn below(&self) -> Option<&Score> {
        let below = self.quality.iter().filter(|s| s.margin() < 0.0);
        below.min_by(|a, b| a.margin().total_cmp(&b.margin()))
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
        candidates.extend(explore(base, alike, without, &limits, judge));
    }
    let mut seen = HashSet::new();
    candidates.retain(|c| c.refused.is_some() || seen.insert(c.work.model.sha256()));
    for candidate in &mut candidates {
        candidate.missed = candidate.below().map(missed);
        candidate.refused = candidate.refused.take().or_else(|| refusal(candidate, &limits));
    }
    rank(&mut candidates, &limits);
    candidates
}

/// The lossless model as a candidate.
fn lossless(base: &Work, judge: &mut dyn Judge) -> Candidate {
    judge.trying("lossless");
    let (speed, refused) = match judge.speed(&base.model) {
        Ok(speed) => (Some(speed), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Candidate {
        name: "lossless".to_owned(),
        work: base.clone(),
        records: Vec::new(),
        quality: Vec::new(),
        speed,
        bytes: encoded_len(&base.model),
        nodes: base.model.graph().node.len(),
        left_out: Vec::new(),
        refused,
        missed: None,
        scan: None,
    }
}

/// Variants of one kind that are repaired, the best first, until one keeps the budget.
const MOST_MENDED: usize = 2;

/// The best form of variants of one kind: all sites, or as many as the budget bears, or those that pay in time.
/// `without` is the speed of the model without any of them.
fn explore(base: &Work, alike: &[Variant], without: f64, limits: &Limits, judge: &mut dyn Judge) -> Vec<Candidate> {
    let mut tried: Vec<(Candidate, &Variant)> = Vec::new();
    // Where errors meet each other inside the model, which of them keeps most is worth the look at all: they cost the same to run.
    let compared = alike.iter().any(|variant| variant.measured);
    for variant in alike {
        judge.trying(&variant.name);
        if let Some(slow) = variant.probe.and_then(|site| slow_alone(base, variant, site, without, limits, judge)) {
            return vec![slow];
        }
        let mut candidate = attempt(base, &Mended::plain(variant), &vec![true; variant.sites.len()], limits, judge);
        candidate.scan = Scan::estimated(variant);
        let enough = candidate.keeps();
        tried.push((candidate, variant));
        if enough && !compared {
            break;
        }
    }
    let order = |a: &Candidate, b: &Candidate| {
        let key = |c: &Candidate| (c.refused.is_some(), c.margin() < 0.0);
        key(a).cmp(&key(b)).then(a.loss().total_cmp(&b.loss()))
    };
    tried.sort_by(|a, b| order(&a.0, &b.0));
    let mut found = Vec::new();
    let (mut candidate, variant) = tried.remove(0);
    let mut mended = Mended::plain(variant);
    let mut worth = candidate.refused.is_none() && (variant.measured || candidate.margin() < 0.0);
    if worth && variant.measured {
        // Leaving sites out makes it slower still, so what is slow as a whole is not worth repairing.
        time(&mut candidate, judge);
        let small = variant.smallest && limits.goal != Goal::Latency;
        let slow = slow_as_a_whole(candidate.speed, without).filter(|_| !small);
        worth = slow.is_none();
        if candidate.margin() < 0.0 {
            candidate.refused = candidate.refused.or(slow);
        }
    }
    if worth && candidate.refused.is_none() {
        (candidate, mended) = mend(base, variant, candidate, limits, judge);
        for (other, variant) in tried.iter_mut().take(MOST_MENDED - 1) {
            if candidate.keeps() || other.refused.is_some() {
                break;
            }
            let (repaired, by) = mend(base, variant, other.clone(), limits, judge);
            if order(&repaired, &candidate).is_lt() {
                *other = std::mem::replace(&mut candidate, repaired);
                *variant = std::mem::replace(&mut mended, by).variant();
            }
        }
    }
    for (mut other, _) in tried {
        let why = || format!("{} runs the same kernels and keeps more quality", candidate.name);
        other.refused = other.refused.take().or_else(|| Some(why()));
        found.push(other);
    }
    let mut mask = vec![true; mended.sites.len()];
    let mut scan = None;
    if candidate.refused.is_none() && candidate.margin() < 0.0 {
        let repaired = mixed::repair(base, &mended, limits, judge);
        scan = repaired.scan;
        if let Some((found, kept)) = repaired.found {
            let tried = std::mem::replace(&mut candidate, found).records;
            candidate.records.extend(tried.into_iter().filter(|record| record.outcome == Outcome::RolledBack));
            mask = kept;
        }
    }
    candidate.scan = scan.or_else(|| Scan::estimated(&mended));
    if !candidate.keeps() {
        found.push(candidate);
        return found;
    }
    time(&mut candidate, judge);
    found.push(candidate);
    if mended.tunable > 0 && limits.goal != Goal::Size {
        let fewer = without_small_sites(base, &mended, &mask, limits, judge);
        found.extend(fewer.into_iter().filter(|c| c.margin() >= 0.0));
    }
    found
}

/// The candidate of one site alone, refused, where it is no faster than the model without it.
fn slow_alone(
    base: &Work,
    variant: &Variant,
    site: usize,
    without: f64,
    limits: &Limits,
    judge: &mut dyn Judge,
) -> Option<Candidate> {
    let alone: Vec<bool> = (0..variant.sites.len()).map(|s| s == site).collect();
    let mut candidate = make(base, &Mended::plain(variant), &alone, limits);
    if candidate.refused.is_none() {
        time(&mut candidate, judge);
    }
    let slow = candidate.speed.filter(|speed| speed.lower <= without);
    candidate.refused = candidate.refused.or_else(|| {
        slow.map(|s| {
            let name = &variant.sites[site].name;
            format!(
                "'{name}' alone is no faster: {:.2}x [{:.2}, {:.2}], without it {without:.2}x",
                s.ratio, s.lower, s.upper
            )
        })
    });
    candidate.refused.is_some().then_some(candidate)
}

fn slow_as_a_whole(speed: Option<Speed>, without: f64) -> Option<String> {
    let slow = speed.filter(|speed| speed.lower <= without)?;
    Some(format!(
        "no faster even as a whole: {:.2}x [{:.2}, {:.2}], without it {without:.2}x",
        slow.ratio, slow.lower, slow.upper
    ))
}

fn time(candidate: &mut Candidate, judge: &mut dyn Judge) {
    match judge.speed(&candidate.work.model) {
        Ok(speed) => candidate.speed = Some(speed),
        Err(error) => candidate.refused = Some(error.to_string()),
    }
}

/// Small sites may cost more in quantising their input than they save: the variant once more with the larger half and the largest quarter alone.
fn without_small_sites(
    base: &Work,
    variant: &Mended<'_>,
    mask: &[bool],
    limits: &Limits,
    judge: &mut dyn Judge,
) -> Vec<Candidate> {
    let tunable = variant.sites[..variant.tunable].iter().zip(mask).filter(|(site, on)| **on && !site.follows);
    let mut sizes: Vec<usize> = tunable.map(|(site, _)| site.elements).collect();
    sizes.sort_unstable();
    let mut thresholds: Vec<usize> =
        [sizes.len() / 2, sizes.len() * 3 / 4].into_iter().filter_map(|i| sizes.get(i).copied()).collect();
    thresholds.dedup();
    let mut found = Vec::new();
    for threshold in thresholds.into_iter().filter(|&t| sizes.first().is_some_and(|&smallest| t > smallest)) {
        let larger: Vec<bool> = variant
            .sites
            .iter()
            .zip(mask)
            .enumerate()
            .map(|(i, (s, on))| *on && (i >= variant.tunable || s.follows || s.elements >= threshold))
            .collect();
        let mut candidate = attempt(base, variant, &larger, limits, judge);
        let unit = if variant.measured { "multiplications" } else { "weights" };
        candidate.name = format!("{} from {threshold} {unit}", variant.name);
        if candidate.refused.is_none() {
            time(&mut candidate, judge);
        }
        found.push(candidate);
    }
    found
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
            Ok(scores) => candidate.quality = scores,
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
    let mut work = base.clone();
    let mut records = Vec::new();
    let mut refused = None;
    for pass in passes {
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
    refused = refused.or_else(|| work.model.sort().and_then(|_| work.model.check()).err().map(|e| e.to_string()));
    let left_out = variant.sites.iter().zip(mask).filter(|(_, on)| !**on).map(|(s, _)| s.name.clone()).collect();
    Candidate {
        name: variant.name.clone(),
        bytes: encoded_len(&work.model),
        nodes: work.model.graph().node.len(),
        work,
        records,
        quality: Vec::new(),
        speed: None,
        left_out,
        refused,
        missed: None,
        scan: None,
    }
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
    let Score { metric, estimate, threshold, needed } = score;
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

/// Why a candidate may not be the result under goal and budget.
fn refusal(candidate: &Candidate, limits: &Limits) -> Option<String> {
    if let Some(worst) = candidate.below() {
        return Some(format!(
            "{} is {:.4} on the search split, too near the gate's {}",
            worst.metric, worst.estimate, worst.threshold
        ));
    }
    match candidate.speed {
        Some(speed) if is_slower(limits.goal, speed.upper) => {
            Some(format!("slower than the input: {:.2}x [{:.2}, {:.2}]", speed.ratio, speed.lower, speed.upper))
        }
        _ => None,
    }
}

/// Whether a candidate is slower than the goal bears, by the upper end of its speedup's interval. Two loads of one and the same graph differ by up to
/// 3 % here (where the allocator puts the weights), so a model that is to be small *and* fast is not refused for less; one that is to be fast is.
pub fn is_slower(goal: Goal, upper: f64) -> bool {
    match goal {
        Goal::Size => false,
        Goal::Balanced => upper < 0.97,
        Goal::Latency => upper < 1.0,
    }
}

/// How good a candidate is under the goal; larger is better, the unchanged input is 0. Times and bytes count by their logarithms, so that halves weigh alike.
pub fn merit(goal: Goal, speed: Option<Speed>, bytes: usize, input_bytes: usize) -> f64 {
    let smaller = (input_bytes as f64 / bytes.max(1) as f64).ln();
    let faster = speed.map_or(0.0, |s| if s.lower <= 1.0 && !is_slower(goal, s.upper) { 0.0 } else { s.ratio.ln() });
    // The other figure only breaks ties.
    match goal {
        Goal::Latency => faster + 0.01 * smaller,
        Goal::Size => smaller + 0.01 * faster,
        Goal::Balanced => faster + smaller,
    }
}

fn rank(candidates: &mut [Candidate], limits: &Limits) {
    let key = |c: &Candidate| (c.refused.is_some(), -merit(limits.goal, c.speed, c.bytes, limits.input_bytes));
    candidates.sort_by(|a, b| {
        let ((refused_a, merit_a), (refused_b, merit_b)) = (key(a), key(b));
        refused_a.cmp(&refused_b).then(merit_a.total_cmp(&merit_b))
    });
    if limits.goal == Goal::Latency
        && let Some(at) = smaller_and_as_fast(candidates)
    {
        candidates[..=at].rotate_right(1);
    }
}

/// A candidate counts as smaller than the fastest one below this share of its bytes.
const MUCH_SMALLER: f64 = 0.95;

/// The smallest of the eligible candidates that measuring cannot tell from the fastest, where it is much smaller.
fn smaller_and_as_fast(ranked: &[Candidate]) -> Option<usize> {
    let fastest = ranked.first().filter(|c| c.refused.is_none())?;
    let ratio = fastest.speed?.ratio;
    let as_fast = |c: &Candidate| c.refused.is_none() && c.speed.is_some_and(|s| s.upper >= ratio);
    let smaller = |c: &Candidate| (c.bytes as f64) < MUCH_SMALLER * fastest.bytes as f64;
    (0..ranked.len()).filter(|&at| as_fast(&ranked[at]) && smaller(&ranked[at])).min_by_key(|&at| ranked[at].bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Facts;
    use crate::model::build::Builder;

    fn speed(ratio: f64, half: f64) -> Speed {
        Speed { ratio, lower: ratio - half, upper: ratio + half, n: 100 }
    }

    #[test]
    fn each_goal_prefers_what_it_names() {
        let fast = |goal| merit(goal, Some(speed(2.0, 0.1)), 90, 100);
        let small = |goal| merit(goal, Some(speed(1.0, 0.1)), 25, 100);
        assert!(fast(Goal::Latency) > small(Goal::Latency));
        assert!(small(Goal::Size) > fast(Goal::Size));
        assert!(small(Goal::Balanced) > fast(Goal::Balanced));
    }

    #[test]
    fn a_speedup_within_the_noise_counts_as_none() {
        assert_eq!(merit(Goal::Latency, Some(speed(1.05, 0.1)), 100, 100), 0.0);
        assert!(merit(Goal::Latency, Some(speed(1.05, 0.01)), 100, 100) > 0.0);
    }

    #[test]
    fn of_candidates_that_are_as_fast_the_much_smaller_one_is_first() {
        let candidate = |name: &str, bytes: usize, speed: Speed| Candidate {
            name: name.to_owned(),
            work: Work { model: Builder::new(17).build(), facts: Facts::default(), steps: Vec::new() },
            records: Vec::new(),
            quality: Vec::new(),
            speed: Some(speed),
            bytes,
            nodes: 0,
            left_out: Vec::new(),
            refused: None,
            missed: None,
            scan: None,
        };
        let deadline = Instant::now();
        let limits = |goal| Limits { goal, input_bytes: 100, deadline, measuring: Duration::ZERO, room: None };
        let first = |small: Speed, bytes: usize| {
            let mut all = [candidate("fast", 99, speed(1.02, 0.01)), candidate("small", bytes, small)];
            rank(&mut all, &limits(Goal::Latency));
            all[0].name.clone()
        };
        assert_eq!(first(speed(1.01, 0.02), 40), "small", "nobody can tell 1.01 from 1.02 here");
        assert_eq!(first(speed(0.97, 0.02), 40), "fast", "0.99 at most");
        assert_eq!(first(speed(1.01, 0.02), 97), "fast", "hardly smaller");
    }

    #[test]
    fn slack_is_one_when_unchanged_zero_at_the_gate_and_fails_closed_on_nan() {
        let score = |estimate| Score { metric: "m".into(), estimate, threshold: 0.95, needed: 0.5 };
        assert!((score(1.0).slack() - 1.0).abs() < 1e-12);
        assert!(score(0.95).slack().abs() < 1e-12 && score(0.95).margin() < 0.0);
        assert_eq!(score(f64::NAN).slack(), f64::NEG_INFINITY);
    }

    #[test]
    fn a_score_that_could_not_be_computed_is_still_one_after_it_was_written_and_read() {
        let score = Score { metric: "m".into(), estimate: f64::NAN, threshold: 0.95, needed: 0.5 };
        let read: Score = serde_json::from_str(&serde_json::to_string(&score).unwrap()).unwrap();
        assert!(read.estimate.is_nan());
        assert!(serde_json::from_str::<Score>(r#"{"metric": "m", "threshold": 0.95, "needed": 0.5}"#).is_err());
    }
}
