//! A job with every question settled: plain numbers, paths joined, gates merged with their defaults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bakejob::{
    BakeJob, Cache, Device, Export, Fallback, GateSpec, Goal, Level, PromotionPolicy, Runtime, Storage, TaskMetric,
};
use super::digest::spec_digest;
use super::error::{JobError, Problem};
use super::metric::{Direction, Metric, Unit};
use super::value;

/// The K of metric `TopK` when a job does not say.
pub const DEFAULT_TOP_K: u32 = 5;

/// The bound of a gate, in base units: seconds, bytes, inferences per second, shares and ratios as they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// The least that passes.
    Min(f64),
    /// The most that passes.
    Max(f64),
}

/// A metric and the bound it must keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    /// What is measured.
    pub metric: Metric,
    /// Its bound.
    pub bound: Bound,
}

impl std::fmt::Display for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sign, v) = match self.bound {
            Bound::Min(v) => (">=", v),
            Bound::Max(v) => ("<=", v),
        };
        let (v, unit) = match self.metric.unit() {
            Unit::Seconds if v < 1.0 => (v * 1e3, "ms"),
            Unit::Seconds => (v, "s"),
            Unit::Share | Unit::Ratio | Unit::Bytes | Unit::PerSecond => (v, ""),
        };
        write!(f, "{} {sign} {v}{unit}", self.metric)
    }
}

/// A file with the digest it must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedFile {
    /// Where it lies.
    pub path: PathBuf,
    /// `sha256:` and 64 hexadecimal digits, when the job pins it.
    pub digest: Option<String>,
}

/// The calibration split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calibration {
    /// Where it lies.
    pub path: PathBuf,
    /// Use at most this many samples; `None` uses all.
    pub samples: Option<usize>,
}

/// What is said of a bare model without validation data.
pub const NO_VALIDATION: &str = "is required: a bare model names no data, and without held-out data no gate can pass";

/// The validation split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validation {
    /// Where it lies. Empty until the room `package` has put there the split that the source names, when the job names none.
    pub path: PathBuf,
    /// What accuracy means; `None` is inferred from the baseline.
    pub metric: Option<TaskMetric>,
    /// The K of `TopK`.
    pub top_k: usize,
    /// The outputs that are judged; empty means all but final recurrent states.
    pub outputs: Vec<String>,
}

impl Validation {
    /// Whether the job names the split, rather than leaving it to the package that is its source.
    #[must_use]
    pub fn is_named(&self) -> bool {
        !self.path.as_os_str().is_empty()
    }
}

/// How latency is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileOptions {
    /// Batch sizes, the gates' one first; empty means that of the validation data.
    pub batch_sizes: Vec<usize>,
    /// Shapes by input name, batch axis included; inputs not named take those of the validation data.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// Runs before measuring.
    pub warmup: usize,
    /// Measured runs.
    pub iterations: usize,
}

/// Where a result goes that passed its gates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promotion {
    /// The place of promoted artifacts.
    pub to: PathBuf,
    /// Whether nobody has to approve it.
    pub at_once: bool,
    /// The artifact that a person approved.
    pub approved: Option<String>,
}

/// Which results of earlier runs stay in the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    /// The most runs, the newest among them.
    pub runs: usize,
    /// The most days.
    pub days: u32,
    /// The place of promoted artifacts, whatever the policy says now: what is promoted there stays.
    pub promoted: Option<PathBuf>,
}

/// Everything a bake needs to know. What this holds needs no further check.
///
/// A path may be a URI of object storage as it was written, until the room `store` has put a local file or folder in its place. The source may be the
/// folder of a package, until the room `package` has put the files in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedJob {
    /// `metadata.name`.
    pub name: String,
    /// The digest of what decides the artifact and its verdict.
    pub spec_digest: String,
    /// The model file, or the folder of a package.
    pub source: PinnedFile,
    /// The calibration split, when there is one.
    pub calibration: Option<Calibration>,
    /// The training split, when there is one.
    pub training: Option<PathBuf>,
    /// The validation split.
    pub validation: Validation,
    /// How far to go.
    pub level: Level,
    /// What to prefer.
    pub goal: Goal,
    /// Only these passes, in this order; `None` takes those of the level.
    pub passes: Option<Vec<String>>,
    /// Nodes that keep their precision, by name or glob.
    pub exclude: Vec<String>,
    /// Seeds every random choice.
    pub seed: u64,
    /// Replay this recipe instead of searching.
    pub recipe: Option<PinnedFile>,
    /// The device.
    pub device: Device,
    /// What to do without it.
    pub fallback: Fallback,
    /// Threads of the measured engine; `None` takes the cores at hand.
    pub threads: Option<usize>,
    /// Instruction sets that must be there.
    pub cpu_features: Vec<String>,
    /// The engine that latency is measured on; `None` takes ONNX Runtime where it is found.
    pub runtime: Option<Runtime>,
    /// How latency is measured.
    pub profile: ProfileOptions,
    /// The four quality gates, then the job's others in its own order.
    pub gates: Vec<Gate>,
    /// The formats to write.
    pub exports: Vec<Export>,
    /// The folder the result goes to.
    pub output: PathBuf,
    /// How long earlier results stay there.
    pub keep: Keep,
    /// The promotion of a result that passed its gates; `None` where none is wished for.
    pub promotion: Option<Promotion>,
    /// The longest a run may take.
    pub deadline: Option<Duration>,
    /// Whether the result of an earlier bake of the same inputs is taken.
    pub cache: Cache,
    /// How object storage is reached.
    pub storage: Option<Storage>,
    /// The URIs of files that were fetched, by where they lie now.
    pub origins: BTreeMap<PathBuf, String>,
}

impl ResolvedJob {
    /// Settles a parsed job; `file` is the job file, whose folder relative paths start from.
    ///
    /// # Errors
    /// [`JobError::Invalid`] with every field that cannot be settled: no validation data, a URI that is no path, a bound that is no number.
    pub fn resolve(job: &BakeJob, file: &Path) -> Result<Self, JobError> {
        let spec = &job.spec;
        let name = job.metadata.name.clone().unwrap_or_default();
        let base = file.parent().unwrap_or(Path::new(""));
        let mut problems = Vec::new();
        let mut path = |field: &str, uri: &str| {
            local_path(uri, base).unwrap_or_else(|message| {
                problems.push(Problem::new(field, message));
                PathBuf::new()
            })
        };

        let source = PinnedFile { path: path("spec.source.uri", &spec.source.uri), digest: spec.source.digest.clone() };
        let calibration = spec.data.calibration.as_ref().map(|split| Calibration {
            path: path("spec.data.calibration.uri", &split.uri),
            samples: split.samples.map(|n| n as usize),
        });
        let training = spec.data.training.as_ref().map(|split| path("spec.data.training.uri", &split.uri));
        let validation = spec.data.validation.as_ref().map(|split| Validation {
            path: path("spec.data.validation.uri", &split.uri),
            metric: split.metric,
            top_k: split.top_k.unwrap_or(DEFAULT_TOP_K) as usize,
            outputs: split.outputs.clone(),
        });
        let recipe = spec.optimization.recipe.as_ref().map(|recipe| PinnedFile {
            path: path("spec.optimization.recipe.uri", &recipe.uri),
            digest: recipe.sha256.clone(),
        });
        let output = path("spec.output.uri", &spec.output.uri);
        let wish = &spec.promotion;
        let promoted = wish.uri.as_ref().map(|uri| {
            if uri.starts_with(REGISTRY) && cfg!(feature = "store") {
                PathBuf::from(uri)
            } else {
                path("spec.promotion.uri", uri)
            }
        });
        let promotion = promoted.as_ref().filter(|_| wish.policy != PromotionPolicy::Never).map(|to| Promotion {
            to: to.clone(),
            at_once: wish.policy == PromotionPolicy::Automatic,
            approved: wish.approved_digest.clone(),
        });
        if validation.is_none() && is_bare_model(&spec.source.uri) {
            problems.push(Problem::new("spec.data.validation.uri", NO_VALIDATION));
        }
        let gates = merged_gates(&spec.gates, &mut problems);

        if !problems.is_empty() {
            return Err(JobError::Invalid { file: file.to_owned(), job: name, problems });
        }
        let validation = validation.unwrap_or_else(|| Validation {
            path: PathBuf::new(),
            metric: None,
            top_k: DEFAULT_TOP_K as usize,
            outputs: Vec::new(),
        });
        let cpu = spec.hardware.cpu.clone().unwrap_or_default();
        let shapes = spec
            .profile
            .shapes
            .iter()
            .map(|(input, shape)| (input.clone(), shape.iter().map(|n| *n as usize).collect()));
        Ok(Self {
            name,
            spec_digest: spec_digest(spec),
            source,
            calibration,
            training,
            validation,
            level: spec.optimization.level,
            goal: spec.optimization.goal,
            passes: spec.optimization.passes.clone(),
            exclude: spec.optimization.exclude.clone(),
            seed: spec.optimization.seed,
            recipe,
            device: spec.hardware.device,
            fallback: spec.hardware.fallback,
            threads: cpu.threads.map(|n| n as usize),
            cpu_features: cpu.features,
            runtime: spec.runtime,
            profile: ProfileOptions {
                batch_sizes: spec.profile.batch_sizes.iter().map(|n| *n as usize).collect(),
                shapes: shapes.collect(),
                warmup: spec.profile.warmup as usize,
                iterations: spec.profile.iterations as usize,
            },
            gates,
            exports: spec.exports.clone(),
            output,
            keep: Keep { runs: spec.output.keep_runs as usize, days: spec.output.keep_days, promoted },
            promotion,
            deadline: spec.active_deadline_seconds.map(|s| Duration::from_secs(s.into())),
            cache: spec.cache.unwrap_or(Cache::Off),
            storage: spec.storage.clone(),
            origins: BTreeMap::new(),
        })
    }
}

/// Whether a URI names one model file. Anything else may be the folder of a package, which names data of its own.
fn is_bare_model(uri: &str) -> bool {
    Path::new(uri).extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx")) && !uri.ends_with('/')
}

/// The four quality gates with their defaults or the job's own bounds, then the job's other gates.
fn merged_gates(listed: &[GateSpec], problems: &mut Vec<Problem>) -> Vec<Gate> {
    let mut own: Vec<Gate> = Vec::new();
    for (i, spec) in listed.iter().enumerate() {
        match gate(spec) {
            Ok(gate) => own.push(gate),
            Err(message) => problems.push(Problem::new(format!("spec.gates[{i}]"), message)),
        }
    }
    let mut gates: Vec<Gate> = Metric::DEFAULT_GATES
        .into_iter()
        .map(|(metric, least)| {
            own.iter().find(|g| g.metric == metric).copied().unwrap_or(Gate { metric, bound: Bound::Min(least) })
        })
        .collect();
    gates.extend(own.into_iter().filter(|g| !g.metric.is_quality()));
    gates
}

/// One written gate in base units.
///
/// # Errors
/// A sentence that says what is expected.
pub fn gate(spec: &GateSpec) -> Result<Gate, String> {
    let metric = spec.metric;
    let parse = match metric.unit() {
        Unit::Share | Unit::Ratio | Unit::PerSecond => value::decimal,
        Unit::Seconds => value::seconds,
        Unit::Bytes => value::bytes,
    };
    let bound = match (metric.direction(), &spec.min, &spec.max) {
        (Direction::Higher, Some(min), None) => Bound::Min(parse(min)?),
        (Direction::Lower, None, Some(max)) => Bound::Max(parse(max)?),
        (Direction::Higher, ..) => return Err(format!("{metric} takes min, and not max")),
        (Direction::Lower, ..) => return Err(format!("{metric} takes max, and not min")),
    };
    Ok(Gate { metric, bound })
}

/// Begins the URI of a registry, which a promotion may go to.
pub const REGISTRY: &str = "oci://";

/// What the room `store` fetches from; the last is only read.
const STORED: [&str; 4] = ["s3", "gs", "az", "https"];

/// The path that a URI names on this machine; a relative one starts from `base`. A URI of object storage stays as it is, for the store to fetch.
///
/// # Errors
/// A sentence, when the URI is not a path, not `file://` on this machine and not of object storage.
pub fn local_path(uri: &str, base: &Path) -> Result<PathBuf, String> {
    let Some((scheme, rest)) = uri.split_once("://") else { return Ok(base.join(uri)) };
    if STORED.contains(&scheme) && cfg!(feature = "store") {
        return Ok(PathBuf::from(uri));
    }
    if scheme != "file" {
        return Err(format!("{scheme}:// cannot be reached from here; use a path or file://"));
    }
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(
            "file:// takes an absolute path: file:///folder/model.onnx; write a relative path without file://".into()
        );
    }
    percent_decoded(path).map(PathBuf::from)
}

fn percent_decoded(path: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
            let byte = hex
                .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|hex| u8::from_str_radix(hex, 16).ok());
            bytes.push(byte.ok_or("% in a file:// URI starts two hexadecimal digits; write %25 for a percent sign")?);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).map_err(|_| "the decoded path is not UTF-8".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::bakejob::BakeJobSpec;

    fn gates(listed: &[(Metric, Option<&str>, Option<&str>)]) -> Vec<Gate> {
        let mut spec = BakeJobSpec::new("m.onnx", "v.npz", "out");
        spec.gates = listed
            .iter()
            .map(|(metric, min, max)| GateSpec { metric: *metric, min: min.map(Into::into), max: max.map(Into::into) })
            .collect();
        ResolvedJob::resolve(&BakeJob::new("m", spec), Path::new("jobs/m.yaml")).unwrap().gates
    }

    #[test]
    fn the_four_quality_gates_stay_unless_the_job_sets_them() {
        let metrics = |gates: &[Gate]| gates.iter().map(ToString::to_string).collect::<Vec<_>>();
        let defaults = [
            "AccuracyRetention >= 0.95",
            "OutputConsistency >= 0.95",
            "FeaturePreservation >= 0.85",
            "DistributionSimilarity >= 0.9",
        ];
        assert_eq!(metrics(&gates(&[])), defaults);
        assert_eq!(
            metrics(&gates(&[
                (Metric::LatencyP99, None, Some("50ms")),
                (Metric::OutputConsistency, Some("0.99"), None),
                (Metric::PeakMemory, None, Some("100Mi"))
            ])),
            [
                "AccuracyRetention >= 0.95",
                "OutputConsistency >= 0.99",
                "FeaturePreservation >= 0.85",
                "DistributionSimilarity >= 0.9",
                "LatencyP99 <= 50ms",
                "PeakMemory <= 104857600"
            ]
        );
    }

    #[test]
    fn paths_start_from_the_folder_of_the_job_file() {
        for (uri, path) in [
            ("model.onnx", "jobs/model.onnx"),
            ("../m.onnx", "jobs/../m.onnx"),
            ("/abs/m.onnx", "/abs/m.onnx"),
            ("file:///abs/m%20x.onnx", "/abs/m x.onnx"),
            ("file://localhost/abs/m.onnx", "/abs/m.onnx"),
        ] {
            assert_eq!(local_path(uri, Path::new("jobs")).unwrap(), Path::new(path), "{uri}");
        }
        for uri in ["oci://b/m.onnx", "file://relative.onnx", "file:///a%zz", "file:///a%2"] {
            assert!(local_path(uri, Path::new("jobs")).is_err(), "{uri}");
        }
    }

    #[test]
    fn a_job_without_validation_data_is_not_settled() {
        let mut spec = BakeJobSpec::new("m.onnx", "v.npz", "out");
        spec.data.validation = None;
        let said = ResolvedJob::resolve(&BakeJob::new("m", spec), Path::new("m.yaml")).unwrap_err().to_string();
        assert_eq!(
            said,
            "m.yaml: BakeJob m is not valid:\n  spec.data.validation.uri: is required: a bare model names no data, and without held-out data no gate can pass\n\
             Correct these fields; `bakehouse init` writes a commented example."
        );
    }

    #[test]
    fn a_package_names_its_own_data() {
        for uri in ["p", "p/", "s3://models/p/", "m.onnx/"] {
            let mut spec = BakeJobSpec::new(uri, "v.npz", "out");
            spec.data.validation = None;
            let job = ResolvedJob::resolve(&BakeJob::new("m", spec), Path::new("m.yaml")).unwrap();
            assert!(!job.validation.is_named(), "{uri}");
        }
    }

    #[test]
    fn a_gate_built_by_hand_is_held_to_the_same_direction() {
        let gate = |metric, min: Option<&str>, max: Option<&str>| {
            super::gate(&GateSpec { metric, min: min.map(Into::into), max: max.map(Into::into) })
        };
        assert_eq!(gate(Metric::Speedup, None, Some("2")).unwrap_err(), "Speedup takes min, and not max");
        assert_eq!(gate(Metric::FileSize, Some("1"), Some("2")).unwrap_err(), "FileSize takes max, and not min");
        assert!(gate(Metric::AccuracyRetention, Some("95%"), None).is_err());
    }
}
