//! What an operator does with a constant operand: multiply by it (then which axes are its output channels), move it, or need it exact.

use serde::{Deserialize, Serialize};

use crate::model::Tensor;
use crate::model::edit::{attribute, int_attribute, ints_attribute, is_op, string_attribute};
use crate::model::onnx::NodeProto;

/// The kind of operator that a weight belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WeightKind {
    /// Kernel of a convolution.
    Conv,
    /// Kernel of a transposed convolution.
    ConvTranspose,
    /// Constant side of a matrix product (`MatMul`, `Einsum`, ONNX Runtime's `FusedMatMul`).
    MatMul,
    /// Matrix of a `Gemm`.
    Gemm,
    /// Input or recurrence matrix of an LSTM, GRU or RNN.
    Recurrent,
    /// Table that rows are looked up in.
    Embedding,
    /// Joint projection of ONNX Runtime's `Attention`.
    Attention,
    /// A large constant that is added, scaled, sliced or the like: positions, anchors, masks. It means values, not products, so half precision suits it better.
    Other,
}

/// What an operator does with one operand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    /// Products along some axes; `axes`, ascending, are the others: one scale per index along them stays outside the sum.
    Weight { kind: WeightKind, axes: Vec<usize> },
    /// Values that flow on.
    Data,
    /// Must stay as it is.
    Exact,
}

/// The role of input number `position`, a constant of this shape.
pub(super) fn role(node: &NodeProto, position: usize, shape: &[usize]) -> Role {
    let rank = shape.len();
    let weight = |kind, axes: Vec<usize>| Role::Weight { kind, axes };
    let all_but = |left_out: usize| (0..rank).filter(|&a| a != left_out).collect::<Vec<_>>();
    let known = match node.domain() {
        "" | "ai.onnx" => true,
        "com.microsoft" => matches!(node.op_type(), "FusedConv" | "FusedGemm" | "FusedMatMul" | "Attention"),
        _ => false,
    };
    if !known {
        return Role::Exact;
    }
    match (node.op_type(), position) {
        ("Conv" | "FusedConv", 1) if rank >= 3 => weight(WeightKind::Conv, vec![0]),
        ("ConvTranspose", 1) if rank >= 3 => {
            // Shape is [in, out / group, ...]. One group per input channel: the inputs are the outputs. Else the groups share a scale per output.
            let depthwise = int_attribute(node, "group", 1) == shape[0] as i64 && shape[0] > 1;
            weight(WeightKind::ConvTranspose, vec![usize::from(!depthwise)])
        }
        ("MatMul" | "FusedMatMul", 0 | 1) if rank >= 2 => {
            let transposed = int_attribute(node, if position == 0 { "transA" } else { "transB" }, 0) != 0;
            let summed_last = (position == 0) != transposed;
            weight(WeightKind::MatMul, all_but(if summed_last { rank - 1 } else { rank - 2 }))
        }
        ("Gemm" | "FusedGemm", 0 | 1) if rank == 2 => {
            let transposed = int_attribute(node, if position == 0 { "transA" } else { "transB" }, 0) != 0;
            weight(WeightKind::Gemm, vec![usize::from((position == 0) == transposed)])
        }
        ("Einsum", _) => einsum_axes(node, position, rank).map_or(Role::Data, |axes| weight(WeightKind::MatMul, axes)),
        // [directions, gates * hidden, input]: each direction and row is one product.
        ("LSTM" | "GRU" | "RNN", 1 | 2) if rank == 3 => weight(WeightKind::Recurrent, vec![0, 1]),
        ("Gather", 0) if rank >= 2 => {
            axis(int_attribute(node, "axis", 0), rank).map_or(Role::Data, |a| weight(WeightKind::Embedding, vec![a]))
        }
        ("Attention", 1) if node.domain() == "com.microsoft" && rank == 2 => weight(WeightKind::Attention, vec![1]),
        // Biases, slopes, statistics and scales cost little and count a lot; an operator that quantises brings its own numbers.
        (
            "Conv"
            | "ConvTranspose"
            | "Gemm"
            | "LSTM"
            | "GRU"
            | "RNN"
            | "FusedConv"
            | "FusedGemm"
            | "Attention"
            | "BatchNormalization"
            | "LayerNormalization"
            | "InstanceNormalization"
            | "GroupNormalization"
            | "RMSNormalization"
            | "PRelu"
            | "QuantizeLinear"
            | "DequantizeLinear"
            | "DynamicQuantizeLinear"
            | "Resize"
            | "Upsample"
            | "QLinearConv"
            | "QLinearMatMul",
            _,
        ) => Role::Exact,
        _ => Role::Data,
    }
}

/// Axes of an `Einsum` operand whose letters reach the output, when at least one letter is summed over.
fn einsum_axes(node: &NodeProto, position: usize, rank: usize) -> Option<Vec<usize>> {
    let equation: String = string_attribute(node, "equation")?.chars().filter(|c| !c.is_whitespace()).collect();
    let (inputs, output) = equation.split_once("->")?;
    let letters: Vec<char> = inputs.split(',').nth(position)?.chars().collect();
    if letters.len() != rank || letters.contains(&'.') {
        return None;
    }
    let kept: Vec<usize> = (0..rank).filter(|&a| output.contains(letters[a])).collect();
    (kept.len() < rank).then_some(kept)
}

/// A possibly negative axis of a tensor of this rank.
fn axis(axis: i64, rank: usize) -> Option<usize> {
    usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok().filter(|&a| a < rank)
}

/// A tensor seen through an operator that only renames its axes.
pub(super) struct View {
    /// Shape of the operator's output.
    pub(super) shape: Vec<usize>,
    /// For each axis of the output the axis of the input that it is; `None` for one that was added or cut anew.
    pub(super) source: Vec<Option<usize>>,
}

/// How `node` shows its first input, a constant of this shape; `None` when it does more than rename axes. `constant` reads the other operands.
pub(super) fn view(node: &NodeProto, shape: &[usize], constant: impl Fn(&str) -> Option<Tensor>) -> Option<View> {
    let rank = shape.len();
    let operand = |position: usize| node.input.get(position).filter(|n| !n.is_empty());
    let list = |name: &str| {
        let from_operand = || Some(constant(operand(1)?)?.to_i64()?.into_owned());
        ints_attribute(node, name).map(<[i64]>::to_vec).or_else(from_operand)
    };
    if is_op(node, "Identity") {
        return Some(View { shape: shape.to_vec(), source: (0..rank).map(Some).collect() });
    }
    if is_op(node, "Transpose") {
        let permutation: Vec<usize> = match ints_attribute(node, "perm") {
            Some(perm) => perm.iter().map(|&p| axis(p, rank)).collect::<Option<_>>()?,
            None => (0..rank).rev().collect(),
        };
        let shape = permutation.iter().map(|&p| shape[p]).collect();
        return (permutation.len() == rank)
            .then(|| View { shape, source: permutation.into_iter().map(Some).collect() });
    }
    let to = if is_op(node, "Unsqueeze") {
        let axes = list("axes")?;
        let wide = rank + axes.len();
        let added = axes.iter().map(|&a| axis(a, wide)).collect::<Option<Vec<_>>>()?;
        let mut old = shape.iter();
        (0..wide).map(|a| if added.contains(&a) { Some(1) } else { old.next().copied() }).collect::<Option<Vec<_>>>()?
    } else if is_op(node, "Squeeze") {
        let given = attribute(node, "axes").is_some() || operand(1).is_some();
        let dropped: Vec<usize> = if given {
            list("axes")?.iter().map(|&a| axis(a, rank)).collect::<Option<_>>()?
        } else {
            (0..rank).filter(|&a| shape[a] == 1).collect()
        };
        (0..rank).filter(|a| !dropped.contains(a)).map(|a| shape[a]).collect()
    } else if is_op(node, "Flatten") {
        let at = usize::try_from(int_attribute(node, "axis", 1)).ok().filter(|&a| a <= rank)?;
        vec![shape[..at].iter().product(), shape[at..].iter().product()]
    } else if is_op(node, "Reshape") {
        reshaped(shape, &list("shape")?)?
    } else {
        return None;
    };
    let source = (0..to.len()).map(|a| same_axis(shape, &to, a)).collect();
    Some(View { shape: to, source })
}

/// The shape that `Reshape` gives (0 keeps an extent, -1 is what is left).
fn reshaped(shape: &[usize], to: &[i64]) -> Option<Vec<usize>> {
    let keep =
        |(i, &d): (usize, &i64)| if d == 0 { shape.get(i).copied() } else { Some(usize::try_from(d).unwrap_or(1)) };
    let mut out: Vec<usize> = to.iter().enumerate().map(keep).collect::<Option<_>>()?;
    let total: usize = shape.iter().product();
    if let Some(open) = to.iter().position(|&d| d == -1) {
        out[open] = total.checked_div(out.iter().product())?;
    }
    (out.iter().product::<usize>() == total).then_some(out)
}

/// The axis of `from` that is axis `a` of `to` when both are the same elements in the same order: equal extent and equal stride.
fn same_axis(from: &[usize], to: &[usize], a: usize) -> Option<usize> {
    let stride = |shape: &[usize], axis: usize| shape[axis + 1..].iter().product::<usize>();
    (to[a] > 1).then(|| (0..from.len()).find(|&b| from[b] == to[a] && stride(from, b) == stride(to, a)))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::string_attribute as text;
    use crate::model::edit::{int, ints, node};

    #[test]
    fn each_operator_names_the_channels_of_its_weight() {
        let op = |name: &str, attributes| node(name, "n", &["a", "b", "c"], &["y"], attributes);
        let cases: Vec<(NodeProto, usize, &[usize], WeightKind, Vec<usize>)> = vec![
            (op("Conv", vec![]), 1, &[8, 3, 3, 3], WeightKind::Conv, vec![0]),
            (op("Conv", vec![]), 1, &[8, 3, 3], WeightKind::Conv, vec![0]),
            (op("ConvTranspose", vec![]), 1, &[8, 4, 2, 2], WeightKind::ConvTranspose, vec![1]),
            (op("ConvTranspose", vec![int("group", 2)]), 1, &[8, 4, 2, 2], WeightKind::ConvTranspose, vec![1]),
            (op("ConvTranspose", vec![int("group", 8)]), 1, &[8, 1, 2, 2], WeightKind::ConvTranspose, vec![0]),
            (op("MatMul", vec![]), 1, &[16, 4], WeightKind::MatMul, vec![1]),
            (op("MatMul", vec![]), 0, &[16, 4], WeightKind::MatMul, vec![0]),
            (op("MatMul", vec![]), 1, &[2, 16, 4], WeightKind::MatMul, vec![0, 2]),
            (op("Gemm", vec![]), 1, &[16, 4], WeightKind::Gemm, vec![1]),
            (op("Gemm", vec![int("transB", 1)]), 1, &[4, 16], WeightKind::Gemm, vec![0]),
            (op("Gemm", vec![]), 0, &[16, 4], WeightKind::Gemm, vec![0]),
            (op("Gemm", vec![int("transA", 1)]), 0, &[4, 16], WeightKind::Gemm, vec![1]),
            (op("LSTM", vec![]), 1, &[2, 16, 4], WeightKind::Recurrent, vec![0, 1]),
            (op("GRU", vec![]), 2, &[1, 12, 4], WeightKind::Recurrent, vec![0, 1]),
            (op("Gather", vec![]), 0, &[100, 8], WeightKind::Embedding, vec![0]),
            (op("Gather", vec![int("axis", -1)]), 0, &[8, 100], WeightKind::Embedding, vec![1]),
            (op("Einsum", vec![text("equation", "bij, jk -> bik")]), 1, &[4, 6], WeightKind::MatMul, vec![1]),
        ];
        for (op, position, shape, kind, axes) in cases {
            assert_eq!(
                role(&op, position, shape),
                Role::Weight { kind, axes },
                "{} {position} {shape:?}",
                op.op_type()
            );
        }
    }

    #[test]
    fn biases_statistics_and_unknown_operators_need_exact_values() {
        for (name, position) in
            [("Conv", 2), ("Gemm", 2), ("LSTM", 3), ("BatchNormalization", 3), ("PRelu", 1), ("QuantizeLinear", 0)]
        {
            assert_eq!(role(&node(name, "", &[], &[], vec![]), position, &[4096]), Role::Exact, "{name}");
        }
        let custom = NodeProto { domain: Some("my.ops".into()), ..node("MatMul", "", &[], &[], vec![]) };
        assert_eq!(role(&custom, 1, &[64, 64]), Role::Exact);
        assert_eq!(role(&node("Add", "", &[], &[], vec![]), 1, &[1, 512, 384]), Role::Data);
    }

    #[test]
    fn axes_are_followed_through_views() {
        let view_of = |op: NodeProto, shape: &[usize], operand: &[i64]| {
            let operand = Tensor::new(&[operand.len()], operand);
            view(&op, shape, |_| Some(operand.clone())).map(|v| (v.shape, v.source))
        };
        let cases = [
            (node("Transpose", "", &["w"], &["t"], vec![]), &[3, 4][..], &[][..], vec![4, 3], vec![Some(1), Some(0)]),
            (
                node("Transpose", "", &["w"], &["t"], vec![ints("perm", &[2, 0, 1])]),
                &[2, 3, 4],
                &[],
                vec![4, 2, 3],
                vec![Some(2), Some(0), Some(1)],
            ),
            (
                node("Unsqueeze", "", &["w", "axes"], &["t"], vec![]),
                &[3, 4],
                &[-1],
                vec![3, 4, 1],
                vec![Some(0), Some(1), None],
            ),
            (
                node("Squeeze", "", &["w"], &["t"], vec![ints("axes", &[0])]),
                &[1, 3, 4],
                &[],
                vec![3, 4],
                vec![Some(1), Some(2)],
            ),
            (
                node("Reshape", "", &["w", "s"], &["t"], vec![]),
                &[6, 4],
                &[2, 3, 4],
                vec![2, 3, 4],
                vec![None, None, Some(1)],
            ),
            (node("Reshape", "", &["w", "s"], &["t"], vec![]), &[6, 2, 2], &[0, -1], vec![6, 4], vec![Some(0), None]),
            (node("Flatten", "", &["w"], &["t"], vec![]), &[5, 2, 3], &[], vec![5, 6], vec![Some(0), None]),
        ];
        for (op, shape, operand, to, source) in cases {
            let label = op.op_type().to_owned();
            assert_eq!(view_of(op, shape, operand), Some((to, source)), "{label} {shape:?} {operand:?}");
        }
        assert!(view_of(node("Relu", "", &["w"], &["t"], vec![]), &[2], &[]).is_none());
        assert!(view_of(node("Reshape", "", &["w", "s"], &["t"], vec![]), &[6], &[4]).is_none());
    }
}
