//! The manifest of a model artifact.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::File;
use super::config::{self, Facts};
use crate::api::digest::sha256_hex;
use crate::package::files::{wrong_digest, wrong_path};

/// Media type of a manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// What makes it the manifest of a model.
pub const ARTIFACT_TYPE: &str = "application/vnd.cncf.model.manifest.v1+json";

/// Media type of the config.
const CONFIG_TYPE: &str = "application/vnd.cncf.model.config.v1+json";

/// Begin and end of the media type of a layer that is one file as it is.
const LAYER: (&str, &str) = ("application/vnd.cncf.model.", ".v1.raw");

/// Annotation of a layer: the path of its file.
pub const PATH_KEY: &str = "org.cncf.model.filepath";

/// Annotation in the index of a layout: the tag.
pub const REF_KEY: &str = "org.opencontainers.image.ref.name";

/// A blob that is referred to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// `sha256:` and hexadecimal digits.
    pub digest: String,
    /// Its bytes.
    pub size: u64,
    /// For a manifest in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What else is said of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    fn new(media_type: impl Into<String>, sha256: &str, size: u64) -> Self {
        let digest = format!("sha256:{sha256}");
        Self { media_type: media_type.into(), digest, size, artifact_type: None, annotations: BTreeMap::new() }
    }

    /// The hexadecimal digits of the digest.
    pub fn sha256(&self) -> &str {
        self.digest.strip_prefix("sha256:").unwrap_or(&self.digest)
    }
}

/// A manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    pub schema_version: u32,
    /// [`MANIFEST_TYPE`].
    pub media_type: String,
    /// [`ARTIFACT_TYPE`].
    #[serde(default)]
    pub artifact_type: String,
    /// The config.
    pub config: Descriptor,
    /// The files.
    pub layers: Vec<Descriptor>,
    /// What else is said of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A manifest with its config, as they are stored.
#[derive(Debug, Clone)]
pub struct Built {
    /// The manifest.
    pub manifest: Manifest,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Those of the config.
    pub config: Vec<u8>,
}

impl Built {
    /// The manifest's own digest, in hexadecimal.
    pub fn sha256(&self) -> String {
        sha256_hex(&self.bytes)
    }

    /// The manifest as an index refers to it.
    pub fn descriptor(&self, tag: &str) -> Descriptor {
        let mut descriptor = Descriptor::new(MANIFEST_TYPE, &self.sha256(), self.bytes.len() as u64);
        descriptor.artifact_type = Some(ARTIFACT_TYPE.to_owned());
        descriptor.annotations.insert(REF_KEY.to_owned(), tag.to_owned());
        descriptor
    }
}

impl Manifest {
    /// The manifest of these files, in this order.
    pub fn build(facts: &Facts, files: &[File], annotations: BTreeMap<String, String>) -> Built {
        let config = config::json(facts, files);
        let layer = |file: &File| {
            let media_type = format!("{}{}{}", LAYER.0, kind(&file.path), LAYER.1);
            let mut layer = Descriptor::new(media_type, &file.sha256, file.bytes);
            layer.annotations.insert(PATH_KEY.to_owned(), file.path.clone());
            layer
        };
        let manifest = Self {
            schema_version: 2,
            media_type: MANIFEST_TYPE.to_owned(),
            artifact_type: ARTIFACT_TYPE.to_owned(),
            config: Descriptor::new(CONFIG_TYPE, &sha256_hex(&config), config.len() as u64),
            layers: files.iter().map(layer).collect(),
            annotations,
        };
        let bytes = serde_json::to_vec(&manifest).unwrap_or_default();
        Built { manifest, bytes, config }
    }

    /// Reads what somebody stored.
    ///
    /// # Errors
    /// A sentence on what makes it no manifest of a model whose layers are plain files.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| format!("its manifest cannot be read ({e})"))?;
        if manifest.schema_version != 2 || manifest.media_type != MANIFEST_TYPE {
            return Err(format!("its manifest is a {}, and not a {MANIFEST_TYPE}", manifest.media_type));
        }
        if manifest.artifact_type != ARTIFACT_TYPE {
            return Err(format!("it is no model: its artifactType is '{}'", manifest.artifact_type));
        }
        manifest.files()?;
        Ok(manifest)
    }

    /// Its files, in the order of the layers.
    ///
    /// # Errors
    /// A sentence on the layer that is no plain file.
    pub fn files(&self) -> Result<Vec<File>, String> {
        let mut paths = BTreeSet::new();
        let file = |layer: &Descriptor| {
            let Some(path) = layer.annotations.get(PATH_KEY) else {
                return Err(format!("the layer {} has no {PATH_KEY}", layer.digest));
            };
            if !layer.media_type.starts_with(LAYER.0) || !layer.media_type.ends_with(LAYER.1) {
                let found = &layer.media_type;
                return Err(format!("the layer of {path} is a {found}; only layers of one plain file are read"));
            }
            if let Some(why) = wrong_path(path).or_else(|| wrong_digest(layer.sha256())) {
                return Err(why);
            }
            if !paths.insert(path.clone()) {
                return Err(format!("two layers are {path}"));
            }
            Ok(File { path: path.clone(), sha256: layer.sha256().to_owned(), bytes: layer.size })
        };
        self.layers.iter().map(file).collect()
    }
}

/// What a file is for, in the specification's words.
fn kind(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name.rsplit('.').next() {
        _ if matches!(name, "samples.safetensors" | "outputs.safetensors") => "dataset",
        Some("json") => "weight.config",
        Some("html" | "md") => "doc",
        _ => "weight",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn built() -> Built {
        let facts = Facts { name: "m".into(), sha256: "a".repeat(64), parameters: 10, precision: Vec::new() };
        let file = |path: &str| File { path: path.into(), sha256: "a".repeat(64), bytes: 3 };
        let files = ["model.onnx", "recipe.json", "report.html", "phase7/samples.safetensors"].map(file);
        Manifest::build(&facts, &files, BTreeMap::new())
    }

    #[test]
    fn the_manifest_is_the_one_of_the_specification_and_reads_back() {
        let built = built();
        let json: Value = serde_json::from_slice(&built.bytes).unwrap();
        assert_eq!(json["mediaType"], "application/vnd.oci.image.manifest.v1+json");
        assert_eq!(json["artifactType"], "application/vnd.cncf.model.manifest.v1+json");
        assert_eq!(json["config"]["mediaType"], "application/vnd.cncf.model.config.v1+json");
        assert_eq!(json["config"]["digest"], format!("sha256:{}", sha256_hex(&built.config)));
        let kinds: Vec<&str> =
            json["layers"].as_array().unwrap().iter().map(|l| l["mediaType"].as_str().unwrap()).collect();
        assert_eq!(
            kinds,
            ["weight", "weight.config", "doc", "dataset"].map(|k| format!("application/vnd.cncf.model.{k}.v1.raw"))
        );
        assert_eq!(json["layers"][0]["annotations"], json!({"org.cncf.model.filepath": "model.onnx"}));
        assert_eq!(Manifest::parse(&built.bytes).unwrap(), built.manifest);
        assert_eq!(super::tests::built().sha256(), built.sha256(), "the same files, the same digest");
    }

    #[test]
    fn what_is_no_manifest_of_plain_files_is_refused_by_name() {
        let good: Value = serde_json::from_slice(&built().bytes).unwrap();
        for (at, value, said) in [
            ("/mediaType", json!("application/vnd.docker.distribution.manifest.v2+json"), "docker"),
            ("/artifactType", json!("application/vnd.oci.empty.v1+json"), "no model"),
            ("/layers/0/annotations", json!({}), "has no org.cncf.model.filepath"),
            ("/layers/0/annotations/org.cncf.model.filepath", json!("../x"), "leaves the package"),
            ("/layers/0/annotations/org.cncf.model.filepath", json!("recipe.json"), "two layers are recipe.json"),
            ("/layers/0/digest", json!("sha512:00"), "no SHA-256"),
            ("/layers/0/mediaType", json!("application/vnd.cncf.model.weight.v1.tar"), "v1.tar"),
            ("/layers", json!(7), "cannot be read"),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(at).unwrap() = value;
            let error = Manifest::parse(bad.to_string().as_bytes()).unwrap_err();
            assert!(error.contains(said), "{at}: {error}");
        }
    }
}
