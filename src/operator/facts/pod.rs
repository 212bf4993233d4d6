//! Facts of a pod, and the one state that it is in.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodCondition, PodStatus};
use k8s_openapi::jiff::Timestamp;

use super::at;
use crate::operator::names;

/// What is known of one pod.
#[derive(Debug, Clone, PartialEq)]
pub struct PodFacts {
    /// Its name.
    pub name: String,
    /// The Job it belongs to.
    pub job: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// The node it is on.
    pub node: Option<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether it is deleted because its node does not answer. Until the node is back or gone, the pod stays.
    pub lost: bool,
    /// The state it is in.
    pub state: PodState,
}

/// The state of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum PodState {
    /// No node takes it.
    Unschedulable {
        /// Since when.
        since: Option<Timestamp>,
        /// The scheduler's words.
        message: String,
    },
    /// Its image does not come.
    ImagePull {
        /// The kubelet's words.
        message: String,
    },
    /// The kubelet cannot make its container.
    Config {
        /// The kubelet's words.
        message: String,
    },
    /// On its way, with nothing wrong.
    Pending,
    /// Running.
    Running {
        /// Whether its node answers.
        reachable: bool,
    },
    /// It ended with code 0.
    Succeeded {
        /// When.
        at: Option<Timestamp>,
        /// The termination message.
        message: Option<String>,
    },
    /// It ended otherwise.
    Failed(PodEnd),
}

/// How a pod failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodEnd {
    /// The worker's exit code, when it had one.
    pub exit_code: Option<i32>,
    /// Whether the kernel killed it at its memory limit.
    pub oom: bool,
    /// Whether the kubelet evicted it.
    pub evicted: bool,
    /// Preempted, drained, evicted or its node lost: why, in the control plane's words.
    pub disrupted: Option<String>,
    /// The termination message.
    pub message: Option<String>,
    /// What pod and container status say, for a person.
    pub detail: String,
}

/// Reasons of a waiting container that mean its image does not come.
const IMAGE_REASONS: [&str; 6] = [
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
];

/// Reasons of a waiting container that mean it cannot be made.
const CONFIG_REASONS: [&str; 4] =
    ["CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError"];

impl PodFacts {
    /// Reads a pod of a Job; any other is `None`.
    pub fn read(pod: &Pod) -> Option<Self> {
        let meta = &pod.metadata;
        let job = meta.labels.as_ref()?.get(names::POD_JOB_NAME)?;
        let status = pod.status.clone().unwrap_or_default();
        Some(Self {
            name: meta.name.clone()?,
            job: job.clone(),
            created: at(meta.creation_timestamp.as_ref()),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            deleting: meta.deletion_timestamp.is_some(),
            lost: status.conditions.iter().flatten().any(|c| {
                c.type_ == "DisruptionTarget"
                    && c.status == "True"
                    && c.reason.as_deref() == Some("DeletionByTaintManager")
            }),
            state: state(&status),
        })
    }
}

fn state(status: &PodStatus) -> PodState {
    let worker = status.container_statuses.iter().flatten().find(|c| c.name == names::CONTAINER);
    let ended = worker.and_then(|c| c.state.as_ref()).and_then(|s| s.terminated.as_ref());
    let condition = |kind: &str| status.conditions.iter().flatten().find(|c| c.type_ == kind);
    match status.phase.as_deref() {
        Some("Succeeded") => PodState::Succeeded {
            at: ended.and_then(|e| at(e.finished_at.as_ref())),
            message: ended.and_then(|e| e.message.clone()),
        },
        Some("Failed") => PodState::Failed(failed(status, ended, condition("DisruptionTarget"))),
        Some("Running") => {
            let lost = condition("Ready")
                .is_some_and(|c| c.status == "Unknown" || c.reason.as_deref() == Some("NodeStatusUnknown"));
            PodState::Running { reachable: !lost && status.reason.as_deref() != Some("NodeLost") }
        }
        // Phase Unknown: its node does not answer.
        Some("Unknown") => PodState::Running { reachable: false },
        _ => pending(status, worker, condition("PodScheduled")),
    }
}

fn pending(status: &PodStatus, worker: Option<&ContainerStatus>, scheduled: Option<&PodCondition>) -> PodState {
    if let Some(c) = scheduled.filter(|c| c.status == "False" && c.reason.as_deref() != Some("SchedulingGated")) {
        let message = c.message.clone().unwrap_or_default();
        return PodState::Unschedulable { since: at(c.last_transition_time.as_ref()), message };
    }
    let init = status.init_container_statuses.iter().flatten();
    for waiting in worker.into_iter().chain(init).filter_map(|c| c.state.as_ref()?.waiting.as_ref()) {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let message = format!("{reason}: {}", waiting.message.as_deref().unwrap_or("no message"));
        if IMAGE_REASONS.contains(&reason) {
            return PodState::ImagePull { message };
        }
        if CONFIG_REASONS.contains(&reason) {
            return PodState::Config { message };
        }
    }
    PodState::Pending
}

fn failed(status: &PodStatus, ended: Option<&ContainerStateTerminated>, disruption: Option<&PodCondition>) -> PodEnd {
    let disruption = disruption.filter(|c| c.status == "True");
    let reason = status.reason.as_deref();
    let mut words: Vec<String> = Vec::new();
    words.extend(disruption.and_then(|c| c.message.clone().or_else(|| c.reason.clone())));
    words.extend(status.message.clone().filter(|message| !words.contains(message)));
    if let Some(ended) = ended {
        let signal = ended.signal.map(|s| format!(", signal {s}")).unwrap_or_default();
        let why = ended.reason.as_deref().unwrap_or("Error");
        words.push(format!("the container ended with code {}{signal} ({why})", ended.exit_code));
    }
    PodEnd {
        exit_code: ended.map(|e| e.exit_code),
        oom: ended.is_some_and(|e| e.reason.as_deref() == Some("OOMKilled")),
        evicted: reason == Some("Evicted"),
        disrupted: disruption.map(|c| c.reason.clone().unwrap_or_else(|| "disrupted".to_owned())).or_else(|| {
            reason
                .filter(|r| ["Evicted", "NodeLost", "Shutdown", "Terminated", "Preempting"].contains(r))
                .map(str::to_owned)
        }),
        message: ended.and_then(|e| e.message.clone()),
        detail: if words.is_empty() { "the pod failed without a word".to_owned() } else { words.join("; ") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(status: &Value) -> PodState {
        let pod = json!({"metadata": {"name": "p", "labels": {"batch.kubernetes.io/job-name": "cnn-1-1"}}, "spec": {"containers": []}, "status": status});
        PodFacts::read(&serde_json::from_value(pod).unwrap()).unwrap().state
    }

    fn waiting(reason: &str) -> Value {
        json!({"phase": "Pending", "containerStatuses": [{"name": "worker", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
               "state": {"waiting": {"reason": reason, "message": "why"}}}]})
    }

    fn ended(code: i32, reason: &str) -> Value {
        json!({"phase": "Failed", "containerStatuses": [
            {"name": "istio-proxy", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 1}}},
            {"name": "worker", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"terminated": {"exitCode": code, "reason": reason, "message": "said"}}}]})
    }

    #[test]
    fn each_status_has_one_state() {
        let table: [(&str, Value, fn(&PodState) -> bool); 12] = [
            ("no status yet", json!({}), |s| *s == PodState::Pending),
            (
                "no node",
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}]}),
                |s| matches!(s, PodState::Unschedulable { message, .. } if message == "0/2 nodes"),
            ),
            (
                "held by a scheduling gate",
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
                |s| *s == PodState::Pending,
            ),
            ("pulling", waiting("ContainerCreating"), |s| *s == PodState::Pending),
            (
                "image missing",
                waiting("ImagePullBackOff"),
                |s| matches!(s, PodState::ImagePull { message } if message == "ImagePullBackOff: why"),
            ),
            ("Secret missing", waiting("CreateContainerConfigError"), |s| matches!(s, PodState::Config { .. })),
            ("running", json!({"phase": "Running"}), |s| *s == PodState::Running { reachable: true }),
            (
                "node gone",
                json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False", "reason": "NodeStatusUnknown"}]}),
                |s| *s == PodState::Running { reachable: false },
            ),
            ("succeeded", json!({"phase": "Succeeded"}), |s| matches!(s, PodState::Succeeded { .. })),
            (
                "out of memory",
                ended(137, "OOMKilled"),
                |s| matches!(s, PodState::Failed(e) if e.oom && e.exit_code == Some(137)),
            ),
            (
                "a code",
                ended(10, "Error"),
                |s| matches!(s, PodState::Failed(e) if !e.oom && e.message.as_deref() == Some("said")),
            ),
            (
                "evicted",
                json!({"phase": "Failed", "reason": "Evicted", "message": "disk", "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}]}),
                |s| matches!(s, PodState::Failed(e) if e.evicted && e.disrupted.is_some() && e.detail.contains("disk")),
            ),
        ];
        for (name, status, expected) in table {
            let state = read(&status);
            assert!(expected(&state), "{name}: {state:?}");
        }
    }
}
