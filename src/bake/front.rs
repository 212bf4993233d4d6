//! The Pareto front: candidates that no other one beats in size, speed and quality together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::budget::is_quality;
use super::report::CandidateFigures;
use crate::optimizer::Score;

/// A candidate of the front.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FrontPoint {
    /// Its position among the candidates of the report, from 0 on.
    pub candidate: usize,
    /// Its name.
    pub name: String,
    /// Bytes of its file.
    pub bytes: usize,
    /// Time of the input / its time.
    pub speed: f64,
    /// What is left of the room between a gate and unchanged quality, of the metric with least: 1 is unchanged, 0 at the gate. 1 for a lossless candidate.
    pub slack: f64,
}

impl FrontPoint {
    /// The place of a candidate; `None` for one that was not timed, whose quality was not measured though it is lossy, or that was refused for its quality.
    pub(super) fn of(at: usize, candidate: &CandidateFigures) -> Option<Self> {
        let speed = candidate.speed.map(|s| s.ratio).filter(|r| r.is_finite() && *r > 0.0)?;
        let unmeasured = candidate.quality.is_empty() && !candidate.passes.is_empty();
        let slack = candidate.quality.iter().map(Score::slack).fold(1.0, f64::min);
        let ruined = candidate.missed.as_ref().is_some_and(|missed| is_quality(&missed.metric));
        let good = !ruined && !unmeasured && slack.is_finite();
        good.then(|| Self { candidate: at, name: candidate.name.clone(), bytes: candidate.bytes, speed, slack })
    }

    /// Whether this one is as good in everything and better in something.
    fn beats(&self, other: &Self) -> bool {
        let as_good = self.bytes <= other.bytes && self.speed >= other.speed && self.slack >= other.slack;
        as_good && (self.bytes < other.bytes || self.speed > other.speed || self.slack > other.slack)
    }
}

/// The front of all candidates that were measured, the fastest first.
pub(super) fn front(candidates: &[CandidateFigures]) -> Vec<FrontPoint> {
    let points: Vec<FrontPoint> =
        candidates.iter().enumerate().filter_map(|(at, candidate)| FrontPoint::of(at, candidate)).collect();
    let mut front: Vec<FrontPoint> =
        points.iter().filter(|point| !points.iter().any(|other| other.beats(point))).cloned().collect();
    front.sort_by(|a, b| b.speed.total_cmp(&a.speed).then(a.bytes.cmp(&b.bytes)));
    front
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::{Missed, Outcome, PassRecord, Speed};

    fn candidate(name: &str, bytes: usize, speed: Option<f64>, slack: Option<f64>) -> CandidateFigures {
        let record = PassRecord {
            name: "static-int8".into(),
            outcome: Outcome::Applied,
            reason: None,
            rewrites: 1,
            fused: Vec::new(),
            nodes: [1, 1],
            bytes: [1, 1],
            max_difference: None,
            seconds: 0.0,
            check_seconds: 0.0,
        };
        let score = |slack: f64| Score {
            metric: "m".into(),
            estimate: 0.5 + 0.5 * slack,
            threshold: 0.5,
            least: 0.1,
            needed: 0.1,
        };
        CandidateFigures {
            name: name.into(),
            bytes,
            nodes: 1,
            deviation: None,
            quality: slack.map(score).into_iter().collect(),
            speed: speed.map(|ratio| Speed { ratio, lower: ratio, upper: ratio, n: 9 }),
            passes: if name == "lossless" { Vec::new() } else { vec![record] },
            left_out: Vec::new(),
            refused: None,
            missed: None,
            scan: None,
            chosen: false,
        }
    }

    #[test]
    fn what_nothing_beats_in_all_three_is_on_the_front_and_the_fastest_stands_first() {
        let candidates = [
            candidate("lossless", 100, Some(1.1), None),
            candidate("fast", 30, Some(2.0), Some(0.6)),
            candidate("small", 25, Some(1.0), Some(0.9)),
            candidate("beaten", 31, Some(1.9), Some(0.6)),
            candidate("twin of fast", 30, Some(2.0), Some(0.6)),
        ];
        let names: Vec<String> = front(&candidates).into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["fast", "twin of fast", "lossless", "small"]);
    }

    #[test]
    fn what_misses_a_gate_or_was_not_measured_is_not_on_it_and_beats_nobody() {
        let mut ruined = candidate("ruined", 10, Some(9.0), Some(-0.5));
        ruined.missed = Some(Missed {
            metric: "OutputConsistency".into(),
            estimate: 0.2,
            threshold: 0.5,
            at_least: true,
            needed: 0.5,
            on_verdict: false,
        });
        let candidates = [
            ruined,
            candidate("not timed", 10, None, Some(0.9)),
            candidate("not judged", 10, Some(9.0), None),
            candidate("broken", 10, Some(9.0), Some(f64::NAN)),
            candidate("fine", 50, Some(1.5), Some(0.7)),
        ];
        let points = front(&candidates);
        assert_eq!((points.len(), points[0].candidate, points[0].name.as_str()), (1, 4, "fine"));
        assert!((points[0].slack - 0.7).abs() < 1e-9 && points[0].speed == 1.5);
    }
}
