//! Looking things up in a graph and changing it.
//!
//! Edits work on the protobuf itself. [`Index`] is a snapshot of who produces and who reads a tensor; build it, decide, edit, build it again.

use std::collections::{HashMap, HashSet};

use super::onnx::{
    AttributeProto, GraphProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
    attribute_proto::AttributeType,
};
use super::{Model, Tensor};

/// Producers and readers of every tensor of the main graph. Reads from inside subgraphs (If, Loop, Scan) count as reads of the node that holds them.
#[derive(Debug, Default)]
pub struct Index {
    producer: HashMap<String, usize>,
    readers: HashMap<String, Vec<usize>>,
    initializer: HashMap<String, usize>,
    outputs: HashSet<String>,
}

impl Index {
    /// Indexes a graph.
    pub fn new(graph: &GraphProto) -> Self {
        let mut index = Self::default();
        for (position, node) in graph.node.iter().enumerate() {
            for output in node.output.iter().filter(|o| !o.is_empty()) {
                index.producer.insert(output.clone(), position);
            }
            for name in reads_of(node) {
                let readers = index.readers.entry(name).or_default();
                if readers.last() != Some(&position) {
                    readers.push(position);
                }
            }
        }
        index.initializer = graph.initializer.iter().enumerate().map(|(i, t)| (t.name().to_owned(), i)).collect();
        index.outputs = graph.output.iter().map(|o| o.name().to_owned()).collect();
        index
    }

    /// Position of the node that computes `tensor`.
    pub fn producer(&self, tensor: &str) -> Option<usize> {
        self.producer.get(tensor).copied()
    }

    /// Positions of the nodes that read `tensor`, ascending, each once.
    pub fn readers(&self, tensor: &str) -> &[usize] {
        self.readers.get(tensor).map_or(&[], Vec::as_slice)
    }

    /// Whether `tensor` is an output of the graph.
    pub fn is_output(&self, tensor: &str) -> bool {
        self.outputs.contains(tensor)
    }

    /// The only node that reads `tensor`, when there is exactly one and the tensor is no graph output: then it may be fused away.
    pub fn only_reader(&self, tensor: &str) -> Option<usize> {
        match self.readers(tensor) {
            [one] if !self.is_output(tensor) => Some(*one),
            _ => None,
        }
    }

    /// Position of the initializer of this name.
    pub fn initializer(&self, tensor: &str) -> Option<usize> {
        self.initializer.get(tensor).copied()
    }
}

/// Every tensor that a node reads: its inputs, and what its subgraphs take from outside.
pub fn reads_of(node: &NodeProto) -> Vec<String> {
    let mut reads: Vec<String> = node.input.iter().filter(|i| !i.is_empty()).cloned().collect();
    for graph in subgraphs(node) {
        reads.extend(captured(graph));
    }
    reads
}

/// The subgraphs that a node holds in its attributes.
pub fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs))
}

/// Names that a subgraph uses but does not define itself.
fn captured(graph: &GraphProto) -> Vec<String> {
    let mut defined: HashSet<&str> =
        graph.initializer.iter().map(TensorProto::name).chain(graph.input.iter().map(ValueInfoProto::name)).collect();
    defined.extend(graph.node.iter().flat_map(|n| n.output.iter().map(String::as_str)));
    let inner = graph.node.iter().flat_map(reads_of);
    inner.chain(graph.output.iter().map(|o| o.name().to_owned())).filter(|n| !defined.contains(n.as_str())).collect()
}

/// An attribute by name.
pub fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name() == name)
}

/// An integer attribute, or `default`.
pub fn int_attribute(node: &NodeProto, name: &str, default: i64) -> i64 {
    attribute(node, name).and_then(|a| a.i).unwrap_or(default)
}

/// A float attribute, or `default`.
pub fn float_attribute(node: &NodeProto, name: &str, default: f32) -> f32 {
    attribute(node, name).and_then(|a| a.f).unwrap_or(default)
}

/// A list-of-integers attribute.
pub fn ints_attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a [i64]> {
    attribute(node, name).map(|a| a.ints.as_slice())
}

/// A string attribute, when it is valid UTF-8.
pub fn string_attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a str> {
    attribute(node, name).and_then(|a| std::str::from_utf8(a.s.as_deref()?).ok())
}

/// A new integer attribute.
pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        i: Some(value),
        r#type: Some(AttributeType::Int as i32),
        ..AttributeProto::default()
    }
}

/// A new float attribute.
pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        f: Some(value),
        r#type: Some(AttributeType::Float as i32),
        ..AttributeProto::default()
    }
}

/// A new list-of-integers attribute.
pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        ints: values.to_vec(),
        r#type: Some(AttributeType::Ints as i32),
        ..AttributeProto::default()
    }
}

/// A new node of ONNX's own domain.
pub fn node(
    op_type: &str,
    name: &str,
    inputs: &[&str],
    outputs: &[&str],
    attributes: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.to_owned()),
        name: Some(name.to_owned()),
        input: inputs.iter().map(|&s| s.to_owned()).collect(),
        output: outputs.iter().map(|&s| s.to_owned()).collect(),
        attribute: attributes,
        ..NodeProto::default()
    }
}

/// Whether a node is `op_type` of ONNX's own domain.
pub fn is_op(node: &NodeProto, op_type: &str) -> bool {
    node.op_type() == op_type && matches!(node.domain(), "" | "ai.onnx")
}

/// What to call a node in a message: its name, or `op_type of its first output` when it has none.
pub fn label(node: &NodeProto) -> String {
    if node.name().is_empty() {
        format!("{} of '{}'", node.op_type(), node.output.first().map_or("", String::as_str))
    } else {
        node.name().to_owned()
    }
}

impl Model {
    /// The constant behind a tensor name: an initializer, or the output of a `Constant` node. `None` when it is computed, fed, or not numeric.
    pub fn constant(&self, index: &Index, tensor: &str) -> Option<Tensor> {
        let graph = self.graph();
        if let Some(position) = index.initializer(tensor) {
            let overridable = graph.input.iter().any(|i| i.name() == tensor) && self.proto().ir_version() >= 4;
            return if overridable { None } else { Tensor::from_proto(&graph.initializer[position]).ok() };
        }
        constant_value(&graph.node[index.producer(tensor)?])
    }

    /// Imports an opset of a domain, unless one is imported already.
    pub fn import(&mut self, domain: &str, version: i64) {
        if self.opset(domain).is_none() {
            let import = OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) };
            self.proto_mut().opset_import.push(import);
        }
    }

    /// A tensor name that is not in use yet, starting with `stem`. `taken` holds the names handed out so far; build it with [`Model::tensor_names`].
    pub fn fresh_name(taken: &mut HashSet<String>, stem: &str) -> String {
        let mut name = stem.to_owned();
        let mut suffix = 0_usize;
        while !taken.insert(name.clone()) {
            suffix += 1;
            name = format!("{stem}_{suffix}");
        }
        name
    }

    /// Every tensor name that occurs in the model, subgraphs included.
    pub fn tensor_names(&self) -> HashSet<String> {
        fn collect(graph: &GraphProto, names: &mut HashSet<String>) {
            names.extend(graph.initializer.iter().map(|t| t.name().to_owned()));
            names.extend(graph.input.iter().chain(&graph.output).map(|v| v.name().to_owned()));
            for node in &graph.node {
                names.extend(node.input.iter().chain(&node.output).cloned());
                for inner in subgraphs(node) {
                    collect(inner, names);
                }
            }
        }
        let mut names = HashSet::new();
        collect(self.graph(), &mut names);
        names
    }
}

/// The value of a `Constant` node, when it is a numeric tensor or scalar.
pub fn constant_value(node: &NodeProto) -> Option<Tensor> {
    if !is_op(node, "Constant") {
        return None;
    }
    let attribute = node.attribute.first()?;
    match attribute.name() {
        "value" => Tensor::from_proto(attribute.t.as_ref()?).ok(),
        "value_float" => Some(Tensor::scalar(attribute.f?)),
        "value_int" => Some(Tensor::scalar(attribute.i?)),
        "value_floats" => Some(Tensor::new(&[attribute.floats.len()], &attribute.floats)),
        "value_ints" => Some(Tensor::new(&[attribute.ints.len()], &attribute.ints)),
        _ => None,
    }
}

/// Makes every reader of `from`, in subgraphs too, read `to` instead. Graph outputs keep their names.
pub fn replace_reads(graph: &mut GraphProto, from: &str, to: &str) {
    for node in &mut graph.node {
        for input in node.input.iter_mut().filter(|i| *i == from) {
            to.clone_into(input);
        }
        for attribute in &mut node.attribute {
            for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                let shadowed =
                    inner.input.iter().any(|i| i.name() == from) || inner.initializer.iter().any(|t| t.name() == from);
                if !shadowed {
                    replace_reads(inner, from, to);
                    for output in inner.output.iter_mut().filter(|o| o.name() == from) {
                        output.name = Some(to.to_owned());
                    }
                }
            }
        }
    }
}
