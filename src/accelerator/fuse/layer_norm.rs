//! Decomposed layer normalisation to `LayerNormalization` (opset 17; Ba et al. 2016, equation 4).
//!
//! The mean is `ReduceMean` or a scaled `ReduceSum`, the variance the mean of `(x - mean)^2` or `mean(x^2) - mean(x)^2`, bounded by zero or not. Reductions may drop
//! their axis when a reshape restores it. An axis that is not the last is moved there and back by Transposes, for `convert-layout` and `clean-up` to cancel.

use super::{averages::Averages, below, partner, replace};
use crate::accelerator::net::{self, Id, Net, input};
use crate::accelerator::shapes::Shapes;
use crate::model::{DType, Effect, Facts, Model, Pass, PassError, Tensor, TensorFact, edit};

/// The pass `fuse-layer-normalization`.
#[derive(Debug, Clone, Copy, Default)]
pub struct FuseLayerNormalization;

impl Pass for FuseLayerNormalization {
    fn name(&self) -> &'static str {
        "fuse-layer-normalization"
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        Ok(net::edit(model, facts, |net| {
            if !net.ids().iter().any(|&id| is_reduction(net, id)) {
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

fn is_reduction(net: &Net, id: Id) -> bool {
    net.op(id, "ReduceMean").or_else(|| net.op(id, "ReduceSum")).is_some()
}

/// A matched chain: `(x - mean(x)) / sqrt(variance(x) + epsilon)`, with scale and bias where they follow.
struct Norm {
    last: Id,
    x: String,
    /// The normalised axis, counted from the last (0).
    back: usize,
    rank: Option<usize>,
    width: Option<usize>,
    epsilon: f32,
    scale: Option<Tensor>,
    bias: Option<Tensor>,
}

/// `1 / sqrt(variance + epsilon)`, times a scale.
struct Spread<'a> {
    /// The tensor that has to line up with x.
    tensor: &'a str,
    variance: &'a str,
    epsilon: f64,
    scale: Option<&'a str>,
}

impl<'a> Spread<'a> {
    /// Of the tensor that is divided by.
    fn of_root(net: &'a Net, tensor: &'a str) -> Option<Self> {
        let sum = input(net.producer_op(tensor, "Sqrt")?.1, 0)?;
        let (variance, epsilon) = Self::sum(net, sum)?;
        Some(Self { tensor, variance, epsilon, scale: None })
    }

    /// Of the tensor that is multiplied with.
    fn of_factor(net: &'a Net, tensor: &'a str) -> Option<Self> {
        let (_, node) = net.producer(tensor).filter(|(_, n)| matches!(n.domain(), "" | "ai.onnx"))?;
        match node.op_type() {
            "Reciprocal" => Some(Self { tensor, ..Self::of_root(net, input(node, 0)?)? }),
            "Div" if net.scalar(input(node, 0)?) == Some(1.0) => {
                Some(Self { tensor, ..Self::of_root(net, input(node, 1)?)? })
            }
            "Pow" if net.scalar(input(node, 1)?) == Some(-0.5) => {
                let (variance, epsilon) = Self::sum(net, input(node, 0)?)?;
                Some(Self { tensor, variance, epsilon, scale: None })
            }
            "Mul" => {
                let (a, b) = (input(node, 0)?, input(node, 1)?);
                let (factor, scale) = if net.is_constant(a) { (b, a) } else { (a, b) };
                let inner = Self::of_factor(net, factor).filter(|i| net.is_constant(scale) && i.scale.is_none())?;
                Some(Self { scale: Some(scale), ..inner })
            }
            _ => None,
        }
    }

    /// `variance + epsilon`.
    fn sum(net: &'a Net, tensor: &str) -> Option<(&'a str, f64)> {
        let (_, node) = net.producer_op(tensor, "Add")?;
        let (a, b) = (input(node, 0)?, input(node, 1)?);
        match (net.scalar(a), net.scalar(b)) {
            (None, Some(epsilon)) => Some((a, epsilon)),
            (Some(epsilon), None) => Some((b, epsilon)),
            _ => None,
        }
    }
}

impl Norm {
    /// The chain whose last node but a scale and a bias stands in slot `id`.
    fn at(net: &Net, shapes: &Shapes, id: Id) -> Option<Self> {
        let node = net.get(id).filter(|n| matches!(n.domain(), "" | "ai.onnx"))?;
        let (a, b) = (input(node, 0)?, input(node, 1)?);
        match node.op_type() {
            "Div" => Self::scaled(net, shapes, id, a, &Spread::of_root(net, b)?),
            "Mul" => [(a, b), (b, a)]
                .into_iter()
                .find_map(|(centred, factor)| Self::scaled(net, shapes, id, centred, &Spread::of_factor(net, factor)?)),
            "Add" => [(a, b), (b, a)].into_iter().find_map(|(x, rest)| Self::expanded(net, shapes, id, x, rest)),
            _ => None,
        }
    }

    /// `(x - mean) * spread`.
    fn scaled(net: &Net, shapes: &Shapes, id: Id, centred: &str, spread: &Spread) -> Option<Self> {
        let (x, mean) = difference(net, centred)?;
        Self::of(net, shapes, id, x, mean, spread)?.with_scale_and_bias(net)
    }

    /// `x * spread + (bias - mean * spread)`, as Keras writes it.
    fn expanded(net: &Net, shapes: &Shapes, id: Id, product: &str, rest: &str) -> Option<Self> {
        let (bias, shift) = difference(net, rest)?;
        let (product, shift) = (net.producer_op(product, "Mul")?.1, net.producer_op(shift, "Mul")?.1);
        let (a, b) = (input(product, 0)?, input(product, 1)?);
        let (x, factor) = if shift.input.iter().any(|i| i == b) { (a, b) } else { (b, a) };
        let mean = shift.input.iter().find(|i| *i != factor).filter(|_| shift.input.iter().any(|i| i == factor))?;
        let mut norm = Self::of(net, shapes, id, x, mean, &Spread::of_factor(net, factor)?)?;
        norm.bias = Some(norm.vector(net, bias)?);
        norm.with_scale_and_bias(net)
    }

    fn of(net: &Net, shapes: &Shapes, id: Id, x: &str, mean: &str, spread: &Spread) -> Option<Self> {
        let averages = Averages { net, shapes };
        let average = averages.of(mean).filter(|m| m.of == x)?;
        let variance = variance(&averages, spread.variance, x)?;
        let lines_up = |tensor: &str, kept: bool| kept || averages.lines_up(tensor, x, average.back);
        let fits = variance.0 == average.back
            && lines_up(mean, average.kept)
            && lines_up(spread.tensor, variance.1)
            && net.dtype(x) == Some(DType::F32)
            && (0.0..1.0).contains(&spread.epsilon);
        let (rank, back) = (shapes.rank(net, x), average.back);
        // A Transpose needs the rank.
        if !fits || (back > 0 && rank.is_none()) {
            return None;
        }
        let (epsilon, width) = (spread.epsilon as f32, averages.width(x, back));
        let mut norm = Self { last: id, x: x.to_owned(), back, rank, width, epsilon, scale: None, bias: None };
        if let Some(scale) = spread.scale {
            norm.scale = Some(norm.vector(net, scale)?);
        }
        Some(norm)
    }

    /// A constant with one value per element of the normalised axis.
    fn vector(&self, net: &Net, name: &str) -> Option<Tensor> {
        let (dtype, shape) = net.constant_info(name)?;
        let count = shape.iter().product::<usize>();
        let along = shape.len().checked_sub(1 + self.back).map(|at| shape[at]) == Some(count);
        let fits = along && self.rank.is_none_or(|r| shape.len() <= r);
        let wide = self.width.map_or(count > 1, |width| width == count);
        (dtype == DType::F32 && fits && wide).then(|| net.constant(name)?.reshaped(vec![count]).ok())?
    }

    /// Follows the chain through a constant factor and a constant summand.
    fn with_scale_and_bias(mut self, net: &Net) -> Option<Self> {
        let next = |id: Id, op: &str| -> Option<(Id, String)> {
            let output = net.get(id)?.output.first()?;
            let reader = net.only_reader(output)?;
            Some((reader, partner(net.op(reader, op)?, output)?))
        };
        if self.scale.is_none()
            && self.bias.is_none()
            && let Some((id, scale)) = next(self.last, "Mul").and_then(|(id, f)| Some((id, self.vector(net, &f)?)))
        {
            (self.last, self.scale) = (id, Some(scale));
        }
        // The operator wants a scale: ones, where the width is known.
        self.width = self.width.or(self.scale.as_ref().map(Tensor::len));
        let width = self.width?;
        self.scale.get_or_insert_with(|| Tensor::new(&[width], &vec![1.0_f32; width]));
        if self.bias.is_none()
            && let Some((id, bias)) = next(self.last, "Add").and_then(|(id, s)| Some((id, self.vector(net, &s)?)))
        {
            (self.last, self.bias) = (id, Some(bias));
        }
        Some(self)
    }

    fn fuse(self, net: &mut Net) -> String {
        let (name, output, metadata) = net
            .get(self.last)
            .map(|n| (edit::label(n), n.output.first().cloned().unwrap_or_default(), n.metadata_props.clone()))
            .unwrap_or_default();
        let scale = self.scale.map(|scale| net.add_constant(&format!("{}_scale", self.x), &scale)).unwrap_or_default();
        let bias = self.bias.map(|bias| net.add_constant(&format!("{}_bias", self.x), &bias));
        // The axis at the end of x goes last and comes back.
        let moved = self.rank.filter(|_| self.back > 0).map(|rank| {
            let axis = rank - 1 - self.back;
            let there: Vec<usize> = (0..rank).filter(|&a| a != axis).chain([axis]).collect();
            let mut back = vec![0; rank];
            there.iter().enumerate().for_each(|(to, &from)| back[from] = to);
            let [before, after] = ["moved", "normalised"].map(|part| net.fresh_name(&format!("{}_{part}", self.x)));
            if let Some(fact) = net.facts().get(&self.x).filter(|f| f.shape.len() == rank) {
                let shape: Vec<_> = there.iter().map(|&a| fact.shape[a]).collect();
                let fact = TensorFact { dtype: fact.dtype, shape };
                net.add_fact(&before, fact.clone());
                net.add_fact(&after, fact);
            }
            (before, after, there, back)
        });
        let (from, to) = moved.as_ref().map_or((&self.x, &output), |(before, after, ..)| (before, after));
        let mut inputs = vec![from.as_str(), scale.as_str()];
        inputs.extend(bias.as_deref());
        let attributes = vec![edit::int("axis", -1), edit::float("epsilon", self.epsilon)];
        let mut norm = edit::node("LayerNormalization", &name, &inputs, &[to], attributes);
        norm.metadata_props = metadata;
        if let Some((before, after, there, back)) = &moved {
            let turn = |perm: &[usize]| vec![edit::ints("perm", &perm.iter().map(|&p| p as i64).collect::<Vec<_>>())];
            net.insert(self.last, edit::node("Transpose", before, &[&self.x], &[before], turn(there)));
            net.insert(self.last, norm);
            replace(net, self.last, edit::node("Transpose", after, &[after], &[&output], turn(back)));
        } else {
            replace(net, self.last, norm);
        }
        format!("LayerNormalization: {name}")
    }
}

/// The axis that `tensor` is x's variance along, counted from the last, and whether it has that axis with extent one.
fn variance(averages: &Averages, tensor: &str, x: &str) -> Option<(usize, bool)> {
    let net = averages.net;
    if let Some(mean) = averages.of(tensor) {
        let (centred_x, centre) = difference(net, square_of(net, mean.of)?)?;
        let inner = averages.of(centre)?;
        let same = centred_x == x && inner.of == x && inner.back == mean.back;
        let lines_up = inner.kept || averages.lines_up(centre, x, inner.back);
        return (same && lines_up).then_some((mean.back, mean.kept));
    }
    let (mut tensor, mut stripped) = averages.strip(tensor);
    // Rounding can bring the difference below zero.
    if let Some((_, node)) = net.producer(tensor)
        && let Some(bounded) = match node.op_type() {
            "Relu" => input(node, 0),
            "Max" if node.input.len() == 2 => match (net.scalar(input(node, 0)?), net.scalar(input(node, 1)?)) {
                (Some(0.0), None) => input(node, 1),
                (None, Some(0.0)) => input(node, 0),
                _ => None,
            },
            _ => None,
        }
    {
        let (inner, also) = averages.strip(bounded);
        (tensor, stripped) = (inner, stripped || also);
    }
    let (mean_of_squares, square_of_mean) = difference(net, tensor)?;
    let mean = square_of(net, square_of_mean)?;
    let (of_squares, of_x) = (averages.of(mean_of_squares)?, averages.of(mean)?);
    let kept = of_squares.kept && of_x.kept;
    let join = kept || averages.same_shape(mean_of_squares, mean);
    let fits = square_of(net, of_squares.of)? == x && of_x.of == x && of_squares.back == of_x.back && join;
    fits.then_some((of_x.back, kept && !stripped))
}

/// The tensor that `tensor` is the square of.
fn square_of<'a>(net: &'a Net, tensor: &str) -> Option<&'a str> {
    let (_, node) = net.producer(tensor).filter(|(_, n)| matches!(n.domain(), "" | "ai.onnx"))?;
    match node.op_type() {
        "Pow" if net.scalar(input(node, 1)?) == Some(2.0) => input(node, 0),
        "Mul" if input(node, 0) == input(node, 1) => input(node, 0),
        _ => None,
    }
}

/// The operands of a subtraction.
fn difference<'a>(net: &'a Net, tensor: &str) -> Option<(&'a str, &'a str)> {
    let (_, sub) = net.producer_op(tensor, "Sub")?;
    Some((input(sub, 0)?, input(sub, 1)?))
}
