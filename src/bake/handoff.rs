//! The formats beside the model itself: the package for deployment, plain-operator ONNX, the weights alone. What is written is read again by a fresh process
//! before anything is published.

mod measured;
mod package;
mod plain;

use std::path::Path;

use super::artifact::listed as artifact;
use super::choose::Chosen;
use super::intake::Loaded;
use super::measure::Workload;
use super::publish::Staging;
use super::report::Artifact;
use super::timing::Timer;
use super::{BakeError, Options};
use crate::api::ResolvedJob;
use crate::api::bakejob::Export;
use crate::hardware::MachineFacts;
use crate::optimizer::{PassRecord, Recipe};
use crate::package::phase7;

pub(super) use measured::{Extreme, Outputs, batch_rows, difference, limits, ranges, run_all, wall, wall_plan};
pub(super) use package::{MANIFEST_FORMAT, figures, machine};

/// A finished artifact and all that its other formats are made of.
pub(super) struct Handoff<'a> {
    pub(super) job: &'a ResolvedJob,
    pub(super) options: &'a Options,
    pub(super) loaded: &'a Loaded,
    pub(super) timer: &'a Timer,
    pub(super) workload: &'a Workload,
    pub(super) machine: &'a MachineFacts,
    pub(super) lossless: &'a [PassRecord],
    pub(super) chosen: &'a Chosen,
    /// The artifact's files, as they lie in the staging folder: the model first.
    pub(super) files: &'a [Artifact],
    pub(super) recipe: &'a Recipe,
}

impl Handoff<'_> {
    /// Writes what the job asks for into the staging folder.
    pub(super) fn write(&self, staging: &mut Staging) -> Result<Vec<Artifact>, BakeError> {
        let wants = |export| self.job.exports.contains(&export);
        let mut written = Vec::new();
        if wants(Export::OnnxStandard) {
            written.extend(self.standard(staging)?);
        }
        if wants(Export::SafeTensors) {
            written.push(self.weights(staging)?);
        }
        if wants(Export::Phase7) {
            written.extend(self.package(staging)?);
        }
        Ok(written)
    }
}

/// Refuses before any work what could not be written after it.
pub(super) fn check_output(job: &ResolvedJob) -> Result<(), BakeError> {
    let folder = job.output.join(phase7::FOLDER);
    if !job.exports.contains(&Export::Phase7) || !folder.exists() || phase7::is_package(&folder) {
        return Ok(());
    }
    let source = std::io::Error::new(
        std::io::ErrorKind::AlreadyExists,
        "it is there and is no package, so it is not replaced; the export Phase7 writes a folder of this name",
    );
    Err(BakeError::Output { path: folder, source })
}

/// Refuses formats that cannot hold the model that came.
pub(super) fn check_model(job: &ResolvedJob, loaded: &Loaded) -> Result<(), BakeError> {
    let refuse = |format: &str, why: String| {
        let detail = format!("{format} cannot be written: {why}. Leave {format} out.");
        Err(BakeError::Job { field: "spec.exports".to_owned(), detail })
    };
    if job.exports.contains(&Export::OnnxStandard) {
        let others = phase7::ModelFacts::of(&loaded.model).other_operators;
        if !others.is_empty() {
            return refuse("ONNXStandard", format!("the model has operators of other domains ({})", others.join(", ")));
        }
    }
    if job.exports.contains(&Export::SafeTensors)
        && let Err(why) = plain::weights_of(&loaded.model)
    {
        return refuse("SafeTensors", why);
    }
    Ok(())
}

/// Copies a file and waits until it is on the disk.
fn copy(from: &Path, to: &Path) -> Result<(), BakeError> {
    let copy = || {
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::copy(from, to)?;
        std::fs::File::open(to)?.sync_all()
    };
    copy().map_err(|source| BakeError::Output { path: to.to_owned(), source })
}

/// Writes a file and waits until it is on the disk.
fn write(path: &Path, bytes: &[u8]) -> Result<(), BakeError> {
    use std::io::Write;
    let write = || {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut file = std::fs::File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| BakeError::Output { path: path.to_owned(), source })
}
