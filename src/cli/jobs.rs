//! From what was typed to jobs: `BakeJob` files with the flags laid over them, or a job made for a bare model.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::Failure;
use super::args::{BakeArgs, InitArgs, Preset};
use crate::api::{BakeJob, Reason, ResolvedJob, load, presets, support};
use crate::bake::passes;

/// One job to bake, or why it cannot be.
pub(crate) struct Planned {
    /// Name for tables and messages.
    pub(crate) name: String,
    /// The file it stands in.
    pub(crate) file: PathBuf,
    /// Its number in the file.
    pub(crate) document: usize,
    /// What to do.
    pub(crate) job: Result<ResolvedJob, Failure>,
}

/// Everything that the command line names.
pub(crate) fn planned(args: &BakeArgs) -> Result<Vec<Planned>, Failure> {
    let (models, files): (Vec<&PathBuf>, Vec<&PathBuf>) =
        args.inputs.iter().partition(|p| is_package(p) || p.extension().is_some_and(|e| e == "onnx"));
    match (models.as_slice(), args.data.as_ref()) {
        ([], None) => {}
        ([package], data) if is_package(package) && files.is_empty() && args.file.is_empty() => {
            if let (Some(_), None) = (&args.metric, data) {
                return Err(Failure::usage(
                    "--metric goes with --data; the split of a package has its own in the manifest.",
                ));
            }
            return Ok(vec![bare(args, package, data)]);
        }
        ([], Some(_)) => {
            return Err(Failure::usage(
                "--data goes with a bare model (.onnx); a BakeJob names its own data in spec.data.",
            ));
        }
        ([model], Some(data)) if files.is_empty() && args.file.is_empty() => {
            return Ok(vec![bare(args, model, Some(data))]);
        }
        ([model], None) => {
            let message = format!(
                "{} is a bare model: give its validation data with --data, or write a BakeJob with `bakehouse init {0}`.",
                model.display()
            );
            return Err(Failure::usage(message));
        }
        _ => return Err(Failure::usage("give either one model (.onnx) with --data, one package, or BakeJob files.")),
    }
    let mut all: Vec<Planned> = files.into_iter().chain(&args.file).flat_map(|file| from_file(args, file)).collect();
    if let Some(wanted) = args.document {
        all.retain(|p| p.document == wanted);
    }
    if all.len() > 1 && args.out.is_some() {
        return Err(Failure::usage(
            "--out names one folder, but there are several jobs; each writes to its own spec.output.uri.",
        ));
    }
    Ok(all)
}

/// The only job of a file, without any flags over it.
pub(crate) fn one(file: &Path) -> Result<ResolvedJob, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}. Give a BakeJob file.", file.display())))?;
    match load::parse(&text, file)?.as_slice() {
        [job] => Ok(ResolvedJob::resolve(job, file)?),
        jobs => Err(Failure::usage(format!("{} holds {} BakeJobs; give a file with one.", file.display(), jobs.len()))),
    }
}

fn from_file(args: &BakeArgs, file: &Path) -> Vec<Planned> {
    let failed = |failure| {
        vec![Planned { name: file.display().to_string(), file: file.to_owned(), document: 0, job: Err(failure) }]
    };
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            return failed(Failure::usage(format!("cannot read {}: {error}. Give a BakeJob file.", file.display())));
        }
    };
    match load::parse(&text, file) {
        Err(error) => failed(error.into()),
        Ok(jobs) => jobs.iter().enumerate().map(|(document, job)| plan(args, job, file, document)).collect(),
    }
}

/// Whether an argument is the folder of a package, here or in a bucket.
fn is_package(path: &Path) -> bool {
    path.is_dir() || path.to_str().is_some_and(|text| text.contains("://") && text.ends_with('/'))
}

/// A job for a bare model or a package: the same object that a file would hold, checked by the same rules.
fn bare(args: &BakeArgs, model: &Path, data: Option<&PathBuf>) -> Planned {
    let stem = model.file_stem().map_or_else(|| "model".into(), |s| s.to_string_lossy().to_lowercase());
    let name: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let name = name.trim_matches('-');
    let out = args.out.clone().unwrap_or_else(|| model.with_file_name(format!("{stem}-baked")));
    let mut spec = json!({
        "source": {"uri": model},
        "data": {},
        "output": {"uri": out},
    });
    if let Some(data) = data {
        spec["data"]["validation"] = json!({"uri": data});
    }
    if let Some(calibration) = &args.calibration {
        spec["data"]["calibration"] = json!({"uri": calibration});
    }
    if let (Some(metric), Some(_)) = (&args.metric, data) {
        spec["data"]["validation"]["metric"] = json!(metric);
    }
    let object = json!({
        "apiVersion": "bakehouse.dev/v1alpha1",
        "kind": "BakeJob",
        "metadata": {"name": if name.is_empty() { "model" } else { name }},
        "spec": spec,
    });
    // Relative paths of a bare model count from where the command runs.
    let file = Path::new("command-line");
    match load::parse(&object.to_string(), file) {
        Err(error) => Planned { name: name.to_owned(), file: file.to_owned(), document: 0, job: Err(error.into()) },
        Ok(jobs) => match jobs.first() {
            Some(job) => plan(args, job, file, 0),
            None => Planned {
                name: name.to_owned(),
                file: file.to_owned(),
                document: 0,
                job: Err(Failure::new(Reason::Internal, "no job")),
            },
        },
    }
}

fn plan(args: &BakeArgs, job: &BakeJob, file: &Path, document: usize) -> Planned {
    let name = job.metadata.name.clone().unwrap_or_default();
    let resolved = with_flags(args, job, file).and_then(|job| {
        let refused = support::refusals(&job, &passes::names());
        if refused.is_empty() {
            Ok(ResolvedJob::resolve(&job, file)?)
        } else {
            Err(crate::api::JobError::NotBuilt { file: file.to_owned(), job: name.clone(), refusals: refused }.into())
        }
    });
    Planned { name: name.clone(), file: file.to_owned(), document, job: resolved }
}

/// Lays the flags over a job, by its own field names, and checks it again.
fn with_flags(args: &BakeArgs, job: &BakeJob, file: &Path) -> Result<BakeJob, Failure> {
    let mut optimization = Map::new();
    let mut set = |field: &str, value: Option<Value>| {
        if let Some(value) = value {
            optimization.insert(field.to_owned(), value);
        }
    };
    set("level", args.level.as_deref().map(capitalised));
    set("goal", args.goal.as_deref().map(capitalised));
    set("exclude", (!args.exclude.is_empty()).then(|| json!(args.exclude)));
    set("recipe", args.recipe.as_ref().map(|r| json!({"uri": absolute(r)})));
    let mut object = serde_json::to_value(job).map_err(|e| Failure::new(Reason::Internal, e))?;
    if let Some(existing) = object["spec"]["optimization"].as_object_mut() {
        existing.extend(optimization);
    } else if !optimization.is_empty() {
        object["spec"]["optimization"] = Value::Object(optimization);
    }
    if let Some(out) = &args.out {
        object["spec"]["output"]["uri"] = json!(absolute(out));
    }
    if let Some(policy) = &args.cache_policy {
        object["spec"]["cache"] = capitalised(policy);
    } else if args.cache.is_some() && object["spec"]["cache"].is_null() {
        object["spec"]["cache"] = json!("Use");
    }
    if let Some(runtime) = &args.runtime {
        object["spec"]["runtime"] = match runtime.to_lowercase().as_str() {
            "onnxruntime" | "ort" => json!("OnnxRuntime"),
            "bakehouse" | "tract" => json!("Bakehouse"),
            _ => json!(runtime),
        };
    }
    if let Some(drop) = args.max_drop {
        let gate = json!({"metric": "AccuracyRetention", "min": format!("{:.6}", 1.0 - drop)});
        match object["spec"]["gates"].as_array_mut() {
            Some(gates) => {
                gates.retain(|g| g["metric"] != "AccuracyRetention");
                gates.push(gate);
            }
            None => object["spec"]["gates"] = json!([gate]),
        }
    }
    let jobs = load::parse(&object.to_string(), file)?;
    jobs.into_iter()
        .next()
        .ok_or_else(|| Failure::new(Reason::Internal, "a job vanished while the flags were laid over it"))
}

/// Paths on the command line count from where the command runs, not from the job file. URIs are what they are.
fn absolute(path: &Path) -> PathBuf {
    if path.to_str().is_some_and(|text| text.contains("://")) {
        return path.to_owned();
    }
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn capitalised(word: &str) -> Value {
    let lower = word.to_lowercase();
    let mut letters = lower.chars();
    json!(letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>()).unwrap_or_default())
}

/// `bakehouse init`.
pub(crate) fn init(args: &InitArgs) -> Result<u8, Failure> {
    let preset = match args.preset {
        Preset::Development => presets::Preset::Development,
        Preset::Production => presets::Preset::Production,
        Preset::Edge => presets::Preset::Edge,
        Preset::Research => presets::Preset::Research,
    };
    crate::model::Model::load(&args.model)?;
    let beside = |path: &Option<PathBuf>, default: &str| {
        path.as_ref().map_or_else(|| default.to_owned(), |p| p.display().to_string())
    };
    let stem = args.model.file_stem().map_or_else(|| "model".into(), |s| s.to_string_lossy().into_owned());
    let text = presets::yaml(
        preset,
        &presets::Inputs {
            name: &stem,
            model: &args.model.display().to_string(),
            validation: &beside(&args.data, "validation.npz"),
            calibration: args.calibration.as_ref().map(|p| p.display().to_string()).as_deref(),
            output: &format!("{stem}-baked/"),
        },
    );
    let Some(path) = &args.output else { return super::print(&text) };
    let failed = |e: std::io::Error| {
        Failure::new(
            Reason::OutputUnwritable,
            format!("cannot write {}: {e}. An existing file is not overwritten.", path.display()),
        )
    };
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)?;
    super::print(&format!("Wrote {}. Bake it with: bakehouse bake -f {0}", path.display()))
}
