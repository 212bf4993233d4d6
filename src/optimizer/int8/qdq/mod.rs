//! Static quantisation: activations have ranges that were measured beforehand, so that products of 8-bit integers follow each other without a float between.
//!
//! ```text
//!  x ─ Q ─ DQ ─┐
//!  w8 ──── DQ ─┼─ Conv ─ Relu ─ Q ─ DQ ─ …          becomes one QLinearConv on ONNX Runtime
//!  b32 ─── DQ ─┘
//! ```
//! The file says it in `QuantizeLinear` and `DequantizeLinear` around the float operators, which any runtime can run and which the fast ones fuse. Activations
//! are unsigned 8-bit codes with one scale and zero point per tensor, weights signed 8-bit codes with one scale per output channel (opset 13), biases 32-bit
//! sums in the scale of the products.
//!
//! What ONNX Runtime 1.32 makes of it (read off its optimised graph, `tests/int8.rs`):
//!
//! | operator | becomes |
//! |---|---|
//! | `Conv` between Q and DQ, a `Relu` or `Clip` behind it included | `QLinearConv` |
//! | `MatMul`, its result quantised or not | `QLinearMatMul`, `MatMulIntegerToFloat` |
//! | `Gemm`, or `MatMul` and `Add` of a row in 32-bit codes, the result quantised or not | `QGemm` |
//! | `Add`, `Concat`, `AveragePool`, `GlobalAveragePool` between codes | `QLinearAdd`, `QLinearConcat`, … |
//! | `MaxPool`, `Reshape`, `Transpose`, `Flatten` between codes of one scale | the same on codes |
//!
//! [`region`] reads off the graph what can be quantised, [`plan`] turns a choice of nodes into resolved numbers, [`StaticInt8`] writes them.

pub mod measured;
pub mod plan;
mod pool;
pub mod region;
mod write;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::dynamic::NodePlan;
use super::linear::linear;
use super::store::remove_unread;
use crate::model::edit::{Index, label};
use crate::model::{Effect, Facts, Model, Pass, PassError};
use write::Writer;

use region::bias_behind;
pub use region::{Region, StaticSite};

/// A tensor that becomes unsigned 8-bit codes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ActivationPlan {
    /// Name of the tensor.
    pub tensor: String,
    /// Value of one step between codes.
    pub scale: f64,
    /// The code of 0.
    pub zero_point: u8,
    /// Whether everyone reads the rounded values: what makes the tensor then gives codes right away. Else those who compute in float read it as it is.
    pub through: bool,
}

/// Quantises the listed tensors and nodes of the main graph with resolved ranges.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StaticInt8 {
    /// The tensors.
    pub activations: Vec<ActivationPlan>,
    /// `Conv`, `MatMul` and `Gemm` whose weights become 8-bit codes.
    pub nodes: Vec<NodePlan>,
    /// First outputs of the nodes between them that read codes.
    pub between: Vec<String>,
}

impl StaticInt8 {
    /// Name of the pass.
    pub const NAME: &str = "static-int8";

    /// The one among some passes, and its position; where there is none, that in words.
    pub(in crate::optimizer) fn among(passes: &[Box<dyn Pass>]) -> Result<(usize, Self), String> {
        let at = passes.iter().position(|pass| pass.name() == Self::NAME).ok_or("nothing of it computes on codes")?;
        Ok((at, Self::deserialize(passes[at].parameters()).map_err(|e| e.to_string())?))
    }
}

/// The first opset whose `DequantizeLinear` knows a scale per channel.
const PER_CHANNEL_OPSET: i64 = 13;

impl Pass for StaticInt8 {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn parameters(&self) -> Value {
        serde_json::to_value(self).expect("plain data always becomes JSON")
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        for plan in &self.activations {
            let scale = plan.scale as f32;
            if !scale.is_finite() || scale < f32::MIN_POSITIVE {
                let detail = format!("{} is no scale. Bake again instead of editing the recipe.", plan.scale);
                return Err(PassError::Node { node: plan.tensor.clone(), detail });
            }
        }
        let plans: HashMap<&str, &NodePlan> = self.nodes.iter().map(|p| (p.output.as_str(), p)).collect();
        let first = |n: &crate::model::onnx::NodeProto| n.output.first().cloned().unwrap_or_default();
        if !model.graph().node.iter().any(|n| plans.contains_key(first(n).as_str())) {
            return Ok(Effect::Skipped { reason: "no listed node is in the graph".to_owned() });
        }
        let before = model.clone();
        model.raise(facts, PER_CHANNEL_OPSET)?;
        pool::relu_behind(model, facts, self);
        let index = Index::new(model.graph());
        let mut writer = Writer::new(model, self);
        let (mut rewrites, mut refused, mut unread) = (0, Vec::new(), Vec::new());
        let nodes = model.graph().node.clone();
        for node in nodes {
            let output = first(&node);
            if let Some(plan) = plans.get(output.as_str()) {
                let written = linear(model, &index, facts, &node).and_then(|found| {
                    let behind = bias_behind(model, &index, &node, &found);
                    let add = behind.as_ref().map(|(at, operand, _)| &model.graph().node[*at].input[*operand]).cloned();
                    let behind = behind.map(|(at, operand, row)| (first(&model.graph().node[at]), operand, row));
                    writer.linear(&node, &found, behind, plan, facts).map(|()| add)
                });
                match written {
                    Ok(add) => {
                        unread.extend(node.input[1..].iter().chain(&add).filter(|n| !n.is_empty()).cloned());
                        rewrites += 1;
                        continue;
                    }
                    Err(reason) => refused.push(format!("{}: {reason}", label(&node))),
                }
            }
            writer.other(node, self.between.contains(&output), facts);
        }
        if rewrites == 0 {
            *model = before;
            return Ok(Effect::Skipped { reason: refused.join("; ") });
        }
        writer.flush(model);
        remove_unread(model, unread);
        Ok(Effect::Applied { rewrites, fused: Vec::new() })
    }
}
