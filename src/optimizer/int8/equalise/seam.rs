//! Where an activation can be scaled channel by channel at no cost: something with constants of one value per channel makes it, what lies between passes a positive factor
//! through, and nobody reads it but products with constant weights.
//!
//! ```text
//!  Conv ─┬─ Slice ─ Pow 2 ─┐                          a spectrum: real and imaginary part of a channel have one factor, and so has their
//!        └─ Slice ─ Pow 2 ─┴─ Add ─ Sqrt ─ x ─ Conv    magnitude, for  sqrt((s a)^2 + (s b)^2) = s sqrt(a^2 + b^2)
//! ```

use super::super::glob::Exclude;
use super::super::linear::{Bias, Linear, Operator, linear, transpose};
use super::super::row::{Editor, Row};
use super::factors::Reader;
use crate::model::edit::{Index, int_attribute, is_op, replace_reads};
use crate::model::onnx::NodeProto;
use crate::model::{DType, Facts, Model, Tensor};

/// An activation between what makes it and the products that read it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seam {
    /// Its name.
    pub activation: String,
    /// Number of channels.
    pub channels: usize,
    /// Whether they lie on the last axis (of a product's operand) or on the second (of a convolution's).
    pub last: bool,
    source: Source,
    /// Tensors that are scaled, from the source to the activation.
    path: Vec<String>,
    /// Positions of the products.
    readers: Vec<usize>,
}

/// What makes an activation.
#[derive(Debug, Clone, PartialEq)]
enum Source {
    /// Products. Two of them where it is the magnitude of their results.
    Products(Vec<Product>),
    /// Constants of one value per channel: what normalised values are multiplied by, and what is added to them. Node and operand of each.
    Affine(Vec<(usize, usize)>),
}

/// A product whose output channels are those of an activation.
#[derive(Debug, Clone, PartialEq)]
struct Product {
    /// Its position.
    node: usize,
    /// The row behind it.
    row: Option<Row>,
    /// How often its output has the channels, one run of them behind the other.
    runs: usize,
}

/// Operators of one operand that pass a positive factor through: `f(s x) = s f(x)`.
const HOMOGENEOUS: [&str; 2] = ["Relu", "LeakyRelu"];

/// The same, on the second axis alone.
const POOLS: [&str; 4] = ["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"];

/// What drops axes of extent 1 behind the channels.
const FLATTENERS: [&str; 3] = ["Flatten", "Reshape", "Squeeze"];

/// Every activation that can be scaled, in the order of who reads it first.
pub(super) fn all(model: &Model, index: &Index, facts: &Facts, exclude: &Exclude) -> Vec<Seam> {
    let mut names: Vec<&String> = Vec::new();
    for node in &model.graph().node {
        if let Some(name) =
            node.input.first().filter(|name| linear(model, index, facts, node).is_ok() && !names.contains(name))
        {
            names.push(name);
        }
    }
    let seams = names.into_iter().filter_map(|name| Seam::of(model, index, facts, name).ok());
    seams.filter(|seam| !seam.nodes().any(|at| exclude.matches_node(&model.graph().node[at]))).collect()
}

impl Seam {
    /// Reads a graph around `activation`, or says in words why it cannot be scaled.
    pub(super) fn of(model: &Model, index: &Index, facts: &Facts, activation: &str) -> Result<Self, String> {
        let nodes = &model.graph().node;
        let readers = index.readers(activation).to_vec();
        if readers.is_empty() || index.is_output(activation) {
            return Err("it leaves the graph".to_owned());
        }
        let mut sides = Vec::with_capacity(readers.len());
        for &at in &readers {
            let node = &nodes[at];
            let found = linear(model, index, facts, node)
                .ok()
                .filter(|found| {
                    found.activation == activation && node.input.iter().filter(|i| *i == activation).count() == 1
                })
                .ok_or("something other than a product with a constant weight reads it")?;
            sides.push((inputs(&found, node), found.operator != Operator::Conv));
        }
        let (channels, last) = sides[0];
        if sides.iter().any(|side| *side != sides[0]) {
            return Err("its readers see other channels".to_owned());
        }
        let mut walk = Walk { model, index, facts, channels, path: Vec::new() };
        let source = walk.source(activation, last).ok_or("nothing that makes it has a factor per channel")?;
        Ok(Self { activation: activation.to_owned(), channels, last, source, path: walk.path, readers })
    }

    /// Positions of the nodes whose constants change.
    fn nodes(&self) -> impl Iterator<Item = usize> {
        let source: Vec<usize> = match &self.source {
            Source::Products(products) => products.iter().map(|product| product.node).collect(),
            Source::Affine(places) => places.iter().map(|place| place.0).collect(),
        };
        source.into_iter().chain(self.readers.iter().copied())
    }

    /// The weights that meet its channels.
    pub(super) fn readers(&self, model: &Model, index: &Index, facts: &Facts) -> Vec<Reader> {
        let node = |at: &usize| &model.graph().node[*at];
        let found = |at: &usize| Some(Reader::of(&linear(model, index, facts, node(at)).ok()?, group(node(at))));
        self.readers.iter().filter_map(found).collect()
    }

    /// Divides each channel by two to the power of its exponent, within the constants around it. What is scaled has another name then: who compares models tensor by
    /// tensor must not take it for what it was. Changes nothing where it returns an error.
    pub(super) fn fold(
        &self,
        model: &mut Model,
        index: &Index,
        facts: &mut Facts,
        exponents: &[i8],
    ) -> Result<(), String> {
        if exponents.len() != self.channels {
            return Err(format!("it has {} channels, not {}", self.channels, exponents.len()));
        }
        let times: Vec<f32> = exponents.iter().map(|&e| 2.0_f32.powi(i32::from(e))).collect();
        let divided: Vec<f32> = exponents.iter().map(|&e| 2.0_f32.powi(-i32::from(e))).collect();
        let mut written: Vec<(usize, usize, Tensor)> = Vec::new();
        let mut rows: Vec<Row> = Vec::new();
        match &self.source {
            Source::Products(products) => {
                for product in products {
                    let divided = divided.repeat(product.runs);
                    written.push((product.node, 1, scaled(model, index, facts, product.node, &divided, true)?));
                    if let Some(row) = product.row.as_ref().filter(|row| row.values.iter().any(|v| *v != 0.0)) {
                        let values: Vec<f32> = row.values.iter().zip(&divided).map(|(v, d)| v * d).collect();
                        finite(Tensor::new(&[values.len()], &values))?;
                        rows.push(Row { values, ..row.clone() });
                    }
                }
            }
            Source::Affine(places) => {
                for &(at, operand) in places {
                    let old =
                        model.constant(index, &model.graph().node[at].input[operand]).ok_or("it lost a constant")?;
                    let values: Vec<f32> = old.to_f32().iter().zip(&divided).map(|(v, d)| v * d).collect();
                    written.push((at, operand, finite(Tensor::new(old.shape(), &values))?));
                }
            }
        }
        for &at in &self.readers {
            written.push((at, 1, scaled(model, index, facts, at, &times, false)?));
        }
        let mut editor = Editor::new(model);
        rows.iter().for_each(|row| row.put(&mut editor, model, index));
        for (at, operand, tensor) in written {
            editor.put(model, index, (at, operand), "equalised", &tensor);
        }
        editor.finish(model);
        self.rename(model, facts);
        Ok(())
    }

    fn rename(&self, model: &mut Model, facts: &mut Facts) {
        let mut taken = model.tensor_names();
        for name in &self.path {
            let scaled = Model::fresh_name(&mut taken, &format!("{name}/equalised"));
            if let Some(fact) = facts.get(name).cloned() {
                facts.insert(scaled.clone(), fact);
            }
            let graph = model.graph_mut();
            graph.value_info.retain(|info| info.name() != name);
            graph
                .node
                .iter_mut()
                .flat_map(|node| &mut node.output)
                .filter(|o| *o == name)
                .for_each(|o| o.clone_from(&scaled));
            replace_reads(graph, name, &scaled);
        }
    }
}

/// One of the two that are squared and added.
struct Part {
    /// What the product gives.
    from: String,
    /// The first of its channels that it has.
    first: usize,
    /// Who reads that.
    reader: usize,
}

/// The walk from an activation back to what makes it.
struct Walk<'m> {
    model: &'m Model,
    index: &'m Index,
    facts: &'m Facts,
    channels: usize,
    /// What was walked along.
    path: Vec<String>,
}

impl Walk<'_> {
    /// What makes `name`, whose channels lie on the last axis or the second.
    fn source(&mut self, name: &str, last: bool) -> Option<Source> {
        self.path.push(name.to_owned());
        let at = self.index.producer(name)?;
        let node = &self.model.graph().node[at];
        if node.output.iter().filter(|o| !o.is_empty()).count() != 1 {
            return None;
        }
        let any = |ops: &[&str]| ops.iter().any(|op| is_op(node, op));
        let input = node.input.first()?;
        if any(&HOMOGENEOUS) || (!last && any(&POOLS)) {
            return self.source(self.passed(input, at)?, last);
        }
        if last && any(&FLATTENERS) {
            return self.keeps_channels(input, name).then(|| self.source(self.passed(input, at)?, false))?;
        }
        if !last && is_op(node, "Sqrt") {
            return self.magnitude(self.passed(input, at)?);
        }
        let source = self.product(at, node, last, 1).map(|product| Source::Products(vec![product]));
        let source = source.or_else(|| self.affine(at, node, last))?;
        // What is summed with a row is scaled as well.
        let first = match &source {
            Source::Products(products) => products[0].node,
            Source::Affine(places) => places[0].0,
        };
        if first != at {
            self.path.extend(self.model.graph().node[first].output.first().cloned());
        }
        Some(source)
    }

    /// The products whose squares `sum` adds: two, or the two halves of the channels of one.
    fn magnitude(&mut self, sum: &str) -> Option<Source> {
        self.path.push(sum.to_owned());
        let at = self.index.producer(sum)?;
        let node = &self.model.graph().node[at];
        let [a, b] = node.input.as_slice() else { return None };
        if !is_op(node, "Add") {
            return None;
        }
        let (a, b) = (self.squared(self.passed(a, at)?)?, self.squared(self.passed(b, at)?)?);
        let made = |part: &Part, runs: usize| {
            let at = self.index.producer(&part.from)?;
            self.product(at, &self.model.graph().node[at], false, runs)
        };
        let products = if a.from == b.from {
            let firsts = [a.first.min(b.first), a.first.max(b.first)];
            let alone = self.index.readers(&a.from).iter().all(|reader| [a.reader, b.reader].contains(reader));
            if firsts != [0, self.channels] || !alone || self.index.is_output(&a.from) {
                return None;
            }
            vec![made(&a, 2)?]
        } else {
            let whole = |part: &Part| part.first == 0 && self.passed(&part.from, part.reader).is_some();
            if !whole(&a) || !whole(&b) {
                return None;
            }
            vec![made(&a, 1)?, made(&b, 1)?]
        };
        self.path.push(a.from.clone());
        if a.from != b.from {
            self.path.push(b.from);
        }
        Some(Source::Products(products))
    }

    /// What `name` is the square of, seen through slices.
    fn squared(&mut self, name: &str) -> Option<Part> {
        let at = self.index.producer(name)?;
        let node = &self.model.graph().node[at];
        let (base, operand) = (node.input.first()?, node.input.get(1)?);
        let twice = || {
            self.model
                .constant(self.index, operand)
                .is_some_and(|e| !e.is_empty() && e.to_f32().iter().all(|v| *v == 2.0))
        };
        let square = (is_op(node, "Pow") && twice()) || (is_op(node, "Mul") && base == operand);
        if !square {
            return None;
        }
        self.path.push(name.to_owned());
        let mut part = Part { from: base.clone(), first: 0, reader: at };
        loop {
            let at = self.index.producer(&part.from)?;
            let node = &self.model.graph().node[at];
            if !is_op(node, "Slice") {
                return Some(part);
            }
            // A slice is read by nobody else; what is sliced may be.
            self.passed(&part.from, part.reader)?;
            part.first += self.first_channel(node)?;
            self.path.push(std::mem::replace(&mut part.from, node.input.first()?.clone()));
            part.reader = at;
        }
    }

    /// The first channel of a slice that leaves all channels, or as many as there are here.
    fn first_channel(&self, node: &NodeProto) -> Option<usize> {
        let input = &self.facts.get(node.input.first()?)?.shape;
        let all = input.get(1).copied().flatten()?;
        let numbers = |operand: usize| -> Option<Vec<i64>> {
            let name = node.input.get(operand).filter(|name| !name.is_empty())?;
            Some(self.model.constant(self.index, name)?.to_i64()?.into_owned())
        };
        let (starts, ends) = (numbers(1)?, numbers(2)?);
        let axes = numbers(3).unwrap_or_else(|| (0..starts.len() as i64).collect());
        let rank = input.len() as i64;
        let Some(at) = axes.iter().position(|&axis| axis == 1 || axis + rank == 1) else { return Some(0) };
        let from_start = |place: i64| if place < 0 { place + all as i64 } else { place }.clamp(0, all as i64) as usize;
        let (first, end) = (from_start(*starts.get(at)?), from_start(*ends.get(at)?));
        let step = numbers(4).map_or(Some(1), |steps| steps.get(at).copied())?;
        (step == 1 && (end.checked_sub(first)? == self.channels)).then_some(first)
    }

    /// A tensor that only the node at `reader` reads.
    fn passed<'n>(&self, name: &'n str, reader: usize) -> Option<&'n str> {
        (self.index.only_reader(name) == Some(reader)).then_some(name)
    }

    /// Whether a tensor `[n, channels, 1, ...]` becomes `[n, channels]`.
    fn keeps_channels(&self, from: &str, to: &str) -> bool {
        let (Some(from), Some(to)) = (self.facts.get(from), self.facts.get(to)) else { return false };
        let ends = from.shape.get(2..).is_some_and(|rest| rest.iter().all(|d| *d == Some(1)));
        ends && to.shape.len() == 2 && [&from.shape[1], &to.shape[1]].iter().all(|d| **d == Some(self.channels))
    }

    /// A product with `runs` times the channels, with the `Add` of a row behind it or without.
    fn product(&self, at: usize, node: &NodeProto, last: bool, runs: usize) -> Option<Product> {
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

fn group(node: &NodeProto) -> usize {
    usize::try_from(int_attribute(node, "group", 1)).unwrap_or(1).max(1)
}

/// Channels that a product reads.
fn inputs(found: &Linear, node: &NodeProto) -> usize {
    match found.operator {
        Operator::Conv => found.matrix.shape()[1] * group(node),
        _ => found.matrix.shape()[0],
    }
}

/// The weight of a node as the node holds it, with each output channel (or input channel) times its factor.
fn scaled(
    model: &Model,
    index: &Index,
    facts: &Facts,
    at: usize,
    factors: &[f32],
    of_outputs: bool,
) -> Result<Tensor, String> {
    let node = &model.graph().node[at];
    let found = linear(model, index, facts, node)?;
    let shape = found.matrix.shape();
    let values = found.matrix.to_f32();
    let scaled: Vec<f32> = if found.operator == Operator::Conv {
        let (columns, inner) = (shape[1], shape[2..].iter().product::<usize>().max(1));
        let rows = (shape[0] / group(node)).max(1);
        let channel = |row: usize, column: usize| if of_outputs { row } else { row / rows * columns + column };
        let factor = |at: usize| factors[channel(at / (columns * inner), at / inner % columns)];
        values.iter().enumerate().map(|(at, v)| v * factor(at)).collect()
    } else {
        let n = shape[1].max(1);
        values.iter().enumerate().map(|(at, v)| v * factors[if of_outputs { at % n } else { at / n }]).collect()
    };
    let matrix = finite(Tensor::new(shape, &scaled))?;
    Ok(if found.transposed { transpose(&matrix) } else { matrix })
}

fn finite(tensor: Tensor) -> Result<Tensor, String> {
    let all = tensor.to_f32().iter().all(|v| v.is_finite());
    if all { Ok(tensor) } else { Err("a weight would leave the range of float32".to_owned()) }
}
