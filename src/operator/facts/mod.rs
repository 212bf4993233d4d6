//! What the controller keeps of the objects it watches: the few facts that decisions rest on, read once, so that a pod costs bytes instead
//! of kilobytes and a decision is a function of plain values.

mod job;
mod pod;
mod workload;

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use crate::api::wire::ProgressLine;
use crate::hardware::place::NodeFacts;

pub use job::{JobEnd, JobFacts};
pub use pod::{PodEnd, PodFacts, PodState};
pub use workload::waits;

/// Everything seen of one `BakeJob`'s surroundings.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Its Jobs, of every run.
    pub jobs: Vec<JobFacts>,
    /// Their pods.
    pub pods: Vec<PodFacts>,
    /// Its place in the queue.
    pub turn: Turn,
    /// The nodes; `None` where the controller may not see them.
    pub nodes: Option<Arc<Vec<NodeFacts>>>,
    /// What the log of the running pod says; empty when it was not read.
    pub progress: Vec<ProgressLine>,
    /// Why Kueue lets its Job wait; `None` when Kueue was not asked or did not say.
    pub kueue: Option<String>,
}

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// How many are ahead.
    pub ahead: u32,
    /// Whether the caps let it start now.
    pub now: bool,
}

impl Default for Turn {
    /// With no cap, everyone's turn is now.
    fn default() -> Self {
        Self { ahead: 0, now: true }
    }
}

impl Observed {
    /// The pods of a Job, oldest first.
    pub fn pods_of(&self, job: &str) -> Vec<&PodFacts> {
        let mut pods: Vec<&PodFacts> = self.pods.iter().filter(|pod| pod.job == job).collect();
        pods.sort_by_key(|pod| (pod.created, &pod.name));
        pods
    }
}

/// The time of an optional Kubernetes time.
fn at(time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>) -> Option<Timestamp> {
    time.map(|time| time.0)
}
