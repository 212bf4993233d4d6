//! A package of phase 7, checked as its consumer: by itself, without the bake that made it. First everything that can be read, then the model is run and each
//! claim is held against what it does here. A claim that depends on the machine is judged on the same machine only; elsewhere what was measured stands beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::again::MEMORY_ROOM;
use super::timed::Timed;
use super::{Holds, Verification};
use crate::api::bakejob::Runtime;
use crate::bake::handoff::{Extreme, Outputs, batch_rows, difference, figures, machine, ranges, run_all};
use crate::bake::probe::{self, outputs_digest};
use crate::bake::{BakeError, Options};
use crate::engine::{Dataset, Feed, LoadOptions, SharedEngine, dataset};
use crate::hardware::detect;
use crate::model::{Model, Tensor, safetensors};
use crate::package::phase7::{
    self, BatchFigures, Clock, Defect, DeploymentConfig, Fault, FileRole, LatencySamples, Manifest, Port, ValueRange,
    output_key,
};
use crate::profiler::Samples;

/// What engines may differ by on one model, relative to max(1, max |a|). More of it tells nothing of the model, only that a consumer should look.
const ELSEWHERE: f64 = 1e-4;

/// Checks the package in `folder`. `data` is the validation split, for a check of ranges and bounds on all of it.
///
/// # Errors
/// Data that cannot be read, or a fault while measuring. A package that is broken is no error: it is what is found.
pub fn verify_package(folder: &Path, data: Option<&Path>, options: &Options) -> Result<Verification, BakeError> {
    let opened = phase7::open(folder);
    let sound = opened.is_sound();
    let mut found = Verification::default();
    for check in opened.checks {
        let holds = check.fault.map_or(Holds::Yes, |fault| Holds::No(fault.to_string()));
        found.add(check.claim, check.claimed, check.found, holds);
    }
    if let Some(manifest) = &opened.manifest {
        found.job.clone_from(&manifest.name);
        if manifest.traceability.gates_passed != Some(true) {
            found
                .remarks
                .push("The gates of the bake did not pass. The package says so; it is not for promotion.".to_owned());
        }
    }
    let (Some(manifest), Some(config)) = (&opened.manifest, &opened.config) else {
        found.unchecked("runs of the model", "-", "the package cannot be read as a whole");
        return Ok(found);
    };
    follow(manifest, config, &mut found);
    let (Some(model), true) = (&opened.model, sound) else {
        found.unchecked("runs of the model", "-", "a package that contradicts itself is not run");
        return Ok(found);
    };
    found.remarks.push(config.statement.clone());
    run(&Package { folder, manifest, config, model }, data, options, &mut found)?;
    Ok(found)
}

pub(super) fn no(defect: Defect, detail: impl Into<String>) -> Holds {
    Holds::No(Fault::new(defect, detail).to_string())
}

/// A claim that is refuted, unless there is a reason why it cannot be judged here.
fn held_against(fault: Option<(Defect, String)>, unless: Option<&String>) -> Holds {
    match (fault, unless) {
        (None, _) => Holds::Yes,
        (Some((defect, detail)), None) => no(defect, detail),
        (Some(_), Some(why)) => Holds::Unchecked(why.clone()),
    }
}

/// Percentiles must follow from the raw samples that the manifest holds.
fn follow(manifest: &Manifest, config: &DeploymentConfig, found: &mut Verification) {
    let raw = |batch, clock| {
        let found =
            manifest.evidence.latency.iter().find(|l: &&LatencySamples| l.batch == batch && l.clock == clock)?;
        Samples { seconds: found.seconds.clone(), runs_per_sample: found.runs_per_sample }.summary()
    };
    if config.batches.is_empty() {
        let holds = no(Defect::ClaimWithoutEvidence, "deployment_config.json: batches is empty, no latency is stated");
        found.add("latency", "stated", "-", holds);
    }
    for BatchFigures { batch, latency, throughput } in &config.batches {
        let mut wrong = None;
        for claimed in latency {
            let field = format!("deployment_config.json: batches: {batch}: {} latency", claimed.clock);
            match raw(*batch, claimed.clock) {
                None => {
                    wrong = Some(no(Defect::ClaimWithoutEvidence, format!("{field} has no samples in manifest.json")));
                }
                Some(summary) if figures(claimed.clock, &summary) != *claimed => {
                    wrong =
                        Some(no(Defect::ClaimContradictsEvidence, format!("{field} does not follow from its samples")));
                }
                Some(summary) if claimed.clock == Clock::Wall && *batch as f64 / summary.p50 != *throughput => {
                    let detail =
                        format!("deployment_config.json: batches: {batch}: throughput is not what its median gives");
                    wrong = Some(no(Defect::ClaimContradictsEvidence, detail));
                }
                Some(_) => {}
            }
        }
        if !latency.iter().any(|l| l.clock == Clock::Wall) {
            let detail = format!("deployment_config.json: batches: {batch} has no latency by the clock on the wall");
            wrong = Some(no(Defect::ClaimWithoutEvidence, detail));
        }
        let measured = if wrong.is_none() { "it does" } else { "it does not" };
        found.add(
            format!("latency at batch {batch}"),
            "follows from its samples",
            measured,
            wrong.unwrap_or(Holds::Yes),
        );
    }
}

/// A package that can be run.
struct Package<'a> {
    folder: &'a Path,
    manifest: &'a Manifest,
    config: &'a DeploymentConfig,
    model: &'a Model,
}

impl Package<'_> {
    fn path(&self, role: FileRole) -> PathBuf {
        self.folder.join(self.manifest.file(role).map_or("", |f| f.path.as_str()))
    }

    /// The outputs that the package holds, `[sample][output]`.
    fn outputs(&self, samples: usize) -> Result<Outputs, String> {
        let path = self.path(FileRole::Outputs);
        let bytes = std::fs::read(&path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
        let mut held: BTreeMap<String, Tensor> =
            safetensors::read(&Bytes::from(bytes)).map_err(|e| format!("{} {e}", path.display()))?;
        let names = self.model.output_names();
        let mut one = |name: &str, sample| {
            let key = output_key(name, sample);
            held.remove(&key).ok_or_else(|| format!("{} holds no '{key}'", path.display()))
        };
        (0..samples).map(|sample| names.iter().map(|name| one(name, sample)).collect()).collect()
    }
}

/// The package with an engine.
struct Bench<'a> {
    package: &'a Package<'a>,
    options: &'a Options,
    engine: SharedEngine,
    runtime: Runtime,
    samples: Vec<Feed>,
    /// Why figures that depend on machine and engine cannot be judged, if they cannot.
    elsewhere: Option<String>,
    /// Why outputs cannot be held against those in the package, if they cannot.
    varying: Option<String>,
}

fn run(
    package: &Package<'_>,
    data: Option<&Path>,
    options: &Options,
    found: &mut Verification,
) -> Result<(), BakeError> {
    let path = package.path(FileRole::Samples);
    let samples = match Dataset::load(&path, package.model, dataset::Limits::default()) {
        Ok(loaded) => loaded.dataset.feeds,
        Err(error) => {
            found.add("samples", "fit the model", "-", no(Defect::SignatureMismatch, error.to_string()));
            return Ok(());
        }
    };
    let named = &package.config.runtime;
    let wanted = if named.engine == "onnxruntime" { Runtime::OnnxRuntime } else { Runtime::Bakehouse };
    let (engine, runtime) = match options.engines.get(wanted) {
        Ok(engine) => (engine, wanted),
        Err(_) => match options.engines.select(package.model, &samples, None) {
            Ok(selected) => (selected.engine, selected.runtime),
            Err(error) => {
                found.unchecked(
                    "runs of the model",
                    format!("on {} {}", named.engine, named.version),
                    error.to_string(),
                );
                return Ok(());
            }
        },
    };
    let here = detect();
    let (own, claimed) = (machine(&here), &package.config.machine);
    let elsewhere = if (&own.cpu, &own.arch, &own.features) != (&claimed.cpu, &claimed.arch, &claimed.features) {
        Some(format!("it was measured on another machine ({})", claimed.cpu))
    } else if (&engine.id().name, &engine.id().version) != (&named.engine, &named.version) {
        Some(format!("it was measured on {} {}, here is {}", named.engine, named.version, engine.id()))
    } else {
        None
    };
    let varying = (!package.config.bit_identical.runs)
        .then(|| "the model gives other outputs in each run, as the package says".to_owned());
    let varying = elsewhere.clone().or(varying);
    let bench = Bench { package, options, engine, runtime, samples, elsewhere, varying };
    if !bench.outputs(found) {
        return Ok(());
    }
    bench.processes(found)?;
    bench.rows(found)?;
    bench.ranges(data, found)?;
    let timed = Timed {
        config: package.config,
        model: package.model,
        engine: &bench.engine,
        samples: &bench.samples,
        elsewhere: bench.elsewhere.as_ref(),
    };
    timed.check(found)
}

impl Bench<'_> {
    /// A claim that depends on machine and engine: refuted here only where they are the same.
    fn judged(&self, fault: Option<(Defect, String)>) -> Holds {
        held_against(fault, self.elsewhere.as_ref())
    }

    /// The model on the samples of the package, against the outputs of the package. Returns whether it runs at all.
    fn outputs(&self, found: &mut Verification) -> bool {
        const CLAIM: &str = "outputs on the samples";
        let claimed = format!("those of {} samples", self.samples.len());
        let expected = match self.package.outputs(self.samples.len()) {
            Ok(expected) => expected,
            Err(why) => {
                found.add(CLAIM, claimed, "-", no(Defect::ClaimWithoutEvidence, why));
                return true;
            }
        };
        let ran = self
            .engine
            .load(self.package.model, &LoadOptions::default())
            .and_then(|mut session| run_all(session.as_mut(), &self.samples));
        let outputs = match ran {
            Ok(outputs) => outputs,
            Err(error) => {
                found.add(CLAIM, claimed, "-", no(Defect::ModelUnreadable, error.to_string()));
                return false;
            }
        };
        let pairs = expected.iter().flatten().zip(outputs.iter().flatten());
        let most = pairs.map(|(a, b)| difference(a, b)).try_fold(0.0_f64, |most, d| d.map(|d| most.max(d)));
        let same = expected == outputs;
        let measured = match (same, most) {
            (true, _) => "the same bits".to_owned(),
            (false, Some(most)) => format!("differ by up to {most:.1e}"),
            (false, None) => "differ in type or shape".to_owned(),
        };
        let holds = if same || (self.varying.is_some() && most.is_some_and(|m| m <= ELSEWHERE)) {
            Holds::Yes
        } else if most.is_none() {
            no(Defect::OutputsDiffer, "the model gives outputs of another type or shape than those in the package")
        } else {
            let detail = "the model gives other outputs than those in the package".to_owned();
            held_against(Some((Defect::OutputsDiffer, detail)), self.varying.as_ref())
        };
        found.add(CLAIM, claimed, measured, holds);
        // What lies in the package must be what its digests speak of.
        let (held, named) =
            (outputs_digest(expected.iter().flatten()), self.package.manifest.evidence.determinism.runs.first());
        let holds = if named.is_some_and(|named| *named == held) {
            Holds::Yes
        } else {
            no(Defect::ClaimContradictsEvidence, "manifest.json: evidence.determinism speaks of other outputs")
        };
        found.add("digest of the outputs", named.map_or("-", |n| short(n)), short(&held), holds);
        true
    }

    /// Reload, determinism and memory, in fresh processes.
    fn processes(&self, found: &mut Verification) -> Result<(), BakeError> {
        let request = |threads| probe::Request {
            model: self.package.path(FileRole::Model),
            data: self.package.path(FileRole::Samples),
            samples: self.samples.len(),
            runtime: self.runtime,
            ort_lib: self.options.ort_lib.clone(),
            threads,
        };
        let parts = self.package.manifest.files.iter().filter(|f| f.role.is_of_the_model());
        let bytes = parts.map(|f| f.bytes).sum();
        let seen = match probe::spawn_all(&self.options.program, &[1, 1, 2].map(request), bytes) {
            Ok(seen) => seen,
            Err(BakeError::Reload(why)) => {
                found.add("reload in a fresh process", "it runs", "-", no(Defect::ModelUnreadable, why));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        found.add("reload in a fresh process", "it runs", "it does", Holds::Yes);
        let [first, second, threaded] = [0, 1, 2].map(|i| &seen[i]);
        let mut session = self.engine.load(self.package.model, &LoadOptions::default())?;
        let digest = |outputs: &Outputs| outputs_digest(outputs.iter().flatten());
        let runs = [(); 2].map(|()| run_all(session.as_mut(), &self.samples));
        let [one, again] = runs;
        let (one, again) = (digest(&one?), digest(&again?));
        let claims = self.package.config.bit_identical;
        for (name, claimed, same) in [
            ("runs", claims.runs, one == again),
            ("threads", claims.threads, threaded.outputs_sha256 == first.outputs_sha256),
            (
                "processes",
                claims.processes,
                first.outputs_sha256 == second.outputs_sha256 && first.outputs_sha256 == one,
            ),
        ] {
            // A claim of less than is found is no false claim.
            let fault =
                (claimed && !same).then(|| (Defect::NotDeterministic, format!("outputs differ between {name}")));
            found.add(format!("bit-identical over {name}"), claimed.to_string(), same.to_string(), self.judged(fault));
        }
        let claimed = self.package.config.memory.peak_bytes;
        let peak = seen[..2].iter().filter_map(|s| s.peak_rss_bytes).min();
        if let (Some(claimed), Some(peak)) = (claimed, peak) {
            let over = peak as f64 > claimed as f64 * (1.0 + MEMORY_ROOM);
            let detail = format!("it needs over {:.0} % more than claimed", MEMORY_ROOM * 100.0);
            let holds = match &self.elsewhere {
                Some(why) => Holds::Unchecked(why.clone()),
                None => self.judged(over.then_some((Defect::MemoryNotReproduced, detail))),
            };
            let text = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
            found.add("peak memory", text(claimed), text(peak), holds);
        }
        Ok(())
    }

    fn rows(&self, found: &mut Verification) -> Result<(), BakeError> {
        let claim = &self.package.config.batch_flexibility;
        let sizes: Vec<usize> = claim.sizes.iter().map(|s| s.batch).collect();
        let again = batch_rows(&self.engine, self.package.model, &self.samples, &sizes)?;
        for size in &claim.sizes {
            let name = format!("rows of batch {} as single runs", size.batch);
            let text = |bit_equal: bool, difference: Option<f64>| match (bit_equal, difference) {
                (true, _) => "bit-equal".to_owned(),
                (false, Some(d)) => format!("within {d:.1e}"),
                (false, None) => "differ in shape".to_owned(),
            };
            let claimed = text(size.bit_equal, size.max_difference);
            let Some(now) = again.sizes.iter().find(|s| s.batch == size.batch) else {
                let why = again.not_compared.clone().unwrap_or_default();
                found.add(name, claimed, "-", self.judged(Some((Defect::BatchRowsDiffer, why))));
                continue;
            };
            let less = (size.bit_equal && !now.bit_equal) || (size.within_tolerance && !now.within_tolerance);
            let fault = less.then(|| (Defect::BatchRowsDiffer, "rows differ by more than claimed".to_owned()));
            found.add(name, claimed, text(now.bit_equal, now.max_difference), self.judged(fault));
        }
        if let Some(why) = &claim.not_compared {
            found.remarks.push(format!("Batches: {why}."));
        }
        Ok(())
    }

    /// Ranges of inputs and bounds of outputs: on the split they were seen on when it is given, else on the samples of the package.
    fn ranges(&self, data: Option<&Path>, found: &mut Verification) -> Result<(), BakeError> {
        let evidence = &self.package.manifest.evidence.samples;
        let mut exact = evidence.attain_ranges;
        let mut counted = false;
        let mut split = None;
        if let Some(path) = data {
            let loaded = Dataset::load(path, self.package.model, dataset::Limits::default())?;
            counted = loaded.sha256 == evidence.validation_sha256;
            exact = counted;
            split = Some(loaded.dataset.feeds);
        }
        let feeds = split.as_ref().unwrap_or(&self.samples);
        let seen = ranges(&self.engine, self.package.model, feeds)?;
        let signature = &self.package.config.signature;
        let inputs = signature.inputs.iter().zip(&seen.inputs).map(|(p, e)| ("range of input", p, e, None));
        let outputs =
            signature.outputs.iter().zip(&seen.outputs).map(|(p, e)| ("bounds of output", p, e, self.varying.as_ref()));
        for (what, port, extreme, elsewhere) in inputs.chain(outputs) {
            let now = extreme.range();
            let measured = format!("{} on {} samples", text(now.as_ref()), feeds.len());
            let foreign = data.is_some() && !counted;
            let holds = if foreign {
                Holds::Unchecked("the data is not the split that it was seen on".to_owned())
            } else {
                reproduced(port, extreme, exact, counted, elsewhere)
            };
            found.add(format!("{what} '{}'", port.name), text(port.range.as_ref()), measured, holds);
        }
        if !exact && data.is_none() {
            found.remarks.push(
                "Ranges and bounds were only checked to contain the samples of the package; --data with the validation split checks them whole.".to_owned(),
            );
        }
        Ok(())
    }
}

/// Whether a range is what the samples give. `exact`: its ends are attained in them. `counted`: they are the whole split.
fn reproduced(port: &Port, extreme: &Extreme, exact: bool, counted: bool, elsewhere: Option<&String>) -> Holds {
    let other = |detail: &str| {
        no(Defect::BoundNotReproduced, format!("deployment_config.json: signature: {}: {detail}", port.name))
    };
    let (claimed, now) = match (&port.range, extreme.range()) {
        (None, None) => return Holds::Yes,
        (None, Some(_)) => return other("no range is stated, and the samples have one"),
        (Some(_), None) => return other("a range is stated, and the samples have no finite value"),
        (Some(claimed), Some(now)) => (claimed, now),
    };
    if counted && claimed.non_finite != now.non_finite {
        return other("the split has another number of values that are not finite");
    }
    let scale = [claimed.min, claimed.max, 1.0].iter().fold(0.0_f64, |most, v| most.max(v.abs()));
    let room = if elsewhere.is_some() { ELSEWHERE * scale } else { 0.0 };
    let ends = [(claimed.min, now.min), (claimed.max, now.max)];
    let kept = if exact {
        ends.iter().all(|(a, b)| (a - b).abs() <= room)
    } else {
        now.min >= claimed.min - room && now.max <= claimed.max + room
    };
    match (kept, elsewhere) {
        (true, _) => Holds::Yes,
        (false, Some(why)) => Holds::Unchecked(why.clone()),
        (false, None) => other("the samples give other ends"),
    }
}

fn text(range: Option<&ValueRange>) -> String {
    range.map_or_else(|| "none".to_owned(), |r| format!("[{}, {}]", r.min, r.max))
}

/// The first digits of a digest.
fn short(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_where_its_ends_are_attained_or_contain_the_samples() {
        let extreme = |values: &[f32]| {
            let mut seen = Extreme::new("y");
            seen.see(0, &Tensor::new(&[values.len()], values));
            seen
        };
        let port = |range: Option<[f64; 2]>| Port {
            name: "y".to_owned(),
            dtype: None,
            shape: None,
            range: range.map(|[min, max]| ValueRange { min, max, non_finite: 0 }),
        };
        let values = extreme(&[0.25, 0.75]);
        let holds = |range, exact| reproduced(&port(range), &values, exact, false, None);
        assert_eq!(holds(Some([0.25, 0.75]), true), Holds::Yes);
        assert_eq!(holds(Some([0.0, 1.0]), false), Holds::Yes);
        for (range, exact) in
            [(Some([0.0, 1.0]), true), (Some([0.25, 0.7]), true), (Some([0.3, 1.0]), false), (None, true)]
        {
            assert!(
                matches!(holds(range, exact), Holds::No(why) if why.starts_with("BoundNotReproduced")),
                "{range:?}"
            );
        }
        let elsewhere = "another machine".to_owned();
        let near = reproduced(&port(Some([0.25001, 0.75])), &values, true, false, Some(&elsewhere));
        assert_eq!(near, Holds::Yes);
        let far = reproduced(&port(Some([0.3, 0.75])), &values, true, false, Some(&elsewhere));
        assert_eq!(far, Holds::Unchecked(elsewhere));
        assert_eq!(reproduced(&port(None), &extreme(&[f32::NAN]), true, true, None), Holds::Yes);
    }
}
