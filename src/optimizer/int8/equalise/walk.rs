//! The walk over everything that has the channels of an activation: from tensor to tensor, backwards to what makes them and forwards to whoever reads them.

use std::collections::BTreeSet;

use super::super::linear::{Bias, Linear, Operator, linear};
use super::super::row::Row;
use crate::model::edit::{Index, int_attribute, is_op};
use crate::model::onnx::NodeProto;
use crate::model::{DType, Facts, Model};

/// What makes tensors.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Source {
    /// A product.
    Product(Product),
    /// Constants of one value per channel: what normalised values are multiplied by, and what is added to them. Node and operand of each.
    Affine(Vec<(usize, usize)>),
}

/// A product whose output channels are those of an activation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Product {
    /// Its position.
    pub(super) node: usize,
    /// The row behind it.
    pub(super) row: Option<Row>,
    /// How often its output has the channels, one run of them behind the other.
    pub(super) runs: usize,
}

/// A tensor that is rounded where its readers run on codes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Held {
    /// Its name.
    pub(super) tensor: String,
    /// Whether its channels lie on the last axis (of a product's operand) or on the second (of a convolution's).
    pub(super) last: bool,
    /// The products that its rounding reaches, by their number: those that read it, and where it is summed those that read the sum.
    pub(super) reaches: Vec<usize>,
}

/// A product that reads a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reading {
    /// Its position.
    pub(super) node: usize,
    /// The number of the tensor among those that are held.
    pub(super) held: usize,
}

/// All that was walked over.
pub(super) struct Walked {
    pub(super) sources: Vec<Source>,
    /// Every tensor that is scaled, an activation first.
    pub(super) path: Vec<String>,
    pub(super) readings: Vec<Reading>,
    pub(super) held: Vec<Held>,
}

/// Operators of one operand that pass a positive factor through: `f(s x) = s f(x)`.
const HOMOGENEOUS: [&str; 2] = ["Relu", "LeakyRelu"];

/// The same, on the second axis alone.
const POOLS: [&str; 4] = ["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"];

/// What drops axes of extent 1 behind the channels.
const FLATTENERS: [&str; 3] = ["Flatten", "Reshape", "Squeeze"];

/// A tensor with the channels.
#[derive(Debug, Clone, PartialEq)]
struct Met {
    name: String,
    /// Whether they lie on the last axis.
    last: bool,
    /// Whether it is summed with another.
    summed: bool,
    /// The tensors that its values go on into.
    into: Vec<usize>,
}

/// See the module.
pub(super) struct Walk<'m> {
    pub(super) model: &'m Model,
    pub(super) index: &'m Index,
    pub(super) facts: &'m Facts,
    pub(super) channels: usize,
    met: Vec<Met>,
    /// What lies within a source.
    pub(super) inner: Vec<String>,
    sources: Vec<Source>,
    /// Position of a product, and the number of the tensor that it reads.
    products: Vec<(usize, usize)>,
}

impl<'m> Walk<'m> {
    pub(super) fn new(model: &'m Model, index: &'m Index, facts: &'m Facts, channels: usize) -> Self {
        let (met, inner, sources, products) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { model, index, facts, channels, met, inner, sources, products }
    }

    /// Everything that is scaled where `activation` is, or says in words why it cannot be.
    pub(super) fn from(mut self, activation: &str, last: bool) -> Result<Walked, String> {
        self.meet(activation, last);
        let mut at = 0;
        while at < self.met.len() {
            let Met { name, last, .. } = self.met[at].clone();
            self.ahead(at, &name, last)?;
            self.behind(&name, last).ok_or("nothing that makes it has a factor per channel")?;
            at += 1;
        }
        Ok(self.walked())
    }

    /// The number of a tensor with the channels on the last axis or the second; `None` where it was met with others.
    fn meet(&mut self, name: &str, last: bool) -> Option<usize> {
        if let Some(at) = self.met.iter().position(|met| met.name == name) {
            return (self.met[at].last == last).then_some(at);
        }
        self.met.push(Met { name: name.to_owned(), last, summed: false, into: Vec::new() });
        Some(self.met.len() - 1)
    }

    /// Looks at whoever reads a tensor.
    fn ahead(&mut self, from: usize, name: &str, last: bool) -> Result<(), String> {
        if self.index.is_output(name) {
            return Err("it leaves the graph".to_owned());
        }
        for &at in self.index.readers(name) {
            let node = &self.model.graph().node[at];
            let once = node.input.iter().filter(|i| *i == name).count() == 1;
            let product = linear(self.model, self.index, self.facts, node).ok();
            if let Some(found) = product.filter(|found| once && found.activation == name) {
                if inputs(&found, node) != self.channels || (found.operator != Operator::Conv) != last {
                    return Err("its readers see other channels".to_owned());
                }
                self.products.push((at, from));
                continue;
            }
            let goes_on = self.goes_on(node, name, last);
            let into = goes_on.and_then(|last| self.meet(node.output.first()?, last));
            let into = into.ok_or("something other than a product with a constant weight reads it")?;
            self.met[from].summed |= is_op(node, "Add");
            self.met[from].into.push(into);
        }
        Ok(())
    }

    /// Whether the output of a node that reads `name` has its channels on the last axis; `None` where it does not have them.
    fn goes_on(&self, node: &NodeProto, name: &str, last: bool) -> Option<bool> {
        let any = |ops: &[&str]| ops.iter().any(|op| is_op(node, op));
        let output = node.output.first()?;
        if any(&HOMOGENEOUS) || (!last && any(&POOLS)) || self.sums(node, last) {
            return Some(last);
        }
        (!last && any(&FLATTENERS) && self.keeps_channels(name, output)).then_some(true)
    }

    /// Whether a node adds two tensors that both have the channels.
    fn sums(&self, node: &NodeProto, last: bool) -> bool {
        let shape = |name: &String| self.facts.get(name).map(|fact| &fact.shape);
        let channels = |name: &String| {
            let shape = shape(name)?;
            shape.get(if last { shape.len().checked_sub(1)? } else { 1 }).copied().flatten()
        };
        is_op(node, "Add")
            && node.input.iter().all(|name| channels(name) == Some(self.channels))
            && shape(&node.input[0]).map(Vec::len) == shape(&node.input[1]).map(Vec::len)
    }

    /// Looks at what makes `name`.
    fn behind(&mut self, name: &str, last: bool) -> Option<()> {
        let at = self.index.producer(name)?;
        let node = &self.model.graph().node[at];
        if node.output.iter().filter(|o| !o.is_empty()).count() != 1 {
            return None;
        }
        let any = |ops: &[&str]| ops.iter().any(|op| is_op(node, op));
        let input = node.input.first()?;
        if any(&HOMOGENEOUS) || (!last && any(&POOLS)) {
            return self.meet(input, last).map(drop);
        }
        if last && any(&FLATTENERS) && self.keeps_channels(input, name) {
            return self.meet(input, false).map(drop);
        }
        if !last && is_op(node, "Sqrt") {
            let products = self.magnitude(self.passed(input, at)?)?;
            self.sources.extend(products.into_iter().map(Source::Product));
            return Some(());
        }
        let source = self.product(at, node, last, 1).map(Source::Product).or_else(|| self.affine(at, node, last));
        if let Some(source) = source {
            // What is summed with a row is scaled as well.
            let first = match &source {
                Source::Product(product) => product.node,
                Source::Affine(places) => places[0].0,
            };
            if first != at {
                self.inner.extend(self.model.graph().node[first].output.first().cloned());
            }
            self.sources.push(source);
            return Some(());
        }
        if !self.sums(node, last) {
            return None;
        }
        node.input.iter().try_for_each(|input| self.meet(input, last).map(drop))
    }

    fn walked(self) -> Walked {
        let reached = |from: usize| {
            let (mut seen, mut open) = (BTreeSet::from([from]), vec![from]);
            while let Some(at) = open.pop() {
                open.extend(self.met[at].into.iter().filter(|into| seen.insert(**into)));
            }
            (0..self.products.len()).filter(|&product| seen.contains(&self.products[product].1)).collect()
        };
        let is_held = |at: &usize| self.met[*at].summed || self.products.iter().any(|product| product.1 == *at);
        let kept: Vec<usize> = (0..self.met.len()).filter(is_held).collect();
        let held = kept.iter().map(|&at| {
            let Met { name, last, .. } = &self.met[at];
            Held { tensor: name.clone(), last: *last, reaches: reached(at) }
        });
        let held = held.collect();
        let reading =
            |&(node, of): &(usize, usize)| Some(Reading { node, held: kept.iter().position(|at| *at == of)? });
        let readings = self.products.iter().filter_map(reading).collect();
        let path = self.met.into_iter().map(|met| met.name).chain(self.inner).collect();
        Walked { sources: self.sources, path, readings, held }
    }

    /// A tensor that only the node at `reader` reads.
    pub(super) fn passed<'n>(&self, name: &'n str, reader: usize) -> Option<&'n str> {
        (self.index.only_reader(name) == Some(reader)).then_some(name)
    }

    /// Whether a tensor `[n, channels, 1, ...]` becomes `[n, channels]`.
    fn keeps_channels(&self, from: &str, to: &str) -> bool {
        let (Some(from), Some(to)) = (self.facts.get(from), self.facts.get(to)) else { return false };
        let ends = from.shape.get(2..).is_some_and(|rest| rest.iter().all(|d| *d == Some(1)));
        ends && to.shape.len() == 2 && [&from.shape[1], &to.shape[1]].iter().all(|d| **d == Some(self.channels))
    }

    /// A product with `runs` times the channels, with the `Add` of a row behind it or without.
    pub(super) fn product(&self, at: usize, node: &NodeProto, last: bool, runs: usize) -> Option<Product> {
        let nodes = &self.model.graph().node;
        let before = |name: &String| {
            self.index.producer(self.passed(name, at)?).filter(|&before| is_op(&nodes[before], "MatMul"))
        };
        let product = if is_op(node, "Add") { node.input.iter().find_map(before)? } else { at };
        let found = linear(self.model, self.index, self.facts, &nodes[product]).ok()?;
        if found.channels() != self.channels * runs || (found.operator != Operator::Conv) != last {
            return None;
        }
        let row = Row::of(self.model, self.index, product, &found);
        let fits = match (&row, &found.bias) {
            // What is on the way is the sum.
            (Some(row), _) => row.node == at,
            (None, Bias::None) => product == at && found.operator == Operator::MatMul,
            (None, _) => false,
        };
        fits.then_some(Product { node: product, row, runs })
    }

    /// The scale and bias of a normalisation, or a product with and sum of rows, which is what some exporters make of them.
    fn affine(&self, at: usize, node: &NodeProto, last: bool) -> Option<Source> {
        if (last && is_op(node, "LayerNormalization") && self.is_over_last_axis(node))
            || (!last && is_op(node, "BatchNormalization") && int_attribute(node, "training_mode", 0) == 0)
        {
            let operands = (1..3).filter(|&operand| node.input.get(operand).is_some_and(|name| !name.is_empty()));
            let places: Vec<(usize, usize)> = operands.map(|operand| (at, operand)).collect();
            let known =
                places.first().is_some_and(|p| p.1 == 1) && places.iter().all(|p| self.is_row(&node.input[p.1]));
            return known.then_some(Source::Affine(places));
        }
        if !last {
            return None;
        }
        let (row, other) = self.operands(node)?;
        if is_op(node, "Mul") {
            return Some(Source::Affine(vec![(at, row)]));
        }
        let before = self.index.producer(self.passed(&node.input[other], at)?)?;
        let factor = &self.model.graph().node[before];
        let (factors, _) = self.operands(factor).filter(|_| is_op(node, "Add") && is_op(factor, "Mul"))?;
        Some(Source::Affine(vec![(before, factors), (at, row)]))
    }

    /// Which operand of a node of two is a row of one value per channel, and the other.
    fn operands(&self, node: &NodeProto) -> Option<(usize, usize)> {
        let row = (0..2).find(|&operand| node.input.get(operand).is_some_and(|name| self.is_row(name)))?;
        // What is broadcast over the row itself has no channels of its own.
        let other = 1 - row;
        let shape = &self.facts.get(node.input.get(other)?)?.shape;
        (shape.last() == Some(&Some(self.channels))).then_some((row, other))
    }

    fn is_row(&self, name: &str) -> bool {
        self.model
            .constant(self.index, name)
            .is_some_and(|tensor| tensor.dtype() == DType::F32 && tensor.shape() == [self.channels])
    }

    fn is_over_last_axis(&self, node: &NodeProto) -> bool {
        let axis = int_attribute(node, "axis", -1);
        axis == -1 || node.input.first().and_then(|x| self.facts.rank(x)).is_some_and(|rank| axis == rank as i64 - 1)
    }
}

pub(super) fn group(node: &NodeProto) -> usize {
    usize::try_from(int_attribute(node, "group", 1)).unwrap_or(1).max(1)
}

/// Channels that a product reads.
pub(super) fn inputs(found: &Linear, node: &NodeProto) -> usize {
    match found.operator {
        Operator::Conv => found.matrix.shape()[1] * group(node),
        _ => found.matrix.shape()[0],
    }
}
