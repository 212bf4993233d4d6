//! A model as an OCI artifact, by the CNCF ModelPack specification: one manifest of type `application/vnd.cncf.model.manifest.v1+json`, one small config,
//! and each file as a layer of its own, neither archived nor compressed, under the path that an annotation names. The same files give the same digests.
//!
//! In a folder it is an OCI image layout ([`write`], [`open`]); in a registry the same blobs lie under the same digests.

mod config;
mod layout;
mod manifest;

pub use config::Facts;
pub use layout::{Content, Layout, is_layout, open, write};
pub use manifest::{ARTIFACT_TYPE, Built, Descriptor, MANIFEST_TYPE, Manifest, PATH_KEY, REF_KEY};

use serde::{Deserialize, Serialize};

/// Name of the layout's folder in the output of a bake.
pub const FOLDER: &str = "oci";

/// A file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its path, relative to the artifact's root.
    pub path: String,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}
