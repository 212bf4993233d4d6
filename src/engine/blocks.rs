//! Which internal tensors feature preservation looks at: one per block, blocks being what lies between the graph's cut points.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::model::edit::{Index, is_op, reads_of};
use crate::model::{Facts, Model};

/// The most taps of one model. More blocks than that are sampled evenly, the last tap always kept.
pub const MAX_TAPS: usize = 8;

/// Names of the tensors to tap, in graph order: float tensors at cut points, and always the input of the last MatMul, Gemm or Conv.
///
/// A cut point is a tensor through which everything flows: behind its producer no other feature is still needed. Features are float tensors that a layer with
/// weights made of the data, or that follow from one; constants, masks and scaled inputs are none, and neither are graph inputs and outputs.
pub fn choose(model: &Model, facts: &Facts) -> Vec<String> {
    let graph = model.graph();
    let float = |name: &str| facts.dtype(name).is_some_and(crate::model::DType::is_float);
    let outputs: HashSet<&str> = graph.output.iter().map(super::super::model::onnx::ValueInfoProto::name).collect();
    let last_read = last_reads(model);
    let features = features(model);

    let mut live: BTreeSet<&str> = BTreeSet::new();
    let mut cuts: Vec<&str> = Vec::new();
    let mut last_layer_input = None;
    for (position, node) in graph.node.iter().enumerate() {
        if ["MatMul", "Gemm", "Conv"].iter().any(|op| is_op(node, op)) {
            last_layer_input = node
                .input
                .first()
                .map(String::as_str)
                .filter(|i| features.contains(i) && float(i))
                .or(last_layer_input);
        }
        for output in node.output.iter().filter(|o| features.contains(o.as_str()) && float(o)) {
            live.insert(output);
        }
        live.retain(|t| last_read.get(*t).is_some_and(|&last| last > position));
        if let (1, Some(&only)) = (live.len(), live.first())
            && cuts.last() != Some(&only)
            && !outputs.contains(only)
        {
            cuts.push(only);
        }
    }
    let last = last_layer_input.filter(|t| !outputs.contains(t));
    cuts.retain(|t| Some(*t) != last);
    let room = MAX_TAPS - usize::from(last.is_some());
    let chosen: HashSet<&str> = evenly(&cuts, room).into_iter().chain(last).collect();
    graph.node.iter().flat_map(|n| &n.output).filter(|o| chosen.contains(o.as_str())).cloned().collect()
}

/// For each tap of `from`, the tensor of `to` that stands for it: itself, or the nearest one behind it that is left. Taps without one are dropped, as are
/// taps that fall onto the same tensor.
pub fn successors(from: &Model, taps: &[String], to: &Model) -> Vec<(String, String)> {
    let index = Index::new(from.graph());
    // An optional output that is left out has the empty name: no tensor.
    let first_named = |node: usize| from.graph().node[node].output.iter().find(|o| !o.is_empty()).cloned();
    let left: HashSet<&str> =
        to.graph().node.iter().flat_map(|n| n.output.iter().map(String::as_str)).filter(|o| !o.is_empty()).collect();
    let mut pairs: Vec<(String, String)> = Vec::new();
    for tap in taps {
        let mut at = tap.clone();
        while !left.contains(at.as_str()) {
            let Some(next) = index.only_reader(&at).and_then(first_named) else { break };
            at = next;
        }
        if left.contains(at.as_str()) && !pairs.iter().any(|(_, b)| *b == at) {
            // Both sides are read at the successor: comparing a tensor with one behind a non-linearity would blame the fusion.
            pairs.push((at.clone(), at));
        }
    }
    pairs
}

/// Names of the outputs that are judged when a job names none: all but the final states of recurrent layers, which repeat what the sequence says. All of them
/// where nothing else is put out.
pub fn judged_outputs(model: &Model) -> Vec<String> {
    let graph = model.graph();
    let index = Index::new(graph);
    let all: Vec<String> = graph.output.iter().map(|o| o.name().to_owned()).collect();
    let judged: Vec<String> = all.iter().filter(|o| !is_final_state(model, &index, o)).cloned().collect();
    if judged.is_empty() { all } else { judged }
}

/// Whether a tensor is a final state of an LSTM, GRU or RNN, seen through what only changes its shape.
fn is_final_state(model: &Model, index: &Index, tensor: &str) -> bool {
    let Some(node) = index.producer(tensor).map(|n| &model.graph().node[n]) else { return false };
    if ["LSTM", "GRU", "RNN"].iter().any(|op| is_op(node, op)) {
        return node.output.iter().position(|o| o == tensor).is_some_and(|place| place > 0);
    }
    let reshapes =
        ["Squeeze", "Unsqueeze", "Reshape", "Transpose", "Identity", "Flatten"].iter().any(|op| is_op(node, op));
    reshapes && node.input.first().is_some_and(|input| is_final_state(model, index, input))
}

/// Layers that make features.
const LAYERS: &[&str] = &["MatMul", "Gemm", "Conv", "ConvTranspose", "Gather", "LSTM", "GRU", "RNN"];

/// Tensors that are made of the data by some layer, or follow from one that is.
fn features(model: &Model) -> HashSet<&str> {
    let graph = model.graph();
    let constants: HashSet<&str> = graph.initializer.iter().map(crate::model::onnx::TensorProto::name).collect();
    let mut data: HashSet<&str> = graph.input.iter().map(crate::model::onnx::ValueInfoProto::name).collect();
    data.retain(|input| !constants.contains(input));
    let mut features = HashSet::new();
    for node in &graph.node {
        let reads = reads_of(node);
        // What depends on the data's shape alone is no feature of it.
        if ["Shape", "Size"].iter().any(|op| is_op(node, op)) || !reads.iter().any(|r| data.contains(r.as_str())) {
            continue;
        }
        let outputs = || node.output.iter().map(String::as_str).filter(|o| !o.is_empty());
        data.extend(outputs());
        if LAYERS.iter().any(|op| is_op(node, op)) || reads.iter().any(|r| features.contains(r.as_str())) {
            features.extend(outputs());
        }
    }
    // A model without such a layer: whatever it calculates.
    if features.is_empty() { data } else { features }
}

/// Position of the last node that reads each tensor.
fn last_reads(model: &Model) -> BTreeMap<String, usize> {
    model
        .graph()
        .node
        .iter()
        .enumerate()
        .flat_map(|(position, node)| reads_of(node).into_iter().map(move |name| (name, position)))
        .collect()
}

fn evenly<'a>(all: &[&'a str], count: usize) -> Vec<&'a str> {
    if all.len() <= count {
        return all.to_vec();
    }
    (0..count).map(|i| all[(i + 1) * all.len() / count - 1]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::edit::node;
    use crate::model::onnx::{ModelProto, ValueInfoProto};
    use crate::model::{DType, TensorFact};

    fn chain(nodes: &[(&str, &[&str], &str)]) -> (Model, Facts) {
        let mut model = Model::from_proto(ModelProto::default());
        let mut facts = Facts::default();
        model.graph_mut().input.push(ValueInfoProto { name: Some("x".into()), ..ValueInfoProto::default() });
        for (op, inputs, output) in nodes {
            model.graph_mut().node.push(node(op, output, inputs, &[output], vec![]));
            facts.insert(*output, TensorFact { dtype: DType::F32, shape: vec![Some(1)] });
        }
        model.graph_mut().output.push(ValueInfoProto { name: Some("y".into()), ..ValueInfoProto::default() });
        (model, facts)
    }

    #[test]
    fn a_residual_block_is_tapped_behind_its_sum_not_inside() {
        let (model, facts) = chain(&[
            ("Conv", &["x", "w"], "a"),
            ("Conv", &["a", "w"], "b"),
            ("Add", &["a", "b"], "c"),
            ("Gemm", &["c", "w"], "y"),
        ]);
        assert_eq!(choose(&model, &facts), ["a", "c"]);
    }

    #[test]
    fn constants_masks_and_what_only_scales_the_input_are_no_features() {
        // The mask is still needed at the end, so nothing before it would be a cut if it counted.
        let (model, facts) = chain(&[
            ("Constant", &[], "w"),
            ("Shape", &["x"], "shape"),
            ("ConstantOfShape", &["shape"], "initial"),
            ("Mul", &["x", "w"], "scaled"),
            ("Sub", &["w", "x"], "mask"),
            ("MatMul", &["scaled", "w"], "a"),
            ("Add", &["a", "mask"], "b"),
            ("MatMul", &["b", "w"], "c"),
            ("Add", &["c", "mask"], "y"),
        ]);
        assert_eq!(choose(&model, &facts), ["a", "b", "c"]);
    }

    #[test]
    fn final_recurrent_states_are_not_judged_unless_they_are_all_there_is() {
        let (mut model, _) = chain(&[("LSTM", &["x", "w", "r"], "y")]);
        model.graph_mut().node[0].output.push("h".into());
        model.graph_mut().node.push(node("Squeeze", "s", &["h"], &["state"], vec![]));
        model.graph_mut().output.push(ValueInfoProto { name: Some("state".into()), ..ValueInfoProto::default() });
        assert_eq!(judged_outputs(&model), ["y"]);
        model.graph_mut().output.remove(0);
        assert_eq!(judged_outputs(&model), ["state"]);
    }

    #[test]
    fn a_fused_tap_moves_to_the_tensor_behind_it() {
        let (from, _) =
            chain(&[("Conv", &["x", "w"], "a"), ("BatchNormalization", &["a", "s"], "b"), ("Gemm", &["b", "w"], "y")]);
        let (to, _) = chain(&[("Conv", &["x", "w"], "b"), ("Gemm", &["b", "w"], "y")]);
        assert_eq!(successors(&from, &["a".into(), "b".into()], &to), [("b".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn an_output_that_is_left_out_is_no_tensor_to_look_at() {
        let gru = |input: &str| node("GRU", "g", &[input, "w", "r"], &["", "h"], vec![]);
        let (mut from, _) = chain(&[("Transpose", &["x"], "t")]);
        from.graph_mut().node.push(gru("t"));
        let (mut to, _) = chain(&[]);
        to.graph_mut().node.push(gru("x"));
        assert_eq!(successors(&from, &["t".into()], &to), [("h".to_owned(), "h".to_owned())]);
    }
}
