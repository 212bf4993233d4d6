//! A `BakeJob` that is being deleted: its Jobs stop, and where `onDelete: Delete` asks for it, its output goes first.

use std::time::Duration;

use super::{Action, EventReason, EventSpec, Plan};
use crate::api::wire::Task;
use crate::operator::facts::{JobEnd, Observed};
use crate::operator::validate::Validated;

pub(super) fn decide(job: &Validated, seen: &Observed) -> Plan {
    let mut plan = Plan { actions: Vec::new(), status: job.status.clone(), requeue: None, events: Vec::new() };
    let mut busy = false;
    for left in seen.jobs.iter().filter(|j| j.task != Task::Clean && j.end.is_none()) {
        busy = true;
        if !left.deleting {
            plan.actions.push(Action::DeleteJob { job: left.name.clone(), uid: left.uid.clone() });
        }
    }
    if !job.finalizer {
        return plan;
    }
    // Nothing was ever started, so nothing was written.
    if !job.cleans() || (job.status.attempt.is_none() && seen.jobs.is_empty()) {
        plan.actions.push(Action::RemoveFinalizer);
        return plan;
    }
    plan.requeue = Some(Duration::from_secs(10));
    if busy {
        return plan;
    }
    let mut event = |warning, reason, note: String| plan.events.push(EventSpec { warning, reason, note });
    let cleanup = seen.jobs.iter().find(|j| j.task == Task::Clean);
    match cleanup.map(|j| &j.end) {
        None => plan.actions.push(Action::CreateCleanup),
        Some(None) => {}
        Some(Some(JobEnd::Complete { .. })) => {
            event(false, EventReason::OutputDeleted, format!("Deleted what was written to {}", job.spec.output.uri));
            plan.actions.push(Action::RemoveFinalizer);
        }
        // A finalizer that never goes holds up whole namespaces; files that stay do less harm, and are named.
        Some(Some(JobEnd::Failed { message, .. })) => {
            let note = format!("Could not delete what was written to {}; it stays. {message}", job.spec.output.uri);
            event(true, EventReason::OutputNotDeleted, note);
            plan.actions.push(Action::RemoveFinalizer);
        }
    }
    // Nobody owns it, so nobody else takes it away; another BakeJob of this name needs its name.
    if let Some(cleanup) = cleanup.filter(|j| j.end.is_some() && !j.deleting) {
        plan.actions.push(Action::DeleteJob { job: cleanup.name.clone(), uid: cleanup.uid.clone() });
    }
    plan
}
