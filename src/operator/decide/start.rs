//! Starting an attempt: the first of a run, or the next.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::draft::Draft;
use super::{Action, Attempt, Plan};
use crate::api::bakejob::{AttemptStatus, JobRef};
use crate::api::state::State;
use crate::api::wire::{GivenDevice, Task};
use crate::hardware::place::{Choice, place};
use crate::operator::facts::{Observed, Turn};
use crate::operator::names;
use crate::operator::validate::holds_a_place;

/// There is no Job of this run: it is the first attempt, one after a deliberate stop, or the Job was deleted by somebody else.
pub(super) fn first_or_next(mut draft: Draft<'_>, seen: &Observed) -> Plan {
    if let Some(refusal) = draft.job.refusal.clone() {
        draft.status.start_time = None;
        return draft.say(State::InvalidJob, &refusal);
    }
    if draft.job.spec.suspend {
        return suspended(draft);
    }
    let Some(last) = draft.status.attempt.clone() else {
        return attempt(draft, seen, 1, 0, false);
    };
    if draft.status.job_ref.is_none() {
        return attempt(draft, seen, last.number + 1, last.failures, last.low_memory);
    }
    let failures = last.failures + 1;
    let message = format!("The Job of attempt {} was deleted by somebody else", last.number);
    if failures > draft.job.spec.backoff_limit {
        let now = draft.now;
        return draft.finish(State::JobDeleted, &message, now);
    }
    remember(&mut draft, State::JobDeleted, &message);
    attempt(draft, seen, last.number + 1, failures, last.low_memory)
}

/// Keeps in the status how the attempt before ended.
pub(super) fn remember(draft: &mut Draft<'_>, state: State, message: &str) {
    let words = crate::api::wire::cut(message, 500);
    draft.status.attempt.get_or_insert_default().last_failure = Some(format!("{state}: {words}"));
}

/// Held by `spec.suspend`, with no Job that runs.
pub(super) fn suspended(mut draft: Draft<'_>) -> Plan {
    draft.status.start_time = None;
    draft.status.stage = None;
    draft.say(State::Suspended, "spec.suspend is true")
}

/// Waits for its turn. The further back, the rarer its place is told: a long queue must not become a storm of writes.
pub(super) fn queued(mut draft: Draft<'_>, turn: Turn) -> Plan {
    draft.status.start_time = None;
    draft.status.queue_position = Some(turn.ahead);
    draft.wake_in(Duration::from_secs(u64::from(turn.ahead / 2).clamp(10, 600)));
    let message = match turn.ahead {
        0 => "Next in the queue".to_owned(),
        1 => "1 BakeJob is ahead in the queue".to_owned(),
        ahead => format!("{ahead} BakeJobs are ahead in the queue"),
    };
    draft.say(State::Queued, &message)
}

/// Creates the Job of an attempt when it is this job's turn.
pub(super) fn attempt(mut draft: Draft<'_>, seen: &Observed, number: u32, failures: u32, low_memory: bool) -> Plan {
    let job = draft.job;
    let kueue = job.by_kueue();
    if !kueue && !holds_a_place(&draft.status) && !seen.turn.now {
        return queued(draft, seen.turn);
    }
    if seen.jobs.iter().any(|j| j.task == Task::Bake && j.end.is_none()) {
        draft.wake_in(Duration::from_secs(10));
        return draft.say(State::Starting, "Waiting until the earlier Job has stopped");
    }
    let choice = draft
        .status
        .hardware
        .as_ref()
        .and_then(|h| Some(Choice::Keep(GivenDevice::named(h.device.as_deref()?)?, h.reason.clone()?)))
        .unwrap_or(Choice::Fresh);
    let placement = place(&job.spec.hardware, seen.nodes.as_deref().map(Vec::as_slice), &choice);
    let run = draft.status.runs.unwrap_or(1);
    // A name is never used twice, whatever Jobs somebody left under it.
    let used = seen.jobs.iter().filter(|j| j.task == Task::Bake && j.run == run).map(|j| j.attempt + 1).max();
    let number = number.max(used.unwrap_or(1));
    let name = names::job(&job.name, run, number);
    let hardware = draft.hardware();
    hardware.device = Some(placement.device.as_str().to_owned());
    hardware.reason = Some(placement.reason.clone());
    hardware.node = None;
    let last_failure = draft.status.attempt.take().and_then(|a| a.last_failure);
    draft.status.attempt = Some(AttemptStatus { number, failures, low_memory, last_failure });
    draft.status.job_ref = Some(JobRef { name: name.clone(), uid: None });
    draft.status.stage = None;
    draft.status.stages.clear();
    draft.act(Action::CreateJob(Box::new(Attempt { run, number, failures, low_memory, placement })));
    let now = draft.now;
    if kueue {
        draft.status.start_time = None;
        return draft.say(State::Queued, &format!("Job {name} waits for Kueue to admit it"));
    }
    let started = draft.status.start_time.get_or_insert(Time(now)).0;
    if let Some(seconds) = job.deadline() {
        draft.wake_at(started.saturating_add(Duration::from_secs(seconds.unsigned_abs())).unwrap_or(now));
    }
    let plan = if low_memory { ", with the plan that needs least memory" } else { "" };
    draft.say(State::Starting, &format!("Job {name} is created: attempt {number} of run {run}{plan}"))
}
