//! What was observed of a model's tensors when it ran on real samples. Declarations in a file may be wrong or missing; execution is the truth.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::DType;

/// One axis: the extent when it was the same in every run, else `None`.
pub type Dim = Option<usize>;

/// Element type and shape of one tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorFact {
    /// Element type.
    pub dtype: DType,
    /// Extent of every axis; its length is the rank.
    pub shape: Vec<Dim>,
}

/// Observed facts by tensor name. A tensor whose rank or type changed between runs has none, nor has one inside a subgraph.
///
/// The engine observes at least two batch sizes or lengths where the model's declared dimensions are symbolic, so an axis that is `Some` really is fixed.
/// Facts travel in the recipe, so that a replay needs neither an engine nor the samples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Facts {
    tensors: BTreeMap<String, TensorFact>,
}

impl Facts {
    /// What is known of a tensor.
    pub fn get(&self, tensor: &str) -> Option<&TensorFact> {
        self.tensors.get(tensor)
    }

    /// Number of axes, when known.
    pub fn rank(&self, tensor: &str) -> Option<usize> {
        self.get(tensor).map(|f| f.shape.len())
    }

    /// Every extent, when all are fixed.
    pub fn fixed_shape(&self, tensor: &str) -> Option<Vec<usize>> {
        self.get(tensor)?.shape.iter().copied().collect()
    }

    /// Element type, when known.
    pub fn dtype(&self, tensor: &str) -> Option<DType> {
        self.get(tensor).map(|f| f.dtype)
    }

    /// Records a fact, e.g. of a tensor that a pass created.
    pub fn insert(&mut self, tensor: impl Into<String>, fact: TensorFact) {
        self.tensors.insert(tensor.into(), fact);
    }

    /// Folds one more observation in: axes that differ become unknown; a differing type or rank removes the fact. Returns whether it was kept.
    pub fn merge(&mut self, tensor: &str, dtype: DType, shape: &[usize]) -> bool {
        match self.tensors.get_mut(tensor) {
            None => {
                self.insert(tensor, TensorFact { dtype, shape: shape.iter().map(|&d| Some(d)).collect() });
                true
            }
            Some(fact) if fact.dtype == dtype && fact.shape.len() == shape.len() => {
                for (known, &seen) in fact.shape.iter_mut().zip(shape) {
                    *known = known.filter(|&k| k == seen);
                }
                true
            }
            Some(_) => {
                self.tensors.remove(tensor);
                false
            }
        }
    }

    /// Number of tensors with a fact.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_that_differs_between_runs_is_unknown() {
        let mut facts = Facts::default();
        assert!(facts.merge("x", DType::F32, &[1, 8]) && facts.merge("x", DType::F32, &[4, 8]));
        assert_eq!(facts.get("x").unwrap().shape, [None, Some(8)]);
        assert_eq!((facts.rank("x"), facts.fixed_shape("x")), (Some(2), None));
    }

    #[test]
    fn a_tensor_that_changes_rank_has_no_fact() {
        let mut facts = Facts::default();
        facts.merge("x", DType::F32, &[1, 8]);
        assert!(!facts.merge("x", DType::F32, &[8]));
        assert_eq!(facts.get("x"), None);
    }
}
