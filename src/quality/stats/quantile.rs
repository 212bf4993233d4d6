//! Quantiles: of the normal and Student's t distributions, and of samples.

use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// Quantile of the standard normal distribution at `p`; infinite at 0 and 1.
#[must_use]
pub fn normal(p: f64) -> f64 {
    Normal::standard().inverse_cdf(p)
}

/// Distribution function of the standard normal distribution.
#[must_use]
pub fn normal_cdf(x: f64) -> f64 {
    Normal::standard().cdf(x)
}

/// Quantile of Student's t with `freedom` degrees of freedom.
///
/// # Panics
/// When `freedom` is not positive.
#[must_use]
pub fn student_t(p: f64, freedom: f64) -> f64 {
    StudentsT::new(0.0, 1.0, freedom).expect("degrees of freedom are positive").inverse_cdf(p)
}

/// The `p` quantile of ascending values, linear between order statistics (type 7 of Hyndman and Fan 1996). NaN when there are none.
#[must_use]
pub fn of_sorted(sorted: &[f64], p: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = p.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * (at - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quantiles_are_those_of_the_tables() {
        for (got, table) in [
            (normal(0.975), 1.959_963_984_540_054),
            (student_t(0.975, 19.0), 2.093_024_054_408_263),
            (student_t(0.975, 4.0), 2.776_445_105_197_799),
            (normal_cdf(1.0), 0.841_344_746_068_543),
        ] {
            assert!((got - table).abs() < 1e-9, "{got} is not {table}");
        }
    }

    #[test]
    fn quantiles_of_samples_are_linear_between_order_statistics() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(of_sorted(&sorted, 0.0), 1.0);
        assert_eq!(of_sorted(&sorted, 0.5), 3.0);
        assert_eq!(of_sorted(&sorted, 1.0), 8.0);
        assert!(of_sorted(&[], 0.5).is_nan());
    }
}
