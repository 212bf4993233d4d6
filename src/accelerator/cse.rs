//! Common-subexpression elimination: equal initializers are stored once, equal nodes are computed once.

use std::collections::HashMap;

use prost::Message;

use super::net::{self, Net};
use crate::model::onnx::{NodeProto, TensorProto};
use crate::model::{Effect, Facts, Model, Pass, PassError, Tensor, edit};

/// The pass `merge-common-subexpressions`.
#[derive(Debug, Clone, Copy, Default)]
pub struct MergeCommonSubexpressions;

/// Operators whose result is not a function of their inputs.
const RANDOM: [&str; 6] =
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"];
/// Bytes at either end of a tensor that stand for it in the first comparison, so that weights are not read without need.
const SAMPLE: usize = 64;
/// Typed fields (not raw bytes) are decoded for comparison up to this many elements.
const MOST_TYPED: usize = 1024;

impl Pass for MergeCommonSubexpressions {
    fn name(&self) -> &'static str {
        "merge-common-subexpressions"
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        let rewrites = net::edit(model, facts, |net| {
            let rewrites = merge_initializers(net) + merge_nodes(net);
            net.sweep();
            rewrites
        });
        Ok(Effect::rewrites(rewrites, "no two nodes or initializers are equal"))
    }
}

type Key = (i32, Vec<i64>, Vec<u8>);

fn key(proto: &TensorProto) -> Option<(Key, Tensor)> {
    let count = proto.dims.iter().product::<i64>();
    if proto.raw_data.is_none() && usize::try_from(count).ok()? > MOST_TYPED {
        return None;
    }
    let tensor = Tensor::from_proto(proto).ok()?;
    let bytes = tensor.bytes();
    let sample = [&bytes[..bytes.len().min(SAMPLE)], &bytes[bytes.len().saturating_sub(SAMPLE)..]].concat();
    Some(((proto.data_type(), proto.dims.clone(), sample), tensor))
}

fn merge_initializers(net: &mut Net) -> usize {
    let mut kept: HashMap<Key, Vec<(String, Tensor)>> = HashMap::new();
    let mut merges = Vec::new();
    for proto in &net.graph().initializer {
        let name = proto.name();
        let fixed = net.initializer(name).is_some() && !net.is_output(name);
        let Some((key, tensor)) = key(proto).filter(|_| fixed) else { continue };
        let same = kept.entry(key).or_default();
        match same.iter().find(|(_, other)| *other == tensor) {
            Some((first, _)) => merges.push((name.to_owned(), first.clone())),
            None => same.push((name.to_owned(), tensor)),
        }
    }
    merges.iter().filter(|(from, to)| net.redirect(from, to)).count()
}

fn node_key(node: &NodeProto) -> Option<Vec<u8>> {
    let random = RANDOM.contains(&node.op_type()) || node.op_type() == "Dropout";
    if random || node.input.is_empty() || edit::subgraphs(node).next().is_some() {
        return None;
    }
    let mut attribute = node.attribute.clone();
    attribute.sort_by(|a, b| a.name().cmp(b.name()));
    for a in &mut attribute {
        a.doc_string = None;
    }
    // Which optional outputs are asked for is part of what a node computes.
    let output = node.output.iter().map(|o| if o.is_empty() { String::new() } else { "o".to_owned() }).collect();
    let bare = NodeProto {
        input: node.input.clone(),
        output,
        op_type: node.op_type.clone(),
        domain: Some(node.domain().to_owned()),
        overload: node.overload.clone(),
        attribute,
        ..NodeProto::default()
    };
    Some(bare.encode_to_vec())
}

fn merge_nodes(net: &mut Net) -> usize {
    let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut merged = 0;
    for id in net.ids() {
        let Some(node) = net.get(id) else { continue };
        let Some(key) = node_key(node) else { continue };
        let Some(&first) = seen.get(&key) else {
            seen.insert(key, id);
            continue;
        };
        // A graph output has to stay computed under its own name.
        if node.output.iter().any(|o| net.is_output(o)) {
            continue;
        }
        let Some(original) = net.get(first) else { continue };
        let pairs: Vec<_> = node.output.iter().cloned().zip(original.output.iter().cloned()).collect();
        if pairs.iter().filter(|(from, _)| !from.is_empty()).all(|(from, to)| net.redirect(from, to)) {
            net.remove(id);
            merged += 1;
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DType;
    use crate::model::build::Builder;

    #[test]
    fn equal_nodes_of_equal_constants_become_one() {
        let mut model = Builder::new(17)
            .input("x", DType::F32, &["N"])
            .initializer("a", Tensor::scalar(2.0_f32))
            .initializer("b", Tensor::scalar(2.0_f32))
            .initializer("c", Tensor::scalar(2_i32))
            .node("Mul", &["x", "a"], "p", vec![])
            .node("Mul", &["x", "b"], "q", vec![])
            .node("Add", &["p", "q"], "y", vec![])
            .output("y", DType::F32, &["N"])
            .build();
        MergeCommonSubexpressions.apply(&mut model, &mut Facts::default()).unwrap();
        let nodes: Vec<_> = model.graph().node.iter().map(|n| (n.op_type(), n.input.join(" "))).collect();
        assert_eq!(nodes, [("Mul", "x a".to_owned()), ("Add", "p p".to_owned())]);
        assert_eq!(model.graph().initializer.len(), 1);
    }

    #[test]
    fn random_nodes_and_graph_outputs_stay_two() {
        let model = Builder::new(17)
            .input("x", DType::F32, &["N"])
            .node("RandomNormalLike", &["x"], "p", vec![])
            .node("RandomNormalLike", &["x"], "q", vec![])
            .node("Add", &["p", "q"], "r", vec![])
            .node("Relu", &["r"], "y", vec![])
            .node("Relu", &["r"], "z", vec![])
            .output("y", DType::F32, &["N"])
            .output("z", DType::F32, &["N"])
            .build();
        let mut edited = model.clone();
        let effect = MergeCommonSubexpressions.apply(&mut edited, &mut Facts::default()).unwrap();
        assert!(matches!(effect, Effect::Skipped { .. }));
        assert_eq!(edited.graph(), model.graph());
    }
}
