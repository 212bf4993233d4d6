//! The cheat detector: what a report claims against what is measured again on the artifact itself. Pure: the caller hashes, runs and times.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::figure::Figure;
use super::gates::{Figures, MIN_SAMPLES};
use super::stats::quantile::normal;
use super::stats::{Interval, wilson};
use crate::api::Metric;

/// Room for the last digits of a decimal number in a report.
const ROUNDING: f64 = 1e-9;

/// Two loads of one and the same graph differ in time by up to this share (where the allocator puts the weights), which no interval over rounds shows.
const BETWEEN_LOADS: f64 = 0.05;

/// Whether a claimed speedup is more than what was measured again. To claim too little is no cheat.
pub fn exceeds(claimed: Interval, found: Interval) -> bool {
    claimed.lower > found.upper * (1.0 + BETWEEN_LOADS)
}

/// What a report or manifest says of its artifact.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// Digest of the artifact.
    pub artifact_sha256: String,
    /// Its bytes.
    pub artifact_bytes: u64,
    /// Digest of the model it was baked from and compared with.
    pub baseline_sha256: String,
    /// Claimed figures: the quality metrics, `Speedup`, `SizeReduction` and whatever else is claimed.
    pub figures: Figures,
    /// Hashes of the samples that the verdict rests on.
    pub verdict_samples: Vec<String>,
}

/// What was found on measuring again. Absent is not measured, and is listed as unchecked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    /// Digest of the artifact's file.
    pub artifact_sha256: String,
    /// Its bytes.
    pub artifact_bytes: u64,
    /// Digest of the input model.
    pub baseline_sha256: String,
    /// Quality figures and speedup, measured again on the claimed samples.
    pub figures: Figures,
    /// Whether all outputs of artifact and input are bit-identical on these samples; `None` when they were not run.
    pub outputs_identical: Option<bool>,
    /// Whether the artifact gives the same outputs for every sample, unlike the input.
    pub outputs_constant: bool,
    /// Samples in the validation data that are for the verdict.
    pub raw_samples: Option<usize>,
    /// Hashes of the samples that other steps saw, by split: calibration, training, search.
    pub other_splits: BTreeMap<String, BTreeSet<String>>,
    /// Right decisions on the verdict's samples and on perturbed or unseen ones.
    pub probe: Option<Probe>,
}

/// Right decisions of both models on the verdict's samples and on others of the same kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe {
    /// The artifact on the verdict's samples.
    pub baked_known: Score,
    /// The artifact on the others.
    pub baked_unseen: Score,
    /// The input model on the verdict's samples.
    pub baseline_known: Score,
    /// The input model on the others.
    pub baseline_unseen: Score,
}

/// So many right of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Score {
    /// Right decisions.
    pub right: u64,
    /// Decisions.
    pub n: u64,
}

impl Score {
    fn rate(self) -> f64 {
        self.right as f64 / (self.n as f64).max(1.0)
    }

    /// Variance of the rate, with one success and one failure more (Agresti and Coull), so that it is never 0.
    fn variance(self) -> f64 {
        let n = self.n as f64 + 2.0;
        let p = (self.right as f64 + 1.0) / n;
        p * (1.0 - p) / n
    }
}

/// A way to cheat, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Cheat {
    /// The artifact is the input, byte for byte, and an improvement is claimed.
    ArtifactIsInput,
    /// A claimed quality figure lies outside the interval measured again.
    QualityNotReproduced,
    /// The interval of the claimed speedup and of the one measured again have nothing in common.
    SpeedupNotReproduced,
    /// The artifact does not have the claimed bytes, or not the claimed share less than the input.
    SizeMismatch,
    /// Artifact or baseline is another file than the claimed one.
    DigestMismatch,
    /// The verdict rests on samples that calibration, training or search saw.
    ValidationLeak,
    /// The artifact answers the same whatever its input.
    ConstantOutput,
    /// The artifact is right on the verdict's samples and not on others, which the input model is: it knows them by heart.
    LabelEcho,
    /// A claimed interval has no width although the outputs differ.
    TooGoodInterval,
    /// A figure rests on fewer (or more) samples than there are.
    MissingSamples,
    /// All four quality metrics are those of a model that has nothing to do with the input.
    RandomWeights,
}

impl std::fmt::Display for Cheat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Its name.
    pub cheat: Cheat,
    /// What was found, in words.
    pub detail: String,
}

/// All that was found, and what could not be checked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    /// Findings, in the order of [`Cheat`].
    pub findings: Vec<Finding>,
    /// Claims that nothing was measured for, in words. A claim that is unchecked is not confirmed.
    pub unchecked: Vec<String>,
}

impl Audit {
    /// Whether nothing was found. What is unchecked is not a finding.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether every claim was checked and held.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.is_clean() && self.unchecked.is_empty()
    }

    fn find(&mut self, cheat: Cheat, detail: String) {
        self.findings.push(Finding { cheat, detail });
    }
}

/// Checks claims against measurements.
#[must_use]
pub fn audit(claims: &Claims, measured: &Measured) -> Audit {
    let mut audit = Audit::default();
    files(claims, measured, &mut audit);
    quality(claims, measured, &mut audit);
    speedup(claims, measured, &mut audit);
    samples(claims, measured, &mut audit);
    behaviour(measured, &mut audit);
    audit.findings.sort_by_key(|f| f.cheat);
    audit
}

fn files(claims: &Claims, measured: &Measured, audit: &mut Audit) {
    for (what, claimed, found) in [
        ("the artifact", &claims.artifact_sha256, &measured.artifact_sha256),
        ("the baseline", &claims.baseline_sha256, &measured.baseline_sha256),
    ] {
        if !claimed.eq_ignore_ascii_case(found) {
            audit.find(Cheat::DigestMismatch, format!("{what} is {found}, claimed {claimed}"));
        }
    }
    if claims.artifact_bytes != measured.artifact_bytes {
        audit.find(
            Cheat::SizeMismatch,
            format!("the artifact has {} bytes, claimed {}", measured.artifact_bytes, claims.artifact_bytes),
        );
    }
    let claimed = |metric| claims.figures.get(&metric).and_then(|f| f.estimate);
    if let (Some(claimed), Some(found)) =
        (claimed(Metric::SizeReduction), measured.figures.get(&Metric::SizeReduction).and_then(|f| f.estimate))
    {
        // A report rounds to a tenth of a percent.
        if (claimed - found).abs() > 5e-4 {
            audit.find(
                Cheat::SizeMismatch,
                format!("the artifact is {found:.4} smaller than the input, claimed {claimed:.4}"),
            );
        }
    }
    let improvement = [(Metric::Speedup, 1.0), (Metric::SizeReduction, 0.0), (Metric::ParameterReduction, 0.0)]
        .into_iter()
        .find(|&(metric, none)| claimed(metric).is_some_and(|v| v > none));
    if let Some((metric, _)) =
        improvement.filter(|_| measured.artifact_sha256.eq_ignore_ascii_case(&measured.baseline_sha256))
    {
        audit.find(
            Cheat::ArtifactIsInput,
            format!("{metric} is claimed for an artifact that is the input, byte for byte"),
        );
    }
}

fn quality_metrics() -> impl Iterator<Item = Metric> {
    Metric::ALL.into_iter().filter(|m| m.is_quality())
}

fn quality(claims: &Claims, measured: &Measured, audit: &mut Audit) {
    for metric in quality_metrics() {
        let Some(claim) = claims.figures.get(&metric) else { continue };
        if claim.interval().is_some_and(Interval::is_zero_width)
            && measured.outputs_identical == Some(false)
            && !own_identity(metric, measured)
        {
            audit.find(
                Cheat::TooGoodInterval,
                format!("{metric} is claimed without any uncertainty, and the outputs differ"),
            );
        }
        let Some(found) = measured.figures.get(&metric) else {
            audit.unchecked.push(format!("{metric} was not measured again"));
            continue;
        };
        if let Some(claimed) = claim.estimate {
            match (&found.concern, found.interval()) {
                (Some(concern), _) if concern.is_failure() => {
                    audit.find(
                        Cheat::QualityNotReproduced,
                        format!("{metric} is claimed as {claimed}, but {}", concern.detail()),
                    );
                }
                (_, Some(i)) if claimed < i.lower - ROUNDING || claimed > i.upper + ROUNDING => {
                    audit.find(
                        Cheat::QualityNotReproduced,
                        format!("{metric} is claimed as {claimed}, measured again in [{}, {}]", i.lower, i.upper),
                    );
                }
                (_, Some(_)) => {}
                (_, None) => audit.unchecked.push(format!("{metric} has no interval when measured again")),
            }
        }
        if claim.n != found.n {
            audit.find(
                Cheat::MissingSamples,
                format!("{metric} is claimed over {} samples, and there are {}", claim.n, found.n),
            );
        }
    }
}

/// Features may be equal where outputs differ: only what lies behind the last tap was changed.
fn own_identity(metric: Metric, measured: &Measured) -> bool {
    measured.figures.get(&metric).is_some_and(|f| f.identical)
}

fn speedup(claims: &Claims, measured: &Measured, audit: &mut Audit) {
    let Some(claim) = claims.figures.get(&Metric::Speedup) else { return };
    let Some((found, claimed)) =
        measured.figures.get(&Metric::Speedup).and_then(Figure::interval).zip(claim.interval())
    else {
        audit.unchecked.push("Speedup was not measured again, or is claimed without an interval".to_owned());
        return;
    };
    if exceeds(claimed, found) {
        let detail = format!(
            "claimed in [{}, {}], measured again in [{}, {}]",
            claimed.lower, claimed.upper, found.lower, found.upper
        );
        audit.find(Cheat::SpeedupNotReproduced, detail);
    }
}

fn samples(claims: &Claims, measured: &Measured, audit: &mut Audit) {
    let distinct: BTreeSet<&String> = claims.verdict_samples.iter().collect();
    for (split, hashes) in &measured.other_splits {
        let shared = distinct.iter().filter(|h| hashes.contains(**h)).count();
        if shared > 0 {
            audit.find(
                Cheat::ValidationLeak,
                format!("{shared} of {} samples of the verdict are in the {split} split", distinct.len()),
            );
        }
    }
    if distinct.len() < claims.verdict_samples.len() {
        let detail =
            format!("{} samples are listed, {} of them different", claims.verdict_samples.len(), distinct.len());
        audit.find(Cheat::MissingSamples, detail);
    }
    if let Some(raw) = measured.raw_samples.filter(|&raw| raw != claims.verdict_samples.len()) {
        audit.find(
            Cheat::MissingSamples,
            format!("{} samples are listed, and the data holds {raw} for the verdict", claims.verdict_samples.len()),
        );
    }
}

fn behaviour(measured: &Measured, audit: &mut Audit) {
    if measured.outputs_constant {
        audit.find(
            Cheat::ConstantOutput,
            "the artifact gives the same outputs for every sample, and the input does not".to_owned(),
        );
    }
    if let Some(probe) = measured.probe.filter(Probe::knows_by_heart) {
        let percent = |s: Score| format!("{:.1} %", 100.0 * s.rate());
        let detail = format!(
            "the artifact is right on {} of the verdict's samples and {} of others; the input on {} and {}",
            percent(probe.baked_known),
            percent(probe.baked_unseen),
            percent(probe.baseline_known),
            percent(probe.baseline_unseen)
        );
        audit.find(Cheat::LabelEcho, detail);
    }
    let fails = |(metric, bound): (Metric, f64)| {
        measured.figures.get(&metric).is_some_and(|f| {
            f.n >= MIN_SAMPLES
                && (f.concern.as_ref().is_some_and(super::Concern::is_failure)
                    || f.upper.is_some_and(|upper| upper < bound))
        })
    };
    if Metric::DEFAULT_GATES.into_iter().all(fails) {
        audit.find(
            Cheat::RandomWeights,
            "all four quality metrics fail for certain: the artifact has nothing to do with the input".to_owned(),
        );
    }
}

impl Probe {
    /// Whether the artifact loses more on other samples than chance and the samples themselves explain: its two rates are apart by their Wilson
    /// intervals, and it loses more than the input model does, beyond 1 in 1,000.
    fn knows_by_heart(&self) -> bool {
        let apart = wilson(self.baked_known.right, self.baked_known.n).lower
            > wilson(self.baked_unseen.right, self.baked_unseen.n).upper;
        let scores = [self.baked_known, self.baked_unseen, self.baseline_known, self.baseline_unseen];
        let more = (scores[0].rate() - scores[1].rate()) - (scores[2].rate() - scores[3].rate());
        let error = scores.iter().map(|s| s.variance()).sum::<f64>().sqrt();
        apart && more > normal(0.999) * error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::Concern;

    fn figure(lower: f64, estimate: f64, upper: f64, n: usize) -> Figure {
        Figure::new(estimate, Some(Interval { lower, upper }), n, "m")
    }

    fn honest() -> (Claims, Measured) {
        let figures = Figures::from([
            (Metric::AccuracyRetention, figure(0.97, 0.99, 1.01, 200)),
            (Metric::OutputConsistency, figure(0.97, 0.98, 0.99, 200)),
            (Metric::FeaturePreservation, figure(0.95, 0.97, 0.99, 200)),
            (Metric::DistributionSimilarity, figure(0.93, 0.95, 0.97, 200)),
            (Metric::SizeReduction, Figure::exact(0.71)),
            (Metric::Speedup, figure(1.6, 1.7, 1.8, 50)),
        ]);
        let hashes: Vec<String> = (0..200).map(|i| format!("v{i}")).collect();
        let claims = Claims {
            artifact_sha256: "aa".into(),
            artifact_bytes: 290,
            baseline_sha256: "bb".into(),
            figures: figures.clone(),
            verdict_samples: hashes,
        };
        let mut again = figures;
        again.insert(Metric::Speedup, figure(1.55, 1.63, 1.71, 50));
        let others = |name: &str| (0..50).map(|i| format!("{name}{i}")).collect();
        let measured = Measured {
            artifact_sha256: "AA".into(),
            artifact_bytes: 290,
            baseline_sha256: "bb".into(),
            figures: again,
            outputs_identical: Some(false),
            raw_samples: Some(200),
            other_splits: BTreeMap::from([("calibration".to_owned(), others("c")), ("search".to_owned(), others("s"))]),
            probe: Some(Probe {
                baked_known: Score { right: 190, n: 200 },
                baked_unseen: Score { right: 180, n: 200 },
                baseline_known: Score { right: 191, n: 200 },
                baseline_unseen: Score { right: 182, n: 200 },
            }),
            ..Measured::default()
        };
        (claims, measured)
    }

    type Cheating = fn(&mut Claims, &mut Measured);

    #[test]
    fn every_cheat_is_caught_by_its_name_and_by_no_other() {
        let cheats: [(Cheat, Cheating); 16] = [
            (Cheat::ArtifactIsInput, |c, m| {
                c.baseline_sha256 = "aa".into();
                m.baseline_sha256 = "aa".into();
            }),
            (Cheat::QualityNotReproduced, |_, m| {
                m.figures.insert(Metric::OutputConsistency, figure(0.60, 0.65, 0.70, 200));
            }),
            (Cheat::QualityNotReproduced, |_, m| {
                m.figures.insert(
                    Metric::DistributionSimilarity,
                    figure(0.9, 0.95, 1.0, 200).with_concern(Concern::NotFinite("NaN".into())),
                );
            }),
            (Cheat::SpeedupNotReproduced, |_, m| {
                m.figures.insert(Metric::Speedup, figure(0.98, 1.0, 1.02, 50));
            }),
            (Cheat::SizeMismatch, |_, m| m.artifact_bytes = 900),
            (Cheat::SizeMismatch, |_, m| {
                m.figures.insert(Metric::SizeReduction, Figure::exact(0.1));
            }),
            (Cheat::DigestMismatch, |_, m| m.artifact_sha256 = "cc".into()),
            (Cheat::DigestMismatch, |_, m| m.baseline_sha256 = "cc".into()),
            (Cheat::ValidationLeak, |_, m| {
                m.other_splits.entry("search".to_owned()).or_default().insert("v17".to_owned());
            }),
            (Cheat::ConstantOutput, |_, m| m.outputs_constant = true),
            (Cheat::LabelEcho, |_, m| {
                let probe = m.probe.as_mut().unwrap();
                (probe.baked_known.right, probe.baked_unseen.right) = (200, 90);
            }),
            (Cheat::TooGoodInterval, |c, _| {
                c.figures.insert(Metric::OutputConsistency, figure(0.98, 0.98, 0.98, 200));
            }),
            (Cheat::MissingSamples, |c, _| {
                c.figures.get_mut(&Metric::OutputConsistency).unwrap().n = 60;
            }),
            (Cheat::MissingSamples, |c, _| c.verdict_samples.truncate(60)),
            (Cheat::MissingSamples, |c, _| c.verdict_samples[1] = c.verdict_samples[0].clone()),
            (Cheat::RandomWeights, |c, m| {
                for metric in quality_metrics() {
                    let ruined = figure(0.1, 0.2, 0.3, 200);
                    c.figures.insert(metric, ruined.clone());
                    m.figures.insert(metric, ruined);
                }
            }),
        ];
        for (cheat, seed) in cheats {
            let (mut claims, mut measured) = honest();
            seed(&mut claims, &mut measured);
            let found: Vec<Cheat> = audit(&claims, &measured).findings.iter().map(|f| f.cheat).collect();
            assert_eq!(found, [cheat]);
        }
    }

    #[test]
    fn honest_bakes_are_clean() {
        let cases: [Cheating; 5] = [
            |_, _| {},
            // Nothing better than the input was found, and nothing is claimed.
            |c, m| {
                for side in [&mut c.figures, &mut m.figures] {
                    side.insert(Metric::Speedup, figure(0.98, 1.0, 1.02, 50));
                    side.remove(&Metric::SizeReduction);
                    for metric in quality_metrics() {
                        side.insert(metric, Figure { identical: true, ..figure(1.0, 1.0, 1.0, 200) });
                    }
                }
                (c.baseline_sha256, m.baseline_sha256) = ("aa".into(), "aa".into());
                m.outputs_identical = Some(true);
            },
            // Only the last layer changed, so the features are equal.
            |c, m| {
                for side in [&mut c.figures, &mut m.figures] {
                    side.insert(Metric::FeaturePreservation, Figure { identical: true, ..figure(1.0, 1.0, 1.0, 200) });
                }
            },
            // The other samples are harder for both models.
            |_, m| {
                let probe = m.probe.as_mut().unwrap();
                (probe.baked_unseen.right, probe.baseline_unseen.right) = (120, 125);
            },
            // One quality metric of a bad bake fails, said honestly.
            |c, m| {
                for side in [&mut c.figures, &mut m.figures] {
                    side.insert(Metric::OutputConsistency, figure(0.5, 0.6, 0.7, 200));
                }
            },
        ];
        for (k, change) in cases.into_iter().enumerate() {
            let (mut claims, mut measured) = honest();
            change(&mut claims, &mut measured);
            if k == 1 {
                // The input itself as the artifact: a speedup of 1 is no improvement.
                assert_eq!(claims.figures[&Metric::Speedup].estimate, Some(1.0));
            }
            let audit = audit(&claims, &measured);
            assert!(audit.is_confirmed(), "case {k}: {audit:?}");
        }
    }

    #[test]
    fn what_was_not_measured_again_is_listed_and_not_confirmed() {
        let (claims, mut measured) = honest();
        measured.figures.remove(&Metric::Speedup);
        measured.figures.remove(&Metric::FeaturePreservation);
        let audit = audit(&claims, &measured);
        assert!(audit.is_clean() && !audit.is_confirmed());
        assert_eq!(audit.unchecked.len(), 2);
    }
}
