//! What of a graph can be computed on codes with known ranges: read off its structure, never off names.
//!
//! A result is quantised where its integer form gives codes (that of a convolution, or of what a `Relu` follows) or where what reads it computes on codes. Never: what leaves the graph, be it
//! through a softmax or a reshape (logits keep all their bits); what a normalisation reads, for it magnifies rounding; what a softmax gives.

use std::collections::{HashMap, HashSet};

use super::super::dynamic::WeightScheme;
use super::super::glob::Exclude;
use super::super::linear::{Linear, Operator, linear};
use super::super::scheme::{Range, weight_error};
use crate::model::edit::{Index, int_attribute, is_op};
use crate::model::onnx::NodeProto;
use crate::model::{DType, Facts, Model, Tensor};
use crate::optimizer::calibration::{Channels, Watch};

/// What a node does with codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Products with a constant weight.
    Linear(Operator),
    /// Something between products that has an integer form with a range of its own.
    Between,
    /// Moves or picks values: codes of the same scale go in and out.
    Mover,
}

/// A node that could compute on codes.
#[derive(Debug, Clone, PartialEq)]
pub struct StaticSite {
    /// First output of the node; what a plan names it by.
    pub output: String,
    /// What it does.
    pub part: Part,
    /// Computed float tensors that it reads.
    pub inputs: Vec<String>,
    /// The tensor that would be quantised behind it: its output, or that of the `Relu` or `Clip` behind it.
    pub end: String,
    /// Name of its weight.
    pub weight: Option<String>,
    /// Multiplications of one run, as far as the shapes are known; of a node without weights, values that it gives.
    pub work: usize,
    /// Relative RMS error of its weights in 8 bits; 0 without weights.
    pub weight_error: f64,
    /// Whether its integer form gives codes at `end` and nothing else: a convolution's does, and what a `Relu` or `Clip` follows is not fused without.
    pub(super) gives_codes: bool,
    /// Whether everyone who reads `end` is a site.
    pub(super) inward: bool,
}

/// Everything in a graph that could compute on codes, in graph order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Region {
    /// The nodes.
    pub sites: Vec<StaticSite>,
    watches: Vec<Watch>,
}

/// Operators that move or pick values.
const MOVERS: [&str; 6] = ["MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"];

/// Operators between products that have an integer form.
const BETWEEN: [&str; 4] = ["Add", "Concat", "AveragePool", "GlobalAveragePool"];

/// What may lie between logits and an output without changing their order.
const MONOTONE: [&str; 6] = ["Softmax", "LogSoftmax", "Sigmoid", "Tanh", "Identity", "Cast"];

/// Operators that divide by a spread, or exponentiate: small errors become large.
const NORMALISERS: [&str; 5] =
    ["Softmax", "LogSoftmax", "LayerNormalization", "InstanceNormalization", "GroupNormalization"];

fn is_any(node: &NodeProto, ops: &[&str]) -> bool {
    ops.iter().any(|op| is_op(node, op))
}

impl Region {
    /// Reads a model. `exclude` matches nodes that stay float.
    pub fn of(model: &Model, facts: &Facts, exclude: &Exclude) -> Self {
        let reader = Reader { model, facts, index: Index::new(model.graph()) };
        let mut sites = Vec::new();
        let mut weights = HashMap::new();
        for node in model.graph().node.iter().filter(|n| !exclude.matches_node(n)) {
            if let Ok(found) = linear(model, &reader.index, facts, node) {
                if let Some(site) = reader.linear_site(node, &found) {
                    weights.insert(site.output.clone(), energies(&found, int_attribute(node, "group", 1)));
                    sites.push(site);
                }
            } else {
                sites.extend(reader.site_between(node));
            }
        }
        let outputs: HashSet<&str> = sites.iter().map(|s: &StaticSite| s.output.as_str()).collect();
        let inward: Vec<bool> = sites.iter().map(|s| reader.is_read_only_by(&s.end, &outputs)).collect();
        sites.iter_mut().zip(inward).for_each(|(site, inward)| site.inward = inward);
        let watches = watches(&sites, &weights);
        Self { sites, watches }
    }

    /// What calibration has to look at.
    pub fn watches(&self) -> &[Watch] {
        &self.watches
    }
}

struct Reader<'m> {
    model: &'m Model,
    facts: &'m Facts,
    index: Index,
}

impl Reader<'_> {
    fn nodes(&self) -> &[NodeProto] {
        &self.model.graph().node
    }

    fn readers(&self, tensor: &str) -> impl Iterator<Item = &NodeProto> {
        self.index.readers(tensor).iter().map(|&at| &self.nodes()[at])
    }

    fn linear_site(&self, node: &NodeProto, found: &Linear) -> Option<StaticSite> {
        let error = weight_error(&found.matrix, &[found.channel_axis()], WeightScheme::Int8.limit(), Range::MaxAbs);
        let behind = bias_behind(self.model, &self.index, node, found);
        let last = behind.map_or(node, |(add, ..)| &self.nodes()[add]);
        let end = self.end(last)?;
        let gives_codes = found.operator == Operator::Conv || last.output.first() != Some(&end);
        let fits = error.is_finite()
            && !self.comes_from_softmax(&found.activation)
            && !(gives_codes && (self.is_exposed(&end) || self.is_normalised(&end)));
        fits.then(|| StaticSite {
            output: node.output[0].clone(),
            part: Part::Linear(found.operator),
            inputs: vec![found.activation.clone()],
            end,
            weight: Some(found.weight.clone()),
            work: found.depth() * self.values(&node.output[0]).max(found.channels()),
            weight_error: error,
            gives_codes,
            inward: false,
        })
    }

    fn site_between(&self, node: &NodeProto) -> Option<StaticSite> {
        let part = if is_any(node, &MOVERS) {
            Part::Mover
        } else if is_any(node, &BETWEEN) {
            Part::Between
        } else {
            return None;
        };
        // A mover's other operands are shapes and axes.
        let operands = if part == Part::Mover { &node.input[..1] } else { &node.input[..] };
        let computed = |name: &String| {
            self.facts.dtype(name) == Some(DType::F32) && self.model.constant(&self.index, name).is_none()
        };
        if node.output.len() != 1 || operands.is_empty() || !operands.iter().all(computed) {
            return None;
        }
        // A mover's codes have the scale of what it reads, whatever follows.
        let end = if part == Part::Mover { node.output[0].clone() } else { self.end(node)? };
        let fits = !self.is_exposed(&end) && !self.is_normalised(&end);
        fits.then(|| StaticSite {
            output: node.output[0].clone(),
            part,
            inputs: operands.to_vec(),
            weight: None,
            work: self.values(&end),
            end,
            weight_error: 0.0,
            gives_codes: true,
            inward: false,
        })
    }

    /// Elements of a tensor, free axes counted as 1.
    fn values(&self, tensor: &str) -> usize {
        self.facts.get(tensor).map_or(1, |f| f.shape.iter().map(|d| d.unwrap_or(1)).product())
    }

    /// The tensor behind a node and the `Relu` or `Clip` that only reads it: rounding to codes does what those do.
    fn end(&self, node: &NodeProto) -> Option<String> {
        let output = node.output.first().filter(|o| !o.is_empty())?;
        let next = self.index.only_reader(output).map(|at| &self.nodes()[at]);
        let constant = |name: &String| name.is_empty() || self.model.constant(&self.index, name).is_some();
        let clips = next.filter(|n| {
            is_op(n, "Relu")
                || (is_op(n, "Clip") && n.input.first() == Some(output) && n.input[1..].iter().all(constant))
        });
        Some(clips.and_then(|n| n.output.first()).unwrap_or(output).clone())
    }

    /// Whether a tensor is an output, or becomes one without another layer.
    fn is_exposed(&self, tensor: &str) -> bool {
        let through = |n: &&NodeProto| is_any(n, &MONOTONE) || is_any(n, &MOVERS);
        self.index.is_output(tensor)
            || self.readers(tensor).filter(through).flat_map(|n| &n.output).any(|o| self.is_exposed(o))
    }

    fn is_normalised(&self, tensor: &str) -> bool {
        self.readers(tensor)
            .any(|n| is_any(n, &NORMALISERS) || (is_any(n, &MOVERS) && n.output.iter().any(|o| self.is_normalised(o))))
    }

    fn comes_from_softmax(&self, tensor: &str) -> bool {
        let Some(node) = self.index.producer(tensor).map(|at| &self.nodes()[at]) else { return false };
        is_any(node, &["Softmax", "LogSoftmax"])
            || (is_any(node, &MOVERS) && node.input.first().is_some_and(|i| self.comes_from_softmax(i)))
    }

    fn is_read_only_by(&self, tensor: &str, outputs: &HashSet<&str>) -> bool {
        !self.index.is_output(tensor)
            && self.readers(tensor).all(|n| n.output.first().is_some_and(|o| outputs.contains(o.as_str())))
    }
}

/// The `Add` of a constant row behind a `MatMul`: its position, which operand the row is, and the row. ONNX Runtime joins the two to a `Gemm`, which computes on
/// codes only when the row is in codes too.
pub(in crate::optimizer::int8) fn bias_behind(
    model: &Model,
    index: &Index,
    node: &NodeProto,
    found: &Linear,
) -> Option<(usize, usize, Tensor)> {
    let at = index.only_reader(node.output.first()?).filter(|_| found.operator == Operator::MatMul)?;
    let add = &model.graph().node[at];
    if !is_op(add, "Add") || add.input.len() != 2 {
        return None;
    }
    let operand = usize::from(add.input.first() == node.output.first());
    let row = model.constant(index, &add.input[operand])?;
    let is_row = row.dtype() == DType::F32 && row.shape() == [found.channels()];
    is_row.then_some((at, operand, row))
}

/// Energy of the weights that meet each channel of the activation.
fn energies(found: &Linear, group: i64) -> Channels {
    let values = found.matrix.to_f32();
    let shape = found.matrix.shape();
    if found.operator != Operator::Conv {
        let rows = values.chunks(shape[1].max(1));
        return Channels { last: true, weights: rows.map(|r| r.iter().map(|v| v * v).sum()).collect() };
    }
    let (groups, per_group) = (usize::try_from(group).unwrap_or(1).max(1), shape[1]);
    let inner = shape[2..].iter().product::<usize>().max(1);
    let mut weights = vec![0.0_f32; groups * per_group];
    let outputs_per_group = (shape[0] / groups).max(1);
    for (at, kernel) in values.chunks(inner).enumerate() {
        let (output, input) = (at / per_group, at % per_group);
        let channel = (output / outputs_per_group).min(groups - 1) * per_group + input;
        weights[channel] += kernel.iter().map(|v| v * v).sum::<f32>();
    }
    Channels { last: false, weights }
}

/// Every tensor that may be quantised, each once, with how much an error in each channel weighs in the products that read it. Where anything else reads it,
/// all channels count alike.
fn watches(sites: &[StaticSite], weights: &HashMap<String, Channels>) -> Vec<Watch> {
    let mut names: Vec<&String> = Vec::new();
    for name in sites.iter().flat_map(|s| s.inputs.iter().chain(std::iter::once(&s.end))) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let of = |name: &String| {
        let mut sum: Option<Channels> = None;
        for site in sites.iter().filter(|s| s.inputs.contains(name)) {
            // Readers that look at other axes cannot be summed up; then all values count alike.
            let channels = weights.get(&site.output)?;
            sum = Some(match sum {
                None => channels.clone(),
                Some(sum) if sum.last == channels.last && sum.weights.len() == channels.weights.len() => {
                    let weights = sum.weights.iter().zip(&channels.weights).map(|(a, b)| a + b).collect();
                    Channels { weights, ..sum }
                }
                Some(_) => return None,
            });
        }
        sum
    };
    names.into_iter().map(|name| Watch { tensor: name.clone(), channels: of(name) }).collect()
}
