//! The watches: `BakeJob`s as `kept` says, Jobs and pods by our label and as facts only, nodes and priority classes where they may be seen. Secrets
//! and ConfigMaps are never watched or read.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, PoisonError};

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use super::children::{Child, Children};
use super::context::{Context, Guarded, key};
use super::guard::Guard;
use super::kept;
use super::namespaces::merged;
use super::readiness::Readiness;
use crate::hardware::place::NodeFacts;
use crate::operator::names;

/// The names of the caches that readiness waits for.
pub(super) const CACHES: [&str; 3] = ["bakejobs", "jobs", "pods"];

/// What the watches share.
pub(super) struct Watches {
    pub(super) context: Arc<Context>,
    pub(super) readiness: Arc<Readiness>,
    /// Notified when the queue may have changed.
    pub(super) changed: Arc<Notify>,
    /// Only these namespaces; empty is all.
    pub(super) namespaces: Vec<String>,
}

impl Watches {
    /// The events of one kind, in every namespace that may be seen.
    fn events<K>(&self, config: Config) -> BoxStream<'static, watcher::Result<Event<K>>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + 'static,
    {
        let client: Client = self.context.client.clone();
        if self.namespaces.is_empty() {
            return watcher(Api::all(client), config).default_backoff().boxed();
        }
        let namespaces = self.namespaces.clone();
        let watch = move |namespace: &String| {
            watcher(Api::namespaced(client.clone(), namespace), config.clone()).default_backoff().boxed()
        };
        merged(Box::new(move || namespaces.iter().map(&watch).collect())).boxed()
    }

    /// Watches `BakeJob`s, and asks for each that changed.
    pub(super) async fn bakejobs(&self, writer: Writer<Guarded>) {
        // No debounce and no predicate: a look that finds nothing to do costs microseconds.
        let events = self.events::<Guarded>(Config::default()).modify(kept::trim).reflect(writer);
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(object) | Event::InitApply(object)) => self.ask(&object),
                Ok(Event::InitDone) => {
                    self.readiness.filled("bakejobs");
                    // Objects of a list are in the store only now.
                    self.context.store.state().iter().for_each(|object| self.ask(object));
                }
                Ok(Event::Delete(object)) => self.context.forget(&object),
                Ok(Event::Init) => {}
                Err(error) => tracing::warn!(%error, "the watch of BakeJobs broke; it starts again"),
            }
            self.changed.notify_one();
        }
    }

    fn ask(&self, object: &Guarded) {
        self.context.ask(&key(object));
    }

    /// Watches Jobs.
    pub(super) async fn jobs(&self) {
        self.children("jobs", &self.context.jobs, self.events(ours())).await;
    }

    /// Watches pods.
    pub(super) async fn pods(&self) {
        self.children("pods", &self.context.pods, self.events(ours())).await;
    }

    async fn children<C>(
        &self,
        kind: &'static str,
        children: &Children<C>,
        events: impl Stream<Item = watcher::Result<Event<Guard<C>>>>,
    ) where
        C: Child + Clone + DeserializeOwned + Debug + Resource,
    {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    tracing::warn!(%error, kind, "a watch broke; it starts again");
                    continue;
                }
            };
            let done = matches!(event, Event::InitDone);
            let Some(event) = readable(kind, event) else { continue };
            for key in children.take(&event) {
                self.context.ask(&key);
            }
            if done {
                self.readiness.filled(kind);
            }
        }
    }

    /// Watches nodes, where that is wanted.
    pub(super) async fn nodes(&self) {
        let Some(shared) = &self.context.nodes else { return std::future::pending().await };
        let api = Api::<Guard<Node>>::all(self.context.client.clone());
        let mut known = HashMap::new();
        self.cluster("nodes", api, &mut known, NodeFacts::read, |known| {
            let mut nodes: Vec<NodeFacts> = known.values().cloned().collect();
            nodes.sort_by(|a, b| a.name.cmp(&b.name));
            *shared.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(nodes);
        })
        .await;
    }

    /// Watches priority classes, which order the queue.
    pub(super) async fn priorities(&self) {
        if !self.namespaces.is_empty() {
            return std::future::pending().await;
        }
        let api = Api::<Guard<PriorityClass>>::all(self.context.client.clone());
        let mut known = HashMap::new();
        self.cluster(
            "priority classes",
            api,
            &mut known,
            |class: &PriorityClass| class.value,
            |known| {
                known.clone_into(&mut self.context.priorities.write().unwrap_or_else(PoisonError::into_inner));
                self.changed.notify_one();
            },
        )
        .await;
    }

    /// Watches a few objects of the whole cluster, by name.
    async fn cluster<K, F>(
        &self,
        kind: &'static str,
        api: Api<Guard<K>>,
        known: &mut HashMap<String, F>,
        facts: impl Fn(&K) -> F,
        publish: impl Fn(&HashMap<String, F>),
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let mut events = std::pin::pin!(watcher(api, Config::default()).default_backoff());
        let mut listing = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => {
                    listing = true;
                    known.clear();
                }
                Ok(Event::InitDone) => listing = false,
                Ok(Event::Apply(object) | Event::InitApply(object)) => {
                    if let Ok(object) = &object.0 {
                        known.insert(object.name_any(), facts(object));
                    }
                }
                Ok(Event::Delete(object)) => {
                    known.remove(&object.name_any());
                }
                Err(error) => tracing::warn!(%error, kind, "a watch broke; it starts again"),
            }
            if !listing {
                publish(known);
            }
        }
    }
}

/// Only what the controller made: a tenant's thousands of other pods cost nothing.
fn ours() -> Config {
    Config::default().labels(names::LABEL_JOB)
}

/// The event with its object read; an object that cannot be read is said and left out.
fn readable<C: Resource>(kind: &str, event: Event<Guard<C>>) -> Option<Event<C>> {
    let read = |object: Guard<C>| match object.0 {
        Ok(object) => Some(object),
        Err(invalid) => {
            tracing::warn!(kind, error = invalid.error, name = invalid.metadata.name, "an object cannot be read");
            None
        }
    };
    Some(match event {
        Event::Apply(object) => Event::Apply(read(object)?),
        Event::Delete(object) => Event::Delete(read(object)?),
        Event::InitApply(object) => Event::InitApply(read(object)?),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    })
}
