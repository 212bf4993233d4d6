//! Samples to run a model on: `.npz` or `.safetensors`, one array per model input, axis 0 is the sample, plus `labels`.
//!
//! Each sample is a whole feed: where the model declares a batch axis, the sample has it, so an array has one axis more than its input.

mod arrays;
mod fit;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::EngineError;
use crate::model::{Model, Tensor, mapped};

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

    /// Gives back the memory of inputs that lie in a mapped file, until they are read again.
    pub fn put_down(&self) {
        self.inputs.iter().for_each(|(_, tensor)| mapped::put_down(tensor.bytes()));
    }

    /// The same feed in memory of its own, where elements are aligned: what is timed must not read a file, nor copy what lies badly in it.
    #[must_use]
    pub fn in_memory(&self) -> Self {
        let copied = |tensor: &Tensor| {
            let bytes = tensor.bytes().to_vec().into();
            // Never refused: it is as large as what it is a copy of.
            Tensor::from_bytes(tensor.dtype(), tensor.shape().to_vec(), bytes).unwrap_or_else(|_| tensor.clone())
        };
        Self { inputs: self.inputs.iter().map(|(name, tensor)| (name.clone(), copied(tensor))).collect() }
    }

    /// All inputs with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.inputs.iter().map(|(n, t)| (&**n, t))
    }
}

/// SHA-256 over a feed's names, types, shapes and bytes, in the order of the names. Two samples are the same sample when their hashes are equal.
pub fn sample_hash(feed: &Feed) -> [u8; 32] {
    let sorted: BTreeMap<&str, &Tensor> = feed.iter().collect();
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for (name, tensor) in sorted {
        part(name.as_bytes());
        part(tensor.dtype().to_string().as_bytes());
        part(&tensor.shape().iter().flat_map(|&d| (d as u64).to_le_bytes()).collect::<Vec<u8>>());
        part(tensor.bytes());
    }
    hash.finalize().into()
}

/// A split: feeds and, where known, one label (or label row) per feed.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    /// One feed per sample.
    pub feeds: Vec<Feed>,
    /// `labels`, axis 0 is the sample, or `None`.
    pub labels: Option<Tensor>,
}

/// A split as it was read, with what the reader had to assume.
#[derive(Debug, Clone, Default)]
pub struct LoadedDataset {
    /// The samples.
    pub dataset: Dataset,
    /// Sentences for the report: a batch axis that was added, a type that was converted, a declared shape that the data does not have.
    pub notes: Vec<String>,
    /// SHA-256 of the file that was read, in hexadecimal.
    pub sha256: String,
}

/// Bytes that the arrays of a data file take in memory: those that a compressed archive states for its members, without unpacking them. `None` for a file
/// that cannot be read.
pub fn unpacked_bytes(path: &Path) -> Option<u64> {
    arrays::unpacked_bytes(path)
}

/// How much a data file may hold once unpacked. A few compressed kilobytes can claim terabytes; the claim is checked before memory is taken.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of all arrays together.
    pub bytes: u64,
}

impl Default for Limits {
    /// 8 GiB. A caller that knows its memory limit passes less.
    fn default() -> Self {
        Self { bytes: 8 << 30 }
    }
}

/// Samples of a dataset that the search may look at, and those that only the verdict sees. Both ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SearchSplit {
    /// Indices for decisions during the search.
    pub search: Vec<usize>,
    /// Indices for the gates.
    pub verdict: Vec<usize>,
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

    /// Reads a `.npz` or `.safetensors` file and checks it against the inputs of `model`. What does not fit is [`EngineError::Data`], naming file and array.
    pub fn load(path: &Path, model: &Model, limits: Limits) -> Result<LoadedDataset, EngineError> {
        let (arrays, sha256) = arrays::read(path, limits)?;
        let (dataset, notes) =
            fit::fit(arrays, model).map_err(|detail| EngineError::Data(format!("{}: {detail}", path.display())))?;
        Ok(LoadedDataset { dataset, notes, sha256 })
    }

    /// Where the samples contradict what `model` declares, in words: an extent that is declared as another number, or one symbol that would have to stand for
    /// two. A declaration may be wrong, so this is no error by itself; it is what to say when no engine runs the samples.
    pub fn misfit(&self, model: &Model) -> Option<String> {
        fit::misfit(self, model)
    }

    /// The samples at `indices`, in that order, with their labels. The bytes are shared; label rows are copied.
    ///
    /// # Panics
    /// When an index is out of range: that is a bug of the caller.
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        let feeds = indices.iter().map(|&i| self.feeds[i].clone()).collect();
        let labels = self.labels.as_ref().map(|labels| {
            let mut shape = labels.shape().to_vec();
            let row = labels.bytes().len() / shape[0].max(1);
            shape[0] = indices.len();
            let bytes: Vec<u8> =
                indices.iter().flat_map(|&i| &labels.bytes()[i * row..(i + 1) * row]).copied().collect();
            Tensor::from_bytes(labels.dtype(), shape, bytes.into()).expect("rows of a tensor make a tensor")
        });
        Self { feeds, labels }
    }

    /// Hash of every sample, in order.
    pub fn hashes(&self) -> Vec<[u8; 32]> {
        let hash = |feed: &Feed| {
            let hash = sample_hash(feed);
            feed.put_down();
            hash
        };
        self.feeds.iter().map(hash).collect()
    }

    /// Samples that both datasets hold: pairs of the first index in `self` and each index in `other`, ascending by the latter.
    pub fn overlap(&self, other: &Self) -> Vec<(usize, usize)> {
        let mut known = HashMap::new();
        for (i, hash) in self.hashes().into_iter().enumerate() {
            known.entry(hash).or_insert(i);
        }
        other.hashes().iter().enumerate().filter_map(|(j, hash)| known.get(hash).map(|&i| (i, j))).collect()
    }

    /// Splits off about `fraction` of the samples for the search. Which ones depends on the samples' hashes alone, neither on their order nor on a random
    /// source; equal samples land on the same side, so that the verdict never sees a sample that the search has seen.
    pub fn split_search(&self, fraction: f64) -> SearchSplit {
        let hashes = self.hashes();
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|&i| (hashes[i], i));
        let mut cut = (self.len() as f64 * fraction.clamp(0.0, 1.0)).round() as usize;
        while cut > 0 && cut < order.len() && hashes[order[cut - 1]] == hashes[order[cut]] {
            cut += 1;
        }
        let (search, verdict) = order.split_at(cut);
        let ascending = |side: &[usize]| {
            let mut side = side.to_vec();
            side.sort_unstable();
            side
        };
        SearchSplit { search: ascending(search), verdict: ascending(verdict) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(values: &[f32]) -> Feed {
        Feed::new(vec![("x".into(), Tensor::new(&[1, values.len()], values))])
    }

    fn dataset(n: usize) -> Dataset {
        let labels: Vec<i64> = (0..n as i64).collect();
        Dataset { feeds: (0..n).map(|i| feed(&[i as f32, 1.0])).collect(), labels: Some(Tensor::new(&[n], &labels)) }
    }

    #[test]
    fn a_hash_sees_names_types_shapes_and_bytes_but_not_the_order_of_inputs() {
        let a = ("a".into(), Tensor::new(&[2], &[1.0_f32, 2.0]));
        let b = ("b".into(), Tensor::new(&[1], &[3_i64]));
        let both = sample_hash(&Feed::new(vec![a.clone(), b.clone()]));
        assert_eq!(both, sample_hash(&Feed::new(vec![b.clone(), a.clone()])));
        for other in [
            Feed::new(vec![a.clone()]),
            Feed::new(vec![("c".into(), a.1.clone()), b.clone()]),
            Feed::new(vec![("a".into(), Tensor::new(&[2, 1], &[1.0_f32, 2.0])), b.clone()]),
            Feed::new(vec![("a".into(), Tensor::new(&[1], &[1.0_f64])), b.clone()]),
            Feed::new(vec![("a".into(), Tensor::new(&[2], &[1.0_f32, 2.5])), b]),
        ] {
            assert_ne!(both, sample_hash(&other), "{other:?}");
        }
    }

    #[test]
    fn the_split_is_disjoint_complete_and_independent_of_the_order() {
        let data = dataset(30);
        let split = data.split_search(1.0 / 3.0);
        assert_eq!((split.search.len(), split.verdict.len()), (10, 20));
        let mut all = [split.search.clone(), split.verdict.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..30).collect::<Vec<_>>());
        assert!(data.select(&split.search).overlap(&data.select(&split.verdict)).is_empty());

        let reversed: Vec<usize> = (0..30).rev().collect();
        let other = data.select(&reversed).split_search(1.0 / 3.0);
        let mut back: Vec<usize> = other.search.iter().map(|&i| reversed[i]).collect();
        back.sort_unstable();
        assert_eq!(back, split.search);
    }

    #[test]
    fn equal_samples_stay_on_one_side() {
        let data = Dataset { feeds: vec![feed(&[1.0]); 9], labels: None };
        let split = data.split_search(1.0 / 3.0);
        assert_eq!((split.search.len(), split.verdict.len()), (9, 0));
    }

    #[test]
    fn a_selection_keeps_labels_beside_their_samples() {
        let part = dataset(5).select(&[4, 1]);
        assert_eq!(part.feeds[0].get("x").unwrap().to_f32()[0], 4.0);
        assert_eq!(&*part.labels.unwrap().to_i64().unwrap(), &[4, 1]);
    }

    #[test]
    fn an_overlap_names_both_indices() {
        let (a, b) = (dataset(4), dataset(6).select(&[5, 2, 0]));
        assert_eq!(a.overlap(&b), [(2, 1), (0, 2)]);
    }
}
