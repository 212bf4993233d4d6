//! Constants and their readers across a graph and the graphs inside its nodes.

use std::collections::{HashMap, HashSet};

use super::roles::{Role, WeightKind, role, view};
use crate::model::edit::{constant_value, is_op, subgraphs};
use crate::model::onnx::{GraphProto, NodeProto};
use crate::model::{Model, Tensor};

/// One graph of a model: the main one, or one inside a node.
struct Scope<'m> {
    graph: &'m GraphProto,
    parent: Option<usize>,
    defined: HashSet<&'m str>,
}

/// Who reads a tensor.
#[derive(Clone, Copy)]
pub(super) enum Use<'m> {
    /// Input `position` of a node of graph number `scope`.
    Input { scope: usize, node: &'m NodeProto, position: usize },
    /// It is an output of a graph.
    Output,
}

/// Every graph of a model (the main one is number 0) and every use of every tensor.
pub(super) struct Scopes<'m> {
    graphs: Vec<Scope<'m>>,
    uses: HashMap<(usize, &'m str), Vec<Use<'m>>>,
    overridable: HashSet<&'m str>,
}

/// A constant tensor and where it is defined.
pub(super) struct Constant<'m> {
    pub(super) scope: usize,
    pub(super) name: &'m str,
    pub(super) tensor: Tensor,
}

/// What all readers of a constant make of it.
pub(super) struct Reading<'m> {
    /// Kind and axes as the first reader that multiplies by it has them; `Other` when none does.
    pub(super) kind: WeightKind,
    /// Axes with a scale of their own, of the constant itself; every distinct choice of a reader, in graph order.
    pub(super) axes: Vec<Vec<usize>>,
    /// The readers, views left out.
    pub(super) nodes: Vec<&'m NodeProto>,
}

impl<'m> Scopes<'m> {
    /// Walks the whole model.
    pub(super) fn new(model: &'m Model) -> Self {
        let mut all = Self { graphs: Vec::new(), uses: HashMap::new(), overridable: overridable(model) };
        all.enter(model.graph(), None);
        for scope in 0..all.graphs.len() {
            let graph = all.graphs[scope].graph;
            for node in &graph.node {
                for (position, name) in node.input.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
                    all.record(scope, name, Use::Input { scope, node, position });
                }
            }
            graph.output.iter().for_each(|o| all.record(scope, o.name(), Use::Output));
        }
        all
    }

    fn enter(&mut self, graph: &'m GraphProto, parent: Option<usize>) {
        let number = self.graphs.len();
        let mut defined: HashSet<&str> = graph
            .initializer
            .iter()
            .map(crate::model::onnx::TensorProto::name)
            .chain(graph.input.iter().map(crate::model::onnx::ValueInfoProto::name))
            .collect();
        defined.extend(graph.node.iter().flat_map(|n| n.output.iter().map(String::as_str)));
        self.graphs.push(Scope { graph, parent, defined });
        graph.node.iter().flat_map(subgraphs).for_each(|inner| self.enter(inner, Some(number)));
    }

    fn record(&mut self, scope: usize, name: &'m str, usage: Use<'m>) {
        if let Some(home) = self.home(scope, name) {
            self.uses.entry((home, name)).or_default().push(usage);
        }
    }

    /// The graph that defines what `name` means inside graph `scope`.
    fn home(&self, mut scope: usize, name: &str) -> Option<usize> {
        while !self.graphs[scope].defined.contains(name) {
            scope = self.graphs[scope].parent?;
        }
        Some(scope)
    }

    /// Readers of a tensor that graph `scope` defines, graph by graph.
    pub(super) fn uses(&self, scope: usize, name: &'m str) -> &[Use<'m>] {
        self.uses.get(&(scope, name)).map_or(&[], Vec::as_slice)
    }

    /// Every numeric constant, graph by graph: initializers, then `Constant` nodes. An initializer that a caller may override by feeding it is none.
    pub(super) fn constants(&self) -> Vec<Constant<'m>> {
        let mut found = Vec::new();
        for (scope, Scope { graph, .. }) in self.graphs.iter().enumerate() {
            for proto in graph.initializer.iter().filter(|t| scope > 0 || !self.overridable.contains(t.name())) {
                found.extend(Tensor::from_proto(proto).ok().map(|tensor| Constant {
                    scope,
                    name: proto.name(),
                    tensor,
                }));
            }
            for node in graph.node.iter().filter(|n| is_op(n, "Constant") && n.output.len() == 1) {
                found.extend(constant_value(node).map(|tensor| Constant { scope, name: &node.output[0], tensor }));
            }
        }
        found
    }

    /// The constant that `name` means inside graph `scope`.
    fn constant(&self, scope: usize, name: &str) -> Option<Tensor> {
        let home = self.home(scope, name)?;
        let graph = self.graphs[home].graph;
        if home == 0 && self.overridable.contains(name) {
            return None;
        }
        if let Some(proto) = graph.initializer.iter().find(|t| t.name() == name) {
            return Tensor::from_proto(proto).ok();
        }
        constant_value(graph.node.iter().find(|n| n.output.iter().any(|o| o == name))?)
    }

    /// What the readers of a constant make of it, seen through transposes and reshapes. `None` when one of them needs it exact, or nobody reads it.
    pub(super) fn reading(&self, constant: &Constant<'m>) -> Option<Reading<'m>> {
        let mut reading = Reading { kind: WeightKind::Other, axes: Vec::new(), nodes: Vec::new() };
        let shape = constant.tensor.shape();
        let identity: Vec<Option<usize>> = (0..shape.len()).map(Some).collect();
        self.follow(constant.scope, constant.name, shape, &identity, &mut reading)?;
        (!reading.nodes.is_empty()).then_some(reading)
    }

    /// `source[a]` is the constant's own axis that axis `a` of the tensor `name` shows.
    fn follow(
        &self,
        home: usize,
        name: &'m str,
        shape: &[usize],
        source: &[Option<usize>],
        reading: &mut Reading<'m>,
    ) -> Option<()> {
        for usage in self.uses(home, name) {
            let Use::Input { scope, node, position } = *usage else { continue };
            let seen = (position == 0).then(|| view(node, shape, |n| self.constant(scope, n))).flatten();
            if let (Some(seen), Some(output)) = (seen, node.output.first()) {
                let source: Vec<Option<usize>> = seen.source.iter().map(|a| a.and_then(|a| source[a])).collect();
                self.follow(scope, output, &seen.shape, &source, reading)?;
                continue;
            }
            reading.nodes.push(node);
            match role(node, position, shape) {
                Role::Exact => return None,
                Role::Data => {}
                Role::Weight { kind, axes } => {
                    if reading.kind == WeightKind::Other {
                        reading.kind = kind;
                    }
                    // An extent of 1 tells nothing apart, wherever a view put it.
                    let own: Option<Vec<usize>> = axes.iter().filter(|&&a| shape[a] > 1).map(|&a| source[a]).collect();
                    if let Some(mut own) = own {
                        own.sort_unstable();
                        if !reading.axes.contains(&own) {
                            reading.axes.push(own);
                        }
                    }
                }
            }
        }
        Some(())
    }
}

/// Initializers that a caller may replace by feeding an input of the same name: from IR version 4 on they are defaults, before it constants.
pub(super) fn overridable(model: &Model) -> HashSet<&str> {
    if model.proto().ir_version() < 4 {
        return HashSet::new();
    }
    model.graph().input.iter().map(crate::model::onnx::ValueInfoProto::name).collect()
}
