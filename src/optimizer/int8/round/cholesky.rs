//! The Cholesky factor of a positive definite matrix, in blocks whose products `ndarray` multiplies.
//!
//! It is the one factorisation that the passes need; a library of linear algebra for it would bring two dozen crates along.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, s};

/// Columns that are factored one by one before the rest of the matrix is brought up to date by one product.
const BLOCK: usize = 64;

/// Columns of the rest that one product brings up to date: of the upper triangle, which is nobody's, little is computed.
const SPAN: usize = 256;

/// Puts the lower triangular `L` with `L L^T = matrix` in the place of the matrix's lower triangle, which alone is read; what lies above the diagonal stays.
/// `None` where the matrix is not positive definite; the triangle means nothing then. Golub & Van Loan, "Matrix Computations", 4th edition, algorithm 4.2.2 in blocks.
pub(super) fn cholesky(matrix: &mut Array2<f64>) -> Option<()> {
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
            // What lies on both sides of the diagonal is multiplied apart, so that only the lower half of it is written.
            let both = columns.dot(&columns.t());
            for row in 0..to - from {
                let (mut own, both) =
                    (matrix.slice_mut(s![from + row, from..=from + row]), both.slice(s![row, ..=row]));
                own -= &both;
            }
            let below = rows.slice(s![to - from.., ..]);
            general_mat_mul(-1.0, &below, &columns.t(), 1.0, &mut matrix.slice_mut(s![to.., from..to]));
        }
    }
    Some(())
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
