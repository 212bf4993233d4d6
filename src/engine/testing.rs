//! Small models built in code, for the tests of this room.

use crate::model::onnx::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};
use crate::model::{DType, Model};

/// A declared value; an axis is a number, a symbol, or `?`.
pub(crate) fn declare(name: &str, dtype: DType, axes: &[&str]) -> ValueInfoProto {
    let dim = |axis: &&str| Dimension {
        value: match axis.parse() {
            Ok(n) => Some(dimension::Value::DimValue(n)),
            Err(_) if *axis == "?" => None,
            Err(_) => Some(dimension::Value::DimParam((*axis).to_owned())),
        },
        ..Dimension::default()
    };
    let shape = Some(TensorShapeProto { dim: axes.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(dtype.to_onnx()), shape };
    let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() });
    ValueInfoProto { name: Some(name.to_owned()), r#type, ..ValueInfoProto::default() }
}

/// A model of opset 17.
pub(crate) fn model(inputs: &[ValueInfoProto], outputs: &[ValueInfoProto], initializer: Vec<TensorProto>, node: Vec<NodeProto>) -> Model {
    let graph = GraphProto {
        name: Some("test".to_owned()),
        input: inputs.to_vec(),
        output: outputs.to_vec(),
        initializer,
        node,
        ..GraphProto::default()
    };
    Model::from_proto(ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { version: Some(17), ..OperatorSetIdProto::default() }],
        graph: Some(graph),
        ..ModelProto::default()
    })
}
