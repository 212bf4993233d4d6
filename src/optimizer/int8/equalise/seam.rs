//! Where activations can be scaled channel by channel at no cost: constants of one value per channel make all of them, what lies between passes a positive factor through,
//! and nobody reads them but products with constant weights. A sum has the factors of both its operands, so the activations of a chain of residual blocks have one and the
//! same.
//!
//! ```text
//!  Conv ─ Relu ─┬─ Conv ─ Relu ─ Conv ─ Add ─ Relu ─┬─ Conv ...      all that is added to one stream, and all that reads it
//!               └────────────────────────┘          └─ Add ...
//! ```

use std::collections::{BTreeMap, HashSet};

use super::super::glob::Exclude;
use super::super::linear::{Operator, linear, transpose};
use super::super::row::{Editor, Row};
use super::factors::Reader;
use super::walk::{Held, Reading, Source, Walk, Walked, group, inputs};
use crate::model::edit::{Index, replace_reads};
use crate::model::{Facts, Model, Tensor};

/// Activations that have one factor per channel, between what makes them and the products that read them.
#[derive(Debug, Clone, PartialEq)]
pub struct Seam {
    /// The name of one that a product reads, by which all of them are known.
    pub activation: String,
    /// Number of channels.
    pub channels: usize,
    sources: Vec<Source>,
    /// Tensors that are scaled.
    path: Vec<String>,
    readings: Vec<Reading>,
    /// Tensors that are rounded.
    pub(super) held: Vec<Held>,
}

/// All that can be scaled, in the order of who reads it first.
pub(super) fn all(model: &Model, index: &Index, facts: &Facts, exclude: &Exclude) -> Vec<Seam> {
    let mut seams: Vec<Seam> = Vec::new();
    let mut looked_at: HashSet<&str> = HashSet::new();
    for node in &model.graph().node {
        let Some(name) = node.input.first() else { continue };
        let known = seams.iter().any(|seam| seam.path.contains(name));
        if !known && linear(model, index, facts, node).is_ok() && looked_at.insert(name) {
            seams.extend(Seam::of(model, index, facts, name).ok());
        }
    }
    seams.retain(|seam| !seam.nodes().any(|at| exclude.matches_node(&model.graph().node[at])));
    seams
}

impl Seam {
    /// Reads a graph around `activation`, or says in words why it cannot be scaled.
    pub(super) fn of(model: &Model, index: &Index, facts: &Facts, activation: &str) -> Result<Self, String> {
        let products = index.readers(activation).iter().filter_map(|&at| {
            let node = &model.graph().node[at];
            let found = linear(model, index, facts, node).ok().filter(|found| found.activation == activation)?;
            Some((inputs(&found, node), found.operator != Operator::Conv))
        });
        let (channels, last) = products.into_iter().next().ok_or("no product with a constant weight reads it")?;
        let Walked { sources, path, readings, held } =
            Walk::new(model, index, facts, channels).from(activation, last)?;
        Ok(Self { activation: activation.to_owned(), channels, sources, path, readings, held })
    }

    /// Positions of the nodes whose constants change.
    fn nodes(&self) -> impl Iterator<Item = usize> {
        let of_source = |source: &Source| match source {
            Source::Product(product) => vec![product.node],
            Source::Affine(places) => places.iter().map(|place| place.0).collect(),
        };
        self.sources.iter().flat_map(of_source).chain(self.readings.iter().map(|reading| reading.node))
    }

    /// The weights that meet its channels.
    pub(super) fn readers(&self, model: &Model, index: &Index, facts: &Facts) -> Vec<Reader> {
        let readers = self.readings.iter().filter_map(|reading| {
            let node = &model.graph().node[reading.node];
            Some(Reader::of(&linear(model, index, facts, node).ok()?, group(node), reading.held))
        });
        readers.collect()
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
        // A product may both make and read it.
        let mut weights: BTreeMap<usize, Option<Vec<f32>>> = self.readings.iter().map(|r| (r.node, None)).collect();
        let mut written: Vec<(usize, usize, Tensor)> = Vec::new();
        let mut rows: Vec<Row> = Vec::new();
        for source in &self.sources {
            match source {
                Source::Product(product) => {
                    let divided = divided.repeat(product.runs);
                    if let Some(row) = product.row.as_ref().filter(|row| row.values.iter().any(|v| *v != 0.0)) {
                        let values: Vec<f32> = row.values.iter().zip(&divided).map(|(v, d)| v * d).collect();
                        finite(Tensor::new(&[values.len()], &values))?;
                        rows.push(Row { values, ..row.clone() });
                    }
                    weights.insert(product.node, Some(divided));
                }
                Source::Affine(places) => {
                    for &(at, operand) in places {
                        let old = model
                            .constant(index, &model.graph().node[at].input[operand])
                            .ok_or("it lost a constant")?;
                        let values: Vec<f32> = old.to_f32().iter().zip(&divided).map(|(v, d)| v * d).collect();
                        written.push((at, operand, finite(Tensor::new(old.shape(), &values))?));
                    }
                }
            }
        }
        for (at, of_outputs) in weights {
            let reads = self.readings.iter().any(|reading| reading.node == at);
            let weight = scaled(model, index, facts, at, reads.then_some(&times), of_outputs.as_deref())?;
            written.push((at, 1, weight));
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

/// The weight of a node as the node holds it, with each of its input channels and each of its output channels times its factor.
fn scaled(
    model: &Model,
    index: &Index,
    facts: &Facts,
    at: usize,
    of_inputs: Option<&[f32]>,
    of_outputs: Option<&[f32]>,
) -> Result<Tensor, String> {
    let node = &model.graph().node[at];
    let found = linear(model, index, facts, node)?;
    let shape = found.matrix.shape();
    let values = found.matrix.to_f32();
    let of = |factors: Option<&[f32]>, channel: usize| factors.map_or(1.0, |factors| factors[channel]);
    let scaled: Vec<f32> = if found.operator == Operator::Conv {
        let (columns, inner) = (shape[1], shape[2..].iter().product::<usize>().max(1));
        let rows = (shape[0] / group(node)).max(1);
        let factor = |at: usize| {
            let (row, column) = (at / (columns * inner), at / inner % columns);
            of(of_inputs, row / rows * columns + column) * of(of_outputs, row)
        };
        values.iter().enumerate().map(|(at, v)| v * factor(at)).collect()
    } else {
        let n = shape[1].max(1);
        let factor = |at: usize| of(of_inputs, at / n) * of(of_outputs, at % n);
        values.iter().enumerate().map(|(at, v)| v * factor(at)).collect()
    };
    let matrix = finite(Tensor::new(shape, &scaled))?;
    Ok(if found.transposed { transpose(&matrix) } else { matrix })
}

fn finite(tensor: Tensor) -> Result<Tensor, String> {
    let all = tensor.to_f32().iter().all(|v| v.is_finite());
    if all { Ok(tensor) } else { Err("a weight would leave the range of float32".to_owned()) }
}
