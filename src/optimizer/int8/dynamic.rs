//! Dynamic quantisation: activations become unsigned 8-bit integers when they are known, at run time, and products of 8-bit integers are exact sums of 32 bits.
//!
//! ```text
//!  x ─ DynamicQuantizeLinear ─┬─ codes ────── MatMulInteger ─ Cast ─ Mul ─ Add ─ y
//!                             ├─ zero point ──┘                      │     └ bias
//!                             └─ scale ─ Mul(weight scales) ─────────┘
//! ```
//! ONNX Runtime fuses all of it into one `DynamicQuantizeMatMul`, or a `MatMulIntegerToFloat` per product where several share an activation (query, key and value do).
//!
//! Speed against float32 on ONNX Runtime 1.32, one thread, AVX2 without VNNI, and the relative RMS error of the output (normal weights):
//!
//! | k x n | rows | `Int8` | `Int8Reduced` | `Uint8` | error `Int8` | error `Int8Reduced` |
//! |---|---|---|---|---|---|---|
//! | 256 x 128 | 1 | 1.08x | 1.07x | 1.04x | 0.011 | 0.018 |
//! | 256 x 128 | 128 | 1.43x | 1.43x | 1.18x | 0.009 | 0.015 |
//! | 784 x 256 | 1 | 2.10x | 2.10x | 1.80x | 0.009 | 0.017 |
//! | 384 x 384 | 128 | 1.75x | 1.75x | 1.38x | 0.011 | 0.016 |
//! | 384 x 1536 | 128 | 1.92x | 1.90x | 1.48x | 0.010 | 0.016 |
//! | 1024 x 1024 | 1 | 2.93x | 2.84x | 2.25x | 0.010 | 0.016 |
//!
//! Normal weights do not show the danger of `Int8`: where pairs of products are added in 16 bits (x86 without VNNI) it saturates, 14 % error on one-sided data
//! and 18 % on weights spread evenly over their range. [`WeightScheme::Int8Reduced`] cannot, costs no time, and is the default.
//!
//! One scale for all output channels of a weight saves the row of scales that every row of sums is multiplied by: on a perceptron of 784-256-128-10 at batch 1 a whole run took
//! 1/1.74 of float's time [1.70, 1.79], with a scale per channel 1/1.66 [1.64, 1.68] (AVX-512 VNNI).
//!
//! The scale of an activation is that of the whole tensor, so a sample's result depends a little on the others of its batch: that is how `DynamicQuantizeLinear` is defined.
//! Products of two activations (attention scores) have no weight and stay float.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::balance::Balance;
use super::linear::{Addend, Linear, Operator, linear};
use super::rewrite::Rewritten;
use super::scheme::{Layout, Range, quantise};
use super::store::Store;
use crate::model::edit::{Index, int, node};
use crate::model::onnx::NodeProto;
use crate::model::{DType, Effect, Facts, Model, Pass, PassError, Tensor, TensorFact};

/// How the weights of a dynamic product are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum WeightScheme {
    /// Signed, -127 to 127. For hardware with VNNI or another 32-bit dot product; elsewhere pairs of products above 32,767 saturate on ONNX Runtime, and the
    /// result depends on the machine.
    Int8,
    /// Signed, -64 to 64: a pair is at most 2 x 255 x 64 = 32,640, so it is exact on every machine; as fast, one bit coarser.
    #[default]
    Int8Reduced,
    /// Unsigned around 128: cannot saturate anywhere and has all the bits, but is slower.
    Uint8,
}

impl WeightScheme {
    /// The largest code's magnitude.
    pub fn limit(self) -> u8 {
        match self {
            Self::Int8 | Self::Uint8 => 127,
            Self::Int8Reduced => 64,
        }
    }
}

/// What to do with one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodePlan {
    /// First output of the `MatMul`, `Gemm` or `Conv`.
    pub output: String,
    /// How its weights are stored.
    pub weights: WeightScheme,
    /// How their ranges are chosen.
    pub range: Range,
}

/// Computes the listed nodes of the main graph in integers. `Conv` becomes `ConvInteger`, which ONNX Runtime does not fuse and which is rarely faster: list it only where it was measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicInt8 {
    /// The nodes.
    pub nodes: Vec<NodePlan>,
    /// Activations of `MatMul` and `Gemm` whose channels are evened out before they are quantised.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub balances: Vec<Balance>,
    /// Whether all output channels of a weight have one scale, and not each its own: coarser, and sums are rescaled by a single number.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_scale: bool,
}

impl DynamicInt8 {
    /// Name of the pass.
    pub const NAME: &str = "dynamic-int8";
}

impl Pass for DynamicInt8 {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn parameters(&self) -> Value {
        serde_json::to_value(self).expect("plain data always becomes JSON")
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        let plans: HashMap<&str, &NodePlan> = self.nodes.iter().map(|p| (p.output.as_str(), p)).collect();
        let listed = |n: &NodeProto| n.output.first().is_some_and(|o| plans.contains_key(o.as_str()));
        if !model.graph().node.iter().any(listed) {
            return Ok(Effect::Skipped { reason: "no listed node is in the graph".to_owned() });
        }
        model.raise(facts, FIRST_OPSET)?;
        let index = Index::new(model.graph());
        let mut writer = Writer::new(model, self);
        let rewritten = Rewritten::of(model, &plans, |node, plan| {
            let found = linear(model, &index, facts, node)?;
            writer.write(node, &found, plan, facts)
        });
        Ok(rewritten.put(model, writer.store))
    }
}

/// The first opset with `DynamicQuantizeLinear`; an older model is upgraded.
const FIRST_OPSET: i64 = 11;

/// Names of a quantised activation: codes, scale, zero point.
type Activation = [String; 3];

/// Names of quantised weights.
#[derive(Clone)]
struct Weights {
    codes: String,
    scales: String,
    zero: Option<String>,
}

/// What tells quantised weights apart: tensor, whether transposed, convolution or product, scheme, range, bits of the factor in the scales,
/// name of the activation whose balance it carries.
type WeightKey = (String, bool, bool, WeightScheme, Range, u32, Option<String>);

/// Writes nodes; hands each activation and each weight out once.
struct Writer<'p> {
    store: Store,
    balances: HashMap<&'p str, &'p Balance>,
    one_scale: bool,
    taken: HashSet<String>,
    /// By name, and whether its channels are balanced.
    activations: BTreeMap<(String, bool), Activation>,
    weights: BTreeMap<WeightKey, Weights>,
    zero: Option<String>,
}

impl<'p> Writer<'p> {
    fn new(model: &Model, pass: &'p DynamicInt8) -> Self {
        Self {
            balances: pass.balances.iter().map(|b| (b.activation.as_str(), b)).collect(),
            one_scale: pass.one_scale,
            store: Store::new(model.proto().ir_version()),
            taken: model.tensor_names(),
            activations: BTreeMap::new(),
            weights: BTreeMap::new(),
            zero: None,
        }
    }

    fn fresh(&mut self, stem: &str) -> String {
        Model::fresh_name(&mut self.taken, stem)
    }

    /// The nodes that take the place of `original`, or why there are none.
    fn write(
        &mut self,
        original: &NodeProto,
        found: &Linear,
        plan: &NodePlan,
        facts: &mut Facts,
    ) -> Result<Vec<NodeProto>, String> {
        let balance = self.balance_of(found)?;
        let weights = self.weights(found, plan, balance.as_ref()).ok_or("its weight holds an infinity or a NaN")?;
        let mut nodes = Vec::with_capacity(6);
        let balance = balance.map(|(balance, _)| balance);
        let [codes, scale, zero] = self.activation(&found.activation, balance, facts, &mut nodes);
        let output = original.output[0].as_str();
        let [sums, float, scales] = ["sums", "float", "rescale"].map(|s| self.fresh(&format!("{output}_{s}")));
        let (integer, attributes) = match found.operator {
            Operator::Conv => ("ConvInteger", original.attribute.clone()),
            Operator::MatMul | Operator::Gemm => ("MatMulInteger", Vec::new()),
        };
        let mut inputs = vec![codes.as_str(), &weights.codes, &zero];
        inputs.extend(weights.zero.as_deref());
        nodes.push(node(integer, original.name(), &inputs, &[&sums], attributes));
        nodes.push(node("Cast", "", &[&sums], &[&float], vec![int("to", i64::from(DType::F32.to_onnx()))]));
        nodes.push(node("Mul", "", &[&scale, &weights.scales], &[&scales], vec![]));
        let bias = self.bias(original, found);
        match &bias {
            None => nodes.push(node("Mul", "", &[&float, &scales], &[output], vec![])),
            Some(bias) => {
                let products = self.fresh(&format!("{output}_products"));
                nodes.push(node("Mul", "", &[&float, &scales], &[&products], vec![]));
                nodes.push(node("Add", "", &[&products, bias], &[output], vec![]));
            }
        }
        if let Some(fact) = facts.get(output).cloned() {
            facts.insert(sums, TensorFact { dtype: DType::I32, shape: fact.shape.clone() });
            facts.insert(float, fact);
        }
        Ok(nodes)
    }

    /// The balance of what a product reads, and its weights so balanced.
    fn balance_of(&self, found: &Linear) -> Result<Option<(&'p Balance, Tensor)>, String> {
        let listed = self.balances.get(found.activation.as_str()).filter(|_| found.operator != Operator::Conv);
        listed
            .map(|&balance| {
                let weights = balance.balanced(&found.matrix);
                let wrong = || format!("its activation's balance has {} channels", balance.exponents.len());
                Ok((balance, weights.ok_or_else(wrong)?))
            })
            .transpose()
    }

    fn activation(
        &mut self,
        name: &str,
        balance: Option<&Balance>,
        facts: &mut Facts,
        nodes: &mut Vec<NodeProto>,
    ) -> Activation {
        let key = (name.to_owned(), balance.is_some());
        if let Some(known) = self.activations.get(&key) {
            return known.clone();
        }
        let fact = facts.get(name).cloned();
        let read = balance.map_or_else(
            || name.to_owned(),
            |balance| {
                let [divisors, even] = ["divisors", "balanced"].map(|s| self.fresh(&format!("{name}_{s}")));
                let values = balance.divisors();
                self.store.add(&divisors, &Tensor::new(&[values.len()], &values));
                nodes.push(node("Mul", "", &[name, &divisors], &[&even], vec![]));
                if let Some(fact) = fact.clone() {
                    facts.insert(even.as_str(), fact);
                }
                even
            },
        );
        let names = ["codes", "scale", "zero_point"].map(|s| self.fresh(&format!("{name}_{s}")));
        let outputs = names.each_ref().map(String::as_str);
        nodes.push(node("DynamicQuantizeLinear", "", &[&read], &outputs, vec![]));
        if let Some(fact) = fact {
            facts.insert(outputs[0], TensorFact { dtype: DType::U8, shape: fact.shape });
            facts.insert(outputs[1], TensorFact { dtype: DType::F32, shape: vec![] });
            facts.insert(outputs[2], TensorFact { dtype: DType::U8, shape: vec![] });
        }
        self.activations.insert(key, names.clone());
        names
    }

    fn weights(&mut self, found: &Linear, plan: &NodePlan, balance: Option<&(&Balance, Tensor)>) -> Option<Weights> {
        let conv = found.operator == Operator::Conv;
        let carried = balance.map(|(balance, _)| balance.activation.clone());
        let matrix = balance.map_or(&found.matrix, |(_, weights)| weights);
        let key =
            (found.weight.clone(), found.transposed, conv, plan.weights, plan.range, found.alpha.to_bits(), carried);
        if let Some(known) = self.weights.get(&key) {
            return Some(known.clone());
        }
        let shape = found.matrix.shape();
        let axes = [found.channel_axis()];
        let layout = Layout::new(shape, if self.one_scale { &[] } else { &axes })?;
        let mut quantised = quantise(&matrix.to_f32(), layout, plan.weights.limit(), plan.range)?;
        quantised.scales.iter_mut().for_each(|s| *s *= found.alpha);
        let [codes, scales] = ["codes", "scales"].map(|s| self.fresh(&format!("{}_{s}", found.weight)));
        let mut scale_shape = Vec::new();
        if !self.one_scale {
            // A convolution's channels lie on axis 1 of what it gives.
            scale_shape.push(found.channels());
            scale_shape.resize(if conv { shape.len() - 1 } else { 1 }, 1);
        }
        self.store.add(&scales, &Tensor::new(&scale_shape, &quantised.scales));
        let zero = if plan.weights == WeightScheme::Uint8 {
            let unsigned: Vec<u8> = quantised.codes.iter().map(|&q| (i16::from(q) + 128) as u8).collect();
            self.store.add(&codes, &Tensor::new(shape, &unsigned));
            if self.zero.is_none() {
                let name = self.fresh("weight_zero_point");
                self.store.add(&name, &Tensor::scalar(128_u8));
                self.zero = Some(name);
            }
            self.zero.clone()
        } else {
            self.store.add(&codes, &Tensor::new(shape, &quantised.codes));
            None
        };
        let weights = Weights { codes, scales, zero };
        self.weights.insert(key, weights.clone());
        Some(weights)
    }

    /// Name of what is added to the products, if anything is.
    fn bias(&mut self, original: &NodeProto, found: &Linear) -> Option<String> {
        match found.addend(original)? {
            Addend::Named(name) => Some(name),
            Addend::New(values) => {
                let fresh = self.fresh(&format!("{}_bias", original.output[0]));
                self.store.add(&fresh, &values);
                Some(fresh)
            }
        }
    }
}
