//! Giving listed nodes of the main graph another form, one after the other.

use std::collections::HashMap;

use super::store::{Store, remove_unread};
use crate::model::edit::label;
use crate::model::onnx::NodeProto;
use crate::model::{Effect, Model};

/// The nodes of a graph with the listed ones in their new form.
pub(super) struct Rewritten {
    nodes: Vec<NodeProto>,
    /// What the listed ones read and perhaps nobody reads any more.
    unread: Vec<String>,
    rewrites: usize,
    /// Why some stay as they are.
    refused: Vec<String>,
}

impl Rewritten {
    /// `plans` by first output; `write` gives the nodes that take the place of one, or says in words why there are none.
    pub(super) fn of<P>(
        model: &Model,
        plans: &HashMap<&str, &P>,
        mut write: impl FnMut(&NodeProto, &P) -> Result<Vec<NodeProto>, String>,
    ) -> Self {
        let nodes = Vec::with_capacity(model.graph().node.len());
        let mut listed = Self { nodes, unread: Vec::new(), rewrites: 0, refused: Vec::new() };
        for node in &model.graph().node {
            let plan = node.output.first().and_then(|output| plans.get(output.as_str()));
            match plan.map(|plan| write(node, plan)) {
                None => listed.nodes.push(node.clone()),
                Some(Ok(written)) => {
                    listed.nodes.extend(written);
                    listed.unread.extend(node.input[1..].iter().filter(|n| !n.is_empty()).cloned());
                    listed.rewrites += 1;
                }
                Some(Err(reason)) => {
                    listed.refused.push(format!("{}: {reason}", label(node)));
                    listed.nodes.push(node.clone());
                }
            }
        }
        listed
    }

    /// Puts them and their constants into the graph. Where none was rewritten, it stays as it is.
    pub(super) fn put(self, model: &mut Model, store: Store) -> Effect {
        if self.rewrites == 0 {
            let none = self.refused.is_empty().then(|| "no listed node is in the graph".to_owned());
            return Effect::Skipped { reason: none.unwrap_or_else(|| self.refused.join("; ")) };
        }
        model.graph_mut().node = self.nodes;
        store.flush(model.graph_mut());
        remove_unread(model, self.unread);
        Effect::Applied { rewrites: self.rewrites, fused: Vec::new() }
    }
}
