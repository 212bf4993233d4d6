//! Multiply-accumulates of one inference, by node.
//!
//! Counted are the products that an operator is defined by (matrix products, convolutions, recurrences, attention); elementwise work and normalisation
//! are not, as is usual. A node whose shapes are not all known numbers, or rest on a declaration in the file, is listed as unknown.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::edit::{int_attribute, ints_attribute, label, string_attribute, subgraphs};
use super::super::infer::{Inference, einsum_labels};
use super::super::onnx::{GraphProto, NodeProto};
use super::op_name;

/// Multiply-accumulates of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Macs {
    /// Sum over the nodes where they are known.
    pub known: u64,
    /// Nodes that it sums over.
    pub known_nodes: usize,
    /// Nodes that multiply, or may, and whose count is not known. While this is not empty, `known` is only a lower bound.
    pub unknown: Vec<String>,
    /// Every known node, in graph order.
    pub by_node: Vec<NodeMacs>,
}

/// Multiply-accumulates of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeMacs {
    /// Its name, or `operator of 'output'`.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// How many.
    pub macs: u64,
}

impl Macs {
    /// The total, when every node's count is known.
    pub fn total(&self) -> Option<u64> {
        self.unknown.is_empty().then_some(self.known)
    }

    pub(super) fn of(graph: &GraphProto, inference: &Inference) -> Self {
        let mut macs = Self::default();
        for node in &graph.node {
            // How often a branch or a loop body runs is not known here.
            let inner = subgraphs(node).any(may_multiply);
            match node_macs(node, inference) {
                Work::None if inner => macs.unknown.push(label(node)),
                Work::None => {}
                Work::Known(n) => {
                    macs.known = macs.known.saturating_add(n);
                    macs.known_nodes += 1;
                    macs.by_node.push(NodeMacs { node: label(node), op: op_name(node), macs: n });
                }
                Work::Unknown => macs.unknown.push(label(node)),
            }
        }
        macs
    }
}

/// The work of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// It multiplies no matrices.
    None,
    /// So many multiply-accumulates.
    Known(u64),
    /// It multiplies, or may, but how often cannot be told.
    Unknown,
}

fn may_multiply(graph: &GraphProto) -> bool {
    let nothing = Inference::default();
    graph.node.iter().any(|n| node_macs(n, &nothing) != Work::None || subgraphs(n).any(may_multiply))
}

/// Multiply-accumulates of one node at the inferred shapes.
pub fn node_macs(node: &NodeProto, inference: &Inference) -> Work {
    let standard = matches!(node.domain(), "" | "ai.onnx");
    let shapes = Shapes { node, inference };
    let known = match (standard, node.op_type()) {
        (true, "MatMul" | "MatMulInteger" | "QLinearMatMul")
        | (false, "DynamicQuantizeMatMul" | "MatMulIntegerToFloat") => shapes.matmul(),
        (false, "FusedMatMul") => shapes.fused_matmul(),
        (true, "Gemm") | (false, "FusedGemm" | "QGemm") => shapes.gemm(),
        (true, "Conv" | "ConvInteger") | (false, "FusedConv") => shapes.conv(1),
        (true, "QLinearConv") => shapes.conv(3),
        (true, "ConvTranspose") => shapes.conv_transpose(),
        (true, "LSTM") | (false, "DynamicQuantizeLSTM") => shapes.recurrent(4),
        (true, "GRU") => shapes.recurrent(3),
        (true, "RNN") => shapes.recurrent(1),
        (true, "Einsum") => shapes.einsum(),
        (true, "Attention") => shapes.attention(),
        (false, "Attention" | "QAttention") => shapes.packed_attention(),
        (false, "MultiHeadAttention") => shapes.multi_head(),
        (false, "MatMulNBits") => shapes.matmul_nbits(),
        (true, "DFT" | "STFT" | "MelWeightMatrix" | "DeformConv" | "Det" | "SequenceMap" | "LinearAttention") => None,
        (true, _) => return Work::None,
        (
            false,
            "BiasGelu"
            | "BiasSoftmax"
            | "DequantizeLinear"
            | "FastGelu"
            | "Gelu"
            | "QLinearAdd"
            | "QLinearAveragePool"
            | "QLinearConcat"
            | "QLinearGlobalAveragePool"
            | "QLinearLeakyRelu"
            | "QLinearMul"
            | "QLinearSigmoid"
            | "QLinearSoftmax"
            | "QuantizeLinear"
            | "QuickGelu"
            | "RotaryEmbedding"
            | "SimplifiedLayerNormalization"
            | "SkipLayerNormalization"
            | "SkipSimplifiedLayerNormalization"
            | "EmbedLayerNormalization",
        ) if node.domain() == "com.microsoft" => return Work::None,
        (false, _) => None,
    };
    let on_faith = node.input.iter().chain(&node.output).any(|t| inference.rests_on_declaration(t));
    known.filter(|_| !on_faith && (standard || node.domain() == "com.microsoft")).map_or(Work::Unknown, Work::Known)
}

struct Shapes<'a> {
    node: &'a NodeProto,
    inference: &'a Inference,
}

fn product(dims: &[usize]) -> Option<u64> {
    dims.iter().try_fold(1_u64, |n, &d| n.checked_mul(d as u64))
}

impl Shapes<'_> {
    fn input(&self, i: usize) -> Option<Vec<usize>> {
        self.inference.fixed_shape(self.node.input.get(i)?)
    }

    fn output(&self) -> Option<Vec<usize>> {
        self.inference.fixed_shape(self.node.output.first()?)
    }

    /// One product per result element and inner index.
    fn matmul(&self) -> Option<u64> {
        product(&self.output()?)?.checked_mul(*self.input(0)?.last()? as u64)
    }

    fn fused_matmul(&self) -> Option<u64> {
        let a = self.input(0)?;
        let inner = if int_attribute(self.node, "transA", 0) == 0 {
            a.last()
        } else {
            a.len().checked_sub(2).and_then(|i| a.get(i))
        };
        product(&self.output()?)?.checked_mul(*inner? as u64)
    }

    fn gemm(&self) -> Option<u64> {
        let a = self.input(0)?;
        let inner = a.get(usize::from(int_attribute(self.node, "transA", 0) == 0))?;
        product(&self.output()?)?.checked_mul(*inner as u64)
    }

    /// Weights are `[out channels, in channels / group, kernel...]`: one product per result element and kernel element.
    fn conv(&self, weight: usize) -> Option<u64> {
        product(&self.output()?)?.checked_mul(product(self.input(weight)?.get(1..)?)?)
    }

    /// Weights are `[in channels, out channels / group, kernel...]`: every input element is spread over the kernel.
    fn conv_transpose(&self) -> Option<u64> {
        product(&self.input(0)?)?.checked_mul(product(self.input(1)?.get(1..)?)?)
    }

    /// `W` is `[directions, gates * hidden, input]`, `R` is `[directions, gates * hidden, hidden]`; both are applied once per step and sample.
    fn recurrent(&self, gates: u64) -> Option<u64> {
        let [a, b, input] = self.input(0)?[..] else { return None };
        let r = self.input(2)?;
        let [directions, rows, columns] = r[..] else { return None };
        // The quantised form transposes `R`.
        let stored = if self.node.op_type() == "DynamicQuantizeLSTM" { rows } else { columns };
        let hidden =
            u64::try_from(int_attribute(self.node, "hidden_size", 0)).ok().filter(|&h| h > 0).unwrap_or(stored as u64);
        let steps = product(&[a, b, directions])?;
        steps.checked_mul(gates)?.checked_mul(hidden)?.checked_mul(hidden.checked_add(input as u64)?)
    }

    /// One product chain per combination of labels. Two operands multiply once; more than two would depend on the order of contraction.
    fn einsum(&self) -> Option<u64> {
        let (operands, _) = einsum_labels(string_attribute(self.node, "equation")?)?;
        if operands.len() > 2 {
            return None;
        }
        let mut extents = std::collections::BTreeMap::new();
        for (i, labels) in operands.iter().enumerate() {
            let shape = self.input(i).filter(|s| s.len() == labels.len())?;
            for (label, n) in labels.iter().zip(shape) {
                let entry = extents.entry(*label).or_insert(n);
                *entry = (*entry).max(n);
            }
        }
        if operands.len() == 1 { Some(0) } else { product(&extents.into_values().collect::<Vec<_>>()) }
    }

    /// Opset 23: scores `Q K^T` and their product with `V`. Past keys and values lengthen the sequence that is attended to.
    fn attention(&self) -> Option<u64> {
        let (q, k, v) = (self.input(0)?, self.input(1)?, self.input(2)?);
        let past = if self.node.input.get(4).is_some_and(|n| !n.is_empty()) { *self.input(4)?.get(2)? } else { 0 };
        match (&q[..], &k[..], &v[..]) {
            ([b, h, s, d], [_, _, t, _], [_, _, _, e]) => product(&[*b, *h, *s, t + past])?.checked_mul((d + e) as u64),
            ([b, s, width], [_, t, _], [_, _, _]) => {
                let heads = usize::try_from(int_attribute(self.node, "q_num_heads", 0)).ok().filter(|&h| h > 0)?;
                let out = self.output()?;
                product(&[*b, heads, *s, t + past])?.checked_mul((width / heads + out.last()? / heads) as u64)
            }
            _ => None,
        }
    }

    /// `com.microsoft.Attention`: the packed projection, then scores and their product with V.
    fn packed_attention(&self) -> Option<u64> {
        let [batch, sequence, _]: [usize; 3] = self.input(0)?.try_into().ok()?;
        let [width, packed]: [usize; 2] = self.input(1)?.try_into().ok()?;
        let has_past = self.node.input.get(4).is_some_and(|n| !n.is_empty());
        if has_past && self.node.op_type() == "Attention" {
            return None;
        }
        let (qk, v) = match ints_attribute(self.node, "qkv_hidden_sizes") {
            Some(&[q, _, v]) => (usize::try_from(q).ok()?, usize::try_from(v).ok()?),
            _ => (packed / 3, packed / 3),
        };
        let projection = product(&[batch, sequence, width, packed])?;
        projection.checked_add(product(&[batch, sequence, sequence, qk + v])?)
    }

    /// `com.microsoft.MultiHeadAttention` with separate `[batch, sequence, width]` inputs and no past.
    fn multi_head(&self) -> Option<u64> {
        let [b, s, q]: [usize; 3] = self.input(0)?.try_into().ok()?;
        let [_, t, _]: [usize; 3] = self.input(1)?.try_into().ok()?;
        let [_, _, v]: [usize; 3] = self.input(2)?.try_into().ok()?;
        let past = self.node.input.iter().skip(6).any(|n| !n.is_empty());
        if past { None } else { product(&[b, s, t, q + v]) }
    }

    fn matmul_nbits(&self) -> Option<u64> {
        let inner = u64::try_from(int_attribute(self.node, "K", -1)).ok()?;
        product(&self.output()?)?.checked_mul(inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::edit::{float, int, ints, node};
    use super::super::super::infer::{InferOptions, infer};
    use super::super::super::onnx::ModelProto;
    use super::super::super::{Model, Tensor};
    use super::*;

    /// The work of one node whose inputs are constants of these shapes.
    fn work(
        op: &str,
        shapes: &[&[usize]],
        attributes: Vec<super::super::super::onnx::AttributeProto>,
        domain: &str,
    ) -> Work {
        let names: Vec<String> = (0..shapes.len()).map(|i| format!("i{i}")).collect();
        let mut node = node(op, "", &names.iter().map(String::as_str).collect::<Vec<_>>(), &["y"], attributes);
        node.domain = Some(domain.to_owned());
        let initializer = names
            .iter()
            .zip(shapes)
            .map(|(n, s)| Tensor::new(s, &vec![0.0_f32; s.iter().product()]).to_proto(n))
            .collect();
        let graph = GraphProto { node: vec![node.clone()], initializer, ..GraphProto::default() };
        let model = Model::from_proto(ModelProto { graph: Some(graph), ..ModelProto::default() });
        node_macs(&node, &infer(&model, &InferOptions::default()).unwrap())
    }

    #[test]
    fn multiply_accumulates_follow_the_definition_of_each_operator() {
        let cases: Vec<(&str, Work, u64)> = vec![
            ("matmul", work("MatMul", &[&[2, 5, 3], &[3, 7]], vec![], ""), 2 * 5 * 7 * 3),
            (
                "gemm",
                work("Gemm", &[&[3, 5], &[7, 3]], vec![int("transA", 1), int("transB", 1), float("alpha", 1.0)], ""),
                5 * 7 * 3,
            ),
            (
                "conv",
                work("Conv", &[&[1, 4, 8, 8], &[6, 2, 3, 3]], vec![int("group", 2), ints("pads", &[1; 4])], ""),
                6 * 8 * 8 * 2 * 9,
            ),
            ("conv transpose", work("ConvTranspose", &[&[1, 4, 8, 8], &[4, 2, 3, 3]], vec![], ""), 4 * 64 * 2 * 9),
            (
                "lstm",
                work("LSTM", &[&[7, 2, 5], &[1, 16, 5], &[1, 16, 4]], vec![int("hidden_size", 4)], ""),
                7 * 2 * 16 * (5 + 4),
            ),
            (
                "gru",
                work("GRU", &[&[7, 2, 5], &[2, 12, 5], &[2, 12, 4]], vec![int("hidden_size", 4)], ""),
                7 * 2 * 2 * 12 * 9,
            ),
            (
                "attention",
                work("Attention", &[&[1, 2, 5, 8], &[1, 2, 6, 8], &[1, 2, 6, 4]], vec![], ""),
                2 * 5 * 6 * (8 + 4),
            ),
            (
                "packed attention",
                work("Attention", &[&[1, 5, 8], &[8, 24], &[24]], vec![int("num_heads", 2)], "com.microsoft"),
                5 * 8 * 24 + 5 * 5 * 16,
            ),
        ];
        for (name, got, want) in cases {
            assert_eq!(got, Work::Known(want), "{name}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        assert_eq!(work("Relu", &[&[2]], vec![], ""), Work::None);
        assert_eq!(work("Anything", &[&[2]], vec![], "acme"), Work::Unknown);
        assert_eq!(work("MatMul", &[&[2, 3], &[4, 5]], vec![], ""), Work::Unknown, "operands that do not fit");
        assert_eq!(work("STFT", &[&[2]], vec![], ""), Work::Unknown);
    }
}
