//! Inputs and outputs: what the file declares, and the values that were seen.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::Model;
use crate::model::edit::subgraphs;
use crate::model::infer::{DimExpr, Inferred, declared};
use crate::model::onnx::ValueInfoProto;

/// Extent of one axis: a number, or a symbol such as `batch` that is equal wherever it occurs. `?` stands for an extent that the file leaves open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Axis {
    /// A number.
    Fixed(usize),
    /// A symbol, or `?`.
    Named(String),
}

impl std::fmt::Display for Axis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(n) => write!(f, "{n}"),
            Self::Named(s) => f.write_str(s),
        }
    }
}

/// Least and largest value over all elements of all samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValueRange {
    /// Least finite value.
    pub min: f64,
    /// Largest finite value.
    pub max: f64,
    /// Elements that were not finite.
    pub non_finite: u64,
}

/// One input or output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Its tensor name.
    pub name: String,
    /// Element type, e.g. `float32`; absent when the file declares none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Extents, outermost first; absent when the file declares no rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<Axis>>,
    /// Values on the validation split: the range of an input, the bounds of an output. Absent when there was no finite value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<ValueRange>,
}

impl Port {
    fn of(info: &ValueInfoProto) -> Self {
        let Inferred { dtype, dims } = declared(info);
        let axis = |dim: DimExpr| match dim {
            DimExpr::Known(n) => Axis::Fixed(n),
            other => Axis::Named(other.to_string()),
        };
        Self {
            name: info.name().to_owned(),
            dtype: dtype.map(|d| d.to_string()),
            shape: dims.map(|dims| dims.into_iter().map(axis).collect()),
            range: None,
        }
    }

    /// Name, type and shape in words, e.g. `x float32 [N, 64]`.
    pub fn text(&self) -> String {
        let shape = self.shape.as_ref().map_or_else(
            || "any shape".to_owned(),
            |axes| format!("[{}]", axes.iter().map(Axis::to_string).collect::<Vec<_>>().join(", ")),
        );
        format!("{} {} {shape}", self.name, self.dtype.as_deref().unwrap_or("any type"))
    }
}

/// What a caller feeds and gets, in the model's order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Signature {
    /// What a caller must feed.
    pub inputs: Vec<Port>,
    /// What a caller gets.
    pub outputs: Vec<Port>,
}

impl Signature {
    /// The signature that a model declares, without values.
    pub fn of(model: &Model) -> Self {
        let fed = model.input_names();
        let graph = model.graph();
        Self {
            inputs: graph.input.iter().filter(|i| fed.contains(&i.name())).map(Port::of).collect(),
            outputs: graph.output.iter().map(Port::of).collect(),
        }
    }

    /// The same in words.
    pub fn text(&self) -> String {
        let ports = |ports: &[Port]| ports.iter().map(Port::text).collect::<Vec<_>>().join(", ");
        format!("{} -> {}", ports(&self.inputs), ports(&self.outputs))
    }
}

/// Operators of domains other than ONNX's own, as `domain.Operator`, each once: those that a runtime must bring along. Subgraphs count too.
pub(super) fn other_operators(model: &Model) -> Vec<String> {
    let mut found = BTreeSet::new();
    let mut graphs = vec![model.graph()];
    while let Some(graph) = graphs.pop() {
        for node in &graph.node {
            if !matches!(node.domain(), "" | "ai.onnx") {
                found.insert(format!("{}.{}", node.domain(), node.op_type()));
            }
            graphs.extend(subgraphs(node));
        }
    }
    found.into_iter().collect()
}
