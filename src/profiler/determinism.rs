//! Whether the same input gives the same bits, over runs, threads and processes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::Tensor;

/// SHA-256 over the outputs of a run in lower-case hex: number of tensors, then of each element type, rank, extents and bytes. NaNs count by their bits.
pub fn digest(outputs: &[Tensor]) -> String {
    let mut hash = Sha256::new();
    hash.update((outputs.len() as u64).to_le_bytes());
    for tensor in outputs {
        // Lengths before contents, so that no two different lists hash the same bytes.
        hash.update(tensor.dtype().to_onnx().to_le_bytes());
        hash.update((tensor.shape().len() as u64).to_le_bytes());
        for &extent in tensor.shape() {
            hash.update((extent as u64).to_le_bytes());
        }
        hash.update(tensor.bytes());
    }
    hash.finalize().iter().fold(String::with_capacity(64), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
        hex
    })
}

/// Digests of many runs on one input, by where they were made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Determinism {
    /// Runs by digest.
    pub digests: BTreeMap<String, usize>,
    /// Runs by place, e.g. `run`, `thread`, `process`.
    pub places: BTreeMap<String, usize>,
    /// The digest of the first run; empty without runs.
    pub first: String,
    /// Places whose digest differed from the first.
    pub differing: BTreeMap<String, usize>,
}

impl Determinism {
    /// Adds one run.
    pub fn add(&mut self, place: &str, digest: String) {
        if self.digests.is_empty() {
            self.first.clone_from(&digest);
        }
        if digest != self.first {
            *self.differing.entry(place.to_owned()).or_default() += 1;
        }
        *self.places.entry(place.to_owned()).or_default() += 1;
        *self.digests.entry(digest).or_default() += 1;
    }

    /// Runs compared.
    pub fn runs(&self) -> usize {
        self.digests.values().sum()
    }

    /// Whether all were bit-identical; `None` below two runs, which show nothing.
    pub fn is_deterministic(&self) -> Option<bool> {
        (self.runs() >= 2).then_some(self.digests.len() == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_shape_order_and_bits_all_count() {
        let a = Tensor::new(&[2, 1], &[1.0_f32, 2.0]);
        let variants = [
            vec![a.clone()],
            vec![Tensor::new(&[1, 2], &[1.0_f32, 2.0])],
            vec![Tensor::new(&[2, 1], &[1.0_f32.to_bits() as i32, 2.0_f32.to_bits() as i32])],
            vec![Tensor::new(&[2, 1], &[1.0_f32, f32::from_bits(2.0_f32.to_bits() + 1)])],
            vec![a.clone(), a.clone()],
            vec![],
        ];
        let digests: std::collections::BTreeSet<String> = variants.iter().map(|v| digest(v)).collect();
        assert_eq!(digests.len(), variants.len());
        assert_eq!(digest(&variants[0]), digest(&[a]));
        assert_eq!(digest(&[]), "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc");
    }

    #[test]
    fn one_differing_run_is_named_and_one_run_proves_nothing() {
        let mut found = Determinism::default();
        assert_eq!(found.is_deterministic(), None);
        found.add("run", "a".to_owned());
        assert_eq!(found.is_deterministic(), None);
        found.add("thread", "a".to_owned());
        assert_eq!(found.is_deterministic(), Some(true));
        found.add("process", "b".to_owned());
        assert_eq!(found.is_deterministic(), Some(false));
        assert_eq!(found.differing, [("process".to_owned(), 1)].into());
    }
}
