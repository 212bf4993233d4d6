//! Timing models against each other, on real feeds, one bake at a time.

use crate::engine::{EngineError, Feed, LoadOptions, Session, SharedEngine};
use crate::model::Model;
use crate::profiler::TimingTurn;
use crate::profiler::latency::{self, Samples};
use crate::profiler::paired::{self, Paired};

/// Loads models and times them. One thread is timed by CPU time, which a busy machine disturbs least; more threads by wall time.
pub(super) struct Timer {
    engine: SharedEngine,
    threads: usize,
}

impl Timer {
    pub(super) fn new(engine: SharedEngine, threads: usize) -> Self {
        Self { engine, threads }
    }

    /// Threads of the engine in timed runs.
    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// Whether figures are CPU time of the one thread.
    pub(super) fn cpu_time(&self) -> bool {
        self.threads == 1
    }

    pub(super) fn load(&self, model: &Model) -> Result<Box<dyn Session>, EngineError> {
        self.engine.load(model, &LoadOptions { threads: self.threads, ..LoadOptions::default() })
    }

    /// Paired, interleaved: time of `a` / time of `b`.
    pub(super) fn compare(
        &self,
        a: &mut dyn Session,
        b: &mut dyn Session,
        feed: &Feed,
        plan: paired::Plan,
    ) -> Result<Paired, EngineError> {
        let plan = paired::Plan { cpu_time: self.cpu_time(), ..plan };
        let _turn = turn()?;
        paired::compare(plan, &mut || a.run(feed).map(drop), &mut || b.run(feed).map(drop))
    }

    /// Latency of one model on one feed.
    pub(super) fn latency(
        &self,
        session: &mut dyn Session,
        feed: &Feed,
        plan: latency::Plan,
    ) -> Result<Samples, EngineError> {
        let plan = latency::Plan { cpu_time: self.cpu_time(), ..plan };
        let _turn = turn()?;
        latency::measure(plan, &mut || session.run(feed).map(drop))
    }
}

/// Latency by the clock on the wall, whatever the threads of the session: what a deadline is kept by.
pub(super) fn wall_latency(
    session: &mut dyn Session,
    feed: &Feed,
    plan: latency::Plan,
) -> Result<Samples, EngineError> {
    let plan = latency::Plan { cpu_time: false, ..plan };
    let _turn = turn()?;
    latency::measure(plan, &mut || session.run(feed).map(drop))
}

fn turn() -> Result<TimingTurn, EngineError> {
    TimingTurn::take().map_err(|e| EngineError::Unavailable {
        name: "the lock that keeps timing runs apart".to_owned(),
        detail: e.to_string(),
    })
}
