//! Adding constants to a graph and taking away those that nobody reads any more.

use std::collections::HashSet;

use crate::model::build::tensor_attribute;
use crate::model::edit::{Index, is_op, node};
use crate::model::onnx::{GraphProto, NodeProto, TensorProto};
use crate::model::{Model, Tensor};

/// New constants of a graph. Before IR version 4 every initializer had to be a graph input too; there they become `Constant` nodes, so that the signature stays.
pub(super) struct Store {
    as_nodes: bool,
    /// Constants as initializers.
    pub(super) initializers: Vec<TensorProto>,
    /// Constants as nodes; they come before their readers.
    pub(super) nodes: Vec<NodeProto>,
}

impl Store {
    /// An empty store that writes as this IR version asks.
    pub(super) fn new(ir_version: i64) -> Self {
        Self { as_nodes: ir_version < 4, initializers: Vec::new(), nodes: Vec::new() }
    }

    /// Adds a constant.
    pub(super) fn add(&mut self, name: &str, tensor: &Tensor) {
        if self.as_nodes {
            self.nodes.push(node("Constant", "", &[], &[name], vec![tensor_attribute("value", tensor)]));
        } else {
            self.initializers.push(tensor.to_proto(name));
        }
    }

    /// Moves everything into a graph.
    pub(super) fn flush(self, graph: &mut GraphProto) {
        graph.initializer.extend(self.initializers);
        graph.node.splice(0..0, self.nodes);
    }
}

/// Removes those of `candidates` (initializers, or outputs of `Constant`, `Identity` and `Transpose` nodes of the main graph) that nobody reads, and what only they read.
pub(super) fn remove_unread(model: &mut Model, candidates: impl IntoIterator<Item = String>) {
    let overridable: HashSet<String> = super::scope::overridable(model).into_iter().map(str::to_owned).collect();
    let mut queue: Vec<String> = candidates.into_iter().collect();
    while let Some(name) = queue.pop() {
        let index = Index::new(model.graph());
        if !index.readers(&name).is_empty() || index.is_output(&name) || overridable.contains(&name) {
            continue;
        }
        let graph = model.graph_mut();
        if let Some(position) = index.initializer(&name) {
            graph.initializer.remove(position);
            graph.input.retain(|i| i.name() != name);
        } else if let Some(position) = index.producer(&name) {
            let producer = &graph.node[position];
            let view = ["Constant", "Identity", "Transpose"].iter().any(|op| is_op(producer, op));
            if view && producer.output.len() == 1 {
                queue.extend(graph.node.remove(position).input);
            }
        }
        graph.value_info.retain(|v| v.name() != name);
    }
}
