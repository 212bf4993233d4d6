//! Ends and moments of one run's tensor, and some of its values, in one pass over them.

use pulp::{Arch, NullaryFnOnce};

/// Ends and moments of the finite values of one run.
pub(super) struct Ends {
    pub(super) low: f32,
    pub(super) high: f32,
    pub(super) sum: f64,
    pub(super) squares: f64,
    pub(super) finite: u64,
}

/// Sums side by side, so that the processor adds them at once.
const LANES: usize = 16;

/// Values that are summed in single precision before the sum is taken over: each lane adds so few that rounding stays below what 8 bits could show.
const RUN: usize = LANES * 32;

/// A pass over values run by run, each of which is picked from. To be compiled for the widest vectors that the processor has: what each lane adds up is the same
/// for all of them, to the bit.
struct Runs<'a, P> {
    values: &'a [f32],
    pick: P,
}

impl<P: FnMut(&[f32])> NullaryFnOnce for Runs<'_, P> {
    /// `None` where not all are finite, or single precision does not hold their squares.
    type Output = Option<Ends>;

    // Compiled into what calls it, or not for its vectors at all.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn call(mut self) -> Option<Ends> {
        let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        let (mut sum, mut squares) = (0.0_f64, 0.0_f64);
        for run in self.values.chunks(RUN) {
            let (mut sums, mut of_squares) = ([0.0_f32; LANES], [0.0_f32; LANES]);
            let (blocks, rest) = run.as_chunks::<LANES>();
            for block in blocks {
                for (lane, &value) in block.iter().enumerate() {
                    // Unlike `min` and `max`, this is one instruction; what is no number is found by the squares.
                    low[lane] = if value < low[lane] { value } else { low[lane] };
                    high[lane] = if value > high[lane] { value } else { high[lane] };
                    sums[lane] += value;
                    of_squares[lane] += value * value;
                }
            }
            for &value in rest {
                low[0] = low[0].min(value);
                high[0] = high[0].max(value);
                sum += f64::from(value);
                squares += f64::from(value) * f64::from(value);
            }
            sum += sums.iter().map(|&v| f64::from(v)).sum::<f64>();
            squares += of_squares.iter().map(|&v| f64::from(v)).sum::<f64>();
            (self.pick)(run);
        }
        let low = low.into_iter().fold(f32::INFINITY, f32::min);
        let high = high.into_iter().fold(f32::NEG_INFINITY, f32::max);
        squares.is_finite().then_some(Ends { low, high, sum, squares, finite: self.values.len() as u64 })
    }
}

impl Ends {
    /// Of all `values`; and every `step`th of them, from the first on.
    pub(super) fn of(values: &[f32], step: usize) -> (Self, Vec<f32>) {
        let mut picked = Vec::with_capacity(values.len().div_ceil(step));
        // Where the next that is picked lies in the run.
        let mut next = 0;
        // Picked while the processor has them at hand: by itself that would fetch a large tensor from memory once more.
        let pick = |run: &[f32]| {
            picked.extend(run.iter().skip(next).step_by(step));
            let left = run.len().saturating_sub(next);
            next = next + left.div_ceil(step) * step - run.len();
        };
        let ends = Arch::new().dispatch(Runs { values, pick });
        (ends.unwrap_or_else(|| Self::one_by_one(values)), picked)
    }

    /// For values that are infinite or no number, or whose squares single precision does not hold.
    fn one_by_one(values: &[f32]) -> Self {
        let none = Self { low: f32::INFINITY, high: f32::NEG_INFINITY, sum: 0.0, squares: 0.0, finite: 0 };
        values.iter().filter(|v| v.is_finite()).fold(none, |ends, &value| Self {
            low: ends.low.min(value),
            high: ends.high.max(value),
            sum: ends.sum + f64::from(value),
            squares: ends.squares + f64::from(value) * f64::from(value),
            finite: ends.finite + 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_gives_what_looking_at_values_one_by_one_gives() {
        for n in [0, 1, LANES - 1, LANES, LANES + 1, RUN - 1, RUN, RUN + 1, 3 * RUN + 7] {
            let values: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin() * 3.0 - 1.0).collect();
            let ((fast, all), exact) = (Ends::of(&values, 1), Ends::one_by_one(&values));
            assert_eq!(all, values);
            assert_eq!((fast.low, fast.high, fast.finite), (exact.low, exact.high, n as u64), "{n}");
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-5 * exact.squares.max(1e-9);
            assert!(near(fast.sum, exact.sum) && near(fast.squares, exact.squares), "{n}");
        }
    }

    #[test]
    fn every_so_manyth_value_is_picked_wherever_a_run_ends() {
        for n in [0, 1, RUN - 1, RUN, RUN + 1, 5 * RUN + 7] {
            let values: Vec<f32> = (0..n).map(|i| i as f32).collect();
            for step in [1, 3, 5, RUN - 1, RUN, RUN + 1, 3 * RUN + 1] {
                let expected: Vec<f32> = values.iter().step_by(step).copied().collect();
                assert_eq!(Ends::of(&values, step).1, expected, "{n} by {step}");
            }
        }
    }

    #[test]
    fn the_largest_floats_are_finite_and_what_is_none_is_left_out_wherever_it_stands() {
        let (ends, _) = Ends::of(&[f32::MAX; 40], 1);
        assert_eq!((ends.finite, ends.high), (40, f32::MAX));
        assert!(ends.squares.is_finite());
        for at in [0, 5, LANES, RUN + 3] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut values = vec![1.0_f32; RUN + 9];
                values[at] = bad;
                let (ends, _) = Ends::of(&values, 7);
                assert_eq!((ends.low, ends.high, ends.finite), (1.0, 1.0, (RUN + 8) as u64), "{bad} at {at}");
                assert_eq!(ends.sum, (RUN + 8) as f64);
            }
        }
    }
}
