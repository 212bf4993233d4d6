//! The load stage: model, data and engine, checked against each other before any work is done.

use std::collections::HashSet;

use super::{BakeError, Options};
use crate::api::ResolvedJob;
use crate::engine::dataset::{self, SearchSplit};
use crate::engine::{Dataset, Feed, Selected, blocks, facts};
use crate::model::digest::sha256_hex;
use crate::model::{Facts, IntakeNotes, IntakeOptions, Model};

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
    pub(super) file_bytes: u64,
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

/// Loads and checks everything a job names.
pub(super) fn load(job: &ResolvedJob, options: &Options) -> Result<Loaded, BakeError> {
    let path = &job.source.path;
    let (model, notes) = Model::intake(path, &IntakeOptions::default())?;
    let file = std::fs::read(path).map_err(|source| crate::model::ModelError::Read { path: path.clone(), source })?;
    let file_sha256 = sha256_hex(&file);
    if let Some(expected) = job.source.digest.as_deref().map(|d| d.trim_start_matches("sha256:"))
        && expected != file_sha256
    {
        let detail = format!(
            "{} has sha256 {file_sha256}, the job pins {expected}. Fetch the model again or correct the digest.",
            path.display()
        );
        return Err(BakeError::Job { field: "spec.source.digest".to_owned(), detail });
    }
    let mut remarks = Vec::new();
    let mut read = |path: &std::path::Path| {
        Dataset::load(path, &model, dataset::Limits::default()).map(|loaded| {
            remarks.extend(loaded.notes);
            loaded.dataset
        })
    };
    let validation = read(&job.validation.path)?;
    let calibration = job.calibration.as_ref().map(|c| read(&c.path)).transpose()?;
    let training = job.training.as_ref().map(|path| read(path)).transpose()?;
    let mut split = validation.split_search(SEARCH_SHARE);
    let (calibration, own) = if let (Some(all), Some(spec)) = (calibration, &job.calibration) {
        (limited(&all, spec.samples), true)
    } else {
        remarks.push("No calibration data is named: the search's third of the validation data serves.".to_owned());
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

    let probe: Vec<Feed> = calibration.feeds.iter().take(1).cloned().collect();
    let engine = options.engines.select(&model, &probe, job.runtime)?;
    remarks.extend(engine.notes.iter().cloned());
    let facts = facts::observe(&engine.engine, &model, &calibration.feeds)?;
    let mut taps = blocks::choose(&model, &facts);
    if options.low_memory && taps.len() > 1 {
        // Features are the largest thing that is held beside models and data.
        taps = taps.into_iter().step_by(2).collect();
        remarks.push("Every second internal tensor is compared, to take less memory.".to_owned());
    }
    let file_bytes = file.len() as u64;
    Ok(Loaded { model, notes, remarks, file_bytes, engine, calibration, validation, split, facts, taps })
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
