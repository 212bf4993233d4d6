//! What the search may ask: quality on the search split, speed against the input.

use super::figures;
use super::intake::Loaded;
use super::observe::{self, Outputs};
use super::progress::Progress;
use super::timing::Timer;
use crate::api::job::Bound;
use crate::api::{Metric, ResolvedJob};
use crate::engine::{Dataset, EngineError, Feed, Session, SharedEngine, blocks};
use crate::model::Model;
use crate::optimizer::search::{Judge, Score, Speed};
use crate::profiler::paired;
use crate::quality::{self, OutputPair, Rows, TapPair};

/// A split with what the input model gives on it, and how a candidate compares.
pub(super) struct Bench<'a> {
    pub(super) engine: SharedEngine,
    pub(super) threads: usize,
    pub(super) input: &'a Model,
    pub(super) split: Dataset,
    pub(super) taps: &'a [String],
    pub(super) outputs: Outputs,
    pub(super) features: Vec<Rows>,
}

impl<'a> Bench<'a> {
    /// Runs the input model on the split.
    pub(super) fn new(
        engine: SharedEngine,
        threads: usize,
        input: &'a Model,
        split: Dataset,
        taps: &'a [String],
    ) -> Result<Self, EngineError> {
        let outputs = observe::outputs(&engine, input, &split.feeds, threads)?;
        let features = observe::features(&engine, input, taps, &split.feeds, threads)?;
        Ok(Self { engine, threads, input, split, taps, outputs, features })
    }

    /// Outputs and taps of both models on the split, paired for the metrics.
    pub(super) fn pairs(&self, candidate: &Model) -> Result<(Vec<OutputPair>, Vec<TapPair>), EngineError> {
        let baked = observe::outputs(&self.engine, candidate, &self.split.feeds, self.threads)?;
        let names = self.input.output_names();
        let outputs = names.iter().zip(&self.outputs).zip(baked);
        let outputs = outputs
            .map(|((name, a), b)| OutputPair { name: (*name).to_owned(), baseline: a.clone(), baked: b })
            .collect();
        Ok((outputs, self.tap_pairs(candidate)?))
    }

    /// Features of both models at each tap. Where the candidate lost a tap, both are read at the tensor that took its place.
    fn tap_pairs(&self, candidate: &Model) -> Result<Vec<TapPair>, EngineError> {
        let places = blocks::successors(self.input, self.taps, candidate);
        let names: Vec<String> = places.iter().map(|(_, to)| to.clone()).collect();
        let baked = observe::features(&self.engine, candidate, &names, &self.split.feeds, self.threads)?;
        let moved: Vec<String> =
            places.iter().map(|(from, _)| from.clone()).filter(|from| !self.taps.contains(from)).collect();
        let mut moved = moved
            .iter()
            .zip(observe::features(&self.engine, self.input, &moved, &self.split.feeds, self.threads)?)
            .collect::<Vec<_>>();
        let mut baseline = |from: &String| match self.taps.iter().position(|t| t == from) {
            Some(at) => self.features[at].clone(),
            None => moved
                .iter_mut()
                .find(|(name, _)| *name == from)
                .map(|(_, rows)| std::mem::take(rows))
                .unwrap_or_default(),
        };
        let pairs = places.iter().zip(baked).map(|((from, _), baked)| TapPair {
            name: from.clone(),
            baseline: baseline(from),
            baked,
        });
        Ok(pairs.filter(|p| !p.baseline.is_empty() && !p.baked.is_empty()).collect())
    }
}

/// Judges candidates on the search split.
pub(super) struct SearchJudge<'a, 'p> {
    pub(super) bench: Bench<'a>,
    pub(super) job: &'a ResolvedJob,
    pub(super) loaded: &'a Loaded,
    pub(super) timer: &'a Timer,
    pub(super) session: Box<dyn Session>,
    pub(super) feed: Feed,
    pub(super) plan: paired::Plan,
    pub(super) progress: &'p mut dyn Progress,
}

impl Judge for SearchJudge<'_, '_> {
    fn quality(&mut self, candidate: &Model) -> Result<Vec<Score>, EngineError> {
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
                    needed: needed(metric),
                })
            })
        };
        Ok([
            score(Metric::AccuracyRetention, quick.accuracy_retention),
            score(Metric::OutputConsistency, quick.output_consistency),
            score(Metric::FeaturePreservation, quick.feature_preservation),
            score(Metric::DistributionSimilarity, quick.distribution_similarity),
        ]
        .into_iter()
        .flatten()
        .collect())
    }

    fn speed(&mut self, candidate: &Model) -> Result<Speed, EngineError> {
        let mut other = self.timer.load(candidate)?;
        let paired = self.timer.compare(self.session.as_mut(), other.as_mut(), &self.feed, self.plan)?;
        Ok(Speed { ratio: paired.ratio, lower: paired.lower, upper: paired.upper, n: paired.ratios.len() })
    }

    fn trying(&mut self, candidate: &str) {
        self.progress.detail(candidate);
    }
}

/// Share of the room above a gate that a candidate must keep on the search split. Accuracy has the least room: a percent of it is what people notice.
fn needed(metric: Metric) -> f64 {
    match metric {
        Metric::AccuracyRetention => 0.8,
        Metric::OutputConsistency => 0.5,
        _ => 0.25,
    }
}
