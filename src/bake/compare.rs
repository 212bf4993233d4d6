//! Two models on the same samples: how far their outputs are apart.

use std::path::Path;

use serde::Serialize;

use super::BakeError;
use super::observe;
use crate::engine::{Dataset, EngineId, Engines, dataset};
use crate::model::{Model, Tensor};
use crate::quality::{self, Evaluation, OutputPair};

/// What both models give on the same samples.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutputComparison {
    /// The engine that both ran on.
    pub engine: EngineId,
    /// Samples.
    pub samples: usize,
    /// One entry per output that both models have.
    pub outputs: Vec<OutputDifference>,
    /// Outputs that only one of the models has.
    pub unmatched: Vec<String>,
}

/// One output of both models.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutputDifference {
    /// Its name.
    pub output: String,
    /// Largest absolute difference of two elements; absent when a shape differs or a difference is not a number.
    pub max_abs_difference: Option<f64>,
    /// sqrt(sum |a-b|^2 / sum |a|^2).
    pub relative_rms_error: Option<f64>,
    /// Cosine after subtracting the first model's mean.
    pub cosine: Option<f64>,
    /// Share of positions whose largest value is at the same place.
    pub argmax_agreement: Option<f64>,
    /// Whether every element is the same (but for the sign of a zero).
    pub identical: bool,
    /// Samples whose shapes differ.
    pub other_shape: usize,
}

/// Runs both models on the samples of `data` and compares the outputs of the same name.
///
/// # Errors
/// Data that does not fit, an engine that runs only one of them, no output in common.
pub fn outputs(a: &Model, b: &Model, data: &Path, engines: &Engines) -> Result<OutputComparison, BakeError> {
    let samples = Dataset::load(data, a, dataset::Limits::default())?.dataset;
    if samples.is_empty() {
        return Err(BakeError::Data(format!("{} holds no sample. Give data to run the models on.", data.display())));
    }
    let engine = engines.select(a, &samples.feeds, None)?.engine;
    let threads = super::cores();
    let of_a = observe::outputs(&engine, a, &samples.feeds, threads)?;
    let mut of_b: Vec<(&str, Vec<Tensor>)> =
        b.output_names().into_iter().zip(observe::outputs(&engine, b, &samples.feeds, threads)?).collect();
    let (mut pairs, mut unmatched) = (Vec::new(), Vec::new());
    for (name, baseline) in a.output_names().into_iter().zip(of_a) {
        match of_b.iter().position(|(other, _)| *other == name) {
            Some(at) => pairs.push(OutputPair { name: name.to_owned(), baseline, baked: of_b.swap_remove(at).1 }),
            None => unmatched.push(name.to_owned()),
        }
    }
    unmatched.extend(of_b.iter().map(|(name, _)| (*name).to_owned()));
    if pairs.is_empty() {
        return Err(BakeError::Data(format!(
            "the models have no output in common ({}), so there is nothing to compare",
            unmatched.join(", ")
        )));
    }
    let largest: Vec<Option<f64>> = pairs.iter().map(max_abs_difference).collect();
    let report = quality::evaluate(&Evaluation { outputs: pairs, ..Evaluation::default() })?;
    let outputs = report.consistency.into_iter().zip(largest).map(|(c, max_abs_difference)| OutputDifference {
        output: c.output,
        max_abs_difference,
        relative_rms_error: c.relative_rms_error,
        cosine: c.cosine,
        argmax_agreement: c.argmax_agreement,
        identical: c.figure.identical,
        other_shape: c.other_shape,
    });
    Ok(OutputComparison { engine: engine.id().clone(), samples: report.samples, outputs: outputs.collect(), unmatched })
}

fn max_abs_difference(pair: &OutputPair) -> Option<f64> {
    let of_sample = |(a, b): (&Tensor, &Tensor)| {
        if a.shape() != b.shape() {
            return None;
        }
        let (a, b) = (a.to_f64(), b.to_f64());
        // Equal infinities have no difference; `inf - inf` would not say so.
        let differences =
            a.iter().zip(&*b).map(|(x, y)| if x == y || (x.is_nan() && y.is_nan()) { 0.0 } else { (x - y).abs() });
        differences.map(|d| Some(d).filter(|d| d.is_finite())).try_fold(0.0_f64, |worst, d| d.map(|d| worst.max(d)))
    };
    pair.baseline.iter().zip(&pair.baked).map(of_sample).try_fold(0.0_f64, |worst, d| d.map(|d| worst.max(d)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(a: &[f32], b: &[f32]) -> OutputPair {
        let row = |v: &[f32]| vec![Tensor::new(&[v.len()], v)];
        OutputPair { name: "y".into(), baseline: row(a), baked: row(b) }
    }

    #[test]
    fn the_largest_difference_is_absent_where_there_is_none_to_give() {
        assert_eq!(max_abs_difference(&pair(&[1.0, f32::INFINITY], &[1.5, f32::INFINITY])), Some(0.5));
        assert_eq!(max_abs_difference(&pair(&[f32::NAN], &[f32::NAN])), Some(0.0));
        assert_eq!(max_abs_difference(&pair(&[1.0], &[f32::NAN])), None);
        assert_eq!(max_abs_difference(&pair(&[1.0], &[1.0, 2.0])), None);
    }
}
