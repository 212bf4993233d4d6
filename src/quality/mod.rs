//! The four quality metrics with their intervals, the gates and their three-valued verdicts, the cheat detector. Pure: values in, values out.
//!
//! ```text
//!  outputs, taps, labels of both models ──▶ evaluate ──▶ QualityReport ──▶ figures ─┐
//!                                           quick: estimates alone, for a search    ├─▶ gates::decide ──▶ verdicts
//!                                             latency, memory, bytes, each a Figure ─┘
//!  a report's claims, and the same measured again ──▶ cheat::audit ──▶ findings
//! ```
//!
//! ```
//! use bakehouse::model::Tensor;
//! use bakehouse::quality::{Evaluation, OutputPair, evaluate};
//!
//! let row = |i: i32, error: f32| Tensor::new(&[1, 2], &[(i as f32).sin() + error, (i as f32).cos()]);
//! let output = OutputPair {
//!     name: "y".into(),
//!     baseline: (0..60).map(|i| row(i, 0.0)).collect(),
//!     baked: (0..60).map(|i| row(i, 0.001)).collect(),
//! };
//! let report = evaluate(&Evaluation { outputs: vec![output], ..Evaluation::default() })?;
//! assert!(report.output_consistency.lower > Some(0.999));
//! # Ok::<(), bakehouse::quality::QualityError>(())
//! ```

pub mod cheat;
pub mod consistency;
pub mod distribution;
pub mod error;
pub mod features;
pub mod figure;
pub mod gates;
pub mod metric;
mod moments;
pub mod retention;
pub mod stats;
pub mod values;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use consistency::OutputConsistency;
pub use distribution::OutputDistribution;
pub use error::QualityError;
pub use features::{Rows, TapPair, TapSimilarity};
pub use figure::{Concern, Figure};
pub use gates::{Figures, GateReason, GateResult, decide, overall};
pub use metric::MetricKind;
pub use retention::RetentionDetails;
pub use values::OutputPair;

use crate::api::Metric;
use crate::model::Tensor;
use retention::Effort;
use values::{Health, Pairs};

/// Everything that quality is measured from: both models on the same held-out samples, on the same engine.
#[derive(Debug, Clone, Default)]
pub struct Evaluation<'a> {
    /// The graph outputs.
    pub outputs: Vec<OutputPair>,
    /// Internal tensors, at least one per block. Without any, feature preservation is missing data.
    pub taps: Vec<TapPair>,
    /// True labels, axis 0 the sample: class numbers, or rows like the output.
    pub labels: Option<&'a Tensor>,
    /// The metric of accuracy; inferred from the values when not given.
    pub metric: Option<MetricKind>,
    /// Names of the outputs that count; all when not given. The caller, who knows the graph, leaves final recurrent states out.
    pub gated_outputs: Option<Vec<String>>,
    /// Seed of resamples, groups and choices. The same seed gives the same figures on any machine.
    pub seed: u64,
}

/// The four figures, and all that is beside them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct QualityReport {
    /// Samples that both models ran on.
    pub samples: usize,
    /// Seed of resamples, groups and choices.
    pub seed: u64,
    /// Metric of the baked model over that of the baseline, or their agreement.
    pub accuracy_retention: Figure,
    /// Concordance of the outputs, the lowest of those that count.
    pub output_consistency: Figure,
    /// Mean CKA over the taps; without an estimate where there was no tap.
    pub feature_preservation: Figure,
    /// 1 - scaled Wasserstein distance, the lowest of the outputs that count.
    pub distribution_similarity: Figure,
    /// How accuracy was measured.
    pub retention: RetentionDetails,
    /// Consistency of each output.
    pub consistency: Vec<OutputConsistency>,
    /// CKA of each tap.
    pub taps: Vec<TapSimilarity>,
    /// The lowest CKA of a tap.
    pub lowest_tap: Option<f64>,
    /// Distribution similarity of each output.
    pub distribution: Vec<OutputDistribution>,
    /// Whether all outputs that count are bit-identical in both models (but for the sign of a zero).
    pub identical: bool,
}

impl QualityReport {
    /// The figures by metric, for the gates.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures::from([
            (Metric::AccuracyRetention, self.accuracy_retention.clone()),
            (Metric::OutputConsistency, self.output_consistency.clone()),
            (Metric::FeaturePreservation, self.feature_preservation.clone()),
            (Metric::DistributionSimilarity, self.distribution_similarity.clone()),
        ])
    }
}

/// Point estimates of the four metrics, for a search that compares many candidates. They decide no gate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct QuickEstimates {
    /// Accuracy retention; absent when undefined.
    pub accuracy_retention: Option<f64>,
    /// Output consistency.
    pub output_consistency: Option<f64>,
    /// Feature preservation; absent without taps.
    pub feature_preservation: Option<f64>,
    /// Distribution similarity.
    pub distribution_similarity: Option<f64>,
    /// How far the outputs that count are from the baseline's on average, as 1 - concordance, of probabilities on their logits: 0 unchanged. Where probabilities differ by orders of
    /// magnitude, the coefficient on themselves hangs on the few largest, and says too little on a few samples to tell two candidates apart.
    pub deviation: f64,
    /// Whether a figure fails whatever the number of samples (NaN, a constant output).
    pub broken: bool,
}

/// Measures all four metrics with their intervals.
pub fn evaluate(input: &Evaluation<'_>) -> Result<QualityReport, QualityError> {
    measure(input, Effort { seed: input.seed, intervals: true })
}

/// Estimates all four metrics without intervals.
pub fn quick(input: &Evaluation<'_>) -> Result<QuickEstimates, QualityError> {
    let report = measure(input, Effort { seed: input.seed, intervals: false })?;
    Ok(QuickEstimates {
        accuracy_retention: report.accuracy_retention.estimate,
        output_consistency: report.output_consistency.estimate,
        feature_preservation: report.feature_preservation.estimate,
        distribution_similarity: report.distribution_similarity.estimate,
        deviation: deviation(&report.consistency),
        broken: report.figures().values().any(|f| f.concern.as_ref().is_some_and(Concern::is_failure)),
    })
}

/// See [`QuickEstimates::deviation`].
fn deviation(outputs: &[OutputConsistency]) -> f64 {
    let counted: Vec<f64> = outputs
        .iter()
        .filter(|output| output.gated)
        .map(|output| output.logits.or(output.figure.estimate).map_or(f64::NAN, |concordance| 1.0 - concordance))
        .collect();
    counted.iter().sum::<f64>() / counted.len().max(1) as f64
}

/// What one model scores against true labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// The metric's value; absent when it has none on these labels.
    pub value: Option<f64>,
    /// The output that the labels fit.
    pub output: String,
    /// Samples that count.
    pub samples: usize,
}

/// Scores one model by `metric` on the first of its outputs, given by name and samples, that the labels fit.
///
/// # Errors
/// Labels that fit no output.
pub fn score(outputs: &[(&str, &[Tensor])], labels: &Tensor, metric: MetricKind) -> Result<Scored, QualityError> {
    let pairs =
        outputs.iter().map(|(name, samples)| Pairs::new(name, samples, samples)).collect::<Result<Vec<_>, _>>()?;
    let pairs: Vec<&Pairs> = pairs.iter().collect();
    if pairs.is_empty() {
        return Err(QualityError::NoOutputs);
    }
    let effort = Effort { seed: 0, intervals: false };
    let (figure, details) = retention::retention(&pairs, Some(labels), Some(metric), effort)?;
    Ok(Scored { value: details.baseline, output: details.output, samples: figure.n })
}

fn measure(input: &Evaluation<'_>, effort: Effort) -> Result<QualityReport, QualityError> {
    let gated = gated(input)?;
    let outputs =
        input.outputs.iter().map(|o| Pairs::new(&o.name, &o.baseline, &o.baked)).collect::<Result<Vec<_>, _>>()?;
    let samples = outputs[0].len();
    if let Some(other) = outputs.iter().find(|o| o.len() != samples) {
        return Err(QualityError::SampleCount { name: other.name.to_owned(), baseline: samples, baked: other.len() });
    }
    let counted: Vec<&Pairs> = outputs.iter().zip(&gated).filter(|(_, g)| **g).map(|(o, _)| o).collect();
    let (mut accuracy_retention, retention) = retention::retention(&counted, input.labels, input.metric, effort)?;
    let unhealthy = counted.iter().filter_map(|pairs| match &pairs.health {
        Health::Sound => None,
        Health::BakedNotFinite(what) => Some(Concern::NotFinite(what.clone())),
        Health::BaselineNotFinite(what) => Some(Concern::BaselineNotFinite(what.clone())),
    });
    let unhealthy: Vec<Concern> = unhealthy.collect();
    if let Some(concern) = figure::first_concern(unhealthy.iter()) {
        accuracy_retention.concern = Some(concern.clone());
    }
    let (output_consistency, consistency) = consistency::consistency(&outputs, &gated, effort);
    let (feature_preservation, taps) = features::preservation(&input.taps, effort)?.unwrap_or_default();
    let (distribution_similarity, distribution) = distribution::similarity(&outputs, &gated, effort);
    Ok(QualityReport {
        samples,
        seed: input.seed,
        accuracy_retention,
        output_consistency,
        feature_preservation,
        distribution_similarity,
        retention,
        consistency,
        lowest_tap: taps
            .iter()
            .map(|t| t.figure.estimate)
            .try_fold(f64::INFINITY, |low, v| Some(low.min(v?)))
            .filter(|v| v.is_finite()),
        taps,
        distribution,
        identical: counted.iter().all(|pairs| pairs.identical),
    })
}

fn gated(input: &Evaluation<'_>) -> Result<Vec<bool>, QualityError> {
    if input.outputs.is_empty() || input.outputs[0].baseline.is_empty() {
        return Err(QualityError::NoOutputs);
    }
    let Some(named) = &input.gated_outputs else { return Ok(vec![true; input.outputs.len()]) };
    if let Some(name) = named.iter().find(|name| input.outputs.iter().all(|o| o.name != **name)) {
        let known = input.outputs.iter().map(|o| o.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(QualityError::UnknownOutput { name: name.clone(), known });
    }
    if named.is_empty() {
        return Err(QualityError::NoOutputs);
    }
    Ok(input.outputs.iter().map(|o| named.contains(&o.name)).collect())
}
