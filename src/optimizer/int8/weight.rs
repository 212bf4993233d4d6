//! Weight-only storage: a constant float tensor becomes int8 codes and scales (or half precision), and a few standard nodes that restore it under its old name.
//!
//! The constant is replaced where it is defined, so no reader changes: tied weights, weights behind a `Transpose` and weights that the branches of an `If` take from outside are stored once.
//!
//! Measured on ONNX Runtime 1.32, one thread, six 1024 x 1024 products, one row: float32 0.63 ms, [`Encoding::CastMul`] 0.63 ms, [`Encoding::Half`] 0.58 ms, [`Encoding::Dequantize`] 10.4 ms.
//! ONNX Runtime folds `Cast` and `Mul` of constants when it loads a model, but keeps `DequantizeLinear` for fusions that a float product has not.

use std::collections::{BTreeMap, HashSet};

use half::f16;
use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::scheme::{Layout, Range, quantise};
use super::scope::overridable;
use super::store::Store;
use crate::model::edit::{constant_value, int, is_op, node};
use crate::model::onnx::{GraphProto, NodeProto};
use crate::model::{DType, Effect, Facts, Model, Pass, PassError, Tensor};

/// How a weight is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Encoding {
    /// `Cast(int8) * scale`, the scale shaped to broadcast. Any opset from 7 on, any number of scale axes; runtimes that fold constants pay nothing per inference.
    #[default]
    CastMul,
    /// `DequantizeLinear`, which says plainly what it is. Per axis from opset 13 on; one scale axis at most. Most runtimes repeat it in every inference.
    Dequantize,
    /// `Cast(float16)`: half the bytes, eleven significant bits. For values rather than factors: positions, anchors, statistics.
    Half,
}

/// What to do with one tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorPlan {
    /// Name of the constant (initializer, or output of a `Constant` node), in whichever graph of the model.
    pub tensor: String,
    /// Ascending axes along which each index has a scale of its own; none: one scale for the tensor. Not used by [`Encoding::Half`].
    pub axes: Vec<usize>,
    /// How it is stored.
    pub encoding: Encoding,
    /// How its ranges are chosen.
    pub range: Range,
}

/// Stores the listed weights in 8 or 16 bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WeightInt8 {
    /// The tensors.
    pub tensors: Vec<TensorPlan>,
    /// Tensors with fewer elements stay float.
    pub min_elements: usize,
}

impl WeightInt8 {
    /// Name of the pass.
    pub const NAME: &str = "weight-int8";
}

/// Below this the nodes and names that restore a tensor cost more than they save, or nearly.
pub const MIN_ELEMENTS: usize = 1024;

/// A tensor whose half-precision form is off by more than this (relative RMS) holds magnitudes that half precision cannot.
const HALF_ERROR: f64 = 1e-3;

impl Pass for WeightInt8 {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn parameters(&self) -> Value {
        serde_json::to_value(self).expect("plain data always becomes JSON")
    }

    fn apply(&self, model: &mut Model, _facts: &mut Facts) -> Result<Effect, PassError> {
        let Some(opset) = model.opset("").filter(|&v| v >= 7) else {
            return Ok(Effect::Skipped { reason: "stored 8-bit weights need opset 7 or later".to_owned() });
        };
        let exempt: HashSet<String> = overridable(model).into_iter().map(str::to_owned).collect();
        let mut rewrite = Rewrite {
            plans: self.tensors.iter().map(|p| (p.tensor.as_str(), p)).collect(),
            min_elements: self.min_elements,
            opset,
            ir_version: model.proto().ir_version(),
            taken: model.tensor_names(),
            rewrites: 0,
        };
        rewrite.graph(model.graph_mut(), &exempt);
        let reason = "no listed tensor is a float32 constant that gets smaller in 8 bits";
        Ok(Effect::rewrites(rewrite.rewrites, reason))
    }
}

struct Rewrite<'p> {
    plans: BTreeMap<&'p str, &'p TensorPlan>,
    min_elements: usize,
    opset: i64,
    ir_version: i64,
    taken: HashSet<String>,
    rewrites: usize,
}

impl Rewrite<'_> {
    fn graph(&mut self, graph: &mut GraphProto, exempt: &HashSet<String>) {
        let mut restore = Vec::new();
        for proto in std::mem::take(&mut graph.initializer) {
            let plan = self.plans.get(proto.name()).copied().filter(|_| !exempt.contains(proto.name()));
            let stored = plan.and_then(|p| self.store(p, &Tensor::from_proto(&proto).ok()?, proto.encoded_len()));
            if let Some((store, nodes)) = stored {
                graph.input.retain(|i| i.name() != proto.name());
                graph.initializer.extend(store.initializers);
                restore.extend(store.nodes.into_iter().chain(nodes));
            } else {
                graph.initializer.push(proto);
            }
        }
        let mut kept = Vec::with_capacity(graph.node.len());
        for mut node in std::mem::take(&mut graph.node) {
            let plan = node.output.first().and_then(|o| self.plans.get(o.as_str())).copied();
            let stored = plan
                .filter(|_| is_op(&node, "Constant"))
                .and_then(|p| self.store(p, &constant_value(&node)?, node.encoded_len()));
            if let Some((store, nodes)) = stored {
                graph.initializer.extend(store.initializers);
                restore.extend(store.nodes.into_iter().chain(nodes));
                continue;
            }
            for inner in node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs)) {
                let fed: HashSet<String> = inner.input.iter().map(|i| i.name().to_owned()).collect();
                self.graph(inner, &fed);
            }
            kept.push(node);
        }
        restore.append(&mut kept);
        graph.node = restore;
    }

    /// The stored form of a tensor and the nodes that restore it, when that is smaller than `bytes`.
    fn store(&mut self, plan: &TensorPlan, tensor: &Tensor, bytes: usize) -> Option<(Store, Vec<NodeProto>)> {
        if tensor.dtype() != DType::F32 || tensor.len() < self.min_elements.max(1) {
            return None;
        }
        // Names are handed out only once the form is kept.
        let mut taken = std::mem::take(&mut self.taken);
        let handed_out: Vec<String> = ["_q", "_scale", "_float"]
            .iter()
            .map(|s| Model::fresh_name(&mut taken, &format!("{}{s}", plan.tensor)))
            .collect();
        self.taken = taken;
        let [codes, scale, float] = [&handed_out[0], &handed_out[1], &handed_out[2]].map(String::as_str);
        let mut store = Store::new(self.ir_version);
        let encoding = self.encoding(plan);
        let nodes = if encoding == Encoding::Half {
            store.add(codes, &halved(tensor)?);
            vec![node("Cast", "", &[codes], &[&plan.tensor], vec![int("to", i64::from(DType::F32.to_onnx()))])]
        } else {
            let layout = Layout::new(tensor.shape(), &plan.axes)?;
            let quantised = quantise(&tensor.to_f32(), layout, 127, plan.range)?;
            store.add(codes, &Tensor::new(tensor.shape(), &quantised.codes));
            if encoding == Encoding::CastMul {
                let shape = scale_shape(tensor.shape(), &plan.axes);
                store.add(scale, &Tensor::new(&shape, &quantised.scales));
                vec![
                    node("Cast", "", &[codes], &[float], vec![int("to", i64::from(DType::F32.to_onnx()))]),
                    node("Mul", "", &[float, scale], &[&plan.tensor], vec![]),
                ]
            } else {
                let (shape, attributes) = match plan.axes[..] {
                    [] => (vec![], vec![]),
                    [axis, ..] => (vec![quantised.scales.len()], vec![int("axis", axis as i64)]),
                };
                store.add(scale, &Tensor::new(&shape, &quantised.scales));
                vec![node("DequantizeLinear", "", &[codes, scale], &[&plan.tensor], attributes)]
            }
        };
        let new_bytes = store.initializers.iter().map(Message::encoded_len).sum::<usize>()
            + store.nodes.iter().chain(&nodes).map(Message::encoded_len).sum::<usize>();
        if new_bytes >= bytes {
            for name in &handed_out {
                self.taken.remove(name);
            }
            return None;
        }
        self.rewrites += 1;
        Some((store, nodes))
    }

    /// What the plan asks for, as far as the operator set can say it.
    fn encoding(&self, plan: &TensorPlan) -> Encoding {
        let sayable = match plan.axes.len() {
            0 => self.opset >= 10,
            1 => self.opset >= 13,
            _ => false,
        };
        if plan.encoding == Encoding::Dequantize && !sayable { Encoding::CastMul } else { plan.encoding }
    }
}

/// The shape that makes one scale per index of `axes` broadcast against a tensor of `shape`.
pub(super) fn scale_shape(shape: &[usize], axes: &[usize]) -> Vec<usize> {
    shape.iter().enumerate().map(|(a, &d)| if axes.contains(&a) { d } else { 1 }).collect()
}

/// The tensor in half precision, when it fits.
fn halved(tensor: &Tensor) -> Option<Tensor> {
    let values = tensor.to_f32();
    let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
    let (mut error, mut energy) = (0.0_f64, 0.0_f64);
    for (&v, &h) in values.iter().zip(&halves) {
        error += (f64::from(h) - f64::from(v)).powi(2);
        energy += f64::from(v).powi(2);
    }
    // NaN (from an overflow to infinity, or in the tensor itself) fails the comparison.
    (error <= HALF_ERROR * HALF_ERROR * energy).then(|| Tensor::new(tensor.shape(), &halves))
}
