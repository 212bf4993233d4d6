//! What can be wrong with what the metrics are given.

use super::metric::MetricKind;
use crate::api::Reason;

/// Why quality could not be evaluated at all. Data that is there but decides nothing is no error: it makes a figure inconclusive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum QualityError {
    #[error(
        "output '{name}' has {baseline} samples of the baseline and {baked} of the baked model. Run both on the same samples."
    )]
    SampleCount { name: String, baseline: usize, baked: usize },
    #[error(
        "tap '{name}' has {baseline} rows of the baseline and {baked} of the baked model. Run both on the same samples."
    )]
    TapCount { name: String, baseline: usize, baked: usize },
    #[error("there is no output to measure. Give at least one graph output of both models.")]
    NoOutputs,
    #[error("data.validation.outputs names '{name}', which the model does not have. Its outputs are: {known}.")]
    UnknownOutput { name: String, known: String },
    #[error(
        "labels of shape {shape:?} do not have one row for each of {samples} samples. Put the sample on axis 0 of `labels`."
    )]
    LabelCount { shape: Vec<usize>, samples: usize },
    #[error(
        "labels of shape {shape:?} do not fit metric {metric} on any gated output. Name another metric, or give class numbers (Top1, TopK, F1, ArgmaxSequence) or rows like the output (R2, Cosine)."
    )]
    LabelsDoNotFit { metric: MetricKind, shape: Vec<usize> },
}

impl QualityError {
    /// The closed-set reason that status, events and the exit code carry.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::UnknownOutput { .. } => Reason::InvalidJob,
            Self::LabelCount { .. } | Self::LabelsDoNotFit { .. } => Reason::InvalidData,
            Self::SampleCount { .. } | Self::TapCount { .. } | Self::NoOutputs => Reason::Internal,
        }
    }
}
