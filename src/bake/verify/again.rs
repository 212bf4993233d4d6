//! Measuring again: quality on the verdict's samples, speedup in pairs, reload, memory and determinism in fresh processes; then the audit for known ways to cheat.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::claims::{asked, baked, claimed_figures};
use super::files::Sources;
use super::{Holds, Verification};
use crate::api::Metric;
use crate::api::bakejob::{Runtime, Verdict};
use crate::api::digest::hex;
use crate::bake::intake::SEARCH_SHARE;
use crate::bake::judge::Bench;
use crate::bake::measure::PROBE_SAMPLES;
use crate::bake::report::{BatchSpeedup, Report};
use crate::bake::source::Role;
use crate::bake::timing::Timer;
use crate::bake::{BakeError, MODEL_FILE, Options, cores, probe};
use crate::engine::{Dataset, SharedEngine, batch, dataset};
use crate::hardware::detect::detect;
use crate::model::infer::{InferOptions, infer};
use crate::model::stats::Stats;
use crate::model::{Limits, Model, Tensor, stream};
use crate::profiler::{Paired, paired};
use crate::quality::cheat::{self, Audit, Cheat, Claims, Measured, exceeds};
use crate::quality::stats::Interval;
use crate::quality::{self, Evaluation, Figure, QualityReport};

/// How often the speedup is measured before it counts as not reproduced: a busy machine may disturb one measurement.
const SPEEDUP_TRIES: usize = 3;

/// A fresh process may need so much more than it did, as a share of the claim: allocators and page caches differ from run to run.
pub(super) const MEMORY_ROOM: f64 = 0.15;

/// Whatever can be measured again with the files and engines at hand.
pub(super) fn measure(
    folder: &Path,
    report: &Report,
    sources: &Sources,
    artifact: Option<&str>,
    options: &Options,
    found: &mut Verification,
) -> Result<(), BakeError> {
    let Some(sha256) = artifact else {
        found.unchecked("every figure", "-", "there is no artifact to measure");
        return Ok(());
    };
    let file = folder.join(MODEL_FILE);
    let (model, baked_source) = match Model::load_source(&file, Limits::default()) {
        Ok(loaded) => loaded,
        Err(error) => {
            found.add(MODEL_FILE, "is a model", "-", Holds::No(error.to_string()));
            return Ok(());
        }
    };
    let mut measured =
        Measured { artifact_sha256: sha256.to_owned(), artifact_bytes: baked_source.bytes(), ..Measured::default() };
    let mut claims = Claims {
        artifact_sha256: baked(report).sha256.clone(),
        artifact_bytes: baked(report).bytes,
        baseline_sha256: report.baseline.sha256.clone(),
        figures: claimed_figures(report).unwrap_or_default(),
        verdict_samples: Vec::new(),
    };
    let Some((input_file, input)) = &sources.model else {
        found.unchecked("figures against the input", "-", &sources.missing_model);
        measured.baseline_sha256.clone_from(&claims.baseline_sha256);
        // Without the input, only what concerns the artifact's file is audited.
        claims.figures.clear();
        conclude(&cheat::audit(&claims, &measured), found);
        return Ok(());
    };
    measured.baseline_sha256 = stream::sha256(&input_file.file);
    measured.figures.insert(Metric::FileSize, Figure::exact(baked_source.bytes() as f64));
    measured
        .figures
        .insert(Metric::SizeReduction, Figure::exact(1.0 - baked_source.bytes() as f64 / input_file.bytes() as f64));
    counts(report, input, &model, found);

    let samples = match &sources.validation {
        None => Err(sources.missing_validation.clone()),
        Some(path) => {
            Dataset::load(path, input, dataset::Limits::default()).map(|d| (path, d.dataset)).map_err(|e| e.to_string())
        }
    };
    let runtime = if report.engine.name == "onnxruntime" { Runtime::OnnxRuntime } else { Runtime::Bakehouse };
    let engine = options.engines.get(runtime);
    let ready = samples.and_then(|samples| Ok((samples, engine.map_err(|e| e.to_string())?)));
    let ((path, data), engine) = match ready {
        Ok(ready) => ready,
        Err(why) => {
            for metric in claims.figures.keys().filter(|m| m.is_quality() || **m == Metric::Speedup) {
                found.unchecked(metric.to_string(), show(claims.figures.get(metric)), &why);
            }
            found.unchecked("fresh process", "reloads, same outputs, same memory", &why);
            claims.figures.retain(|m, _| *m == Metric::SizeReduction);
            conclude(&cheat::audit(&claims, &measured), found);
            return Ok(());
        }
    };
    let again = Again { report, options, engine, input, model: &model, file, data: &data, path, runtime };
    again.splits(sources, &mut claims, &mut measured, found);
    let quality = again.quality(&mut measured, found)?;
    again.speedup(&mut measured, found)?;
    again.fresh_process(found)?;
    let audit = cheat::audit(&claims, &measured);
    figures(&claims, &measured, &audit, found);
    if let Some(quality) = quality {
        verdicts(report, &quality, found);
    }
    conclude(&audit, found);
    Ok(())
}

/// Parameters and nodes, counted again.
fn counts(report: &Report, input: &Model, model: &Model, found: &mut Verification) {
    for (who, figures, model) in [("input", Some(&report.baseline), input), ("artifact", report.baked.as_ref(), model)]
    {
        let Some(figures) = figures else { continue };
        let Ok(inference) = infer(model, &InferOptions::default()) else { continue };
        let text = |s: &Stats| {
            format!("{} parameters, {} not zero, {} nodes", s.parameters.all, s.parameters.non_zero, s.nodes.computing)
        };
        found.equal(
            &format!("counts of the {who}"),
            &text(&figures.stats),
            &text(&Stats::of(model, &inference)),
            "it holds another number of them",
        );
    }
}

struct Again<'a> {
    report: &'a Report,
    options: &'a Options,
    engine: SharedEngine,
    input: &'a Model,
    model: &'a Model,
    file: PathBuf,
    data: &'a Dataset,
    path: &'a Path,
    runtime: Runtime,
}

impl Again<'_> {
    /// Why figures that depend on machine and engine version cannot be held against the claim, if they cannot.
    fn elsewhere(&self) -> Option<String> {
        let (here, there) = (detect(), &self.report.machine);
        let (engine, claimed) = (self.engine.id(), &self.report.engine);
        if here.cpu != there.cpu || here.device_class() != there.device_class() {
            Some(format!("it was measured on another machine ({})", there.cpu))
        } else if engine != claimed {
            Some(format!("it was measured on {claimed}, here is {engine}"))
        } else {
            None
        }
    }

    fn verdict(&self) -> Option<Dataset> {
        let listed = &self.report.data.verdict;
        (!listed.is_empty() && listed.iter().all(|&i| i < self.data.len())).then(|| self.data.select(listed))
    }

    /// The samples of the verdict, and those that other steps saw.
    fn splits(&self, sources: &Sources, claims: &mut Claims, measured: &mut Measured, found: &mut Verification) {
        let hashes: Vec<String> = self.data.hashes().iter().map(|h| hex(h)).collect();
        // Samples that the data itself holds twice are two samples; one that is listed twice is one.
        let mut seen = BTreeMap::new();
        let unique: Vec<String> = hashes
            .iter()
            .enumerate()
            .map(|(i, hash)| if *seen.entry(hash).or_insert(i) == i { hash.clone() } else { format!("{hash}#{i}") })
            .collect();
        let name = |i: &usize| unique.get(*i).cloned().unwrap_or_else(|| format!("no sample {i}"));
        claims.verdict_samples = self.report.data.verdict.iter().map(name).collect();
        let split = self.data.split_search(SEARCH_SHARE);
        let searched = self.report.data.search.iter().chain(&split.search).filter_map(|&i| hashes.get(i).cloned());
        measured.other_splits.insert("search".to_owned(), searched.collect());
        // Samples that another split holds too were left out of the verdict.
        let mut held_out: BTreeSet<usize> = split.verdict.into_iter().collect();
        let mut complete = 0;
        for (role, path) in &sources.others {
            match Dataset::load(path, self.input, dataset::Limits::default()) {
                Ok(other) => {
                    // Of calibration data, a job may have used the first samples only.
                    let used =
                        if *role == Role::Calibration { self.report.data.calibration_samples } else { usize::MAX };
                    let known: BTreeSet<String> = other.dataset.hashes().iter().take(used).map(|h| hex(h)).collect();
                    held_out.retain(|&i| !known.contains(&hashes[i]));
                    measured.other_splits.insert(format!("{role:?}").to_lowercase(), known);
                    complete += 1;
                }
                Err(error) => found.unchecked(format!("{role:?} samples"), "unknown to the verdict", error.to_string()),
            }
        }
        let named = self.report.data.files.iter().filter(|f| matches!(f.role, Role::Calibration | Role::Training));
        // With a split missing, how many samples it held too cannot be told.
        measured.raw_samples = (named.count() == complete).then_some(held_out.len());
        let audit = cheat::audit(
            &Claims { verdict_samples: claims.verdict_samples.clone(), ..Claims::default() },
            &Measured {
                raw_samples: measured.raw_samples,
                other_splits: measured.other_splits.clone(),
                ..Measured::default()
            },
        );
        let claimed = format!("{} held-out samples", claims.verdict_samples.len());
        let others = measured.other_splits.keys().cloned().collect::<Vec<_>>().join(", ");
        found.add(
            "verdict samples",
            claimed,
            format!("{} of them; {others} compared", held_out.len()),
            first(&audit, |_| true),
        );
    }

    /// Quality on the verdict's samples, with the seed and the metric of the report.
    fn quality(&self, measured: &mut Measured, found: &mut Verification) -> Result<Option<QualityReport>, BakeError> {
        let Some(claimed) = &self.report.quality else { return Ok(None) };
        let Some(split) = self.verdict() else {
            found.add(
                "quality",
                "on the verdict's samples",
                "-",
                Holds::No("MissingSamples: the report lists samples that the data does not have".to_owned()),
            );
            return Ok(None);
        };
        let bench = Bench::for_verdict(self.engine.clone(), cores(), self.input, split, &self.report.data.taps)?;
        let (outputs, taps) = match bench.pairs(self.model) {
            Ok(pairs) => pairs,
            Err(error) => {
                found.add(MODEL_FILE, "runs on the verdict's samples", "-", Holds::No(error.to_string()));
                return Ok(None);
            }
        };
        measured.outputs_constant =
            outputs.iter().all(|o| constant(&o.baked)) && !outputs.iter().all(|o| constant(&o.baseline));
        let gated = claimed.consistency.iter().filter(|c| c.gated).map(|c| c.output.clone()).collect();
        let quality = quality::evaluate(&Evaluation {
            outputs,
            taps,
            labels: bench.split.labels.as_ref().filter(|_| self.report.data.labelled),
            metric: (claimed.retention.why == "named").then_some(claimed.retention.metric),
            gated_outputs: Some(gated),
            seed: claimed.seed,
        })?;
        measured.outputs_identical = Some(quality.identical);
        measured.figures.extend(quality.figures());
        if *self.engine.id() != self.report.engine {
            found.remarks.push(format!("Measured on {}, claimed on {}.", self.engine.id(), self.report.engine));
        }
        Ok(Some(quality))
    }

    /// The speedup of every batch size, again in pairs.
    fn speedup(&self, measured: &mut Measured, found: &mut Verification) -> Result<(), BakeError> {
        if self.report.baked.is_none() {
            measured.figures.insert(Metric::Speedup, Figure::exact(1.0));
            return Ok(());
        }
        if let Some(why) = self.elsewhere() {
            for speedup in &self.report.speedup {
                found.unchecked(format!("speedup at batch {}", speedup.batch), interval(&speedup.paired), &why);
            }
            return Ok(());
        }
        let timer = Timer::new(self.engine.clone(), self.report.threads);
        let (mut a, mut b) = (timer.load(self.input)?, timer.load(self.model)?);
        for (at, BatchSpeedup { batch: rows, paired: claimed }) in self.report.speedup.iter().enumerate() {
            let claim = format!("speedup at batch {rows}");
            let feed = match batch::of_rows(&self.data.feeds, self.input, *rows) {
                Ok(feed) => feed,
                Err(error) => {
                    found.unchecked(claim, interval(claimed), error.to_string());
                    continue;
                }
            };
            let plan = paired::Plan { max_seconds: 0.5, ..paired::Plan::default() };
            let mut again = timer.compare(a.as_mut(), b.as_mut(), &feed, plan)?;
            for _ in 1..SPEEDUP_TRIES {
                if reproduces(&again, claimed) {
                    break;
                }
                again = timer.compare(a.as_mut(), b.as_mut(), &feed, paired::Plan { max_seconds: 1.0, ..plan })?;
            }
            let holds = if reproduces(&again, claimed) {
                Holds::Yes
            } else {
                Holds::No("SpeedupNotReproduced: the claim is more than what was measured again".to_owned())
            };
            found.add(claim, interval(claimed), interval(&again), holds);
            if at == 0 {
                let of = Interval { lower: again.lower, upper: again.upper };
                measured.figures.insert(
                    Metric::Speedup,
                    Figure::new(again.ratio, Some(of), again.ratios.len(), "median of paired ratios, order statistics"),
                );
            }
        }
        Ok(())
    }

    /// Reload, outputs, memory and determinism, in fresh processes.
    fn fresh_process(&self, found: &mut Verification) -> Result<(), BakeError> {
        let request = |threads| probe::Request {
            model: self.file.clone(),
            data: self.path.to_owned(),
            samples: PROBE_SAMPLES,
            runtime: self.runtime,
            ort_lib: self.options.ort_lib.clone(),
            threads,
        };
        let figures = baked(self.report);
        let seen = match probe::spawn(&self.options.program, &request(1)) {
            Ok(seen) => seen,
            Err(BakeError::Reload(why)) => {
                found.add("reload in a fresh process", "it runs", "-", Holds::No(why));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        found.add("reload in a fresh process", "it runs", "it does", Holds::Yes);
        let (claimed, outputs) = (&figures.fresh_process.outputs_sha256, &seen.outputs_sha256);
        let short = |digest: &str| digest.chars().take(12).collect::<String>();
        let elsewhere = self.elsewhere();
        match &elsewhere {
            Some(why) => found.unchecked("outputs of a fresh process", short(claimed), why),
            None => found.equal(
                "outputs of a fresh process",
                &short(claimed),
                &short(outputs),
                "the artifact gives other outputs than it did",
            ),
        }
        let again = probe::spawn(&self.options.program, &request(1))?;
        let threaded = probe::spawn(&self.options.program, &request(2))?;
        for (claim, claimed, same) in [
            ("bit-identical over processes", figures.determinism.processes, again.outputs_sha256 == *outputs),
            ("bit-identical over threads", figures.determinism.threads, threaded.outputs_sha256 == *outputs),
        ] {
            // A claim of less than is found is no false claim.
            let holds = if claimed && !same { Holds::No("the outputs differ".to_owned()) } else { Holds::Yes };
            found.add(claim, claimed.to_string(), same.to_string(), holds);
        }
        if let (Some(claimed), Some(peak)) = (figures.fresh_process.peak_rss_bytes, seen.peak_rss_bytes) {
            let (claimed_text, peak_text) =
                (format!("{:.1} MB", claimed as f64 / 1e6), format!("{:.1} MB", peak as f64 / 1e6));
            if let Some(why) = elsewhere {
                found.unchecked("peak memory", claimed_text, why);
            } else {
                let fits = peak as f64 <= claimed as f64 * (1.0 + MEMORY_ROOM);
                let holds = if fits {
                    Holds::Yes
                } else {
                    Holds::No(format!("it needs over {:.0} % more than claimed", MEMORY_ROOM * 100.0))
                };
                found.add("peak memory", claimed_text, peak_text, holds);
            }
        }
        Ok(())
    }
}

/// A row for each quality figure and the size.
fn figures(claims: &Claims, measured: &Measured, audit: &Audit, found: &mut Verification) {
    for (metric, claimed) in claims.figures.iter().filter(|(m, _)| m.is_quality()) {
        let name = metric.to_string();
        let holds = match first(audit, |detail| detail.starts_with(&name)) {
            Holds::Yes => audit
                .unchecked
                .iter()
                .find(|u| u.starts_with(&name))
                .map_or(Holds::Yes, |why| Holds::Unchecked(why.clone())),
            other => other,
        };
        found.add(name, show(Some(claimed)), show(measured.figures.get(metric)), holds);
    }
    let size = |f: Option<&Figure>| f.and_then(|f| f.estimate).map_or_else(|| "-".to_owned(), |v| format!("{v:.4}"));
    let of = Metric::SizeReduction;
    let mismatch = audit.findings.iter().find(|f| f.cheat == Cheat::SizeMismatch);
    let holds = mismatch.map_or(Holds::Yes, |f| Holds::No(format!("{}: {}", f.cheat, f.detail)));
    found.add(of.to_string(), size(claims.figures.get(&of)), size(measured.figures.get(&of)), holds);
}

/// The quality gates, decided again.
fn verdicts(report: &Report, quality: &QualityReport, found: &mut Verification) {
    let figures = quality.figures();
    let claimed: Vec<_> = report.gates.iter().filter(|g| g.metric.is_quality()).cloned().collect();
    for (claimed, again) in claimed.iter().zip(quality::decide(&asked(&claimed), &figures)) {
        let worse = claimed.verdict == Verdict::Pass && again.verdict != Verdict::Pass;
        let holds = if worse { Holds::No(again.message.clone()) } else { Holds::Yes };
        found.add(
            format!("gate {}", claimed.metric),
            format!("{:?}", claimed.verdict),
            format!("{:?}", again.verdict),
            holds,
        );
    }
}

fn conclude(audit: &Audit, found: &mut Verification) {
    found.findings.extend(audit.findings.iter().cloned());
}

/// The first finding whose detail is wanted, as an answer.
fn first(audit: &Audit, wanted: impl Fn(&str) -> bool) -> Holds {
    let finding = audit.findings.iter().find(|f| wanted(&f.detail));
    finding.map_or(Holds::Yes, |f| Holds::No(format!("{}: {}", f.cheat, f.detail)))
}

fn constant(samples: &[Tensor]) -> bool {
    samples.windows(2).all(|pair| pair[0] == pair[1])
}

fn reproduces(a: &Paired, b: &Paired) -> bool {
    let interval = |p: &Paired| Interval { lower: p.lower, upper: p.upper };
    !exceeds(interval(b), interval(a))
}

fn interval(paired: &Paired) -> String {
    format!("{:.2}x [{:.2}, {:.2}] n={}", paired.ratio, paired.lower, paired.upper, paired.ratios.len())
}

fn show(figure: Option<&Figure>) -> String {
    match figure {
        None => "-".to_owned(),
        Some(Figure { estimate: None, .. }) => "no value".to_owned(),
        Some(Figure { estimate: Some(v), lower: Some(l), upper: Some(u), n, .. }) => {
            format!("{v:.4} [{l:.4}, {u:.4}] n={n}")
        }
        Some(Figure { estimate: Some(v), n, .. }) => format!("{v:.4} n={n}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sample_or_equal_ones_are_constant() {
        let row = |v: f32| Tensor::new(&[1], &[v]);
        assert!(constant(&[row(1.0)]) && constant(&[row(1.0), row(1.0)]));
        assert!(!constant(&[row(1.0), row(1.0), row(2.0)]));
    }

    #[test]
    fn intervals_that_touch_overlap() {
        let of = |lower: f64, upper: f64| Paired { ratio: lower, lower, upper, ratios: vec![lower], seconds: [1.0; 2] };
        assert!(reproduces(&of(1.0, 2.0), &of(2.0, 3.0)));
        assert!(!reproduces(&of(1.0, 1.9), &of(2.0, 3.0)));
    }
}
