//! The ONNX graph: protobuf types, loading and saving, editing, checking and statistics. Knows nothing of engines.

pub mod build;
pub mod diff;
pub mod edit;
pub mod error;
pub mod external;
pub mod facts;
pub mod infer;
pub mod inline;
pub mod inspect;
pub mod intake;
pub mod laid;
pub mod load;
pub mod mapped;
#[rustfmt::skip]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod onnx;
pub mod opset;
pub mod pass;
pub mod safetensors;
pub mod save;
pub mod stats;
pub mod stream;
pub mod tensor;
pub mod values;
pub mod verify;

use bytes::Bytes;

pub use error::ModelError;
pub use facts::{Dim, Facts, TensorFact};
pub use intake::{IntakeNotes, IntakeOptions};
pub use load::{Limits, Source};
pub use pass::{Effect, Pass, PassError};
pub use save::SaveOptions;
pub use tensor::{DType, Element, Tensor};

use onnx::{GraphProto, ModelProto};

/// A model in memory. Cloning is cheap: the weights are shared, so a clone is the snapshot that a pass is rolled back to.
#[derive(Debug, Clone)]
pub struct Model {
    proto: ModelProto,
    /// What the model was decoded from, until something is edited: then unknown fields and unusual encodings survive a save too.
    source: Option<Bytes>,
}

impl PartialEq for Model {
    fn eq(&self, other: &Self) -> bool {
        self.proto == other.proto
    }
}

impl Model {
    /// Takes over a decoded model that has a graph.
    pub fn from_proto(mut proto: ModelProto) -> Self {
        proto.graph.get_or_insert_default();
        Self { proto, source: None }
    }

    /// The whole protobuf message.
    pub fn proto(&self) -> &ModelProto {
        &self.proto
    }

    /// The whole protobuf message, for editing.
    pub fn proto_mut(&mut self) -> &mut ModelProto {
        self.source = None;
        &mut self.proto
    }

    /// The main graph.
    ///
    /// # Panics
    /// Never: every way to make a `Model` gives it a graph.
    pub fn graph(&self) -> &GraphProto {
        self.proto.graph.as_ref().expect("a Model always holds a graph")
    }

    /// The main graph, for editing.
    pub fn graph_mut(&mut self) -> &mut GraphProto {
        self.source = None;
        self.proto.graph.get_or_insert_default()
    }

    /// Version of the opset of `domain` (`""` is ONNX's own), or `None` when the model does not import it.
    pub fn opset(&self, domain: &str) -> Option<i64> {
        let same = |d: &str| d == domain || (domain.is_empty() && d == "ai.onnx");
        self.proto.opset_import.iter().find(|o| same(o.domain())).map(onnx::OperatorSetIdProto::version)
    }

    /// Names of the inputs that a caller must feed: graph inputs that no initializer gives a default.
    pub fn input_names(&self) -> Vec<&str> {
        let graph = self.graph();
        let given: std::collections::HashSet<&str> = graph.initializer.iter().map(onnx::TensorProto::name).collect();
        graph.input.iter().map(onnx::ValueInfoProto::name).filter(|n| !given.contains(n)).collect()
    }

    /// Names of the outputs, in the graph's order.
    pub fn output_names(&self) -> Vec<&str> {
        self.graph().output.iter().map(onnx::ValueInfoProto::name).collect()
    }
}
