//! What every reconcile shares.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::core::DeserializeGuard;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store};

use super::children::{Children, Key};
use super::metrics::Metrics;
use crate::api::BakeJob;
use crate::hardware::place::NodeFacts;
use crate::operator::facts::Turn;
use crate::operator::names::CONTROLLER;
use crate::operator::validate::Defaults;

/// A `BakeJob` as the watch brings it: one that cannot be read stops no other.
pub(super) type Guarded = DeserializeGuard<BakeJob>;

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
    pub(super) recorder: Recorder,
    pub(super) metrics: Metrics,
    pub(super) triggers: Triggers,
    /// When a favour was asked last: by UID of the `BakeJob` for a log, of the Job for its Workload.
    pub(super) asked: Mutex<HashMap<String, Instant>>,
    /// Failures in a row, by object.
    pub(super) failures: Mutex<HashMap<ObjectRef<Guarded>, u32>>,
    /// Generation of each unreadable object that has been told of.
    pub(super) unreadable: tokio::sync::Mutex<HashMap<String, i64>>,
    /// The most that one reconcile may take.
    pub(super) timeout: Duration,
}

impl Context {
    pub(super) fn recorder(client: Client, identity: &str) -> Recorder {
        Recorder::new(client, Reporter { controller: CONTROLLER.to_owned(), instance: Some(identity.to_owned()) })
    }

    /// Asks for an object to be looked at.
    pub(super) fn ask(&self, key: &Key) {
        self.metrics.queue.asked(key);
        if !self.triggers.ask(key) {
            self.metrics.queue.forget(key);
        }
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

/// Asks for objects to be looked at. Before this replica leads, nobody listens.
#[derive(Default)]
pub(super) struct Triggers {
    sender: Mutex<Option<UnboundedSender<ObjectRef<Guarded>>>>,
}

impl Triggers {
    /// Begins to listen.
    pub(super) fn open(&self) -> UnboundedReceiver<ObjectRef<Guarded>> {
        let (sender, receiver) = unbounded();
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// Ends the stream: what is in progress is finished, nothing new begins.
    pub(super) fn close(&self) {
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Asks for an object, and says whether anybody listens: a closed stream means that this replica is stopping.
    fn ask(&self, (namespace, name): &Key) -> bool {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.as_ref().is_some_and(|sender| sender.unbounded_send(ObjectRef::new(name).within(namespace)).is_ok())
    }
}
