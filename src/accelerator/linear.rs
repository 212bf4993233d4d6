//! Conv, `ConvTranspose`, Gemm and `MatMul` with constant `float32` weights: what a per-channel scale and shift can be folded into.
//!
//! All arithmetic is in `f64`, rounded once to `f32`.

use bytes::Bytes;

use super::net::{Id, Net, input};
use crate::model::onnx::NodeProto;
use crate::model::{DType, Tensor, edit};

/// `y = scale * x + shift` per channel.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Affine {
    /// Factor per channel.
    pub(crate) scale: Vec<f64>,
    /// Summand per channel.
    pub(crate) shift: Vec<f64>,
}

impl Affine {
    /// Multiplies only.
    pub(crate) fn scaling(scale: Vec<f64>) -> Self {
        Self { shift: vec![0.0; scale.len()], scale }
    }

    /// Adds only.
    pub(crate) fn shifting(shift: Vec<f64>) -> Self {
        Self { scale: vec![1.0; shift.len()], shift }
    }

    /// An inference-mode `BatchNormalization`: scale / sqrt(var + eps), and what the mean and bias add (Ioffe and Szegedy 2015, algorithm 2).
    pub(crate) fn of_batch_norm(net: &Net, node: &NodeProto) -> Option<Self> {
        let training =
            edit::int_attribute(node, "training_mode", 0) != 0 || edit::int_attribute(node, "spatial", 1) == 0;
        if training || net.opset() < 7 || node.output.iter().skip(1).any(|o| !net.unused(o)) {
            return None;
        }
        let epsilon = f64::from(edit::float_attribute(node, "epsilon", 1e-5));
        let [scale, bias, mean, var] = [1, 2, 3, 4].map(|i| vector(net, input(node, i)?));
        let (scale, bias, mean, var) = (scale?, bias?, mean?, var?);
        let n = scale.len();
        if [&bias, &mean, &var].iter().any(|v| v.len() != n) {
            return None;
        }
        let factor: Vec<f64> = scale.iter().zip(&var).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
        let shift: Vec<f64> = (0..n).map(|i| bias[i] - mean[i] * factor[i]).collect();
        let finite = factor.iter().chain(&shift).all(|v| v.is_finite());
        finite.then_some(Self { scale: factor, shift })
    }

    /// Whether nothing is added.
    pub(crate) fn only_scales(&self) -> bool {
        self.shift.iter().all(|&s| s == 0.0)
    }

    fn only_shifts(&self) -> bool {
        self.scale.iter().all(|&s| s == 1.0)
    }
}

fn vector(net: &Net, tensor: &str) -> Option<Vec<f64>> {
    let (dtype, shape) = net.constant_info(tensor)?;
    (dtype == DType::F32 && shape.len() == 1).then_some(())?;
    Some(net.constant(tensor)?.to_f64().into_owned())
}

/// What kind of linear operator a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Weight `[M, C/group, ...]`, bias input 2.
    Conv,
    /// Weight `[C, M/group, ...]`, bias input 2.
    ConvTranspose,
    /// Weight `[N, K]`, or `[K, N]` without `transB`; bias input 2.
    Gemm,
    /// Weight `[K, N]` on the right; no bias.
    MatMul,
}

/// A linear operator with a constant `float32` weight.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    /// Its slot.
    pub(crate) id: Id,
    /// What it is.
    pub(crate) kind: Kind,
    /// Shape of the weight.
    pub(crate) shape: Vec<usize>,
    /// Number of output channels.
    pub(crate) channels: usize,
    /// Name of the weight.
    pub(crate) weight: String,
}

impl Linear {
    /// The linear operator in a slot.
    pub(crate) fn at(net: &Net, id: Id) -> Option<Self> {
        let node = net.get(id).filter(|n| matches!(n.domain(), "" | "ai.onnx"))?;
        let kind = match node.op_type() {
            "Conv" => Kind::Conv,
            "ConvTranspose" => Kind::ConvTranspose,
            "Gemm" => Kind::Gemm,
            "MatMul" => Kind::MatMul,
            _ => return None,
        };
        let weight = input(node, 1)?.to_owned();
        let (dtype, shape) = net.constant_info(&weight)?;
        let group = usize::try_from(edit::int_attribute(node, "group", 1)).ok()?;
        let channels = match (kind, shape.as_slice()) {
            (Kind::Conv, [m, _, ..]) => *m,
            (Kind::ConvTranspose, [_, m, ..]) => m * group,
            (Kind::Gemm, [a, b]) => {
                if trans_b(node) {
                    *a
                } else {
                    *b
                }
            }
            (Kind::MatMul, [_, n]) => *n,
            _ => return None,
        };
        (dtype == DType::F32 && channels > 0).then_some(Self { id, kind, shape, channels, weight })
    }

    /// The linear operator whose only reader is `reader`, which takes it as `tensor`.
    pub(crate) fn before(net: &Net, tensor: &str, reader: Id) -> Option<Self> {
        let (id, _) = net.producer(tensor)?;
        (net.only_reader(tensor) == Some(reader)).then(|| Self::at(net, id))?
    }

    /// Values of a constant that is combined with the output, one per output channel. `None` when it differs along another axis or would widen the output.
    pub(crate) fn per_channel(&self, net: &Net, constant: &str, rank: Option<usize>) -> Option<Vec<f64>> {
        let (dtype, shape) = net.constant_info(constant)?;
        let rank = match self.kind {
            Kind::Conv | Kind::ConvTranspose => self.shape.len(),
            Kind::Gemm => 2,
            Kind::MatMul => rank.unwrap_or(1),
        };
        let channel = if matches!(self.kind, Kind::Conv | Kind::ConvTranspose) { 1 } else { rank - 1 };
        if dtype != DType::F32 || shape.len() > rank {
            return None;
        }
        let lead = rank - shape.len();
        let fits = |(i, &d): (usize, &usize)| d == 1 || (i + lead == channel && d == self.channels);
        if !shape.iter().enumerate().all(fits) {
            return None;
        }
        let values = net.constant(constant)?.to_f64().into_owned();
        Some(if values.len() == 1 { vec![values[0]; self.channels] } else { values })
    }

    /// The bias per output channel, zeros when there is none; `None` when it is not constant.
    fn bias(&self, net: &Net) -> Option<Vec<f64>> {
        let node = net.get(self.id)?;
        let Some(name) = input(node, 2) else { return Some(vec![0.0; self.channels]) };
        let beta = if self.kind == Kind::Gemm { f64::from(edit::float_attribute(node, "beta", 1.0)) } else { 1.0 };
        let (dtype, shape) = net.constant_info(name)?;
        let wide = shape.iter().rev().skip(1).any(|&d| d != 1);
        let values = net.constant(name)?.to_f64().into_owned();
        match values.len() {
            _ if wide || dtype != DType::F32 => None,
            1 => Some(vec![values[0] * beta; self.channels]),
            n => (n == self.channels).then(|| values.iter().map(|v| v * beta).collect()),
        }
    }

    /// Multiplies the weight and bias by `affine`, so that the operator gives what it gave followed by `affine`. `false`, and nothing changed, when that is not
    /// possible: a bias that is computed, a shift behind a `MatMul`, a result that `float32` cannot hold.
    pub(crate) fn absorb(&self, net: &mut Net, affine: &Affine) -> bool {
        if affine.scale.len() != self.channels || (self.kind == Kind::MatMul && !affine.only_scales()) {
            return false;
        }
        let Some(bias) = self.bias(net) else { return false };
        let had_bias = net.get(self.id).is_some_and(|n| input(n, 2).is_some());
        let bias: Vec<f32> = (0..self.channels).map(|c| (bias[c] * affine.scale[c] + affine.shift[c]) as f32).collect();
        let weight = if affine.only_shifts() { None } else { self.scaled(net, |channel, _| affine.scale[channel]) };
        let overflown = |v: &f32| !v.is_finite();
        if bias.iter().any(overflown) || (weight.is_none() && !affine.only_shifts()) {
            return false;
        }
        if let Some(weight) = weight {
            self.set_weight(net, &weight);
        }
        if had_bias || !affine.only_scales() {
            self.set_bias(net, &bias);
        }
        true
    }

    /// Folds `affine` of the *input* channels in, so that the operator gives what it gave behind `affine`. The caller makes sure that no padding is added in between.
    pub(crate) fn absorb_before(&self, net: &mut Net, affine: &Affine) -> bool {
        let Some(node) = net.get(self.id) else { return false };
        let alpha = if self.kind == Kind::Gemm { f64::from(edit::float_attribute(node, "alpha", 1.0)) } else { 1.0 };
        let per_group = match self.kind {
            Kind::Conv => self.shape[1],
            Kind::Gemm => affine.scale.len(),
            _ => return false,
        };
        let group = usize::try_from(edit::int_attribute(node, "group", 1)).unwrap_or(1).max(1);
        let inputs = if self.kind == Kind::Gemm {
            self.shape.iter().product::<usize>() / self.channels
        } else {
            per_group * group
        };
        if affine.scale.len() != inputs || !self.channels.is_multiple_of(group) {
            return false;
        }
        let Some(mut bias) = self.bias(net) else { return false };
        let Some(weight) = net.constant(&self.weight) else { return false };
        let rows = self.channels / group;
        let input_of =
            |channel: usize, i: usize| if self.kind == Kind::Conv { channel / rows * per_group + i } else { i };
        let values = weight.to_f32();
        self.each_pair(net, |channel, i, span| {
            let sum: f64 = values[span].iter().map(|&w| f64::from(w)).sum();
            bias[channel] += alpha * sum * affine.shift[input_of(channel, i)];
        });
        let bias: Vec<f32> = bias.into_iter().map(|b| b as f32).collect();
        let Some(weight) = self.scaled(net, |channel, i| affine.scale[input_of(channel, i)]) else { return false };
        if bias.iter().any(|b| !b.is_finite()) {
            return false;
        }
        self.set_weight(net, &weight);
        let had_bias = net.get(self.id).is_some_and(|n| input(n, 2).is_some());
        if had_bias || !affine.only_scales() {
            self.set_bias(net, &bias);
        }
        true
    }

    /// Calls `f` with output channel, input channel (within the group) and the range of elements that connect the two, in the weight's own order.
    fn each_pair(&self, net: &Net, mut f: impl FnMut(usize, usize, std::ops::Range<usize>)) {
        let inner: usize = self.shape[2..].iter().product();
        let (rows, columns) = (self.shape[0], self.shape[1]);
        let pair = self.pairs(net);
        for first in 0..rows {
            for second in 0..columns {
                let at = (first * columns + second) * inner;
                let (channel, i) = pair(first, second);
                f(channel, i, at..at + inner);
            }
        }
    }

    /// Output channel and input channel (within the group) of a position along the weight's first two axes.
    fn pairs(&self, net: &Net) -> impl Fn(usize, usize) -> (usize, usize) {
        let (rows, columns, kind) = (self.shape[0], self.shape[1], self.kind);
        let transposed = net.get(self.id).is_some_and(trans_b);
        // Input channels of each group of a `ConvTranspose`, whose weight has them in front.
        let per_group = (rows * columns / self.channels).max(1);
        move |first, second| match kind {
            Kind::Conv => (first, second),
            Kind::ConvTranspose => (first / per_group * columns + second, first % per_group),
            Kind::Gemm if transposed => (first, second),
            Kind::Gemm | Kind::MatMul => (second, first),
        }
    }

    /// The weight, each element times `factor(output channel, input channel)`; `None` when one leaves the range of `float32`.
    fn scaled(&self, net: &Net, factor: impl Fn(usize, usize) -> f64) -> Option<Tensor> {
        let weight = net.constant(&self.weight)?;
        let values = weight.to_f32();
        let (columns, inner) = (self.shape[1], self.shape[2..].iter().product::<usize>());
        let pair = self.pairs(net);
        let mut out: Vec<f32> = Vec::with_capacity(values.len());
        let mut factors = vec![0.0; columns];
        for (first, row) in values.chunks_exact((columns * inner).max(1)).enumerate() {
            for (second, slot) in factors.iter_mut().enumerate() {
                let (channel, i) = pair(first, second);
                *slot = factor(channel, i);
            }
            let times = |(w, factor): (&f32, &f64)| (f64::from(*w) * factor) as f32;
            let start = out.len();
            // Weights are large: whole rows at once where a row has one factor, or one per element.
            if factors.iter().all(|f| *f == factors[0]) {
                let factor = factors[0];
                out.extend(row.iter().map(|w| times((w, &factor))));
            } else if inner == 1 {
                out.extend(row.iter().zip(&factors).map(times));
            } else {
                let spans = row.chunks_exact(inner).zip(&factors);
                spans.for_each(|(span, factor)| out.extend(span.iter().map(|w| times((w, factor)))));
            }
            // Nearly always all are finite: the largest exponent tells.
            let new = &out[start..];
            let largest = new.iter().fold(0, |most, v| most.max(v.to_bits() & 0x7fff_ffff));
            if largest >= f32::INFINITY.to_bits()
                && new.iter().zip(row).any(|(n, old)| !n.is_finite() && old.is_finite())
            {
                return None;
            }
        }
        let bytes = Bytes::from_owner(Floats(out));
        Tensor::from_bytes(DType::F32, self.shape.clone(), bytes).ok()
    }

    /// Gives the operator another weight. A weight that others read stays theirs.
    fn set_weight(&self, net: &mut Net, weight: &Tensor) {
        let name = net.add_constant(&format!("{}_folded", self.weight), weight);
        net.change(self.id, |node| node.input[1] = name);
    }

    fn set_bias(&self, net: &mut Net, bias: &[f32]) {
        let name = net.add_constant(&format!("{}_bias", self.weight), &Tensor::new(&[bias.len()], bias));
        let gemm = self.kind == Kind::Gemm;
        net.change(self.id, |node| {
            node.input.resize(node.input.len().max(3), String::new());
            node.input[2] = name;
            if gemm {
                node.attribute.retain(|a| a.name() != "beta");
            }
        });
    }
}

/// Floats that become a tensor's bytes without being copied.
struct Floats(Vec<f32>);

impl AsRef<[u8]> for Floats {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

fn trans_b(node: &NodeProto) -> bool {
    edit::int_attribute(node, "transB", 0) != 0
}

/// Whether a Conv adds no padding around its input.
pub(crate) fn unpadded(node: &NodeProto) -> bool {
    let explicit = edit::ints_attribute(node, "pads").is_none_or(|pads| pads.iter().all(|&p| p == 0));
    explicit && matches!(edit::string_attribute(node, "auto_pad").unwrap_or("NOTSET"), "NOTSET" | "VALID" | "")
}
