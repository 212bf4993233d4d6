//! Bringing a model to a newer opset of ONNX's own domain, so that a pass may use what that opset has.
//!
//! A model is taken through the versions one by one; at each, the operators whose *signature or meaning* changed there are rewritten ([`steps`]).
//! Versions that only admit more types, or add an attribute whose default is the old behaviour, need nothing. The list was made from the operator
//! changelog (`Changelog.md` of ONNX 1.20, opsets 8 to 25).

mod steps;

use std::collections::{BTreeMap, HashSet};

use super::build::ir_version_of;
use super::edit::{Index, attribute, int_attribute, is_op, label, reads_of, subgraphs};
use super::onnx::{GraphProto, NodeProto, ValueInfoProto, type_proto};
use super::{DType, Effect, Facts, Model, ModelError, Pass, PassError, Tensor, verify};

/// The opset that models are brought to when nothing else is asked for: the first that has `LayerNormalization`, and known to every engine in use.
pub const DEFAULT_TARGET: i64 = 17;

/// The pass that calls [`Model::upgrade`].
#[derive(Debug, Clone, Copy)]
pub struct OpsetUpgrade {
    /// The opset to reach.
    pub target: i64,
}

impl Default for OpsetUpgrade {
    fn default() -> Self {
        Self { target: DEFAULT_TARGET }
    }
}

impl Pass for OpsetUpgrade {
    fn name(&self) -> &'static str {
        "opset-upgrade"
    }

    fn parameters(&self) -> serde_json::Value {
        serde_json::json!({ "target": self.target })
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        if model.opset("").is_none_or(|v| v >= self.target) {
            return Ok(Effect::Skipped { reason: format!("The model is at opset {} or later already.", self.target) });
        }
        let rewrites = model.upgrade(facts, self.target)?;
        // A raised version is a change of the file even where no node had to be rewritten.
        Ok(Effect::Applied { rewrites, fused: Vec::new() })
    }
}

impl Model {
    /// Brings the model to `target` (at most 25), subgraphs included, and returns how many nodes were rewritten. A model that is there already, or that
    /// imports no opset of ONNX, is untouched; so is one with an operator that cannot be carried over, which is the error. `facts` (may be empty) spare
    /// `Softmax` a detour where they tell the rank.
    pub fn upgrade(&mut self, facts: &Facts, target: i64) -> Result<usize, ModelError> {
        let Some(from) = self.opset("").filter(|&v| v < target) else { return Ok(0) };
        for version in [from, target].into_iter().filter(|v| !verify::OPSETS.contains(v)) {
            let detail = format!(
                "models of opset {} to {} can be upgraded, to at most {}",
                verify::OPSETS.start(),
                verify::OPSETS.end(),
                verify::OPSETS.end()
            );
            return Err(ModelError::Opset { domain: "ai.onnx".to_owned(), version, detail });
        }
        for function in &self.proto().functions {
            let own = function
                .opset_import
                .iter()
                .find(|o| matches!(o.domain(), "" | "ai.onnx"))
                .map_or(from, |o| o.version());
            if let Some((node, version)) = function.node.iter().find_map(|n| Some((n, first_change(n, own, target)?))) {
                return Err(refusal(
                    node,
                    version,
                    format!("it is inside function '{}', which must be inlined first", function.name()),
                ));
            }
        }
        let mut graph = self.graph().clone();
        let mut context = Context::new(self, facts);
        let rewritten = context.run(&mut graph, from, target)?;
        let old_ir = self.proto().ir_version();
        if old_ir < 4 {
            // Before IR 4 every initializer had to be listed as an input; from 4 on that would make it overridable.
            let constant: HashSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
            graph.input.retain(|i| !constant.contains(i.name()));
        }
        *self.graph_mut() = graph;
        let proto = self.proto_mut();
        proto.ir_version = Some(old_ir.max(ir_version_of(target)));
        for import in proto.opset_import.iter_mut().filter(|o| matches!(o.domain(), "" | "ai.onnx")) {
            import.version = Some(target);
        }
        Ok(rewritten)
    }
}

/// The first version in `(from, to]` at which this node, or one in its subgraphs, has to be rewritten.
pub(super) fn first_change(node: &NodeProto, from: i64, to: i64) -> Option<i64> {
    let own = matches!(node.domain(), "" | "ai.onnx")
        .then(|| (from + 1..=to).find(|&v| steps::changes(node.op_type(), v)))
        .flatten();
    let inner = subgraphs(node).flat_map(|g| &g.node).filter_map(|n| first_change(n, from, to)).min();
    own.into_iter().chain(inner).min()
}

fn refusal(node: &NodeProto, version: i64, detail: String) -> ModelError {
    ModelError::Upgrade { node: label(node), op_type: node.op_type().to_owned(), version, detail }
}

/// What is known of the whole model while its graphs are taken through the versions.
pub(super) struct Context<'a> {
    facts: &'a Facts,
    taken: HashSet<String>,
    /// Whether `float32` is the only floating-point type that occurs, so that it can be assumed where nothing is declared.
    only_f32: bool,
}

impl<'a> Context<'a> {
    pub(super) fn new(model: &Model, facts: &'a Facts) -> Self {
        Self { facts, taken: model.tensor_names(), only_f32: only_f32(model.graph()) }
    }

    /// Every tensor name in use; names made here are added.
    pub(super) fn taken(&mut self) -> &mut HashSet<String> {
        &mut self.taken
    }

    /// Takes a graph and its subgraphs from one version to another. On an error the graph is left half-way: work on a copy.
    pub(super) fn run(&mut self, graph: &mut GraphProto, from: i64, to: i64) -> Result<usize, ModelError> {
        let mut rewritten = 0;
        for version in from + 1..=to {
            if graph.node.iter().any(|n| first_change(n, version - 1, version).is_some()) {
                rewritten += self.step(graph, version)?;
            }
        }
        Ok(rewritten)
    }

    fn step(&mut self, graph: &mut GraphProto, version: i64) -> Result<usize, ModelError> {
        let mut rewritten = 0;
        let mut read: HashSet<String> = graph.node.iter().flat_map(reads_of).collect();
        read.extend(graph.output.iter().map(|o| o.name().to_owned()));
        let mut site = Site {
            context: self,
            graph,
            index: Index::new(graph),
            read,
            constants: Vec::new(),
            integers: BTreeMap::new(),
        };
        let mut nodes = Vec::with_capacity(graph.node.len());
        for node in &graph.node {
            if matches!(node.domain(), "" | "ai.onnx") && steps::changes(node.op_type(), version) {
                if let Some(replacement) =
                    steps::rewrite(node, version, &mut site).map_err(|detail| refusal(node, version, detail))?
                {
                    rewritten += 1;
                    nodes.extend(replacement);
                    continue;
                }
            }
            nodes.push(node.clone());
        }
        let constants = site.constants;
        for node in &mut nodes {
            for attribute in &mut node.attribute {
                for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                    rewritten += self.step(inner, version)?;
                }
            }
        }
        graph.node = nodes;
        graph.initializer.extend(constants.iter().map(|(name, tensor)| tensor.to_proto(name)));
        Ok(rewritten)
    }
}

/// One graph at one version, as the rewriting of a node sees it.
struct Site<'a, 'c> {
    context: &'a mut Context<'c>,
    graph: &'a GraphProto,
    index: Index,
    read: HashSet<String>,
    constants: Vec<(String, Tensor)>,
    /// Integer lists made so far: axes and shapes repeat.
    integers: BTreeMap<Vec<i64>, String>,
}

impl Site<'_, '_> {
    fn fresh(&mut self, stem: &str) -> String {
        Model::fresh_name(&mut self.context.taken, stem)
    }

    fn constant(&mut self, stem: &str, tensor: Tensor) -> String {
        let name = self.fresh(stem);
        self.constants.push((name.clone(), tensor));
        name
    }

    fn integers(&mut self, values: &[i64]) -> String {
        if let Some(name) = self.integers.get(values) {
            return name.clone();
        }
        let words: Vec<String> = values.iter().map(i64::to_string).collect();
        let name = self.constant(&format!("int64_{}", words.join("_")), Tensor::new(&[values.len()], values));
        self.integers.insert(values.to_vec(), name.clone());
        name
    }

    fn is_read(&self, tensor: &str) -> bool {
        self.read.contains(tensor)
    }

    /// Element type of a floating-point tensor: observed, declared, or the only one there is.
    fn float_type(&self, tensor: &str) -> Option<DType> {
        let declared = || {
            let infos = self.graph.input.iter().chain(&self.graph.value_info).chain(&self.graph.output);
            infos.filter(|i| i.name() == tensor).find_map(declared_type)
        };
        let initializer =
            || self.index.initializer(tensor).and_then(|i| DType::from_onnx(self.graph.initializer[i].data_type()));
        self.context
            .facts
            .dtype(tensor)
            .or_else(initializer)
            .or_else(declared)
            .or(self.context.only_f32.then_some(DType::F32))
    }

    /// Rank of a tensor: observed, or certain from the operators that lead to it. Declarations are not trusted with it.
    fn rank(&self, tensor: &str) -> Option<usize> {
        self.context.facts.rank(tensor).or_else(|| self.rank_by_structure(tensor, 16))
    }

    fn rank_by_structure(&self, tensor: &str, depth: usize) -> Option<usize> {
        let dims_of = |name: &String| self.index.initializer(name).map(|i| &self.graph.initializer[i].dims);
        if let Some(dims) = dims_of(&tensor.to_owned()) {
            return Some(dims.len());
        }
        let node = &self.graph.node[self.index.producer(tensor)?];
        if node.output.first().is_none_or(|o| o != tensor) || !matches!(node.domain(), "" | "ai.onnx") {
            return None;
        }
        match node.op_type() {
            "Gemm" | "Flatten" => Some(2),
            "Conv" | "ConvTranspose" => node.input.get(1).and_then(dims_of).map(Vec::len),
            "Reshape" => node.input.get(1).and_then(dims_of).filter(|d| d.len() == 1).map(|d| d[0] as usize),
            "Relu" | "Identity" | "Dropout" | "BatchNormalization" | "Sigmoid" | "Tanh" | "LeakyRelu" | "Clip"
            | "MaxPool" | "AveragePool" | "GlobalAveragePool" | "Softmax" | "Transpose" | "Cast" => {
                depth.checked_sub(1).and_then(|d| self.rank_by_structure(node.input.first()?, d))
            }
            "Add" | "Sub" | "Mul" | "Div" if node.input.len() == 2 => {
                let ranks = node.input.iter().map(|i| self.rank_by_structure(i, depth.checked_sub(1)?));
                ranks.collect::<Option<Vec<_>>>()?.into_iter().max()
            }
            "MatMul" => {
                let of = |i: usize| self.rank_by_structure(node.input.get(i)?, depth.checked_sub(1)?);
                (of(1)? == 2).then(|| of(0)).flatten().filter(|&r| r >= 2)
            }
            _ => None,
        }
    }

    /// Extents of the axes behind `axis`, when all were observed to be fixed.
    fn all_one_behind(&self, tensor: &str, axis: usize) -> bool {
        self.context.facts.get(tensor).is_some_and(|f| f.shape.iter().skip(axis + 1).all(|&d| d == Some(1)))
    }
}

fn declared_type(info: &ValueInfoProto) -> Option<DType> {
    match info.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(t) => DType::from_onnx(t.elem_type()),
        _ => None,
    }
}

fn only_f32(graph: &GraphProto) -> bool {
    let fine = |dtype: Option<DType>| dtype.is_none_or(|d| !d.is_float() || d == DType::F32);
    graph.initializer.iter().all(|t| fine(DType::from_onnx(t.data_type())))
        && graph.input.iter().all(|i| fine(declared_type(i)))
        && graph.node.iter().all(|n| {
            let casts = !is_op(n, "Cast") || fine(DType::from_onnx(int_attribute(n, "to", 0) as i32));
            casts
                && attribute(n, "dtype").and_then(|a| a.i).is_none_or(|d| fine(DType::from_onnx(d as i32)))
                && n.attribute.iter().filter_map(|a| a.t.as_ref()).all(|t| fine(DType::from_onnx(t.data_type())))
                && subgraphs(n).all(only_f32)
        })
}
