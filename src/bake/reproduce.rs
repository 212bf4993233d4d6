//! Whether the trainer's final figures come out here too: the input model on the package's own validation split, by the same metric.

use super::intake::Loaded;
use super::report::Reproduced;
use super::source::Role;
use super::{BakeError, cores, observe};
use crate::api::bakejob::TaskMetric;
use crate::engine::blocks;
use crate::package::phase7::{FigureClaim, REPRODUCED_WITHIN};
use crate::package::{Claim, FinalMetric, Package};
use crate::quality::{self, MetricKind, QualityError, Scored};

/// The most figures that are measured again.
const MOST: usize = 16;

/// The trainer's figures that have a metric of ours and were measured on the validation split, measured again.
pub(super) fn figures(package: &Package, loaded: &Loaded) -> Result<Vec<Reproduced>, BakeError> {
    let claims: Vec<(&FinalMetric, Claim)> =
        package.manifest.metrics.iter().filter_map(|metric| Some((metric, metric.claim()?))).take(MOST).collect();
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let unchecked = |why: &str| claims.iter().map(|(metric, _)| unmeasured(metric, why)).collect();
    let own = package.manifest.splits.validation.as_ref().map(|split| split.file.sha256.as_str());
    let read = loaded.files.iter().find(|file| file.role == Role::Validation).map(|file| file.sha256.as_str());
    if own.is_none() || own != read {
        return Ok(unchecked("the validation data is not the package's own"));
    }
    let Some(labels) = &loaded.validation.labels else { return Ok(unchecked("the validation split holds no labels")) };
    let columns = observe::outputs(&loaded.engine.engine, &loaded.model, &loaded.validation.feeds, cores())?;
    let judged = blocks::judged_outputs(&loaded.model);
    let outputs: Vec<_> = loaded
        .model
        .output_names()
        .into_iter()
        .zip(&columns)
        .filter(|(name, _)| judged.iter().any(|j| j == name))
        .map(|(name, samples)| (name, samples.as_slice()))
        .collect();
    claims
        .iter()
        .map(|(metric, claim)| match quality::score(&outputs, labels, kind(*claim)) {
            Ok(scored) => Ok(compared(metric, &scored)),
            Err(error @ QualityError::LabelsDoNotFit { .. }) => Ok(unmeasured(metric, &error.to_string())),
            Err(error) => Err(error.into()),
        })
        .collect()
}

impl From<&Reproduced> for FigureClaim {
    fn from(figure: &Reproduced) -> Self {
        let Reproduced { metric, claimed, measured, samples, holds, .. } = figure;
        Self { metric: metric.clone(), claimed: *claimed, measured: *measured, samples: *samples, holds: *holds }
    }
}

fn kind(claim: Claim) -> MetricKind {
    match claim.metric {
        TaskMetric::TopK => MetricKind::TopK { k: claim.k },
        other => MetricKind::of(other, claim.k),
    }
}

fn unmeasured(metric: &FinalMetric, why: &str) -> Reproduced {
    let why = why.trim_end_matches('.');
    Reproduced {
        metric: metric.name.clone(),
        claimed: metric.value,
        measured: None,
        samples: None,
        holds: None,
        message: format!("The package's {} of {:.4} was not measured again: {why}.", metric.name, metric.value),
    }
}

fn compared(metric: &FinalMetric, scored: &Scored) -> Reproduced {
    let (name, claimed) = (&metric.name, metric.value);
    let Some(measured) = scored.value else { return unmeasured(metric, "it has no value on these labels") };
    if claimed.abs() > 1.0 {
        return unmeasured(metric, "it is no share or coefficient of at most 1; percentages are written as shares");
    }
    let difference = measured - claimed;
    let holds = difference.abs() <= REPRODUCED_WITHIN;
    let on = format!("{} validation samples", scored.samples);
    let message = if holds {
        format!("The package's {name} of {claimed:.4} comes out as {measured:.4} on its {on}.")
    } else {
        let way = if difference < 0.0 { "less" } else { "more" };
        let other = metric
            .samples
            .filter(|&n| n != scored.samples as u64)
            .map_or_else(String::new, |n| format!(" The package measured it on {n}."));
        format!(
            "The package's {name} of {claimed:.4} is not reproduced: the input model scores {measured:.4} on its {on}, {:.4} {way}.{other} Check that weights, graph and \
             split belong together.",
            difference.abs()
        )
    };
    Reproduced {
        metric: name.clone(),
        claimed,
        measured: Some(measured),
        samples: Some(scored.samples),
        holds: Some(holds),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(claimed: f64, measured: Option<f64>) -> Reproduced {
        let metric = FinalMetric { name: "Top1".into(), value: claimed, samples: Some(1000), ..FinalMetric::default() };
        compared(&metric, &Scored { value: measured, output: "y".into(), samples: 769 })
    }

    #[test]
    fn a_figure_holds_when_only_rounding_lies_between() {
        assert_eq!(said(0.98, Some(0.9785)).holds, Some(true));
        let refuted = said(0.99, Some(0.9714));
        assert_eq!(refuted.holds, Some(false));
        assert!(
            refuted.message.contains("0.9900 is not reproduced: the input model scores 0.9714 on its 769 validation samples, 0.0186 less. The package measured it on 1000."),
            "{}",
            refuted.message
        );
        assert!(said(0.5, Some(0.9)).message.contains("0.4000 more"));
    }

    #[test]
    fn a_percentage_and_a_figure_without_value_are_not_compared() {
        assert_eq!(said(97.9, Some(0.979)).holds, None);
        assert!(said(97.9, Some(0.979)).message.contains("percentages are written as shares"));
        assert_eq!(said(0.9, None).holds, None);
    }
}
