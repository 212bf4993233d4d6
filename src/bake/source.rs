//! The files that a bake read, named in its report so that `verify` finds them again and sees when they changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a file was read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    /// The input model.
    Model,
    /// External data of the input model.
    ModelData,
    /// Weights that took the place of those of the input model.
    Weights,
    /// The manifest of the package that the input came in.
    Manifest,
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
    /// Where it lay, as an absolute path, or as the URI it was fetched from.
    pub path: PathBuf,
    /// SHA-256 of the bytes that were loaded.
    pub sha256: String,
}

impl SourceFile {
    /// A file and the digest of the bytes that were loaded from it. `origins` tells of files that were fetched.
    pub(super) fn new(role: Role, path: &Path, sha256: String, origins: &BTreeMap<PathBuf, String>) -> Self {
        let lay = match origins.get(path) {
            Some(uri) => PathBuf::from(uri),
            None => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        };
        Self { role, path: lay, sha256 }
    }
}
