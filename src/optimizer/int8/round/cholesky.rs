//! The Cholesky factor of a positive definite matrix, in blocks whose products `ndarray` multiplies.
//!
//! It is the one factorisation that the passes need; a library of linear algebra for it would bring two dozen crates along.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, s};

/// Columns that are factored one by one before the rest of the matrix is brought up to date by one product.
const BLOCK: usize = 64;

/// Columns of the rest that one product brings up to date: of the upper triangle, which nobody reads, little is computed.
const SPAN: usize = 256;

/// The lower triangular `L` with `L L^T = matrix`, whose lower triangle alone is read; what lies above the diagonal of the result means nothing.
/// `None` where the matrix is not positive definite. Golub & Van Loan, "Matrix Computations", 4th edition, algorithm 4.2.2 in blocks.
pub(super) fn cholesky(mut matrix: Array2<f64>) -> Option<Array2<f64>> {
    let order = matrix.nrows();
    for start in (0..order).step_by(BLOCK) {
        let end = (start + BLOCK).min(order);
        for column in start..end {
            let known: Vec<f64> = matrix.slice(s![column, start..column]).to_vec();
            let mut own = 0.0;
            for row in column..order {
                let before = matrix.slice(s![row, start..column]);
                let rest = matrix[[row, column]] - before.iter().zip(&known).map(|(a, b)| a * b).sum::<f64>();
                if row == column {
                    if !(rest.is_finite() && rest > 0.0) {
                        return None;
                    }
                    own = rest.sqrt();
                    matrix[[row, column]] = own;
                } else {
                    matrix[[row, column]] = rest / own;
                }
            }
        }
        let panel = matrix.slice(s![end.., start..end]).to_owned();
        for from in (end..order).step_by(SPAN) {
            let to = (from + SPAN).min(order);
            let (rows, columns) = (panel.slice(s![from - end.., ..]), panel.slice(s![from - end..to - end, ..]));
            general_mat_mul(-1.0, &rows, &columns.t(), 1.0, &mut matrix.slice_mut(s![from.., from..to]));
        }
    }
    Some(matrix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_times_its_transpose_is_the_matrix() {
        for order in [1, 2, 63, 64, 65, 130, 400] {
            let seed = Array2::from_shape_fn((order, order + 3), |(i, j)| ((i * 31 + j * 17) % 23) as f64 / 11.0 - 1.0);
            let matrix = seed.dot(&seed.t()) + Array2::<f64>::eye(order) * 0.5;
            let factor = cholesky(matrix.clone()).unwrap();
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
            assert!(cholesky(matrix).is_none(), "{bad}");
        }
    }
}
