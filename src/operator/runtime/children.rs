//! Facts of Jobs and pods, found by the `BakeJob` they belong to. The objects themselves are dropped as soon as they are read.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::watcher::Event;

use crate::operator::facts::{JobFacts, PodFacts, PodState};
use crate::operator::names;

/// Namespace and name of a `BakeJob`.
pub(super) type Key = (String, String);

/// An object that belongs to a `BakeJob`.
pub(super) trait Child: ResourceExt {
    /// What is kept of it.
    type Facts: Clone + PartialEq + Send + Sync;
    /// Reads it.
    fn facts(&self) -> Option<Self::Facts>;
    /// The name that facts are of.
    fn named(facts: &Self::Facts) -> &str;
}

impl Child for Job {
    type Facts = JobFacts;
    fn facts(&self) -> Option<JobFacts> {
        JobFacts::read(self)
    }
    fn named(facts: &JobFacts) -> &str {
        &facts.name
    }
}

impl Child for Pod {
    type Facts = PodFacts;
    fn facts(&self) -> Option<PodFacts> {
        PodFacts::read(self)
    }
    fn named(facts: &PodFacts) -> &str {
        &facts.name
    }
}

/// The children of one kind of one `BakeJob`, by name: one or two, each of hundreds of bytes, so the list has no room for more than there are.
type Siblings<C> = Vec<<C as Child>::Facts>;

/// All children of one kind.
pub(super) struct Children<C: Child> {
    known: RwLock<HashMap<Key, Siblings<C>>>,
    /// What a list in progress has brought so far.
    listed: RwLock<HashMap<Key, Siblings<C>>>,
}

impl<C: Child> Default for Children<C> {
    fn default() -> Self {
        Self { known: RwLock::default(), listed: RwLock::default() }
    }
}

/// The `BakeJob` that an object belongs to, by its label.
fn key(object: &impl ResourceExt) -> Option<Key> {
    Some((object.namespace()?, object.labels().get(names::LABEL_JOB)?.clone()))
}

impl<C: Child> Children<C> {
    /// Takes up a watch event and returns the `BakeJob`s it is about.
    pub(super) fn take(&self, event: &Event<C>) -> Vec<Key> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let mut listed = self.listed.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init => {
                listed.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                insert(&mut listed, object);
                Vec::new()
            }
            // Keys that vanished while the watch was down count as touched too.
            Event::InitDone => {
                let fresh = std::mem::take(&mut *listed);
                let mut touched: Vec<Key> = fresh.keys().cloned().collect();
                touched.extend(known.keys().filter(|key| !fresh.contains_key(*key)).cloned());
                *known = fresh;
                touched
            }
            Event::Apply(object) => insert(&mut known, object).into_iter().collect(),
            Event::Delete(object) => {
                let Some(key) = key(object) else { return Vec::new() };
                if let Some(children) = known.get_mut(&key) {
                    children.retain(|facts| C::named(facts) != object.name_any());
                    if children.is_empty() {
                        known.remove(&key);
                    }
                }
                vec![key]
            }
        }
    }

    /// The children of a `BakeJob`.
    pub(super) fn of(&self, key: &Key) -> Vec<C::Facts> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(key).cloned().unwrap_or_default()
    }
}

impl Children<Pod> {
    /// Lets go of what the pods of a `BakeJob`'s Job said: its result stands in the status. Ten thousand finished pods would keep 30 MB.
    pub(super) fn forget_messages(&self, key: &Key, job: &str) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for pod in known.get_mut(key).into_iter().flatten().filter(|pod| pod.job == job) {
            match &mut pod.state {
                PodState::Succeeded { message, .. } => *message = None,
                PodState::Failed(end) => end.message = None,
                _ => {}
            }
        }
    }
}

/// Adds an object; `None` when nothing that counts has changed.
fn insert<C: Child>(all: &mut HashMap<Key, Siblings<C>>, object: &C) -> Option<Key> {
    let (key, facts) = (key(object)?, object.facts()?);
    let children = all.entry(key.clone()).or_default();
    match children.binary_search_by(|known| C::named(known).cmp(C::named(&facts))) {
        Ok(i) if children[i] == facts => return None,
        Ok(i) => children[i] = facts,
        Err(i) => {
            children.reserve_exact(1);
            children.insert(i, facts);
        }
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, of: &str, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ml", "labels": {"bakehouse.dev/bakejob": of, "batch.kubernetes.io/job-name": "j"}},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn key(name: &str) -> Key {
        ("ml".into(), name.into())
    }

    #[test]
    fn children_are_found_by_their_bakejob() {
        let children = Children::<Pod>::default();
        assert_eq!(children.take(&Event::Apply(pod("p", "a", "Pending"))), [key("a")]);
        assert_eq!(children.of(&key("a")).len(), 1);
        assert!(children.of(&key("b")).is_empty());
        assert_eq!(children.take(&Event::Delete(pod("p", "a", "Pending"))), [key("a")]);
        assert!(children.of(&key("a")).is_empty());
    }

    #[test]
    fn an_event_without_news_touches_nobody() {
        let children = Children::<Pod>::default();
        children.take(&Event::Apply(pod("p", "a", "Pending")));
        assert!(children.take(&Event::Apply(pod("p", "a", "Pending"))).is_empty());
        assert_eq!(children.take(&Event::Apply(pod("p", "a", "Running"))), [key("a")]);
    }

    #[test]
    fn a_list_replaces_what_was_known_and_tells_of_what_vanished() {
        let children = Children::<Pod>::default();
        children.take(&Event::Apply(pod("p", "a", "Pending")));
        children.take(&Event::Init);
        assert!(children.take(&Event::InitApply(pod("q", "b", "Pending"))).is_empty());
        assert_eq!(children.of(&key("a")).len(), 1, "until the list is whole, what was known counts");
        let mut touched = children.take(&Event::InitDone);
        touched.sort();
        assert_eq!(touched, [key("a"), key("b")]);
        assert!(children.of(&key("a")).is_empty());
    }
}
