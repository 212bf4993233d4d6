//! Output consistency: Lin's concordance correlation coefficient, pooled over samples and elements of an output.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::figure::{Concern, Figure, first_concern};
use super::gates::MIN_SAMPLES;
use super::metric::{MetricKind, Targets};
use super::moments::{Moments, Sums, resample};
use super::retention::Effort;
use super::stats::bootstrap::RESAMPLES;
use super::stats::{Interval, Replicates, bca, complement};
use super::values::{Axis, Health, Pairs, Values, probability_axis};

/// The largest number of samples whose raw sums are kept in the report.
const RAW_SAMPLES: usize = 4096;

/// Probabilities below this are raised to it before their logarithm is taken: 8-bit models give exact zeros.
const SMALLEST_PROBABILITY: f64 = 1e-6;

/// Consistency of one output, and figures beside it that are not gated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OutputConsistency {
    /// The output.
    pub output: String,
    /// Whether it counts for the gate.
    pub gated: bool,
    /// `Concordance`, or `ShareEqual` for integers.
    pub measure: String,
    /// The coefficient.
    pub figure: Figure,
    /// Cosine after subtracting the baseline's mean.
    pub cosine: Option<f64>,
    /// Share of positions whose argmax (of a single column: above 0.5) is the same.
    pub argmax_agreement: Option<f64>,
    /// sqrt(sum|a-b|^2 / sum|a|^2).
    pub relative_rms_error: Option<f64>,
    /// The same coefficient on the logits, where the output is a probability.
    pub logits: Option<f64>,
    /// Samples whose baked output has another shape than the baseline's.
    pub other_shape: usize,
    /// Per sample |a-b|^2 and |a-m|^2, m the baseline's mean (for integers: equal elements, elements); up to 4,096 samples.
    pub samples: Vec<[f64; 2]>,
}

/// Consistency over all outputs: the figure is the lowest over those that `gated` marks, from joint resamples.
pub(super) fn consistency(outputs: &[Pairs], gated: &[bool], effort: Effort) -> (Figure, Vec<OutputConsistency>) {
    let measured: Vec<(Pooled, bool)> = outputs.iter().map(Pooled::new).zip(gated.iter().copied()).collect();
    let n = outputs.first().map_or(0, Pairs::len);
    let replicates = effort.intervals.then(|| {
        let moments: Vec<&Moments> = measured.iter().map(|(p, _)| &p.moments).collect();
        resample(&moments, effort.seed, |sums| {
            measured.iter().zip(sums).map(|((p, _), s)| p.defect(s)).collect::<Vec<f64>>()
        })
    });
    let method = if effort.intervals { format!("BCa bootstrap, {RESAMPLES} resamples") } else { String::new() };
    let figure = |estimate: f64, of: &dyn Fn(&[f64]) -> f64| {
        let interval = replicates.as_ref().and_then(|(resampled, left_out)| {
            let replicates = Replicates {
                resampled: resampled.iter().map(|r| of(r)).collect(),
                left_out: left_out.iter().map(|r| of(r)).collect(),
            };
            bca(estimate, &replicates).map(Interval::of_complement)
        });
        Figure::new(complement(estimate), interval, n, &method)
    };
    let mut details = Vec::with_capacity(outputs.len());
    for (k, (pairs, (pooled, gated))) in outputs.iter().zip(&measured).enumerate() {
        let mut figure = figure(pooled.all_defect, &|r: &[f64]| r[k]);
        figure.identical = pairs.identical;
        figure.concern = concern(pairs, pooled);
        details.push(pooled.details(pairs, *gated, figure));
    }
    let highest =
        |r: &[f64]| r.iter().zip(&measured).filter(|(_, (_, gated))| *gated).map(|(d, _)| *d).fold(0.0, f64::max);
    let all: Vec<f64> = measured.iter().map(|(p, _)| p.all_defect).collect();
    let mut lowest = figure(highest(&all), &highest);
    let counted = || details.iter().filter(|d| d.gated);
    lowest.identical = counted().all(|d| d.figure.identical);
    lowest.concern = first_concern(counted().filter_map(|d| d.figure.concern.as_ref())).cloned();
    if counted().count() > 1 {
        let named = counted().filter(|d| d.figure.estimate == lowest.estimate).map(|d| d.output.as_str()).next();
        lowest.notes.push(format!("the lowest of {} outputs: '{}'", counted().count(), named.unwrap_or_default()));
    }
    (lowest, details)
}

fn concern(pairs: &Pairs, pooled: &Pooled) -> Option<Concern> {
    match &pairs.health {
        Health::BakedNotFinite(what) => return Some(Concern::NotFinite(what.clone())),
        Health::BaselineNotFinite(what) => return Some(Concern::BaselineNotFinite(what.clone())),
        Health::Sound => {}
    }
    let name = pairs.name;
    if pairs.identical || pairs.len() < MIN_SAMPLES {
        // On a handful of samples an output may well look constant.
        None
    } else if pooled.constant_baseline {
        Some(Concern::Collapsed(format!(
            "output '{name}' is constant in the baseline and something else in the baked model"
        )))
    } else if !pairs.integer && is_constant(&pairs.b) {
        Some(Concern::Collapsed(format!(
            "output '{name}' is the same for every sample in the baked model, and not in the baseline"
        )))
    } else {
        None
    }
}

/// Whether all samples hold the same values.
fn is_constant(side: &[Values]) -> bool {
    side.windows(2).all(|w| w[0].len() == w[1].len() && w[0].iter().eq(w[1].iter()))
}

/// One output's coefficient, ready to be resampled.
struct Pooled {
    moments: Moments,
    integer: bool,
    all_defect: f64,
    constant_baseline: bool,
    all: Sums,
}

impl Pooled {
    fn new(pairs: &Pairs) -> Self {
        let mut moments =
            if pairs.integer { Moments::counted(&equal_elements(pairs)) } else { Moments::new(pairs, false) };
        if pairs.health != Health::Sound {
            // No number stands for these: the figure carries the concern instead.
            moments = Moments::counted(&vec![(1.0, 1.0); pairs.len()]);
        }
        let all = moments.all();
        let mut pooled = Self {
            integer: pairs.integer || pairs.health != Health::Sound,
            all_defect: 0.0,
            constant_baseline: is_constant(&pairs.a),
            all,
            moments,
        };
        pooled.all_defect = pooled.defect(&all);
        pooled
    }

    fn defect(&self, sums: &Sums) -> f64 {
        if self.constant_baseline {
            // Constant over the samples at hand, so no spread to agree on: equal or not.
            if sums.dd == 0.0 { 1.0 - sums.share } else { 1.0 }
        } else if self.integer {
            // `dd` are the unequal elements of `aa`.
            if sums.aa > 0.0 { sums.dd / sums.aa } else { 0.0 }
        } else {
            sums.concordance_defect()
        }
    }

    fn details(&self, pairs: &Pairs, gated: bool, figure: Figure) -> OutputConsistency {
        let finite = |v: f64| Some(v).filter(|v| v.is_finite());
        let sound = pairs.health == Health::Sound;
        let real = sound && !self.integer;
        let argmax = sound.then(|| {
            let targets = Targets::baseline(MetricKind::Top1, pairs);
            let (right, total) =
                targets.hits(pairs, true).iter().fold((0.0, 0.0), |(r, t), h| (r + h.right, t + h.total));
            right / total
        });
        let square = |v: &Values| v.iter().map(|x| x * x).sum::<f64>();
        let norm: f64 = if real {
            pairs.a.iter().zip(&pairs.matched).filter(|(_, m)| **m).map(|(v, _)| square(v)).sum()
        } else {
            0.0
        };
        OutputConsistency {
            output: pairs.name.to_owned(),
            gated,
            measure: if pairs.integer { "ShareEqual" } else { "Concordance" }.to_owned(),
            figure,
            cosine: real
                .then(|| if self.all.dd == 0.0 { self.all.share } else { complement(self.all.cosine_defect()) }),
            argmax_agreement: argmax.and_then(finite),
            relative_rms_error: if !real {
                None
            } else if self.all.dd == 0.0 {
                Some(0.0)
            } else {
                finite((self.all.dd / norm).sqrt())
            },
            logits: if real { on_logits(pairs) } else { None },
            other_shape: pairs.matched.iter().filter(|m| !**m).count(),
            samples: self.moments.dd.iter().zip(&self.moments.aa).take(RAW_SAMPLES).map(|(d, a)| [*d, *a]).collect(),
        }
    }
}

/// (unequal elements, elements) of each sample; all of a sample of another shape are unequal.
fn equal_elements(pairs: &Pairs) -> Vec<(f64, f64)> {
    (0..pairs.len())
        .map(|i| {
            let (a, b) = (&pairs.a[i], &pairs.b[i]);
            let elements = a.len().max(1);
            if !pairs.matched[i] {
                return (elements as f64, elements as f64);
            }
            (a.iter().zip(b.iter()).filter(|(x, y)| x != y).count() as f64, a.len() as f64)
        })
        .collect()
}

/// The coefficient of the logarithms, centred along the class axis so that softmax is undone but for an offset; of single columns, of `ln(p / (1 - p))`.
fn on_logits(pairs: &Pairs) -> Option<f64> {
    let single = || {
        let unit = |v: &Values| v.iter().all(|x| (0.0..=1.0).contains(&x));
        pairs.shapes.iter().all(|s| s.last().is_none_or(|&d| d == 1)) && pairs.a.iter().all(unit)
    };
    let at = probability_axis(pairs);
    if at.is_none() && !single() {
        return None;
    }
    let (a, b) = (logits(&pairs.a, pairs, at), logits(&pairs.b, pairs, at));
    let moments = Moments::new(&Pairs { a, b, ..pairs.shallow() }, false);
    Some(complement(moments.all().concordance_defect()))
}

/// The logits of every sample of one side; samples of another shape stay as they are, since they are left out.
fn logits<'v>(side: &[Values<'v>], pairs: &Pairs, at: Option<usize>) -> Vec<Values<'v>> {
    let ln = |p: f64| p.max(SMALLEST_PROBABILITY).ln();
    let one = |i: usize, values: &Values<'v>| {
        if !pairs.matched[i] {
            return values.clone();
        }
        let Some(at) = at else {
            return Values::F64(values.iter().map(|p| ln(p) - ln(1.0 - p)).collect::<Vec<_>>().into());
        };
        let mut out = vec![0.0; values.len()];
        let axis = Axis::new(pairs.shapes[i], at);
        for p in 0..axis.positions() {
            let of = |c: usize| ln(values.get(axis.index(p, c)));
            let mean = (0..axis.classes).map(of).sum::<f64>() / axis.classes as f64;
            for c in 0..axis.classes {
                out[axis.index(p, c)] = of(c) - mean;
            }
        }
        Values::F64(out.into())
    };
    side.iter().enumerate().map(|(i, v)| one(i, v)).collect()
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::model::Tensor;
    use crate::quality::moments::tests::noise;

    const EFFORT: Effort = Effort { seed: 1, intervals: true };

    fn one(a: &[Tensor], b: &[Tensor]) -> (Figure, OutputConsistency) {
        let pairs = [Pairs::new("y", a, b).unwrap()];
        let (figure, mut details) = consistency(&pairs, &[true], EFFORT);
        (figure, details.remove(0))
    }

    fn rows(n: usize, width: usize, seed: u64, offset: f32) -> Vec<Tensor> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n)
            .map(|_| Tensor::new(&[1, width], &(0..width).map(|_| noise(&mut rng) + offset).collect::<Vec<_>>()))
            .collect()
    }

    fn map(rows: &[Tensor], f: impl Fn(f32) -> f32) -> Vec<Tensor> {
        rows.iter().map(|t| Tensor::new(t.shape(), &t.to_f32().iter().map(|&x| f(x)).collect::<Vec<_>>())).collect()
    }

    #[test]
    fn it_is_one_only_when_equal_zero_for_a_constant_and_below_one_when_rescaled_or_shifted() {
        for width in [3, 200] {
            let a = rows(60, width, 1, 5.0);
            let (figure, _) = one(&a, &a);
            assert_eq!(
                (figure.estimate, figure.lower, figure.upper, figure.identical),
                (Some(1.0), Some(1.0), Some(1.0), true)
            );
            let (figure, _) = one(&a, &map(&a, |_| 5.0));
            assert!(figure.estimate.unwrap().abs() < 1e-9 && figure.concern.unwrap().is_failure());
            let (figure, _) = one(&a, &rows(60, width, 2, 5.0));
            assert!(figure.estimate.unwrap().abs() < 0.2, "{figure:?}");
            // Twice the deviations: 2 * 2 v / (v + 4 v), v the spread of a.
            let (figure, details) = one(&a, &map(&a, |x| 2.0 * (x - 5.0) + 5.0));
            assert!((figure.estimate.unwrap() - 0.8).abs() < 0.02, "{figure:?}");
            assert!(details.cosine.unwrap() > 0.98);
            let (figure, _) = one(&a, &map(&a, |x| x + 1.0));
            assert!(figure.estimate.unwrap() < 0.5);
            let mut b = a.clone();
            b[0] = map(&a[..1], f32::next_up).remove(0);
            let (figure, _) = one(&a, &b);
            assert!(figure.estimate.unwrap() < 1.0 && figure.lower < figure.upper, "{figure:?}");
        }
    }

    #[test]
    fn it_is_that_of_numpy() {
        // a = [1,2,3,4,6], b = [1.5,2,2.5,4.5,5]: 2*cov/(var a + var b + (mean a - mean b)^2) with the variances over n.
        let t = |v: &[f32]| v.iter().map(|&x| Tensor::new(&[1], &[x])).collect::<Vec<_>>();
        let (figure, details) = one(&t(&[1.0, 2.0, 3.0, 4.0, 6.0]), &t(&[1.5, 2.0, 2.5, 4.5, 5.0]));
        let (cov, va, vb, shift) = (2.28, 2.96, 1.94, 0.01);
        assert!((figure.estimate.unwrap() - 2.0 * cov / (va + vb + shift)).abs() < 1e-9, "{figure:?}");
        assert!((details.relative_rms_error.unwrap() - (1.75_f64 / 66.0).sqrt()).abs() < 1e-9);
    }

    #[test]
    fn the_interval_covers_the_truth_in_95_of_100_experiments() {
        // b = a + e with var e = 0.1 var a: 2 v / (v + 1.1 v).
        let truth = 2.0 / 2.1;
        let hits = (0..300)
            .filter(|&seed| {
                let a = rows(80, 2, 1000 + seed, 1.0);
                let e = rows(80, 2, 5000 + seed, 0.0);
                let b: Vec<Tensor> = a
                    .iter()
                    .zip(&e)
                    .map(|(x, e)| Tensor::new(&[1, 2], &[0, 1].map(|k| x.to_f32()[k] + 0.1_f32.sqrt() * e.to_f32()[k])))
                    .collect();
                one(&a, &b).0.interval().unwrap().contains(truth)
            })
            .count();
        assert!((270..=295).contains(&hits), "{hits} of 300");
    }

    #[test]
    fn integers_count_equal_elements_and_constants_are_equal_or_not() {
        let ints = |v: &[i64]| v.iter().map(|&x| Tensor::new(&[1], &[x])).collect::<Vec<_>>();
        let (figure, details) = one(&ints(&[1, 2, 3, 4]), &ints(&[1, 2, 3, 9]));
        assert_eq!((figure.estimate, details.measure.as_str()), (Some(0.75), "ShareEqual"));
        let flat = |x: f32| vec![Tensor::new(&[1, 2], &[x, 1.0]); 25];
        assert_eq!(one(&flat(3.0), &flat(3.0)).0.estimate, Some(1.0));
        let (figure, _) = one(&flat(3.0), &flat(3.1));
        assert_eq!(figure.estimate, Some(0.0));
        assert!(figure.concern.unwrap().is_failure());
    }

    #[test]
    fn a_sample_of_another_shape_counts_as_zero() {
        let a = rows(40, 4, 1, 0.0);
        let mut b = a.clone();
        for t in &mut b[..4] {
            *t = t.reshaped(vec![4, 1]).unwrap();
        }
        let (figure, details) = one(&a, &b);
        assert!((figure.estimate.unwrap() - 0.9).abs() < 1e-12, "{figure:?}");
        assert_eq!(details.other_shape, 4);
        let all: Vec<Tensor> = a.iter().map(|t| t.reshaped(vec![4, 1]).unwrap()).collect();
        assert_eq!(one(&a, &all).0.estimate, Some(0.0));
    }

    #[test]
    fn nan_in_the_baked_output_is_a_failure() {
        let a = rows(30, 3, 1, 0.0);
        let mut b = a.clone();
        b[11] = Tensor::new(&[1, 3], &[0.0, f32::NAN, 0.0]);
        let (figure, _) = one(&a, &b);
        assert!(matches!(figure.concern, Some(Concern::NotFinite(_))));
        assert_eq!(figure.estimate, Some(0.0));
    }

    #[test]
    fn the_lowest_gated_output_counts_and_the_others_are_reported() {
        let (a, b) = (rows(50, 3, 1, 0.0), rows(50, 3, 2, 0.0));
        let close = map(&a, |x| x * 0.99);
        let pairs = [Pairs::new("near", &a, &close).unwrap(), Pairs::new("far", &a, &b).unwrap()];
        let (figure, details) = consistency(&pairs, &[true, false], EFFORT);
        assert!(figure.lower.unwrap() > 0.99 && details[1].figure.upper.unwrap() < 0.5);
        let (figure, _) = consistency(&pairs, &[true, true], EFFORT);
        assert_eq!(figure.estimate, details[1].figure.estimate);
    }

    #[test]
    fn probabilities_are_also_compared_as_logits() {
        let softmax = |z: [f32; 2]| {
            let e = z.map(f32::exp);
            Tensor::new(&[1, 2], &e.map(|v| v / (e[0] + e[1])))
        };
        let (a, b): (Vec<Tensor>, Vec<Tensor>) = rows(40, 1, 3, 0.0)
            .iter()
            .map(|t| t.to_f32()[0])
            .map(|z| (softmax([z, 0.0]), softmax([2.0 * z, 0.0])))
            .unzip();
        let (figure, details) = one(&a, &b);
        assert!((details.logits.unwrap() - 0.8).abs() < 0.05, "{details:?}");
        assert!(figure.estimate.unwrap() > details.logits.unwrap());
        assert_eq!(one(&rows(30, 2, 1, 3.0), &rows(30, 2, 1, 3.0)).1.logits, None);
    }
}
