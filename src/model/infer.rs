//! Type and shape inference over the main graph.
//!
//! What is derived from the inputs decides; a declaration inside the file (`value_info`, `output`) is only a hint for tensors that nothing was derived
//! for, and everything that rests on such a hint is marked. An operator that is not known here has unknown outputs, and inference goes on behind it.
//! Small integer tensors (shapes, axes, lengths) are followed by value, with symbolic extents kept as symbols, so that exported
//! `Shape -> Gather -> Concat -> Reshape` chains resolve.
//!
//! Knows nothing of engines. Formulas: the operator definitions of the ONNX specification, opsets 7 to 25.

mod any_feed;
mod arrange;
mod basics;
mod layers;
mod reduce;
mod rules;
mod values;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::edit::{is_op, subgraphs};
use super::onnx::{
    GraphProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, tensor_shape_proto::dimension, type_proto,
};
use super::{DType, Facts, Model};
pub(crate) use any_feed::AnyFeed;
pub(crate) use arrange::OPEN_END;
pub(crate) use basics::{broadcasts, unary};
pub(super) use layers::einsum_labels;
pub(crate) use values::{Num, Small};

/// Extent of one axis.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DimExpr {
    /// The extent.
    Known(usize),
    /// A named extent that is equal wherever the name occurs.
    Symbol(String),
    /// Nothing is known. Two unknown extents may differ.
    Unknown,
}

impl DimExpr {
    /// The extent, when it is a number.
    pub fn known(&self) -> Option<usize> {
        if let Self::Known(n) = self { Some(*n) } else { None }
    }
}

impl std::fmt::Display for DimExpr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known(n) => write!(f, "{n}"),
            Self::Symbol(s) => f.write_str(s),
            Self::Unknown => f.write_str("?"),
        }
    }
}

/// What was derived for one tensor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inferred {
    /// Element type; `None` when unknown, not numeric, or narrower than a byte.
    pub dtype: Option<DType>,
    /// Extents, outermost first; `None` when not even the rank is known.
    pub dims: Option<Vec<DimExpr>>,
}

impl Inferred {
    fn new(dtype: Option<DType>, dims: Option<Vec<DimExpr>>) -> Self {
        Self { dtype, dims }
    }

    /// Every extent, when all are numbers.
    pub fn fixed_shape(&self) -> Option<Vec<usize>> {
        self.dims.as_ref()?.iter().map(DimExpr::known).collect()
    }
}

/// The result: types and shapes by tensor name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inference {
    tensors: BTreeMap<String, Inferred>,
    /// Tensors whose shape rests on a declaration in the file instead of a derivation.
    declared_only: BTreeSet<String>,
    /// Operators without a rule here, with the number of their nodes.
    pub unknown_ops: BTreeMap<String, usize>,
}

impl Inference {
    /// What is known of a tensor.
    pub fn get(&self, tensor: &str) -> Option<&Inferred> {
        self.tensors.get(tensor)
    }

    /// Extents of a tensor, when its rank is known.
    pub fn dims(&self, tensor: &str) -> Option<&[DimExpr]> {
        self.get(tensor)?.dims.as_deref()
    }

    /// Every extent, when all are numbers.
    pub fn fixed_shape(&self, tensor: &str) -> Option<Vec<usize>> {
        self.get(tensor)?.fixed_shape()
    }

    /// Element type, when known.
    pub fn dtype(&self, tensor: &str) -> Option<DType> {
        self.get(tensor)?.dtype
    }

    /// Whether the shape of this tensor rests on a declaration in the file, which may be wrong, and not on derivation or observation.
    pub fn rests_on_declaration(&self, tensor: &str) -> bool {
        self.declared_only.contains(tensor)
    }

    /// All tensors, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Inferred)> {
        self.tensors.iter().map(|(name, inferred)| (name.as_str(), inferred))
    }
}

/// What inference may start from besides the file.
#[derive(Debug, Clone, Default)]
pub struct InferOptions<'a> {
    /// Shapes of inputs, by name. They also bind the symbols that the input declares: `input_ids=1x128` fixes `B` and `S` for the other inputs.
    pub input_shapes: BTreeMap<String, Vec<usize>>,
    /// Observed facts. They fill what could not be derived, before any declaration does.
    pub facts: Option<&'a Facts>,
}

/// Why inference could not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InferError {
    /// A shape was given for something that is no input.
    #[error("the model has no input '{name}'. Its inputs are: {inputs}. Use one of these names.")]
    NoSuchInput {
        /// The name that was given.
        name: String,
        /// The model's inputs.
        inputs: String,
    },
    /// A given shape has another number of axes than the input.
    #[error(
        "input '{name}' has {declared} axes, but the given shape has {given}. Give one extent per axis, e.g. 1x3x224x224."
    )]
    Rank {
        /// The input.
        name: String,
        /// Axes that the model declares.
        declared: usize,
        /// Axes that were given.
        given: usize,
    },
    /// Text that is no shape.
    #[error("'{0}' is no shape. Write NAME=1x3x224x224.")]
    Syntax(String),
}

impl InferError {
    /// The closed-set reason that the exit code carries.
    pub fn reason(&self) -> crate::api::Reason {
        crate::api::Reason::InvalidJob
    }
}

/// Reads `NAME=1x3x224x224` as it is typed on a command line. The name may itself hold `=`; the last one separates.
pub fn parse_shape(text: &str) -> Result<(String, Vec<usize>), InferError> {
    let bad = || InferError::Syntax(text.to_owned());
    let (name, shape) = text.rsplit_once('=').ok_or_else(bad)?;
    let extents =
        shape.split(['x', ',']).map(|d| d.trim().parse::<usize>()).collect::<Result<Vec<_>, _>>().map_err(|_| bad())?;
    if name.is_empty() { Err(bad()) } else { Ok((name.to_owned(), extents)) }
}

/// Derives types and shapes of every tensor of the main graph.
pub fn infer(model: &Model, options: &InferOptions<'_>) -> Result<Inference, InferError> {
    let graph = model.graph();
    let fed = model.input_names();
    for name in options.input_shapes.keys() {
        if !fed.contains(&name.as_str()) {
            return Err(InferError::NoSuchInput { name: name.clone(), inputs: fed.join(", ") });
        }
    }
    let bound = bind_symbols(graph, options)?;
    let mut scope = Scope { opset: model.opset("").unwrap_or(1), ..Scope::default() };
    scope.constants(graph);
    for input in graph.input.iter().filter(|i| fed.contains(&i.name())) {
        let mut inferred = declared(input);
        name_unknown_axes(input.name(), &mut inferred);
        for dim in inferred.dims.iter_mut().flatten() {
            if let DimExpr::Symbol(s) = dim
                && let Some(&n) = bound.get(s)
            {
                *dim = DimExpr::Known(n);
            }
        }
        if let Some(fact) = options.facts.and_then(|f| f.get(input.name())) {
            inferred.dtype = Some(fact.dtype);
            let seen = inferred.dims.take().filter(|d| d.len() == fact.shape.len());
            let seen = seen.unwrap_or_else(|| vec![DimExpr::Unknown; fact.shape.len()]);
            inferred.dims = Some(fact.shape.iter().zip(seen).map(|(&f, d)| observed_or(f, d)).collect());
        }
        if let Some(shape) = options.input_shapes.get(input.name()) {
            inferred.dims = Some(shape.iter().map(|&n| DimExpr::Known(n)).collect());
        }
        scope.set(input.name(), inferred);
    }
    scope.run(graph, options.facts);
    Ok(scope.result)
}

/// A declared extent gives way to an observed one: a fixed observation is its value, and a number that varied in the runs was declared wrongly.
fn observed_or(fact: Option<usize>, declared: DimExpr) -> DimExpr {
    match (fact, declared) {
        (Some(n), _) => DimExpr::Known(n),
        (None, DimExpr::Known(_)) => DimExpr::Unknown,
        (None, symbolic) => symbolic,
    }
}

/// Extents without a number get a name of their own, so that their equality can be followed through the graph.
fn name_unknown_axes(input: &str, inferred: &mut Inferred) {
    for (axis, dim) in inferred.dims.iter_mut().flatten().enumerate() {
        if *dim == DimExpr::Unknown {
            *dim = DimExpr::Symbol(format!("{input}.{axis}"));
        }
    }
}

fn bind_symbols(graph: &GraphProto, options: &InferOptions<'_>) -> Result<HashMap<String, usize>, InferError> {
    let mut bound = HashMap::new();
    for input in &graph.input {
        let Some(shape) = options.input_shapes.get(input.name()) else { continue };
        let Some(dims) = declared(input).dims else { continue };
        if dims.len() != shape.len() {
            return Err(InferError::Rank { name: input.name().to_owned(), declared: dims.len(), given: shape.len() });
        }
        for (dim, &n) in dims.into_iter().zip(shape) {
            if let DimExpr::Symbol(s) = dim {
                bound.entry(s).or_insert(n);
            }
        }
    }
    Ok(bound)
}

/// Element type and shape as a file declares them for an input, an output or an inner tensor.
pub fn declared(info: &ValueInfoProto) -> Inferred {
    info.r#type.as_ref().map(from_type).unwrap_or_default()
}

fn from_type(proto: &TypeProto) -> Inferred {
    let Some(type_proto::Value::TensorType(tensor)) = &proto.value else { return Inferred::default() };
    let dims = tensor.shape.as_ref().map(|shape| {
        let dims = shape.dim.iter().map(|d| match &d.value {
            Some(dimension::Value::DimValue(n)) => usize::try_from(*n).map_or(DimExpr::Unknown, DimExpr::Known),
            // Exporters write these for "unknown", for several axes alike: they name nothing.
            Some(dimension::Value::DimParam(s)) if matches!(s.as_str(), "" | "?" | "-1" | "None") => DimExpr::Unknown,
            Some(dimension::Value::DimParam(s)) => DimExpr::Symbol(s.clone()),
            None => DimExpr::Unknown,
        });
        dims.collect()
    });
    Inferred::new(DType::from_onnx(tensor.elem_type()), dims)
}

/// Everything known at one point of the walk.
#[derive(Debug, Default, Clone)]
struct Scope {
    opset: i64,
    /// Whether only what holds for every feed may be derived: see [`AnyFeed`].
    any_feed: bool,
    result: Inference,
    small: HashMap<String, Small>,
    /// Short constants by name, for the few rules that need floats (scales of a Resize).
    floats: HashMap<String, Vec<f64>>,
}

/// No rule needs more floats than a tensor has axes.
const MAX_FLOATS: i64 = 16;

impl Scope {
    fn set(&mut self, name: &str, inferred: Inferred) {
        self.result.tensors.insert(name.to_owned(), inferred);
    }

    fn constants(&mut self, graph: &GraphProto) {
        graph.initializer.iter().for_each(|tensor| self.constant(tensor));
        for sparse in &graph.sparse_initializer {
            if let Some(values) = &sparse.values {
                let dims =
                    sparse.dims.iter().map(|&d| usize::try_from(d).map_or(DimExpr::Unknown, DimExpr::Known)).collect();
                self.set(values.name(), Inferred::new(DType::from_onnx(values.data_type()), Some(dims)));
            }
        }
    }

    fn constant(&mut self, tensor: &TensorProto) {
        let dims = tensor.dims.iter().map(|&d| usize::try_from(d).map_or(DimExpr::Unknown, DimExpr::Known)).collect();
        self.set(tensor.name(), Inferred::new(DType::from_onnx(tensor.data_type()), Some(dims)));
        self.remember_floats(tensor.name(), tensor);
        if let Some(small) = Small::of_tensor(tensor) {
            self.small.insert(tensor.name().to_owned(), small);
        }
    }

    fn remember_floats(&mut self, name: &str, tensor: &TensorProto) {
        let float = DType::from_onnx(tensor.data_type()).is_some_and(DType::is_float);
        if float
            && tensor.dims.len() <= 1
            && tensor.dims.iter().all(|&d| d <= MAX_FLOATS)
            && let Ok(tensor) = super::Tensor::from_proto(tensor)
        {
            self.floats.insert(name.to_owned(), tensor.to_f64().into_owned());
        }
    }

    fn run(&mut self, graph: &GraphProto, facts: Option<&Facts>) {
        let declarations: HashMap<&str, &ValueInfoProto> = if self.any_feed {
            HashMap::new()
        } else {
            graph.value_info.iter().chain(&graph.output).map(|v| (v.name(), v)).collect()
        };
        for node in &graph.node {
            self.step(node, facts, &declarations);
        }
    }

    fn step(&mut self, node: &NodeProto, facts: Option<&Facts>, declarations: &HashMap<&str, &ValueInfoProto>) {
        if is_op(node, "Constant")
            && let Some(tensor) = node.attribute.iter().find(|a| a.name() == "value").and_then(|a| a.t.as_ref())
            && let Some(output) = node.output.first()
        {
            self.remember_floats(output, tensor);
        }
        let outputs = if is_op(node, "If") {
            self.branches(node, facts)
        } else {
            let ctx = Ctx { node, scope: self };
            match rules::outputs(&ctx) {
                rules::Outcome::Outputs(outputs) => outputs,
                rules::Outcome::NotDerived => Vec::new(),
                rules::Outcome::NoRule => {
                    *self.result.unknown_ops.entry(op_name(node)).or_default() += 1;
                    Vec::new()
                }
            }
        };
        let mut small = values::propagate(&Ctx { node, scope: self });
        if self.any_feed
            && let (Some(small), Some(name)) = (&mut small, node.output.first())
            && values::never_negative(&Ctx { node, scope: self })
        {
            small.name_unknown(name);
        }
        let tainted = node.input.iter().any(|i| self.result.declared_only.contains(i));
        let mut outputs = outputs.into_iter();
        for name in &node.output {
            let mut inferred = outputs.next().unwrap_or_default();
            if name.is_empty() {
                continue;
            }
            let mut by_declaration = tainted;
            if let Some(fact) = facts.and_then(|f| f.get(name)) {
                inferred.dtype = inferred.dtype.or(Some(fact.dtype));
                let dims = inferred.dims.get_or_insert_with(|| vec![DimExpr::Unknown; fact.shape.len()]);
                if dims.len() == fact.shape.len() && !self.any_feed {
                    for (dim, &seen) in dims.iter_mut().zip(&fact.shape) {
                        if let (DimExpr::Unknown, Some(n)) = (&*dim, seen) {
                            *dim = DimExpr::Known(n);
                        }
                    }
                }
            }
            if let Some(hint) = declarations.get(name.as_str()).map(|v| declared(v)) {
                inferred.dtype = inferred.dtype.or(hint.dtype);
                if inferred.dims.is_none() && hint.dims.is_some() {
                    inferred.dims = hint.dims;
                    by_declaration = true;
                }
            }
            if by_declaration {
                self.result.declared_only.insert(name.clone());
            }
            if self.any_feed {
                name_unknown_axes(name, &mut inferred);
            }
            self.set(name, inferred);
        }
        if let (Some(small), Some(name)) = (small, node.output.first()) {
            // A value implies a shape, also where the shape rule gave up.
            let entry = self.result.tensors.entry(name.clone()).or_default();
            if entry.dims.is_none() {
                entry.dims = Some(small.dims());
            }
            self.small.insert(name.clone(), small);
        }
    }

    /// `If`: what both branches agree on.
    fn branches(&mut self, node: &NodeProto, facts: Option<&Facts>) -> Vec<Inferred> {
        // Names for unknown extents come from tensors, and two branches may use one name for two tensors.
        if self.any_feed {
            return Vec::new();
        }
        let mut merged: Option<Vec<Inferred>> = None;
        for graph in subgraphs(node) {
            let mut inner = self.clone();
            inner.constants(graph);
            inner.run(graph, facts);
            let tainted = graph.output.iter().any(|o| inner.result.declared_only.contains(o.name()));
            let outputs: Vec<Inferred> =
                graph.output.iter().map(|o| inner.result.get(o.name()).cloned().unwrap_or_default()).collect();
            merged = Some(match merged {
                _ if tainted => vec![Inferred::default(); outputs.len()],
                None => outputs,
                Some(other) => other.into_iter().zip(outputs).map(|(a, b)| agree(a, b)).collect(),
            });
        }
        merged.unwrap_or_default()
    }
}

fn agree(a: Inferred, b: Inferred) -> Inferred {
    let dims = match (a.dims, b.dims) {
        (Some(a), Some(b)) if a.len() == b.len() => {
            Some(a.into_iter().zip(b).map(|(x, y)| if x == y { x } else { DimExpr::Unknown }).collect())
        }
        _ => None,
    };
    Inferred::new(a.dtype.filter(|&t| Some(t) == b.dtype), dims)
}

fn op_name(node: &NodeProto) -> String {
    if matches!(node.domain(), "" | "ai.onnx") {
        node.op_type().to_owned()
    } else {
        format!("{}.{}", node.domain(), node.op_type())
    }
}

/// A node and what is known of its inputs: what every rule sees.
#[derive(Clone, Copy)]
struct Ctx<'a> {
    node: &'a NodeProto,
    scope: &'a Scope,
}

impl Ctx<'_> {
    fn has(&self, i: usize) -> bool {
        self.node.input.get(i).is_some_and(|n| !n.is_empty())
    }

    fn input(&self, i: usize) -> Option<&Inferred> {
        self.scope.result.get(self.node.input.get(i)?)
    }

    fn dtype(&self, i: usize) -> Option<DType> {
        self.input(i)?.dtype
    }

    fn dims(&self, i: usize) -> Option<&[DimExpr]> {
        self.input(i)?.dims.as_deref()
    }

    fn small(&self, i: usize) -> Option<&Small> {
        self.scope.small.get(self.node.input.get(i)?)
    }

    /// The input's integers, when every one is known.
    fn ints(&self, i: usize) -> Option<Vec<i64>> {
        self.small(i)?.nums.iter().map(Num::int).collect()
    }

    /// A list that older opsets give as an attribute and newer ones as input `i`: `Some(None)` when absent, `None` when present but unknown.
    #[allow(clippy::option_option)] // unknown, absent and known are three cases, and `?` takes the first
    fn ints_either(&self, attribute: &str, i: usize) -> Option<Option<Vec<i64>>> {
        if let Some(ints) = super::edit::ints_attribute(self.node, attribute) {
            return Some(Some(ints.to_vec()));
        }
        if self.has(i) { self.ints(i).map(Some) } else { Some(None) }
    }

    /// The input's floats, when it is a short constant.
    fn floats(&self, i: usize) -> Option<&[f64]> {
        self.scope.floats.get(self.node.input.get(i)?).map(Vec::as_slice)
    }

    fn attr_int(&self, name: &str, default: i64) -> i64 {
        super::edit::int_attribute(self.node, name, default)
    }

    fn attr_ints(&self, name: &str) -> Option<&[i64]> {
        super::edit::ints_attribute(self.node, name)
    }
}

#[cfg(test)]
mod tests;
