//! Decomposed layer normalisation to `LayerNormalization` (opset 17; Ba et al. 2016, equation 4).

use super::{below, partner, reduces_last, replace};
use crate::accelerator::net::{self, Id, Net, input};
use crate::accelerator::shapes::{Extent, Shapes};
use crate::model::{DType, Effect, Facts, Model, Pass, PassError, Tensor, edit};

/// The pass `fuse-layer-normalization`.
#[derive(Debug, Clone, Copy, Default)]
pub struct FuseLayerNormalization;

impl Pass for FuseLayerNormalization {
    fn name(&self) -> &'static str {
        "fuse-layer-normalization"
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        Ok(net::edit(model, facts, |net| {
            if !net.ids().iter().any(|&id| net.op(id, "ReduceMean").is_some()) {
                return Effect::Skipped { reason: NONE.to_owned() };
            }
            let shapes = Shapes::infer(net);
            let found: Vec<Id> = net.ids().into_iter().filter(|&id| Norm::at(net, &shapes, id).is_some()).collect();
            if let Some(skipped) = below(net, 17, found.len(), "LayerNormalization") {
                return skipped;
            }
            let mut fused = Vec::new();
            for id in found {
                // Again, for a fusion before this one may have taken a node of it.
                if let Some(norm) = Norm::at(net, &shapes, id) {
                    fused.push(norm.fuse(net));
                }
            }
            net.sweep();
            crate::accelerator::fused(fused, NONE)
        }))
    }
}

const NONE: &str = "no chain of ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt and Div is there";

/// A matched chain: `(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon)`, with scale and bias where they follow.
struct Norm {
    last: Id,
    x: String,
    epsilon: f32,
    scale: Tensor,
    bias: Option<Tensor>,
}

impl Norm {
    /// The chain whose division stands in slot `id`.
    fn at(net: &Net, shapes: &Shapes, id: Id) -> Option<Self> {
        let div = net.get(id).filter(|n| matches!(n.domain(), "" | "ai.onnx"))?;
        let (centred, deviation) = match div.op_type() {
            "Div" => (input(div, 0)?, input(div, 1)?),
            // x * (1 / sqrt(v)) is how exporters of rsqrt write it.
            "Mul" => {
                let (a, b) = (input(div, 0)?, input(div, 1)?);
                let (x, r) = if net.producer_op(b, "Reciprocal").is_some() { (a, b) } else { (b, a) };
                (x, input(net.producer_op(r, "Reciprocal")?.1, 0)?)
            }
            _ => return None,
        };
        let sum = net.producer_op(input(net.producer_op(deviation, "Sqrt")?.1, 0)?, "Add")?.1;
        let (a, b) = (input(sum, 0)?, input(sum, 1)?);
        let (variance, epsilon) = match (net.scalar(a), net.scalar(b)) {
            (None, Some(epsilon)) => (a, epsilon),
            (Some(epsilon), None) => (b, epsilon),
            _ => return None,
        };
        let mean_of_squares = net.producer_op(variance, "ReduceMean")?.1;
        let square = input(mean_of_squares, 0)?;
        let (_, square) = net.producer(square)?;
        let base = match square.op_type() {
            "Pow" if net.scalar(input(square, 1)?) == Some(2.0) => input(square, 0)?,
            "Mul" if input(square, 0) == input(square, 1) => input(square, 0)?,
            _ => return None,
        };
        let (x, mean) = difference(net, centred)?;
        if base != centred && difference(net, base)? != (x, mean) {
            return None;
        }
        let mean = net.producer_op(mean, "ReduceMean")?.1;
        let rank = shapes.rank(net, x);
        let both_last = reduces_last(net, mean, rank) && reduces_last(net, mean_of_squares, rank);
        let float = net.dtype(x) == Some(DType::F32);
        if input(mean, 0) != Some(x) || !both_last || !float || !(0.0..1.0).contains(&epsilon) {
            return None;
        }
        let width = shapes.get(net, x).and_then(|s| match s.last() {
            Some(&Extent::Fixed(n)) => usize::try_from(n).ok(),
            _ => None,
        });
        Self { last: id, x: x.to_owned(), epsilon: epsilon as f32, scale: Tensor::scalar(1.0_f32), bias: None }
            .with_scale_and_bias(net, rank, width)
    }

    /// Follows the chain through a constant factor and a constant summand.
    fn with_scale_and_bias(mut self, net: &Net, rank: Option<usize>, width: Option<usize>) -> Option<Self> {
        let vector = |name: &str, width: Option<usize>| -> Option<Tensor> {
            let (dtype, shape) = net.constant_info(name)?;
            let count = shape.iter().product::<usize>();
            let flat = shape.last() == Some(&count) && rank.is_none_or(|r| shape.len() <= r);
            let fits = width.is_none_or(|w| w == count) && (width.is_some() || count > 1);
            (dtype == DType::F32 && flat && fits).then(|| net.constant(name)?.reshaped(vec![count]).ok())?
        };
        let next = |id: Id, op: &str| -> Option<(Id, String)> {
            let output = net.get(id)?.output.first()?;
            let reader = net.only_reader(output)?;
            Some((reader, partner(net.op(reader, op)?, output)?))
        };
        let mut width = width;
        match next(self.last, "Mul").and_then(|(id, other)| Some((id, vector(&other, width)?))) {
            Some((id, scale)) => {
                width = Some(scale.len());
                (self.last, self.scale) = (id, scale);
            }
            // The operator wants a scale: ones, where the width is known.
            None => self.scale = Tensor::new(&[width?], &vec![1.0_f32; width?]),
        }
        if let Some((id, bias)) = next(self.last, "Add").and_then(|(id, other)| Some((id, vector(&other, width)?))) {
            (self.last, self.bias) = (id, Some(bias));
        }
        Some(self)
    }

    fn fuse(self, net: &mut Net) -> String {
        let (name, outputs, metadata) = net
            .get(self.last)
            .map(|n| (edit::label(n), n.output.clone(), n.metadata_props.clone()))
            .unwrap_or_default();
        let scale = net.add_constant(&format!("{}_scale", self.x), &self.scale);
        let bias = self.bias.map(|bias| net.add_constant(&format!("{}_bias", self.x), &bias));
        let mut inputs = vec![self.x.as_str(), scale.as_str()];
        inputs.extend(bias.as_deref());
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let attributes = vec![edit::int("axis", -1), edit::float("epsilon", self.epsilon)];
        let mut node = edit::node("LayerNormalization", &name, &inputs, &outputs, attributes);
        node.metadata_props = metadata;
        replace(net, self.last, node);
        format!("LayerNormalization: {name}")
    }
}

/// The operands of a subtraction.
fn difference<'a>(net: &'a Net, tensor: &str) -> Option<(&'a str, &'a str)> {
    let (_, sub) = net.producer_op(tensor, "Sub")?;
    Some((input(sub, 0)?, input(sub, 1)?))
}
