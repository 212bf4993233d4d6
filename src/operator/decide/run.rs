//! A run that has not ended: which it is, and what its Job tells.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::draft::Draft;
use super::{Action, EventReason, Plan, conditions, failure, pods, result, start};
use crate::api::bakejob::{AttemptStatus, BakeJobStatus, Fallback, JobRef, RunRecord, Stage};
use crate::api::state::State;
use crate::api::wire::{GivenDevice, Task};
use crate::hardware::place::{Choice, place};
use crate::operator::facts::{JobEnd, JobFacts, Observed};
use crate::operator::validate::Validated;

/// How often the log of a running pod is read.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// How often Kueue is asked why a Job waits.
const KUEUE_EVERY: Duration = Duration::from_secs(15);

/// For how long an ordinary step on the way of a pod may last before the status tells of it. Most pass in moments, and to write each would be
/// most of what the operator writes.
const PASSING: Duration = Duration::from_secs(3);

/// How many earlier runs the status remembers.
const HISTORY: usize = 5;

pub(super) fn decide(job: &Validated, seen: &Observed, now: Timestamp) -> Plan {
    let run = number(job, seen);
    let mut draft = Draft::new(job, status_of_run(job, run), now);
    let mine = |j: &&JobFacts| j.run == run && j.spec_digest == job.spec_digest;
    let bakes = || seen.jobs.iter().filter(|j| j.task == Task::Bake);
    let current = bakes().filter(mine).max_by_key(|j| j.attempt);
    // Two workers must never write to one output, nor one promote from it: what is left of earlier runs and attempts ends first.
    let others = seen
        .jobs
        .iter()
        .filter(|j| j.task != Task::Clean)
        .filter(|j| current.is_none_or(|current| current.name != j.name));
    for other in others.filter(|j| j.end.is_none() && !j.deleting) {
        draft.act(Action::DeleteJob { job: other.name.clone(), uid: other.uid.clone() });
    }
    match current {
        None => start::first_or_next(draft, seen),
        Some(current) => with_job(draft, seen, current),
    }
}

/// The number of the run: that of the status while it speaks of this spec, else the one after every number that was ever used.
fn number(job: &Validated, seen: &Observed) -> u32 {
    let known = job.status.runs.unwrap_or(0);
    if job.status.spec_digest.as_ref() == Some(&job.spec_digest) && known > 0 {
        return known;
    }
    let bakes = || seen.jobs.iter().filter(|j| j.task == Task::Bake);
    let adopted = bakes().filter(|j| j.spec_digest == job.spec_digest && j.run > known).map(|j| j.run).max();
    adopted.unwrap_or_else(|| bakes().map(|j| j.run).max().unwrap_or(0).max(known) + 1)
}

/// The status to go on from: as it is, or cleared for a new run with the old one in its history.
fn status_of_run(job: &Validated, run: u32) -> BakeJobStatus {
    let old = &job.status;
    if old.runs == Some(run) {
        return old.clone();
    }
    let mut history = old.history.clone();
    if let (Some(run), Some(digest), Some(state)) = (old.runs, &old.spec_digest, conditions::state(old)) {
        let record = RunRecord {
            run,
            spec_digest: digest.clone(),
            reason: state.as_str().to_owned(),
            sha256: old.artifacts.first().map(|a| a.sha256.clone()),
            completion_time: old.completion_time.clone(),
        };
        history.insert(0, record);
        history.truncate(HISTORY);
    }
    BakeJobStatus {
        observed_generation: old.observed_generation,
        conditions: old.conditions.clone(),
        runs: Some(run),
        promotion: old.promotion.clone(),
        history,
        ..BakeJobStatus::default()
    }
}

fn with_job(mut draft: Draft<'_>, seen: &Observed, current: &JobFacts) -> Plan {
    let earlier = draft.status.attempt.take();
    // A Job that we ourselves are replacing is no longer the one of the status; see `replace`.
    let replaced = current.deleting
        && draft.status.job_ref.is_none()
        && earlier.as_ref().is_some_and(|a| a.number == current.attempt);
    if !replaced {
        draft.status.job_ref = Some(JobRef { name: current.name.clone(), uid: Some(current.uid.clone()) });
        draft.hardware().device = Some(current.device.as_str().to_owned());
        draft.hardware().reason = Some(current.device_reason.clone());
    }
    draft.status.attempt = Some(AttemptStatus {
        number: current.attempt,
        failures: current.failures,
        low_memory: current.low_memory,
        last_failure: earlier.and_then(|a| a.last_failure),
    });
    match &current.end {
        Some(JobEnd::Complete { at }) => result::complete(draft, seen, current, *at),
        Some(JobEnd::Failed { at, reason, message }) => failure::failed(draft, seen, current, *at, reason, message),
        None if current.deleting => {
            draft.wake_in(PROGRESS_EVERY);
            let (state, message) = if draft.job.spec.suspend {
                draft.status.start_time = None;
                (State::Suspended, "spec.suspend is true".to_owned())
            } else {
                (State::Retrying, format!("Job {} is being deleted", current.name))
            };
            draft.say(state, &message)
        }
        None => active(draft, seen, current),
    }
}

fn active(mut draft: Draft<'_>, seen: &Observed, current: &JobFacts) -> Plan {
    let job = draft.job;
    if job.spec.suspend {
        return suspend(draft, current);
    }
    if current.suspended {
        return resume(draft, seen, current);
    }
    let began = Time(current.started.unwrap_or(draft.now));
    let started = draft.status.start_time.get_or_insert(began).0;
    if let Some(seconds) = job.deadline() {
        let deadline = started.saturating_add(Duration::from_secs(seconds.unsigned_abs())).unwrap_or(Timestamp::MAX);
        if draft.now >= deadline {
            draft.act(Action::DeleteJob { job: current.name.clone(), uid: current.uid.clone() });
            let now = draft.now;
            return draft.finish(State::DeadlineExceeded, &format!("The run took longer than {seconds} s"), now);
        }
        draft.wake_at(deadline);
    }
    let pods = seen.pods_of(&current.name);
    if let Some(end) = failure::evicted_too_often(&pods, job.spec.backoff_limit.saturating_sub(current.failures)) {
        draft.act(Action::DeleteJob { job: current.name.clone(), uid: current.uid.clone() });
        let now = draft.now;
        return draft.finish(State::Evicted, &end, now);
    }
    if current.deadline != job.deadline() {
        draft.act(Action::Adjust { job: current.name.clone(), suspend: None, deadline: Some(job.deadline()) });
    }
    let silent = |name: &str| seen.nodes.iter().flat_map(|nodes| nodes.iter()).any(|n| n.name == name && !n.reachable);
    let view = pods::view(&pods, silent);
    let since = view.since.or(current.created).unwrap_or(draft.now);
    if view.state == State::Unschedulable && falls_back(job, current) {
        let until = since.saturating_add(job.defaults.fallback_after).unwrap_or(Timestamp::MAX);
        if draft.now >= until {
            let fallback = place(&job.spec.hardware, seen.nodes.as_deref().map(Vec::as_slice), &Choice::Fallback);
            draft.hardware().device = Some(fallback.device.as_str().to_owned());
            draft.hardware().reason = Some(fallback.reason.clone());
            draft.event(true, EventReason::DeviceFallback, fallback.reason.clone());
            return replace(draft, current, State::Retrying, &fallback.reason);
        }
        draft.wake_at(until);
    }
    if view.state == State::Running {
        progress(&mut draft.status, seen);
        draft.wake_in(PROGRESS_EVERY);
    }
    let told = since.saturating_add(PASSING).unwrap_or(Timestamp::MAX);
    match conditions::state(&draft.status) {
        Some(before) if draft.now < told && on_its_way(before) && on_its_way(view.state) => {
            draft.wake_at(told);
            draft.say_no_more(before)
        }
        _ => {
            if view.node.is_some() {
                draft.hardware().node = view.node;
            }
            draft.say(view.state, &view.message)
        }
    }
}

/// Whether nothing is wrong with the pod.
fn on_its_way(state: State) -> bool {
    matches!(state, State::Starting | State::Running)
}

/// Whether a CPU may take over from the device of this attempt.
fn falls_back(job: &Validated, current: &JobFacts) -> bool {
    current.device == GivenDevice::Cuda && job.spec.hardware.fallback == Fallback::Cpu
}

/// Deletes a Job for another attempt to follow, not counted as a failure: the status lets go of the Job, so its absence is no loss.
fn replace(mut draft: Draft<'_>, current: &JobFacts, state: State, message: &str) -> Plan {
    draft.act(Action::DeleteJob { job: current.name.clone(), uid: current.uid.clone() });
    draft.status.job_ref = None;
    draft.wake_in(PROGRESS_EVERY);
    draft.say(state, message)
}

fn suspend(mut draft: Draft<'_>, current: &JobFacts) -> Plan {
    // A place that is given up is queued for again, and the deadline starts anew.
    draft.status.start_time = None;
    let message = "spec.suspend is true";
    if current.kueue {
        // Kueue would resume the Job by itself; without the Job it gives the quota back.
        return replace(draft, current, State::Suspended, message);
    }
    if !current.suspended {
        draft.act(Action::Adjust { job: current.name.clone(), suspend: Some(true), deadline: None });
    }
    draft.say(State::Suspended, message)
}

fn resume(mut draft: Draft<'_>, seen: &Observed, current: &JobFacts) -> Plan {
    if current.kueue {
        return by_kueue(draft, seen);
    }
    if draft.status.start_time.is_none() && !seen.turn.now {
        return start::queued(draft, seen.turn);
    }
    let now = draft.now;
    draft.status.start_time.get_or_insert(Time(now));
    draft.act(Action::Adjust { job: current.name.clone(), suspend: Some(false), deadline: None });
    draft.wake_in(PROGRESS_EVERY);
    draft.say(State::Starting, &format!("Job {} goes on", current.name))
}

/// Kueue lets it wait. What it says about that is asked for now and then; in between, what it said last stands.
fn by_kueue(mut draft: Draft<'_>, seen: &Observed) -> Plan {
    draft.status.start_time = None;
    draft.wake_in(KUEUE_EVERY);
    let known = conditions::state(&draft.job.status) == Some(State::Queued);
    let last = conditions::message(&draft.job.status).filter(|_| known).map(str::to_owned);
    let message = seen.kueue.clone().or(last).unwrap_or_else(|| "Kueue has not admitted it".to_owned());
    draft.say(State::Queued, &message)
}

/// Takes stage, percent and the stages' times from the log.
fn progress(status: &mut BakeJobStatus, seen: &Observed) {
    let Some(last) = seen.progress.last() else { return };
    status.stage = Some(last.stage.clone());
    status.progress = Some(last.percent.min(99));
    for line in &seen.progress {
        if status.stages.iter().any(|stage| stage.name == line.stage) || status.stages.len() >= 32 {
            continue;
        }
        if let Some(before) = status.stages.last_mut() {
            before.completion_time.get_or_insert(line.time.clone());
        }
        status.stages.push(Stage {
            name: line.stage.clone(),
            start_time: Some(line.time.clone()),
            completion_time: None,
        });
    }
}
