//! A small way to write models in code: for tests, for examples, and for callers that make a graph rather than load one.
//!
//! ```
//! use bakehouse::model::{DType, Tensor, build::Builder};
//!
//! let model = Builder::new(17)
//!     .input("x", DType::F32, &["N", "64"])
//!     .initializer("w", Tensor::new(&[64, 10], &[0.1_f32; 640]))
//!     .node("MatMul", &["x", "w"], "h", vec![])
//!     .node("Relu", &["h"], "y", vec![])
//!     .output("y", DType::F32, &["N", "10"])
//!     .build();
//! assert_eq!(model.input_names(), ["x"]);
//! ```

use super::onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, tensor_shape_proto, type_proto,
};
use super::{DType, Model, Tensor, edit};

/// Builds a [`Model`] step by step. Nothing is checked: a test of a refusal needs broken models too.
#[derive(Debug, Clone)]
pub struct Builder {
    proto: ModelProto,
    graph: GraphProto,
}

impl Builder {
    /// A model of ONNX's own operators at this opset, with the IR version that goes with it.
    pub fn new(opset: i64) -> Self {
        let import = OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) };
        let proto = ModelProto {
            ir_version: Some(ir_version_of(opset)),
            producer_name: Some("bakehouse".to_owned()),
            opset_import: vec![import],
            ..ModelProto::default()
        };
        Self { proto, graph: GraphProto { name: Some("main".to_owned()), ..GraphProto::default() } }
    }

    /// Adds a graph input. A dimension that is a number is fixed, any other word is a symbol.
    #[must_use]
    pub fn input(mut self, name: &str, dtype: DType, dims: &[&str]) -> Self {
        self.graph.input.push(value_info(name, dtype, dims));
        self
    }

    /// Adds a graph output.
    #[must_use]
    pub fn output(mut self, name: &str, dtype: DType, dims: &[&str]) -> Self {
        self.graph.output.push(value_info(name, dtype, dims));
        self
    }

    /// Adds a constant.
    #[must_use]
    #[allow(clippy::needless_pass_by_value)] // reads better where the tensor is written in place
    pub fn initializer(mut self, name: &str, tensor: Tensor) -> Self {
        self.graph.initializer.push(tensor.to_proto(name));
        self
    }

    /// Adds a node with one output. Its name is the operator and its position, e.g. `Relu_1`.
    #[must_use]
    pub fn node(self, op_type: &str, inputs: &[&str], output: &str, attributes: Vec<AttributeProto>) -> Self {
        self.node_with_outputs(op_type, inputs, &[output], attributes)
    }

    /// Adds a node with any number of outputs; an empty name is an output that is left out.
    #[must_use]
    pub fn node_with_outputs(
        self,
        op_type: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> Self {
        let name = format!("{op_type}_{}", self.graph.node.len());
        self.push_node(edit::node(op_type, &name, inputs, outputs, attributes))
    }

    /// Adds a node as it is, e.g. one of another domain.
    #[must_use]
    pub fn push_node(mut self, node: NodeProto) -> Self {
        self.graph.node.push(node);
        self
    }

    /// Imports another operator domain.
    #[must_use]
    pub fn opset(mut self, domain: &str, version: i64) -> Self {
        self.proto.opset_import.push(OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) });
        self
    }

    /// Sets the IR version, where the usual one of the opset is not wanted.
    #[must_use]
    pub fn ir_version(mut self, version: i64) -> Self {
        self.proto.ir_version = Some(version);
        self
    }

    /// Adds a model-local function.
    #[must_use]
    pub fn function(mut self, function: FunctionProto) -> Self {
        self.proto.functions.push(function);
        self
    }

    /// The graph alone, e.g. as a branch of an `If`; see [`graph_attribute`].
    pub fn build_graph(self) -> GraphProto {
        self.graph
    }

    /// The model.
    pub fn build(self) -> Model {
        Model::from_proto(ModelProto { graph: Some(self.graph), ..self.proto })
    }
}

/// A tensor declaration. A dimension that is a number is fixed, any other word is a symbol.
pub fn value_info(name: &str, dtype: DType, dims: &[&str]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dimension = |d: &&str| {
        let value = d.parse().map_or_else(|_| Value::DimParam((*d).to_owned()), Value::DimValue);
        Dimension { value: Some(value), ..Dimension::default() }
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dimension).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(dtype.to_onnx()), shape: Some(shape) };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(r#type), ..ValueInfoProto::default() }
}

/// A graph-valued attribute (`then_branch`, `else_branch`, `body`).
pub fn graph_attribute(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        g: Some(graph),
        r#type: Some(AttributeType::Graph as i32),
        ..AttributeProto::default()
    }
}

/// A tensor-valued attribute, e.g. the `value` of a `Constant`.
pub fn tensor_attribute(name: &str, tensor: &Tensor) -> AttributeProto {
    let t = super::onnx::TensorProto { name: None, ..tensor.to_proto("") };
    AttributeProto {
        name: Some(name.to_owned()),
        t: Some(t),
        r#type: Some(AttributeType::Tensor as i32),
        ..AttributeProto::default()
    }
}

/// A string-valued attribute.
pub fn string_attribute(name: &str, value: &str) -> AttributeProto {
    let s = value.as_bytes().to_vec();
    AttributeProto {
        name: Some(name.to_owned()),
        s: Some(s),
        r#type: Some(AttributeType::String as i32),
        ..AttributeProto::default()
    }
}

/// The lowest IR version whose readers are sure to know this opset of ONNX's own domain (the table in ONNX's `Versioning.md`).
pub fn ir_version_of(opset: i64) -> i64 {
    match opset {
        ..=8 => 3,
        9 => 4,
        10 => 5,
        11 => 6,
        12..=14 => 7,
        15..=18 => 8,
        19..=20 => 9,
        21..=22 => 10,
        23 => 11,
        24 => 12,
        _ => 13,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_model_reads_back_from_its_own_bytes() {
        let model = Builder::new(17)
            .input("x", DType::F32, &["N", "2"])
            .initializer("w", Tensor::new(&[2, 1], &[1.0_f32, 2.0]))
            .node("MatMul", &["x", "w"], "y", vec![])
            .output("y", DType::F32, &["N", "1"])
            .build();
        let again = Model::from_bytes(model.to_bytes().into(), std::path::Path::new("built")).unwrap();
        assert_eq!(again, model);
        assert_eq!((again.opset(""), again.proto().ir_version()), (Some(17), 8));
    }
}
