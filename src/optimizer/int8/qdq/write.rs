//! Writing the nodes of a static plan.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::dynamic::NodePlan;
use super::super::linear::{Bias, Linear, Operator};
use super::super::scheme::{Layout, Quantised, quantise};
use super::super::store::Store;
use super::{ActivationPlan, StaticInt8};
use crate::model::edit::{int, node};
use crate::model::onnx::NodeProto;
use crate::model::{DType, Element, Facts, Model, Tensor, TensorFact};

/// The largest code of a bias. Sums of products are added to it in 32 bits, so half of them are left free.
const BIAS_LIMIT: f64 = (1_u32 << 30) as f64;

/// Codes that the bias of a channel without weights gets; its scale is free.
const BIAS_ALONE: f64 = (1_u32 << 20) as f64;

/// A bias below this is as good as none; a scale that says it might not be a normal float.
const VANISHING: f64 = 1e-30;

/// Collects the new node list; hands each constant out once.
pub(super) struct Writer<'p> {
    plans: HashMap<&'p str, &'p ActivationPlan>,
    store: Store,
    taken: HashSet<String>,
    nodes: Vec<NodeProto>,
    /// Rounded copies of tensors that are read in float too.
    rounded: BTreeMap<String, String>,
    /// Weights by everything that tells them apart.
    weights: BTreeMap<String, (String, Vec<f32>)>,
    /// Rows that are added behind products, by the output of the `Add`: which operand, and its new name.
    rows: BTreeMap<String, (usize, String)>,
    /// Zero points by type and length; `None` for a scalar.
    zeros: BTreeMap<(&'static str, Option<usize>, u8), String>,
}

impl<'p> Writer<'p> {
    pub(super) fn new(model: &Model, plan: &'p StaticInt8) -> Self {
        Self {
            plans: plan.activations.iter().map(|p| (p.tensor.as_str(), p)).collect(),
            store: Store::new(model.proto().ir_version()),
            taken: model.tensor_names(),
            nodes: Vec::with_capacity(model.graph().node.len() * 2),
            rounded: BTreeMap::new(),
            weights: BTreeMap::new(),
            rows: BTreeMap::new(),
            zeros: BTreeMap::new(),
        }
    }

    /// Puts everything into the graph.
    pub(super) fn flush(self, model: &mut Model) {
        model.graph_mut().node = self.nodes;
        self.store.flush(model.graph_mut());
    }

    /// A node as it is, but for what it reads (`codes`: in 8 bits where there are codes) and gives.
    pub(super) fn other(&mut self, mut node: NodeProto, codes: bool, facts: &mut Facts) {
        if let Some((operand, row)) = node.output.first().and_then(|o| self.rows.remove(o)) {
            node.input[operand] = row;
        }
        if codes {
            for input in &mut node.input {
                *input = self.read(input, facts);
            }
        }
        self.push(node, facts);
    }

    /// A node with a constant weight, on codes; `behind` is the `Add` of a row that follows it (its output, which operand, the row).
    pub(super) fn linear(
        &mut self,
        original: &NodeProto,
        found: &Linear,
        behind: Option<(String, usize, Tensor)>,
        plan: &NodePlan,
        facts: &mut Facts,
    ) -> Result<(), String> {
        let activation = *self.plans.get(found.activation.as_str()).ok_or("its activation has no range")?;
        let bias = match &found.bias {
            Bias::None => behind.as_ref().map(|(_, _, row)| row.to_f32().into_owned()),
            Bias::Constant { values, .. } if values.shape() == [found.channels()] => Some(values.to_f32().into_owned()),
            Bias::Constant { .. } => return Err("its bias is no row of one value per channel".to_owned()),
            Bias::Computed(_) => return Err("its bias is computed".to_owned()),
        };
        let (weights, scales) = self.weight(found, plan, activation, bias.as_deref())?;
        let mut inputs = vec![self.read(&found.activation, facts), weights];
        if let Some(bias) = bias {
            let restored = self.bias(&original.output[0], &bias, &scales, activation.scale as f32);
            match behind {
                Some((add, operand, _)) => {
                    self.rows.insert(add, (operand, restored));
                }
                None => inputs.push(restored),
            }
        }
        let attributes = if found.operator == Operator::Conv { original.attribute.clone() } else { Vec::new() };
        let mut written = original.clone();
        (written.input, written.attribute) = (inputs, attributes);
        self.push(written, facts);
        Ok(())
    }

    fn fresh(&mut self, stem: &str) -> String {
        Model::fresh_name(&mut self.taken, stem)
    }

    fn constant(&mut self, stem: &str, tensor: &Tensor) -> String {
        let name = self.fresh(stem);
        self.store.add(&name, tensor);
        name
    }

    fn zero<T: Element + From<u8>>(&mut self, kind: &'static str, length: Option<usize>, value: u8) -> String {
        let key = (kind, length, value);
        if let Some(known) = self.zeros.get(&key) {
            return known.clone();
        }
        let tensor = match length {
            None => Tensor::scalar(T::from(value)),
            Some(n) => Tensor::new(&[n], &vec![T::from(value); n]),
        };
        let name = self.constant(&format!("zero_point_{kind}"), &tensor);
        self.zeros.insert(key, name.clone());
        name
    }

    /// What a reader on codes reads in place of `tensor`.
    fn read(&mut self, tensor: &str, facts: &mut Facts) -> String {
        let Some(plan) = self.plans.get(tensor).copied().filter(|p| !p.through) else { return tensor.to_owned() };
        if let Some(known) = self.rounded.get(tensor) {
            return known.clone();
        }
        let rounded = self.fresh(&format!("{tensor}_rounded"));
        self.round(plan, tensor, &rounded, facts);
        self.rounded.insert(tensor.to_owned(), rounded.clone());
        rounded
    }

    /// `from` to codes and back, as `to`.
    fn round(&mut self, plan: &ActivationPlan, from: &str, to: &str, facts: &mut Facts) {
        let scale = self.constant(&format!("{}_scale", plan.tensor), &Tensor::scalar(plan.scale as f32));
        let zero = self.zero::<u8>("u8", None, plan.zero_point);
        let codes = self.fresh(&format!("{}_codes", plan.tensor));
        self.nodes.push(node("QuantizeLinear", "", &[from, &scale, &zero], &[&codes], vec![]));
        self.nodes.push(node("DequantizeLinear", "", &[&codes, &scale, &zero], &[to], vec![]));
        if let Some(fact) = facts.get(&plan.tensor).cloned() {
            facts.insert(codes, TensorFact { dtype: DType::U8, shape: fact.shape.clone() });
            facts.insert(from, fact.clone());
            facts.insert(to, fact);
        }
    }

    /// Pushes a node; those of its outputs that everyone reads rounded keep their names for the rounded values.
    fn push(&mut self, mut node: NodeProto, facts: &mut Facts) {
        let mut rounded = Vec::new();
        for output in &mut node.output {
            if let Some(plan) = self.plans.get(output.as_str()).copied().filter(|p| p.through) {
                let exact = Model::fresh_name(&mut self.taken, &format!("{output}_exact"));
                rounded.push((plan, exact.clone()));
                *output = exact;
            }
        }
        self.nodes.push(node);
        for (plan, exact) in rounded {
            self.round(plan, &exact, &plan.tensor, facts);
        }
    }

    /// Name of the restored weights, and the scale of each channel.
    fn weight(
        &mut self,
        found: &Linear,
        plan: &NodePlan,
        activation: &ActivationPlan,
        bias: Option<&[f32]>,
    ) -> Result<(String, Vec<f32>), String> {
        let shape = found.matrix.shape();
        let axis = found.channel_axis();
        let values: Vec<f32> = found.matrix.to_f32().iter().map(|v| v * found.alpha).collect();
        let layout = Layout::new(shape, &[axis]).ok_or("its weight has no channels")?;
        let mut quantised = quantise(&values, layout, plan.weights.limit(), plan.range)
            .ok_or("its weight holds an infinity or a NaN")?;
        if let Some(bias) = bias {
            make_room(&mut quantised, shape, axis, bias, activation.scale);
        }
        // Biases may move scales, so they are part of what tells weights apart.
        let bits: Vec<u32> = quantised.scales.iter().map(|s| s.to_bits()).collect();
        let key = format!("{:?}", (&found.weight, found.transposed, axis, plan.weights, plan.range, bits));
        if let Some(known) = self.weights.get(&key) {
            return Ok(known.clone());
        }
        let stem = &found.weight;
        let codes = self.constant(&format!("{stem}_codes"), &Tensor::new(shape, &quantised.codes));
        let channels = quantised.scales.len();
        let scales = self.constant(&format!("{stem}_scales"), &Tensor::new(&[channels], &quantised.scales));
        let zeros = self.zeros_of_weights(channels);
        let restored = self.fresh(&format!("{stem}_restored"));
        let attributes = vec![int("axis", axis as i64)];
        self.nodes.push(node("DequantizeLinear", "", &[&codes, &scales, &zeros], &[&restored], attributes));
        self.weights.insert(key, (restored.clone(), quantised.scales.clone()));
        Ok((restored, quantised.scales))
    }

    fn zeros_of_weights(&mut self, channels: usize) -> String {
        let key = ("i8", Some(channels), 0);
        if let Some(known) = self.zeros.get(&key) {
            return known.clone();
        }
        let name = self.constant("zero_point_i8", &Tensor::new(&[channels], &vec![0_i8; channels]));
        self.zeros.insert(key, name.clone());
        name
    }

    /// Name of the restored bias.
    fn bias(&mut self, output: &str, bias: &[f32], scales: &[f32], activation: f32) -> String {
        let scales: Vec<f32> = scales.iter().map(|s| s * activation).collect();
        let round =
            |(b, s): (&f32, &f32)| (f64::from(*b) / f64::from(*s)).round_ties_even().clamp(-BIAS_LIMIT, BIAS_LIMIT);
        let codes: Vec<i32> = bias.iter().zip(&scales).map(|pair| round(pair) as i32).collect();
        let codes = self.constant(&format!("{output}_bias_codes"), &Tensor::new(&[codes.len()], &codes));
        let n = scales.len();
        let scales = self.constant(&format!("{output}_bias_scales"), &Tensor::new(&[n], &scales));
        let zeros = self.zero::<i32>("i32", Some(n), 0);
        let restored = self.fresh(&format!("{output}_bias"));
        let attributes = vec![int("axis", 0)];
        self.nodes.push(node("DequantizeLinear", "", &[&codes, &scales, &zeros], &[&restored], attributes));
        restored
    }
}

/// Makes the scale of a channel such that its bias fits into codes of the scale of its products, which has to be the very product of both scales: ONNX Runtime
/// fuses nothing else.
fn make_room(quantised: &mut Quantised, shape: &[usize], axis: usize, bias: &[f32], activation: f64) {
    let inner: usize = shape[axis + 1..].iter().product::<usize>().max(1);
    let channels = shape[axis];
    let mut empty = vec![true; channels];
    for (at, run) in quantised.codes.chunks(inner).enumerate() {
        empty[at % channels] &= run.iter().all(|code| *code == 0);
    }
    for (channel, &bias) in bias.iter().enumerate() {
        let bias = f64::from(bias.abs());
        let needed = |codes: f64| (bias / (activation * codes)) as f32;
        let scale = quantised.scales[channel];
        // Weights of a unit that training gave up may be so small that their products have no scale.
        let wider = if empty[channel] || f64::from(scale) * activation < f64::from(f32::MIN_POSITIVE) {
            if bias < VANISHING { 1.0 } else { needed(BIAS_ALONE) }
        } else if needed(BIAS_LIMIT) > scale {
            needed(BIAS_LIMIT)
        } else {
            continue;
        };
        for run in quantised.codes.chunks_mut(inner).skip(channel).step_by(channels) {
            run.iter_mut().for_each(|code| *code = (f32::from(*code) * scale / wider).round_ties_even() as i8);
        }
        quantised.scales[channel] = wider;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bias_beyond_32_bits_widens_the_scale_of_its_channel_alone() {
        let mut quantised = Quantised { codes: vec![127, 100, -127, 64], scales: vec![1e-9, 0.5] };
        let before = quantised.clone();
        make_room(&mut quantised, &[2, 2], 0, &[5.0, 1.0], 1e-2);
        assert_eq!((quantised.scales[1], &quantised.codes[2..]), (before.scales[1], &before.codes[2..]));
        let code = 5.0 / (f64::from(quantised.scales[0]) * 1e-2);
        assert!(code <= BIAS_LIMIT * 1.000_001 && code > BIAS_LIMIT * 0.99, "{code}");
        assert_eq!(quantised.codes[..2], [0, 0]);
    }

    #[test]
    fn weights_too_small_for_a_scale_of_their_products_become_zero() {
        for bias in [0.0, 1e-38, 0.3] {
            let mut quantised = Quantised { codes: vec![127, 1], scales: vec![2e-38] };
            make_room(&mut quantised, &[1, 2], 0, &[bias], 0.05);
            assert_eq!(quantised.codes, [0, 0], "{bias}");
            let scale = f64::from(quantised.scales[0]) * 0.05;
            assert!(scale > f64::from(f32::MIN_POSITIVE), "{bias}: {scale}");
        }
    }

    #[test]
    fn the_bias_of_a_channel_without_weights_keeps_twenty_bits() {
        let mut quantised = Quantised { codes: vec![0, 0], scales: vec![1.0] };
        make_room(&mut quantised, &[1, 2], 0, &[0.3], 0.05);
        let scale = f64::from(quantised.scales[0]) * 0.05;
        let code = (0.3 / scale).round();
        assert!((code * scale - 0.3).abs() < 1e-6 && code > 1e6, "{code}");
    }
}
