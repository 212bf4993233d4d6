//! The known fault of tract 0.23: `DequantizeLinear -> … -> QuantizeLinear` over operators with one input is folded into a table of 256 entries, as if each
//! operator worked element by element. Softmax and LogSoftmax pass its test for that, but do not.

use std::collections::HashSet;

use crate::model::Model;
use crate::model::edit::{Index, is_op};
use crate::model::onnx::NodeProto;

/// Operators that tract takes for element-wise, or that a later version might, although an element of their output depends on a whole row.
const ROW_WISE: [&str; 5] = ["Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "MeanVarianceNormalization"];

/// Whether the graph holds quantising or dequantising nodes.
pub(super) fn is_quantised(model: &Model) -> bool {
    model.graph().node.iter().any(|n| ["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"].iter().any(|op| is_op(n, op)))
}

/// Whether a row-wise operator lies between a `DequantizeLinear` and a `QuantizeLinear` with nothing but operators of one computed input around it.
pub(super) fn has_softmax_between(model: &Model) -> bool {
    let graph = model.graph();
    let index = Index::new(graph);
    let single = |node: &NodeProto| node.input.iter().filter(|i| !i.is_empty() && model.constant(&index, i).is_none()).count() == 1;
    let data = |node: &NodeProto| node.input.first().and_then(|i| index.producer(i));
    let row_wise = |node: &NodeProto| ROW_WISE.iter().any(|op| is_op(node, op));

    let behind_dequantize = |start: usize| {
        let mut at = data(&graph.node[start]);
        // A graph without cycles has no longer way than its nodes.
        for _ in 0..graph.node.len() {
            let Some(position) = at else { return false };
            let node = &graph.node[position];
            if is_op(node, "DequantizeLinear") {
                return true;
            }
            if !single(node) {
                return false;
            }
            at = data(node);
        }
        false
    };
    let before_quantize = |start: usize| {
        let (mut open, mut seen) = (vec![start], HashSet::new());
        while let Some(position) = open.pop() {
            for &reader in graph.node[position].output.iter().flat_map(|o| index.readers(o)) {
                let node = &graph.node[reader];
                if is_op(node, "QuantizeLinear") || is_op(node, "DynamicQuantizeLinear") {
                    return true;
                }
                if single(node) && seen.insert(reader) {
                    open.push(reader);
                }
            }
        }
        false
    };
    (0..graph.node.len()).any(|i| row_wise(&graph.node[i]) && behind_dequantize(i) && before_quantize(i))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{declare, model};
    use crate::model::edit::node;
    use crate::model::{DType, Tensor};

    fn chain(ops: &[&str]) -> Model {
        let names: Vec<String> = (0..=ops.len()).map(|i| format!("t{i}")).collect();
        let nodes = ops.iter().enumerate().map(|(i, op)| {
            let (from, to) = (names[i].as_str(), names[i + 1].as_str());
            match *op {
                "QuantizeLinear" | "DequantizeLinear" => node(op, "", &[from, "scale", "zero"], &[to], vec![]),
                "MatMul" => node(op, "", &[from, "t0"], &[to], vec![]),
                _ => node(op, "", &[from], &[to], vec![]),
            }
        });
        let constants = vec![Tensor::scalar(0.1_f32).to_proto("scale"), Tensor::scalar(0_u8).to_proto("zero")];
        model(&[declare("t0", DType::U8, &["N", "4"])], &[declare(names.last().unwrap(), DType::U8, &["N", "4"])], constants, nodes.collect())
    }

    #[test]
    fn only_a_row_wise_operator_right_between_the_two_counts() {
        let (dq, q) = ("DequantizeLinear", "QuantizeLinear");
        for (ops, expected) in [
            (&[dq, "Softmax", q][..], true),
            (&[dq, "Relu", "LogSoftmax", "Identity", q], true),
            (&[dq, "Sigmoid", q], false),
            (&[dq, "Softmax"], false),
            (&["Softmax", q], false),
            (&[dq, "MatMul", "Softmax", q], false),
            (&[dq, "Softmax", "MatMul", q], false),
        ] {
            assert_eq!(has_softmax_between(&chain(ops)), expected, "{ops:?}");
        }
        assert!(is_quantised(&chain(&[dq])) && !is_quantised(&chain(&["Softmax"])));
    }
}
