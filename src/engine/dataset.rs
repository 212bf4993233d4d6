//! Samples to run a model on: `.npz` or `.safetensors`, one array per model input, axis 0 is the sample, plus `labels`.

use std::sync::Arc;

use crate::model::Tensor;

/// One run's inputs by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Feed {
    inputs: Vec<(Arc<str>, Tensor)>,
}

impl Feed {
    /// A feed of these inputs.
    pub fn new(inputs: Vec<(Arc<str>, Tensor)>) -> Self {
        Self { inputs }
    }

    /// An input by name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.inputs.iter().find(|(n, _)| &**n == name).map(|(_, t)| t)
    }

    /// All inputs with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.inputs.iter().map(|(n, t)| (&**n, t))
    }
}

/// A split: feeds and, where known, one label (or label row) per feed.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    /// One feed per sample.
    pub feeds: Vec<Feed>,
    /// `labels`, axis 0 is the sample, or `None`.
    pub labels: Option<Tensor>,
}

impl Dataset {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.feeds.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.feeds.is_empty()
    }
}
