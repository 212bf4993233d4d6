//! What decides an artifact and its verdict. Two bakes with the same inputs are one bake, done twice.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::binary;
use crate::api::ResolvedJob;
use crate::api::bakejob::{Device, Export, Fallback, Goal, Level, Runtime, TaskMetric};
use crate::api::digest::sha256_hex;
use crate::api::job::{ProfileOptions, Validation};
use crate::bake::source::{Role, SourceFile};
use crate::bake::{BakeError, Options, memory};
use crate::hardware::MachineFacts;

/// Schema of [`Inputs`]: another one makes other keys.
const INPUTS_VERSION: &str = "bakehouse.dev/bake-inputs/v1";

/// Everything that a result rests on. Where files lie, what the job is called and where the result goes are no part of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Inputs {
    api_version: &'static str,
    bakehouse: Build,
    /// Digests of the files by what they are read for.
    files: Vec<(Role, String)>,
    /// Digest of the recipe that is replayed.
    recipe: Option<String>,
    spec: Spec,
    engines: Vec<Build>,
    device: DeviceClass,
    low_memory: bool,
}

/// A program or a library. The version alone does not tell two builds apart.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Build {
    name: String,
    version: Option<String>,
    id: Option<String>,
}

/// What of a job decides, with the defaults written out. Sets are sorted.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    /// The package for deployment bears the job's name; nothing else does.
    name: Option<String>,
    calibration_samples: Option<usize>,
    metric: Option<TaskMetric>,
    top_k: usize,
    outputs: Vec<String>,
    level: Level,
    goal: Goal,
    passes: Option<Vec<String>>,
    exclude: Vec<String>,
    seed: u64,
    device: Device,
    fallback: Fallback,
    threads: Option<usize>,
    cpu_features: BTreeSet<String>,
    runtime: Option<Runtime>,
    batch_sizes: Vec<usize>,
    shapes: BTreeMap<String, Vec<usize>>,
    warmup: usize,
    iterations: usize,
    gates: BTreeSet<String>,
    exports: Vec<Export>,
}

/// What of a machine decides which kernels run and how fast. Kernel, system and load are shown beside the figures and do not count.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeviceClass {
    cpu: String,
    arch: String,
    features: BTreeSet<String>,
    cores: usize,
    quota: Option<f64>,
    /// Power of two below the bytes that a bake may take: passes are left out where there is no room for them.
    memory: Option<u32>,
}

impl Inputs {
    /// Those of a job whose package is settled. `files` are its files, `recipe` is the digest of the recipe.
    pub(super) fn of(
        job: &ResolvedJob,
        options: &Options,
        machine: &MachineFacts,
        files: &[SourceFile],
        recipe: Option<String>,
    ) -> Result<Self, BakeError> {
        let unreadable = |error: std::io::Error| BakeError::Internal(format!("this program cannot be read: {error}"));
        let mut engines: Vec<Build> = options
            .engines
            .backends()
            .iter()
            .filter(|backend| backend.available)
            .map(|backend| Build { name: backend.name.clone(), version: backend.version.clone(), id: None })
            .collect();
        if let Some(library) = options.engines.onnx_runtime_file() {
            let id = Some(binary::id(library).map_err(unreadable)?);
            engines.push(Build { name: "onnxruntime library".to_owned(), version: None, id });
        }
        Ok(Self {
            api_version: INPUTS_VERSION,
            bakehouse: Build {
                name: "bakehouse".to_owned(),
                version: Some(env!("CARGO_PKG_VERSION").to_owned()),
                id: Some(binary::id(&options.program).map_err(unreadable)?),
            },
            files: files.iter().map(|file| (file.role, file.sha256.clone())).collect(),
            recipe,
            spec: Spec::of(job),
            engines,
            device: DeviceClass::of(machine)?,
            low_memory: options.low_memory,
        })
    }

    /// Their name: SHA-256 of their JSON, in hexadecimal.
    pub(super) fn key(&self) -> Result<String, BakeError> {
        let text = serde_json::to_vec(self).map_err(|error| BakeError::Internal(error.to_string()))?;
        Ok(sha256_hex(&text))
    }
}

impl Spec {
    /// Takes the job apart, so that a field that is added to it is decided on here.
    fn of(job: &ResolvedJob) -> Self {
        let ResolvedJob {
            name,
            level,
            goal,
            passes,
            exclude,
            seed,
            device,
            fallback,
            threads,
            cpu_features,
            runtime,
            profile: ProfileOptions { batch_sizes, shapes, warmup, iterations },
            gates,
            exports,
            validation: Validation { metric, top_k, outputs, path: _ },
            calibration,
            // Their content counts, as digests.
            source: _,
            training: _,
            recipe: _,
            // What happens to a result, and how it is reached and come by, changes nothing in it.
            spec_digest: _,
            output: _,
            keep: _,
            promotion: _,
            deadline: _,
            cache: _,
            storage: _,
            origins: _,
        } = job;
        let mut exports = exports.clone();
        exports.sort_by_key(|export| format!("{export:?}"));
        Self {
            name: exports.contains(&Export::Phase7).then(|| name.clone()),
            calibration_samples: calibration.as_ref().and_then(|split| split.samples),
            metric: *metric,
            top_k: *top_k,
            outputs: outputs.clone(),
            level: *level,
            goal: *goal,
            passes: passes.clone(),
            exclude: exclude.clone(),
            seed: *seed,
            device: *device,
            fallback: *fallback,
            threads: *threads,
            cpu_features: cpu_features.iter().cloned().collect(),
            runtime: *runtime,
            batch_sizes: batch_sizes.clone(),
            shapes: shapes.clone(),
            warmup: *warmup,
            iterations: *iterations,
            gates: gates.iter().map(ToString::to_string).collect(),
            exports,
        }
    }
}

impl DeviceClass {
    fn of(machine: &MachineFacts) -> Result<Self, BakeError> {
        Ok(Self {
            cpu: machine.cpu.clone(),
            arch: machine.arch.clone(),
            features: machine.features.clone(),
            cores: machine.usable_cores(),
            quota: machine.cpu_quota,
            memory: memory::class(machine)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::api::bakejob::{Cache, Level};
    use crate::api::{BakeJob, BakeJobSpec, Metric, job::Bound, job::Gate};
    use crate::hardware::detect::detect;

    fn job() -> ResolvedJob {
        let mut spec = BakeJobSpec::new("m.onnx", "v.npz", "out");
        spec.exports = vec![Export::SafeTensors, Export::Onnx];
        ResolvedJob::resolve(&BakeJob::new("m", spec), Path::new("m.yaml")).unwrap()
    }

    fn inputs() -> Inputs {
        let build =
            |name: &str| Build { name: name.into(), version: Some("1.0.0".into()), id: Some("build-id:01".into()) };
        Inputs {
            api_version: INPUTS_VERSION,
            bakehouse: build("bakehouse"),
            files: vec![(Role::Model, "1".into()), (Role::Validation, "2".into())],
            recipe: None,
            spec: Spec::of(&job()),
            engines: vec![build("tract")],
            device: DeviceClass::of(&detect()).unwrap(),
            low_memory: false,
        }
    }

    #[test]
    fn each_input_makes_another_key() {
        let table: [(&str, fn(&mut Inputs)); 18] = [
            ("version", |i| i.bakehouse.version = Some("1.0.1".into())),
            ("build", |i| i.bakehouse.id = Some("build-id:02".into())),
            ("model", |i| i.files[0].1 = "9".into()),
            ("data", |i| i.files[1].1 = "9".into()),
            ("what a file is for", |i| i.files[1].0 = Role::Calibration),
            ("recipe", |i| i.recipe = Some("9".into())),
            ("engine's version", |i| i.engines[0].version = Some("1.0.1".into())),
            ("engine's build", |i| i.engines[0].id = Some("build-id:02".into())),
            ("an engine more", |i| i.engines.push(i.engines[0].clone())),
            ("processor", |i| i.device.cpu.push('x')),
            ("architecture", |i| i.device.arch.push('x')),
            ("instruction sets", |i| i.device.features.clear()),
            ("cores", |i| i.device.cores += 1),
            ("quota", |i| i.device.quota = Some(0.5)),
            ("room", |i| i.device.memory = Some(1)),
            ("plan for memory", |i| i.low_memory = true),
            ("level", |i| i.spec.level = Level::Conservative),
            ("gates", |i| i.spec.gates = ["Speedup >= 9".to_owned()].into()),
        ];
        let key = inputs().key().unwrap();
        assert_eq!(key, inputs().key().unwrap());
        let mut keys = BTreeSet::from([key]);
        for (what, change) in table {
            let mut changed = inputs();
            change(&mut changed);
            assert!(keys.insert(changed.key().unwrap()), "{what}");
        }
    }

    #[test]
    fn every_field_of_a_job_that_decides_changes_its_spec() {
        let deciding: [fn(&mut ResolvedJob); 20] = [
            |j| j.level = Level::Conservative,
            |j| j.goal = Goal::Size,
            |j| j.passes = Some(vec!["fold-constants".into()]),
            |j| j.exclude = vec!["/head/*".into()],
            |j| j.seed = 1,
            |j| j.device = Device::Cpu,
            |j| j.fallback = Fallback::None,
            |j| j.threads = Some(2),
            |j| j.cpu_features = vec!["avx2".into()],
            |j| j.runtime = Some(Runtime::Bakehouse),
            |j| j.profile.batch_sizes = vec![4],
            |j| j.profile.shapes = [("x".to_owned(), vec![1])].into(),
            |j| j.profile.warmup += 1,
            |j| j.profile.iterations += 1,
            |j| j.gates.push(Gate { metric: Metric::Speedup, bound: Bound::Min(1.5) }),
            |j| j.exports.push(Export::OnnxStandard),
            |j| j.validation.metric = Some(TaskMetric::F1),
            |j| j.validation.top_k += 1,
            |j| j.validation.outputs = vec!["y".into()],
            |j| j.calibration = Some(crate::api::job::Calibration { path: "c.npz".into(), samples: Some(4) }),
        ];
        let mut seen = vec![Spec::of(&job())];
        for (n, change) in deciding.into_iter().enumerate() {
            let mut changed = job();
            change(&mut changed);
            let spec = Spec::of(&changed);
            assert!(!seen.contains(&spec), "change {n}");
            seen.push(spec);
        }
    }

    #[test]
    fn names_and_places_do_not_count_but_for_a_package_that_bears_the_name() {
        let changes: [fn(&mut ResolvedJob); 7] = [
            |j| j.name = "other".into(),
            |j| j.output = "/elsewhere".into(),
            |j| j.source.path = "/elsewhere/m.onnx".into(),
            |j| j.validation.path = "/elsewhere/v.npz".into(),
            |j| j.spec_digest = "sha256:1".into(),
            |j| j.cache = Cache::Refresh,
            |j| j.exports.reverse(),
        ];
        for (n, change) in changes.into_iter().enumerate() {
            let mut changed = job();
            change(&mut changed);
            assert_ne!(changed, job(), "change {n} changes the job");
            assert_eq!(Spec::of(&changed), Spec::of(&job()), "change {n}");
        }
        let packaged = |name: &str| {
            let mut job = job();
            job.exports.push(Export::Phase7);
            Spec::of(&ResolvedJob { name: name.into(), ..job })
        };
        assert_ne!(packaged("a"), packaged("b"));
    }
}
