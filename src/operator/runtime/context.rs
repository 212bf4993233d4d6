//! What every reconcile shares.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};

use super::children::{Children, Key};
use super::events::Events;
use super::guard::Guard;
use super::metrics::Metrics;
use super::triggers::Triggers;
use crate::api::BakeJob;
use crate::hardware::place::NodeFacts;
use crate::operator::facts::Turn;
use crate::operator::validate::Defaults;

/// A `BakeJob` as the watch brings it: one that cannot be read stops no other.
pub(super) type Guarded = Guard<BakeJob>;

/// Everything a reconcile needs.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) store: Store<Guarded>,
    pub(super) jobs: Children<Job>,
    pub(super) pods: Children<Pod>,
    /// `None` where nodes are not to be seen.
    pub(super) nodes: Option<RwLock<Arc<Vec<NodeFacts>>>>,
    /// Values of priority classes.
    pub(super) priorities: RwLock<HashMap<String, i32>>,
    /// Everyone's turn; `None` without caps.
    pub(super) turns: RwLock<Option<HashMap<String, Turn>>>,
    pub(super) defaults: Defaults,
    pub(super) events: Events,
    pub(super) metrics: Metrics,
    pub(super) triggers: Triggers,
    /// When a favour was asked last: by UID of the `BakeJob` for a log, of the Job for its Workload.
    pub(super) asked: Mutex<HashMap<String, Instant>>,
    /// Statuses that the watch has not brought yet.
    pub(super) written: Written,
    /// Failures in a row, by object.
    pub(super) failures: Mutex<HashMap<ObjectRef<Guarded>, u32>>,
    /// Generation of each unreadable object that has been told of.
    pub(super) unreadable: tokio::sync::Mutex<HashMap<String, i64>>,
    /// The most that one reconcile may take.
    pub(super) timeout: Duration,
}

impl Context {
    /// Asks for an object to be looked at.
    pub(super) fn ask(&self, key: &Key) {
        self.metrics.queue.asked(key);
        let cached = self.store.get(&ObjectRef::new(&key.1).within(&key.0));
        let newcomer = cached.is_some_and(|object| matches!(&object.0, Ok(job) if !visited(job)));
        if !self.triggers.ask(key, newcomer) {
            self.metrics.queue.forget(key);
        }
    }

    /// An object was deleted; nothing of it is remembered.
    pub(super) fn forget(&self, object: &Guarded) {
        self.written.forget(&key(object));
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&ObjectRef::from_obj(object));
    }

    /// The nodes, where they may be seen.
    pub(super) fn nodes(&self) -> Option<Arc<Vec<NodeFacts>>> {
        self.nodes.as_ref().map(|nodes| nodes.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// The turn of a job. One that the queue has not seen yet waits for the queue to see it.
    pub(super) fn turn(&self, uid: &str) -> Turn {
        match &*self.turns.read().unwrap_or_else(PoisonError::into_inner) {
            None => Turn::default(),
            Some(turns) => turns
                .get(uid)
                .copied()
                .unwrap_or(Turn { ahead: u32::try_from(turns.len()).unwrap_or(u32::MAX), now: false }),
        }
    }
}

/// Whether a `BakeJob` has been looked at before.
fn visited(job: &BakeJob) -> bool {
    job.status.as_ref().and_then(|status| status.observed_generation).is_some_and(|generation| generation > 0)
}

/// Namespace and name of a `BakeJob`.
pub(super) fn key(object: &impl ResourceExt) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Statuses that were written and that the watch has not brought yet. To decide on the object of before would mean a conflict, and its repetition.
#[derive(Default)]
pub(super) struct Written(Mutex<HashMap<Key, String>>);

impl Written {
    /// A status was written to an object, which made it one of version `fresh`.
    pub(super) fn note(&self, object: &BakeJob, fresh: Option<String>) {
        let Some(before) = object.resource_version() else { return };
        if fresh.is_some_and(|fresh| fresh != before) {
            self.locked().insert(key(object), before);
        }
    }

    /// Whether an object of the cache is the one that a status was written over.
    pub(super) fn outdates(&self, object: &BakeJob) -> bool {
        let Some(version) = object.resource_version() else { return false };
        let (key, mut written) = (key(object), self.locked());
        let outdated = written.get(&key) == Some(&version);
        if !outdated {
            written.remove(&key);
        }
        outdated
    }

    /// An object is gone.
    pub(super) fn forget(&self, key: &Key) {
        self.locked().remove(key);
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<Key, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
