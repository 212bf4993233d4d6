//! Tells events. They are a courtesy: a failure is logged and nothing more.

use kube::core::ObjectMeta;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

use crate::api::wire::cut;
use crate::api::{BakeJob, BakeJobSpec};
use crate::operator::decide::EventSpec;
use crate::operator::names::CONTROLLER;

/// The longest note, in bytes; the API server takes 1,024.
const NOTE: usize = 900;

/// Who tells them.
pub(super) struct Events {
    client: Client,
    reporter: Reporter,
    /// A warning that is repeated within minutes becomes one event that counts. For that, a recorder remembers each event for minutes and goes over
    /// all of them at each; what goes well is told once and needs none of it.
    warnings: Recorder,
}

impl Events {
    /// Events of the replica that is called so.
    pub(super) fn new(client: Client, identity: &str) -> Self {
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(identity.to_owned()) };
        let warnings = Recorder::new(client.clone(), reporter.clone());
        Self { client, reporter, warnings }
    }

    /// Tells events of a `BakeJob`.
    pub(super) async fn tell(&self, meta: &ObjectMeta, events: &[EventSpec]) {
        for event in events {
            let mut of = BakeJob::new(meta.name.as_deref().unwrap_or_default(), BakeJobSpec::new("", "", ""));
            of.metadata = meta.clone();
            let (type_, recorder) = if event.warning {
                (EventType::Warning, self.warnings.clone())
            } else {
                (EventType::Normal, Recorder::new(self.client.clone(), self.reporter.clone()))
            };
            let told = Event {
                type_,
                reason: event.reason.as_str().to_owned(),
                note: Some(cut(&event.note, NOTE)),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            if let Err(error) = recorder.publish(&told, &of.object_ref(&())).await {
                tracing::warn!(%error, reason = event.reason.as_str(), "an event was not written");
            }
        }
    }
}
