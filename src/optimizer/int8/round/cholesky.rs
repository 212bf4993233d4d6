//! The Cholesky factor of a positive definite matrix, in blocks whose products `ndarray` multiplies.
//!
//! It is the one factorisation that the passes need; a library of linear algebra for it would bring two dozen crates along.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

/// Columns that are factored one by one before the rest of the matrix is brought up to date by one product.
const BLOCK: usize = 64;

/// Rows of the rest that one core brings up to date at a time: little above the diagonal is computed, and none of it written. Whatever the cores, the same sums come out.
const SPAN: usize = 128;

/// Puts the lower triangular `L` with `L L^T = matrix` in the place of the matrix's lower triangle, which alone is read; what lies above the diagonal stays.
/// `None` where the matrix is not positive definite; the triangle means nothing then. Golub & Van Loan, "Matrix Computations", 4th edition, algorithm 4.2.2 in blocks.
pub(super) fn cholesky(matrix: &mut Array2<f64>) -> Option<()> {
    let order = matrix.nrows();
    for start in (0..order).step_by(BLOCK) {
        let end = (start + BLOCK).min(order);
        let upper = diagonal(matrix.slice_mut(s![start..end, start..end]))?;
        each_span(matrix.slice_mut(s![end.., start..end]), |_, mut rows| {
            rows.rows_mut().into_iter().for_each(|row| solve(row.into_slice().unwrap_or_default(), &upper));
        });
        let panel = matrix.slice(s![end.., start..end]).to_owned();
        each_span(matrix.slice_mut(s![end.., end..]), |from, rest| subtract(rest, from, &panel));
    }
    Some(())
}

/// The rows in spans, on all cores; with the number of a span's first row.
fn each_span(mut rows: ArrayViewMut2<'_, f64>, of: impl Fn(usize, ArrayViewMut2<'_, f64>) + Sync) {
    let spans: Vec<ArrayViewMut2<'_, f64>> = rows.axis_chunks_iter_mut(Axis(0), SPAN).collect();
    spans.into_par_iter().enumerate().for_each(|(at, span)| of(at * SPAN, span));
}

/// Factors a block of the diagonal, and returns its factor once more, transposed.
fn diagonal(mut block: ArrayViewMut2<'_, f64>) -> Option<Array2<f64>> {
    let order = block.nrows();
    let mut upper = Array2::zeros((order, order));
    for column in 0..order {
        for row in column..order {
            let known = block.slice(s![row, ..column]).dot(&block.slice(s![column, ..column]));
            let rest = block[[row, column]] - known;
            let own = if row > column {
                rest / block[[column, column]]
            } else if rest.is_finite() && rest > 0.0 {
                rest.sqrt()
            } else {
                return None;
            };
            block[[row, column]] = own;
            upper[[column, row]] = own;
        }
    }
    Some(upper)
}

/// `row` becomes the `x` with `x upper = row`.
fn solve(row: &mut [f64], upper: &Array2<f64>) {
    for (column, factors) in upper.rows().into_iter().enumerate() {
        let Some((own, behind)) = factors.to_slice().and_then(|factors| factors[column..].split_first()) else {
            return;
        };
        let (known, rest) = row[column..].split_at_mut(1);
        known[0] /= own;
        rest.iter_mut().zip(behind).for_each(|(rest, factor)| *rest -= known[0] * factor);
    }
}

/// Takes the products of the panel's rows from some rows of the rest, the first of which is row `from` of it: from what lies up to the diagonal.
fn subtract(mut rest: ArrayViewMut2<'_, f64>, from: usize, panel: &Array2<f64>) {
    let own = panel.slice(s![from..from + rest.nrows(), ..]);
    general_mat_mul(-1.0, &own, &panel.slice(s![..from, ..]).t(), 1.0, &mut rest.slice_mut(s![.., ..from]));
    // What lies on both sides of the diagonal is multiplied apart, so that only the lower half of it is written.
    let both = own.dot(&own.t());
    for (row, both) in both.rows().into_iter().enumerate() {
        let mut below = rest.slice_mut(s![row, from..=from + row]);
        below -= &both.slice(s![..=row]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_times_its_transpose_is_the_matrix() {
        for order in [1, 2, 63, 64, 65, 130, 400] {
            let seed = Array2::from_shape_fn((order, order + 3), |(i, j)| ((i * 31 + j * 17) % 23) as f64 / 11.0 - 1.0);
            let matrix = seed.dot(&seed.t()) + Array2::<f64>::eye(order) * 0.5;
            let mut factor = matrix.clone();
            cholesky(&mut factor).unwrap();
            let above =
                |m: &Array2<f64>| Array2::from_shape_fn((order, order), |(i, j)| if j > i { m[[i, j]] } else { 0.0 });
            assert!(above(&factor) == above(&matrix), "what lies above the diagonal stays");
            let lower = Array2::from_shape_fn((order, order), |(i, j)| if j > i { 0.0 } else { factor[[i, j]] });
            let worst = (lower.dot(&lower.t()) - &matrix).iter().fold(0.0_f64, |m, v| m.max(v.abs()));
            assert!(worst < 1e-9 * order as f64, "{order}: {worst}");
        }
    }

    #[test]
    fn what_is_not_positive_definite_has_none() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let mut matrix = Array2::<f64>::eye(70);
            matrix[[66, 66]] = bad;
            assert!(cholesky(&mut matrix).is_none(), "{bad}");
        }
    }
}
