//! Embedding tables in 8 bits: the codes of the rows that are looked up, and only those, become float at run time.
//!
//! ```text
//!  ids ─┬─ Gather(codes) ─ Cast ─┐
//!       └─ Gather(row scales) ───┴─ Mul ─ rows
//! ```
//! Standard operators of any opset from 7 on. A table that something else reads too is left to [`super::WeightInt8`].

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::candidates::{is_lookup, lookups};
use super::scheme::{Layout, Range, quantise};
use super::scope::Scopes;
use super::store::{Store, remove_unread};
use super::weight::scale_shape;
use crate::model::edit::{int, node};
use crate::model::onnx::{GraphProto, NodeProto};
use crate::model::{DType, Effect, Facts, Model, Pass, PassError, Tensor};

/// What to do with one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TablePlan {
    /// Name of the table, a constant of the main graph.
    pub tensor: String,
    /// How the range of a row is chosen.
    pub range: Range,
}

/// Stores the listed tables in 8 bits, one scale per row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingInt8 {
    /// The tables.
    pub tables: Vec<TablePlan>,
}

impl EmbeddingInt8 {
    /// Name of the pass.
    pub const NAME: &str = "embedding-int8";
}

impl Pass for EmbeddingInt8 {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn parameters(&self) -> Value {
        serde_json::to_value(self).expect("plain data always becomes JSON")
    }

    fn apply(&self, model: &mut Model, _facts: &mut Facts) -> Result<Effect, PassError> {
        if model.opset("").is_none_or(|v| v < 7) {
            return Ok(Effect::Skipped { reason: "8-bit tables need opset 7 or later".to_owned() });
        }
        let plans: BTreeMap<&str, &TablePlan> = self.tables.iter().map(|p| (p.tensor.as_str(), p)).collect();
        let mut store = Store::new(model.proto().ir_version());
        let mut taken = model.tensor_names();
        let mut tables = BTreeMap::new();
        let scopes = Scopes::new(model);
        for constant in scopes.constants().into_iter().filter(|c| c.scope == 0) {
            let (Some(plan), DType::F32) = (plans.get(constant.name), constant.tensor.dtype()) else { continue };
            let shape = constant.tensor.shape();
            if shape.len() < 2 || lookups(scopes.uses(0, constant.name), shape.len()).is_none() {
                continue;
            }
            let layout = Layout::new(shape, &[0]);
            let Some(q) = layout.and_then(|l| quantise(&constant.tensor.to_f32(), l, 127, plan.range)) else {
                continue;
            };
            let [codes, scales] =
                ["codes", "scales"].map(|s| Model::fresh_name(&mut taken, &format!("{}_{s}", plan.tensor)));
            store.add(&codes, &Tensor::new(shape, &q.codes));
            store.add(&scales, &Tensor::new(&scale_shape(shape, &[0]), &q.scales));
            tables.insert(plan.tensor.clone(), Table { codes, scales, rank: shape.len() });
        }
        drop(scopes);
        let mut rewrites = 0;
        split(model.graph_mut(), &tables, &mut taken, &mut rewrites);
        if rewrites > 0 {
            store.flush(model.graph_mut());
            remove_unread(model, tables.into_keys());
        }
        Ok(Effect::rewrites(rewrites, "no listed table is a float32 constant that is only looked up by row"))
    }
}

struct Table {
    codes: String,
    scales: String,
    rank: usize,
}

/// Replaces every lookup, in graphs inside nodes too where their names do not hide the table's.
fn split(graph: &mut GraphProto, tables: &BTreeMap<String, Table>, taken: &mut HashSet<String>, rewrites: &mut usize) {
    let mut nodes = Vec::with_capacity(graph.node.len());
    for mut original in std::mem::take(&mut graph.node) {
        for inner in original.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs)) {
            let hides = |name: &str| {
                inner.input.iter().any(|i| i.name() == name)
                    || inner.initializer.iter().any(|t| t.name() == name)
                    || inner.node.iter().any(|n| n.output.iter().any(|o| o == name))
            };
            if !tables.keys().any(|name| hides(name)) {
                split(inner, tables, taken, rewrites);
            }
        }
        match original.input.first().and_then(|name| tables.get(name)) {
            Some(table) if is_lookup(&original, table.rank) => {
                nodes.extend(lookup(&original, table, taken));
                *rewrites += 1;
            }
            _ => nodes.push(original),
        }
    }
    graph.node = nodes;
}

fn lookup(original: &NodeProto, table: &Table, taken: &mut HashSet<String>) -> [NodeProto; 4] {
    let output = original.output[0].as_str();
    let ids = original.input[1].as_str();
    let [codes, scale, float] = ["codes", "scale", "float"].map(|s| Model::fresh_name(taken, &format!("{output}_{s}")));
    let axis = || original.attribute.clone();
    [
        node("Gather", original.name(), &[&table.codes, ids], &[&codes], axis()),
        node("Cast", "", &[&codes], &[&float], vec![int("to", i64::from(DType::F32.to_onnx()))]),
        node("Gather", "", &[&table.scales, ids], &[&scale], axis()),
        node("Mul", "", &[&float, &scale], &[output], vec![]),
    ]
}
