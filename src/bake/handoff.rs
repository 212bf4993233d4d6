//! The formats beside the model itself: the package for deployment, plain-operator ONNX, the weights alone, tract's NNEF, and an OCI image layout of
//! them all. What is written is read again by a fresh process before anything is published.

mod image;
mod measured;
#[cfg(feature = "tract")]
mod nnef;
mod package;
mod plain;

use std::path::Path;

use super::artifact::listed as artifact;
use super::choose::Chosen;
use super::intake::Loaded;
use super::measure::Workload;
use super::publish::Staging;
use super::report::{Artifact, Reproduced};
use super::timing::Timer;
use super::{BakeError, Options};
use crate::api::ResolvedJob;
use crate::api::bakejob::Export;
use crate::hardware::MachineFacts;
use crate::optimizer::int8::Int4Blocks;
use crate::optimizer::{PassRecord, Recipe};
use crate::package::{Package, oci, phase7};

pub(super) use measured::{Extreme, Outputs, batch_rows, difference, limits, ranges, run_all, wall, wall_plan};
pub(super) use package::{MANIFEST_FORMAT, figures, machine, source_claims};

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
    /// The package that the input came in, and its trainer's figures measured again.
    pub(super) package: Option<(&'a Package, &'a [Reproduced])>,
}

impl Handoff<'_> {
    /// Writes what the job asks for into the staging folder. With the files, a sentence on each format that cannot hold the artifact.
    pub(super) fn write(&self, staging: &mut Staging) -> Result<(Vec<Artifact>, Vec<String>), BakeError> {
        let wants = |export| self.job.exports.contains(&export);
        let (mut written, mut missing) = (Vec::new(), Vec::new());
        if wants(Export::OnnxStandard) {
            written.extend(self.standard(staging)?);
        }
        #[cfg(feature = "tract")]
        if wants(Export::Nnef) {
            match self.nnef(staging)? {
                Ok(archive) => written.push(archive),
                Err(why) => missing.push(format!("NNEF was not written: {why}.")),
            }
        }
        if wants(Export::SafeTensors) {
            written.push(self.weights(staging)?);
        }
        if wants(Export::Phase7) {
            written.extend(self.package(staging)?);
        }
        // Last: it holds all others.
        if wants(Export::Oci) {
            let layout = self.image(staging, &written)?;
            written.extend(layout);
        }
        Ok((written, missing))
    }
}

/// Refuses before any work what could not be written after it.
pub(super) fn check_output(job: &ResolvedJob) -> Result<(), BakeError> {
    let folders = [
        (Export::Phase7, phase7::FOLDER, "package", phase7::is_package as fn(&Path) -> bool),
        (Export::Oci, oci::FOLDER, "OCI image layout", oci::is_layout),
    ];
    for (export, name, kind, is_one) in folders {
        let folder = job.output.join(name);
        if !job.exports.contains(&export) || !folder.exists() || is_one(&folder) {
            continue;
        }
        let text = format!(
            "it is there and is no {kind}, so it is not replaced; the export {} writes a folder of this name",
            if export == Export::Oci { "OCI" } else { "Phase7" }
        );
        let source = std::io::Error::new(std::io::ErrorKind::AlreadyExists, text);
        return Err(BakeError::Output { path: folder, source });
    }
    Ok(())
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
        let pass = Int4Blocks::NAME;
        if job.passes.iter().flatten().any(|name| name == pass) {
            return refuse("ONNXStandard", format!("the pass {pass} brings in com.microsoft.MatMulNBits"));
        }
    }
    if job.exports.contains(&Export::SafeTensors)
        && let Err(why) = plain::weights_of(&loaded.model)
    {
        return refuse("SafeTensors", why);
    }
    #[cfg(feature = "tract")]
    if job.exports.contains(&Export::Nnef)
        && let Err(why) = nnef::check(loaded)
    {
        return refuse("NNEF", why);
    }
    #[cfg(not(feature = "tract"))]
    if job.exports.contains(&Export::Nnef) {
        return refuse("NNEF", "tract, whose format it is, is not part of this program".to_owned());
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
