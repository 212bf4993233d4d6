//! The load stage: model, data and engine, checked against each other before any work is done.

use std::collections::HashSet;
use std::path::Path;

use super::source::{Role, SourceFile};
use super::{BakeError, Options};
use crate::api::ResolvedJob;
use crate::api::bakejob::Level;
use crate::engine::dataset::{self, SearchSplit};
use crate::engine::{Dataset, EngineError, Feed, LoadOptions, Selected, blocks, facts};
use crate::model::{Facts, IntakeNotes, IntakeOptions, Limits, Model, Source, mapped, stream};
use crate::package::{self, Package};

/// Share of the validation samples that the search may look at; the verdict is made on the others.
pub(super) const SEARCH_SHARE: f64 = 1.0 / 3.0;

/// Share of the validation samples that may stand in another split; they are left out then.
const MOST_SHARED: f64 = 0.02;

/// Feeds that every pass is checked on.
const CHECK_FEEDS: usize = 4;

/// Everything the later stages stand on.
pub(super) struct Loaded {
    pub(super) model: Model,
    pub(super) notes: IntakeNotes,
    /// Sentences about the data and the engine.
    pub(super) remarks: Vec<String>,
    /// The files of the input model, as they were when it was loaded.
    pub(super) source: Source,
    pub(super) file_bytes: u64,
    /// Digest of the model file.
    pub(super) file_sha256: String,
    /// Every file that was loaded, with the digest of what was loaded.
    pub(super) files: Vec<SourceFile>,
    pub(super) engine: Selected,
    pub(super) calibration: Dataset,
    pub(super) validation: Dataset,
    pub(super) split: SearchSplit,
    pub(super) facts: Facts,
    pub(super) taps: Vec<String>,
}

impl Loaded {
    /// The samples that decisions rest on, at most `most` of them.
    pub(super) fn search(&self, most: usize) -> Dataset {
        self.validation.select(&self.split.search[..most.min(self.split.search.len())])
    }

    /// The samples that the gates see, and nothing before them.
    pub(super) fn verdict(&self) -> Dataset {
        self.validation.select(&self.split.verdict)
    }

    /// A few real samples for the check after each pass: calibration, so that nothing of the verdict is looked at.
    pub(super) fn check_feeds(&self) -> Vec<Feed> {
        self.calibration.feeds.iter().take(CHECK_FEEDS).cloned().collect()
    }
}

/// Loads and checks everything a job names. `package` is what its files lie in, when they lie in one.
pub(super) fn load(job: &ResolvedJob, package: Option<&Package>, options: &Options) -> Result<Loaded, BakeError> {
    let path = &job.source.path;
    let (model, source) = Model::load_source(path, Limits::default())?;
    let (model, notes) = model.prepare(&IntakeOptions::default()).map_err(|e| e.in_file(path))?;
    let file_sha256 = stream::sha256(&source.file);
    if let Some(expected) = job.source.digest.as_deref().map(|d| d.trim_start_matches("sha256:"))
        && expected != file_sha256
    {
        let detail = format!(
            "{} has sha256 {file_sha256}, the job pins {expected}. Fetch the model again or correct the digest.",
            path.display()
        );
        return Err(BakeError::Job { field: "spec.source.digest".to_owned(), detail });
    }
    let mut files = of_package(job, package);
    let mut keep = |role, path: &Path, sha256: String| {
        package.map_or(Ok(()), |package| package.unchanged(path, &sha256))?;
        files.push(SourceFile::new(role, path, sha256, &job.origins));
        Ok::<_, BakeError>(())
    };
    if package.is_none_or(|package| package.manifest.model.weights.is_none()) {
        keep(Role::Model, path, file_sha256.clone())?;
        for (location, bytes) in &source.beside {
            keep(Role::ModelData, &path.with_file_name(location), stream::sha256(bytes))?;
        }
    }
    let mut remarks = Vec::new();
    let mut read = |role, path: &Path| {
        let loaded = Dataset::load(path, &model, dataset::Limits::default())?;
        remarks.extend(loaded.notes);
        keep(role, path, loaded.sha256)?;
        Ok::<_, BakeError>(loaded.dataset)
    };
    let validation = read(Role::Validation, &job.validation.path)?;
    let calibration = job.calibration.as_ref().map(|c| read(Role::Calibration, &c.path)).transpose()?;
    let training = job.training.as_ref().map(|path| read(Role::Training, path)).transpose()?;
    let mut split = validation.split_search(SEARCH_SHARE);
    let (calibration, own) = if let (Some(all), Some(spec)) = (calibration, &job.calibration) {
        (limited(&all, spec.samples), true)
    } else {
        remarks.push(without_calibration(job.level));
        (validation.select(&split.search), false)
    };
    if calibration.is_empty() || split.verdict.is_empty() {
        let detail = format!(
            "{} holds too few samples ({}) to search on a third and decide on the rest.",
            job.validation.path.display(),
            validation.len()
        );
        return Err(BakeError::Data(detail));
    }
    for (field, other) in
        [("spec.data.calibration", own.then_some(&calibration)), ("spec.data.training", training.as_ref())]
    {
        let seen = other.map_or(Ok(HashSet::new()), |other| seen_before(field, &validation, other))?;
        if !seen.is_empty() {
            remarks.push(format!("{} validation samples are in {field} too and decide nothing.", seen.len()));
            split.search.retain(|i| !seen.contains(i));
            split.verdict.retain(|i| !seen.contains(i));
        }
    }

    // All of the data was looked at once; engines need the room.
    mapped::release();
    let probe: Vec<Feed> = calibration.feeds.iter().take(1).cloned().collect();
    let probed = job.calibration.as_ref().map_or(&job.validation.path, |c| &c.path);
    let engine = options
        .engines
        .select(&model, &probe, job.runtime)
        .map_err(|error| misfit(probed, &calibration, &model).unwrap_or(error))?;
    runs(&engine, &job.validation.path, &validation, &model)?;
    remarks.extend(engine.notes.iter().cloned());
    let facts = facts::observe(&engine.engine, &model, &calibration.feeds)?;
    let mut taps = blocks::choose(&model, &facts);
    if options.low_memory && taps.len() > 1 {
        // Features are the largest thing that is held beside models and data.
        taps = taps.into_iter().step_by(2).collect();
        remarks.push("Every second internal tensor is compared, to take less memory.".to_owned());
    }
    if taps.is_empty() {
        remarks.push("No internal tensor can be read; FeaturePreservation compares the outputs.".to_owned());
    }
    let file_bytes = source.bytes();
    Ok(Loaded {
        model,
        notes,
        remarks,
        source,
        file_bytes,
        file_sha256,
        files,
        engine,
        calibration,
        validation,
        split,
        facts,
        taps,
    })
}

/// The files of a package that were read before the model was: its manifest, and where its weights lie apart, all that the model was put together from.
pub(super) fn of_package(job: &ResolvedJob, package: Option<&Package>) -> Vec<SourceFile> {
    let Some(package) = package else { return Vec::new() };
    let file = |role, path: &Path, sha256: &str| SourceFile::new(role, path, sha256.to_owned(), &job.origins);
    let mut files = Vec::new();
    if let Some(sha256) = &package.manifest_sha256 {
        files.push(file(Role::Manifest, &package.folder.join(package::MANIFEST_FILE), sha256));
    }
    let model = &package.manifest.model;
    if let Some(weights) = &model.weights {
        files.push(file(Role::Model, &package.graph(), &model.graph.sha256));
        files.extend(model.external_data.iter().map(|f| file(Role::ModelData, &package.path(f), &f.sha256)));
        files.push(file(Role::Weights, &package.path(&weights.file), &weights.file.sha256));
    }
    files
}

/// What is wrong with the samples of a file that no engine runs, when it is to be seen from their shapes.
fn misfit(path: &Path, samples: &Dataset, model: &Model) -> Option<EngineError> {
    let detail = samples.misfit(model)?;
    Some(EngineError::Data(format!(
        "{}: {detail} No engine at hand runs it like that. Save samples of the shape that `bakehouse inspect` shows.",
        path.display()
    )))
}

/// Refuses samples that contradict the declared inputs, unless the engine runs them all the same: then it is the declaration that is wrong.
fn runs(engine: &Selected, path: &Path, samples: &Dataset, model: &Model) -> Result<(), EngineError> {
    let (Some(error), Some(first)) = (misfit(path, samples, model), samples.feeds.first()) else { return Ok(()) };
    let mut session = engine.engine.load(model, &LoadOptions::default())?;
    session.run(first).map(|_| ()).map_err(|_| error)
}

/// What is said where a job names no calibration data.
fn without_calibration(level: Level) -> String {
    let said = "No calibration data is named: the search's third of the validation data serves.";
    if level < Level::Medium {
        return said.to_owned();
    }
    format!(
        "{said} Ranges of activations are then found on the samples that candidates are ordered by; the verdict is on others all the same. Name \
         spec.data.calibration."
    )
}

fn limited(all: &Dataset, samples: Option<usize>) -> Dataset {
    let keep: Vec<usize> = (0..samples.unwrap_or(usize::MAX).min(all.len())).collect();
    all.select(&keep)
}

/// Validation samples that another split holds too. A few slip in where samples are collected automatically, and are left out; more is a mistake.
fn seen_before(field: &str, validation: &Dataset, other: &Dataset) -> Result<HashSet<usize>, BakeError> {
    let shared = validation.overlap(other);
    let seen: HashSet<usize> = shared.iter().map(|(i, _)| *i).collect();
    match shared.first() {
        Some((here, there)) if seen.len() as f64 > MOST_SHARED * validation.len() as f64 => {
            Err(BakeError::Data(format!(
                "spec.data.validation and {field} share {} of {} samples (sample {here} is sample {there} of the other). Take them out of one, or the verdict \
             would not be on held-out data.",
                seen.len(),
                validation.len()
            )))
        }
        _ => Ok(seen),
    }
}
