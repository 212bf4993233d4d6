//! Quality end to end on a small classifier: honest bakes pass, ruined ones fail, and nothing passes for want of data.
#![cfg(feature = "engine")]
#![allow(clippy::unwrap_used)] // a test that cannot go on fails

use bakehouse::api::bakejob::Verdict;
use bakehouse::api::{Bound, Gate, Metric};
use bakehouse::model::Tensor;
use bakehouse::quality::{
    Evaluation, GateReason, MetricKind, OutputPair, QualityReport, Rows, TapPair, decide, evaluate, overall, quick,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const INPUTS: usize = 16;
const HIDDEN: usize = 32;
const CLASSES: usize = 10;

/// Roughly normal, of variance 1.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    ((0..12).map(|_| rng.next_u32() as f32 / u32::MAX as f32).sum::<f32>()) - 6.0
}

fn matrix(rng: &mut ChaCha8Rng, rows: usize, columns: usize, scale: f32) -> Vec<f32> {
    (0..rows * columns).map(|_| normal(rng) * scale).collect()
}

/// Two layers and a softmax.
#[derive(Clone)]
struct Network {
    first: Vec<f32>,
    second: Vec<f32>,
    bias: Vec<f32>,
}

struct Run {
    hidden: Rows,
    probabilities: Vec<Tensor>,
}

fn times(x: &[f32], weights: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).map(|k| x.iter().enumerate().map(|(j, v)| v * weights[j * columns + k]).sum()).collect()
}

impl Network {
    fn random(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Self {
            first: matrix(&mut rng, INPUTS, HIDDEN, 0.25),
            second: matrix(&mut rng, HIDDEN, CLASSES, 0.5),
            bias: matrix(&mut rng, 1, CLASSES, 0.1),
        }
    }

    /// A random first layer under the classes' mean features, which classify well.
    fn trained(data: &Data) -> Self {
        let mut network = Self::random(1);
        let mut means = vec![[0.0_f32; HIDDEN]; CLASSES];
        let mut counts = [0.0_f32; CLASSES];
        for (x, &class) in data.inputs.iter().zip(&data.labels) {
            counts[class as usize] += 1.0;
            for (m, h) in means[class as usize].iter_mut().zip(network.hidden(x)) {
                *m += h;
            }
        }
        for (class, mean) in means.iter_mut().enumerate() {
            for m in mean.iter_mut() {
                *m /= counts[class];
            }
            network.bias[class] = -0.5 * mean.iter().map(|m| m * m).sum::<f32>();
            for (j, m) in mean.iter().enumerate() {
                network.second[j * CLASSES + class] = *m;
            }
        }
        network
    }

    fn rounded(&self, levels: f32) -> Self {
        let round = |weights: &[f32]| {
            let scale = weights.iter().fold(0.0_f32, |m, w| m.max(w.abs())) / levels;
            weights.iter().map(|w| (w / scale).round() * scale).collect()
        };
        Self { first: round(&self.first), second: round(&self.second), bias: self.bias.clone() }
    }

    fn hidden(&self, x: &[f32]) -> Vec<f32> {
        times(x, &self.first, HIDDEN).into_iter().map(|v| v.max(0.0)).collect()
    }

    fn run(&self, inputs: &[Vec<f32>]) -> Run {
        let mut hidden = Rows { width: HIDDEN, values: Vec::new() };
        let probabilities = inputs.iter().map(|x| {
            let features = self.hidden(x);
            let logits: Vec<f32> =
                times(&features, &self.second, CLASSES).iter().zip(&self.bias).map(|(l, b)| l + b).collect();
            hidden.values.extend(features);
            let largest = logits.iter().copied().fold(f32::MIN, f32::max);
            let e: Vec<f32> = logits.iter().map(|l| (l - largest).exp()).collect();
            let sum: f32 = e.iter().sum();
            Tensor::new(&[1, CLASSES], &e.iter().map(|v| v / sum).collect::<Vec<_>>())
        });
        let probabilities = probabilities.collect();
        Run { hidden, probabilities }
    }
}

struct Data {
    inputs: Vec<Vec<f32>>,
    labels: Vec<i64>,
}

fn data(n: usize, seed: u64) -> Data {
    let prototypes = matrix(&mut ChaCha8Rng::seed_from_u64(99), CLASSES, INPUTS, 1.5);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let labels: Vec<i64> = (0..n).map(|_| i64::from(rng.next_u32() % CLASSES as u32)).collect();
    let inputs = labels
        .iter()
        .map(|&c| prototypes[c as usize * INPUTS..][..INPUTS].iter().map(|p| p + 0.7 * normal(&mut rng)).collect())
        .collect();
    Data { inputs, labels }
}

fn evaluation<'a>(baseline: &Run, baked: &Run, labels: Option<&'a Tensor>) -> Evaluation<'a> {
    Evaluation {
        outputs: vec![OutputPair {
            name: "probabilities".into(),
            baseline: baseline.probabilities.clone(),
            baked: baked.probabilities.clone(),
        }],
        taps: vec![TapPair { name: "hidden".into(), baseline: baseline.hidden.clone(), baked: baked.hidden.clone() }],
        labels,
        seed: 7,
        ..Evaluation::default()
    }
}

fn default_gates() -> Vec<Gate> {
    Metric::DEFAULT_GATES.iter().map(|&(metric, min)| Gate { metric, bound: Bound::Min(min) }).collect()
}

fn verdicts(report: &QualityReport) -> Vec<Verdict> {
    decide(&default_gates(), &report.figures()).iter().map(|r| r.verdict).collect()
}

fn bake(n: usize, labelled: bool, change: impl Fn(&Network) -> Network) -> QualityReport {
    let network = Network::trained(&data(500, 1));
    let held_out = data(n, 2);
    let labels = Tensor::new(&[n], &held_out.labels);
    let (baseline, baked) = (network.run(&held_out.inputs), change(&network).run(&held_out.inputs));
    evaluate(&evaluation(&baseline, &baked, labelled.then_some(&labels))).unwrap()
}

#[test]
fn eight_bit_weights_pass_every_gate_with_labels_and_without() {
    for labelled in [true, false] {
        let report = bake(400, labelled, |network| network.rounded(127.0));
        assert_eq!(verdicts(&report), [Verdict::Pass; 4], "{report:#?}");
        assert_eq!((report.retention.metric, report.retention.labelled), (MetricKind::Top1, labelled));
        assert!(report.retention.baseline.unwrap() > 0.9 && !report.identical);
    }
}

#[test]
fn random_weights_fail_every_gate_with_labels_and_without() {
    for (labelled, seed) in [(true, 11), (false, 12), (true, 13)] {
        let report = bake(400, labelled, |_| Network::random(seed));
        let results = decide(&default_gates(), &report.figures());
        assert_eq!(verdicts(&report), [Verdict::Fail; 4], "{results:#?}");
    }
}

#[test]
fn weights_of_one_bit_fail_where_it_matters() {
    let report = bake(400, true, |network| network.rounded(1.0));
    assert!(verdicts(&report).contains(&Verdict::Fail), "{report:#?}");
    assert!(report.output_consistency.upper.unwrap() < 0.95);
}

#[test]
fn a_constant_answer_fails_and_scores_zero() {
    let report = bake(100, true, |network| Network { first: vec![0.0; INPUTS * HIDDEN], ..network.clone() });
    let results = decide(&default_gates(), &report.figures());
    assert_eq!(verdicts(&report), [Verdict::Fail; 4], "{results:#?}");
    assert!(report.output_consistency.estimate.unwrap().abs() < 1e-9);
    assert_eq!(results[1].reason, GateReason::Collapsed);
}

#[test]
fn an_unchanged_model_is_identical_and_few_samples_decide_nothing() {
    let report = bake(200, true, Network::clone);
    assert!(report.identical);
    assert_eq!(report.output_consistency.estimate, Some(1.0));
    assert_eq!(verdicts(&report), [Verdict::Pass; 4]);
    let report = bake(19, true, Network::clone);
    assert_eq!(verdicts(&report), [Verdict::Inconclusive; 4]);
}

#[test]
fn without_taps_feature_preservation_is_missing_and_the_whole_inconclusive() {
    let network = Network::trained(&data(500, 1));
    let run = network.run(&data(200, 2).inputs);
    let report = evaluate(&Evaluation { taps: Vec::new(), ..evaluation(&run, &run, None) }).unwrap();
    let results = decide(&default_gates(), &report.figures());
    assert_eq!(results[2].reason, GateReason::MissingData);
    assert_eq!(overall(&results), Verdict::Inconclusive);
}

#[test]
fn nan_anywhere_is_a_failure_of_all_that_looks_at_outputs() {
    use Verdict::{Fail, Pass};
    let network = Network::trained(&data(500, 1));
    let run = network.run(&data(200, 2).inputs);
    let mut broken = network.run(&data(200, 2).inputs);
    let mut row = broken.probabilities[150].to_f32().into_owned();
    row[9] = f32::NAN;
    broken.probabilities[150] = Tensor::new(&[1, CLASSES], &row);
    let report = evaluate(&evaluation(&run, &broken, None)).unwrap();
    assert_eq!(verdicts(&report), [Fail, Fail, Pass, Fail]);
    assert!(quick(&evaluation(&run, &broken, None)).unwrap().broken);
}

#[test]
fn the_same_seed_gives_the_same_report_and_quick_the_same_estimates() {
    let network = Network::trained(&data(500, 1));
    let inputs = data(150, 2).inputs;
    let (a, b) = (network.run(&inputs), network.rounded(31.0).run(&inputs));
    let (first, second) = (evaluate(&evaluation(&a, &b, None)).unwrap(), evaluate(&evaluation(&a, &b, None)).unwrap());
    assert_eq!(first, second);
    let estimates = quick(&evaluation(&a, &b, None)).unwrap();
    assert_eq!(estimates.accuracy_retention, first.accuracy_retention.estimate);
    assert_eq!(estimates.output_consistency, first.output_consistency.estimate);
    assert_eq!(estimates.feature_preservation, first.feature_preservation.estimate);
    assert_eq!(estimates.distribution_similarity, first.distribution_similarity.estimate);
    assert!(!estimates.broken);
}

#[test]
fn the_report_survives_the_trip_through_json() {
    let report = bake(40, false, |network| network.rounded(15.0));
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<QualityReport>(&text).unwrap().output_consistency.n, 40);
}

#[test]
fn an_output_that_the_model_does_not_have_is_named() {
    let run = Network::random(1).run(&data(30, 2).inputs);
    let input = Evaluation { gated_outputs: Some(vec!["logits".into()]), ..evaluation(&run, &run, None) };
    assert!(evaluate(&input).unwrap_err().to_string().contains("'logits'"));
    assert!(evaluate(&Evaluation::default()).is_err());
}
