//! `manifest.json`: the files, where the model came from, and the evidence behind the figures.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::deployment::Clock;
use super::phase5::Phase5Claim;
use super::signature::other_operators;
use crate::api::bakejob::Verdict;
use crate::api::{Metric, Reason};
use crate::model::Model;

/// Schema of [`Manifest`].
pub const PHASE7_VERSION: &str = "bakehouse.dev/phase7/v1";

/// A package's table of contents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always `bakehouse.dev/phase7/v1`.
    pub api_version: String,
    /// Version of Bakehouse that wrote it.
    pub bakehouse: String,
    /// Name of the job that made it.
    pub name: String,
    /// Every file of the package but this one.
    pub files: Vec<PackageFile>,
    /// What the model's file is.
    pub model: ModelFacts,
    /// Where the model came from.
    pub traceability: Traceability,
    /// What the figures of the deployment config rest on.
    pub evidence: Evidence,
}

impl Manifest {
    /// The first file of a role.
    pub fn file(&self, role: FileRole) -> Option<&PackageFile> {
        self.files.iter().find(|f| f.role == role)
    }
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum FileRole {
    /// The model.
    Model,
    /// External data of the model.
    ModelData,
    /// The deployment config.
    DeploymentConfig,
    /// Samples to run the model on.
    Samples,
    /// What the model gave on them.
    Outputs,
    /// How the model was made.
    Recipe,
}

impl FileRole {
    /// The roles that every package has.
    pub const NEEDED: [Self; 5] = [Self::Model, Self::DeploymentConfig, Self::Samples, Self::Outputs, Self::Recipe];

    /// Whether it is a part of the model.
    pub fn is_of_the_model(self) -> bool {
        matches!(self, Self::Model | Self::ModelData)
    }
}

/// A file of the package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackageFile {
    /// Its path in the package, with `/` between parts.
    pub path: String,
    /// What it is for.
    pub role: FileRole,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
    /// Bytes.
    pub bytes: u64,
}

/// What the model's file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelFacts {
    /// Version of the ONNX file format.
    pub ir_version: i64,
    /// Opset version by domain; `ai.onnx` is ONNX's own.
    pub opsets: BTreeMap<String, i64>,
    /// Operators of other domains, as `domain.Operator`: a runtime must bring these along. Empty when every ONNX runtime of the opset will do.
    pub other_operators: Vec<String>,
}

impl ModelFacts {
    /// The facts of a model.
    pub fn of(model: &Model) -> Self {
        let proto = model.proto();
        let named = |domain: &str| if domain.is_empty() { "ai.onnx".to_owned() } else { domain.to_owned() };
        Self {
            ir_version: proto.ir_version(),
            opsets: proto.opset_import.iter().map(|o| (named(o.domain()), o.version())).collect(),
            other_operators: other_operators(model),
        }
    }
}

/// Where the model came from. What is not known is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Traceability {
    /// When the package was written (RFC 3339, UTC).
    pub written_at: String,
    /// Name of the BakeJob.
    pub job: String,
    /// Digest of what decides artifact and verdict in its spec.
    pub spec_digest: String,
    /// Image of the worker, where the cluster told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Level and goal, e.g. `Light/Balanced`.
    pub plan: String,
    /// Seed of every random choice.
    pub seed: u64,
    /// How the bake ended.
    pub reason: Reason,
    /// Name of the chosen candidate; `input` when the input itself is the artifact.
    pub candidate: String,
    /// SHA-256 of the input model's file.
    pub input_sha256: String,
    /// Files that the bake read.
    pub sources: Vec<SourceClaim>,
    /// What the package of phase 5 says of the training; absent when the input was a bare model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase5: Option<Phase5Claim>,
    /// How the model is made again from the input.
    pub recipe: RecipeClaim,
    /// The passes that led to the model.
    pub passes: Vec<PassClaim>,
    /// The gates of the bake.
    pub gates: Vec<GateClaim>,
    /// Whether all of them passed; absent when that could not be decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gates_passed: Option<bool>,
}

/// A file that the bake read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceClaim {
    /// `Manifest` (of phase 5), `Model`, `ModelData`, `Weights`, `Validation`, `Calibration` or `Training`.
    pub role: String,
    /// Where it lay.
    pub uri: String,
    /// SHA-256 of what was loaded.
    pub sha256: String,
}

/// How the model is made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecipeClaim {
    /// The recipe's file in the package.
    pub file: String,
    /// Names of its passes, in order.
    pub steps: Vec<String>,
    /// SHA-256 of the model that it ends in, as one file.
    pub output_sha256: String,
}

/// A pass of the bake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PassClaim {
    /// Its name.
    pub name: String,
    /// `Applied`, `Skipped`, `Failed` or `RolledBack`.
    pub outcome: String,
    /// Why, where there is a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A gate of the bake, in base units.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateClaim {
    /// What was measured.
    pub metric: Metric,
    /// The least that passes, where the bound is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The most that passes, where the bound is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// The point estimate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<f64>,
    /// Its 95 % interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Samples behind it.
    pub n: usize,
    /// The decision.
    pub verdict: Verdict,
}

impl GateClaim {
    /// What the verdict must not say with these figures: a pass needs an observation, samples and an interval that keeps the bound as a whole; a failure needs
    /// none of it.
    pub fn misstated(&self) -> Option<String> {
        if self.verdict != Verdict::Pass {
            return None;
        }
        let kept = |v: f64| self.min.is_none_or(|min| v >= min) && self.max.is_none_or(|max| v <= max);
        let observed = self.observed.filter(|v| v.is_finite());
        match observed {
            None => Some("it is passed without an observation".to_owned()),
            Some(_) if self.n == 0 => Some("it is passed without a sample".to_owned()),
            Some(_) if self.min.is_none() && self.max.is_none() => Some("it is passed without a bound".to_owned()),
            Some(_) if self.interval.is_none() => Some("it is passed without an interval".to_owned()),
            Some(v) if !kept(v) || self.interval.is_some_and(|ends| !ends.into_iter().all(kept)) => {
                Some(format!("it is passed with {v}, which does not keep its bound with the whole of its interval"))
            }
            Some(_) => None,
        }
    }
}

/// What the figures rest on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// The samples of the package, and the split that ranges and bounds were seen on.
    pub samples: SampleEvidence,
    /// Digests of the outputs on the samples of the package.
    pub determinism: DeterminismEvidence,
    /// Raw samples of the latencies.
    pub latency: Vec<LatencySamples>,
}

/// The samples of the package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SampleEvidence {
    /// SHA-256 of the validation file, the split that ranges and bounds were seen on.
    pub validation_sha256: String,
    /// Samples of that split.
    pub validation_samples: usize,
    /// Which of them are in the package, by their place in the split.
    pub places: Vec<usize>,
    /// Whether every range and bound is attained in the package's own samples, so that they can be checked without the split.
    pub attain_ranges: bool,
}

/// SHA-256 over types, shapes and bytes of all outputs on the samples of the package, again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeterminismEvidence {
    /// Of each run of one session, on one thread.
    pub runs: Vec<String>,
    /// Of sessions of other numbers of threads.
    pub threads: Vec<ThreadDigest>,
    /// Of each fresh process, on one thread.
    pub processes: Vec<String>,
}

impl DeterminismEvidence {
    /// Whether all runs are the same; `None` with fewer than two.
    pub fn runs_equal(&self) -> Option<bool> {
        (self.runs.len() > 1).then(|| self.runs.windows(2).all(|pair| pair[0] == pair[1]))
    }

    /// Whether more threads give what one gives; `None` without both.
    pub fn threads_equal(&self) -> Option<bool> {
        let first = self.runs.first()?;
        let more = self.threads.iter().any(|t| t.threads > 1);
        more.then(|| self.threads.iter().all(|t| t.sha256 == *first))
    }

    /// Whether fresh processes give the same as each other and as this one; `None` with fewer than two.
    pub fn processes_equal(&self) -> Option<bool> {
        let first = self.runs.first()?;
        (self.processes.len() > 1).then(|| self.processes.iter().all(|p| p == first))
    }
}

/// A digest and the threads it was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ThreadDigest {
    /// Threads inside one inference.
    pub threads: usize,
    /// The digest.
    pub sha256: String,
}

/// Raw samples of one latency.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LatencySamples {
    /// Rows per run.
    pub batch: usize,
    /// What the seconds count.
    pub clock: Clock,
    /// Seconds per run, in the order measured.
    pub seconds: Vec<f64>,
    /// Runs averaged in each sample; 1 unless a run is too short to time alone.
    pub runs_per_sample: usize,
}

/// The machine that figures were measured on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// The processor's own name.
    pub cpu: String,
    /// `x86_64`, `aarch64`, ...
    pub arch: String,
    /// Instruction sets that matter for kernels.
    pub features: BTreeSet<String>,
    /// Cores that the bake might use.
    pub cores: usize,
    /// Bytes of memory of the machine.
    pub memory: u64,
    /// Operating system.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_without_evidence_is_misstated_and_a_failure_never_is() {
        let gate = GateClaim {
            metric: Metric::OutputConsistency,
            min: Some(0.95),
            max: None,
            observed: Some(0.99),
            interval: Some([0.96, 1.0]),
            n: 40,
            verdict: Verdict::Pass,
        };
        assert_eq!(gate.misstated(), None);
        for broken in [
            GateClaim { observed: None, ..gate.clone() },
            GateClaim { observed: Some(0.9), ..gate.clone() },
            GateClaim { interval: Some([0.9, 1.0]), ..gate.clone() },
            GateClaim { interval: None, ..gate.clone() },
            GateClaim { n: 0, ..gate.clone() },
            GateClaim { min: None, ..gate.clone() },
        ] {
            assert!(broken.misstated().is_some(), "{broken:?}");
            assert_eq!(GateClaim { verdict: Verdict::Fail, ..broken }.misstated(), None);
        }
    }

    #[test]
    fn fewer_than_two_digests_show_nothing() {
        let d = |n: usize| vec!["a".to_owned(); n];
        let threads = vec![ThreadDigest { threads: 2, sha256: "a".to_owned() }];
        let two = DeterminismEvidence { runs: d(2), threads: threads.clone(), processes: d(2) };
        assert_eq!(
            (two.runs_equal(), two.threads_equal(), two.processes_equal()),
            (Some(true), Some(true), Some(true))
        );
        let one = DeterminismEvidence { runs: d(1), threads: Vec::new(), processes: d(1) };
        assert_eq!((one.runs_equal(), one.threads_equal(), one.processes_equal()), (None, None, None));
        let other = DeterminismEvidence { processes: vec!["a".to_owned(), "b".to_owned()], ..two };
        assert_eq!(other.processes_equal(), Some(false));
    }
}
