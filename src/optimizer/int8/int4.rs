//! 4-bit weights: `MatMul` and `Gemm` with a constant weight become `com.microsoft::MatMulNBits`, whose weight stays packed in memory, in blocks of one scale each.
//!
//! ```text
//!  x ─ MatMulNBits(codes, scales) ─ Add ─ y
//!                                    └ bias
//! ```
//! Speed against float32 on ONNX Runtime 1.32, one thread, AVX-512 with VNNI, by the operator's `accuracy_level` (1: float32, 4: activations in 8 bits, one
//! scale per block) and the size of the blocks. Level 0, which leaves it to the runtime, is level 1. Rounding activations takes 0.5 % of the products, the 4-bit
//! weights themselves 8 %, so level 4 costs nothing beside them.
//!
//! | k x n | rows | 1, blocks of 32 | 1, 128 | 4, blocks of 32 | 4, 64 | 4, 128 |
//! |---|---|---|---|---|---|---|
//! | 384 x 384 | 1 | 0.92x | 1.01x | 1.44x | 1.49x | 1.54x |
//! | 384 x 1536 | 1 | 1.02x | 1.17x | 2.42x | 2.62x | 2.92x |
//! | 384 x 1536 | 8 | 0.81x | 0.86x | 1.74x | 1.91x | 2.44x |
//! | 384 x 1536 | 128 | 1.04x | 1.05x | 1.08x | 1.11x | 1.31x |
//! | 784 x 256 | 1 | 1.00x | 1.12x | 1.73x | 1.77x | 1.92x |
//! | 1024 x 1024 | 1 | 0.96x | 1.16x | 2.65x | 3.02x | 3.65x |
//! | 1024 x 1024 | 128 | 0.91x | 0.96x | 1.02x | 1.09x | 1.31x |
//!
//! It is an operator of ONNX Runtime's own; tract runs it too, with scales rounded to half precision where blocks are of 32. No standard ONNX before opset 21
//! says as much, so plain-operator exports cannot hold it. Four bits cost far more quality than eight: the pass runs where a job names it, never by itself.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::blocks;
use super::glob::Exclude;
use super::linear::{Addend, Linear, Operator, linear, transpose};
use super::rewrite::Rewritten;
use super::scheme::Quantised;
use super::store::Store;
use crate::model::edit::{Index, int, node};
use crate::model::onnx::NodeProto;
use crate::model::{Effect, Facts, Model, Pass, PassError, Tensor};

/// Domain of the operator.
const DOMAIN: &str = "com.microsoft";

/// What the operator is told of how exact to be: 4 lets it round activations to 8 bits block by block and compute in integers.
pub const INTEGER_ACCURACY: i64 = 4;

/// What to do with one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockPlan {
    /// First output of the `MatMul` or `Gemm`.
    pub output: String,
    /// Weights that share a scale: a power of two, at least 16.
    pub size: usize,
}

/// Stores the weights of the listed nodes of the main graph in 4 bits and computes with them as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Int4Blocks {
    /// The nodes.
    pub nodes: Vec<BlockPlan>,
    /// The operator's `accuracy_level`: 0 leaves it to the runtime, 1 computes in float32, [`INTEGER_ACCURACY`] on 8-bit activations.
    pub accuracy_level: i64,
}

impl Int4Blocks {
    /// Name of the pass.
    pub const NAME: &str = "int4-blocks";
}

/// A node that [`Int4Blocks`] could take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlockSite {
    /// Output of the node; what a plan names it by.
    pub output: String,
    /// Name of the weight.
    pub weight: String,
    /// Number of weights.
    pub elements: usize,
    /// Size of the blocks whose error is least for what they take.
    pub size: usize,
    /// Relative RMS error of the weights in such blocks.
    pub error: f64,
}

/// Every node of the main graph whose weight would take less in 4-bit blocks than in 8 bits.
pub fn block_sites(model: &Model, facts: &Facts, exclude: &Exclude) -> Vec<BlockSite> {
    let index = Index::new(model.graph());
    let mut sites = Vec::new();
    for node in model.graph().node.iter().filter(|n| !exclude.matches_node(n)) {
        let Ok(found) = linear(model, &index, facts, node).and_then(|found| fitting(found, facts)) else { continue };
        let (depth, channels) = (found.depth(), found.channels());
        let (size, error) = blocks::best_size(&rows(&found), depth);
        if error.is_finite() && blocks::bytes(channels, depth, size) < found.matrix.len() {
            let (output, elements) = (node.output[0].clone(), found.matrix.len());
            sites.push(BlockSite { output, weight: found.weight, elements, size, error });
        }
    }
    sites
}

/// A product of the form that the operator has, or in words why it is not.
fn fitting(found: Linear, facts: &Facts) -> Result<Linear, String> {
    if found.operator == Operator::Conv {
        return Err("a convolution has no form in 4-bit blocks".to_owned());
    }
    if facts.rank(&found.activation).is_some_and(|rank| rank < 2) {
        return Err("its activation is a vector, the operator wants a matrix".to_owned());
    }
    Ok(found)
}

/// One output channel after the other, the factor of the products multiplied in.
fn rows(found: &Linear) -> Vec<f32> {
    transpose(&found.matrix).to_f32().iter().map(|v| v * found.alpha).collect()
}

impl Pass for Int4Blocks {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn parameters(&self) -> Value {
        serde_json::to_value(self).expect("plain data always becomes JSON")
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        if let Some(plan) = self.nodes.iter().find(|p| p.size < 16 || !p.size.is_power_of_two()) {
            let detail = format!("{} is no size of blocks. Bake again instead of editing the recipe.", plan.size);
            return Err(PassError::Node { node: plan.output.clone(), detail });
        }
        let plans: HashMap<&str, &BlockPlan> = self.nodes.iter().map(|p| (p.output.as_str(), p)).collect();
        let index = Index::new(model.graph());
        let mut writer = Writer {
            store: Store::new(model.proto().ir_version()),
            taken: model.tensor_names(),
            weights: BTreeMap::new(),
            accuracy_level: self.accuracy_level,
        };
        let rewritten = Rewritten::of(model, &plans, |node, plan| {
            let found = linear(model, &index, facts, node).and_then(|found| fitting(found, facts))?;
            writer.write(node, &found, plan.size, facts)
        });
        let effect = rewritten.put(model, writer.store);
        if matches!(effect, Effect::Applied { .. }) {
            model.import(DOMAIN, 1);
        }
        Ok(effect)
    }
}

/// Writes nodes; hands each weight out once.
struct Writer {
    store: Store,
    taken: HashSet<String>,
    /// Codes and scales by tensor, whether transposed, bits of the factor in the scales, size of the blocks.
    weights: BTreeMap<(String, bool, u32, usize), [String; 2]>,
    accuracy_level: i64,
}

impl Writer {
    fn fresh(&mut self, stem: &str) -> String {
        Model::fresh_name(&mut self.taken, stem)
    }

    fn write(
        &mut self,
        original: &NodeProto,
        found: &Linear,
        size: usize,
        facts: &mut Facts,
    ) -> Result<Vec<NodeProto>, String> {
        let [codes, scales] = self.weight(found, size).ok_or("its weight holds an infinity or a NaN")?;
        let output = original.output[0].as_str();
        let addend = found.addend(original);
        let products = if addend.is_some() { self.fresh(&format!("{output}_products")) } else { output.to_owned() };
        let attributes = vec![
            int("K", found.depth() as i64),
            int("N", found.channels() as i64),
            int("bits", 4),
            int("block_size", size as i64),
            int("accuracy_level", self.accuracy_level),
        ];
        let inputs = [found.activation.as_str(), &codes, &scales];
        let mut product = node("MatMulNBits", original.name(), &inputs, &[&products], attributes);
        product.domain = Some(DOMAIN.to_owned());
        let mut nodes = vec![product];
        if let Some(addend) = addend {
            let bias = match addend {
                Addend::Named(name) => name,
                Addend::New(values) => {
                    let name = self.fresh(&format!("{output}_bias"));
                    self.store.add(&name, &values);
                    name
                }
            };
            nodes.push(node("Add", "", &[&products, &bias], &[output], vec![]));
            if let Some(fact) = facts.get(output).cloned() {
                facts.insert(products, fact);
            }
        }
        Ok(nodes)
    }

    fn weight(&mut self, found: &Linear, size: usize) -> Option<[String; 2]> {
        let key = (found.weight.clone(), found.transposed, found.alpha.to_bits(), size);
        if let Some(known) = self.weights.get(&key) {
            return Some(known.clone());
        }
        let (depth, channels) = (found.depth(), found.channels());
        let Quantised { codes, scales } = blocks::quantise(&rows(found), depth, size)?;
        let names = ["codes", "scales"].map(|s| self.fresh(&format!("{}_{s}", found.weight)));
        let packed = blocks::packed(&codes, depth, size);
        self.store.add(&names[0], &Tensor::new(&[channels, depth.div_ceil(size), size / 2], &packed));
        self.store.add(&names[1], &Tensor::new(&[scales.len()], &scales));
        self.weights.insert(key, names.clone());
        Some(names)
    }
}
