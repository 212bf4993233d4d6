//! The main graph opened for editing: producers, readers and constants stay current through every edit, so a pass reads as the rewrite that it is.
//!
//! Nodes live in slots and are written back in topological order when the edit ends. The order is stable: an untouched graph is written back as it was.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use crate::model::onnx::{GraphProto, NodeProto, TensorProto, type_proto};
use crate::model::{DType, Facts, Model, Tensor, TensorFact, edit};

/// Slot of a node.
pub(crate) type Id = usize;

/// The opened graph.
pub(crate) struct Net<'a> {
    graph: &'a mut GraphProto,
    facts: &'a mut Facts,
    nodes: Vec<Option<NodeProto>>,
    /// Where in the original order a slot stands; an inserted node stands where its anchor does.
    order: Vec<usize>,
    producer: HashMap<String, Id>,
    readers: HashMap<String, Vec<Id>>,
    initializers: HashMap<String, usize>,
    overridable: HashSet<String>,
    inputs: HashSet<String>,
    outputs: HashSet<String>,
    declared: HashMap<String, DType>,
    taken: Option<HashSet<String>>,
    added_initializer: bool,
    opset: i64,
}

/// Opens the main graph of `model`, lets `work` edit it, and writes it back.
pub(crate) fn edit<T>(model: &mut Model, facts: &mut Facts, work: impl FnOnce(&mut Net) -> T) -> T {
    let opset = model.opset("").unwrap_or(1);
    let ir_version = model.proto().ir_version();
    let mut net = Net::open(model.graph_mut(), facts, opset, ir_version);
    let result = work(&mut net);
    let added = net.close();
    if added && ir_version < 4 {
        // Below IR 4 every initializer must be listed as an input. From IR 4 on it need not be, and one that is listed could be overridden.
        let graph = model.graph_mut();
        let names: HashSet<&str> = graph.initializer.iter().map(TensorProto::name).collect();
        graph.input.retain(|input| !names.contains(input.name()));
        model.proto_mut().ir_version = Some(4);
    }
    result
}

impl<'a> Net<'a> {
    fn open(graph: &'a mut GraphProto, facts: &'a mut Facts, opset: i64, ir_version: i64) -> Self {
        let nodes: Vec<Option<NodeProto>> = std::mem::take(&mut graph.node).into_iter().map(Some).collect();
        let initializers: HashMap<String, usize> =
            graph.initializer.iter().enumerate().map(|(i, t)| (t.name().to_owned(), i)).collect();
        let inputs: HashSet<String> = graph.input.iter().map(|i| i.name().to_owned()).collect();
        let overridable = if ir_version >= 4 {
            inputs.iter().filter(|name| initializers.contains_key(*name)).cloned().collect()
        } else {
            HashSet::new()
        };
        let declarations = graph.input.iter().chain(&graph.value_info).chain(&graph.output);
        let declared = declarations
            .filter_map(|v| match v.r#type.as_ref()?.value.as_ref()? {
                type_proto::Value::TensorType(t) => Some((v.name().to_owned(), DType::from_onnx(t.elem_type())?)),
                _ => None,
            })
            .collect();
        let mut net = Self {
            order: (0..nodes.len()).collect(),
            outputs: graph.output.iter().map(|o| o.name().to_owned()).collect(),
            producer: HashMap::with_capacity(nodes.len()),
            readers: HashMap::with_capacity(nodes.len() * 2),
            nodes: Vec::new(),
            taken: None,
            added_initializer: false,
            graph,
            facts,
            initializers,
            overridable,
            inputs,
            declared,
            opset,
        };
        for (id, node) in nodes.into_iter().enumerate() {
            net.nodes.push(node);
            net.link(id);
        }
        net
    }

    /// Writes the nodes back in topological order. Whether an initializer was added.
    fn close(self) -> bool {
        let Self { graph, mut nodes, order, producer, added_initializer, .. } = self;
        let mut waits = vec![0_usize; nodes.len()];
        let mut feeds: Vec<Vec<Id>> = vec![Vec::new(); nodes.len()];
        for (id, node) in nodes.iter().enumerate() {
            let Some(node) = node else { continue };
            let mut sources: Vec<Id> = reads(node).iter().filter_map(|r| producer.get(r.as_ref()).copied()).collect();
            sources.sort_unstable();
            sources.dedup();
            waits[id] = sources.len();
            for source in sources {
                feeds[source].push(id);
            }
        }
        let alive = |id: &Id| nodes[*id].is_some() && waits[*id] == 0;
        let mut ready: BinaryHeap<Reverse<(usize, Id)>> =
            (0..nodes.len()).filter(alive).map(|id| Reverse((order[id], id))).collect();
        let mut sorted = Vec::with_capacity(nodes.len());
        while let Some(Reverse((_, id))) = ready.pop() {
            sorted.extend(nodes[id].take());
            for &next in &feeds[id] {
                waits[next] -= 1;
                if waits[next] == 0 {
                    ready.push(Reverse((order[next], next)));
                }
            }
        }
        // Only a graph that came in with a cycle has nodes left; it keeps them, and the check after the pass refuses it.
        sorted.extend(nodes.into_iter().flatten());
        graph.node = sorted;
        added_initializer
    }

    fn link(&mut self, id: Id) {
        let Some(node) = &self.nodes[id] else { return };
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            self.producer.insert(output.clone(), id);
        }
        for name in reads(node) {
            if let Some(readers) = self.readers.get_mut(name.as_ref()) {
                if let Err(at) = readers.binary_search(&id) {
                    readers.insert(at, id);
                }
            } else {
                self.readers.insert(name.into_owned(), vec![id]);
            }
        }
    }

    fn unlink(&mut self, id: Id) {
        let Some(node) = &self.nodes[id] else { return };
        for output in &node.output {
            if self.producer.get(output) == Some(&id) {
                self.producer.remove(output);
            }
        }
        for name in reads(node) {
            if let Some(readers) = self.readers.get_mut(name.as_ref()) {
                readers.retain(|&r| r != id);
            }
        }
    }

    /// Version of ONNX's own operators.
    pub(crate) fn opset(&self) -> i64 {
        self.opset
    }

    /// Initializers that a caller may override: they are inputs.
    pub(crate) fn overridable(&self) -> &HashSet<String> {
        &self.overridable
    }

    /// The graph behind the nodes: initializers, declarations. Its nodes are not there while it is open.
    pub(crate) fn graph(&self) -> &GraphProto {
        self.graph
    }

    /// What was observed.
    pub(crate) fn facts(&self) -> &Facts {
        self.facts
    }

    /// Records what is known of a tensor that a pass made.
    pub(crate) fn add_fact(&mut self, tensor: &str, fact: TensorFact) {
        self.facts.insert(tensor, fact);
    }

    /// Slots of the nodes that are there now, in graph order for an unedited graph.
    pub(crate) fn ids(&self) -> Vec<Id> {
        (0..self.nodes.len()).filter(|&id| self.nodes[id].is_some()).collect()
    }

    /// The node in a slot.
    pub(crate) fn get(&self, id: Id) -> Option<&NodeProto> {
        self.nodes.get(id)?.as_ref()
    }

    /// The node in a slot, when it is `op_type` of ONNX's own domain.
    pub(crate) fn op(&self, id: Id, op_type: &str) -> Option<&NodeProto> {
        self.get(id).filter(|node| edit::is_op(node, op_type))
    }

    /// The node that computes a tensor.
    pub(crate) fn producer(&self, tensor: &str) -> Option<(Id, &NodeProto)> {
        let id = *self.producer.get(tensor)?;
        Some((id, self.get(id)?))
    }

    /// The node that computes a tensor, when it is `op_type` of ONNX's own domain.
    pub(crate) fn producer_op(&self, tensor: &str, op_type: &str) -> Option<(Id, &NodeProto)> {
        self.producer(tensor).filter(|(_, node)| edit::is_op(node, op_type))
    }

    /// Slots of the nodes that read a tensor, ascending.
    pub(crate) fn readers(&self, tensor: &str) -> &[Id] {
        self.readers.get(tensor).map_or(&[], Vec::as_slice)
    }

    /// The only node that reads a tensor, when there is exactly one and the tensor is no graph output.
    pub(crate) fn only_reader(&self, tensor: &str) -> Option<Id> {
        match self.readers(tensor) {
            [one] if !self.is_output(tensor) => Some(*one),
            _ => None,
        }
    }

    /// Whether nothing uses a tensor.
    pub(crate) fn unused(&self, tensor: &str) -> bool {
        tensor.is_empty() || (self.readers(tensor).is_empty() && !self.is_output(tensor))
    }

    /// Whether a tensor is an output of the graph.
    pub(crate) fn is_output(&self, tensor: &str) -> bool {
        self.outputs.contains(tensor)
    }

    /// The initializer behind a name, when no caller can override it.
    pub(crate) fn initializer(&self, tensor: &str) -> Option<&TensorProto> {
        if self.overridable.contains(tensor) {
            return None;
        }
        self.initializers.get(tensor).map(|&i| &self.graph.initializer[i])
    }

    /// The constant behind a name: an initializer or the output of a `Constant` node.
    pub(crate) fn constant(&self, tensor: &str) -> Option<Tensor> {
        if let Some(proto) = self.initializer(tensor) {
            return Tensor::from_proto(proto).ok();
        }
        edit::constant_value(self.producer(tensor)?.1)
    }

    /// Whether a tensor is a numeric constant, without reading it.
    pub(crate) fn is_constant(&self, tensor: &str) -> bool {
        self.constant_info(tensor).is_some()
    }

    /// Element type and shape of a constant, without reading it.
    pub(crate) fn constant_info(&self, tensor: &str) -> Option<(DType, Vec<usize>)> {
        if let Some(proto) = self.initializer(tensor) {
            let dims = proto.dims.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()?;
            return Some((DType::from_onnx(proto.data_type())?, dims));
        }
        let value = edit::constant_value(self.producer(tensor)?.1)?;
        Some((value.dtype(), value.shape().to_vec()))
    }

    /// The only element of a floating-point or integer constant of one element, as `f64`.
    pub(crate) fn scalar(&self, tensor: &str) -> Option<f64> {
        let (_, shape) = self.constant_info(tensor)?;
        if shape.iter().any(|&d| d != 1) {
            return None;
        }
        self.constant(tensor)?.to_f64().first().copied()
    }

    /// The elements of a small integer constant.
    pub(crate) fn ints(&self, tensor: &str) -> Option<Vec<i64>> {
        let (dtype, shape) = self.constant_info(tensor)?;
        if dtype.is_float() || shape.iter().product::<usize>() > 4096 {
            return None;
        }
        Some(self.constant(tensor)?.to_i64()?.into_owned())
    }

    /// Element type of a tensor, from the constant itself, the declaration or the observation.
    pub(crate) fn dtype(&self, tensor: &str) -> Option<DType> {
        if let Some((dtype, _)) = self.constant_info(tensor) {
            return Some(dtype);
        }
        self.facts.dtype(tensor).or_else(|| self.declared.get(tensor).copied())
    }

    /// Adds a constant under a fresh name that starts with `stem`.
    pub(crate) fn add_constant(&mut self, stem: &str, value: &Tensor) -> String {
        let name = self.fresh_name(stem);
        self.add_initializer(value.to_proto(&name));
        name
    }

    /// Adds an initializer under its own name, which nothing else may define any more.
    pub(crate) fn add_initializer(&mut self, proto: TensorProto) {
        let name = proto.name().to_owned();
        if let Some((dtype, shape)) = DType::from_onnx(proto.data_type()).zip(shape_of(&proto)) {
            self.facts.insert(name.clone(), TensorFact { dtype, shape: shape.into_iter().map(Some).collect() });
        }
        self.initializers.insert(name, self.graph.initializer.len());
        self.graph.initializer.push(proto);
        self.added_initializer = true;
    }

    /// A tensor name that is not in use yet.
    pub(crate) fn fresh_name(&mut self, stem: &str) -> String {
        if self.taken.is_none() {
            let mut names = HashSet::new();
            collect_names(self.graph, &mut names);
            self.nodes.iter().flatten().for_each(|node| node_names(node, &mut names));
            self.taken = Some(names);
        }
        Model::fresh_name(self.taken.get_or_insert_default(), stem)
    }

    /// Puts another node into a slot.
    pub(crate) fn set(&mut self, id: Id, node: NodeProto) {
        self.unlink(id);
        self.nodes[id] = Some(node);
        self.link(id);
    }

    /// Changes a node in place.
    pub(crate) fn change(&mut self, id: Id, change: impl FnOnce(&mut NodeProto)) {
        self.unlink(id);
        if let Some(node) = &mut self.nodes[id] {
            change(node);
        }
        self.link(id);
    }

    /// Takes a node out.
    pub(crate) fn remove(&mut self, id: Id) -> Option<NodeProto> {
        self.unlink(id);
        self.nodes[id].take()
    }

    /// Adds a node near `anchor`; where exactly follows from what it reads and who reads it.
    pub(crate) fn insert(&mut self, anchor: Id, node: NodeProto) -> Id {
        self.order.push(self.order[anchor]);
        self.nodes.push(Some(node));
        self.link(self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    /// Makes every reader of `from` read `to` instead, in subgraphs too. `false`, and nothing changed, when a subgraph already means something else by `to`.
    pub(crate) fn redirect(&mut self, from: &str, to: &str) -> bool {
        let readers = self.readers(from).to_vec();
        let clash = |id: &Id| self.get(*id).is_some_and(|n| edit::subgraphs(n).any(|g| defines(g, to)));
        if readers.iter().any(clash) {
            return false;
        }
        for id in readers {
            self.change(id, |node| rename_reads(node, from, to));
        }
        true
    }

    /// Takes out a node whose only used output equals `to`, so that its readers read `to`. A graph output keeps its name: then the node that computes `to`
    /// takes that name over. `false`, and nothing changed, where that is not possible (`to` is fed, a constant or itself an output).
    pub(crate) fn bypass(&mut self, id: Id, to: &str) -> bool {
        let Some(node) = self.get(id) else { return false };
        let used: Vec<String> = node.output.iter().filter(|o| !self.unused(o)).cloned().collect();
        let [from] = used.as_slice() else {
            return used.is_empty() && self.remove(id).is_some();
        };
        if !self.is_output(from) {
            if !self.redirect(from, to) {
                return false;
            }
            self.remove(id);
            return true;
        }
        let Some((source, _)) = self.producer(to) else { return false };
        let clash = |tensor: &str| {
            let clashes = |r: &Id| self.get(*r).is_some_and(|n| edit::subgraphs(n).any(|g| defines(g, from)));
            self.readers(tensor).iter().any(clashes)
        };
        if self.is_output(to) || clash(to) {
            return false;
        }
        let (from, to) = (from.clone(), to.to_owned());
        self.remove(id);
        self.change(source, |node| {
            for output in node.output.iter_mut().filter(|o| **o == to) {
                output.clone_from(&from);
            }
        });
        self.redirect(&to, &from)
    }

    /// Takes out a node that nothing reads any more, then what only it read.
    pub(crate) fn remove_unused(&mut self, id: Id) {
        let mut waiting = vec![id];
        while let Some(id) = waiting.pop() {
            let dead = self.get(id).is_some_and(|n| n.output.iter().all(|o| self.unused(o)));
            if dead && let Some(node) = self.remove(id) {
                waiting.extend(reads(&node).iter().filter_map(|r| self.producer.get(r.as_ref()).copied()));
            }
        }
    }

    /// Removes initializers, declarations and annotations of tensors that are not there any more. How many initializers went.
    pub(crate) fn sweep(&mut self) -> usize {
        let Self { graph, readers, outputs, producer, inputs, .. } = self;
        let read = |name: &str| readers.get(name).is_some_and(|r| !r.is_empty()) || outputs.contains(name);
        let before = graph.initializer.len() + graph.sparse_initializer.len();
        graph.initializer.retain(|t| read(t.name()) || inputs.contains(t.name()));
        graph
            .sparse_initializer
            .retain(|t| t.values.as_ref().is_none_or(|v| read(v.name()) || inputs.contains(v.name())));
        let removed = before - graph.initializer.len() - graph.sparse_initializer.len();
        self.initializers = graph.initializer.iter().enumerate().map(|(i, t)| (t.name().to_owned(), i)).collect();
        let initializers = &self.initializers;
        let there = |name: &str| producer.contains_key(name) || initializers.contains_key(name);
        graph.value_info.retain(|v| there(v.name()));
        graph.quantization_annotation.retain(|a| there(a.tensor_name()) || inputs.contains(a.tensor_name()));
        removed
    }
}

/// Shape of an initializer.
pub(crate) fn shape_of(proto: &TensorProto) -> Option<Vec<usize>> {
    proto.dims.iter().map(|&d| usize::try_from(d).ok()).collect()
}

/// What a node reads. Borrowed for the many nodes that hold no subgraph.
pub(crate) fn reads(node: &NodeProto) -> Vec<Cow<'_, str>> {
    if edit::subgraphs(node).next().is_some() {
        edit::reads_of(node).into_iter().map(Cow::Owned).collect()
    } else {
        node.input.iter().filter(|i| !i.is_empty()).map(|i| Cow::Borrowed(i.as_str())).collect()
    }
}

/// An input by position; a left-out one is `None`.
pub(crate) fn input(node: &NodeProto, position: usize) -> Option<&str> {
    node.input.get(position).map(String::as_str).filter(|i| !i.is_empty())
}

/// Makes one node, subgraphs included, read `to` where it read `from`.
pub(crate) fn rename_reads(node: &mut NodeProto, from: &str, to: &str) {
    for input in node.input.iter_mut().filter(|i| *i == from) {
        to.clone_into(input);
    }
    for attribute in &mut node.attribute {
        for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            if defines_here(inner, from) {
                continue;
            }
            for node in &mut inner.node {
                rename_reads(node, from, to);
            }
            for output in inner.output.iter_mut().filter(|o| o.name() == from) {
                output.name = Some(to.to_owned());
            }
        }
    }
}

fn defines_here(graph: &GraphProto, name: &str) -> bool {
    graph.input.iter().any(|i| i.name() == name)
        || graph.initializer.iter().any(|t| t.name() == name)
        || graph.node.iter().any(|n| n.output.iter().any(|o| o == name))
}

fn defines(graph: &GraphProto, name: &str) -> bool {
    defines_here(graph, name) || graph.node.iter().flat_map(edit::subgraphs).any(|g| defines(g, name))
}

fn collect_names(graph: &GraphProto, names: &mut HashSet<String>) {
    names.extend(graph.initializer.iter().map(|t| t.name().to_owned()));
    names.extend(graph.input.iter().chain(&graph.output).map(|v| v.name().to_owned()));
    graph.node.iter().for_each(|node| node_names(node, names));
}

fn node_names(node: &NodeProto, names: &mut HashSet<String>) {
    names.extend(node.input.iter().chain(&node.output).cloned());
    edit::subgraphs(node).for_each(|graph| collect_names(graph, names));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::Builder;

    fn chain() -> Model {
        Builder::new(17)
            .input("x", DType::F32, &["N"])
            .node("Relu", &["x"], "a", vec![])
            .node("Identity", &["a"], "b", vec![])
            .node("Neg", &["a"], "c", vec![])
            .output("b", DType::F32, &["N"])
            .output("c", DType::F32, &["N"])
            .build()
    }

    #[test]
    fn an_untouched_graph_is_written_back_as_it_was() {
        let mut model = chain();
        edit(&mut model, &mut Facts::default(), |_| ());
        assert_eq!(model, chain());
    }

    #[test]
    fn a_bypassed_graph_output_keeps_its_name() {
        let mut model = chain();
        assert!(edit(&mut model, &mut Facts::default(), |net| net.bypass(1, "a")));
        let nodes: Vec<_> = model.graph().node.iter().map(|n| (n.op_type(), &*n.input[0], &*n.output[0])).collect();
        assert_eq!(nodes, [("Relu", "x", "b"), ("Neg", "b", "c")]);
    }

    #[test]
    fn a_graph_output_that_would_be_a_graph_input_stays() {
        let mut model = Builder::new(17)
            .input("x", DType::F32, &["N"])
            .node("Identity", &["x"], "y", vec![])
            .output("y", DType::F32, &["N"])
            .build();
        assert!(!edit(&mut model, &mut Facts::default(), |net| net.bypass(0, "x")));
        assert_eq!(model.graph().node.len(), 1);
    }

    #[test]
    fn inserted_nodes_are_sorted_by_what_they_read() {
        let mut model = chain();
        edit(&mut model, &mut Facts::default(), |net| {
            net.insert(0, edit::node("Abs", "late", &["c"], &["d"], vec![]));
            net.change(1, |node| node.input[0] = "d".to_owned());
        });
        let ops: Vec<_> = model.graph().node.iter().map(NodeProto::op_type).collect();
        assert_eq!(ops, ["Relu", "Neg", "Abs", "Identity"]);
    }
}
