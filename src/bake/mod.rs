//! The pipeline: load, baseline, optimise, validate, profile, gate, export. It owns the order of things and the evidence; what each stage does lives in its room.

mod artifact;
mod assess;
mod budget;
mod calibrated;
mod checkpoint;
mod choose;
pub mod compare;
mod earlier;
pub mod error;
mod figures;
mod front;
mod handoff;
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
mod reproduce;
pub(crate) mod reuse;
pub mod source;
mod stages;
pub mod summary;
mod timing;
pub mod verify;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use assess::assess;
pub use budget::BUDGET_UNREACHABLE;
pub use checkpoint::Checkpoints;
pub(crate) use checkpoint::{NAMES as CHECKPOINT_NAMES, forget, sealed};
pub(crate) use earlier::{EARLIER, Listing, Name, REPORT, digits, not_kept, not_whole};
pub use error::BakeError;
pub use progress::{Progress, Quiet, Stage, StageRecord};
pub(crate) use publish::run_of_hidden;
pub use report::Report;
pub use summary::Summary;

use crate::api::ResolvedJob;
use crate::api::bakejob::Level;
use crate::api::digest::sha256_hex;
use crate::engine::Engines;
use crate::hardware::{MachineFacts, advise, detect};
use crate::model::laid::lay_down;
use crate::optimizer::int8::{Already, Exclude};
use crate::optimizer::recipe::RECIPE_VERSION;
use crate::optimizer::search::Limits;
use crate::optimizer::{Candidate, Driver, PassRecord, Recipe, Work};
use crate::package::{self, Package, Settled};
use crate::profiler::{clock, paired};
use checkpoint::{Baseline, Finished};
use handoff::Handoff;
use intake::Loaded;
use judge::{Bench, SearchJudge};
use measure::{Measurer, Workload};
use publish::Staging;
use report::{PackageFigures, Reproduced};
use stages::Stages;
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
    /// Where a later process finds the stages that this one finished; `None` keeps nothing.
    pub checkpoints: Option<Box<dyn Checkpoints>>,
    /// The folder where a later bake finds what calibration saw; `None` keeps nothing.
    pub spreads: Option<PathBuf>,
}

/// No new candidate is begun after so many seconds of searching.
const SEARCH_SECONDS: u64 = 60;

/// What measuring site by site may take at least, however long the search took before it.
const MEASURING_SECONDS: u64 = 45;

/// The most samples that a candidate is scored on during the search; the verdict takes all of its own.
const MOST_SEARCH_SAMPLES: usize = 128;

/// The report for people, and its format in the other one.
const PAGE: &str = "report.html";
const PAGE_FORMAT: &str = "HTML";

/// The most samples that the harm of one site is measured on.
const MOST_GLANCE_SAMPLES: usize = 12;

/// Name of the artifact's file.
const MODEL_FILE: &str = "model.onnx";

/// Bakes one job. What it keeps of finished stages is the caller's to forget, once the result lies where it belongs.
///
/// # Errors
/// Whatever kept an artifact from being made; a gate that did not pass is no error but a [`Summary`] with its reason.
pub fn bake(job: &ResolvedJob, options: &Options, progress: &mut dyn Progress) -> Result<Summary, BakeError> {
    let started = Instant::now();
    let mut stages = Stages::new(progress);

    stages.enter(Stage::Load);
    let machine = detect::detect();
    let Settled { mut job, package } = package::settle(job)?;
    memory::check(&job, package.as_ref(), &machine, &options.engines, stages.progress)?;
    handoff::check_output(&job)?;
    let mut staging = Staging::new(&job.output, options.checkpoints.as_ref().map(|c| c.run()))?;
    let given = package.as_ref().map(|package| put_together(&mut job, package, &staging)).transpose()?;
    let job = &job;
    let loaded = intake::load(job, package.as_ref(), options)?;
    handoff::check_model(job, &loaded)?;
    let engine = &loaded.engine.engine;
    let threads = job.threads.unwrap_or(1);
    let timer = Timer::new(engine.clone(), threads);
    let finished = Finished::of(job, options, &loaded, &machine);
    let earlier = finished.baseline();

    let feeds = &loaded.calibration.feeds;
    let workload = if let Some((kept, _)) = &earlier {
        Workload::again(kept.batches.clone(), &loaded.model, engine, feeds)?
    } else {
        stages.enter(Stage::Baseline);
        Workload::new(job, &loaded.model, engine, feeds)?
    };
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
    let mut search = None;
    let baseline = if let Some((kept, times)) = earlier {
        stages.take_over(Stage::Baseline, times);
        search = finished.search(job, &loaded);
        kept.figures
    } else {
        let figures = measurer.figures(&loaded.model, &job.source.path)?;
        let kept = Baseline { batches: workload.wished.clone(), figures };
        finished.keep_baseline(&kept, &stages.ended());
        kept.figures
    };

    let mut search = if let Some((kept, times)) = search {
        stages.take_over(Stage::Optimize, times);
        kept
    } else {
        stages.enter(Stage::Optimize);
        let search = optimise(job, options, &loaded, &timer, &workload, &machine, &mut stages)?;
        finished.keep_search(&search, &stages.ended());
        search
    };

    stages.enter(Stage::Validate);
    let reproduced = package.as_ref().map(|p| reproduce::figures(p, &loaded)).transpose()?.unwrap_or_default();
    let bench = Bench::for_verdict(engine.clone(), cores(), &loaded.model, loaded.verdict(), &loaded.taps)?;
    let mut chosen =
        choose::choose(job, &loaded, &bench, &measurer, &baseline, &mut search.candidates, &staging, &mut stages)?;

    let unreachable = budget::unreachable(&search.candidates, &chosen, loaded.file_bytes as usize);
    stages.enter(Stage::Export);
    let files = chosen.files.stage(&mut staging)?;
    let recipe = Recipe {
        api_version: RECIPE_VERSION.to_owned(),
        bakehouse: env!("CARGO_PKG_VERSION").to_owned(),
        input_sha256: loaded.model.sha256(),
        output_sha256: chosen.sha256.clone(),
        facts: loaded.facts.clone(),
        steps: chosen.steps.clone(),
    };
    let handoff = Handoff {
        job,
        options,
        loaded: &loaded,
        timer: &timer,
        workload: &workload,
        machine: &machine,
        lossless: &search.lossless,
        chosen: &chosen,
        files: &files,
        recipe: &recipe,
        package: package.as_ref().map(|package| (package, reproduced.as_slice())),
    };
    let (handed, missing) = handoff.write(&mut staging)?;
    let resumed = stages.remark();
    let doubts: Vec<String> = reproduced.iter().filter(|r| r.holds != Some(true)).map(|r| r.message.clone()).collect();
    let refuted = reproduced.iter().filter(|r| r.holds == Some(false)).map(|r| &r.message);
    let beyond = unreachable.iter().map(|found| &found.message);
    for said in beyond.clone().chain(&missing).chain(&resumed).chain(refuted) {
        chosen.message = format!("{} {said}", chosen.message);
    }
    let of_search = search.remarks.iter().chain(beyond);
    let said = of_search.chain(&doubts).chain(&workload.refused).chain(&resumed).chain(&missing);
    let remarks = given.iter().flatten().chain(&loaded.remarks).chain(said).cloned().collect();
    let mut report =
        figures::report(job, options, &loaded, &timer, machine, search, baseline, &chosen, stages.ended(), remarks);
    report.budget_unreachable = unreachable;
    report.package = package.map(|package| carried(package, reproduced, job));
    let summary = export(&mut staging, files, &recipe, handed, report, job, started)?;
    published(staging, summary)
}

/// Publishes what was staged, and says so where what lay there before could not be kept.
fn published(staging: Staging, mut summary: Summary) -> Result<Summary, BakeError> {
    if let Some(said) = staging.publish()? {
        summary.message = format!("{} {said}", summary.message);
    }
    Ok(summary)
}

/// Puts the model of a package together where its weights lie apart from the graph; the job then names that file. Sentences for the report.
fn put_together(job: &mut ResolvedJob, package: &Package, staging: &Staging) -> Result<Vec<String>, BakeError> {
    let mut remarks = package.remarks.clone();
    if package.manifest.model.weights.is_some() {
        // A name of its own: the folder of candidates is written over.
        let folder = staging.path("source");
        std::fs::create_dir_all(&folder).map_err(|source| BakeError::Output { path: folder.clone(), source })?;
        let file = folder.join(MODEL_FILE);
        remarks.extend(package.assemble(&file)?.into_iter().flatten());
        job.source.path = file;
    }
    Ok(remarks)
}

/// What the report carries of a package.
fn carried(package: Package, baseline: Vec<Reproduced>, job: &ResolvedJob) -> PackageFigures {
    let path = lay(job, &package.folder);
    let Package { layout, manifest, manifest_sha256, .. } = package;
    PackageFigures { layout, path, manifest_sha256, manifest, baseline }
}

/// Where a package lay: its folder, or the URI it was fetched from.
fn lay(job: &ResolvedJob, folder: &Path) -> PathBuf {
    let fetched = job.origins.get(folder).map(PathBuf::from);
    fetched.unwrap_or_else(|| std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()))
}

/// What the optimise stage ends with.
struct Search {
    /// Records of the lossless passes, and of what was not run.
    lossless: Vec<PassRecord>,
    candidates: Vec<Candidate>,
    /// What the search ran; `None` where there was nothing to search.
    ran: Option<report::SearchFigures>,
    calibration: Option<calibrated::CalibrationFigures>,
    /// Sentences for the report.
    remarks: Vec<String>,
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
    // What the passes made anew is in every candidate and in every session's way.
    lay_down(&mut work.model);
    let bench =
        Bench::for_search(engine.clone(), cores(), &loaded.model, loaded.search(MOST_SEARCH_SAMPLES), &loaded.taps)?;
    let (mut variants, mut calibration, mut remarks) = (Vec::new(), None, Vec::new());
    if job.level != Level::Conservative && job.recipe.is_none() {
        let already = Already::of(&work.model);
        let exclude = Exclude::new(&job.exclude).and_outputs(already.outputs());
        let (calibrated, said) = calibrated::calibrated(job, options, loaded, &work, &exclude);
        variants = plan::variants(job, &work, loaded, &advise::advise(machine), &exclude, calibrated.as_ref());
        calibration = calibrated.map(|calibrated| calibrated.figures);
        remarks = already.remark().into_iter().chain(said).collect();
    }
    // What is measured to plan the search is none of its time.
    let limits = Limits {
        goal: job.goal,
        input_bytes: loaded.model.encoded_len(),
        deadline: Instant::now() + Duration::from_secs(SEARCH_SECONDS),
        measuring: Duration::from_secs(MEASURING_SECONDS),
        room,
    };
    // What the last layer reads moves with every error before it, where outputs of few samples may hide one.
    let last = &loaded.taps[loaded.taps.len().saturating_sub(1)..];
    let glance = if variants.iter().any(|variant| variant.measured) {
        let few = loaded.search(MOST_GLANCE_SAMPLES);
        Some(Bench::for_search(engine.clone(), cores(), &loaded.model, few, last)?)
    } else {
        None
    };
    let mut judge = SearchJudge {
        bench,
        glance,
        job,
        loaded,
        timer,
        feed: workload.feeds[0].1.clone(),
        plan: paired::Plan { min_rounds: 10, max_rounds: 60, width: 0.04, max_seconds: 0.1, cpu_time: true },
        progress: stages.progress,
        ran: report::SearchFigures::default(),
    };
    let began = Instant::now();
    let mut candidates = crate::optimizer::search(&work, &variants, &limits, &mut judge);
    budget::time_nearest(&mut candidates, &work, &mut judge);
    let ran = report::SearchFigures { seconds: began.elapsed().as_secs_f64(), ..judge.ran };
    Ok(Search { lossless, candidates, ran: (!variants.is_empty()).then_some(ran), calibration, remarks })
}

/// Writes everything into the staging folder, the report last.
fn export(
    staging: &mut Staging,
    files: Vec<report::Artifact>,
    recipe: &Recipe,
    handed: Vec<report::Artifact>,
    mut report: Report,
    job: &ResolvedJob,
    started: Instant,
) -> Result<Summary, BakeError> {
    report.artifacts.extend(files);
    staging.write("recipe.json", pretty(recipe)?.as_bytes())?;
    report.artifacts.push(artifact::listed("Recipe", "recipe.json", &staging.path("recipe.json"))?);
    report.artifacts.extend(handed);
    told(staging, report, job, started)
}

/// Writes page and report behind the files that the report lists.
fn told(staging: &mut Staging, mut report: Report, job: &ResolvedJob, started: Instant) -> Result<Summary, BakeError> {
    let page = html::page(&report);
    staging.write(PAGE, page.as_bytes())?;
    // The page cannot hold its own digest; the JSON, written after it, can.
    report.artifacts.push(report::Artifact {
        format: PAGE_FORMAT.to_owned(),
        file: PAGE.to_owned(),
        sha256: sha256_hex(page.as_bytes()),
        bytes: page.len() as u64,
    });
    let text = pretty(&report)?;
    staging.write(REPORT, text.as_bytes())?;
    let (seconds, peak) = (started.elapsed().as_secs_f64(), clock::peak_rss_bytes());
    Ok(figures::summary(job, &report, sha256_hex(text.as_bytes()), seconds, peak))
}

fn pretty(value: &impl serde::Serialize) -> Result<String, BakeError> {
    serde_json::to_string_pretty(value).map_err(|e| BakeError::Internal(e.to_string()))
}

/// Threads for work that is not timed.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
