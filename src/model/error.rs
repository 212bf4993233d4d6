//! What can be wrong with a model, each with what to do about it.

use std::path::PathBuf;

use super::DType;
use crate::api::Reason;

/// Why a model was refused or could not be edited.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ModelError {
    #[error("cannot read {path}: {source}. Check the path and its permissions.")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {path}: {source}. Check free space and permissions of the output folder.")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{path} is empty. Export the model again.")]
    Empty { path: PathBuf },
    #[error("{path} is not an ONNX model ({detail}). Give an .onnx file as written by an exporter.")]
    NotOnnx { path: PathBuf, detail: String },
    #[error(
        "{path}: the graph is broken at {place}: {detail}. Export the model again, or check it with the exporter's own checker."
    )]
    Graph { path: PathBuf, place: String, detail: String },
    #[error("external data of tensor '{name}': {detail}. External files must lie beside the model, inside its folder.")]
    ExternalData { name: String, detail: String },
    #[error("tensor '{name}': its data does not match its shape. The file is truncated or damaged; export it again.")]
    TensorData { name: String },
    #[error(
        "tensor '{name}' has data type {data_type}, which is narrower than a byte or not numeric; it cannot be read as numbers."
    )]
    TensorType { name: String, data_type: i32 },
    #[error("a {dtype} tensor of shape {shape:?} does not have {bytes} bytes.")]
    TensorSize { dtype: DType, shape: Vec<usize>, bytes: usize },
    #[error(
        "{path} is {bytes} bytes, and a protobuf file cannot be larger than 2 GiB. Keep its weights in external data files beside it."
    )]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error(
        "the external data of this model is {needed} bytes, over the limit of {limit}. Raise the limit if the model really is that large."
    )]
    ExternalLimit { needed: u64, limit: u64 },
    #[error(
        "the graph is broken at {place}: {detail}. Export the model again, or check it with the exporter's own checker."
    )]
    Broken { place: String, detail: String },
    #[error(
        "tensor '{name}' holds {count} NaN among its {elements} values, so the model computes nothing. Train or export it again."
    )]
    NotANumber { name: String, count: usize, elements: usize },
    #[error(
        "weight '{name}' of node '{node}' holds {count} infinite values among its {elements}. Train or export the model again."
    )]
    Infinite { name: String, node: String, count: usize, elements: usize },
    #[error("function '{name}' cannot be inlined: {detail}. Export the model without functions, or inlined.")]
    Function { name: String, detail: String },
    #[error(
        "node '{node}' ({op_type}) cannot be brought to opset {version}: {detail}. Export the model at opset {version} or later."
    )]
    Upgrade { node: String, op_type: String, version: i64, detail: String },
    #[error("opset {version} of domain '{domain}' is not supported: {detail}.")]
    Opset { domain: String, version: i64, detail: String },
}

impl ModelError {
    /// The closed-set reason that status, events and the exit code carry.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Read { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => Reason::AccessDenied,
            Self::Write { .. } => Reason::OutputUnwritable,
            _ => Reason::InvalidModel,
        }
    }

    /// The same error, saying which file it is about.
    #[must_use]
    pub fn in_file(self, path: &std::path::Path) -> Self {
        match self {
            Self::Broken { place, detail } => Self::Graph { path: path.to_owned(), place, detail },
            other => other,
        }
    }
}
