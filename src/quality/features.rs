//! Feature preservation: debiased linear CKA between internal tensors of both models.
//!
//! CKA is `HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))` of the Gram matrices K, L of the features; debiased (Nguyen, Raghu and Kornblith 2021, "Do wide and
//! deep networks learn the same things?", equation 3) with the unbiased estimator of HSIC (Song et al. 2012, "Feature selection via dependence
//! maximization", JMLR 13, theorem 2), so that two random models do not look alike merely because there are more features than samples.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, s};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::QualityError;
use super::figure::{Concern, Figure, first_concern};
use super::retention::Effort;
use super::stats::jackknife::GROUPS;
use super::stats::{Groups, Interval, group_jackknife};
use crate::model::Tensor;

/// The largest number of samples CKA is computed on.
pub const MAX_SAMPLES: usize = 1024;

/// The unbiased estimator divides by n - 3.
const MIN_SAMPLES: usize = 4;

/// Half the width below which an interval of taps that differ is rounding of the Gram matrices (single precision products) and not knowledge.
const ROUNDING: f64 = 1e-7;

/// Features of one tap: one row of `width` numbers per sample.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rows {
    /// Numbers per row.
    pub width: usize,
    /// Row after row.
    pub values: Vec<f32>,
}

impl Rows {
    /// Rows of a tap's tensors. Of one shape: flattened, and where that is more than `max_width` numbers, those at even steps of them. Of several shapes
    /// (sequences of any length): the mean over positions of each channel, the last axis.
    pub fn from_tensors(samples: &[Tensor], max_width: usize) -> Self {
        let Some(first) = samples.first() else { return Self::default() };
        if samples.iter().all(|t| t.shape() == first.shape()) {
            let step = first.len().div_ceil(max_width.max(1)).max(1);
            let width = first.len().div_ceil(step);
            let mut values = Vec::with_capacity(samples.len() * width);
            samples.iter().for_each(|t| values.extend(t.to_f32().iter().step_by(step)));
            return Self { width, values };
        }
        let channels = |t: &Tensor| t.shape().last().copied().unwrap_or(1);
        let width = if samples.iter().all(|t| channels(t) == channels(first)) { channels(first) } else { 1 };
        let mut values = Vec::with_capacity(samples.len() * width);
        for t in samples {
            let mut sums = vec![0.0_f64; width];
            for (i, &v) in t.to_f32().iter().enumerate() {
                sums[i % width] += f64::from(v);
            }
            let positions = (t.len() / width.max(1)).max(1) as f64;
            values.extend(sums.iter().map(|s| (s / positions) as f32));
        }
        Self { width, values }
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One internal tensor in both models.
#[derive(Debug, Clone, PartialEq)]
pub struct TapPair {
    /// The block, or the tensor's name.
    pub name: String,
    /// The baseline's features.
    pub baseline: Rows,
    /// The baked model's, of the same samples; another width is fine.
    pub baked: Rows,
}

/// CKA of one tap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TapSimilarity {
    /// The tap.
    pub tap: String,
    /// Its CKA.
    pub figure: Figure,
    /// Numbers per sample in baseline and baked model.
    pub widths: [usize; 2],
}

/// Mean CKA over the taps, and each. `None` when there is no tap.
pub(super) fn preservation(
    taps: &[TapPair],
    effort: Effort,
) -> Result<Option<(Figure, Vec<TapSimilarity>)>, QualityError> {
    for tap in taps {
        if tap.baseline.len() != tap.baked.len() {
            return Err(QualityError::TapCount {
                name: tap.name.clone(),
                baseline: tap.baseline.len(),
                baked: tap.baked.len(),
            });
        }
    }
    if taps.is_empty() {
        return Ok(None);
    }
    let method = if effort.intervals { format!("delete-group jackknife, {GROUPS} groups") } else { String::new() };
    let results: Vec<(Cka, &TapPair)> = taps.iter().map(|tap| (cka(tap, effort), tap)).collect();
    let figure = |estimate: f64, without: &[f64], n: usize, identical: bool| {
        let interval = if identical && effort.intervals && n >= GROUPS {
            Some(Interval { lower: estimate, upper: estimate })
        } else {
            group_jackknife(estimate, without).map(|i| {
                let half = (i.upper - estimate).max(ROUNDING);
                Interval { lower: estimate - half, upper: (estimate + half).min(1.0) }
            })
        };
        Figure { identical, ..Figure::new(estimate, interval, n, &method) }
    };
    let details: Vec<TapSimilarity> = results
        .iter()
        .map(|(cka, tap)| TapSimilarity {
            tap: tap.name.clone(),
            figure: Figure { concern: cka.concern.clone(), ..figure(cka.estimate, &cka.without, cka.n, cka.identical) },
            widths: [tap.baseline.width, tap.baked.width],
        })
        .collect();
    let mean = |of: &dyn Fn(&Cka) -> f64| results.iter().map(|(c, _)| of(c)).sum::<f64>() / results.len() as f64;
    let all_without = results.iter().all(|(c, _)| c.without.len() == GROUPS);
    let without: Vec<f64> =
        if all_without { (0..GROUPS).map(|g| mean(&|c| c.without[g])).collect() } else { Vec::new() };
    let n = results.iter().map(|(c, _)| c.n).min().unwrap_or(0);
    let mut whole = figure(mean(&|c| c.estimate), &without, n, results.iter().all(|(c, _)| c.identical));
    // A tap that collapsed counts as 0 in the mean; one that is not a number fails the whole.
    whole.concern = first_concern(
        results.iter().filter_map(|(c, _)| c.concern.as_ref()).filter(|c| !matches!(c, Concern::Collapsed(_))),
    )
    .cloned();
    if results.iter().all(|(c, _)| matches!(c.concern, Some(Concern::Collapsed(_)))) {
        whole.concern.clone_from(&results[0].0.concern);
    }
    Ok(Some((whole, details)))
}

struct Cka {
    estimate: f64,
    without: Vec<f64>,
    n: usize,
    identical: bool,
    concern: Option<Concern>,
}

fn cka(tap: &TapPair, effort: Effort) -> Cka {
    let chosen = choose(tap.baseline.len(), effort.seed);
    let n = chosen.len();
    let undecided =
        |concern: Concern| Cka { estimate: 0.0, without: Vec::new(), n, identical: false, concern: Some(concern) };
    let finite = |rows: &Rows| rows.values.iter().all(|v| v.is_finite());
    if !finite(&tap.baked) {
        return undecided(Concern::NotFinite(format!("tap '{}' of the baked model holds NaN or infinities", tap.name)));
    }
    if !finite(&tap.baseline) {
        return undecided(Concern::BaselineNotFinite(format!(
            "tap '{}' of the baseline holds NaN or infinities",
            tap.name
        )));
    }
    if tap.baseline == tap.baked {
        return Cka {
            estimate: 1.0,
            without: if effort.intervals { vec![1.0; GROUPS] } else { Vec::new() },
            n,
            identical: true,
            concern: None,
        };
    }
    if n < MIN_SAMPLES {
        return undecided(Concern::Undefined(format!("debiased CKA needs at least {MIN_SAMPLES} samples")));
    }
    // Group after group, so that sums over a group's columns are sums over neighbours.
    let groups = Groups::new(n, effort.seed);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|&i| groups.of(i));
    let bound = |g: usize| order.partition_point(|&i| groups.of(i) < g);
    let ranges = (0..GROUPS).map(|g| bound(g)..bound(g + 1)).collect();
    let samples: Vec<usize> = order.iter().map(|&i| chosen[i]).collect();
    let sums = GroupSums::new(&gram(&tap.baseline, &samples), &gram(&tap.baked, &samples), ranges);
    let concern = (n >= GROUPS && !varies(&tap.baked) && varies(&tap.baseline)).then(|| {
        Concern::Collapsed(format!(
            "tap '{}' is the same for every sample in the baked model, and not in the baseline",
            tap.name
        ))
    });
    let without =
        if effort.intervals && n >= GROUPS { (0..GROUPS).map(|g| sums.cka(Some(g))).collect() } else { Vec::new() };
    Cka { estimate: sums.cka(None), without, n, identical: false, concern }
}

fn varies(rows: &Rows) -> bool {
    rows.values.chunks(rows.width.max(1)).any(|r| r != &rows.values[..rows.width])
}

/// All samples, or a seeded choice of [`MAX_SAMPLES`] of them in ascending order.
fn choose(n: usize, seed: u64) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    if n > MAX_SAMPLES {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for i in 0..MAX_SAMPLES {
            let j = i + ((u64::from(rng.next_u32()) * (n - i) as u64) >> 32) as usize;
            all.swap(i, j);
        }
        all.truncate(MAX_SAMPLES);
        all.sort_unstable();
    }
    all
}

/// Inner products of the chosen rows, diagonal zero. Rows are centred first: the estimator does not see it, the rounding of single precision does.
/// Products of 1,024 columns at a time are added up in double precision.
fn gram(rows: &Rows, chosen: &[usize]) -> Array2<f64> {
    /// Rows and columns of the tiles; the matrix is symmetric, so only tiles on and below the diagonal are computed.
    const TILE: usize = 128;
    const COLUMNS: usize = 1024;
    let (n, width) = (chosen.len(), rows.width);
    let row = |i: usize| &rows.values[i * width..(i + 1) * width];
    let mut mean = vec![0.0_f64; width];
    for &i in chosen {
        for (m, &v) in mean.iter_mut().zip(row(i)) {
            *m += f64::from(v);
        }
    }
    let mut centred = Array2::<f32>::zeros((n, width));
    for (mut out, &i) in centred.rows_mut().into_iter().zip(chosen) {
        for ((o, &v), m) in out.iter_mut().zip(row(i)).zip(&mean) {
            *o = (f64::from(v) - m / n as f64) as f32;
        }
    }
    let tiles: Vec<(usize, usize)> =
        (0..n).step_by(TILE).flat_map(|i| (0..=i).step_by(TILE).map(move |j| (i, j))).collect();
    let products: Vec<Array2<f64>> = tiles
        .par_iter()
        .map(|&(i, j)| {
            let part = |at: usize| -> ArrayView2<f32> { centred.slice(s![at..(at + TILE).min(n), ..]) };
            let (a, b) = (part(i), part(j));
            let mut sum = Array2::<f64>::zeros((a.nrows(), b.nrows()));
            for start in (0..width).step_by(COLUMNS) {
                let columns = s![.., start..(start + COLUMNS).min(width)];
                sum.zip_mut_with(&a.slice(columns).dot(&b.slice(columns).t()), |s, &p| *s += f64::from(p));
            }
            sum
        })
        .collect();
    let mut gram = Array2::zeros((n, n));
    for (&(i, j), product) in tiles.iter().zip(&products) {
        gram.slice_mut(s![i..i + product.nrows(), j..j + product.ncols()]).assign(product);
        if i != j {
            gram.slice_mut(s![j..j + product.ncols(), i..i + product.nrows()]).assign(&product.t());
        }
    }
    gram.diag_mut().fill(0.0);
    gram
}

/// Sums over the columns of each group, one entry per row: all that the three HSICs need, with and without any one group.
struct GroupSums {
    ranges: Vec<Range<usize>>,
    k: Vec<[f64; GROUPS]>,
    l: Vec<[f64; GROUPS]>,
    kl: Vec<[f64; GROUPS]>,
    kk: Vec<[f64; GROUPS]>,
    ll: Vec<[f64; GROUPS]>,
}

impl GroupSums {
    /// Of two Gram matrices whose rows and columns lie group after group, as `ranges` says.
    fn new(k: &Array2<f64>, l: &Array2<f64>, ranges: Vec<Range<usize>>) -> Self {
        let sums: Vec<[[f64; GROUPS]; 5]> = (0..k.nrows())
            .into_par_iter()
            .map(|i| {
                let (k, l) = (k.row(i), l.row(i));
                let mut sums = [[0.0; GROUPS]; 5];
                for (g, range) in ranges.iter().enumerate() {
                    let (k, l) = (k.slice(s![range.clone()]), l.slice(s![range.clone()]));
                    for (sum, value) in sums.iter_mut().zip([k.sum(), l.sum(), k.dot(&l), k.dot(&k), l.dot(&l)]) {
                        sum[g] = value;
                    }
                }
                sums
            })
            .collect();
        let pick = |which: usize| sums.iter().map(|s| s[which]).collect();
        Self { k: pick(0), l: pick(1), kl: pick(2), kk: pick(3), ll: pick(4), ranges }
    }

    /// Debiased CKA of the samples outside group `skip`. Features that do not vary preserve nothing.
    fn cka(&self, skip: Option<usize>) -> f64 {
        let kept: Vec<usize> = (0..self.k.len()).filter(|i| skip.is_none_or(|g| !self.ranges[g].contains(i))).collect();
        let of = |sums: &[[f64; GROUPS]]| -> Vec<f64> {
            let sum = |i: usize| (0..GROUPS).filter(|&g| Some(g) != skip).map(|g| sums[i][g]).sum();
            kept.iter().map(|&i| sum(i)).collect()
        };
        let (k, l) = (of(&self.k), of(&self.l));
        let total = |sums: &[[f64; GROUPS]]| of(sums).iter().sum::<f64>();
        let (kl, kk, ll) =
            (hsic(total(&self.kl), &k, &l), hsic(total(&self.kk), &k, &k), hsic(total(&self.ll), &l, &l));
        if kk > 0.0 && ll > 0.0 { (kl / (kk.sqrt() * ll.sqrt())).min(1.0) } else { 0.0 }
    }
}

/// The unbiased estimator of HSIC from `sum K[i][j] L[i][j]` and the row sums of K and L, whose diagonals are zero.
fn hsic(product: f64, k: &[f64], l: &[f64]) -> f64 {
    let n = k.len() as f64;
    let totals = k.iter().sum::<f64>() * l.iter().sum::<f64>();
    let rows: f64 = k.iter().zip(l).map(|(a, b)| a * b).sum();
    (product + totals / ((n - 1.0) * (n - 2.0)) - 2.0 * rows / (n - 2.0)) / (n * (n - 3.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::moments::tests::noise;

    const EFFORT: Effort = Effort { seed: 1, intervals: true };

    fn rows(n: usize, width: usize, f: impl FnMut(usize, usize) -> f32) -> Rows {
        let mut f = f;
        Rows { width, values: (0..n).flat_map(|i| (0..width).map(move |k| (i, k))).map(|(i, k)| f(i, k)).collect() }
    }

    fn random(n: usize, width: usize, seed: u64) -> Rows {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rows(n, width, |_, _| noise(&mut rng))
    }

    fn of(baseline: &Rows, baked: &Rows) -> Figure {
        let tap = TapPair { name: "t".into(), baseline: baseline.clone(), baked: baked.clone() };
        preservation(&[tap], EFFORT).unwrap().unwrap().0
    }

    fn product(a: &Rows, matrix: &[f32], width: usize) -> Rows {
        rows(a.len(), width, |i, k| (0..a.width).map(|j| a.values[i * a.width + j] * matrix[j * width + k]).sum())
    }

    #[test]
    fn it_is_one_for_equal_features_and_does_not_see_rotation_scale_shift_or_zero_columns() {
        let a = random(90, 6, 1);
        assert_eq!(of(&a, &a).lower, Some(1.0));
        let (sin, cos) = 0.7_f32.sin_cos();
        let mut rotation = vec![0.0; 6 * 8];
        for j in 0..6 {
            rotation[j * 8 + j] = 3.0;
        }
        (rotation[0], rotation[1], rotation[8], rotation[9]) = (3.0 * cos, 3.0 * sin, -3.0 * sin, 3.0 * cos);
        let mut b = product(&a, &rotation, 8);
        b.values.iter_mut().for_each(|v| *v += 5.0);
        let figure = of(&a, &b);
        assert!((figure.estimate.unwrap() - 1.0).abs() < 1e-5, "{figure:?}");
        assert!(figure.lower < figure.upper && figure.lower.unwrap() > 0.999);
    }

    #[test]
    fn features_that_have_nothing_to_do_with_each_other_score_zero_even_when_there_are_many() {
        for width in [3, 3000] {
            let figure = of(&random(100, width, 1), &random(100, width, 2));
            assert!(figure.estimate.unwrap().abs() < 0.1, "{figure:?}");
        }
        let a = random(100, 5, 1);
        let figure = of(&a, &rows(100, 5, |_, _| 2.5));
        assert_eq!(figure.estimate, Some(0.0));
        assert!(figure.concern.unwrap().is_failure());
    }

    #[test]
    fn it_is_the_estimator_written_out() {
        // Song et al., equation 5, by its three sums over distinct indices.
        let (a, b) = (random(25, 3, 1), random(25, 4, 2));
        let mixed = rows(25, 4, |i, k| b.values[i * 4 + k] * 0.5 + a.values[i * 3 + k % 3]);
        let dot = |r: &Rows, i: usize, j: usize| {
            (0..r.width)
                .map(|k| f64::from(r.values[i * r.width + k]) * f64::from(r.values[j * r.width + k]))
                .sum::<f64>()
        };
        let hsic = |x: &Rows, y: &Rows, kept: &[usize]| {
            let n = kept.len() as f64;
            let [mut two, mut three, mut four] = [0.0; 3];
            for &i in kept {
                for &j in kept.iter().filter(|&&j| j != i) {
                    two += dot(x, i, j) * dot(y, i, j);
                    for &q in kept.iter().filter(|&&q| q != i && q != j) {
                        three += dot(x, i, j) * dot(y, i, q);
                        for &r in kept.iter().filter(|&&r| r != i && r != j && r != q) {
                            four += dot(x, i, j) * dot(y, q, r);
                        }
                    }
                }
            }
            two / (n * (n - 1.0)) + four / (n * (n - 1.0) * (n - 2.0) * (n - 3.0))
                - 2.0 * three / (n * (n - 1.0) * (n - 2.0))
        };
        let direct = |kept: &[usize]| hsic(&a, &mixed, kept) / (hsic(&a, &a, kept) * hsic(&mixed, &mixed, kept)).sqrt();
        let result = cka(&TapPair { name: "t".into(), baseline: a.clone(), baked: mixed.clone() }, EFFORT);
        let all: Vec<usize> = (0..25).collect();
        assert!((result.estimate - direct(&all)).abs() < 1e-5, "{} is not {}", result.estimate, direct(&all));
        let groups = Groups::new(25, EFFORT.seed);
        let kept: Vec<usize> = (0..25).filter(|&i| groups.of(i) != 3).collect();
        assert!((result.without[3] - direct(&kept)).abs() < 1e-5, "{} is not {}", result.without[3], direct(&kept));
    }

    #[test]
    fn the_interval_covers_the_truth_in_95_of_100_experiments() {
        // b = a + e in one dimension: CKA is the squared correlation, 1 / 1.25.
        let hits = (0..400)
            .filter(|&seed| {
                let (a, e) = (random(200, 1, seed), random(200, 1, 10_000 + seed));
                of(&a, &rows(200, 1, |i, _| a.values[i] + 0.5 * e.values[i])).interval().unwrap().contains(0.8)
            })
            .count();
        assert!((366..=392).contains(&hits), "{hits} of 400");
    }

    #[test]
    fn the_mean_over_taps_counts_and_a_tap_that_is_not_a_number_fails_it() {
        let a = random(60, 4, 1);
        let tap = |name: &str, baked: Rows| TapPair { name: name.into(), baseline: a.clone(), baked };
        let (mean, taps) =
            preservation(&[tap("same", a.clone()), tap("other", random(60, 4, 2))], EFFORT).unwrap().unwrap();
        let parts: Vec<f64> = taps.iter().map(|t| t.figure.estimate.unwrap()).collect();
        assert!((mean.estimate.unwrap() - f64::midpoint(parts[0], parts[1])).abs() < 1e-12 && parts[0] == 1.0);
        let mut broken = a.clone();
        broken.values[5] = f32::NAN;
        let (mean, _) = preservation(&[tap("same", a.clone()), tap("broken", broken)], EFFORT).unwrap().unwrap();
        assert!(mean.concern.unwrap().is_failure());
        assert_eq!(preservation(&[], EFFORT).unwrap(), None);
        assert!(preservation(&[tap("short", random(59, 4, 1))], EFFORT).is_err());
    }

    #[test]
    fn at_most_1024_samples_are_looked_at() {
        let chosen = choose(5000, 2);
        assert_eq!(chosen.len(), MAX_SAMPLES);
        assert!(chosen.windows(2).all(|w| w[0] < w[1]) && chosen[MAX_SAMPLES - 1] > 4000);
        let figure = of(&random(1500, 2, 1), &random(1500, 2, 2));
        assert_eq!(figure.n, MAX_SAMPLES);
    }

    #[test]
    fn rows_come_from_tensors_of_one_shape_or_of_many() {
        let t = |shape: &[usize], v: &[f32]| Tensor::new(shape, v);
        let rows = Rows::from_tensors(&[t(&[1, 4], &[1.0, 2.0, 3.0, 4.0]), t(&[1, 4], &[5.0, 6.0, 7.0, 8.0])], 2);
        assert_eq!(rows, Rows { width: 2, values: vec![1.0, 3.0, 5.0, 7.0] });
        let rows = Rows::from_tensors(&[t(&[1, 1, 2], &[1.0, 2.0]), t(&[1, 2, 2], &[1.0, 2.0, 3.0, 6.0])], 9);
        assert_eq!(rows, Rows { width: 2, values: vec![1.0, 2.0, 2.0, 4.0] });
        assert_eq!(rows.len(), 2);
    }
}
