//! A job whose source is a package becomes one of plain paths: the graph, and the splits that the job leaves to the package.

use std::fs;

use super::{Package, PackageError, Wanted};
use crate::api::ResolvedJob;
use crate::api::bakejob::TaskMetric;
use crate::api::job::{Calibration, NO_VALIDATION, PinnedFile};

/// A job of plain paths, and the package that they lie in.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The job.
    pub job: ResolvedJob,
    /// The package; `None` when the source is a bare model.
    pub package: Option<Package>,
}

impl Wanted {
    /// The splits that a job leaves to the package.
    pub fn by(job: &ResolvedJob) -> Self {
        Self {
            validation: !job.validation.is_named(),
            calibration: job.calibration.is_none(),
            training: job.training.is_none(),
        }
    }
}

/// Opens the package that a job names, checks every file that is used, and puts their paths into the job. A bare model stays what it is.
///
/// # Errors
/// A package that is wrong, or a job without validation data whose source has none either.
pub fn settle(job: &ResolvedJob) -> Result<Settled, PackageError> {
    let source = &job.source.path;
    let needs = |detail: String| PackageError::Job { field: "spec.data.validation.uri".to_owned(), detail };
    match fs::metadata(source) {
        Ok(metadata) if metadata.is_dir() => {}
        Err(error) if !job.validation.is_named() => {
            return Err(PackageError::Read { path: source.clone(), source: error });
        }
        _ if !job.validation.is_named() => return Err(needs(NO_VALIDATION.to_owned())),
        _ => return Ok(Settled { job: job.clone(), package: None }),
    }
    let wanted = Wanted::by(job);
    let package = Package::open(source)?;
    pinned(job, &package)?;
    package.check(wanted)?;
    let mut job = job.clone();
    job.source = PinnedFile { path: package.graph(), digest: None };
    let splits = &package.manifest.splits;
    if wanted.validation {
        let split = splits.validation.as_ref().ok_or_else(|| {
            needs(format!(
                "is required: the package {} has no validation split, and without held-out data no gate can pass",
                package.folder.display()
            ))
        })?;
        job.validation.path = package.path(&split.file);
    }
    if let Some(split) = &splits.validation {
        if job.validation.metric.is_none() {
            job.validation.metric = split.metric;
            if let (Some(TaskMetric::TopK), Some(k)) = (split.metric, split.top_k) {
                job.validation.top_k = k as usize;
            }
        }
        if job.validation.outputs.is_empty() {
            job.validation.outputs.clone_from(&split.outputs);
        }
    }
    if wanted.calibration {
        job.calibration =
            splits.calibration.as_ref().map(|file| Calibration { path: package.path(file), samples: None });
    }
    if wanted.training {
        job.training = splits.training.as_ref().map(|file| package.path(file));
    }
    Ok(Settled { job, package: Some(package) })
}

/// Compares the digest that the job pins with the manifest's, which names all others.
fn pinned(job: &ResolvedJob, package: &Package) -> Result<(), PackageError> {
    let Some(expected) = job.source.digest.as_deref().map(|d| d.trim_start_matches("sha256:")) else { return Ok(()) };
    let detail = match &package.manifest_sha256 {
        Some(found) if found == expected => return Ok(()),
        Some(found) => format!(
            "the manifest of {} has sha256 {found}, the job pins {expected}. Fetch the package again or correct the digest.",
            package.folder.display()
        ),
        None => format!(
            "{} is laid out as the trainer leaves it, without a manifest that a digest could pin. Make a package of it with `bakehouse package`.",
            package.folder.display()
        ),
    };
    Err(PackageError::Job { field: "spec.source.digest".to_owned(), detail })
}
