//! What a person would ask for when a case fails.

use bakehouse::api::BakeJob;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::{ListParams, LogParams};

use super::Case;

/// Status, Jobs, pods with the ends of their logs, and events.
pub(super) async fn everything(case: &Case, name: &str) -> String {
    let mut text = String::new();
    match case.api::<BakeJob>().get_opt(name).await {
        Ok(Some(job)) => {
            text += &format!("generation {:?}\n", job.metadata.generation);
            text += &serde_json::to_string_pretty(&job.status).unwrap_or_default();
        }
        Ok(None) => text += "the BakeJob does not exist",
        Err(error) => text += &error.to_string(),
    }
    for job in case.jobs(name).await {
        text += &format!("\nJob {}: {}", job.name_any(), serde_json::to_string(&job.status).unwrap_or_default());
    }
    for pod in case.pods(name).await {
        let status = serde_json::to_string(&pod.status).unwrap_or_default();
        let logs = LogParams { tail_lines: Some(20), ..LogParams::default() };
        let log = case.api::<Pod>().logs(&pod.name_any(), &logs).await.unwrap_or_else(|error| error.to_string());
        text += &format!("\nPod {}: {status}\n{log}", pod.name_any());
    }
    for event in case.api::<Event>().list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
        let about = event.regarding.and_then(|object| object.name).unwrap_or_default();
        let (reason, note) = (event.reason.unwrap_or_default(), event.note.unwrap_or_default());
        text += &format!("\nEvent {about}: {reason}: {note}");
    }
    text
}
