//! Feeds of other batch sizes, made of real samples, and their outputs cut back into rows.
//!
//! The batch axis of a model is the symbol (or the unsaid extent) that its first such input has in front; another input or output has it where it carries the same
//! symbol. State that has its batch inside, as in `[layers, batch, hidden]`, is found that way too.

use std::sync::Arc;

use super::declared::{Declared, Extent};
use super::{EngineError, Feed};
use crate::model::{Model, Tensor};

/// Where the batch axis of each input and output is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchAxes {
    inputs: Vec<(String, Option<usize>)>,
    outputs: Vec<Option<usize>>,
}

impl BatchAxes {
    /// The batch axes that `model` declares; `None` when no input is free in front, so that only its own batch size runs.
    pub fn of(model: &Model) -> Option<Self> {
        let inputs = Declared::inputs(model);
        let front = |d: &Declared| d.shape.as_ref()?.first().filter(|e| !matches!(e, Extent::Fixed(_))).cloned();
        let batch = inputs.iter().find_map(front)?;
        let axis = |d: &Declared| {
            let shape = d.shape.as_ref()?;
            match &batch {
                Extent::Named(_) => shape.iter().position(|e| *e == batch),
                _ => shape.first().filter(|e| **e == Extent::Free).map(|_| 0),
            }
        };
        // An output whose declaration says nothing of the symbol still has its rows in front, if its extent says so.
        let outputs = Declared::outputs(model).iter().map(|d| axis(d).or(Some(0))).collect();
        Some(Self { inputs: inputs.iter().map(|d| (d.name.clone(), axis(d))).collect(), outputs })
    }

    /// The batch axis of an input.
    pub fn axis_of(&self, input: &str) -> Option<usize> {
        self.inputs.iter().find(|(name, _)| name == input)?.1
    }

    /// Rows of a feed: the extent of its batch axis.
    pub fn rows(&self, feed: &Feed) -> usize {
        self.inputs.iter().find_map(|(name, axis)| feed.get(name)?.shape().get((*axis)?).copied()).unwrap_or(1)
    }

    /// One feed with the rows of all `feeds` in order. Inputs without a batch axis must be equal in all of them, and all other axes of the rest too.
    pub fn concat(&self, feeds: &[&Feed]) -> Result<Feed, EngineError> {
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for (name, axis) in &self.inputs {
            let missing = || EngineError::Data(format!("input '{name}' is missing in a sample"));
            let parts = feeds.iter().map(|f| f.get(name).ok_or_else(missing)).collect::<Result<Vec<_>, _>>()?;
            let first = *parts.first().ok_or_else(|| EngineError::Data("there is no sample to make a batch of".to_owned()))?;
            let joined = match axis {
                Some(axis) => concat(&parts, *axis).ok_or_else(|| EngineError::Data(format!("the samples of input '{name}' differ in shape, so they make no batch")))?,
                None if parts.iter().all(|p| *p == first) => first.clone(),
                None => return Err(EngineError::Data(format!("input '{name}' has no batch axis and differs between the samples, so they make no batch"))),
            };
            inputs.push((Arc::from(name.as_str()), joined));
        }
        Ok(Feed::new(inputs))
    }

    /// The rows `from..to` of a feed.
    pub fn slice(&self, feed: &Feed, from: usize, to: usize) -> Option<Feed> {
        let cut = |(name, axis): &(String, Option<usize>)| {
            let tensor = feed.get(name)?;
            let part = match axis {
                Some(axis) => slice(tensor, *axis, from, to)?,
                None => tensor.clone(),
            };
            Some((Arc::from(name.as_str()), part))
        };
        Some(Feed::new(self.inputs.iter().map(cut).collect::<Option<_>>()?))
    }

    /// Cuts the outputs of a batch of `rows` rows into one list of outputs per row, each with a batch of 1. `None` when an output does not have that many rows:
    /// then the model mixes them.
    pub fn split(&self, outputs: &[Tensor], rows: usize) -> Option<Vec<Vec<Tensor>>> {
        let row = |r: usize| {
            let one = |(tensor, axis): (&Tensor, &Option<usize>)| {
                let axis = (*axis)?;
                let extent = *tensor.shape().get(axis)?;
                let each = extent.checked_div(rows).filter(|each| each * rows == extent)?;
                slice(tensor, axis, r * each, (r + 1) * each)
            };
            outputs.iter().zip(&self.outputs).map(one).collect()
        };
        (0..rows).map(row).collect()
    }
}

/// Rows of a feed as `model` declares its batch axis; 1 where it declares none.
pub fn rows(feed: &Feed, model: &Model) -> usize {
    BatchAxes::of(model).map_or(1, |axes| axes.rows(feed))
}

/// A feed of exactly `rows` rows, made of real samples in order, taken again from the first when there are too few.
pub fn of_rows(samples: &[Feed], model: &Model, rows: usize) -> Result<Feed, EngineError> {
    let first = samples.first().ok_or_else(|| EngineError::Data("there is no sample to make a batch of".to_owned()))?;
    let Some(axes) = BatchAxes::of(model) else {
        let fixed = |d: &Declared| Some(format!("'{}' is {}", d.name, d.shape.as_ref().map(|_| d.shape_text())?));
        let declared = Declared::inputs(model).iter().find_map(fixed).unwrap_or_default();
        return if rows == 1 { Ok(first.clone()) } else { Err(EngineError::Data(format!("the model's batch size is fixed (input {declared})"))) };
    };
    if axes.rows(first) == rows {
        return Ok(first.clone());
    }
    let (mut parts, mut have) = (Vec::new(), 0);
    for feed in samples.iter().cycle() {
        let here = axes.rows(feed);
        if have >= rows || here == 0 {
            break;
        }
        have += here;
        parts.push(feed);
    }
    let joined = axes.concat(&parts)?;
    axes.slice(&joined, 0, rows).ok_or_else(|| EngineError::Data(format!("the samples make no batch of {rows} rows")))
}

/// Joins tensors along `axis`. `None` when type, rank or another axis differs, or the axis does not exist.
pub fn concat(parts: &[&Tensor], axis: usize) -> Option<Tensor> {
    let first = *parts.first()?;
    let mut shape = first.shape().to_vec();
    let others = |s: &[usize]| s.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, d)| *d).collect::<Vec<_>>();
    let alike = |p: &&Tensor| p.dtype() == first.dtype() && p.shape().len() == shape.len() && others(p.shape()) == others(&shape);
    if axis >= shape.len() || !parts.iter().all(alike) {
        return None;
    }
    let inner = shape[axis + 1..].iter().product::<usize>() * first.dtype().size();
    let outer: usize = shape[..axis].iter().product();
    let mut data = Vec::with_capacity(parts.iter().map(|p| p.bytes().len()).sum());
    for block in 0..outer {
        for part in parts {
            let size = part.shape()[axis] * inner;
            data.extend_from_slice(&part.bytes()[block * size..(block + 1) * size]);
        }
    }
    shape[axis] = parts.iter().map(|p| p.shape()[axis]).sum();
    Tensor::from_bytes(first.dtype(), shape, data.into()).ok()
}

/// The part `from..to` of `axis`; `None` when the axis does not reach that far.
pub fn slice(tensor: &Tensor, axis: usize, from: usize, to: usize) -> Option<Tensor> {
    let mut shape = tensor.shape().to_vec();
    let extent = *shape.get(axis)?;
    if from > to || to > extent {
        return None;
    }
    let inner = shape[axis + 1..].iter().product::<usize>() * tensor.dtype().size();
    let outer: usize = shape[..axis].iter().product();
    shape[axis] = to - from;
    if outer == 1 {
        return Tensor::from_bytes(tensor.dtype(), shape, tensor.bytes().slice(from * inner..to * inner)).ok();
    }
    let block = extent * inner;
    let data: Vec<u8> = (0..outer).flat_map(|o| &tensor.bytes()[o * block + from * inner..o * block + to * inner]).copied().collect();
    Tensor::from_bytes(tensor.dtype(), shape, data.into()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DType;
    use crate::model::build::Builder;

    fn stateful() -> Model {
        Builder::new(17)
            .input("x", DType::F32, &["N", "3"])
            .input("h", DType::F32, &["2", "N", "1"])
            .input("rate", DType::I64, &[])
            .output("y", DType::F32, &["N", "3"])
            .output("h2", DType::F32, &["2", "N", "1"])
            .build()
    }

    fn sample(value: f32) -> Feed {
        Feed::new(vec![
            ("x".into(), Tensor::new(&[1, 3], &[value; 3])),
            ("h".into(), Tensor::new(&[2, 1, 1], &[value, -value])),
            ("rate".into(), Tensor::scalar(16_000_i64)),
        ])
    }

    #[test]
    fn the_batch_axis_is_found_by_its_symbol_wherever_it_stands() {
        let (model, samples) = (stateful(), [sample(1.0), sample(2.0)]);
        let feed = of_rows(&samples, &model, 3).unwrap();
        assert_eq!(rows(&feed, &model), 3);
        assert_eq!(feed.get("x").unwrap().to_f32()[..], [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0]);
        assert_eq!(feed.get("h").unwrap(), &Tensor::new(&[2, 3, 1], &[1.0_f32, 2.0, 1.0, -1.0, -2.0, -1.0]));
        assert_eq!(feed.get("rate").unwrap().shape(), [] as [usize; 0]);
    }

    #[test]
    fn outputs_are_cut_back_into_the_rows_they_came_from() {
        let axes = BatchAxes::of(&stateful()).unwrap();
        let outputs = [Tensor::new(&[2, 3], &[1.0_f32, 1.0, 1.0, 2.0, 2.0, 2.0]), Tensor::new(&[2, 2, 1], &[1.0_f32, 2.0, -1.0, -2.0])];
        let rows = axes.split(&outputs, 2).unwrap();
        assert_eq!(rows[1], [Tensor::new(&[1, 3], &[2.0_f32; 3]), Tensor::new(&[2, 1, 1], &[2.0_f32, -2.0])]);
        assert_eq!(axes.split(&outputs[..1], 4), None);
    }

    #[test]
    fn what_makes_no_batch_is_refused_with_the_reason() {
        let fixed = Builder::new(17).input("x", DType::F32, &["1", "3"]).output("y", DType::F32, &["1"]).build();
        let plain = [Feed::new(vec![("x".into(), Tensor::new(&[1, 3], &[0.0_f32; 3]))])];
        assert!(of_rows(&plain, &fixed, 8).unwrap_err().to_string().contains("fixed"));
        assert_eq!(of_rows(&plain, &fixed, 1).unwrap(), plain[0]);

        let lengths = Builder::new(17).input("x", DType::F32, &["N", "S"]).output("y", DType::F32, &["N"]).build();
        let uneven = [2, 3].map(|n| Feed::new(vec![("x".into(), Tensor::new(&[1, n], &vec![0.0_f32; n]))]));
        assert!(of_rows(&uneven, &lengths, 2).unwrap_err().to_string().contains("differ in shape"));

        let mut other = sample(1.0);
        other = Feed::new(other.iter().map(|(n, t)| (n.into(), if n == "rate" { Tensor::scalar(8_000_i64) } else { t.clone() })).collect());
        assert!(of_rows(&[sample(1.0), other], &stateful(), 2).unwrap_err().to_string().contains("no batch axis"));
    }

    #[test]
    fn an_unnamed_first_axis_counts_as_the_batch() {
        let model = Builder::new(17).input("x", DType::F32, &["?", "3"]).output("y", DType::F32, &["?"]).build();
        assert_eq!(of_rows(&[sample(1.0)], &model, 4).unwrap().get("x").unwrap().shape(), [4, 3]);
    }

    #[test]
    fn slices_and_joins_undo_each_other_on_every_axis() {
        let whole = Tensor::new(&[2, 3, 2], &(0..12).collect::<Vec<i32>>());
        for axis in 0..3 {
            let extent = whole.shape()[axis];
            let parts: Vec<Tensor> = (0..extent).map(|i| slice(&whole, axis, i, i + 1).unwrap()).collect();
            assert_eq!(concat(&parts.iter().collect::<Vec<_>>(), axis).unwrap(), whole);
        }
        assert_eq!(slice(&whole, 1, 2, 4), None);
    }
}
