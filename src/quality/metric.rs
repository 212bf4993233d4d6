//! The metrics of accuracy: what each model decides on a sample, which decisions are right, and which metric fits an output when none is named.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{Axis, Pairs, Values, default_class_axis, probability_axis};
use crate::api::bakejob::TaskMetric;
use crate::model::Tensor;

/// The symbol of a CTC output that stands for "no symbol".
pub const CTC_BLANK: i64 = 0;

/// How accuracy is measured. Against labels, or, without them, as agreement with the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum MetricKind {
    /// The class of the largest value is the label's; of a single column, whether it is above 0.5.
    Top1,
    /// The label's class is among the k largest values.
    TopK {
        /// How many.
        k: u32,
    },
    /// Mean over classes of F1 (macro).
    F1,
    /// Coefficient of determination, pooled over the elements of a row.
    R2,
    /// Cosine, pooled over samples after subtracting the mean row of the truth (the labels, or the baseline).
    Cosine,
    /// The strings that greedy CTC decoding gives are equal; symbol 0 is the blank.
    ArgmaxSequence,
    /// Share of equal elements. What integer outputs are measured by; never named in a job.
    ShareEqual,
}

impl MetricKind {
    /// The metric that a job names.
    #[must_use]
    pub fn of(named: TaskMetric, top_k: u32) -> Self {
        match named {
            TaskMetric::Top1 => Self::Top1,
            TaskMetric::TopK => Self::TopK { k: top_k },
            TaskMetric::F1 => Self::F1,
            TaskMetric::R2 => Self::R2,
            TaskMetric::Cosine => Self::Cosine,
            TaskMetric::ArgmaxSequence => Self::ArgmaxSequence,
        }
    }
}

impl std::fmt::Display for MetricKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Self::TopK { k } = self { write!(f, "Top{k}") } else { std::fmt::Debug::fmt(self, f) }
    }
}

/// A metric that was chosen from the values, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inference {
    /// The metric.
    pub kind: MetricKind,
    /// Why, in words for the report.
    pub why: String,
}

/// Share of samples on which one class makes argmax say nothing.
const DOMINANT: f64 = 0.95;

/// The metric of agreement that fits the baseline's values.
pub(super) fn infer(pairs: &Pairs) -> Inference {
    let inference = |kind, why: String| Inference { kind, why };
    if pairs.integer {
        return inference(MetricKind::ShareEqual, "the output holds integers".to_owned());
    }
    let Some(at) = probability_axis(pairs) else {
        return inference(MetricKind::Cosine, "the output's values are no probabilities".to_owned());
    };
    let mut counts = BTreeMap::new();
    for i in 0..pairs.len() {
        for class in decisions(&pairs.a[i], Axis::new(pairs.shapes[i], at), false) {
            *counts.entry(class).or_insert(0_usize) += 1;
        }
    }
    let total: usize = counts.values().sum();
    match counts.into_iter().max_by_key(|&(_, count)| count) {
        Some((class, count)) if count as f64 > DOMINANT * total as f64 => inference(
            MetricKind::Cosine,
            format!("the baseline says class {class} on {count} of {total}, so its argmax tells nothing"),
        ),
        _ => inference(MetricKind::Top1, format!("the output is a probability along axis {at}")),
    }
}

/// The metric that fits labels and output, or `None` when the labels fit no metric on this output.
pub(super) fn infer_labelled(pairs: &Pairs, labels: &Labels) -> Option<Inference> {
    let why = |why: &str| why.to_owned();
    if labels.integer
        && Targets::new(MetricKind::Top1, pairs, labels)
            .is_some_and(|t| t.are_classes_of(pairs) && (!labels.row_of(pairs) || labels.one_hot()))
    {
        return Some(Inference { kind: MetricKind::Top1, why: why("the labels are class numbers") });
    }
    if !labels.row_of(pairs) {
        return None;
    }
    if probability_axis(pairs).is_some() && Targets::new(MetricKind::Top1, pairs, labels).is_some() {
        return Some(Inference {
            kind: MetricKind::Top1,
            why: why("the output is a probability and the labels are rows of it"),
        });
    }
    Some(Inference { kind: MetricKind::R2, why: why("the labels are rows of real numbers") })
}

/// Labels, one row per sample.
#[derive(Debug)]
pub(super) struct Labels {
    rows: Vec<Tensor>,
    /// Whether all labels are whole numbers.
    integer: bool,
}

impl Labels {
    /// Cuts `labels` along axis 0; `None` unless that has `n` rows.
    pub(super) fn new(labels: &Tensor, n: usize) -> Option<Self> {
        if labels.shape().first() != Some(&n) {
            return None;
        }
        let row = labels.shape()[1..].to_vec();
        let bytes = row.iter().product::<usize>() * labels.dtype().size();
        let rows = (0..n)
            .map(|i| Tensor::from_bytes(labels.dtype(), row.clone(), labels.bytes().slice(i * bytes..(i + 1) * bytes)))
            .collect::<Result<Vec<_>, _>>()
            .ok()?;
        Some(Self { rows, integer: labels.to_f64().iter().all(|v| v.fract() == 0.0) })
    }

    /// Whether every label row has as many elements as the output.
    pub(super) fn row_of(&self, pairs: &Pairs) -> bool {
        self.rows.iter().zip(&pairs.a).all(|(l, a)| l.len() == a.len())
    }

    /// Whether every row is a single number, or a single 1 among zeros: a row of counts is no class.
    fn one_hot(&self) -> bool {
        self.rows.iter().all(|row| {
            let row = row.to_f64();
            row.len() == 1 || (row.iter().sum::<f64>() == 1.0 && row.iter().all(|&v| v == 0.0 || v == 1.0))
        })
    }

    /// The label rows in the shapes of the output; `None` unless they fit.
    pub(super) fn shaped_like(&self, pairs: &Pairs) -> Option<Vec<Tensor>> {
        self.rows.iter().zip(&pairs.shapes).map(|(l, shape)| l.reshaped(shape.to_vec()).ok()).collect()
    }
}

/// What each sample should give: classes by position (below 0: not labelled), or one string of symbols.
#[derive(Debug, Clone)]
pub(super) struct Targets {
    kind: MetricKind,
    axis: usize,
    /// By sample.
    pub(super) classes: Vec<Vec<i64>>,
}

fn class_axis(kind: MetricKind, pairs: &Pairs) -> usize {
    let rank = pairs.shapes.first().map_or(0, |s| s.len());
    probability_axis(pairs).unwrap_or(if kind == MetricKind::ArgmaxSequence {
        rank.saturating_sub(1)
    } else {
        default_class_axis(rank)
    })
}

impl Targets {
    /// The labels as targets, or `None` when they do not fit the output.
    pub(super) fn new(kind: MetricKind, pairs: &Pairs, labels: &Labels) -> Option<Self> {
        let at = class_axis(kind, pairs);
        let classes = labels.rows.iter().enumerate().map(|(i, label)| {
            let label = Values::of(label);
            if kind == MetricKind::ArgmaxSequence {
                return Some(label.iter().map(|v| v.round() as i64).filter(|&c| c >= 0 && c != CTC_BLANK).collect());
            }
            let axis = Axis::new(pairs.shapes[i], at);
            let positions = if pairs.integer { pairs.a[i].len() } else { axis.positions() };
            if label.len() < positions {
                return None;
            }
            let indices: Vec<i64> = label.iter().map(|v| v.round() as i64).collect();
            if label.len() == positions
                || (label.len() != pairs.a[i].len() && indices[positions..].iter().all(|&c| c < 0))
            {
                // What lies behind the last position is padding.
                return labels.integer.then(|| indices[..positions].to_vec());
            }
            (label.len() == pairs.a[i].len()).then(|| decisions(&label, axis, false))
        });
        let classes = classes.collect::<Option<Vec<Vec<i64>>>>()?;
        let labelled = kind == MetricKind::ArgmaxSequence || classes.iter().flatten().any(|&c| c >= 0);
        labelled.then_some(Self { kind, axis: at, classes })
    }

    /// Whether every target is a class that the output can name.
    fn are_classes_of(&self, pairs: &Pairs) -> bool {
        let highest = self.classes.iter().flatten().copied().max().unwrap_or(0);
        let classes = pairs.shapes.iter().map(|s| Axis::new(s, self.axis).classes.max(2)).min().unwrap_or(0);
        pairs.integer || highest < classes as i64
    }

    /// The baseline's own decisions as targets.
    pub(super) fn baseline(kind: MetricKind, pairs: &Pairs) -> Self {
        let axis = class_axis(kind, pairs);
        let classes = (0..pairs.len())
            .map(|i| decide(kind, &pairs.a[i], Axis::new(pairs.shapes[i], axis), pairs.integer))
            .collect();
        Self { kind, axis, classes }
    }

    /// Right decisions of each sample, and how many there were to make. A baked output of another shape has none right.
    pub(super) fn hits(&self, pairs: &Pairs, baked: bool) -> Vec<Hits> {
        (0..pairs.len())
            .map(|i| {
                let target = &self.classes[i];
                if self.kind == MetricKind::ArgmaxSequence {
                    let right = self.decided(pairs, baked, i).is_some_and(|d| d == *target);
                    return Hits { right: f64::from(u8::from(right)), total: 1.0 };
                }
                let total = target.iter().filter(|&&c| c >= 0 || pairs.integer).count() as f64;
                if let (MetricKind::TopK { k }, false) = (self.kind, pairs.integer) {
                    let axis = Axis::new(pairs.shapes[i], self.axis);
                    let values = if baked { &pairs.b[i] } else { &pairs.a[i] };
                    let readable = !baked || pairs.matched[i];
                    let right = target
                        .iter()
                        .enumerate()
                        .filter(|&(p, &c)| readable && c >= 0 && among_top(values, axis, p, c, k))
                        .count();
                    return Hits { right: right as f64, total };
                }
                let right = self
                    .decided(pairs, baked, i)
                    .map_or(0, |d| d.iter().zip(target).filter(|(d, t)| d == t && (**t >= 0 || pairs.integer)).count());
                Hits { right: right as f64, total }
            })
            .collect()
    }

    /// The decisions of one model on sample `i`; `None` when its output has another shape.
    pub(super) fn decided(&self, pairs: &Pairs, baked: bool, i: usize) -> Option<Vec<i64>> {
        let values = if baked { &pairs.b[i] } else { &pairs.a[i] };
        (!baked || pairs.matched[i])
            .then(|| decide(self.kind, values, Axis::new(pairs.shapes[i], self.axis), pairs.integer))
    }

    /// What the best constant answer would score.
    pub(super) fn chance(&self) -> f64 {
        let mut counts: BTreeMap<&[i64], usize> = BTreeMap::new();
        let whole = self.kind == MetricKind::ArgmaxSequence;
        let answers: Vec<&[i64]> = if whole {
            self.classes.iter().map(Vec::as_slice).collect()
        } else {
            self.classes.iter().flat_map(|c| c.chunks(1)).filter(|c| c[0] >= 0).collect()
        };
        for answer in &answers {
            *counts.entry(answer).or_default() += 1;
        }
        let mut counts: Vec<usize> = counts.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let take = if let MetricKind::TopK { k } = self.kind { k as usize } else { 1 };
        counts.iter().take(take).sum::<usize>() as f64 / answers.len().max(1) as f64
    }
}

/// Right decisions on one sample, of how many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Hits {
    pub(super) right: f64,
    pub(super) total: f64,
}

fn decide(kind: MetricKind, values: &Values, axis: Axis, integer: bool) -> Vec<i64> {
    let decisions = decisions(values, axis, integer);
    if kind == MetricKind::ArgmaxSequence { greedy_ctc(&decisions) } else { decisions }
}

/// The class of each position: the first of the largest values, or whether a single column is above 0.5. Integers are decisions themselves.
fn decisions(values: &Values, axis: Axis, integer: bool) -> Vec<i64> {
    if integer {
        return values.iter().map(|v| v as i64).collect();
    }
    (0..axis.positions())
        .map(|p| {
            if axis.classes == 1 {
                return i64::from(values.get(axis.index(p, 0)) > 0.5);
            }
            let mut best = 0;
            for c in 1..axis.classes {
                if values.get(axis.index(p, c)) > values.get(axis.index(p, best)) {
                    best = c;
                }
            }
            best as i64
        })
        .collect()
}

fn among_top(values: &Values, axis: Axis, position: usize, class: i64, k: u32) -> bool {
    let class = class as usize;
    if class >= axis.classes.max(2) {
        return false;
    }
    if axis.classes == 1 {
        return (values.get(axis.index(position, 0)) > 0.5) == (class == 1);
    }
    let value = values.get(axis.index(position, class));
    let ahead = (0..axis.classes).filter(|&c| {
        let other = values.get(axis.index(position, c));
        other > value || (other == value && c < class)
    });
    ahead.count() < k as usize
}

/// Repeats merged, then blanks dropped (Graves et al. 2006, "Connectionist temporal classification", section 3.2, best path decoding).
fn greedy_ctc(symbols: &[i64]) -> Vec<i64> {
    let mut string = Vec::new();
    let mut last = None;
    for &symbol in symbols {
        if last != Some(symbol) && symbol != CTC_BLANK {
            string.push(symbol);
        }
        last = Some(symbol);
    }
    string
}

/// True positives, false positives and false negatives of each class on each sample.
#[derive(Debug)]
pub(super) struct Confusion {
    samples: Vec<Vec<(usize, [f64; 3])>>,
    classes: usize,
}

impl Confusion {
    pub(super) fn new(targets: &Targets, pairs: &Pairs, baked: bool) -> Self {
        let mut numbers = BTreeMap::new();
        let mut samples = Vec::with_capacity(pairs.len());
        for i in 0..pairs.len() {
            let decided = targets.decided(pairs, baked, i);
            let mut counts: BTreeMap<usize, [f64; 3]> = BTreeMap::new();
            for (p, &truth) in targets.classes[i].iter().enumerate().filter(|&(_, &t)| t >= 0) {
                let said = decided.as_ref().map(|d| d[p]);
                let mut count = |class: i64, what: usize| {
                    let next = numbers.len();
                    counts.entry(*numbers.entry(class).or_insert(next)).or_default()[what] += 1.0;
                };
                if said == Some(truth) {
                    count(truth, 0);
                } else {
                    count(truth, 2);
                    if let Some(said) = said {
                        count(said, 1);
                    }
                }
            }
            samples.push(counts.into_iter().collect::<Vec<_>>());
        }
        Self { samples, classes: numbers.len() }
    }

    /// F1 under weights: the mean over the classes that occur in labels or decisions. NaN when none does.
    pub(super) fn f1(&self, weights: &[f64]) -> f64 {
        let mut counts = vec![[0.0; 3]; self.classes];
        for (sample, w) in self.samples.iter().zip(weights).filter(|(_, w)| **w > 0.0) {
            for &(class, found) in sample {
                for (sum, count) in counts[class].iter_mut().zip(found) {
                    *sum += w * count;
                }
            }
        }
        let scores: Vec<f64> = counts
            .iter()
            .filter(|c| c.iter().sum::<f64>() > 0.0)
            .map(|[tp, fp, fneg]| 2.0 * tp / (2.0 * tp + fp + fneg))
            .collect();
        scores.iter().sum::<f64>() / scores.len() as f64
    }

    /// F1 of always answering the commonest class.
    pub(super) fn chance(&self, targets: &Targets) -> f64 {
        let share = targets.chance();
        2.0 * share / (1.0 + share) / self.classes.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[f32]]) -> Vec<Tensor> {
        rows.iter().map(|r| Tensor::new(&[1, r.len()], r)).collect()
    }

    fn right(kind: MetricKind, outputs: &[Tensor], labels: &Tensor) -> Vec<f64> {
        let pairs = Pairs::new("y", outputs, outputs).unwrap();
        let labels = Labels::new(labels, outputs.len()).unwrap();
        Targets::new(kind, &pairs, &labels).unwrap().hits(&pairs, true).iter().map(|h| h.right / h.total).collect()
    }

    #[test]
    fn labels_may_be_class_numbers_or_rows_of_any_type() {
        let outputs = rows(&[&[0.1, 0.9], &[0.8, 0.2], &[0.3, 0.7]]);
        for labels in [
            Tensor::new(&[3], &[1_i64, 0, 0]),
            Tensor::new(&[3, 1], &[1.0_f32, 0.0, 0.0]),
            Tensor::new(&[3, 2], &[0.0_f32, 1.0, 1.0, 0.0, 1.0, 0.0]),
            Tensor::new(&[3, 2], &[0_u8, 1, 1, 0, 1, 0]),
        ] {
            assert_eq!(right(MetricKind::Top1, &outputs, &labels), [1.0, 1.0, 0.0], "{labels:?}");
        }
    }

    #[test]
    fn a_single_column_decides_at_one_half() {
        assert_eq!(right(MetricKind::Top1, &rows(&[&[0.6], &[0.5]]), &Tensor::new(&[2], &[1_i64, 1])), [1.0, 0.0]);
    }

    #[test]
    fn top_k_looks_at_k_classes_and_breaks_ties_by_number() {
        let outputs = rows(&[&[6.0, 5.0, 4.0, 3.0, 2.0, 2.0, 0.0], &[6.0, 5.0, 4.0, 3.0, 2.0, 2.0, 0.0]]);
        assert_eq!(right(MetricKind::TopK { k: 5 }, &outputs, &Tensor::new(&[2], &[4_i64, 5])), [1.0, 0.0]);
    }

    #[test]
    fn positions_of_a_map_are_shares_and_unlabelled_ones_do_not_count() {
        // Two classes (axis 1) on a 1 x 3 map.
        let outputs = [Tensor::new(&[1, 2, 1, 3], &[9.0_f32, 0.0, 9.0, 0.0, 9.0, 0.0])];
        assert_eq!(right(MetricKind::Top1, &outputs, &Tensor::new(&[1, 1, 3], &[0_i64, 0, -1])), [0.5]);
    }

    #[test]
    fn greedy_ctc_merges_repeats_then_drops_blanks() {
        assert_eq!(greedy_ctc(&[0, 3, 3, 0, 3, 5, 5, 0]), [3, 3, 5]);
        let step = |c: usize| (0..4).map(move |k| if k == c { 1.0_f32 } else { 0.0 });
        let values: Vec<f32> = [1, 1, 0, 2].into_iter().flat_map(step).collect();
        let outputs = [Tensor::new(&[1, 4, 4], &values)];
        assert_eq!(right(MetricKind::ArgmaxSequence, &outputs, &Tensor::new(&[1, 3], &[1_i64, 2, -1])), [1.0]);
        assert_eq!(right(MetricKind::ArgmaxSequence, &outputs, &Tensor::new(&[1, 3], &[1_i64, 1, 2])), [0.0]);
    }

    #[test]
    fn f1_is_that_of_scikit_learn() {
        // f1_score([0,1,2,2,1,0], [0,1,2,1,1,2], average="macro") = 0.655...: classes 2/3, 4/5, 1/2.
        let said = [0, 1, 2, 1, 1, 2];
        let outputs: Vec<Tensor> = said
            .iter()
            .map(|&c| Tensor::new(&[1, 3], &[0, 1, 2].map(|k| if k == c { 1.0_f32 } else { 0.0 })))
            .collect();
        let pairs = Pairs::new("y", &outputs, &outputs).unwrap();
        let labels = Labels::new(&Tensor::new(&[6], &[0_i64, 1, 2, 2, 1, 0]), 6).unwrap();
        let targets = Targets::new(MetricKind::F1, &pairs, &labels).unwrap();
        let f1 = Confusion::new(&targets, &pairs, true).f1(&[1.0; 6]);
        assert!((f1 - (2.0 / 3.0 + 0.8 + 0.5) / 3.0).abs() < 1e-12, "{f1}");
        assert!((Confusion::new(&targets, &pairs, true).chance(&targets) - 0.5 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn the_metric_is_read_from_the_values() {
        let varied: Vec<Tensor> =
            (0..40).map(|i| Tensor::new(&[1, 2], &if i % 2 == 0 { [0.3_f32, 0.7] } else { [0.6, 0.4] })).collect();
        let one_class: Vec<Tensor> =
            (0..40).map(|i| Tensor::new(&[1, 2], &if i == 0 { [0.3_f32, 0.7] } else { [0.6, 0.4] })).collect();
        let logits: Vec<Tensor> = (0..40).map(|i| Tensor::new(&[1, 2], &[i as f32, -1.0])).collect();
        let integers: Vec<Tensor> = (0..40).map(|i| Tensor::new(&[1], &[i64::from(i)])).collect();
        for (outputs, kind) in [
            (varied, MetricKind::Top1),
            (one_class, MetricKind::Cosine),
            (logits, MetricKind::Cosine),
            (integers, MetricKind::ShareEqual),
        ] {
            assert_eq!(infer(&Pairs::new("y", &outputs, &outputs).unwrap()).kind, kind);
        }
    }

    #[test]
    fn with_labels_the_metric_fits_them() {
        let logits: Vec<Tensor> = (0..3).map(|i| Tensor::new(&[1, 2], &[i as f32, -1.5])).collect();
        let pairs = Pairs::new("y", &logits, &logits).unwrap();
        let kind = |labels: Tensor| infer_labelled(&pairs, &Labels::new(&labels, 3).unwrap()).map(|i| i.kind);
        assert_eq!(kind(Tensor::new(&[3, 2], &[0_i64, 1, 1, 0, 0, 1])), Some(MetricKind::Top1));
        assert_eq!(kind(Tensor::new(&[3, 2], &[7_i64, 1, 3, 0, 4, 9])), Some(MetricKind::R2));
        assert_eq!(kind(Tensor::new(&[3], &[0_i64, 1, 0])), Some(MetricKind::Top1));
        assert_eq!(kind(Tensor::new(&[3, 2], &[0.5_f32, 1.0, 0.0, 2.5, 1.0, 1.0])), Some(MetricKind::R2));
        assert_eq!(kind(Tensor::new(&[3, 7], &[0.5_f32; 21])), None);
    }
}
