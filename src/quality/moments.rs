//! Sums of squares and products of two sets of outputs, centred by resampled means without touching the outputs again.
//!
//! With weights w (how often a sample is in a resample) every centred sum is one of plain sums over samples and of the quadratic form
//! `q = |sum w a| |sum w b|` in inner-product sense, `q = w' G w / sum w` with the Gram matrix `G[i][j] = <a_i, b_j>`. So a resample costs n^2 at any
//! output size; where an output has fewer elements than there are samples, the sums of the vectors themselves cost n * elements, which is less, and give
//! the same number.

use std::ops::Range;

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis as NdAxis, s};
use rayon::prelude::*;

use super::stats::Resampler;
use super::stats::bootstrap::RESAMPLES;
use super::values::{Axis, Pairs, Values, default_class_axis};

/// Columns of the outputs that are in memory as `f64` at a time while a Gram matrix is summed up.
const BLOCK: usize = 256;

/// The moments of one output.
#[derive(Debug)]
pub(super) struct Moments {
    /// Observations per sample of each centred quantity: 1 for outputs of one shape, the number of positions otherwise; 0 for a sample left out.
    pub(super) count: Vec<f64>,
    /// `|a_i - m|^2` with m the baseline's mean over all samples.
    pub(super) aa: Vec<f64>,
    /// `|b_i - m|^2`.
    pub(super) bb: Vec<f64>,
    /// `<a_i - m, b_i - m>`.
    pub(super) ab: Vec<f64>,
    /// `|a_i - b_i|^2`, summed as such, so that a small difference of large outputs is not lost.
    pub(super) dd: Vec<f64>,
    matched: Vec<bool>,
    cross: Cross,
}

#[derive(Debug)]
enum Cross {
    /// Centred vectors, one row per sample.
    Vectors { a: Array2<f64>, b: Array2<f64> },
    /// Gram matrices `<a_i, b_j>` and, where asked for, `<a_i, a_j>`.
    Gram { ab: Array2<f64>, aa: Option<Array2<f64>> },
}

/// Weighted sums of one resample.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    /// Share of the weight on samples whose shapes match.
    pub(super) share: f64,
    pub(super) aa: f64,
    pub(super) bb: f64,
    pub(super) ab: f64,
    pub(super) dd: f64,
    /// N <ma, mb>, N the number of observations.
    pub(super) mean_ab: f64,
    /// N |ma|^2; only with [`Moments::new`]'s `with_baseline`.
    pub(super) mean_aa: f64,
}

impl Sums {
    /// 1 - Lin's concordance correlation coefficient (Lin 1989, "A concordance correlation coefficient to evaluate reproducibility", Biometrics 45):
    /// with both means expanded, `sum|a-ma|^2 + sum|b-mb|^2 + N|ma-mb|^2 = aa + bb - 2 N<ma,mb>`, and that less twice the centred product is
    /// `sum|a-b|^2`. Samples of other shapes count as a coefficient of 0.
    pub(super) fn concordance_defect(&self) -> f64 {
        if self.dd == 0.0 {
            return 1.0 - self.share;
        }
        let scale = self.aa + self.bb - 2.0 * self.mean_ab;
        // The scale is at least half of dd in real numbers (it is dd when the two are opposite), so this only meets rounding.
        let defect = if scale > 0.0 { (self.dd / scale).min(2.0) } else { 1.0 };
        1.0 - self.share + self.share * defect
    }

    /// 1 - the cosine after the baseline's mean is subtracted from both; a cosine of 0 where either has no spread, and for samples of other shapes.
    ///
    /// `|x||y| - <x,y> = (|x-y|^2 - (|x|-|y|)^2) / 2`: unlike the cosine itself, this does not round a difference of one part in 10^8 away.
    pub(super) fn cosine_defect(&self) -> f64 {
        let a = (self.aa - self.mean_aa).max(0.0).sqrt();
        let b = (self.bb - 2.0 * self.mean_ab + self.mean_aa).max(0.0).sqrt();
        let defect =
            if a > 0.0 && b > 0.0 { ((self.dd - (a - b).powi(2)) / (2.0 * a * b)).clamp(0.0, 2.0) } else { 1.0 };
        1.0 - self.share + self.share * defect
    }

    /// 1 - sum|a-b|^2 / sum|a-ma|^2, with a the truth; samples of other shapes count as 0.
    pub(super) fn r2(&self) -> f64 {
        self.share * (1.0 - self.dd / (self.aa - self.mean_aa))
    }
}

/// Where the elements of a sample go: each its own column (one shape), or summed by channel (shapes vary).
struct Columns<'p, 'a> {
    pairs: &'p Pairs<'a>,
    axes: Option<Vec<Axis>>,
    width: usize,
    mean: Vec<f64>,
}

impl<'p, 'a> Columns<'p, 'a> {
    fn new(pairs: &'p Pairs<'a>) -> Self {
        let axes = (!pairs.fixed).then(|| {
            let axes: Vec<Axis> = pairs.shapes.iter().map(|s| Axis::new(s, default_class_axis(s.len()))).collect();
            let same = axes.windows(2).all(|w| w[0].classes == w[1].classes);
            // Outputs of no common channel are pooled as one.
            if same {
                axes
            } else {
                pairs.shapes.iter().map(|s| Axis { outer: s.iter().product(), classes: 1, inner: 1 }).collect()
            }
        });
        let columns = match &axes {
            None => pairs.a.first().map_or(0, Values::len),
            Some(axes) => axes[0].classes,
        };
        let mut this = Self { pairs, axes, width: columns, mean: vec![0.0; columns] };
        let mut mean = vec![0.0; columns];
        let mut total = 0.0;
        for i in (0..pairs.len()).filter(|&i| pairs.matched[i]) {
            total += this.count(i);
            for k in 0..pairs.a[i].len() {
                mean[this.column(i, k)] += pairs.a[i].get(k);
            }
        }
        for m in &mut mean {
            *m /= f64::max(total, 1.0);
        }
        this.mean = mean;
        this
    }

    fn count(&self, i: usize) -> f64 {
        match &self.axes {
            _ if !self.pairs.matched[i] => 0.0,
            None => 1.0,
            Some(axes) => axes[i].positions() as f64,
        }
    }

    #[inline]
    fn column(&self, i: usize, element: usize) -> usize {
        match &self.axes {
            None => element,
            Some(axes) => element / axes[i].inner % axes[i].classes,
        }
    }

    /// The centred columns `range` of sample `i` of `side`, into `row`; zero for a sample left out.
    fn load(&self, side: &[Values], i: usize, range: Range<usize>, row: &mut [f64]) {
        row.fill(0.0);
        if !self.pairs.matched[i] {
            return;
        }
        match &self.axes {
            None => {
                for (r, k) in row.iter_mut().zip(range) {
                    *r = side[i].get(k) - self.mean[k];
                }
            }
            Some(axes) => {
                for p in 0..axes[i].positions() {
                    for (r, c) in row.iter_mut().zip(range.clone()) {
                        *r += side[i].get(axes[i].index(p, c)) - self.mean[c];
                    }
                }
            }
        }
    }

    fn matrix(&self, side: &[Values], range: &Range<usize>) -> Array2<f64> {
        let width = range.len();
        let mut data = vec![0.0; self.pairs.len() * width];
        data.par_chunks_mut(width.max(1)).enumerate().for_each(|(i, row)| self.load(side, i, range.clone(), row));
        Array2::from_shape_vec((self.pairs.len(), width), data).expect("one row per sample")
    }
}

impl Moments {
    /// Reads the pairs once (twice where the Gram matrix is needed). `with_baseline` keeps what [`Sums::mean_aa`] needs.
    pub(super) fn new(pairs: &Pairs, with_baseline: bool) -> Self {
        let columns = Columns::new(pairs);
        let n = pairs.len();
        let rows: Vec<[f64; 4]> = (0..n)
            .into_par_iter()
            .map(|i| {
                let mut sums = [0.0; 4];
                if pairs.matched[i] {
                    for k in 0..pairs.a[i].len() {
                        let m = columns.mean[columns.column(i, k)];
                        let (x, y) = (pairs.a[i].get(k), pairs.b[i].get(k));
                        let (a, b, d) = (x - m, y - m, x - y);
                        sums[0] += a * a;
                        sums[1] += b * b;
                        sums[2] += a * b;
                        sums[3] += d * d;
                    }
                }
                sums
            })
            .collect();
        let cross = if columns.width <= n {
            let all = 0..columns.width;
            Cross::Vectors { a: columns.matrix(&pairs.a, &all), b: columns.matrix(&pairs.b, &all) }
        } else {
            let mut ab = Array2::zeros((n, n));
            let mut aa = with_baseline.then(|| Array2::zeros((n, n)));
            for start in (0..columns.width).step_by(BLOCK) {
                let range = start..(start + BLOCK).min(columns.width);
                let (a, b) = (columns.matrix(&pairs.a, &range), columns.matrix(&pairs.b, &range));
                add_product(&a, &b, &mut ab);
                if let Some(aa) = &mut aa {
                    add_product(&a, &a, aa);
                }
            }
            Cross::Gram { ab, aa }
        };
        let pick = |k: usize| rows.iter().map(|r| r[k]).collect();
        Self {
            count: (0..n).map(|i| columns.count(i)).collect(),
            aa: pick(0),
            bb: pick(1),
            ab: pick(2),
            dd: pick(3),
            matched: pairs.matched.clone(),
            cross,
        }
    }

    /// Plain sums of `(part, whole)` of each sample, as `dd` and `aa`, so that shares are resampled beside coefficients.
    pub(super) fn counted(parts: &[(f64, f64)]) -> Self {
        let n = parts.len();
        Self {
            count: vec![1.0; n],
            aa: parts.iter().map(|p| p.1).collect(),
            bb: vec![0.0; n],
            ab: vec![0.0; n],
            dd: parts.iter().map(|p| p.0).collect(),
            matched: vec![true; n],
            cross: Cross::Vectors { a: Array2::zeros((n, 0)), b: Array2::zeros((n, 0)) },
        }
    }

    /// The sums of every row of `weights` (resamples x samples).
    pub(super) fn sums(&self, weights: &ArrayView2<f64>) -> Vec<Sums> {
        let (ab, aa): (Vec<f64>, Vec<f64>) = match &self.cross {
            Cross::Vectors { a, b } => {
                let (wa, wb) = (weights.dot(a), weights.dot(b));
                let rows = wa.rows().into_iter().zip(wb.rows());
                rows.map(|(x, y)| (x.dot(&y), x.dot(&x))).unzip()
            }
            Cross::Gram { ab, aa } => {
                let form = |g: &Array2<f64>| -> Vec<f64> {
                    let wg = weights.dot(g);
                    wg.rows().into_iter().zip(weights.rows()).map(|(x, w)| x.dot(&w)).collect()
                };
                let aa = aa.as_ref().map_or_else(|| vec![0.0; weights.nrows()], &form);
                form(ab).into_iter().zip(aa).unzip()
            }
        };
        weights
            .rows()
            .into_iter()
            .zip(ab.into_iter().zip(aa))
            .map(|(w, (ab, aa))| self.finish(w.iter().copied(), ab, aa))
            .collect()
    }

    /// The sums over all samples.
    pub(super) fn all(&self) -> Sums {
        let ones = Array2::ones((1, self.count.len()));
        self.sums(&ones.view())[0]
    }

    /// The sums without each sample in turn, in n * min(n, elements) altogether.
    pub(super) fn left_out(&self) -> Vec<Sums> {
        let n = self.count.len();
        let without = |g: &Array2<f64>| -> Vec<f64> {
            let (rows, columns, total) = (g.sum_axis(NdAxis(1)), g.sum_axis(NdAxis(0)), g.sum());
            (0..n).map(|i| total - rows[i] - columns[i] + g[[i, i]]).collect()
        };
        let (ab, aa) = match &self.cross {
            Cross::Vectors { a, b } => {
                let (sa, sb) = (a.sum_axis(NdAxis(0)), b.sum_axis(NdAxis(0)));
                (0..n)
                    .map(|i| {
                        let (x, y) = (&sa - &a.row(i), &sb - &b.row(i));
                        (x.dot(&y), x.dot(&x))
                    })
                    .unzip()
            }
            Cross::Gram { ab, aa } => (without(ab), aa.as_ref().map_or_else(|| vec![0.0; n], without)),
        };
        let mut weights = vec![1.0; n];
        (0..n)
            .map(|i| {
                weights[i] = 0.0;
                let sums = self.finish(weights.iter().copied(), ab[i], aa[i]);
                weights[i] = 1.0;
                sums
            })
            .collect()
    }

    fn finish(&self, weights: impl Iterator<Item = f64>, ab: f64, aa: f64) -> Sums {
        let (mut sums, mut observations, mut matched, mut total) = (Sums::default(), 0.0, 0.0, 0.0);
        for (i, w) in weights.enumerate() {
            total += w;
            observations += w * self.count[i];
            matched += w * f64::from(u8::from(self.matched[i]));
            sums.aa += w * self.aa[i];
            sums.bb += w * self.bb[i];
            sums.ab += w * self.ab[i];
            sums.dd += w * self.dd[i];
        }
        let observations = f64::max(observations, 1.0);
        sums.share = matched / total;
        sums.mean_ab = ab / observations;
        sums.mean_aa = aa / observations;
        sums
    }
}

/// What `f` makes of the sums of every set of moments: on each bootstrap resample, and without each sample in turn.
pub(super) fn resample<T: Send>(moments: &[&Moments], seed: u64, f: impl Fn(&[Sums]) -> T + Sync) -> (Vec<T>, Vec<T>) {
    // As many resamples at a time as make the matrix product efficient.
    const CHUNK: usize = 125;
    let n = moments.first().map_or(0, |m| m.count.len());
    let resampler = Resampler::new(n, seed);
    let across = |sums: Vec<Vec<Sums>>| -> Vec<T> {
        (0..sums.first().map_or(0, Vec::len)).map(|r| f(&sums.iter().map(|s| s[r]).collect::<Vec<_>>())).collect()
    };
    let resampled = (0..RESAMPLES.div_ceil(CHUNK))
        .into_par_iter()
        .flat_map_iter(|chunk| {
            let first = chunk * CHUNK;
            let mut weights = Array2::zeros((CHUNK.min(RESAMPLES - first), n));
            for (k, mut row) in weights.rows_mut().into_iter().enumerate() {
                resampler.weights(first + k, row.as_slice_mut().expect("rows are contiguous"));
            }
            across(moments.iter().map(|m| m.sums(&weights.view())).collect())
        })
        .collect();
    (resampled, across(moments.iter().map(|m| m.left_out()).collect()))
}

/// `into += a b'`, rows in parallel.
fn add_product(a: &Array2<f64>, b: &Array2<f64>, into: &mut Array2<f64>) {
    let rows = a.nrows().div_ceil(rayon::current_num_threads()).max(64);
    let bands: Vec<(usize, ArrayViewMut2<f64>)> = into.axis_chunks_iter_mut(NdAxis(0), rows).enumerate().collect();
    bands.into_par_iter().for_each(|(k, mut band)| {
        let start = k * rows;
        general_mat_mul(1.0, &a.slice(s![start..start + band.nrows(), ..]), &b.t(), 1.0, &mut band);
    });
}

#[cfg(test)]
pub(super) mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::*;
    use crate::model::Tensor;

    /// Values that look normal enough: the sum of four uniforms.
    pub(crate) fn noise(rng: &mut ChaCha8Rng) -> f32 {
        (0..4).map(|_| rng.next_u32() as f32 / u32::MAX as f32).sum::<f32>() - 2.0
    }

    fn sets(n: usize, shape: impl Fn(usize) -> Vec<usize>) -> (Vec<Tensor>, Vec<Tensor>) {
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        (0..n)
            .map(|i| {
                let shape = shape(i);
                let len = shape.iter().product();
                let a: Vec<f32> = (0..len).map(|_| noise(&mut rng) + 3.0).collect();
                let b: Vec<f32> = a.iter().map(|x| 0.9 * x + 0.2 * noise(&mut rng)).collect();
                (Tensor::new(&shape, &a), Tensor::new(&shape, &b))
            })
            .unzip()
    }

    /// The definition, by brute force over a resample written out: (concordance, centred cosine, R2).
    fn by_definition(
        a: &[Tensor],
        b: &[Tensor],
        weights: &[f64],
        channel: impl Fn(usize) -> usize,
        channels: usize,
    ) -> (f64, f64, f64) {
        let each = |visit: &mut dyn FnMut(usize, f64, f64, f64)| {
            for (i, &w) in weights.iter().enumerate() {
                for (k, (&x, &y)) in a[i].to_f64().iter().zip(b[i].to_f64().iter()).enumerate() {
                    visit(channel(k), w, x, y);
                }
            }
        };
        let (mut ma, mut mb, mut count) = (vec![0.0; channels], vec![0.0; channels], vec![0.0; channels]);
        each(&mut |c, w, x, y| {
            ma[c] += w * x;
            mb[c] += w * y;
            count[c] += w;
        });
        for c in 0..channels {
            ma[c] /= count[c];
            mb[c] /= count[c];
        }
        let [mut sab, mut saa, mut sbb, mut shift, mut cab, mut cbb, mut dd] = [0.0; 7];
        each(&mut |c, w, x, y| {
            sab += w * (x - ma[c]) * (y - mb[c]);
            saa += w * (x - ma[c]).powi(2);
            sbb += w * (y - mb[c]).powi(2);
            shift += w * (ma[c] - mb[c]).powi(2);
            cab += w * (x - ma[c]) * (y - ma[c]);
            cbb += w * (y - ma[c]).powi(2);
            dd += w * (x - y).powi(2);
        });
        (2.0 * sab / (saa + sbb + shift), cab / (saa.sqrt() * cbb.sqrt()), 1.0 - dd / saa)
    }

    #[test]
    fn resampled_and_left_out_sums_are_those_of_the_definition() {
        // (shape of sample i, channel of element k, channels): few elements, many (so the Gram matrix), and shapes that vary.
        type Case = (fn(usize) -> Vec<usize>, fn(usize) -> usize, usize);
        let cases: [Case; 3] =
            [(|_| vec![1, 5], |k| k, 5), (|_| vec![1, 700], |k| k, 700), (|i| vec![1, 2 + i % 3, 4], |k| k % 4, 4)];
        for (shape, channel, channels) in cases {
            let (a, b) = sets(30, shape);
            let moments = Moments::new(&Pairs::new("y", &a, &b).unwrap(), true);
            let mut weights = Array2::zeros((3, 30));
            for (k, mut row) in weights.rows_mut().into_iter().enumerate() {
                Resampler::new(30, 1).weights(k, row.as_slice_mut().unwrap());
            }
            let mut ones = vec![1.0; 30];
            ones[4] = 0.0;
            let mut checks: Vec<(Sums, Vec<f64>)> =
                moments.sums(&weights.view()).into_iter().zip(weights.rows().into_iter().map(|r| r.to_vec())).collect();
            checks.push((moments.left_out()[4], ones));
            checks.push((moments.all(), vec![1.0; 30]));
            for (sums, weights) in checks {
                let (ccc, cosine, r2) = by_definition(&a, &b, &weights, channel, channels);
                assert!(
                    (1.0 - sums.concordance_defect() - ccc).abs() < 1e-10,
                    "{} is not {ccc}",
                    1.0 - sums.concordance_defect()
                );
                assert!(
                    ((1.0 - sums.cosine_defect()) - cosine).abs() < 1e-10,
                    "{} is not {cosine}",
                    (1.0 - sums.cosine_defect())
                );
                assert!((sums.r2() - r2).abs() < 1e-9, "{} is not {r2}", sums.r2());
            }
        }
    }
}
