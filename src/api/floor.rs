//! The platform team's floors: bounds that no job's gate may undercut, applied last.

use super::bakejob::{GateSpec, GateStatus, Verdict};
use super::job::{Bound, Gate, gate};
use super::metric::{Direction, Metric};

/// What a threshold in the status ends in when a floor set it.
pub const MARK: &str = " (platform floor)";

/// Reads `AccuracyRetention>=0.97` or `LatencyP99<=50ms`.
///
/// # Errors
/// A sentence that says what is expected.
pub fn parse(text: &str) -> Result<GateSpec, String> {
    let (name, sign, bound) = [">=", "<="]
        .into_iter()
        .find_map(|sign| text.split_once(sign).map(|(name, bound)| (name.trim(), sign, bound.trim())))
        .ok_or_else(|| format!("{text:?} is no floor; write METRIC>=VALUE or METRIC<=VALUE"))?;
    let metric = Metric::ALL.into_iter().find(|metric| metric.to_string() == name).ok_or_else(|| {
        let names: Vec<String> = Metric::ALL.iter().map(ToString::to_string).collect();
        format!("{name} is no metric; the metrics are {}", names.join(", "))
    })?;
    let bound = Some(bound.to_owned());
    let spec = match sign {
        ">=" => GateSpec { metric, min: bound, max: None },
        _ => GateSpec { metric, min: None, max: bound },
    };
    gate(&spec).map(|_| spec)
}

/// Raises gates to the floors, adds those that a job does not have, and returns the metrics whose bound is a floor's.
///
/// # Errors
/// A sentence, for a floor that is no gate.
pub fn raise(gates: &mut Vec<Gate>, floors: &[GateSpec]) -> Result<Vec<Metric>, String> {
    let mut raised = Vec::new();
    for floor in floors {
        let floor = gate(floor)?;
        match gates.iter_mut().find(|gate| gate.metric == floor.metric) {
            Some(own) if at_least(own.bound, floor.bound) => continue,
            Some(own) => *own = floor,
            None => gates.push(floor),
        }
        raised.push(floor.metric);
    }
    Ok(raised)
}

/// The first floor that these decided gates do not keep: missing, weaker, or not passed. A worker's word is checked, because a job may name
/// an image that knows nothing of floors.
pub fn unkept<'f>(gates: &[GateStatus], floors: &'f [GateSpec]) -> Option<&'f GateSpec> {
    floors.iter().find(|floor| !gates.iter().any(|gate| keeps(gate, floor)))
}

fn keeps(decided: &GateStatus, floor: &GateSpec) -> bool {
    let written = decided.threshold.trim_end_matches(MARK).trim_start_matches(['>', '<', '=', ' ']).to_owned();
    let as_spec = match decided.metric.direction() {
        Direction::Higher => GateSpec { metric: decided.metric, min: Some(written), max: None },
        Direction::Lower => GateSpec { metric: decided.metric, min: None, max: Some(written) },
    };
    let bounds = gate(&as_spec).ok().zip(gate(floor).ok());
    decided.metric == floor.metric
        && decided.verdict == Verdict::Pass
        && bounds.is_some_and(|(own, floor)| at_least(own.bound, floor.bound))
}

/// Whether a bound is as strict as another. Thresholds in the status are rounded to four decimals.
fn at_least(own: Bound, floor: Bound) -> bool {
    const ROUNDING: f64 = 5.1e-5;
    match (own, floor) {
        (Bound::Min(own), Bound::Min(floor)) => own >= floor - ROUNDING,
        (Bound::Max(own), Bound::Max(floor)) => own <= floor * (1.0 + ROUNDING),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floors(texts: &[&str]) -> Vec<GateSpec> {
        texts.iter().map(|text| parse(text).unwrap()).collect()
    }

    #[test]
    fn a_floor_is_a_metric_and_the_bound_of_its_direction() {
        assert_eq!(parse("AccuracyRetention>=0.97").unwrap().min.as_deref(), Some("0.97"));
        assert_eq!(parse("LatencyP99 <= 50ms").unwrap().max.as_deref(), Some("50ms"));
        for (text, words) in [
            ("AccuracyRetention", "METRIC>=VALUE"),
            ("Speed>=2", "Speed is no metric"),
            ("AccuracyRetention<=0.9", "takes min"),
            ("LatencyP99<=fast", "fast"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn gates_are_raised_and_never_lowered() {
        let mut gates = vec![
            Gate { metric: Metric::AccuracyRetention, bound: Bound::Min(0.95) },
            Gate { metric: Metric::OutputConsistency, bound: Bound::Min(0.99) },
            Gate { metric: Metric::LatencyP99, bound: Bound::Max(0.1) },
        ];
        let raised = raise(
            &mut gates,
            &floors(&["AccuracyRetention>=0.97", "OutputConsistency>=0.96", "LatencyP99<=50ms", "Speedup>=1.2"]),
        );
        assert_eq!(raised.unwrap(), [Metric::AccuracyRetention, Metric::LatencyP99, Metric::Speedup]);
        let shown: Vec<String> = gates.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["AccuracyRetention >= 0.97", "OutputConsistency >= 0.99", "LatencyP99 <= 50ms", "Speedup >= 1.2"]
        );
    }

    #[test]
    fn a_result_that_does_not_hold_a_floor_is_found() {
        let decided = |threshold: &str, verdict| GateStatus {
            metric: Metric::AccuracyRetention,
            threshold: threshold.into(),
            observed: None,
            interval: None,
            verdict,
        };
        let floors = floors(&["AccuracyRetention>=0.97"]);
        assert_eq!(unkept(&[decided(">= 0.9700 (platform floor)", Verdict::Pass)], &floors), None);
        assert_eq!(unkept(&[decided(">= 0.9800", Verdict::Pass)], &floors), None);
        for gates in [
            vec![],
            vec![decided(">= 0.9500", Verdict::Pass)],
            vec![decided(">= 0.9700", Verdict::Inconclusive)],
            vec![decided("", Verdict::Pass)],
        ] {
            assert_eq!(unkept(&gates, &floors), floors.first(), "{gates:?}");
        }
    }
}
