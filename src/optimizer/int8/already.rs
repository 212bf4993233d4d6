//! What of a model is in 8 bits before anything is done to it. Lossy passes leave that alone: rounding twice harms twice and saves nothing.

use std::collections::HashSet;

use crate::model::Model;
use crate::model::edit::{Index, is_op, label};
use crate::model::onnx::NodeProto;

/// The nodes of a graph that compute on codes, or between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Already {
    /// What computes, by name, in graph order. What only converts is not listed.
    pub nodes: Vec<String>,
    outputs: HashSet<String>,
}

/// What turns floats into codes.
const TO_CODES: [&str; 2] = ["QuantizeLinear", "DynamicQuantizeLinear"];

/// What may stand between products and the codes that are made of them.
const CLIPS: [&str; 2] = ["Relu", "Clip"];

fn is_any(node: &NodeProto, ops: &[&str]) -> bool {
    ops.iter().any(|op| is_op(node, op))
}

/// Whether a node computes on codes itself: operators of ONNX, and those that ONNX Runtime writes into a model that it optimised.
fn is_integer(node: &NodeProto) -> bool {
    let op = node.op_type();
    is_any(node, &["MatMulInteger", "ConvInteger"])
        || [
            "QLinear",
            "QGemm",
            "QAttention",
            "QEmbed",
            "DynamicQuantizeMatMul",
            "DynamicQuantizeLSTM",
            "MatMulIntegerToFloat",
        ]
        .iter()
        .any(|known| op.starts_with(known))
}

impl Already {
    /// Reads a model. Weights that are merely stored in 8 bits, and restored to float when the model loads, do not count.
    pub fn of(model: &Model) -> Self {
        let index = Index::new(model.graph());
        let nodes = &model.graph().node;
        let producer = |name: &String| index.producer(name).map(|at| &nodes[at]);
        let is_rounded = |name: &String| {
            let restoring = producer(name).filter(|n| is_op(n, "DequantizeLinear"));
            restoring.and_then(|n| n.input.first()).is_some_and(|codes| !is_constant(model, &index, codes))
        };
        let readers = |name: &String| index.readers(name).iter().map(|&at| &nodes[at]).collect::<Vec<_>>();
        let becomes_codes = |name: &String| {
            readers(name).iter().any(|reader| {
                let behind = reader.output.first().filter(|_| is_any(reader, &CLIPS));
                is_any(reader, &TO_CODES)
                    || behind.is_some_and(|output| readers(output).iter().any(|next| is_any(next, &TO_CODES)))
            })
        };
        let mut found = Self::default();
        for node in nodes {
            let converts = is_any(node, &TO_CODES) || is_op(node, "DequantizeLinear");
            let computed = !converts && (node.input.iter().any(is_rounded) || node.output.iter().any(becomes_codes));
            let integer = is_integer(node);
            if integer || computed {
                found.nodes.push(label(node));
            }
            if integer || computed || converts {
                found.outputs.extend(node.output.iter().filter(|o| !o.is_empty()).cloned());
            }
        }
        // A model whose every quantisation is that of a stored weight computes in float.
        if found.nodes.is_empty() {
            return Self::default();
        }
        found
    }

    /// First outputs of everything in 8 bits, conversions included.
    pub fn outputs(&self) -> &HashSet<String> {
        &self.outputs
    }

    /// A sentence for the report; `None` for a model in float.
    pub fn remark(&self) -> Option<String> {
        const SHOWN: usize = 3;
        let shown = self.nodes.iter().take(SHOWN).map(|n| format!("'{n}'")).collect::<Vec<_>>().join(", ");
        let more = match self.nodes.len().saturating_sub(SHOWN) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let n = self.nodes.len();
        (n > 0).then(|| {
            format!(
                "{n} {} in 8 bits already ({shown}{more}): only lossless passes touch them, nothing is quantised twice.",
                if n == 1 { "node computes" } else { "nodes compute" }
            )
        })
    }
}

/// Whether a tensor is a constant, or what `QuantizeLinear` makes of one.
fn is_constant(model: &Model, index: &Index, name: &str) -> bool {
    let of_constant = || {
        let node = &model.graph().node[index.producer(name)?];
        let source = node.input.first().filter(|_| is_op(node, "QuantizeLinear"))?;
        model.constant(index, source)
    };
    model.constant(index, name).is_some() || of_constant().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::Builder;
    use crate::model::{DType, Tensor};

    /// A convolution whose weight is stored in 8 bits, read from `x`.
    fn begin() -> Builder {
        Builder::new(17)
            .input("x", DType::F32, &["1", "1", "4", "4"])
            .initializer("s", Tensor::scalar(0.1_f32))
            .initializer("z", Tensor::scalar(0_u8))
            .initializer("w8", Tensor::new(&[1, 1, 1, 1], &[3_u8]))
            .initializer("v", Tensor::new(&[1, 1, 1, 1], &[0.5_f32]))
            .node("DequantizeLinear", &["w8", "s", "z"], "w", vec![])
    }

    fn end(builder: Builder) -> Model {
        builder.output("y", DType::F32, &["1", "1", "4", "4"]).build()
    }

    #[test]
    fn what_stands_between_codes_is_in_8_bits_and_what_is_beside_it_is_not() {
        let model = end(begin()
            .node("Conv", &["x", "v"], "before", vec![])
            .node("Abs", &["before"], "a", vec![])
            .node("QuantizeLinear", &["a", "s", "z"], "q", vec![])
            .node("DequantizeLinear", &["q", "s", "z"], "d", vec![])
            .node("Conv", &["d", "w"], "c", vec![])
            .node("Relu", &["c"], "r", vec![])
            .node("QuantizeLinear", &["r", "s", "z"], "q2", vec![])
            .node("DequantizeLinear", &["q2", "s", "z"], "d2", vec![])
            .node("MaxPool", &["d2"], "m", vec![crate::model::edit::ints("kernel_shape", &[1, 1])])
            .node("Conv", &["m", "v"], "y", vec![]));
        let already = Already::of(&model);
        for (output, expected) in
            [("before", false), ("a", true), ("c", true), ("r", true), ("m", true), ("y", false), ("d", true)]
        {
            assert_eq!(already.outputs().contains(output), expected, "{output}");
        }
        let remark = already.remark().unwrap();
        assert!(remark.starts_with("4 nodes compute in 8 bits already (") && remark.contains("and 1 more"), "{remark}");
    }

    #[test]
    fn integer_operators_count_and_stored_weights_do_not() {
        let stored = end(begin().node("Conv", &["x", "w"], "y", vec![]));
        assert_eq!((Already::of(&stored), Already::of(&stored).remark()), (Already::default(), None));
        for op in ["QLinearConv", "ConvInteger", "MatMulInteger", "QLinearMatMul"] {
            let model = end(begin().node(op, &["x", "w8"], "i", vec![]).node("Conv", &["i", "v"], "y", vec![]));
            let already = Already::of(&model);
            assert!(already.outputs().contains("i") && !already.outputs().contains("y"), "{op}");
            assert!(already.remark().unwrap().contains("1 node computes in 8 bits already"), "{op}");
        }
    }
}
