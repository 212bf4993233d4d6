//! Files by digest, and the artifact by replaying its recipe.

use std::path::{Component, Path};

use super::{Holds, Verification};
use crate::api::digest::sha256_hex_of;
use crate::bake::report::Report;
use crate::bake::source::Role;
use crate::bake::{BakeError, MODEL_FILE, passes};
use crate::model::{IntakeOptions, Limits, Model, ModelError, Source};
use crate::optimizer::Recipe;
use crate::package;
use crate::signals::HeldFolder;

/// Name of the recipe's file.
const RECIPE_FILE: &str = "recipe.json";

/// Checks every listed file, and that model and recipe are listed. Returns the digest of the artifact, when it is there.
pub(super) fn artifacts(folder: &Path, report: &Report, found: &mut Verification) -> Option<String> {
    let mut model = None;
    for artifact in &report.artifacts {
        let claimed = format!("{} ({} bytes)", short(&artifact.sha256), artifact.bytes);
        let name = Path::new(&artifact.file);
        if name.components().any(|c| !matches!(c, Component::Normal(_))) {
            found.add(&artifact.file, claimed, "-", Holds::No("the name leaves the folder of the result".to_owned()));
            continue;
        }
        match digest(&folder.join(name)) {
            Err(error) => found.add(&artifact.file, claimed, "-", Holds::No(format!("it cannot be read: {error}"))),
            Ok((sha256, bytes)) => {
                let same = sha256.eq_ignore_ascii_case(&artifact.sha256) && bytes == artifact.bytes;
                let holds = if same {
                    Holds::Yes
                } else {
                    Holds::No("DigestMismatch: it is another file than the one that was baked".to_owned())
                };
                found.add(&artifact.file, claimed, format!("{} ({bytes} bytes)", short(&sha256)), holds);
                if artifact.file == MODEL_FILE {
                    model = Some(sha256);
                }
            }
        }
    }
    for needed in [MODEL_FILE, RECIPE_FILE] {
        if !report.artifacts.iter().any(|a| a.file == needed) {
            found.add(needed, "listed", "not listed", Holds::No("the report lists no such file".to_owned()));
        }
    }
    model
}

/// The files that the bake read, as far as they are still there unchanged.
pub(super) struct Sources {
    /// The input model's files and the model as taken in.
    pub(super) model: Option<(Source, Model)>,
    /// Why it is not there.
    pub(super) missing_model: String,
    /// The validation file, unchanged.
    pub(super) validation: Option<std::path::PathBuf>,
    /// Why it is not there.
    pub(super) missing_validation: String,
    /// Calibration and training files that are there, changed or not: a leak shows in either.
    pub(super) others: Vec<(Role, std::path::PathBuf)>,
}

impl Sources {
    /// Looks for every file that the report names.
    pub(super) fn find(report: &Report, found: &mut Verification) -> Self {
        let mut sources = Self {
            model: None,
            missing_model: "the report names no input model".to_owned(),
            validation: None,
            missing_validation: "the report names no validation data".to_owned(),
            others: Vec::new(),
        };
        let mut graph_is_there = true;
        for file in &report.data.files {
            let (claim, claimed) = (format!("{:?} file", file.role), short(&file.sha256));
            let missing = match digest(&file.path) {
                Err(error) => {
                    let why = format!("{} cannot be read: {error}", file.path.display());
                    found.unchecked(claim, claimed, &why);
                    why
                }
                Ok((sha256, _)) => {
                    let same = sha256.eq_ignore_ascii_case(&file.sha256);
                    if matches!(file.role, Role::Calibration | Role::Training) {
                        sources.others.push((file.role, file.path.clone()));
                    }
                    if same {
                        found.add(claim, claimed, short(&sha256), Holds::Yes);
                        match file.role {
                            Role::Model => match taken_in(&file.path) {
                                Ok(model) => sources.model = Some(model),
                                Err(error) => sources.missing_model = error.to_string(),
                            },
                            // Onto another graph they would make another model.
                            Role::Weights if !graph_is_there => {}
                            Role::Weights => match with_weights(report, &file.path) {
                                Ok(model) => sources.model = Some(model),
                                Err(error) => {
                                    (sources.model, sources.missing_model) = (None, error.to_string());
                                }
                            },
                            Role::Validation => sources.validation = Some(file.path.clone()),
                            Role::ModelData | Role::Manifest | Role::Calibration | Role::Training => {}
                        }
                        continue;
                    }
                    let why = format!("{} changed since the bake", file.path.display());
                    found.add(claim, claimed, short(&sha256), Holds::Unchecked(why.clone()));
                    why
                }
            };
            match file.role {
                // Without its weights, the model is another one.
                Role::Model | Role::ModelData | Role::Weights => {
                    graph_is_there = false;
                    (sources.model, sources.missing_model) = (None, missing);
                }
                Role::Validation => sources.missing_validation = missing,
                Role::Manifest | Role::Calibration | Role::Training => {}
            }
        }
        sources
    }
}

/// SHA-256 and size of a file, in memory that does not grow with it.
fn digest(path: &Path) -> std::io::Result<(String, u64)> {
    let file = std::fs::File::open(path)?;
    Ok((sha256_hex_of(&file)?, file.metadata()?.len()))
}

fn taken_in(path: &Path) -> Result<(Source, Model), ModelError> {
    let (model, source) = Model::load_source(path, Limits::default())?;
    Ok((source, model.prepare(&IntakeOptions::default()).map_err(|e| e.in_file(path))?.0))
}

/// The input model as it was put together from a graph and the weights at `weights`.
fn with_weights(report: &Report, weights: &Path) -> Result<(Source, Model), BakeError> {
    let no_graph = || BakeError::Internal("the report names weights, but no graph and no package".to_owned());
    let graph = report.data.files.iter().find(|file| file.role == Role::Model).ok_or_else(no_graph)?;
    let rules = report.package.as_ref().and_then(|p| p.manifest.model.weights.as_ref()).ok_or_else(no_graph)?;
    // The files are mapped, so they may go once they were loaded.
    let folder = HeldFolder::temporary().map_err(|source| BakeError::Output { path: std::env::temp_dir(), source })?;
    let file = folder.path().join(MODEL_FILE);
    package::assemble(&graph.path, weights, rules, &file)?;
    Ok(taken_in(&file)?)
}

/// Replays the recipe on the input model and compares bytes.
pub(super) fn recipe(
    folder: &Path,
    report: &Report,
    sources: &Sources,
    artifact: Option<&str>,
    found: &mut Verification,
) {
    const CLAIM: &str = "recipe replay";
    let claimed = "gives the artifact, byte for byte";
    let Some((file, input)) = &sources.model else { return found.unchecked(CLAIM, claimed, &sources.missing_model) };
    let Some(artifact) = artifact else {
        return found.unchecked(CLAIM, claimed, "there is no artifact to compare with");
    };
    let (model, baked) = match Model::load_source(&folder.join(MODEL_FILE), Limits::default()) {
        Ok(loaded) => loaded,
        Err(error) => return found.add(CLAIM, claimed, "-", Holds::No(error.to_string())),
    };
    let refused = |why: String| Holds::No(why);
    if report.baked.is_none() {
        // Nothing was applied: the artifact is the input file itself.
        let same = *file == baked;
        let holds =
            if same { Holds::Yes } else { refused("the artifact is claimed to be the input, and is not".to_owned()) };
        return found.add(CLAIM, "the artifact is the input", if same { "it is" } else { "it is not" }, holds);
    }
    let replayed = std::fs::read(folder.join(RECIPE_FILE))
        .map_err(|e| e.to_string())
        .and_then(|text| {
            serde_json::from_slice::<Recipe>(&text).map_err(|e| format!("{RECIPE_FILE} is no recipe: {e}"))
        })
        .and_then(|recipe| recipe.replay(input, &passes::of_step).map_err(|e| e.to_string()));
    match replayed {
        Err(why) => found.add(CLAIM, claimed, "-", refused(why)),
        // An artifact in several files is compared as the one that it would be.
        Ok(replayed)
            if replayed.sha256() == if baked.beside.is_empty() { artifact.to_owned() } else { model.sha256() } =>
        {
            found.add(CLAIM, claimed, "the same bytes", Holds::Yes);
        }
        Ok(_) => found.add(
            CLAIM,
            claimed,
            "other bytes",
            refused("the artifact is not what the recipe makes of the input".to_owned()),
        ),
    }
}

/// The first digits of a digest: enough to compare by eye, few enough for a table.
fn short(sha256: &str) -> String {
    sha256.chars().take(12).collect()
}
