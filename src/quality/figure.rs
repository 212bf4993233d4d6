//! One measured figure: the estimate, its interval, over how many samples, by which method, and what keeps it from being decided.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stats::Interval;

/// What makes a figure undecidable, or bad whatever its interval says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", content = "detail")]
pub enum Concern {
    /// The baked model gives NaN or infinities. A failure.
    NotFinite(String),
    /// The baked model gives the same whatever its input, unlike the baseline. A failure.
    Collapsed(String),
    /// The baseline is no better than a constant guess, so there is no quality to retain.
    BaselineAtChance(String),
    /// The baseline gives NaN or infinities of its own.
    BaselineNotFinite(String),
    /// The statistic is undefined on these samples, or on too many resamples of them.
    Undefined(String),
}

impl Concern {
    /// Whether the figure fails for certain; otherwise it cannot be decided.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::NotFinite(_) | Self::Collapsed(_))
    }

    /// What was found, in words.
    #[must_use]
    pub fn detail(&self) -> &str {
        match self {
            Self::NotFinite(d)
            | Self::Collapsed(d)
            | Self::BaselineAtChance(d)
            | Self::BaselineNotFinite(d)
            | Self::Undefined(d) => d,
        }
    }
}

/// A measured figure.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Figure {
    /// Point estimate; absent when it could not be computed.
    pub estimate: Option<f64>,
    /// Lower end of the 95 % interval.
    pub lower: Option<f64>,
    /// Upper end of the 95 % interval.
    pub upper: Option<f64>,
    /// Samples it was computed from.
    pub n: usize,
    /// How the interval was made, e.g. `BCa bootstrap, 2000 resamples`.
    pub method: String,
    /// Whether what was compared is bit-identical in both models; only then does an interval of no width count.
    pub identical: bool,
    /// A value that was not sampled (the bytes of a file), which needs no interval.
    #[serde(default)]
    pub exact: bool,
    /// What keeps the interval from deciding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concern: Option<Concern>,
    /// Remarks for the reader of the report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Figure {
    /// A figure with an interval.
    #[must_use]
    pub fn new(estimate: f64, interval: Option<Interval>, n: usize, method: &str) -> Self {
        let estimate = Some(estimate).filter(|e| e.is_finite());
        let interval = interval.filter(|i| i.lower.is_finite() && i.upper.is_finite());
        Self {
            estimate,
            lower: interval.map(|i| i.lower),
            upper: interval.map(|i| i.upper),
            n,
            method: method.to_owned(),
            ..Self::default()
        }
    }

    /// A figure that was counted, not sampled.
    #[must_use]
    pub fn exact(value: f64) -> Self {
        Self { exact: true, n: 1, lower: Some(value), upper: Some(value), ..Self::new(value, None, 1, "counted") }
    }

    /// The interval, where there is one.
    #[must_use]
    pub fn interval(&self) -> Option<Interval> {
        Some(Interval { lower: self.lower?, upper: self.upper? })
    }

    /// The same figure with a concern.
    #[must_use]
    pub fn with_concern(mut self, concern: Concern) -> Self {
        self.concern = Some(concern);
        self
    }

    /// The lowest of several figures: estimate and both ends each the lowest, since the least of several quantities lies below every one's upper end.
    /// Failures and other concerns of any of them are kept, failures first.
    pub(super) fn lowest(figures: &[Self]) -> Option<Self> {
        let least =
            |of: fn(&Self) -> Option<f64>| figures.iter().map(of).try_fold(f64::INFINITY, |low, v| Some(low.min(v?)));
        let mut lowest = figures
            .iter()
            .min_by(|a, b| a.estimate.unwrap_or(f64::MIN).total_cmp(&b.estimate.unwrap_or(f64::MIN)))?
            .clone();
        lowest.estimate = least(|f| f.estimate);
        lowest.lower = least(|f| f.lower);
        lowest.upper = least(|f| f.upper);
        lowest.n = figures.iter().map(|f| f.n).min()?;
        lowest.identical = figures.iter().all(|f| f.identical);
        lowest.concern = first_concern(figures.iter().filter_map(|f| f.concern.as_ref())).cloned();
        Some(lowest)
    }
}

/// The concern that decides: a failure before anything else.
pub(super) fn first_concern<'a>(concerns: impl Iterator<Item = &'a Concern> + Clone) -> Option<&'a Concern> {
    let (mut all, mut first) = (concerns.clone(), concerns);
    all.find(|c| c.is_failure()).or_else(|| first.next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_of_figures_takes_each_end_alone_and_keeps_failures() {
        let f = |e: f64, l: f64, u: f64| Figure::new(e, Some(Interval { lower: l, upper: u }), 50, "m");
        let failing = f(0.99, 0.98, 1.0).with_concern(Concern::NotFinite("y".into()));
        let undecided = f(0.97, 0.90, 0.995).with_concern(Concern::Undefined("z".into()));
        let lowest = Figure::lowest(&[undecided, failing, f(0.98, 0.95, 0.99)]).unwrap();
        assert_eq!((lowest.estimate, lowest.lower, lowest.upper), (Some(0.97), Some(0.90), Some(0.99)));
        assert!(lowest.concern.unwrap().is_failure());
        assert_eq!(Figure::lowest(&[]), None);
    }

    #[test]
    fn a_figure_that_is_not_a_number_is_absent() {
        let figure = Figure::new(f64::NAN, None, 3, "m");
        assert_eq!(figure.estimate, None);
        assert_eq!(serde_json::from_str::<Figure>(&serde_json::to_string(&figure).unwrap()).unwrap(), figure);
    }
}
