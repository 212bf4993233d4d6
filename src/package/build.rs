//! From loose files to a package. Everything is checked and copied into a hidden folder first, which then takes its final name in one step.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::apply;
use super::manifest::{
    Claim, FinalMetric, Framework, MANIFEST_FILE, Manifest, ModelFiles, PackagedFile, Quantization, Sparsity,
    ValidationSplit, Weights,
};
use super::open::{beside, signature};
use super::torch::Checkpoint;
use super::trainer::Known;
use super::{Package, PackageError, Wanted, manifest::metric_named};
use crate::api::bakejob::TaskMetric;
use crate::api::digest::sha256_hex_of;
use crate::model::infer::{InferOptions, infer};
use crate::model::stats::Stats;
use crate::model::{IntakeOptions, Model, external};
use crate::signals::{HeldFolder, undivided};

/// Loose files and what is said of them.
#[derive(Debug, Clone, Default)]
pub struct Parts {
    /// The ONNX graph.
    pub model: PathBuf,
    /// Weights apart from it.
    pub weights: Option<PathBuf>,
    /// The validation split.
    pub validation: PathBuf,
    /// The calibration split.
    pub calibration: Option<PathBuf>,
    /// The training split.
    pub training: Option<PathBuf>,
    /// A JSON file about the training.
    pub metadata: Option<PathBuf>,
    /// Name of the model; that of its metadata or its file when not given.
    pub name: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// The metric of the validation split, by its name.
    pub metric: Option<String>,
    /// Figures that the trainer measured, by name.
    pub figures: Vec<(String, f64)>,
}

/// A package that is not written yet: its model was loaded, with its weights.
#[derive(Debug)]
pub struct Draft<'p> {
    parts: &'p Parts,
    metric: Option<Claim>,
    model: Model,
    manifest: Manifest,
    remarks: Vec<String>,
}

impl<'p> Draft<'p> {
    /// Loads the model, puts the weights into it, and collects what is known of the training.
    ///
    /// # Errors
    /// A model, weights or metadata that cannot be read or do not fit each other.
    pub fn new(parts: &'p Parts) -> Result<Self, PackageError> {
        let metric = parts.metric.as_deref().map(named_metric).transpose()?;
        let mut known = Known::default();
        let mut model = Model::load(&parts.model)?;
        let mut remarks = Vec::new();
        if let Some(path) = &parts.weights {
            let refused = |detail: String| PackageError::Weights { path: path.clone(), detail };
            if path.extension().is_some_and(|e| e == "pt" || e == "pth") {
                known = Known::in_checkpoint(&Checkpoint::open(path).map_err(refused)?);
            }
            let tensors = apply::read(path).map_err(refused)?;
            remarks = apply::apply(&mut model, &tensors, &Weights::default()).map_err(refused)?;
        }
        if let Some(path) = &parts.metadata {
            known.add(path)?;
        }
        remarks.extend_from_slice(known.remarks());
        let mut manifest = known.manifest(Path::new(parts.model.file_stem().unwrap_or_default()));
        describe(&mut manifest, &model);
        let (model, _) = model.prepare(&IntakeOptions::default()).map_err(|e| e.in_file(&parts.model))?;
        measure(&mut manifest, &model);
        if let Some(name) = &parts.name {
            manifest.identity.name.clone_from(name);
        }
        if parts.version.is_some() {
            manifest.identity.version.clone_from(&parts.version);
        }
        for (name, value) in &parts.figures {
            // What is said here counts before what was found in a file.
            manifest.metrics.retain(|m| m.name != *name || m.claim().is_none());
            manifest.metrics.push(FinalMetric { name: name.clone(), value: *value, ..FinalMetric::default() });
        }
        Ok(Self { parts, metric, model, manifest, remarks })
    }

    /// The model with its weights, as a bake takes it in.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Sentences about what was left out.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Copies everything and writes the manifest, whole or not at all. Returns what was written.
    ///
    /// # Errors
    /// A folder that is there already or cannot be written.
    pub fn write(mut self, out: &Path) -> Result<Manifest, PackageError> {
        let failed = |source| PackageError::Output { path: out.to_owned(), source };
        if out.symlink_metadata().is_ok() {
            return Err(PackageError::Exists { path: out.to_owned() });
        }
        let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let hidden = HeldFolder::inside(parent, ".package-").map_err(failed)?;
        // A folder for temporary files is for its owner alone; the one inside is as any other.
        let folder = hidden.path().join("package");
        fs::create_dir(&folder).map_err(failed)?;

        let copy = |from: &Path, name: &str| copied(from, &folder, name);
        let parts = self.parts;
        let graph = format!("model/{}", parts.model.file_name().and_then(|n| n.to_str()).unwrap_or("model.onnx"));
        let mut external_data = Vec::new();
        for location in external::locations(&parts.model)? {
            let name = beside(&graph, &location);
            if name != graph {
                external_data.push(copy(&parts.model.with_file_name(&location), &name)?);
            }
        }
        let weights = parts.weights.as_ref().map(|path| copy(path, &named("weights/weights", path))).transpose()?;
        self.manifest.model = ModelFiles {
            graph: copy(&parts.model, &graph)?,
            external_data,
            weights: weights.map(|file| Weights { file, ..Weights::default() }),
        };
        let split = |name: &str, path: &Path| copy(path, &named(&format!("data/{name}"), path));
        let metric = self.metric;
        self.manifest.splits.validation = Some(ValidationSplit {
            file: split("validation", &parts.validation)?,
            metric: metric.map(|m| m.metric),
            top_k: metric.filter(|m| m.metric == TaskMetric::TopK).map(|m| m.k),
            outputs: Vec::new(),
        });
        self.manifest.splits.calibration =
            parts.calibration.as_ref().map(|path| split("calibration", path)).transpose()?;
        self.manifest.splits.training = parts.training.as_ref().map(|path| split("training", path)).transpose()?;

        let text = serde_json::to_string_pretty(&self.manifest).map_err(|e| failed(io::Error::other(e)))? + "\n";
        let path = folder.join(MANIFEST_FILE);
        written(&path, |file| file.write_all(text.as_bytes())).map_err(failed)?;
        // What is handed over was read back from the disk, by the reader that a bake has.
        Package::open(&folder)?.check(Wanted { validation: true, calibration: true, training: true })?;
        undivided(|| fs::rename(&folder, out)).map_err(failed)?;
        Ok(self.manifest)
    }
}

/// The metric that a person names.
fn named_metric(name: &str) -> Result<Claim, PackageError> {
    metric_named(name).ok_or_else(|| PackageError::Job {
        field: "--metric".to_owned(),
        detail: format!("'{name}' is no metric; use Top1, Top5 (any number), F1, R2, Cosine or ArgmaxSequence"),
    })
}

/// A name with the extension of the file that gets it.
fn named(stem: &str, path: &Path) -> String {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("bin").to_ascii_lowercase();
    format!("{stem}.{extension}")
}

/// What the graph says of itself.
fn describe(manifest: &mut Manifest, model: &Model) {
    manifest.signature = Some(signature(model));
    let proto = model.proto();
    let exporter = Some(format!("{} {}", proto.producer_name(), proto.producer_version()).trim().to_owned())
        .filter(|name| !name.is_empty());
    if let Some(framework) = &mut manifest.framework {
        framework.exporter = exporter;
        return;
    }
    let name = Some(proto.producer_name().to_owned()).filter(|name| !name.is_empty());
    let version = Some(proto.producer_version().to_owned()).filter(|version| !version.is_empty());
    manifest.framework = name.map(|name| Framework { name, version, exporter });
}

/// What can be counted in the weights.
fn measure(manifest: &mut Manifest, model: &Model) {
    let Ok(inference) = infer(model, &InferOptions::default()) else { return };
    let stats = Stats::of(model, &inference);
    if stats.parameters.all > 0 {
        let share = 1.0 - stats.parameters.non_zero as f64 / stats.parameters.all as f64;
        let pattern = manifest.sparsity.take().and_then(|said| said.pattern);
        manifest.sparsity = Some(Sparsity { share, pattern });
        let narrow: Vec<&str> =
            stats.by_dtype.keys().map(String::as_str).filter(|d| d.ends_with("int8") || d.ends_with("int4")).collect();
        let scheme = if narrow.is_empty() { "none".to_owned() } else { format!("{} weights", narrow.join(" and ")) };
        let bits = stats.parameters.bytes as f64 * 8.0 / stats.parameters.all as f64;
        manifest.quantization = Some(Quantization { scheme, bits: Some(bits) });
    }
}

/// Copies a file into the package; its digest is that of the bytes that were copied.
fn copied(from: &Path, folder: &Path, name: &str) -> Result<PackagedFile, PackageError> {
    let to = folder.join(name);
    let failed = |source| PackageError::Output { path: to.clone(), source };
    let mut source = File::open(from).map_err(|source| PackageError::Read { path: from.to_owned(), source })?;
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let (mut sha256, mut bytes) = (String::new(), 0);
    written(&to, |file| {
        let mut tee = Tee { source: &mut source, copy: file, bytes: 0 };
        sha256 = sha256_hex_of(&mut tee)?;
        bytes = tee.bytes;
        Ok(())
    })
    .map_err(failed)?;
    Ok(PackagedFile { path: name.to_owned(), sha256, bytes })
}

fn written(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    write(&mut file)?;
    file.sync_all()
}

/// Reads a file and writes what was read to another.
struct Tee<'f> {
    source: &'f mut File,
    copy: &'f mut File,
    bytes: u64,
}

impl io::Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buffer)?;
        self.copy.write_all(&buffer[..n])?;
        self.bytes += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::Builder;
    use crate::model::{DType, Tensor};

    fn parts(folder: &Path) -> Parts {
        let model = Builder::new(17)
            .input("x", DType::F32, &["N", "2"])
            .initializer("w", Tensor::new(&[2, 2], &[1.0_f32, 0.0, 3.0, 4.0]))
            .node("MatMul", &["x", "w"], "y", vec![])
            .output("y", DType::F32, &["N", "2"])
            .build();
        model.save(&folder.join("small.onnx")).unwrap();
        fs::write(folder.join("v.npz"), b"samples").unwrap();
        Parts { model: folder.join("small.onnx"), validation: folder.join("v.npz"), ..Parts::default() }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_package_appears_whole_and_is_opened_again() {
        let root = tempfile::tempdir().unwrap();
        let parts = Parts { figures: vec![("Top1".into(), 0.97)], metric: Some("Top1".into()), ..parts(root.path()) };
        let out = root.path().join("new/p");
        let written = Draft::new(&parts).unwrap().write(&out).unwrap();
        assert_eq!(names(&root.path().join("new")), ["p"], "no hidden folder is left");
        let package = Package::open(&out).unwrap();
        package.check(Wanted { validation: true, ..Wanted::default() }).unwrap();
        assert_eq!(package.manifest, written);
        assert_eq!(written.identity.name, "small");
        assert_eq!(written.sparsity.unwrap().share, 0.25);
        assert_eq!(written.quantization.unwrap(), Quantization { scheme: "none".into(), bits: Some(32.0) });
        assert_eq!(written.framework.unwrap().name, "bakehouse");
        assert_eq!(fs::read(out.join("data/validation.npz")).unwrap(), b"samples");
    }

    #[test]
    fn a_package_is_never_written_over_and_a_failure_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let good = parts(root.path());
        let out = root.path().join("p");
        Draft::new(&good).unwrap().write(&out).unwrap();
        let error = Draft::new(&good).unwrap().write(&out).unwrap_err();
        assert!(error.to_string().contains("is there already"), "{error}");
        for bad in [
            Parts { calibration: Some(root.path().join("gone.npz")), ..good.clone() },
            Parts { metric: Some("Best".into()), ..good.clone() },
        ] {
            assert!(Draft::new(&bad).and_then(|draft| draft.write(&root.path().join("other"))).is_err());
        }
        assert_eq!(names(root.path()), ["p", "small.onnx", "v.npz"]);
    }
}
