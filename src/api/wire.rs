//! What controller and worker say to each other: the assignment in an environment variable, progress as log lines, the result as the
//! container's termination message. Neither side reads anything else of the other.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

use super::bakejob::{Artifact, BakeJobSpec, Figures, FileRef, GateSpec, GateStatus, PassStatus, Stage};
use super::reason::Reason;

/// The variable that holds an [`Assignment`] as JSON.
pub const ASSIGNMENT_VARIABLE: &str = "BAKEHOUSE_ASSIGNMENT";

/// The variable that names the image of the worker, for what a package says of its origin.
pub const IMAGE_VARIABLE: &str = "BAKEHOUSE_IMAGE";

/// The variable that names the file for the termination message.
pub const TERMINATION_VARIABLE: &str = "TERMINATION_LOG";

/// Where the kubelet reads the termination message when nothing else is said.
pub const TERMINATION_PATH: &str = "/dev/termination-log";

/// The most bytes of a termination message. The kubelet cuts at 4,096 per container, and 12 KiB per pod: sidecars need theirs.
pub const TERMINATION_BYTES: usize = 3072;

/// Where the controller mounts claims that `pvc://` URIs name: `pvc://models/a.onnx` lies at `/bakehouse/pvc/models/a.onnx`.
pub const PVC_ROOT: &str = "/bakehouse/pvc";

/// Where the controller mounts the certificates of `spec.storage.caBundle`.
pub const CA_FILE: &str = "/bakehouse/ca/ca.crt";

/// The device that a run was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GivenDevice {
    /// The processor.
    #[serde(rename = "CPU")]
    Cpu,
    /// An NVIDIA GPU.
    #[serde(rename = "CUDA")]
    Cuda,
}

impl GivenDevice {
    /// As the status writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Cuda => "CUDA",
        }
    }

    /// The device of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Cpu, Self::Cuda].into_iter().find(|device| device.as_str() == name)
    }
}

/// What a pod is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Bake.
    Bake,
    /// Delete what the bake wrote.
    Clean,
    /// Promote the artifact.
    Promote,
}

impl Task {
    /// As a label of Jobs and pods writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bake => "bake",
            Self::Clean => "clean",
            Self::Promote => "promote",
        }
    }

    /// The task of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Bake, Self::Clean, Self::Promote].into_iter().find(|task| task.as_str() == name)
    }
}

/// What is to be promoted: the artifact that passed its gates, as the status names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// Digest of the model, `sha256:` and hexadecimal digits.
    pub artifact: String,
    /// Digest of the report that says that it passed.
    pub report: String,
}

/// What a worker has to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// What for.
    pub task: Task,
    /// Name of the `BakeJob`.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID: with the run's number, the name under which finished stages are found again.
    pub uid: String,
    /// The run, from 1.
    pub run: u32,
    /// The attempt of the run, from 1.
    pub attempt: u32,
    /// Take the plan that needs the least memory.
    pub low_memory: bool,
    /// The device of the pod.
    pub device: GivenDevice,
    /// Bounds of the platform that the job's gates may not undercut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gate_floors: Vec<GateSpec>,
    /// Where results are kept for later bakes of the same inputs: a folder, or one of a bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
    /// What to promote, when that is the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Candidate>,
    /// What to bake.
    pub spec: BakeJobSpec,
}

/// A log line that says how far a bake is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgressLine {
    /// Always [`ProgressLine::MARK`]: what tells it from other lines.
    pub bakehouse: String,
    /// The stage that begins or goes on.
    pub stage: String,
    /// Percent done, of the whole bake.
    pub percent: u32,
    /// When.
    pub time: Time,
    /// Bytes of memory that the bake is estimated to take, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
}

impl ProgressLine {
    /// The value of field `bakehouse`.
    pub const MARK: &'static str = "progress";

    /// Reads a line of a log; other lines are `None`.
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok().filter(|line: &Self| line.bakehouse == Self::MARK)
    }
}

/// How a worker ended: the termination message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// How it ended.
    pub reason: Reason,
    /// A sentence.
    pub message: String,
    /// The CPU it was measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// The GPU it was measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// The engine it was measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The model as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Figures>,
    /// The artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baked: Option<Figures>,
    /// The gates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<GateStatus>,
    /// The files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    /// The report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<FileRef>,
    /// The recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<FileRef>,
    /// Where the artifact was promoted to, with its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<FileRef>,
    /// The stages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
    /// The passes. The first to go when the message is too long.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passes: Vec<PassStatus>,
}

impl Outcome {
    /// An outcome without figures.
    pub fn bare(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            cpu: None,
            gpu: None,
            engine: None,
            baseline: None,
            baked: None,
            gates: Vec::new(),
            artifacts: Vec::new(),
            report: None,
            recipe: None,
            promoted: None,
            stages: Vec::new(),
            passes: Vec::new(),
        }
    }

    /// The message of at most [`TERMINATION_BYTES`]. What does not fit is left out, the least needed first: why passes did what they did,
    /// the passes, the message's tail, intervals, stages, the baseline. The report has all of it; verdict and digests always fit.
    ///
    /// # Panics
    /// Never: an outcome serializes to JSON.
    pub fn to_message(&self) -> String {
        let text = |outcome: &Self| serde_json::to_string(outcome).expect("an outcome serializes to JSON");
        let shorten: [fn(&mut Self); 8] = [
            |o| o.passes.iter_mut().for_each(|p| p.reason = None),
            |o| o.passes.clear(),
            |o| o.message = cut(&o.message, 600),
            |o| o.gates.iter_mut().for_each(|g| g.interval = None),
            |o| o.stages.clear(),
            |o| o.baseline = None,
            |o| o.artifacts.truncate(1),
            |o| *o = Self { artifacts: Vec::new(), gates: Vec::new(), ..Self::bare(o.reason, cut(&o.message, 300)) },
        ];
        let mut outcome = self.clone();
        let mut message = text(&outcome);
        for step in shorten {
            if message.len() <= TERMINATION_BYTES {
                break;
            }
            step(&mut outcome);
            message = text(&outcome);
        }
        message
    }

    /// Reads a termination message.
    pub fn parse(message: &str) -> Option<Self> {
        serde_json::from_str(message.trim()).ok()
    }
}

/// The first `most` characters, and a mark when there were more.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::bakejob::{PassOutcome, Verdict};
    use crate::api::metric::Metric;

    fn long(words: usize) -> Outcome {
        let text = "word ".repeat(words);
        Outcome {
            passes: (0..words)
                .map(|i| PassStatus {
                    name: format!("pass-{i}"),
                    outcome: PassOutcome::Applied,
                    reason: Some(text.clone()),
                    deltas: None,
                })
                .collect(),
            gates: vec![GateStatus {
                metric: Metric::Speedup,
                threshold: ">= 1.5".into(),
                observed: Some("1.7".into()),
                interval: Some("[1.6, 1.8]".into()),
                verdict: Verdict::Pass,
            }],
            ..Outcome::bare(Reason::Baked, text)
        }
    }

    #[test]
    fn a_message_never_outgrows_what_the_kubelet_keeps() {
        for words in [0, 1, 10, 100, 1000] {
            let outcome = long(words);
            let message = outcome.to_message();
            assert!(message.len() <= TERMINATION_BYTES, "{} bytes", message.len());
            let read = Outcome::parse(&message).unwrap();
            assert_eq!((read.reason, &read.gates[0].verdict), (Reason::Baked, &Verdict::Pass));
        }
        let huge =
            Outcome { engine: Some("x".repeat(5000)), ..Outcome::bare(Reason::Internal, "ä\u{1}".repeat(5000)) };
        assert!(huge.to_message().len() <= TERMINATION_BYTES);
    }

    #[test]
    fn a_short_message_is_whole() {
        let outcome = long(1);
        assert_eq!(Outcome::parse(&outcome.to_message()), Some(outcome));
    }

    #[test]
    fn progress_is_told_from_other_lines() {
        let line = r#"{"bakehouse":"progress","stage":"Optimize","percent":40,"time":"2026-01-02T03:04:05Z"}"#;
        assert_eq!(ProgressLine::parse(line).unwrap().percent, 40);
        for other in ["", "hello", "{}", &line.replace("progress", "else")] {
            assert_eq!(ProgressLine::parse(other), None, "{other}");
        }
    }
}
