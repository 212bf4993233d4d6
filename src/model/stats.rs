//! Statistics of a model: parameters, bytes, nodes, multiply-accumulates. Each figure is counted on the file; what cannot be counted is said, never guessed.

pub mod macs;
mod weights;

use std::collections::BTreeMap;

use prost::Message;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Model;
use super::edit::subgraphs;
use super::infer::Inference;
use super::onnx::{GraphProto, NodeProto, tensor_proto::DataType};
pub use macs::{Macs, NodeMacs};

/// Number of elements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// Constant tensors.
    pub tensors: usize,
    /// Their elements.
    pub all: usize,
    /// Elements that are not zero. A quantised element is zero when it equals its zero point; where that cannot be told, it counts as not zero.
    pub non_zero: usize,
    /// Their bytes in the file (sub-byte types are packed).
    pub bytes: usize,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.tensors += other.tensors;
        self.all += other.all;
        self.non_zero += other.non_zero;
        self.bytes += other.bytes;
    }
}

/// One constant tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LargeTensor {
    /// Its name.
    pub name: String,
    /// Its element type, e.g. `float32`, `int4`.
    pub dtype: String,
    /// Its extents.
    pub shape: Vec<usize>,
    /// Its bytes.
    pub bytes: usize,
}

/// Nodes of the main graph and of every subgraph.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStats {
    /// All nodes.
    pub all: usize,
    /// Without `Constant`, `Identity` and `Dropout`, which cost nothing when the model runs: the figure to compare models by.
    pub computing: usize,
    /// Nodes by operator; those of other domains as `domain.Operator`.
    pub by_type: BTreeMap<String, usize>,
}

/// Everything that can be counted without running the model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Bytes of the model as a file, weights included.
    pub file_bytes: usize,
    /// Weights: floating-point constants and the integer codes of quantised ones. A tensor that several nodes read counts once; `Constant` nodes count.
    pub parameters: Count,
    /// Scales and zero points of quantised tensors.
    pub quantization: Count,
    /// Shapes, axes, indices and other constants that are no weights.
    pub other: Count,
    /// All three by element type.
    pub by_dtype: BTreeMap<String, Count>,
    /// The ten largest constants, largest first.
    pub largest: Vec<LargeTensor>,
    /// Nodes.
    pub nodes: NodeStats,
    /// Multiply-accumulates of one inference at the inferred shapes.
    pub macs: Macs,
}

/// How many constants [`Stats::largest`] lists.
const LARGEST: usize = 10;

impl Stats {
    /// Counts `model`. `inference` gives the shapes for the multiply-accumulates; see [`super::infer::infer`] for how to fix the input shapes.
    pub fn of(model: &Model, inference: &Inference) -> Self {
        let graph = model.graph();
        let mut stats = Self {
            file_bytes: model.proto().encoded_len(),
            nodes: node_stats(graph),
            macs: Macs::of(graph, inference),
            ..Self::default()
        };
        for constant in weights::constants(graph) {
            let count =
                Count { tensors: 1, all: constant.elements, non_zero: constant.non_zero, bytes: constant.bytes };
            match constant.role {
                weights::Role::Parameter => stats.parameters.add(count),
                weights::Role::Quantization => stats.quantization.add(count),
                weights::Role::Other => stats.other.add(count),
            }
            let dtype = dtype_name(constant.data_type);
            stats.by_dtype.entry(dtype.clone()).or_default().add(count);
            stats.largest.push(LargeTensor {
                name: constant.name,
                dtype,
                shape: constant.shape,
                bytes: constant.bytes,
            });
        }
        stats.largest.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
        stats.largest.truncate(LARGEST);
        stats
    }

    /// Bytes of all constants.
    pub fn constant_bytes(&self) -> usize {
        self.parameters.bytes + self.quantization.bytes + self.other.bytes
    }

    /// Share of the parameters that are zero, in [0, 1]; 0 for a model without parameters.
    pub fn sparsity(&self) -> f64 {
        if self.parameters.all == 0 { 0.0 } else { 1.0 - self.parameters.non_zero as f64 / self.parameters.all as f64 }
    }
}

/// Name of ONNX's data type, as [`super::DType`] prints it, for the types that have no [`super::DType`] too.
pub fn dtype_name(data_type: i32) -> String {
    match (super::DType::from_onnx(data_type), DataType::try_from(data_type)) {
        (Some(dtype), _) => dtype.to_string(),
        (None, Ok(other)) => other.as_str_name().to_lowercase(),
        (None, Err(_)) => format!("type {data_type}"),
    }
}

/// An operator's name, with its domain when it is not ONNX's own.
pub fn op_name(node: &NodeProto) -> String {
    if matches!(node.domain(), "" | "ai.onnx") {
        node.op_type().to_owned()
    } else {
        format!("{}.{}", node.domain(), node.op_type())
    }
}

/// Counts the nodes of a graph and of its subgraphs.
pub fn node_stats(graph: &GraphProto) -> NodeStats {
    fn walk(graph: &GraphProto, stats: &mut NodeStats) {
        for node in &graph.node {
            let op = op_name(node);
            stats.all += 1;
            stats.computing += usize::from(!matches!(op.as_str(), "Constant" | "Identity" | "Dropout"));
            *stats.by_type.entry(op).or_default() += 1;
            subgraphs(node).for_each(|g| walk(g, stats));
        }
    }
    let mut stats = NodeStats::default();
    walk(graph, &mut stats);
    stats
}

#[cfg(test)]
mod tests {
    use super::super::Tensor;
    use super::super::edit::{int, node};
    use super::super::infer::{InferOptions, infer};
    use super::super::onnx::{AttributeProto, ModelProto};
    use super::*;

    fn model(constants: &[(&str, Tensor)], nodes: Vec<NodeProto>) -> Model {
        let graph = GraphProto {
            initializer: constants.iter().map(|(n, t)| t.to_proto(n)).collect(),
            node: nodes,
            ..GraphProto::default()
        };
        Model::from_proto(ModelProto { graph: Some(graph), ..ModelProto::default() })
    }

    fn stats(constants: &[(&str, Tensor)], nodes: Vec<NodeProto>) -> Stats {
        let model = model(constants, nodes);
        Stats::of(&model, &infer(&model, &InferOptions::default()).unwrap())
    }

    #[test]
    fn a_shared_weight_counts_once_and_a_constant_node_counts() {
        let value = AttributeProto {
            name: Some("value".to_owned()),
            t: Some(Tensor::new(&[3], &[1.0_f32, -0.0, 0.0]).to_proto("")),
            ..AttributeProto::default()
        };
        let nodes = vec![
            node("Constant", "", &[], &["c"], vec![value]),
            node("MatMul", "", &["w", "w"], &["a"], vec![]),
            node("Identity", "", &["a"], &["b"], vec![]),
        ];
        let stats = stats(
            &[("w", Tensor::new(&[2, 2], &[0.0_f32, 1.0, 2.0, 0.0])), ("axes", Tensor::new(&[1], &[3_i64]))],
            nodes,
        );
        assert_eq!(stats.parameters, Count { tensors: 2, all: 7, non_zero: 3, bytes: 28 });
        assert_eq!(stats.other, Count { tensors: 1, all: 1, non_zero: 1, bytes: 8 });
        assert_eq!((stats.nodes.all, stats.nodes.computing), (3, 1));
        assert_eq!(stats.by_dtype["float32"].bytes, 28);
        assert_eq!(stats.largest[0].name, "w");
        assert!((stats.sparsity() - 4.0 / 7.0).abs() < 1e-12);
    }

    #[test]
    fn a_quantised_weight_is_zero_where_it_equals_its_zero_point() {
        let constants = [
            ("q", Tensor::new(&[2, 3], &[5_u8, 5, 0, 7, 7, 0])),
            ("s", Tensor::new(&[2], &[0.1_f32, 0.2])),
            ("z", Tensor::new(&[2], &[5_u8, 7])),
            ("b", Tensor::new(&[2], &[9_i32, 0])),
            ("bs", Tensor::scalar(0.1_f32)),
        ];
        let nodes = vec![
            node("DequantizeLinear", "", &["q", "s", "z"], &["w"], vec![int("axis", 0)]),
            node("DequantizeLinear", "", &["b", "bs"], &["bias"], vec![]),
        ];
        let stats = stats(&constants, nodes);
        assert_eq!(stats.parameters, Count { tensors: 2, all: 8, non_zero: 3, bytes: 14 });
        assert_eq!(stats.quantization.tensors, 3);
    }

    #[test]
    fn four_bit_weights_are_counted_by_element_and_by_packed_byte() {
        let mut graph = GraphProto::default();
        graph.initializer.push(super::super::onnx::TensorProto {
            name: Some("w".to_owned()),
            dims: vec![3],
            data_type: Some(DataType::Int4 as i32),
            raw_data: Some(vec![0x0f_u8, 0x02].into()),
            ..Default::default()
        });
        let model = Model::from_proto(ModelProto { graph: Some(graph), ..ModelProto::default() });
        let stats = Stats::of(&model, &Inference::default());
        assert_eq!(stats.parameters, Count { tensors: 1, all: 3, non_zero: 2, bytes: 2 });
        assert_eq!(stats.by_dtype.keys().collect::<Vec<_>>(), ["int4"]);
    }
}
