//! Opening a package: everything that can be checked without running the model. Nothing that fails a check of its file is read any further.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::coherence;
use super::defect::{Defect, Fault};
use super::deployment::{DEPLOYMENT_VERSION, DeploymentConfig};
use super::manifest::{FileRole, Manifest, ModelFacts, PHASE7_VERSION, PackageFile};
use super::signature::{Port, Signature};
use super::{CONFIG_FILE, MANIFEST_FILE};
use crate::api::digest::sha256_hex_of;
use crate::model::Model;

/// One check that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// What is claimed, e.g. the name of a file.
    pub claim: String,
    /// What the package says.
    pub claimed: String,
    /// What was found.
    pub found: String,
    /// What is wrong with it, if anything.
    pub fault: Option<Fault>,
}

/// A package as far as it could be read, with all that was checked on the way.
#[derive(Debug, Default)]
pub struct Opened {
    /// The manifest, when it could be read.
    pub manifest: Option<Manifest>,
    /// The deployment config, when it could be read.
    pub config: Option<DeploymentConfig>,
    /// The model, when its files are those that are listed.
    pub model: Option<Model>,
    /// The checks, in order.
    pub checks: Vec<Checked>,
}

impl Opened {
    /// Whether nothing was found to be wrong.
    pub fn is_sound(&self) -> bool {
        self.checks.iter().all(|c| c.fault.is_none())
    }

    pub(super) fn add(
        &mut self,
        claim: impl Into<String>,
        claimed: impl Into<String>,
        found: impl Into<String>,
        fault: Option<Fault>,
    ) {
        self.checks.push(Checked { claim: claim.into(), claimed: claimed.into(), found: found.into(), fault });
    }
}

/// Whether a folder looks like a package: it holds a manifest.
pub fn is_package(folder: &Path) -> bool {
    folder.join(MANIFEST_FILE).exists()
}

/// Reads the package in `folder` and checks files, versions, signature, recipe, and what it says twice.
pub fn open(folder: &Path) -> Opened {
    let mut opened = Opened::default();
    let manifest = match manifest(folder) {
        Ok(manifest) => manifest,
        Err(fault) => {
            opened.add(MANIFEST_FILE, PHASE7_VERSION, "-", Some(fault));
            return opened;
        }
    };
    opened.add(MANIFEST_FILE, PHASE7_VERSION, &manifest.api_version, None);
    let intact = files(folder, &manifest, &mut opened);
    let is_intact = |file: &PackageFile| intact.contains(&file.path);

    if let Some(file) = manifest.file(FileRole::DeploymentConfig).filter(|f| is_intact(f)) {
        match config(&folder.join(&file.path)) {
            Ok(config) => {
                opened.add(CONFIG_FILE, DEPLOYMENT_VERSION, &config.api_version, None);
                opened.config = Some(config);
            }
            Err(fault) => opened.add(CONFIG_FILE, DEPLOYMENT_VERSION, "-", Some(fault)),
        }
    }
    let parts = |f: &&PackageFile| f.role.is_of_the_model();
    if let Some(file) = manifest.file(FileRole::Model).filter(|_| manifest.files.iter().filter(parts).all(is_intact)) {
        match Model::load(&folder.join(&file.path)) {
            Ok(model) => opened.model = Some(model),
            Err(error) => {
                let fault = Fault::new(Defect::ModelUnreadable, error.to_string());
                opened.add(&file.path, "a model", "-", Some(fault));
            }
        }
    }
    if let Some(model) = opened.model.take() {
        of_model(folder, &manifest, &model, &mut opened, &is_intact);
        opened.model = Some(model);
    }
    if let Some(config) = opened.config.take() {
        coherence::check(&manifest, &config, &mut opened);
        opened.config = Some(config);
    }
    opened.manifest = Some(manifest);
    opened
}

fn manifest(folder: &Path) -> Result<Manifest, Fault> {
    let unreadable = |why: &dyn std::fmt::Display| {
        Fault::new(Defect::ManifestUnreadable, format!("{MANIFEST_FILE} {why}. Fetch the package again."))
    };
    let text = fs::read(folder.join(MANIFEST_FILE)).map_err(|error| unreadable(&format!("cannot be read: {error}")))?;
    let value: Value =
        serde_json::from_slice(&text).map_err(|error| unreadable(&format!("is truncated or no JSON ({error})")))?;
    versioned(MANIFEST_FILE, value, PHASE7_VERSION)
}

fn config(path: &Path) -> Result<DeploymentConfig, Fault> {
    let broken = |why: String| Fault::new(Defect::SchemaBroken, format!("{CONFIG_FILE} {why}"));
    let text = fs::read(path).map_err(|error| broken(format!("cannot be read: {error}")))?;
    let value = serde_json::from_slice(&text).map_err(|error| broken(format!("is no JSON ({error})")))?;
    versioned(CONFIG_FILE, value, DEPLOYMENT_VERSION)
}

/// Takes a document of exactly the version that this build reads.
fn versioned<T: DeserializeOwned>(file: &str, value: Value, version: &str) -> Result<T, Fault> {
    let named = value["apiVersion"].as_str().unwrap_or("none").to_owned();
    if named != version {
        let kind = version.rsplit_once('/').map_or(version, |(kind, _)| kind);
        let remedy =
            if named.starts_with(kind) { "Use the Bakehouse that wrote it." } else { "It is none of this kind." };
        let detail = format!("{file}: apiVersion is '{named}', this build reads '{version}'. {remedy}");
        return Err(Fault::new(Defect::UnknownVersion, detail));
    }
    serde_json::from_value(value)
        .map_err(|e| Fault::new(Defect::SchemaBroken, format!("{file} does not keep the schema of {version}: {e}")))
}

/// Checks every listed file and that there is no other. Returns the paths of those that are what the manifest says.
fn files(folder: &Path, manifest: &Manifest, opened: &mut Opened) -> BTreeSet<String> {
    let mut intact = BTreeSet::new();
    let mut listed = BTreeSet::new();
    for file in &manifest.files {
        let claimed = format!("{} ({} bytes)", short(&file.sha256), file.bytes);
        if !listed.insert(file.path.clone()) {
            let fault = Fault::new(Defect::ListedTwice, format!("{MANIFEST_FILE}: files lists {} twice", file.path));
            opened.add(&file.path, claimed, "-", Some(fault));
            continue;
        }
        match digest(folder, &file.path) {
            Err(fault) => opened.add(&file.path, claimed, "-", Some(fault)),
            Ok((sha256, bytes)) => {
                let same = sha256.eq_ignore_ascii_case(&file.sha256) && bytes == file.bytes;
                let fault = (!same).then(|| {
                    Fault::new(Defect::DigestMismatch, format!("{} is another file than the manifest lists", file.path))
                });
                if same {
                    intact.insert(file.path.clone());
                }
                opened.add(&file.path, claimed, format!("{} ({bytes} bytes)", short(&sha256)), fault);
            }
        }
    }
    for role in FileRole::NEEDED {
        if manifest.file(role).is_none() {
            let fault = Fault::new(Defect::PartMissing, format!("{MANIFEST_FILE}: files lists no {role:?}"));
            opened.add(format!("{role:?}"), "listed", "not listed", Some(fault));
        }
    }
    let there = lying_in(folder);
    let extra: Vec<&str> =
        there.iter().filter(|p| *p != MANIFEST_FILE && !listed.contains(*p)).map(String::as_str).collect();
    let fault = (!extra.is_empty())
        .then(|| Fault::new(Defect::ExtraFile, format!("{MANIFEST_FILE} does not list {}", extra.join(", "))));
    opened.add("no other file", "none", format!("{}", extra.len()), fault);
    intact
}

/// SHA-256 and size of a listed file, which must be a plain one inside the package.
fn digest(folder: &Path, path: &str) -> Result<(String, u64), Fault> {
    let unsafe_path =
        |why: &str| Fault::new(Defect::UnsafePath, format!("{MANIFEST_FILE}: files names '{path}', {why}"));
    let plain = !path.is_empty()
        && path.split('/').all(|part| !part.is_empty())
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
        && Path::new(path).components().count() == path.split('/').count();
    if !plain {
        return Err(unsafe_path("which leaves the package"));
    }
    if path == MANIFEST_FILE {
        return Err(unsafe_path("which cannot hold its own digest"));
    }
    let whole = folder.join(path);
    let missing = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Fault::new(Defect::FileMissing, format!("{path} is listed in {MANIFEST_FILE} and is not there"))
        }
        _ => Fault::new(Defect::FileMissing, format!("{path} cannot be read: {error}")),
    };
    let kind = fs::symlink_metadata(&whole).map_err(missing)?.file_type();
    let inside =
        |path: &Path| path.canonicalize().ok().zip(folder.canonicalize().ok()).is_some_and(|(p, f)| p.starts_with(f));
    if !kind.is_file() || !inside(&whole) {
        return Err(unsafe_path("which is a link or no plain file"));
    }
    let file = fs::File::open(&whole).map_err(missing)?;
    let sha256 = sha256_hex_of(&file).map_err(missing)?;
    Ok((sha256, file.metadata().map_err(missing)?.len()))
}

/// Paths of everything in a folder that is no folder, with `/` between parts. Links are not followed.
fn lying_in(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![(folder.to_owned(), String::new())];
    while let Some((at, before)) = folders.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
            let path = format!("{before}{}", entry.file_name().to_string_lossy());
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                folders.push((entry.path(), format!("{path}/")));
            } else {
                found.insert(path);
            }
        }
    }
    found
}

/// The part of a recipe that says what it ends in.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecipeEnd {
    output_sha256: String,
    steps: Vec<RecipeStep>,
}

#[derive(Deserialize)]
struct RecipeStep {
    pass: String,
}

/// What the package says of the model, against the model itself.
fn of_model(
    folder: &Path,
    manifest: &Manifest,
    model: &Model,
    opened: &mut Opened,
    is_intact: &dyn Fn(&PackageFile) -> bool,
) {
    let listed = manifest.file(FileRole::Model);
    let sha256 = listed.map_or("", |f| f.sha256.as_str());
    if let Some(config) = &opened.config {
        let claim = &config.model;
        let same = claim.sha256.eq_ignore_ascii_case(sha256) && listed.is_some_and(|f| f.path == claim.file);
        let fault = (!same).then(|| {
            let detail = format!("{CONFIG_FILE}: model is {} ({})", claim.file, short(&claim.sha256));
            Fault::new(Defect::ModelMismatch, format!("{detail}, the package holds another one"))
        });
        let (said, own) = (config.signature.clone(), Signature::of(model));
        let bare = |ports: Vec<Port>| ports.into_iter().map(|p| Port { range: None, ..p }).collect();
        let said = Signature { inputs: bare(said.inputs), outputs: bare(said.outputs) };
        let wrong = (said != own).then(|| {
            Fault::new(Defect::SignatureMismatch, format!("{CONFIG_FILE}: signature is not what the model declares"))
        });
        let claimed = short(&config.model.sha256);
        opened.add("model of the deployment config", claimed, short(sha256), fault);
        opened.add("signature", said.text(), own.text(), wrong);
    }
    let facts = ModelFacts::of(model);
    let text = |facts: &ModelFacts| {
        let opsets: Vec<String> = facts.opsets.iter().map(|(domain, version)| format!("{domain} {version}")).collect();
        let others =
            if facts.other_operators.is_empty() { "none".to_owned() } else { facts.other_operators.join(", ") };
        format!("IR {}, {}, operators of other domains: {others}", facts.ir_version, opsets.join(", "))
    };
    let fault = (facts != manifest.model).then(|| {
        Fault::new(
            Defect::SignatureMismatch,
            format!("{MANIFEST_FILE}: model says other opsets or operators than the file"),
        )
    });
    opened.add("opsets and operators", text(&manifest.model), text(&facts), fault);

    let claim = &manifest.traceability.recipe;
    let Some(file) = manifest.file(FileRole::Recipe).filter(|f| is_intact(f)) else { return };
    let wrong = |why: &str| Some(Fault::new(Defect::RecipeMismatch, format!("{}: {why}", file.path)));
    let read = fs::read(folder.join(&file.path)).ok().and_then(|text| serde_json::from_slice::<RecipeEnd>(&text).ok());
    let Some(recipe) = read else {
        return opened.add("recipe", "ends in the model", "-", wrong("is no recipe"));
    };
    // A model in several files is compared as the one that it would be.
    let ends_in = |digest: &str| digest == sha256 || digest == model.sha256();
    let steps: Vec<&str> = recipe.steps.iter().map(|s| s.pass.as_str()).collect();
    let fault = if !ends_in(&recipe.output_sha256) {
        wrong("it ends in another model")
    } else if claim.output_sha256 != recipe.output_sha256 || claim.steps != steps || claim.file != file.path {
        wrong("it is not what traceability.recipe says")
    } else {
        None
    };
    opened.add("recipe", "ends in the model", format!("{} passes", steps.len()), fault);
}

/// The first digits of a digest: enough to compare by eye, few enough for a table.
fn short(sha256: &str) -> String {
    sha256.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> Fault {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(MANIFEST_FILE), text).unwrap();
        let opened = open(folder.path());
        assert!(opened.manifest.is_none() && opened.checks.len() == 1);
        opened.checks[0].fault.clone().unwrap()
    }

    #[test]
    fn a_manifest_that_cannot_be_read_is_said_by_name() {
        assert_eq!(fault("{\"apiVersion\":").defect, Defect::ManifestUnreadable);
        assert_eq!(fault("{}").defect, Defect::UnknownVersion);
        let said = fault("{\"apiVersion\": \"bakehouse.dev/phase7/v2\"}");
        assert!(said.defect == Defect::UnknownVersion && said.detail.contains("phase7/v2"), "{said}");
        assert_eq!(fault("{\"apiVersion\": \"bakehouse.dev/phase5/v1\"}").defect, Defect::UnknownVersion);
        assert_eq!(fault(&format!("{{\"apiVersion\": \"{PHASE7_VERSION}\"}}")).defect, Defect::SchemaBroken);
        let empty = tempfile::tempdir().unwrap();
        assert!(!is_package(empty.path()) && !open(empty.path()).is_sound());
    }

    #[test]
    fn a_path_that_leaves_the_package_is_never_opened() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("package");
        fs::create_dir_all(folder.join("sub")).unwrap();
        fs::write(root.path().join("secret"), b"x").unwrap();
        fs::write(folder.join("sub/a"), b"x").unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("link")).unwrap();
        std::os::unix::fs::symlink("..", folder.join("out")).unwrap();
        for path in [
            "../secret",
            "/etc/hostname",
            "",
            "sub/../../secret",
            "./sub/a",
            "sub//a",
            "sub/",
            "link",
            "out/secret",
            "sub",
            "manifest.json",
        ] {
            assert_eq!(digest(&folder, path).unwrap_err().defect, Defect::UnsafePath, "{path}");
        }
        assert_eq!(digest(&folder, "sub/a").unwrap().1, 1);
        assert_eq!(digest(&folder, "gone").unwrap_err().defect, Defect::FileMissing);
        assert_eq!(lying_in(&folder), BTreeSet::from(["sub/a", "link", "out"].map(str::to_owned)));
    }
}
