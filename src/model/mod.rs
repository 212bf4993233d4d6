//! The ONNX graph: protobuf types, loading and saving, editing, checking and statistics. Knows nothing of engines.

pub mod diff;
pub mod edit;
pub mod error;
pub mod facts;
pub mod infer;
pub mod inspect;
#[rustfmt::skip]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod onnx;
pub mod pass;
pub mod stats;
pub mod tensor;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

pub use error::ModelError;
pub use facts::{Dim, Facts, TensorFact};
pub use pass::{Effect, Pass, PassError};
pub use tensor::{DType, Element, Tensor};

use onnx::{GraphProto, ModelProto};

/// A model in memory. Cloning is cheap: the weights are shared, so a clone is the snapshot that a pass is rolled back to.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    proto: ModelProto,
}

impl Model {
    /// Takes over a decoded model that has a graph.
    pub fn from_proto(mut proto: ModelProto) -> Self {
        proto.graph.get_or_insert_default();
        Self { proto }
    }

    /// Decodes a model from bytes, sharing the weights with them. `path` is only for messages.
    pub fn from_bytes(bytes: Bytes, path: &Path) -> Result<Self, ModelError> {
        let not_onnx = |detail: String| ModelError::NotOnnx { path: path.to_owned(), detail };
        if bytes.is_empty() {
            return Err(ModelError::Empty { path: path.to_owned() });
        }
        let proto = ModelProto::decode(bytes).map_err(|e| not_onnx(e.to_string()))?;
        if proto.graph.as_ref().is_none_or(|g| g.node.is_empty() && g.output.is_empty()) {
            return Err(not_onnx("it holds no graph".to_owned()));
        }
        Ok(Self { proto })
    }

    /// Loads a model file.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let bytes = std::fs::read(path).map_err(|source| ModelError::Read { path: path.to_owned(), source })?;
        Self::from_bytes(Bytes::from(bytes), path)
    }

    /// The file's bytes. A model that was loaded and not edited gives the bytes it was loaded from.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.proto.encode_to_vec()
    }

    /// Writes the model under a temporary name beside `path`, then renames it: a half-written file is never visible under `path`.
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        let failed = |source| ModelError::Write { path: PathBuf::from(path), source };
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
        std::io::Write::write_all(&mut file, &self.to_bytes()).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(path).map_err(|e| failed(e.error))?;
        Ok(())
    }

    /// The whole protobuf message.
    pub fn proto(&self) -> &ModelProto {
        &self.proto
    }

    /// The whole protobuf message, for editing.
    pub fn proto_mut(&mut self) -> &mut ModelProto {
        &mut self.proto
    }

    /// The main graph.
    pub fn graph(&self) -> &GraphProto {
        self.proto.graph.as_ref().expect("a Model always holds a graph")
    }

    /// The main graph, for editing.
    pub fn graph_mut(&mut self) -> &mut GraphProto {
        self.proto.graph.get_or_insert_default()
    }

    /// Version of the opset of `domain` (`""` is ONNX's own), or `None` when the model does not import it.
    pub fn opset(&self, domain: &str) -> Option<i64> {
        let same = |d: &str| d == domain || (domain.is_empty() && d == "ai.onnx");
        self.proto.opset_import.iter().find(|o| same(o.domain())).map(|o| o.version())
    }

    /// Names of the inputs that a caller must feed: graph inputs that no initializer gives a default.
    pub fn input_names(&self) -> Vec<&str> {
        let graph = self.graph();
        let given: std::collections::HashSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
        graph.input.iter().map(|i| i.name()).filter(|n| !given.contains(n)).collect()
    }

    /// Names of the outputs, in the graph's order.
    pub fn output_names(&self) -> Vec<&str> {
        self.graph().output.iter().map(|o| o.name()).collect()
    }
}
