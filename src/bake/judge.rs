//! What the search may ask: quality on the search split, speed against the input.

use std::cell::RefCell;
use std::collections::HashMap;

use super::figures;
use super::intake::Loaded;
use super::observe::{self, Outputs, Seen};
use super::progress::Progress;
use super::report::SearchFigures;
use super::timing::Timer;
use crate::api::job::Bound;
use crate::api::{Metric, ResolvedJob};
use crate::engine::{Dataset, EngineError, Feed, SharedEngine, blocks};
use crate::model::Model;
use crate::optimizer::search::{Judge, Quality, Score, Speed};
use crate::profiler::paired;
use crate::quality::{self, OutputPair, Rows, TapPair};

/// The most samples that features are compared on. The interval of CKA narrows with their number; beyond this, the verdict rests on the outputs.
const FEATURE_SAMPLES: usize = 512;

/// A split with what the input model gives on it, and how a candidate compares.
pub(super) struct Bench<'a> {
    engine: SharedEngine,
    threads: usize,
    input: &'a Model,
    pub(super) split: Dataset,
    taps: &'a [String],
    outputs: Outputs,
    /// Feeds that features are read on; `None` where outputs and features come from the same runs.
    of_features: Option<Vec<Feed>>,
    /// Features of the input at the taps, and at whatever tensor took a tap's place in some candidate.
    features: RefCell<HashMap<String, Rows>>,
}

impl<'a> Bench<'a> {
    /// For the verdict: outputs as a deployed model gives them, features from runs of their own.
    pub(super) fn for_verdict(
        engine: SharedEngine,
        threads: usize,
        input: &'a Model,
        split: Dataset,
        taps: &'a [String],
    ) -> Result<Self, EngineError> {
        let n = split.feeds.len().min(FEATURE_SAMPLES);
        let feeds = (0..n).map(|i| split.feeds[i * split.feeds.len() / n].clone()).collect();
        Self::new(engine, threads, input, split, taps, Some(feeds))
    }

    /// For the search: everything from one run per sample.
    pub(super) fn for_search(
        engine: SharedEngine,
        threads: usize,
        input: &'a Model,
        split: Dataset,
        taps: &'a [String],
    ) -> Result<Self, EngineError> {
        Self::new(engine, threads, input, split, taps, None)
    }

    fn new(
        engine: SharedEngine,
        threads: usize,
        input: &'a Model,
        split: Dataset,
        taps: &'a [String],
        of_features: Option<Vec<Feed>>,
    ) -> Result<Self, EngineError> {
        let (outputs, features) = (Vec::new(), RefCell::default());
        let mut bench = Self { engine, threads, input, split, taps, outputs, of_features, features };
        let seen = bench.see(input, taps)?;
        bench.outputs = seen.outputs;
        bench.features = RefCell::new(taps.iter().cloned().zip(seen.features).collect());
        Ok(bench)
    }

    /// Outputs of a model on the split, and its features at `taps`.
    fn see(&self, model: &Model, taps: &[String]) -> Result<Seen, EngineError> {
        let (engine, split) = (&self.engine, &self.split.feeds);
        match &self.of_features {
            None => observe::together(engine, model, taps, split, self.threads),
            Some(feeds) => Ok(Seen {
                outputs: observe::outputs(engine, model, split, self.threads)?,
                features: observe::features(engine, model, taps, feeds, self.threads)?,
            }),
        }
    }

    /// Outputs and taps of both models on the split, paired for the metrics. Where the candidate lost a tap, both are read at the tensor that took its place.
    pub(super) fn pairs(&self, candidate: &Model) -> Result<(Vec<OutputPair>, Vec<TapPair>), EngineError> {
        let places = blocks::successors(self.input, self.taps, candidate);
        let names: Vec<String> = places.iter().map(|(_, to)| to.clone()).collect();
        let baked = self.see(candidate, &names)?;
        let places: Vec<&String> = places.iter().map(|(from, _)| from).collect();
        self.read_input_at(&places)?;
        let of_input = self.features.borrow();
        let taps = places.iter().zip(baked.features).map(|(from, baked)| TapPair {
            name: (*from).clone(),
            baseline: of_input.get(*from).cloned().unwrap_or_default(),
            baked,
        });
        let mut taps: Vec<TapPair> = taps.filter(|p| !p.baseline.is_empty() && !p.baked.is_empty()).collect();
        let outputs = self.input.output_names().into_iter().zip(&self.outputs).zip(baked.outputs);
        let outputs: Vec<OutputPair> =
            outputs.map(|((name, a), b)| OutputPair { name: name.to_owned(), baseline: a.clone(), baked: b }).collect();
        if self.taps.is_empty() {
            taps = outputs.iter().map(observe::as_features).collect();
        }
        Ok((outputs, taps))
    }

    /// Reads the input's features where no candidate needed them yet.
    fn read_input_at(&self, places: &[&String]) -> Result<(), EngineError> {
        let missing: Vec<String> = {
            let known = self.features.borrow();
            places.iter().filter(|p| !known.contains_key(**p)).map(|p| (*p).clone()).collect()
        };
        let feeds = self.of_features.as_ref().unwrap_or(&self.split.feeds);
        let rows = observe::features(&self.engine, self.input, &missing, feeds, self.threads)?;
        self.features.borrow_mut().extend(missing.into_iter().zip(rows));
        Ok(())
    }
}

/// Judges candidates on the search split.
pub(super) struct SearchJudge<'a, 'p> {
    pub(super) bench: Bench<'a>,
    /// A few samples for a quick look; `None` where nothing asks for it.
    pub(super) glance: Option<Bench<'a>>,
    pub(super) job: &'a ResolvedJob,
    pub(super) loaded: &'a Loaded,
    pub(super) timer: &'a Timer,
    pub(super) feed: Feed,
    pub(super) plan: paired::Plan,
    pub(super) progress: &'p mut dyn Progress,
    /// What was asked so far.
    pub(super) ran: SearchFigures,
}

impl Judge for SearchJudge<'_, '_> {
    fn quality(&mut self, candidate: &Model) -> Result<Quality, EngineError> {
        self.ran.judged += 1;
        let pairs = self.bench.pairs(candidate)?;
        let evaluation = figures::evaluation(self.job, self.loaded, pairs, self.bench.split.labels.as_ref());
        let quick = quality::quick(&evaluation).map_err(|e| EngineError::Data(e.to_string()))?;
        let broken = |estimate: f64| if quick.broken { f64::NAN } else { estimate };
        let min = |metric: Metric| {
            self.job.gates.iter().find(|g| g.metric == metric).and_then(|g| match g.bound {
                Bound::Min(v) => Some(v),
                Bound::Max(_) => None,
            })
        };
        let score = |metric: Metric, estimate: Option<f64>| {
            // A metric that has no value on this split (no taps, a baseline at chance) does not steer the search; the verdict says Inconclusive.
            estimate.and_then(|estimate| {
                Some(Score {
                    metric: metric.to_string(),
                    estimate: broken(estimate),
                    threshold: min(metric)?,
                    least: least(metric),
                    needed: least(metric),
                })
            })
        };
        let mut scores: Vec<Score> = [
            score(Metric::AccuracyRetention, quick.accuracy_retention),
            score(Metric::OutputConsistency, quick.output_consistency),
            score(Metric::FeaturePreservation, quick.feature_preservation),
            score(Metric::DistributionSimilarity, quick.distribution_similarity),
        ]
        .into_iter()
        .flatten()
        .collect();
        if scores.iter().all(|s| s.margin() >= 0.0) {
            let report = quality::evaluate(&evaluation).map_err(|e| EngineError::Data(e.to_string()))?;
            // An interval narrows with the root of the number of samples; how wide it is, a split of few samples tells only within a factor of about two.
            let (here, there) = (self.bench.split.len(), self.loaded.split.verdict.len());
            let expected = 2.0 * (here as f64 / there.max(1) as f64).sqrt().min(1.0);
            for (metric, figure) in report.figures() {
                let score = scores.iter_mut().find(|s| s.metric == metric.to_string() && s.threshold < 1.0);
                if let (Some(score), Some(lower)) = (score, figure.lower) {
                    let half = (score.estimate - lower) * expected / (1.0 - score.threshold);
                    score.needed = score.needed.max(half);
                }
            }
        }
        Ok(Quality { scores, deviation: broken(quick.deviation) })
    }

    fn speed(&mut self, candidate: &Model) -> Result<Speed, EngineError> {
        self.ran.timed += 1;
        // The input's own is loaded again each time: between one timing and the next much else needs its memory.
        let (mut input, mut other) = (self.timer.load(&self.loaded.model)?, self.timer.load(candidate)?);
        let paired = self.timer.compare(input.as_mut(), other.as_mut(), &self.feed, self.plan)?;
        Ok(Speed { ratio: paired.ratio, lower: paired.lower, upper: paired.upper, n: paired.ratios.len() })
    }

    fn harm(&mut self, candidate: &Model) -> Result<f64, EngineError> {
        self.ran.glanced += 1;
        let bench = self.glance.as_ref().unwrap_or(&self.bench);
        let pairs = bench.pairs(candidate)?;
        let evaluation = figures::evaluation(self.job, self.loaded, pairs, bench.split.labels.as_ref());
        let quick = quality::quick(&evaluation).map_err(|e| EngineError::Data(e.to_string()))?;
        // Decisions are coarse on few samples, and distributions hang on the largest; outputs and features themselves do not.
        let harm = quick.deviation + quick.feature_preservation.map_or(0.0, |kept| (1.0 - kept).max(0.0));
        Ok(if quick.broken || harm.is_nan() { f64::INFINITY } else { harm })
    }

    fn trying(&mut self, candidate: &str) {
        self.progress.detail(candidate);
    }
}

/// Share of the room above a gate that a candidate must keep on the search split at least, however sure its figure is. Accuracy has the least room: a percent
/// of it is what people notice.
fn least(metric: Metric) -> f64 {
    match metric {
        Metric::AccuracyRetention => 0.8,
        Metric::OutputConsistency => 0.5,
        _ => 0.1,
    }
}
