//! The figures of one model: latency per batch size, what a fresh process sees, determinism.

use std::path::Path;
use std::time::Instant;

use super::figures::SAMPLES_FOR_P99;
use super::probe::{self, Seen, outputs_digest};
use super::report::{BatchLatency, BatchSpeedup, Determinism, ModelFigures};
use super::timing::Timer;
use super::{BakeError, Options};
use crate::api::bakejob::Runtime;
use crate::api::{Metric, ResolvedJob};
use crate::engine::{EngineError, Feed, LoadOptions, Session, SharedEngine, batch};
use crate::model::infer::{InferOptions, infer};
use crate::model::stats::Stats;
use crate::model::{Facts, Model, mapped};
use crate::profiler::{clock, latency, paired};

/// Seconds for the latency of one model at the batch size that gates read.
const LATENCY_SECONDS: f64 = 0.4;

/// Seconds for each of the others, which are for the reader.
const OTHER_BATCH_SECONDS: f64 = 0.15;

/// A run that takes longer is not measured unless its batch size is asked for.
const LONG_RUN_SECONDS: f64 = 0.05;

/// The same where a gate is on the tail.
const TAIL_SECONDS: f64 = 20.0;

/// A process that holds more than this gives back what it does not use before another one starts.
const MUCH_MEMORY: u64 = 300_000_000;

/// Samples that determinism and the fresh process are checked on.
pub(super) const PROBE_SAMPLES: usize = 4;

/// The feeds that are timed, one per batch size, the gates' one first.
pub(super) struct Workload {
    pub(super) feeds: Vec<(usize, Feed)>,
    /// The batch sizes that were tried. Without a wish they hang on how long a run takes, so a bake that goes on takes those of its beginning.
    pub(super) wished: Vec<usize>,
    /// Batch sizes that the model or the engine refused, and why.
    pub(super) refused: Vec<String>,
}

impl Workload {
    /// Feeds of the wished batch sizes, made of real samples. Without a wish: the samples as they are, and eight times as many rows where the model takes
    /// them and a run stays short.
    pub(super) fn new(
        job: &ResolvedJob,
        model: &Model,
        engine: &SharedEngine,
        samples: &[Feed],
    ) -> Result<Self, EngineError> {
        let own = batch::rows(&samples[0], model);
        let mut session = engine.load(model, &LoadOptions::default())?;
        let started = Instant::now();
        session.run(&samples[0])?;
        let short = started.elapsed().as_secs_f64() * 8.0 < LONG_RUN_SECONDS;
        let wished = match (job.profile.batch_sizes.as_slice(), short) {
            ([], true) => vec![own, own * 8],
            ([], false) => vec![own],
            (wished, _) => wished.to_vec(),
        };
        Ok(Self::of_batches(wished, model, session.as_mut(), samples))
    }

    /// Feeds of the batch sizes that were tried before: no clock decides.
    pub(super) fn again(
        wished: Vec<usize>,
        model: &Model,
        engine: &SharedEngine,
        samples: &[Feed],
    ) -> Result<Self, EngineError> {
        let mut session = engine.load(model, &LoadOptions::default())?;
        Ok(Self::of_batches(wished, model, session.as_mut(), samples))
    }

    fn of_batches(wished: Vec<usize>, model: &Model, session: &mut dyn Session, samples: &[Feed]) -> Self {
        let (mut feeds, mut refused) = (Vec::new(), Vec::new());
        for &rows in &wished {
            let made = batch::of_rows(samples, model, rows)
                .map_err(|e| e.to_string())
                .and_then(|feed| session.run(&feed).map(|_| feed.in_memory()).map_err(|e| e.to_string()));
            match made {
                Ok(feed) => feeds.push((rows, feed)),
                Err(detail) => refused.push(format!("Batch size {rows} is not measured: {detail}")),
            }
        }
        if feeds.is_empty() {
            feeds.push((batch::rows(&samples[0], model), samples[0].in_memory()));
        }
        Self { feeds, wished, refused }
    }
}

/// Measures models of one job, all alike.
pub(super) struct Measurer<'a> {
    pub(super) job: &'a ResolvedJob,
    pub(super) options: &'a Options,
    pub(super) engine: &'a SharedEngine,
    pub(super) runtime: Runtime,
    pub(super) timer: &'a Timer,
    pub(super) workload: &'a Workload,
    /// Samples in the order of the validation file, whose first ones a fresh process runs too.
    pub(super) samples: &'a [Feed],
    pub(super) facts: &'a Facts,
}

impl Measurer<'_> {
    /// Figures of a model that lies at `file`.
    pub(super) fn figures(&self, model: &Model, file: &Path) -> Result<ModelFigures, BakeError> {
        let fresh_process = self.fresh_process(file)?;
        let determinism = self.determinism(model, &fresh_process)?;
        let mut session = self.timer.load(model)?;
        // A gate on the tail needs more samples than a median does.
        let tail = self.job.gates.iter().any(|g| matches!(g.metric, Metric::LatencyP99 | Metric::Jitter));
        let plan = latency::Plan {
            warmup: self.job.profile.warmup,
            iterations: if tail {
                self.job.profile.iterations.max(SAMPLES_FOR_P99)
            } else {
                self.job.profile.iterations
            },
            max_seconds: if tail { TAIL_SECONDS } else { LATENCY_SECONDS },
            cpu_time: true,
        };
        let mut latencies = Vec::new();
        for (i, (rows, feed)) in self.workload.feeds.iter().enumerate() {
            let plan = if i == 0 { plan } else { latency::Plan { max_seconds: OTHER_BATCH_SECONDS, ..plan } };
            let samples = self.timer.latency(session.as_mut(), feed, plan)?;
            let summary =
                samples.summary().ok_or_else(|| BakeError::Internal("no latency sample was taken".to_owned()))?;
            latencies.push(BatchLatency { batch: *rows, throughput: *rows as f64 / summary.p50, summary, samples });
        }
        let bytes = Model::stored_bytes(file)?;
        // Shapes of the timed feed, so that multiplications are those of one measured run.
        let input_shapes =
            self.workload.feeds[0].1.iter().map(|(name, t)| (name.to_owned(), t.shape().to_vec())).collect();
        let inference = infer(model, &InferOptions { input_shapes, facts: Some(self.facts) })
            .map_err(|e| BakeError::Internal(e.to_string()))?;
        let stats = Stats::of(model, &inference);
        Ok(ModelFigures {
            sha256: fresh_process.file_sha256.clone(),
            bytes,
            stats,
            latency: latencies,
            fresh_process,
            determinism,
        })
    }

    /// Time of `input` / time of `baked`, per batch size.
    pub(super) fn speedup(
        &self,
        input: &Model,
        baked: &Model,
        plan: paired::Plan,
    ) -> Result<Vec<BatchSpeedup>, EngineError> {
        let (mut a, mut b) = (self.timer.load(input)?, self.timer.load(baked)?);
        let feeds = self.workload.feeds.iter();
        // The first batch size is the one that decides; the others are for the reader.
        let others = paired::Plan { min_rounds: 9, max_seconds: plan.max_seconds / 3.0, ..plan };
        feeds
            .enumerate()
            .map(|(i, (batch, feed))| {
                let plan = if i == 0 { plan } else { others };
                Ok(BatchSpeedup { batch: *batch, paired: self.timer.compare(a.as_mut(), b.as_mut(), feed, plan)? })
            })
            .collect()
    }

    fn fresh_process(&self, file: &Path) -> Result<Seen, BakeError> {
        // It needs room beside this one.
        if clock::rss_bytes().is_some_and(|held| held > MUCH_MEMORY) {
            mapped::release();
        }
        let request = probe::Request {
            model: file.to_owned(),
            data: self.job.validation.path.clone(),
            samples: PROBE_SAMPLES,
            runtime: self.runtime,
            ort_lib: self.options.ort_lib.clone(),
            threads: 1,
        };
        probe::spawn(&self.options.program, &request)
    }

    fn determinism(&self, model: &Model, fresh: &Seen) -> Result<Determinism, EngineError> {
        let feeds = &self.samples[..PROBE_SAMPLES.min(self.samples.len())];
        let digest = |session: &mut dyn crate::engine::Session| -> Result<String, EngineError> {
            let outputs = feeds.iter().map(|feed| session.run(feed)).collect::<Result<Vec<_>, _>>()?;
            Ok(outputs_digest(outputs.iter().flatten()))
        };
        // One after the other: each may take as much memory as the model.
        let mut one = self.engine.load(model, &LoadOptions::default())?;
        let (first, second) = (digest(one.as_mut())?, digest(one.as_mut())?);
        drop(one);
        let mut two = self.engine.load(model, &LoadOptions { threads: 2, ..LoadOptions::default() })?;
        let threaded = digest(two.as_mut())?;
        drop(two);
        Ok(Determinism { runs: first == second, threads: first == threaded, processes: first == fresh.outputs_sha256 })
    }
}
