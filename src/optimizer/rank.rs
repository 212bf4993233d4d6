//! Which candidate is best under the goal, and which may be none.

use super::search::{Candidate, Limits, Speed};
use crate::api::bakejob::Goal;

/// Why a candidate may not be the result under goal and budget.
pub(super) fn refusal(candidate: &Candidate, limits: &Limits) -> Option<String> {
    if let Some(worst) = candidate.below() {
        return Some(format!(
            "{} is {:.4} on the search split, too near the gate's {}",
            worst.metric, worst.estimate, worst.threshold
        ));
    }
    match candidate.speed {
        Some(speed) if is_slower(limits.goal, speed.upper) => {
            Some(format!("slower than the input: {:.2}x [{:.2}, {:.2}]", speed.ratio, speed.lower, speed.upper))
        }
        _ => None,
    }
}

/// Whether a candidate is slower than the goal bears, by the upper end of its speedup's interval. Two loads of one and the same graph differ by up to
/// 3 % here (where the allocator puts the weights), so a model that is to be small *and* fast is not refused for less; one that is to be fast is.
pub fn is_slower(goal: Goal, upper: f64) -> bool {
    match goal {
        Goal::Size => false,
        Goal::Balanced => upper < 0.97,
        Goal::Latency => upper < 1.0,
    }
}

/// How good a candidate is under the goal; larger is better, the unchanged input is 0. Times and bytes count by their logarithms, so that halves weigh alike.
pub fn merit(goal: Goal, speed: Option<Speed>, bytes: usize, input_bytes: usize) -> f64 {
    let smaller = (input_bytes as f64 / bytes.max(1) as f64).ln();
    let faster = speed.map_or(0.0, |s| if s.lower <= 1.0 && !is_slower(goal, s.upper) { 0.0 } else { s.ratio.ln() });
    // The other figure only breaks ties.
    match goal {
        Goal::Latency => faster + 0.01 * smaller,
        Goal::Size => smaller + 0.01 * faster,
        Goal::Balanced => faster + smaller,
    }
}

pub(super) fn rank(candidates: &mut [Candidate], limits: &Limits) {
    let key = |c: &Candidate| (c.refused.is_some(), -merit(limits.goal, c.speed, c.bytes, limits.input_bytes));
    candidates.sort_by(|a, b| {
        let ((refused_a, merit_a), (refused_b, merit_b)) = (key(a), key(b));
        refused_a.cmp(&refused_b).then(merit_a.total_cmp(&merit_b))
    });
    if limits.goal == Goal::Latency
        && let Some(at) = smaller_and_as_fast(candidates)
    {
        candidates[..=at].rotate_right(1);
    }
}

/// A candidate counts as smaller than the fastest one below this share of its bytes.
const MUCH_SMALLER: f64 = 0.95;

/// The smallest of the eligible candidates that measuring cannot tell from the fastest, where it is much smaller.
fn smaller_and_as_fast(ranked: &[Candidate]) -> Option<usize> {
    let fastest = ranked.first().filter(|c| c.refused.is_none())?;
    let ratio = fastest.speed?.ratio;
    let as_fast = |c: &Candidate| c.refused.is_none() && c.speed.is_some_and(|s| s.upper >= ratio);
    let smaller = |c: &Candidate| (c.bytes as f64) < MUCH_SMALLER * fastest.bytes as f64;
    (0..ranked.len()).filter(|&at| as_fast(&ranked[at]) && smaller(&ranked[at])).min_by_key(|&at| ranked[at].bytes)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::model::Facts;
    use crate::model::build::Builder;
    use crate::optimizer::Work;

    fn speed(ratio: f64, half: f64) -> Speed {
        Speed { ratio, lower: ratio - half, upper: ratio + half, n: 100 }
    }

    #[test]
    fn each_goal_prefers_what_it_names() {
        let fast = |goal| merit(goal, Some(speed(2.0, 0.1)), 90, 100);
        let small = |goal| merit(goal, Some(speed(1.0, 0.1)), 25, 100);
        assert!(fast(Goal::Latency) > small(Goal::Latency));
        assert!(small(Goal::Size) > fast(Goal::Size));
        assert!(small(Goal::Balanced) > fast(Goal::Balanced));
    }

    #[test]
    fn a_speedup_within_the_noise_counts_as_none() {
        assert_eq!(merit(Goal::Latency, Some(speed(1.05, 0.1)), 100, 100), 0.0);
        assert!(merit(Goal::Latency, Some(speed(1.05, 0.01)), 100, 100) > 0.0);
    }

    #[test]
    fn of_candidates_that_are_as_fast_the_much_smaller_one_is_first() {
        let candidate = |name: &str, bytes: usize, speed: Speed| {
            let work = Work { model: Builder::new(17).build(), facts: Facts::default(), steps: Vec::new() };
            Candidate { speed: Some(speed), bytes, ..Candidate::new(name, work) }
        };
        let deadline = Instant::now();
        let limits = |goal| Limits { goal, input_bytes: 100, deadline, measuring: Duration::ZERO, room: None };
        let first = |small: Speed, bytes: usize| {
            let mut all = [candidate("fast", 99, speed(1.02, 0.01)), candidate("small", bytes, small)];
            rank(&mut all, &limits(Goal::Latency));
            all[0].name.clone()
        };
        assert_eq!(first(speed(1.01, 0.02), 40), "small", "nobody can tell 1.01 from 1.02 here");
        assert_eq!(first(speed(0.97, 0.02), 40), "fast", "0.99 at most");
        assert_eq!(first(speed(1.01, 0.02), 97), "fast", "hardly smaller");
    }
}
