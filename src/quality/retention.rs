//! Accuracy retention: the metric of the baked model over that of the baseline with true labels; without labels, their agreement.

use serde::{Deserialize, Serialize};

use super::QualityError;
use super::figure::{Concern, Figure};
use super::metric::{Confusion, Hits, Inference, Labels, MetricKind, Targets, infer, infer_labelled};
use super::moments::{Moments, Sums, resample};
use super::stats::bootstrap::RESAMPLES;
use super::stats::proportion::PairedCounts;
use super::stats::{Interval, Replicates, Resampler, bca, complement, ratio_of_paired_proportions, wilson};
use super::values::{Pairs, Values};
use crate::model::Tensor;

/// The largest number of samples whose outcomes are kept in the report.
const RAW_SAMPLES: usize = 4096;

/// How accuracy retention came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetentionDetails {
    /// The metric of the output that decides.
    pub metric: MetricKind,
    /// Why this metric: `named`, or what the values showed.
    pub why: String,
    /// Whether true labels were used; otherwise this is agreement with the baseline.
    pub labelled: bool,
    /// The output that was judged (the one of lowest agreement, without labels).
    pub output: String,
    /// The baseline's metric; 1 for agreement.
    pub baseline: Option<f64>,
    /// The baked model's metric, or its agreement.
    pub baked: Option<f64>,
    /// What a constant answer scores; labels only.
    pub chance: Option<f64>,
    /// Without labels, each output's agreement.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Agreement>,
    /// Of metrics that count: the share of right decisions of baseline and baked model on each sample, up to 4,096 samples.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<[f64; 2]>,
}

/// Agreement of one output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// The output.
    pub output: String,
    /// Its metric.
    pub metric: MetricKind,
    /// Why this metric.
    pub why: String,
    /// Its agreement.
    pub figure: Figure,
}

/// Seed and whether intervals are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    pub(super) seed: u64,
    pub(super) intervals: bool,
}

/// Accuracy retention over `outputs`, which are not empty.
pub(super) fn retention(
    outputs: &[&Pairs],
    labels: Option<&Tensor>,
    metric: Option<MetricKind>,
    effort: Effort,
) -> Result<(Figure, RetentionDetails), QualityError> {
    let mut notes = Vec::new();
    if let Some(labels) = labels {
        let n = outputs[0].len();
        let rows = Labels::new(labels, n).ok_or_else(|| QualityError::LabelCount { shape: labels.shape().to_vec(), samples: n })?;
        for pairs in outputs {
            let chosen = match metric {
                Some(kind) => Some(Inference { kind, why: "named".to_owned() }),
                None => infer_labelled(pairs, &rows),
            };
            if let Some(result) = chosen.and_then(|c| labelled(pairs, &rows, &c, effort)) {
                return Ok(result);
            }
        }
        if let Some(metric) = metric {
            return Err(QualityError::LabelsDoNotFit { metric, shape: labels.shape().to_vec() });
        }
        notes.push(format!("labels of shape {:?} fit no output, so agreement with the baseline was measured instead", labels.shape()));
    }
    let agreements: Vec<(Agreement, Vec<[f64; 2]>)> = outputs.iter().map(|pairs| agreement(pairs, metric, effort)).collect();
    let figures: Vec<Figure> = agreements.iter().map(|(a, _)| a.figure.clone()).collect();
    let mut figure = Figure::lowest(&figures).expect("there is an output");
    figure.notes.extend(notes);
    let lowest = figures.iter().position(|f| f.estimate == figure.estimate).unwrap_or(0);
    let (of, samples) = agreements[lowest].clone();
    let details = RetentionDetails {
        metric: of.metric,
        why: of.why,
        labelled: false,
        output: of.output,
        baseline: Some(1.0),
        baked: figure.estimate,
        chance: None,
        outputs: agreements.into_iter().map(|(a, _)| a).collect(),
        samples,
    };
    Ok((figure, details))
}

const BONETT_PRICE: &str = "Bonett-Price, ratio of paired proportions";

fn bootstrap_name() -> String {
    format!("BCa bootstrap, {RESAMPLES} resamples")
}

/// The interval of a bootstrap that says nothing (every resample the same) although the outputs differ, for a ratio of 1: that of as many concordant
/// pairs of successes.
fn concordant(n: usize) -> Option<Interval> {
    ratio_of_paired_proportions(PairedCounts { both: n as u64, ..PairedCounts::default() })
}

fn labelled(pairs: &Pairs, rows: &Labels, chosen: &Inference, effort: Effort) -> Option<(Figure, RetentionDetails)> {
    // Integer outputs are decisions, so their share of equal elements is their Top1.
    let kind = if chosen.kind == MetricKind::ShareEqual { MetricKind::Top1 } else { chosen.kind };
    let scored = match kind {
        MetricKind::R2 | MetricKind::Cosine => by_moments(pairs, rows, kind, effort)?,
        MetricKind::F1 => by_f1(pairs, &Targets::new(kind, pairs, rows)?, effort),
        _ => by_counts(pairs, &Targets::new(kind, pairs, rows)?, effort),
    };
    let Scored { baseline, baked, chance, interval, method, n, samples } = scored;
    let ratio = baked / baseline;
    let mut interval = interval;
    let mut method = method;
    if effort.intervals && !pairs.identical && ratio == 1.0 && interval.is_some_and(Interval::is_zero_width) {
        interval = concordant(n);
        method = format!("{BONETT_PRICE} (every resample agreed)");
    }
    let mut figure = Figure::new(ratio, interval, n, &method);
    figure.identical = pairs.identical;
    // Written so that a metric that is not a number is not above chance either.
    let above_chance = baseline > chance;
    if !above_chance {
        figure.concern = Some(Concern::BaselineAtChance(format!(
            "the baseline's {kind} of {baseline:.4} is not above the {chance:.4} of a constant answer; give other labels or a better model"
        )));
    }
    let some = |v: f64| Some(v).filter(|v| v.is_finite());
    let details = RetentionDetails {
        metric: kind,
        why: chosen.why.clone(),
        labelled: true,
        output: pairs.name.to_owned(),
        baseline: some(baseline),
        baked: some(baked),
        chance: some(chance),
        outputs: Vec::new(),
        samples,
    };
    Some((figure, details))
}

struct Scored {
    baseline: f64,
    baked: f64,
    chance: f64,
    interval: Option<Interval>,
    method: String,
    n: usize,
    samples: Vec<[f64; 2]>,
}

/// The sum of `right` over the sum of `total` under weights.
fn pooled(hits: &[Hits], weights: &[f64]) -> f64 {
    let (right, total) = hits.iter().zip(weights).fold((0.0, 0.0), |(r, t), (h, w)| (r + w * h.right, t + w * h.total));
    right / total
}

fn shares(baseline: &[Hits], baked: &[Hits]) -> Vec<[f64; 2]> {
    let share = |h: &Hits| if h.total > 0.0 { h.right / h.total } else { 0.0 };
    baseline.iter().zip(baked).take(RAW_SAMPLES).map(|(a, b)| [share(a), share(b)]).collect()
}

fn by_counts(pairs: &Pairs, targets: &Targets, effort: Effort) -> Scored {
    let (a, b) = (targets.hits(pairs, false), targets.hits(pairs, true));
    let kept: Vec<(Hits, Hits)> = a.iter().copied().zip(b.iter().copied()).filter(|(h, _)| h.total > 0.0).collect();
    let n = kept.len();
    let ones = vec![1.0; a.len()];
    let single = kept.iter().all(|(h, _)| h.total == 1.0);
    let (interval, method) = if !effort.intervals {
        (None, String::new())
    } else if single {
        let counts = PairedCounts::of(kept.iter().map(|(x, y)| (y.right > 0.0, x.right > 0.0)));
        (ratio_of_paired_proportions(counts), BONETT_PRICE.to_owned())
    } else {
        // Several decisions in one sample are not independent, so whole samples are drawn.
        let replicates = Resampler::new(a.len(), effort.seed).run(|w| pooled(&b, w) / pooled(&a, w));
        (bca(pooled(&b, &ones) / pooled(&a, &ones), &replicates), bootstrap_name())
    };
    Scored { baseline: pooled(&a, &ones), baked: pooled(&b, &ones), chance: targets.chance(), interval, method, n, samples: shares(&a, &b) }
}

fn by_f1(pairs: &Pairs, targets: &Targets, effort: Effort) -> Scored {
    let (a, b) = (Confusion::new(targets, pairs, false), Confusion::new(targets, pairs, true));
    let ones = vec![1.0; pairs.len()];
    let (baseline, baked) = (a.f1(&ones), b.f1(&ones));
    let interval = effort
        .intervals
        .then(|| bca(baked / baseline, &Resampler::new(pairs.len(), effort.seed).run(|w| b.f1(w) / a.f1(w))))
        .flatten();
    let samples = shares(&targets.hits(pairs, false), &targets.hits(pairs, true));
    Scored { baseline, baked, chance: a.chance(targets), interval, method: bootstrap_name(), n: pairs.len(), samples }
}

fn score(kind: MetricKind, sums: &Sums) -> f64 {
    if kind == MetricKind::R2 { sums.r2() } else { 1.0 - sums.cosine_defect() }
}

fn by_moments(pairs: &Pairs, rows: &Labels, kind: MetricKind, effort: Effort) -> Option<Scored> {
    let truth = rows.shaped_like(pairs)?;
    let against = |side: &[Values], matched: Vec<bool>| {
        let a = truth.iter().map(Values::of).collect();
        let truth = Pairs { a, b: side.to_vec(), matched, ..pairs.shallow() };
        Moments::new(&truth, true)
    };
    let (a, b) = (against(&pairs.a, vec![true; pairs.len()]), against(&pairs.b, pairs.matched.clone()));
    let ratio = |sums: &[Sums]| {
        let (baseline, baked) = (score(kind, &sums[0]), score(kind, &sums[1]));
        // A resample on which the baseline explains nothing has no ratio.
        if baseline > 0.0 { baked / baseline } else { f64::NAN }
    };
    let (all_a, all_b) = (a.all(), b.all());
    let (baseline, baked) = (score(kind, &all_a), score(kind, &all_b));
    let interval = effort.intervals.then(|| {
        let (resampled, left_out) = resample(&[&a, &b], effort.seed, ratio);
        bca(ratio(&[all_a, all_b]), &Replicates { resampled, left_out })
    });
    let n = pairs.len();
    Some(Scored { baseline, baked, chance: 0.0, interval: interval.flatten(), method: bootstrap_name(), n, samples: Vec::new() })
}

fn agreement(pairs: &Pairs, metric: Option<MetricKind>, effort: Effort) -> (Agreement, Vec<[f64; 2]>) {
    let chosen = match metric {
        // Of integers, every metric of decisions is the share of equal ones.
        Some(kind) if !pairs.integer => Inference { kind, why: "named".to_owned() },
        _ => infer(pairs),
    };
    let n = pairs.len();
    let mut samples = Vec::new();
    let mut figure = match chosen.kind {
        MetricKind::Cosine | MetricKind::R2 => {
            let moments = Moments::new(pairs, true);
            let defect = |sums: &Sums| if chosen.kind == MetricKind::R2 { 1.0 - sums.r2() } else { sums.cosine_defect() };
            let defect = |sums: &Sums| if sums.dd == 0.0 { 1.0 - sums.share } else { defect(sums) };
            let all = defect(&moments.all());
            let interval = effort.intervals.then(|| {
                let (resampled, left_out) = resample(&[&moments], effort.seed, |sums| defect(&sums[0]));
                bca(all, &Replicates { resampled, left_out })
            });
            Figure::new(complement(all), interval.flatten().map(Interval::of_complement), n, &bootstrap_name())
        }
        MetricKind::F1 => {
            let confusion = Confusion::new(&Targets::baseline(chosen.kind, pairs), pairs, true);
            let f1 = confusion.f1(&vec![1.0; n]);
            let interval = effort.intervals.then(|| bca(f1, &Resampler::new(n, effort.seed).run(|w| confusion.f1(w))));
            Figure::new(f1, interval.flatten(), n, &bootstrap_name())
        }
        kind => {
            let targets = Targets::baseline(kind, pairs);
            let (a, b) = (targets.hits(pairs, false), targets.hits(pairs, true));
            samples = shares(&a, &b);
            let estimate = if b.iter().all(|h| h.total == 0.0) { f64::from(u8::from(pairs.identical)) } else { pooled(&b, &vec![1.0; n]) };
            if !effort.intervals {
                Figure::new(estimate, None, n, "")
            } else if b.iter().all(|h| h.total == 1.0) {
                Figure::new(estimate, Some(wilson(b.iter().filter(|h| h.right > 0.0).count() as u64, n as u64)), n, "Wilson")
            } else {
                let replicates = Resampler::new(n, effort.seed).run(|w| pooled(&b, w));
                Figure::new(estimate, bca(estimate, &replicates), n, &bootstrap_name())
            }
        }
    };
    if effort.intervals && !pairs.identical && figure.interval().is_some_and(Interval::is_zero_width) {
        // Every resample agreed: as much is known as from n equal outcomes.
        let outcomes = match figure.estimate {
            Some(1.0) => Some(n),
            Some(0.0) => Some(0),
            _ => None,
        };
        if let Some(outcomes) = outcomes {
            figure = Figure::new(figure.estimate.unwrap_or(0.0), Some(wilson(outcomes as u64, n as u64)), n, "Wilson (every resample agreed)");
        }
    }
    figure.identical = pairs.identical;
    (Agreement { output: pairs.name.to_owned(), metric: chosen.kind, why: chosen.why, figure }, samples)
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::quality::moments::tests::noise;

    const EFFORT: Effort = Effort { seed: 1, intervals: true };

    fn run(a: &[Tensor], b: &[Tensor], labels: Option<&Tensor>, metric: Option<MetricKind>) -> (Figure, RetentionDetails) {
        retention(&[&Pairs::new("y", a, b).unwrap()], labels, metric, EFFORT).unwrap()
    }

    fn one_hot(classes: &[usize]) -> Vec<Tensor> {
        classes.iter().map(|&c| Tensor::new(&[1, 3], &[0, 1, 2].map(|k| if k == c { 0.8_f32 } else { 0.1 }))).collect()
    }

    #[test]
    fn with_labels_it_is_the_ratio_of_right_decisions() {
        let truth: Vec<usize> = (0..100).map(|i| i % 3).collect();
        let wrong = |many: usize| one_hot(&truth.iter().enumerate().map(|(i, &c)| if i < many { (c + 1) % 3 } else { c }).collect::<Vec<_>>());
        let labels = Tensor::new(&[100], &truth.iter().map(|&c| c as i64).collect::<Vec<_>>());
        let (figure, details) = run(&wrong(10), &wrong(19), Some(&labels), None);
        assert!((figure.estimate.unwrap() - 0.9).abs() < 1e-12);
        assert_eq!((details.metric, details.baseline, details.baked, details.labelled), (MetricKind::Top1, Some(0.9), Some(0.81), true));
        assert_eq!(figure.method, BONETT_PRICE);
        assert_eq!(details.samples[15], [1.0, 0.0]);
    }

    #[test]
    fn a_baseline_at_chance_has_nothing_to_retain() {
        let truth = Tensor::new(&[60], &(0..60).map(|i| i64::from(i % 3 == 0)).collect::<Vec<_>>());
        let zeros = one_hot(&[0; 60]);
        let (figure, _) = run(&zeros, &zeros, Some(&truth), Some(MetricKind::Top1));
        assert!(matches!(figure.concern, Some(Concern::BaselineAtChance(_))));
        let flat: Vec<Tensor> = (0..60).map(|_| Tensor::new(&[1], &[0.3_f32])).collect();
        let targets = Tensor::new(&[60, 1], &(0..60).map(|i| i as f32 * 0.5).collect::<Vec<_>>());
        let (figure, _) = run(&flat, &flat, Some(&targets), Some(MetricKind::R2));
        assert!(matches!(figure.concern, Some(Concern::BaselineAtChance(_))));
    }

    #[test]
    fn r2_is_one_minus_residual_over_spread() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let truth: Vec<f32> = (0..80).map(|_| noise(&mut rng)).collect();
        let said = |scale: f32| truth.iter().map(|&t| Tensor::new(&[1, 1], &[t * scale])).collect::<Vec<_>>();
        let (figure, details) = run(&said(1.0), &said(0.9), Some(&Tensor::new(&[80], &truth)), Some(MetricKind::R2));
        let mean = truth.iter().sum::<f32>() / 80.0;
        let spread: f32 = truth.iter().map(|t| (t - mean).powi(2)).sum();
        let expected = 1.0 - 0.01 * truth.iter().map(|t| t * t).sum::<f32>() / spread;
        assert!((details.baked.unwrap() - f64::from(expected)).abs() < 1e-5 && details.baseline == Some(1.0));
        assert!(figure.interval().unwrap().contains(figure.estimate.unwrap()));
    }

    #[test]
    fn without_labels_it_is_agreement_by_the_kind_of_output() {
        let classes: Vec<usize> = (0..50).map(|i| i % 3).collect();
        let mut other = classes.clone();
        other[7] = (other[7] + 1) % 3;
        let (figure, details) = run(&one_hot(&classes), &one_hot(&other), None, None);
        assert_eq!((figure.estimate, details.metric), (Some(0.98), MetricKind::Top1));
        assert_eq!(figure.interval(), Some(wilson(49, 50)));
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let vectors: Vec<Tensor> = (0..50).map(|_| Tensor::new(&[1, 2], &[noise(&mut rng), noise(&mut rng) + 9.0])).collect();
        let constant: Vec<Tensor> = (0..50).map(|_| Tensor::new(&[1, 2], &[0.0_f32, 9.0])).collect();
        let (figure, details) = run(&vectors, &constant, None, None);
        assert_eq!(details.metric, MetricKind::Cosine);
        assert!(figure.estimate.unwrap().abs() < 0.5, "{figure:?}");
    }

    #[test]
    fn maps_whose_every_decision_agrees_keep_an_interval_of_some_width() {
        let map = |bump: f32| -> Vec<Tensor> {
            (0..40).map(|i| Tensor::new(&[1, 2, 1, 2], &[i as f32 + bump, 1.5, 1.0, i as f32])).collect()
        };
        let (figure, _) = run(&map(0.0), &map(0.01), None, Some(MetricKind::Top1));
        assert_eq!(figure.estimate, Some(1.0));
        assert!(figure.lower.unwrap() < 0.95, "{figure:?}");
    }

    #[test]
    fn a_difference_of_the_last_bit_leaves_an_interval_of_some_width() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let a: Vec<[f32; 3]> = (0..30).map(|_| [noise(&mut rng), noise(&mut rng), noise(&mut rng)]).collect();
        let tensors = |rows: &[[f32; 3]]| rows.iter().map(|r| Tensor::new(&[1, 3], r)).collect::<Vec<_>>();
        let mut b = a.clone();
        b[3][1] = b[3][1].next_up();
        let (figure, _) = run(&tensors(&a), &tensors(&b), None, None);
        assert!(figure.estimate.unwrap() < 1.0 && figure.lower < figure.upper, "{figure:?}");
    }

    #[test]
    fn labels_of_another_count_or_form_are_refused() {
        let outputs = one_hot(&[0, 1, 2]);
        let pairs = Pairs::new("y", &outputs, &outputs).unwrap();
        let run = |labels: &Tensor| retention(&[&pairs], Some(labels), Some(MetricKind::R2), EFFORT);
        assert!(matches!(run(&Tensor::new(&[2], &[0_i64, 1])), Err(QualityError::LabelCount { .. })));
        assert!(matches!(run(&Tensor::new(&[3], &[0_i64, 1, 2])), Err(QualityError::LabelsDoNotFit { .. })));
    }
}
