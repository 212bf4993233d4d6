//! The pipeline: load, baseline, optimise, validate, profile, gate, export. It owns the order of things and the evidence; what each stage does lives in its room.

mod assess;
mod choose;
pub mod compare;
pub mod error;
mod figures;
pub mod html;
mod intake;
mod judge;
mod measure;
pub mod memory;
mod observe;
pub mod passes;
mod plan;
pub mod probe;
pub mod progress;
mod publish;
pub mod report;
pub mod source;
pub mod summary;
mod timing;
pub mod verify;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use assess::assess;
pub use error::BakeError;
pub use progress::{Progress, Quiet, Stage, StageRecord};
pub use report::Report;
pub use summary::Summary;

use crate::api::ResolvedJob;
use crate::api::bakejob::Level;
use crate::api::digest::sha256_hex;
use crate::engine::Engines;
use crate::hardware::{MachineFacts, advise, detect};
use crate::optimizer::recipe::RECIPE_VERSION;
use crate::optimizer::search::Limits;
use crate::optimizer::{Candidate, Driver, PassRecord, Recipe, Work};
use crate::profiler::{clock, paired};
use choose::Chosen;
use intake::Loaded;
use judge::{Bench, SearchJudge};
use measure::{Measurer, Workload};
use publish::Staging;
use timing::Timer;

/// What the process that bakes brings along.
pub struct Options {
    /// The engines at hand.
    pub engines: Engines,
    /// ONNX Runtime's library, where it was named.
    pub ort_lib: Option<PathBuf>,
    /// This program, for fresh processes.
    pub program: PathBuf,
    /// Take the plan that needs the least memory.
    pub low_memory: bool,
}

/// No new candidate is begun after so many seconds of searching.
const SEARCH_SECONDS: u64 = 60;

/// The most samples that a candidate is scored on during the search; the verdict takes all of its own.
const MOST_SEARCH_SAMPLES: usize = 128;

/// Name of the artifact's file.
const MODEL_FILE: &str = "model.onnx";

/// Bakes one job.
///
/// # Errors
/// Whatever kept an artifact from being made; a gate that did not pass is no error but a [`Summary`] with its reason.
pub fn bake(job: &ResolvedJob, options: &Options, progress: &mut dyn Progress) -> Result<Summary, BakeError> {
    let started = Instant::now();
    let mut stages = Stages::new(progress);

    stages.enter(Stage::Load);
    let machine = detect::detect();
    memory::check(job, &machine)?;
    let mut staging = Staging::new(&job.output)?;
    let loaded = intake::load(job, options)?;
    let engine = &loaded.engine.engine;
    let threads = job.threads.unwrap_or(1);
    let timer = Timer::new(engine.clone(), threads);

    stages.enter(Stage::Baseline);
    let workload = Workload::new(job, &loaded.model, engine, &loaded.calibration.feeds)?;
    let measurer = Measurer {
        job,
        options,
        engine,
        runtime: loaded.engine.runtime,
        timer: &timer,
        workload: &workload,
        samples: &loaded.validation.feeds,
        facts: &loaded.facts,
    };
    let baseline = measurer.figures(&loaded.model, &job.source.path)?;

    stages.enter(Stage::Optimize);
    let mut search = optimise(job, options, &loaded, &timer, &workload, &machine, &mut stages)?;

    stages.enter(Stage::Validate);
    let bench = Bench::for_verdict(engine.clone(), cores(), &loaded.model, loaded.verdict(), &loaded.taps)?;
    let chosen =
        choose::choose(job, &loaded, &bench, &measurer, &baseline, &mut search.candidates, &staging, &mut stages)?;

    stages.enter(Stage::Export);
    let recipe = Recipe {
        api_version: RECIPE_VERSION.to_owned(),
        bakehouse: env!("CARGO_PKG_VERSION").to_owned(),
        input_sha256: sha256_hex(&loaded.model.to_bytes()),
        output_sha256: chosen.sha256.clone(),
        facts: loaded.facts.clone(),
        steps: chosen.steps.clone(),
    };
    let remarks = loaded.remarks.iter().chain(&workload.refused).cloned().collect();
    let report =
        figures::report(job, options, &loaded, &timer, machine, search, baseline, &chosen, stages.finish(), remarks);
    export(&mut staging, &chosen, &recipe, report, job, started).and_then(|summary| staging.publish().map(|()| summary))
}

/// What the optimise stage ends with.
struct Search {
    /// Records of the lossless passes, and of what was not run.
    lossless: Vec<PassRecord>,
    candidates: Vec<Candidate>,
}

/// Lossless passes first, then the search on top of them; or a recipe replayed.
fn optimise(
    job: &ResolvedJob,
    options: &Options,
    loaded: &Loaded,
    timer: &Timer,
    workload: &Workload,
    machine: &MachineFacts,
    stages: &mut Stages<'_>,
) -> Result<Search, BakeError> {
    let engine = &loaded.engine.engine;
    let room = memory::room(machine)?;
    let driver = Driver::new(engine.clone(), &loaded.model, loaded.check_feeds())?.with_room(room);
    let mut work = Work { model: loaded.model.clone(), facts: loaded.facts.clone(), steps: Vec::new() };
    let mut lossless = passes::absent_backends(&options.engines, &work.model);
    if let Some(pinned) = &job.recipe {
        work = passes::replay(pinned, &loaded.model)?;
    } else {
        let wanted = passes::lossless(job);
        lossless.extend(driver.run_lossless(&mut work, &wanted));
    }
    let bench =
        Bench::for_search(engine.clone(), cores(), &loaded.model, loaded.search(MOST_SEARCH_SAMPLES), &loaded.taps)?;
    let limits = Limits {
        goal: job.goal,
        input_bytes: loaded.model.to_bytes().len(),
        deadline: Instant::now() + Duration::from_secs(SEARCH_SECONDS),
        room,
    };
    let variants = if job.level == Level::Conservative || job.recipe.is_some() {
        Vec::new()
    } else {
        plan::variants(job, &work, loaded, &advise::advise(machine))
    };
    let mut judge = SearchJudge {
        bench,
        job,
        loaded,
        session: timer.load(&loaded.model)?,
        timer,
        feed: workload.feeds[0].1.clone(),
        plan: paired::Plan { min_rounds: 15, max_rounds: 60, width: 0.04, max_seconds: 0.1, cpu_time: true },
        progress: stages.progress,
    };
    let candidates = crate::optimizer::search(&work, &variants, &limits, &mut judge);
    Ok(Search { lossless, candidates })
}

/// Writes everything into the staging folder, the report last.
fn export(
    staging: &mut Staging,
    chosen: &Chosen,
    recipe: &Recipe,
    mut report: Report,
    job: &ResolvedJob,
    started: Instant,
) -> Result<Summary, BakeError> {
    let mut add = |format: &str, name: &str, bytes: &[u8]| -> Result<(), BakeError> {
        staging.write(name, bytes)?;
        report.artifacts.push(report::Artifact {
            format: format.to_owned(),
            file: name.to_owned(),
            sha256: sha256_hex(bytes),
            bytes: bytes.len() as u64,
        });
        Ok(())
    };
    add("ONNX", MODEL_FILE, &chosen.files.file)?;
    chosen.files.beside.iter().try_for_each(|(name, bytes)| add("ONNXData", name, bytes))?;
    add("Recipe", "recipe.json", pretty(recipe)?.as_bytes())?;
    let page = html::page(&report);
    staging.write("report.html", page.as_bytes())?;
    // The page cannot hold its own digest; the JSON, written after it, can.
    let digest = (sha256_hex(page.as_bytes()), page.len() as u64);
    report.artifacts.push(report::Artifact {
        format: "HTML".to_owned(),
        file: "report.html".to_owned(),
        sha256: digest.0,
        bytes: digest.1,
    });
    staging.write("report.json", pretty(&report)?.as_bytes())?;
    let peak = clock::peak_rss_bytes();
    Ok(figures::summary(job, &report, started.elapsed().as_secs_f64(), peak))
}

fn pretty(value: &impl serde::Serialize) -> Result<String, BakeError> {
    serde_json::to_string_pretty(value).map_err(|e| BakeError::Internal(e.to_string()))
}

/// Stage records as they come about.
pub(crate) struct Stages<'p> {
    progress: &'p mut dyn Progress,
    records: Vec<StageRecord>,
    open: Option<(Stage, String, Instant)>,
}

impl<'p> Stages<'p> {
    fn new(progress: &'p mut dyn Progress) -> Self {
        Self { progress, records: Vec::new(), open: None }
    }

    fn enter(&mut self, stage: Stage) {
        self.close();
        self.progress.stage(stage);
        self.open = Some((stage, now(), Instant::now()));
    }

    fn close(&mut self) {
        if let Some((name, start_time, since)) = self.open.take() {
            self.records.push(StageRecord {
                name,
                start_time,
                completion_time: now(),
                seconds: since.elapsed().as_secs_f64(),
            });
        }
    }

    fn finish(mut self) -> Vec<StageRecord> {
        self.close();
        self.records
    }
}

/// Threads for work that is not timed.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The time now, RFC 3339, UTC.
fn now() -> String {
    jiff::Timestamp::now().to_string()
}
