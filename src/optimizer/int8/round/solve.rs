//! The codes that change products least.
//!
//! With second moments `H = sum x x^T` of what a channel `w` multiplies, codes `q` change its products by `(w - q)^T H (w - q)`. GPTQ fixes one weight after the
//! other and moves the free ones by `-(w_j - q_j) / [H^-1]_jj * [H^-1]_j` (Frantar et al. 2022, equation 2), with the rows of the Cholesky factor of `H^-1` in
//! place of shrinking inverses (section 3.3, step 3). The same sums come out without any inverse: with `H = R R^T`, `R` upper triangular, the change is
//! `|R^T (w - q)|^2`, whose part `j` holds errors up to `j` alone, so the free weights can take away all later parts, and `q_j` is what makes part `j` least:
//! `round(w_j + sum_(i<j) R_ij / R_jj * (w_i - q_i))`.
//!
//! Weights that meet the largest activations are fixed first, while others are left to make up for them.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

use super::cholesky::cholesky;
use super::grid::Nearest;
use super::table::{SPAN, Table};

/// Shares of the mean second moment that are added to all of them, as tried (the first is GPTQ's): few rows of many columns need more.
pub(super) const DAMPINGS: [f64; 3] = [0.01, 0.1, 1.0];

/// Channels that are rounded together, so that the factor is read once for all of them.
const TILE: usize = 64;

/// Columns that are fixed one by one before one product tells those behind them of their errors.
const BLOCK: usize = 64;

/// Moments that are summed in 32 bits at a time, over one span of rows, before they join those of all in 64: so many columns by all behind them.
const BAND: usize = 256;

/// Some columns of a table.
#[derive(Clone, Copy)]
pub(super) struct Columns<'r> {
    pub(super) rows: &'r Table,
    pub(super) first: usize,
    pub(super) depth: usize,
}

impl Columns<'_> {
    fn spans(self) -> usize {
        self.rows.len().div_ceil(SPAN)
    }

    fn span(self, at: usize) -> Array2<f32> {
        self.rows.span(at, self.first, self.depth)
    }

    /// `|x w|^2` summed over all rows, for each `w` of `weights`, of `depth` each.
    pub(super) fn energy(self, weights: &[f32]) -> f64 {
        let Ok(weights) = ArrayView2::from_shape((weights.len() / self.depth, self.depth), weights) else {
            return f64::NAN;
        };
        let of_span = |at: usize| self.span(at).dot(&weights.t()).iter().map(|v| f64::from(*v).powi(2)).sum();
        // Summed in the order of the spans, so that threads change nothing.
        (0..self.spans()).into_par_iter().map(of_span).collect::<Vec<f64>>().iter().sum()
    }
}

/// Second moments of rows, columns in the order in which they are rounded.
pub(super) struct Moments {
    order: Vec<usize>,
    /// Rows and columns from the last of `order` to the first. They are symmetric, so those above the diagonal are all there is to know: what lies below it is the
    /// place for factors, whose square of memory may be most of what a bake takes.
    reversed: Array2<f64>,
    diagonal: Vec<f64>,
    /// Mean of the diagonal.
    mean: f64,
}

impl Moments {
    /// `None` where the rows are not finite, or all zero.
    pub(super) fn of(seen: Columns<'_>) -> Option<Self> {
        let depth = seen.depth;
        let mut sum = Array2::<f64>::zeros((depth, depth));
        for span in (0..seen.spans()).map(|at| seen.span(at)) {
            let bands: Vec<ArrayViewMut2<'_, f64>> = sum.axis_chunks_iter_mut(Axis(0), BAND).collect();
            bands.into_par_iter().enumerate().for_each(|(at, mut band)| {
                let (from, to) = (at * BAND, at * BAND + band.nrows());
                let part = span.slice(s![.., from..to]).t().dot(&span.slice(s![.., from..]));
                band.slice_mut(s![.., from..]).zip_mut_with(&part, |sum, part| *sum += f64::from(*part));
            });
        }
        let of_columns: Vec<f64> = (0..depth).map(|i| sum[[i, i]]).collect();
        let mean = of_columns.iter().sum::<f64>() / depth.max(1) as f64;
        if !(mean.is_finite() && mean > 0.0) {
            return None;
        }
        let mut order: Vec<usize> = (0..depth).collect();
        order.sort_by(|&a, &b| of_columns[b].total_cmp(&of_columns[a]).then(a.cmp(&b)));
        let last_first: Vec<usize> = order.iter().rev().copied().collect();
        arrange(&mut sum, &last_first);
        let diagonal = last_first.iter().map(|&column| of_columns[column]).collect();
        Some(Self { order, reversed: sum, diagonal, mean })
    }

    /// How much of the error of each column is made up for by those behind it.
    pub(super) fn feedback(&mut self, damping: f64) -> Option<Feedback> {
        let depth = self.order.len();
        mirror(&mut self.reversed);
        for (i, own) in self.diagonal.iter().enumerate() {
            self.reversed[[i, i]] = own + damping * self.mean;
        }
        cholesky(&mut self.reversed)?;
        let lower = &self.reversed;
        let mut strips = Vec::with_capacity(Feedback::place(depth));
        for start in (0..depth).step_by(BLOCK) {
            let end = (start + BLOCK).min(depth);
            let own: Vec<f64> = (start..end).map(|j| lower[[depth - 1 - j, depth - 1 - j]]).collect();
            for i in 0..end {
                let row = lower.slice(s![depth - 1 - i, depth - end..depth - start;-1]);
                let factors = row.iter().zip(&own).enumerate();
                strips.extend(factors.map(|(k, (v, own))| if i < start + k { (v / own) as f32 } else { 0.0 }));
            }
        }
        strips.iter().all(|v| v.is_finite()).then_some(Feedback(strips))
    }

    /// Codes of the channels `rows`, the first of which is channel `first` of `nearest`.
    pub(super) fn codes(&self, feedback: &Feedback, rows: &[f32], nearest: &Nearest, first: usize) -> Vec<i8> {
        let depth = self.order.len();
        let mut codes = vec![0_i8; rows.len()];
        codes.par_chunks_mut(TILE * depth).zip(rows.par_chunks(TILE * depth)).enumerate().for_each(
            |(tile, (codes, rows))| {
                let channels = rows.len() / depth;
                let before = (first + tile * TILE) * depth;
                let mut errors = Array2::<f32>::zeros((channels, depth));
                for (at, columns) in self.order.chunks(BLOCK).enumerate() {
                    let start = at * BLOCK;
                    let strip = feedback.strip(start, columns.len());
                    let mut wanted =
                        Array2::from_shape_fn((channels, columns.len()), |(c, k)| rows[c * depth + columns[k]]);
                    let known = errors.slice(s![.., ..start]);
                    general_mat_mul(1.0, &known, &strip.slice(s![..start, ..]), 1.0, &mut wanted);
                    for (channel, mut wanted) in wanted.rows_mut().into_iter().enumerate() {
                        let wanted = wanted.as_slice_mut().expect("rows lie one behind the other");
                        for (k, &column) in columns.iter().enumerate() {
                            let at = channel * depth + column;
                            let scale = nearest.scale(before + at);
                            let choices = nearest.choices(before + at);
                            let (low, high) = (f32::from(*choices.start()), f32::from(*choices.end()));
                            let code = (wanted[k] / scale).round_ties_even().clamp(low, high);
                            let error = rows[at] - code * scale;
                            codes[at] = code as i8;
                            errors[[channel, start + k]] = error;
                            let factors = strip.row(start + k).to_slice().expect("so do those of a strip");
                            let behind = wanted[k + 1..].iter_mut().zip(&factors[k + 1..]);
                            behind.for_each(|(wanted, factor)| *wanted += error * factor);
                        }
                    }
                }
            },
        );
        codes
    }
}

/// For each column in turn, how much of the error of each column before it is made up for. A strip for every block of columns: a row for each column before its last, the
/// factors of the block's columns side by side.
#[derive(Debug, PartialEq)]
pub(super) struct Feedback(Vec<f32>);

impl Feedback {
    /// Where the strip of the block begins whose first column is `start`, or behind the last one where that is the number of columns.
    fn place(start: usize) -> usize {
        let (whole, part) = (start / BLOCK, start % BLOCK);
        BLOCK * BLOCK * whole * (whole + 1) / 2 + part * start
    }

    fn strip(&self, start: usize, width: usize) -> ArrayView2<'_, f32> {
        let strip = &self.0[Self::place(start)..][..(start + width) * width];
        ArrayView2::from_shape((start + width, width), strip).expect("as many factors as a strip has")
    }
}

/// Copies what lies above the diagonal of a square matrix below it: tile by tile, for one of both sides is walked across its rows.
fn mirror(matrix: &mut Array2<f64>) {
    const SIDE: usize = 32;
    let order = matrix.nrows();
    let values = matrix.as_slice_mut().expect("a matrix of our own lies row behind row");
    for (top, left) in (0..order).step_by(SIDE).flat_map(|top| (0..=top).step_by(SIDE).map(move |left| (top, left))) {
        for i in top..(top + SIDE).min(order) {
            for j in left..(left + SIDE).min(i) {
                values[i * order + j] = values[j * order + i];
            }
        }
    }
}

/// Puts rows and columns of a symmetric matrix, whose part above the diagonal alone is read, in this order, in the matrix's own memory.
fn arrange(matrix: &mut Array2<f64>, order: &[usize]) {
    let depth = order.len();
    mirror(matrix);
    // Each row in turn, and then each column of each row: the matrix is whole by now, so neither knows of the other.
    let mut moved = vec![false; depth];
    let mut kept = vec![0.0; depth];
    for start in 0..depth {
        if moved[start] {
            continue;
        }
        kept.iter_mut().zip(matrix.row(start)).for_each(|(k, v)| *k = *v);
        let mut to = start;
        loop {
            moved[to] = true;
            let from = order[to];
            if from == start {
                break;
            }
            let (mut target, source) = matrix.multi_slice_mut((s![to, ..], s![from, ..]));
            target.assign(&source);
            to = from;
        }
        matrix.row_mut(to).iter_mut().zip(&kept).for_each(|(v, k)| *v = *k);
    }
    for mut row in matrix.rows_mut() {
        kept.iter_mut().zip(&row).for_each(|(k, v)| *k = *v);
        row.iter_mut().zip(order).for_each(|(v, &from)| *v = kept[from]);
    }
}

/// Squared change of the products of channels `rows`, the first of which is channel `first` of `nearest`, with `codes` in place of the weights.
pub(super) fn change(seen: Columns<'_>, rows: &[f32], codes: &[i8], nearest: &Nearest, first: usize) -> f64 {
    let before = first * seen.depth;
    let restored = codes.iter().enumerate().map(|(at, &code)| f32::from(code) * nearest.scale(before + at));
    let errors: Vec<f32> = restored.zip(rows).map(|(restored, w)| restored - w).collect();
    seen.energy(&errors)
}

#[cfg(test)]
mod tests {
    use super::super::grid::Grid;
    use super::*;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// Rows whose columns go together, as those of real activations do.
    fn correlated(rows: usize, depth: usize, seed: u64) -> Vec<f32> {
        let common = numbers(rows, seed + 1);
        let mixed = numbers(rows * depth, seed).into_iter().enumerate();
        mixed.map(|(at, v)| 0.3 * v + common[at / depth] * (1.0 + (at % depth) as f32 / 8.0)).collect()
    }

    fn table(values: &[f32], width: usize) -> Table {
        let mut table = Table::new(width);
        table.extend(values, None).unwrap();
        table
    }

    /// Gauss and Jordan's way, without pivots: the matrix is positive definite.
    fn inverted(matrix: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let depth = matrix.len();
        let unit = |i: usize| (0..depth).map(move |j| if i == j { 1.0 } else { 0.0 });
        let mut both: Vec<Vec<f64>> =
            matrix.iter().enumerate().map(|(i, row)| row.iter().copied().chain(unit(i)).collect()).collect();
        for pivot in 0..depth {
            let own = both[pivot][pivot];
            both[pivot].iter_mut().for_each(|v| *v /= own);
            let line = both[pivot].clone();
            for (_, row) in both.iter_mut().enumerate().filter(|(i, _)| *i != pivot) {
                let factor = row[pivot];
                row.iter_mut().zip(&line).for_each(|(v, l)| *v -= factor * l);
            }
        }
        both.into_iter().map(|row| row[depth..].to_vec()).collect()
    }

    /// GPTQ as its equations 2 and 3 have it: the inverse itself, one weight fixed and taken out at a time.
    fn by_inverses(moments: &[Vec<f64>], order: &[usize], row: &[f32], nearest: &Nearest) -> Vec<i8> {
        let depth = row.len();
        let mut inverse = inverted(moments);
        let mut weights: Vec<f64> = row.iter().map(|&w| f64::from(w)).collect();
        let mut codes = vec![0_i8; depth];
        for &q in order {
            let scale = f64::from(nearest.scale(q));
            let choices = nearest.choices(q);
            let code =
                (weights[q] / scale).round_ties_even().clamp(f64::from(*choices.start()), f64::from(*choices.end()));
            codes[q] = code as i8;
            let error = (weights[q] - code * scale) / inverse[q][q];
            let column: Vec<f64> = inverse.iter().map(|row| row[q]).collect();
            weights.iter_mut().zip(&column).for_each(|(w, c)| *w -= error * c);
            let own = column[q];
            for (row, a) in inverse.iter_mut().zip(&column) {
                row.iter_mut().zip(&column).for_each(|(v, b)| *v -= a * b / own);
            }
        }
        codes
    }

    #[test]
    fn the_codes_are_those_of_gptq_with_inverses() {
        for (depth, grid) in [
            (7, Grid::Channels { limit: 7 }),
            (12, Grid::Blocks { size: 32 }),
            (1, Grid::Channels { limit: 3 }),
            (2 * BLOCK + 9, Grid::Channels { limit: 7 }),
        ] {
            let seen = correlated(40 + depth, depth, 3);
            let table = table(&seen, depth);
            let columns = Columns { rows: &table, first: 0, depth };
            // More than a tile has; of a deep weight fewer, for single precision rounds what is nearly halfway the other way now and then.
            let channels = if depth < BLOCK { TILE + 5 } else { 11 };
            let rows = numbers(depth * channels, 5);
            let nearest = grid.nearest(&rows, depth).unwrap();
            let mut moments = Moments::of(columns).unwrap();
            let feedback = moments.feedback(0.01).unwrap();
            let codes = moments.codes(&feedback, &rows, &nearest, 0);
            let damp = |i, j| if i == j { 0.01 * moments.mean } else { 0.0 };
            let second =
                |i: usize, j: usize| seen.chunks(depth).map(|r| f64::from(r[i]) * f64::from(r[j])).sum::<f64>();
            let matrix: Vec<Vec<f64>> =
                (0..depth).map(|i| (0..depth).map(|j| second(i, j) + damp(i, j)).collect()).collect();
            for (channel, row) in rows.chunks(depth).enumerate() {
                // The reference looks its scales up by column, so it gets the channel's own.
                let own = grid.nearest(row, depth).unwrap();
                let expected = by_inverses(&matrix, &moments.order, row, &own);
                assert_eq!(codes[channel * depth..][..depth], expected, "{depth} {grid:?} channel {channel}");
            }
        }
    }

    #[test]
    fn products_of_correlated_columns_change_less_on_rows_that_were_not_seen() {
        let (depth, channels) = (48, 20);
        let (seen, unseen) = (correlated(400, depth, 3), correlated(200, depth, 77));
        let (seen, unseen) = (table(&seen, depth), table(&unseen, depth));
        let columns = |rows| Columns { rows, first: 0, depth };
        let rows = numbers(depth * channels, 5);
        let nearest = Grid::Blocks { size: 32 }.nearest(&rows, depth).unwrap();
        let mut moments = Moments::of(columns(&seen)).unwrap();
        let feedback = moments.feedback(0.01).unwrap();
        let codes = moments.codes(&feedback, &rows, &nearest, 0);
        let change = |codes: &[i8]| change(columns(&unseen), &rows, codes, &nearest, 0);
        assert!(change(&codes) < 0.5 * change(&nearest.codes), "{} {}", change(&codes), change(&nearest.codes));
        assert!(codes.iter().zip(&nearest.codes).all(|(a, b)| (a - b).abs() <= 1));
    }

    #[test]
    fn columns_that_know_nothing_of_each_other_keep_the_nearest_codes() {
        let depth = 6;
        let seen: Vec<f32> = (0..depth * depth).map(|at| if at / depth == at % depth { 2.0 } else { 0.0 }).collect();
        let rows = numbers(depth * 4, 9);
        let nearest = Grid::Channels { limit: 127 }.nearest(&rows, depth).unwrap();
        let mut moments = Moments::of(Columns { rows: &table(&seen, depth), first: 0, depth }).unwrap();
        let feedback = moments.feedback(0.01).unwrap();
        assert_eq!(moments.codes(&feedback, &rows, &nearest, 0), nearest.codes);
    }

    #[test]
    fn moments_are_in_the_order_of_rounding_and_bands_change_no_bit() {
        for depth in [1, 9, BAND, BAND + 3, 2 * BAND + 40] {
            let values = correlated(SPAN + 70, depth, 11);
            let mut moments = Moments::of(Columns { rows: &table(&values, depth), first: 0, depth }).unwrap();
            let rows = ArrayView2::from_shape((SPAN + 70, depth), &values).unwrap();
            let mut whole = Array2::<f64>::zeros((depth, depth));
            for span in [rows.slice(s![..SPAN, ..]), rows.slice(s![SPAN.., ..])] {
                whole.zip_mut_with(&span.t().dot(&span), |sum, part| *sum += f64::from(*part));
            }
            let at = |i: usize| moments.order[depth - 1 - i];
            let expected = Array2::from_shape_fn((depth, depth), |(i, j)| whole[[at(i), at(j)]]);
            assert!(moments.reversed == expected, "{depth}");
            let (first, _) = (moments.feedback(0.01).unwrap(), moments.feedback(1.0).unwrap());
            assert!(moments.feedback(0.01).unwrap() == first, "factors leave the moments as they are");
        }
    }

    #[test]
    fn rows_of_zeros_or_of_no_numbers_have_no_moments() {
        for bad in [0.0, f32::NAN, f32::INFINITY] {
            assert!(Moments::of(Columns { rows: &table(&[bad; 8], 4), first: 0, depth: 4 }).is_none(), "{bad}");
        }
    }
}
