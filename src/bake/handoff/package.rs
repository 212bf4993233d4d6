//! The phase 7 package, made of the artifact and of measurements on what lies in the package's folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use super::measured::{Extreme, Outputs, Ranges};
use super::{Artifact, Handoff, artifact, batch_rows, copy, limits, ranges, run_all, wall, write};
use crate::api::bakejob::Verdict;
use crate::api::wire::IMAGE_VARIABLE;
use crate::bake::probe::{self, Seen, outputs_digest};
use crate::bake::publish::Staging;
use crate::bake::report::BatchLatency;
use crate::bake::source::{Role, SourceFile};
use crate::bake::{BakeError, pretty};
use crate::engine::{Feed, LoadOptions};
use crate::hardware::MachineFacts;
use crate::model::{Model, Tensor, safetensors};
use crate::package::Package;
use crate::package::phase7::{
    self, BatchFigures, BitIdentical, CONFIG_FILE, Clock, DEPLOYMENT_VERSION, DeploymentConfig, DeterminismEvidence,
    Evidence, FOLDER, FigureClaim, FileRole, GateClaim, Hint, Latency, LatencySamples, MANIFEST_FILE, MODEL_FILE,
    Machine, Manifest, MemoryFigures, ModelFacts, ModelRef, OUTPUTS_FILE, Opened, PHASE7_VERSION, PackageFile,
    PassClaim, Phase5Claim, Port, RECIPE_FILE, RecipeClaim, Runtime, SAMPLES_FILE, SampleEvidence, Signature,
    SourceClaim, ThreadDigest, Traceability, output_key,
};
use crate::profiler::{Samples, latency};
use crate::quality;

/// Format of the manifest in report and status. It names the other files.
pub(in crate::bake) const MANIFEST_FORMAT: &str = "Phase7";

/// Format of the other files.
const FILE_FORMAT: &str = "Phase7File";

/// Samples that a package has at least, where the split has as many.
const LEAST_SAMPLES: usize = 8;

/// The most bytes of samples and outputs. More of them would make the package a data set.
const MOST_SAMPLE_BYTES: usize = 16 << 20;

/// Fresh processes that must agree.
const PROCESSES: usize = 2;

/// Batches that are compared with single runs, beside those that are timed.
const BATCHES: [usize; 2] = [2, 8];

/// Larger batches are timed, and not compared row by row.
const MOST_ROWS: usize = 64;

const STATEMENT: &str = "Every figure was measured on the machine and the engine that are named here; ranges and bounds were observed on the validation \
                         split, not proven. No safety level is claimed.";

/// The facts that a package states of a machine.
pub(in crate::bake) fn machine(facts: &MachineFacts) -> Machine {
    Machine {
        cpu: facts.cpu.clone(),
        arch: facts.arch.clone(),
        features: facts.features.clone(),
        cores: facts.usable_cores(),
        memory: facts.physical_memory,
        os: facts.os.clone(),
        kernel: facts.kernel.clone(),
    }
}

/// A location in the model's folder as the manifest writes it: `./weights.bin` is `weights.bin`.
pub(super) fn plain(location: &str) -> String {
    let parts = Path::new(location).components().filter(|c| *c != Component::CurDir);
    parts.map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// What was measured on the folder.
struct Measured {
    ranges: Ranges,
    places: Vec<usize>,
    attain_ranges: bool,
    determinism: DeterminismEvidence,
    processes: Vec<Seen>,
    wall: Vec<BatchLatency>,
}

impl Handoff<'_> {
    /// Writes the package into its folder, the manifest last, and reads it again.
    pub(super) fn package(&self, staging: &mut Staging) -> Result<Vec<Artifact>, BakeError> {
        let folder = staging.folder(FOLDER)?;
        let mut files = vec![(MODEL_FILE.to_owned(), FileRole::Model)];
        copy(&staging.path(crate::bake::MODEL_FILE), &folder.join(MODEL_FILE))?;
        for beside in &self.files[1..] {
            copy(&staging.path(&beside.file), &folder.join(&beside.file))?;
            files.push((plain(&beside.file), FileRole::ModelData));
        }
        write(&folder.join(RECIPE_FILE), pretty(self.recipe)?.as_bytes())?;
        let model = Model::load(&folder.join(MODEL_FILE))?;
        let measured = self.measure(&folder, &model)?;
        let config = self.config(&model, &measured)?;
        write(&folder.join(CONFIG_FILE), pretty(&config)?.as_bytes())?;
        files.extend([
            (RECIPE_FILE.to_owned(), FileRole::Recipe),
            (SAMPLES_FILE.to_owned(), FileRole::Samples),
            (OUTPUTS_FILE.to_owned(), FileRole::Outputs),
            (CONFIG_FILE.to_owned(), FileRole::DeploymentConfig),
        ]);
        let mut listed = Vec::new();
        let mut written = Vec::new();
        for (path, role) in files {
            let name = format!("{FOLDER}/{path}");
            let file = artifact(FILE_FORMAT, &name, &folder.join(&path))?;
            listed.push(PackageFile { path, role, sha256: file.sha256.clone(), bytes: file.bytes });
            written.push(file);
        }
        let manifest = self.manifest(&model, listed, &measured);
        let path = folder.join(MANIFEST_FILE);
        write(&path, pretty(&manifest)?.as_bytes())?;
        written.push(artifact(MANIFEST_FORMAT, &format!("{FOLDER}/{MANIFEST_FILE}"), &path)?);
        sound(&phase7::open(&folder))?;
        Ok(written)
    }

    fn measure(&self, folder: &Path, model: &Model) -> Result<Measured, BakeError> {
        let engine = &self.loaded.engine.engine;
        let feeds = &self.loaded.validation.feeds;
        let mut session = engine.load(model, &LoadOptions::default())?;
        let ranges = ranges(engine, model, feeds)?;
        let first = session.run(&feeds[0])?;
        let each: usize = feeds[0].iter().map(|(_, t)| t).chain(&first).map(|t| t.bytes().len()).sum();
        let (places, attain_ranges) = chosen_places(&ranges, feeds.len(), each);
        let samples: Vec<Feed> = places.iter().map(|&place| feeds[place].clone()).collect();
        let path = folder.join(SAMPLES_FILE);
        write(&path, &safetensors::write(&stacked(&samples)?, None).map_err(BakeError::Internal)?)?;

        let outputs = run_all(session.as_mut(), &samples)?;
        let again = run_all(session.as_mut(), &samples)?;
        // One after the other: each may take as much memory as the model.
        drop(session);
        let mut two = engine.load(model, &LoadOptions { threads: 2, ..LoadOptions::default() })?;
        let threaded = run_all(two.as_mut(), &samples)?;
        drop(two);
        let digest = |outputs: &Outputs| outputs_digest(outputs.iter().flatten());
        let named = outputs.iter().enumerate().flat_map(|(sample, of)| {
            model.output_names().into_iter().zip(of).map(move |(name, t)| (output_key(name, sample), t.clone()))
        });
        let named: BTreeMap<String, Tensor> = named.collect();
        let file = safetensors::write(&named, None).map_err(BakeError::Internal)?;
        write(&folder.join(OUTPUTS_FILE), &file)?;

        let request = probe::Request {
            model: folder.join(MODEL_FILE),
            data: path,
            samples: samples.len(),
            runtime: self.loaded.engine.runtime,
            ort_lib: self.options.ort_lib.clone(),
            threads: 1,
        };
        let requests = vec![request; PROCESSES];
        let bytes = self.files.iter().map(|file| file.bytes).sum();
        let processes = probe::spawn_all(&self.options.program, &requests, bytes)?;
        let determinism = DeterminismEvidence {
            runs: vec![digest(&outputs), digest(&again)],
            threads: vec![ThreadDigest { threads: 2, sha256: digest(&threaded) }],
            processes: processes.iter().map(|seen| seen.outputs_sha256.clone()).collect(),
        };
        let mut session = self.timer.load(model)?;
        let feeds = self.workload.feeds.iter().enumerate();
        let wall = feeds
            .map(|(i, (batch, feed))| wall(session.as_mut(), (*batch, feed), i == 0))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Measured { ranges, places, attain_ranges, determinism, processes, wall })
    }

    fn config(&self, model: &Model, measured: &Measured) -> Result<DeploymentConfig, BakeError> {
        let engine = &self.loaded.engine.engine;
        let peak_bytes = measured.processes.iter().filter_map(|seen| seen.peak_rss_bytes).max();
        let samples: Vec<Feed> =
            measured.places.iter().map(|&place| self.loaded.validation.feeds[place].clone()).collect();
        let timed = self.workload.feeds.iter().map(|(batch, _)| *batch).filter(|b| (2..=MOST_ROWS).contains(b));
        let sizes: BTreeSet<usize> = BATCHES.into_iter().chain(timed).collect();
        let evidence = &measured.determinism;
        Ok(DeploymentConfig {
            api_version: DEPLOYMENT_VERSION.to_owned(),
            name: self.job.name.clone(),
            statement: STATEMENT.to_owned(),
            model: ModelRef {
                file: MODEL_FILE.to_owned(),
                format: "ONNX".to_owned(),
                sha256: self.files[0].sha256.clone(),
            },
            signature: with_ranges(Signature::of(model), &measured.ranges),
            runtime: Runtime {
                engine: engine.id().name.clone(),
                version: engine.id().version.clone(),
                threads: self.timer.threads(),
            },
            machine: machine(self.machine),
            batches: measured.wall.iter().map(|wall| self.batch(wall)).collect(),
            memory: MemoryFigures {
                peak_bytes,
                idle_bytes: measured.processes.first().and_then(|seen| seen.idle_rss_bytes),
                model_bytes: self.files.iter().map(|f| f.bytes).sum(),
            },
            bit_identical: BitIdentical {
                runs: evidence.runs_equal() == Some(true),
                threads: evidence.threads_equal() == Some(true),
                processes: evidence.processes_equal() == Some(true),
            },
            batch_flexibility: batch_rows(engine, model, &samples, &sizes.into_iter().collect::<Vec<_>>())?,
            limits: limits(measured.wall.first(), peak_bytes),
            fail_safe: Hint::all(),
        })
    }

    /// Figures of a batch size by both clocks.
    fn batch(&self, wall: &BatchLatency) -> BatchFigures {
        let cpu = self.cpu_samples(wall.batch).and_then(|l| Some(figures(Clock::ThreadCpu, &l.samples.summary()?)));
        BatchFigures {
            batch: wall.batch,
            latency: std::iter::once(figures(Clock::Wall, &wall.summary)).chain(cpu).collect(),
            throughput: wall.throughput,
        }
    }

    /// What the bake measured at a batch size, where that is CPU time.
    fn cpu_samples(&self, batch: usize) -> Option<&BatchLatency> {
        self.chosen.figures.latency.iter().find(|l| l.batch == batch).filter(|_| self.timer.cpu_time())
    }

    fn manifest(&self, model: &Model, files: Vec<PackageFile>, measured: &Measured) -> Manifest {
        let validation = self.loaded.files.iter().find(|f| f.role == Role::Validation);
        let raw = |clock, batch, samples: &Samples| LatencySamples {
            batch,
            clock,
            seconds: samples.seconds.clone(),
            runs_per_sample: samples.runs_per_sample,
        };
        let latency = measured.wall.iter().flat_map(|wall| {
            let cpu = self.cpu_samples(wall.batch).map(|l| raw(Clock::ThreadCpu, l.batch, &l.samples));
            std::iter::once(raw(Clock::Wall, wall.batch, &wall.samples)).chain(cpu)
        });
        Manifest {
            api_version: PHASE7_VERSION.to_owned(),
            bakehouse: env!("CARGO_PKG_VERSION").to_owned(),
            name: self.job.name.clone(),
            files,
            model: ModelFacts::of(model),
            traceability: self.traceability(),
            evidence: Evidence {
                samples: SampleEvidence {
                    validation_sha256: validation.map(|f| f.sha256.clone()).unwrap_or_default(),
                    validation_samples: self.loaded.validation.len(),
                    places: measured.places.clone(),
                    attain_ranges: measured.attain_ranges,
                },
                determinism: measured.determinism.clone(),
                latency: latency.collect(),
            },
        }
    }

    fn traceability(&self) -> Traceability {
        let (job, chosen) = (self.job, self.chosen);
        let image = std::env::var(IMAGE_VARIABLE).ok().filter(|image| !image.is_empty());
        let sources = source_claims(&self.loaded.files);
        Traceability {
            written_at: jiff::Timestamp::now().to_string(),
            job: job.name.clone(),
            spec_digest: job.spec_digest.clone(),
            image,
            plan: format!("{:?}/{:?}", job.level, job.goal),
            seed: job.seed,
            reason: chosen.reason,
            candidate: chosen.name.clone(),
            input_sha256: self.loaded.file_sha256.clone(),
            phase5: self.package.map(|(package, reproduced)| {
                let Package { layout, manifest, manifest_sha256, .. } = package;
                let baseline = reproduced.iter().map(FigureClaim::from).collect();
                Phase5Claim::of(*layout, manifest_sha256.as_deref(), manifest, &sources, baseline)
            }),
            sources,
            recipe: RecipeClaim {
                file: RECIPE_FILE.to_owned(),
                steps: self.recipe.steps.iter().map(|s| s.pass.clone()).collect(),
                output_sha256: self.recipe.output_sha256.clone(),
            },
            passes: self
                .lossless
                .iter()
                .chain(&chosen.records)
                .map(|p| PassClaim {
                    name: p.name.clone(),
                    outcome: format!("{:?}", p.outcome),
                    reason: p.reason.clone(),
                })
                .collect(),
            gates: chosen.gates.iter().map(gate).collect(),
            gates_passed: match quality::overall(&chosen.gates) {
                Verdict::Pass => Some(true),
                Verdict::Fail => Some(false),
                Verdict::Inconclusive => None,
            },
        }
    }
}

/// The files that a bake read, as a package states them.
pub(in crate::bake) fn source_claims(files: &[SourceFile]) -> Vec<SourceClaim> {
    let claim = |f: &SourceFile| SourceClaim {
        role: format!("{:?}", f.role),
        uri: f.path.display().to_string(),
        sha256: f.sha256.clone(),
    };
    files.iter().map(claim).collect()
}

fn gate(gate: &quality::GateResult) -> GateClaim {
    GateClaim {
        metric: gate.metric,
        min: gate.min,
        max: gate.max,
        observed: gate.observed,
        interval: gate.interval.map(|i| [i.lower, i.upper]),
        n: gate.n,
        verdict: gate.verdict,
    }
}

/// Percentiles by one clock.
pub(in crate::bake) fn figures(clock: Clock, summary: &latency::Latency) -> Latency {
    Latency {
        clock,
        p50: summary.p50,
        p95: summary.p95,
        p99: summary.p99,
        jitter: summary.p99.map(|p99| p99 - summary.p50),
        n: summary.n,
    }
}

/// The signature with what was seen.
fn with_ranges(mut signature: Signature, ranges: &Ranges) -> Signature {
    let put = |ports: &mut Vec<Port>, seen: &[Extreme]| {
        for port in ports {
            port.range = seen.iter().find(|e| e.name == port.name).and_then(Extreme::range);
        }
    };
    put(&mut signature.inputs, &ranges.inputs);
    put(&mut signature.outputs, &ranges.outputs);
    signature
}

/// Samples that go into the package, ascending: those in which a range or a bound was attained, and the first ones up to a number. With them, whether all of
/// the former have room.
fn chosen_places(ranges: &Ranges, samples: usize, bytes_each: usize) -> (Vec<usize>, bool) {
    let most = (MOST_SAMPLE_BYTES / bytes_each.max(1)).max(1);
    let mut places: BTreeSet<usize> =
        ranges.inputs.iter().chain(&ranges.outputs).filter(|e| e.range().is_some()).flat_map(|e| e.places).collect();
    let attained = places.len() <= most;
    if !attained {
        places.clear();
    }
    for place in 0..samples {
        if places.len() >= LEAST_SAMPLES.min(most) {
            break;
        }
        places.insert(place);
    }
    (places.into_iter().collect(), attained)
}

/// Samples as a split holds them: one array per input, axis 0 the sample.
fn stacked(samples: &[Feed]) -> Result<BTreeMap<String, Tensor>, BakeError> {
    let uneven = || BakeError::Internal("samples of one split differ in shape".to_owned());
    let first = samples.first().ok_or_else(uneven)?;
    first
        .iter()
        .map(|(name, like)| {
            let mut bytes = Vec::with_capacity(like.bytes().len() * samples.len());
            for sample in samples {
                let tensor = sample.get(name).filter(|t| t.shape() == like.shape() && t.dtype() == like.dtype());
                bytes.extend_from_slice(tensor.ok_or_else(uneven)?.bytes());
            }
            let shape = std::iter::once(samples.len()).chain(like.shape().iter().copied()).collect();
            let array = Tensor::from_bytes(like.dtype(), shape, bytes.into())?;
            Ok((name.to_owned(), array))
        })
        .collect()
}

/// What was written must be what its consumer accepts.
fn sound(opened: &Opened) -> Result<(), BakeError> {
    match opened.checks.iter().find_map(|c| c.fault.as_ref()) {
        None => Ok(()),
        Some(fault) => Err(BakeError::Reload(format!("the package that was written is not sound: {fault}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_stack_to_a_split_and_uneven_ones_do_not() {
        let feed = |values: &[f32]| Feed::new(vec![("x".into(), Tensor::new(&[1, values.len()], values))]);
        let stacked = stacked(&[feed(&[1.0, 2.0]), feed(&[3.0, 4.0])]).unwrap();
        assert_eq!(stacked["x"], Tensor::new(&[2, 1, 2], &[1.0_f32, 2.0, 3.0, 4.0]));
        assert!(super::stacked(&[feed(&[1.0]), feed(&[3.0, 4.0])]).is_err());
        assert!(super::stacked(&[]).is_err());
    }
}
