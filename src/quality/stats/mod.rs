//! Interval estimates at 95 %. Every interval says over how many samples it was taken, and nothing here knows what the numbers mean.

pub mod bootstrap;
pub mod jackknife;
pub mod proportion;
pub mod quantile;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use bootstrap::{Replicates, Resampler, bca};
pub use jackknife::{Groups, group_jackknife};
pub use proportion::{ratio_of_paired_proportions, wilson};

/// Two-sided error of every interval: 5 %.
pub const ALPHA: f64 = 0.05;

/// A 95 % confidence interval, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Interval {
    /// Lower end.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
}

impl Interval {
    /// The interval between two ends, in either order.
    #[must_use]
    pub fn new(a: f64, b: f64) -> Self {
        Self { lower: a.min(b), upper: a.max(b) }
    }

    /// Whether both ends are the same number, so that the interval says nothing about its own uncertainty.
    #[must_use]
    pub fn is_zero_width(self) -> bool {
        self.lower == self.upper
    }

    /// Whether `value` lies inside.
    #[must_use]
    pub fn contains(self, value: f64) -> bool {
        self.lower <= value && value <= self.upper
    }

    /// The interval of `1 - x` when `self` is the interval of a non-negative defect `x`, rounded outwards: a defect too small for `1 - x` to show
    /// must not turn an interval that has a width into one that has none.
    #[must_use]
    pub fn of_complement(self) -> Self {
        if self.is_zero_width() {
            return Self { lower: 1.0 - self.lower, upper: 1.0 - self.upper };
        }
        Self { lower: (1.0 - self.upper).next_down(), upper: (1.0 - self.lower).next_up().min(1.0) }
    }
}

/// `1 - defect`, and 1 only when there is no defect at all, however small it is.
#[must_use]
pub fn complement(defect: f64) -> f64 {
    let value = 1.0 - defect;
    if defect > 0.0 && value >= 1.0 { 1.0_f64.next_down() } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_defect_below_the_rounding_of_one_is_still_seen() {
        assert!(complement(1e-30) < 1.0);
        assert_eq!(complement(0.0), 1.0);
        let interval = Interval::new(1e-31, 1e-29).of_complement();
        assert!(!interval.is_zero_width() && interval.upper == 1.0 && interval.contains(complement(1e-30)));
        assert!(Interval::new(0.0, 0.0).of_complement().is_zero_width());
    }
}
