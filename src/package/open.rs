//! From a folder to a package whose files are the ones that its manifest names.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::files::Folder;
use super::manifest::{MANIFEST_FILE, MOST_MANIFEST, Manifest, PackagedFile, Signature, TensorInfo, Weights};
use super::{PackageError, apply, trainer};
use crate::api::digest::sha256_hex;
use crate::model::onnx::{ValueInfoProto, type_proto};
use crate::model::{DType, Model, external};

/// How a package is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Layout {
    /// A manifest names every file with its digest.
    Phase5,
    /// The trainer's own: a checkpoint beside a graph, without digests.
    Trainer,
}

/// The splits that are taken from the package.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The validation split.
    pub validation: bool,
    /// The calibration split.
    pub calibration: bool,
    /// The training split.
    pub training: bool,
}

impl Wanted {
    /// Whether a file is used: all of the model, and the splits that are taken.
    pub fn has(self, field: &str) -> bool {
        match field {
            "splits.validation" => self.validation,
            "splits.calibration" => self.calibration,
            "splits.training" => self.training,
            _ => true,
        }
    }
}

/// An opened package.
#[derive(Debug, Clone)]
pub struct Package {
    /// How it is laid out.
    pub layout: Layout,
    /// Its folder.
    pub folder: PathBuf,
    /// What its manifest says; of the trainer's layout, what was found.
    pub manifest: Manifest,
    /// SHA-256 of the manifest's file, which pins every other file; absent in the trainer's layout.
    pub manifest_sha256: Option<String>,
    /// Sentences for the report.
    pub remarks: Vec<String>,
    files: Folder,
}

impl Package {
    /// Opens the package in `folder`: reads its manifest and looks at no other file.
    ///
    /// # Errors
    /// A folder that holds no package, or a manifest that is wrong.
    pub fn open(folder: &Path) -> Result<Self, PackageError> {
        let files = Folder::open(folder)?;
        let path = folder.join(MANIFEST_FILE);
        let refused = |detail: String| PackageError::NoManifest { path: path.clone(), detail };
        if files.find(MANIFEST_FILE).map_err(refused)?.is_some() {
            let text = read_bounded(&path, MOST_MANIFEST)?;
            let (manifest, remarks) = Manifest::parse(&text, &path)?;
            let manifest_sha256 = Some(sha256_hex(&text));
            return Ok(Self {
                layout: Layout::Phase5,
                folder: folder.to_owned(),
                manifest,
                manifest_sha256,
                remarks,
                files,
            });
        }
        match trainer::manifest(folder, &files)? {
            Some((manifest, remarks)) => Ok(Self {
                layout: Layout::Trainer,
                folder: folder.to_owned(),
                manifest,
                manifest_sha256: None,
                remarks,
                files,
            }),
            None => Err(PackageError::NoPackage {
                folder: folder.to_owned(),
                detail: format!(
                    "it holds neither {MANIFEST_FILE} nor {}. Make one with `bakehouse package`, or name the .onnx file of a bare model.",
                    trainer::CHECKPOINT
                ),
            }),
        }
    }

    /// Compares every file that is used with its digest and size, the graph with the signature, and its external data with the list.
    ///
    /// # Errors
    /// The first file that is not the one that the manifest names.
    pub fn check(&self, wanted: Wanted) -> Result<(), PackageError> {
        if self.layout == Layout::Trainer {
            // Its digests were taken when it was opened; there is nothing to compare them with.
            return Ok(());
        }
        for (field, file) in self.manifest.files().into_iter().filter(|(field, _)| wanted.has(field)) {
            self.files.checked(file).map_err(|detail| self.wrong(field, detail))?;
        }
        let graph = self.graph();
        for location in external::locations(&graph)? {
            let path = beside(&self.manifest.model.graph.path, &location);
            if !self.manifest.model.external_data.iter().any(|file| file.path == path)
                && path != self.manifest.model.graph.path
            {
                let detail = format!(
                    "the graph keeps weights in '{path}', which is not listed. Make the package again with `bakehouse package`."
                );
                return Err(self.wrong("model.externalData".to_owned(), detail));
            }
        }
        if let Some(signature) = &self.manifest.signature {
            let model = Model::load(&graph)?;
            if let Some((field, detail)) = mismatch(signature, &model) {
                return Err(self.wrong(field, detail));
            }
        }
        Ok(())
    }

    /// An error about a field of the manifest. In the trainer's layout the folder stands for it.
    pub(super) fn wrong(&self, field: String, detail: String) -> PackageError {
        let path = if self.layout == Layout::Phase5 { self.folder.join(MANIFEST_FILE) } else { self.folder.clone() };
        if field.starts_with("splits.") {
            PackageError::Split { path, field, detail }
        } else {
            PackageError::Field { path, field, detail }
        }
    }

    /// Where a file of the package lies.
    pub fn path(&self, file: &PackagedFile) -> PathBuf {
        self.folder.join(&file.path)
    }

    /// Where the graph lies.
    pub fn graph(&self) -> PathBuf {
        self.path(&self.manifest.model.graph)
    }

    /// Refuses a file of the package that is no longer the one that was checked: somebody wrote into the package meanwhile.
    ///
    /// # Errors
    /// The field of that file. A file that is not of the package is none of its business.
    pub fn unchanged(&self, path: &Path, sha256: &str) -> Result<(), PackageError> {
        match self.manifest.files().into_iter().find(|(_, file)| self.path(file) == path) {
            Some((field, file)) if file.sha256 != sha256 => {
                let detail = format!(
                    "'{}' changed while it was read. Leave the package alone until the bake has ended.",
                    file.path
                );
                Err(self.wrong(field, detail))
            }
            _ => Ok(()),
        }
    }

    /// Writes the model with the weights that lie apart from it to `to`. `None` where the graph holds them itself; else remarks about tensors that were left out.
    ///
    /// # Errors
    /// Weights that cannot be read or do not fit the graph, or a place that cannot be written.
    pub fn assemble(&self, to: &Path) -> Result<Option<Vec<String>>, PackageError> {
        let Some(weights) = &self.manifest.model.weights else { return Ok(None) };
        assemble(&self.graph(), &self.path(&weights.file), weights, to).map(Some)
    }
}

/// Writes the graph with these weights to `to`, by the rules of the manifest. The same files give the same bytes.
///
/// # Errors
/// Weights that cannot be read or do not fit the graph, or a place that cannot be written.
pub fn assemble(graph: &Path, weights: &Path, rules: &Weights, to: &Path) -> Result<Vec<String>, PackageError> {
    let (model, remarks) = joined(graph, weights, rules)?;
    model.save(to)?;
    Ok(remarks)
}

/// The graph with these weights.
pub(super) fn joined(graph: &Path, weights: &Path, rules: &Weights) -> Result<(Model, Vec<String>), PackageError> {
    let refused = |detail: String| PackageError::Weights { path: weights.to_owned(), detail };
    let mut model = Model::load(graph)?;
    let tensors = apply::read(weights).map_err(refused)?;
    let remarks = apply::apply(&mut model, &tensors, rules).map_err(refused)?;
    Ok((model, remarks))
}

/// The path of what lies at `location` beside the graph.
pub(super) fn beside(graph: &str, location: &str) -> String {
    let location = location.split('/').filter(|part| *part != ".").collect::<Vec<_>>().join("/");
    graph.rsplit_once('/').map_or(location.clone(), |(folder, _)| format!("{folder}/{location}"))
}

/// A whole file of at most `most` bytes.
pub(super) fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>, PackageError> {
    let failed = |source| PackageError::Read { path: path.to_owned(), source };
    let mut text = Vec::new();
    File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut text)).map_err(failed)?;
    if text.len() as u64 > most {
        return Err(PackageError::NoManifest {
            path: path.to_owned(),
            detail: format!("is larger than the {most} bytes that it may have."),
        });
    }
    Ok(text)
}

/// Inputs and outputs of a graph.
pub(super) fn signature(model: &Model) -> Signature {
    let fed = model.input_names();
    let inputs = model.graph().input.iter().filter(|input| fed.contains(&input.name()));
    Signature { inputs: inputs.map(info).collect(), outputs: model.graph().output.iter().map(info).collect() }
}

fn info(value: &ValueInfoProto) -> TensorInfo {
    use crate::model::onnx::tensor_shape_proto::dimension::Value;
    let tensor = match value.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => Some(tensor),
        _ => None,
    };
    let dtype =
        tensor.and_then(|t| DType::from_onnx(t.elem_type())).map_or_else(|| "unknown".to_owned(), |d| d.to_string());
    let dims = tensor.and_then(|t| t.shape.as_ref()).into_iter().flat_map(|shape| &shape.dim);
    let shape = dims.map(|dim| match &dim.value {
        Some(Value::DimValue(extent)) => extent.to_string(),
        Some(Value::DimParam(symbol)) => symbol.clone(),
        None => "?".to_owned(),
    });
    TensorInfo { name: value.name().to_owned(), dtype, shape: shape.collect() }
}

/// What of a signature the graph does not have, with its field. Shapes are what was declared; execution tells what they are.
fn mismatch(signature: &Signature, model: &Model) -> Option<(String, String)> {
    let of_graph = self::signature(model);
    let sides = [
        ("signature.inputs", &signature.inputs, &of_graph.inputs),
        ("signature.outputs", &signature.outputs, &of_graph.outputs),
    ];
    for (field, claimed, there) in sides {
        let names = |infos: &[TensorInfo]| {
            infos.iter().map(|i| format!("'{}' ({})", i.name, i.dtype)).collect::<Vec<_>>().join(", ")
        };
        let known =
            |a: &TensorInfo| there.iter().any(|b| a.name == b.name && (a.dtype == b.dtype || b.dtype == "unknown"));
        if claimed.len() != there.len() || !claimed.iter().all(known) {
            let detail = format!(
                "says {}, but the graph has {}. Export the graph again, or correct the manifest.",
                names(claimed),
                names(there)
            );
            return Some((field.to_owned(), detail));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Tensor;
    use crate::model::build::Builder;

    #[test]
    fn a_signature_must_be_that_of_the_graph() {
        let model = Builder::new(17)
            .input("x", DType::F32, &["N", "3"])
            .initializer("w", Tensor::new(&[3, 2], &[0.0_f32; 6]))
            .node("MatMul", &["x", "w"], "y", vec![])
            .output("y", DType::F32, &["N", "2"])
            .build();
        let own = signature(&model);
        assert_eq!(
            own.inputs,
            [TensorInfo { name: "x".into(), dtype: "float32".into(), shape: vec!["N".into(), "3".into()] }]
        );
        assert_eq!(mismatch(&own, &model), None);
        let mut other = own.clone();
        other.outputs[0].name = "z".into();
        assert_eq!(
            mismatch(&other, &model).unwrap(),
            (
                "signature.outputs".into(),
                "says 'z' (float32), but the graph has 'y' (float32). Export the graph again, or correct the manifest."
                    .into()
            )
        );
        let mut other = own;
        other.inputs.clear();
        assert_eq!(mismatch(&other, &model).unwrap().0, "signature.inputs");
    }

    #[test]
    fn external_data_lies_beside_the_graph() {
        assert_eq!(beside("model/model.onnx", "./w.bin"), "model/w.bin");
        assert_eq!(beside("model.onnx", "w/w.bin"), "w/w.bin");
    }
}
