//! The known fault of tract 0.23: `DequantizeLinear -> … -> QuantizeLinear` over operators with one input is folded into a table of 256 entries, as if each
//! operator worked element by element. `Softmax` and `LogSoftmax` pass its test for that, but do not.

use std::collections::HashSet;

use crate::model::Model;
use crate::model::edit::{Index, is_op};
use crate::model::onnx::NodeProto;

/// Operators that tract takes for element-wise, or that a later version might, although an element of their output depends on a whole row.
const ROW_WISE: [&str; 5] = ["Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "MeanVarianceNormalization"];

/// Whether the graph holds quantising or dequantising nodes.
pub(super) fn is_quantised(model: &Model) -> bool {
    model
        .graph()
        .node
        .iter()
        .any(|n| ["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"].iter().any(|op| is_op(n, op)))
}

/// Whether a row-wise operator lies between a `DequantizeLinear` and a `QuantizeLinear` with nothing but operators of one computed input around it.
pub(super) fn has_softmax_between(model: &Model) -> bool {
    let graph = model.graph();
    let index = Index::new(graph);
    let single = |node: &NodeProto| {
        node.input.iter().filter(|i| !i.is_empty() && model.constant(&index, i).is_none()).count() == 1
    };
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
    use crate::model::build::Builder;
    use crate::model::{DType, Tensor};

    fn chain(ops: &[&str]) -> Model {
        let constants = [("scale", Tensor::scalar(0.1_f32)), ("zero", Tensor::scalar(0_u8))];
        let builder = constants.into_iter().fold(Builder::new(17), |b, (name, value)| b.initializer(name, value));
        let built = ops.iter().enumerate().fold(builder.input("t0", DType::U8, &["N", "4"]), |b, (i, op)| {
            let (from, to) = (format!("t{i}"), format!("t{}", i + 1));
            match *op {
                "QuantizeLinear" | "DequantizeLinear" => b.node(op, &[&from, "scale", "zero"], &to, vec![]),
                "MatMul" => b.node(op, &[&from, "t0"], &to, vec![]),
                _ => b.node(op, &[&from], &to, vec![]),
            }
        });
        built.output(&format!("t{}", ops.len()), DType::U8, &["N", "4"]).build()
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
