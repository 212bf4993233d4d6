//! Where a `BakeJob` is. One closed set: the names are the reasons of its conditions and events, the labels of its metrics and the entries of
//! the runbook; the table below is what each means for the seven conditions.

use super::Reason;

/// A condition's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Not known, or not yet.
    Unknown,
}

impl Truth {
    /// As the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

macro_rules! states {
    ($($(#[doc = $doc:literal])+ $name:ident: $advice:literal,)+) => {
        /// Where a `BakeJob` is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum State {
            $($(#[doc = $doc])+ $name,)+
        }

        impl State {
            /// Every state.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Its name, as conditions, events and metrics carry it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// What a person can do about it; empty where nothing is to be done.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$name => $advice,)+ }
            }
        }
    };
}

states! {
    /// It waits for its turn under the cap, or for Kueue.
    Queued: "",
    /// `spec.suspend` holds it.
    Suspended: "Set spec.suspend to false to go on.",
    /// Its Job is there, its pod not yet ready to run.
    Starting: "",
    /// No node takes the pod.
    Unschedulable: "Compare spec.worker.resources, nodeSelector, tolerations and spec.hardware with the nodes.",
    /// The worker's image cannot be pulled.
    ImagePullFailed: "Check spec.worker.image and imagePullSecrets.",
    /// The kubelet cannot make the container: a Secret, ConfigMap or volume that it names is missing or does not fit.
    ContainerConfigError: "Create what the message names, or correct spec.storage and spec.worker.",
    /// It bakes.
    Running: "",
    /// An attempt ended early, the next one comes.
    Retrying: "",
    /// The node of its pod does not answer.
    NodeUnreachable: "When the node is gone for good, delete it or taint it node.kubernetes.io/out-of-service; the bake then goes on elsewhere.",
    /// The namespace's quota has no room for its Job or pod.
    QuotaExceeded: "Raise the namespace's quota, or wait for other work to end.",
    /// The API server refused the Job.
    JobRefused: "Correct the field that the message names, most likely in spec.worker.",
    /// An artifact better than the input passed every gate.
    Baked: "",
    /// Nothing better than the input passed; the input itself is the artifact.
    NoImprovement: "",
    /// A gate failed on the best candidate.
    GateFailed: "Relax the gate, lower the level, or give more data; the report has every candidate.",
    /// A gate could not be decided.
    GateInconclusive: "Give more validation samples; the gate's message says how many.",
    /// The `BakeJob` is wrong, or asks for what is not built yet.
    InvalidJob: "Correct the field that the message names.",
    /// The model file is damaged or not ONNX.
    InvalidModel: "Export the model again.",
    /// No engine can run an operator of the model.
    UnsupportedOperator: "Use a worker image with ONNX Runtime, or export without the operator that the message names.",
    /// The data does not fit the model, is empty, or its splits overlap.
    InvalidData: "Correct the split that the message names.",
    /// A file may not be read.
    AccessDenied: "Give the worker's identity or Secret the right to read and write what the message names.",
    /// The output cannot be written, or the disk is full.
    OutputUnwritable: "Give spec.output.uri space and write access.",
    /// Object storage did not answer, in every attempt.
    StorageUnreachable: "Check spec.storage.endpoint and the network from the worker's namespace, then change or re-create the BakeJob.",
    /// The accelerator went away, in every attempt.
    DeviceLost: "Check the node's GPU; the kubelet's and the driver's log name the fault.",
    /// The memory limit is below what the smallest plan needs.
    MemoryLimitTooSmall: "Raise spec.worker.resources.limits.memory to what the message names.",
    /// The kernel killed the worker at its memory limit, with the low-memory plan too.
    OutOfMemory: "Raise spec.worker.resources.limits.memory.",
    /// The kubelet evicted the pod, in every attempt.
    Evicted: "Raise requests and limits of memory and ephemeral-storage to what the bake needs.",
    /// The worker was killed from outside, in every attempt.
    WorkerKilled: "Look for what kills the pod: a probe, an operator, the node's out-of-memory killer.",
    /// The worker ended with a code that is not in the contract, in every attempt.
    WorkerFailed: "Read the pod's log; report it when it is a crash.",
    /// The Job was deleted by somebody else, in every attempt.
    JobDeleted: "Find who deletes Jobs of the BakeJob.",
    /// The worker ended well but what it found out was lost, in every attempt.
    ResultLost: "Find what deletes the pods of finished Jobs.",
    /// The run took longer than `activeDeadlineSeconds`.
    DeadlineExceeded: "Raise spec.activeDeadlineSeconds, or lower level, iterations or data.",
    /// A fault of Bakehouse.
    Internal: "Please report it, with the pod's log.",
}

/// What a state means for the conditions, but for Promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // each is the condition of its name
pub struct Meaning {
    pub succeeded: Truth,
    pub gate_passed: Truth,
    pub suspended: Truth,
    pub ready: Truth,
    pub reconciling: Truth,
    pub stalled: Truth,
}

impl State {
    /// Whether the run has ended; nothing but a changed spec digest leads out of such a state.
    pub const fn terminal(self) -> bool {
        !matches!(self.meaning().succeeded, Truth::Unknown)
    }

    /// What it means for the conditions.
    pub const fn meaning(self) -> Meaning {
        use Truth::{False, True, Unknown};
        const WAITS: Meaning = Meaning {
            succeeded: Unknown,
            gate_passed: Unknown,
            suspended: False,
            ready: False,
            reconciling: True,
            stalled: False,
        };
        const GOOD: Meaning = Meaning { succeeded: True, gate_passed: True, ready: True, reconciling: False, ..WAITS };
        const ENDED: Meaning = Meaning { reconciling: False, stalled: True, ..WAITS };
        match self {
            Self::Queued
            | Self::Starting
            | Self::Unschedulable
            | Self::ImagePullFailed
            | Self::ContainerConfigError
            | Self::Running
            | Self::Retrying
            | Self::NodeUnreachable
            | Self::QuotaExceeded => WAITS,
            Self::Suspended => Meaning { suspended: True, reconciling: False, ..WAITS },
            Self::JobRefused => ENDED,
            Self::Baked | Self::NoImprovement => GOOD,
            Self::GateFailed => Meaning { succeeded: True, gate_passed: False, ..ENDED },
            // Without Stalled, kstatus would say InProgress for ever.
            Self::GateInconclusive => Meaning { succeeded: True, ..ENDED },
            Self::InvalidJob
            | Self::InvalidModel
            | Self::UnsupportedOperator
            | Self::InvalidData
            | Self::AccessDenied
            | Self::OutputUnwritable
            | Self::StorageUnreachable
            | Self::DeviceLost
            | Self::MemoryLimitTooSmall
            | Self::OutOfMemory
            | Self::Evicted
            | Self::WorkerKilled
            | Self::WorkerFailed
            | Self::JobDeleted
            | Self::ResultLost
            | Self::DeadlineExceeded
            | Self::Internal => Meaning { succeeded: False, ..ENDED },
        }
    }

    /// The state of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.as_str() == name)
    }
}

impl From<Reason> for State {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Baked => Self::Baked,
            Reason::NoImprovement => Self::NoImprovement,
            Reason::GateFailed => Self::GateFailed,
            Reason::GateInconclusive => Self::GateInconclusive,
            Reason::InvalidJob => Self::InvalidJob,
            Reason::InvalidModel => Self::InvalidModel,
            Reason::UnsupportedOperator => Self::UnsupportedOperator,
            Reason::InvalidData => Self::InvalidData,
            Reason::AccessDenied => Self::AccessDenied,
            Reason::OutputUnwritable => Self::OutputUnwritable,
            Reason::StorageUnreachable => Self::StorageUnreachable,
            Reason::DeviceLost => Self::DeviceLost,
            Reason::MemoryLimitTooSmall => Self::MemoryLimitTooSmall,
            Reason::Internal => Self::Internal,
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_states() {
        for state in State::ALL {
            assert_eq!(State::named(state.as_str()), Some(*state));
        }
        assert_eq!(State::named("Elsewhere"), None);
    }

    #[test]
    fn whatever_ends_badly_says_what_to_do() {
        for state in State::ALL.iter().filter(|s| s.meaning().stalled == Truth::True) {
            assert!(!state.advice().is_empty(), "{state}");
        }
    }

    #[test]
    fn only_what_passed_its_gates_is_ready() {
        for state in State::ALL {
            let meaning = state.meaning();
            assert_eq!(meaning.ready == Truth::True, meaning.gate_passed == Truth::True, "{state}");
            assert!(!(meaning.reconciling == Truth::True && meaning.stalled == Truth::True), "{state}");
        }
    }
}
