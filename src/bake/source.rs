//! The files that a bake read, named in its report so that `verify` finds them again and sees when they changed.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::ResolvedJob;
use crate::model::digest::sha256_hex;

/// What a file was read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    /// The input model.
    Model,
    /// The validation split.
    Validation,
    /// The calibration split.
    Calibration,
    /// The training split.
    Training,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceFile {
    /// What for.
    pub role: Role,
    /// Where it lay, as an absolute path.
    pub path: PathBuf,
    /// SHA-256 of its bytes.
    pub sha256: String,
}

/// The files that a job names. One that went away since it was read is left out, and `verify` will say that it is missing.
pub(super) fn files(job: &ResolvedJob) -> Vec<SourceFile> {
    let named: [(Role, Option<&Path>); 4] = [
        (Role::Model, Some(&job.source.path)),
        (Role::Validation, Some(&job.validation.path)),
        (Role::Calibration, job.calibration.as_ref().map(|c| c.path.as_path())),
        (Role::Training, job.training.as_deref()),
    ];
    let file = |(role, path): (Role, Option<&Path>)| {
        let path = std::path::absolute(path?).ok()?;
        let sha256 = sha256_hex(&std::fs::read(&path).ok()?);
        Some(SourceFile { role, path, sha256 })
    };
    named.into_iter().filter_map(file).collect()
}
