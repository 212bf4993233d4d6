//! Why an attempt failed, and whether another one is worth it.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::draft::Draft;
use super::{Plan, start};
use crate::api::Reason;
use crate::api::bakejob::BakeJobSpec;
use crate::api::state::State;
use crate::api::wire::{Outcome, ProgressLine};
use crate::operator::facts::{JobFacts, Observed, PodEnd, PodFacts, PodState};

/// Watches of Jobs and pods run apart: for so long a missing pod may be one that is not seen yet.
pub(super) const GRACE: Duration = Duration::from_secs(30);

/// The wait before the second attempt; it doubles, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Nothing: another attempt would end the same.
    GiveUp,
    /// Another attempt, within `backoffLimit`.
    Again,
    /// Another attempt with the low-memory plan, once.
    WithLessMemory,
}

/// A failure, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    state: State,
    message: String,
    then: Then,
}

/// The Job of an attempt was given up.
pub(super) fn failed(
    draft: Draft<'_>,
    seen: &Observed,
    job: &JobFacts,
    at: Timestamp,
    reason: &str,
    message: &str,
) -> Plan {
    if reason == "DeadlineExceeded" {
        return draft.finish(State::DeadlineExceeded, "The Job reached its deadline", at);
    }
    let pods = seen.pods_of(&job.name);
    let last = pods.iter().rev().find_map(|pod| match &pod.state {
        PodState::Failed(end) => Some((*pod, end)),
        _ => None,
    });
    let failure = match last {
        Some((pod, end)) => of_pod(pod, end, job.low_memory, memory_limit(&draft.job.spec)),
        None if within_grace(draft.now, at) => return not_seen_yet(draft, State::Retrying),
        None => Failure {
            state: State::WorkerFailed,
            message: format!("Job {} failed ({reason}: {message}) and its pod is gone", job.name),
            then: Then::Again,
        },
    };
    after(draft, seen, job, at, &failure)
}

pub(super) fn within_grace(now: Timestamp, at: Timestamp) -> bool {
    now.duration_since(at).unsigned_abs() < GRACE
}

pub(super) fn not_seen_yet(mut draft: Draft<'_>, state: State) -> Plan {
    draft.wake_in(Duration::from_secs(2));
    draft.say(state, "The Job has ended; waiting for its pod's result")
}

/// The result of a run that ended well was lost with its pod.
pub(super) fn result_lost(draft: Draft<'_>, seen: &Observed, job: &JobFacts, at: Timestamp, message: String) -> Plan {
    after(draft, seen, job, at, &Failure { state: State::ResultLost, message, then: Then::Again })
}

/// The memory limit that the job gives its worker.
fn memory_limit(spec: &BakeJobSpec) -> Option<&str> {
    let limits = spec.worker.as_ref()?.resources.as_ref()?.limits.as_ref()?;
    limits.get("memory").map(|limit| limit.0.as_str())
}

fn of_pod(pod: &PodFacts, end: &PodEnd, low_memory: bool, limit: Option<&str>) -> Failure {
    let place = pod.node.as_ref().map_or_else(String::new, |node| format!(" on node {node}"));
    let outcome = end.message.as_deref().and_then(Outcome::parse);
    let told = |fallback: &str| match &outcome {
        Some(outcome) => outcome.message.clone(),
        None => format!("Pod {}{place}: {}{fallback}", pod.name, end.detail),
    };
    if end.oom {
        let plan = if low_memory { ", with the plan that needs least memory" } else { "" };
        let limit = limit.map_or_else(String::new, |limit| format!(" of {limit}"));
        // A killed container has no last words; the kubelet gives the end of its log.
        let lines = end.message.as_deref().unwrap_or_default().lines();
        let needed = lines.filter_map(ProgressLine::parse).filter_map(|line| line.memory).next_back();
        let needed = needed.map_or_else(String::new, |bytes| {
            format!("; the worker had estimated that the bake takes {:.1} GB", bytes as f64 / 1e9)
        });
        let message = format!("Pod {}{place} was killed at its memory limit{limit}{plan}{needed}", pod.name);
        let then = if low_memory { Then::GiveUp } else { Then::WithLessMemory };
        return Failure { state: State::OutOfMemory, message, then };
    }
    if end.evicted {
        return Failure { state: State::Evicted, message: told(""), then: Then::Again };
    }
    if end.disrupted.is_some() {
        return Failure { state: State::WorkerKilled, message: told(""), then: Then::Again };
    }
    match end.exit_code {
        Some(code) => match Reason::from_exit_code(code) {
            Some(reason) if reason.worth_a_retry() => {
                Failure { state: reason.into(), message: told(""), then: Then::Again }
            }
            Some(reason) => Failure { state: reason.into(), message: told(""), then: Then::GiveUp },
            None if code == 137 || code == 143 => {
                Failure { state: State::WorkerKilled, message: told(""), then: Then::Again }
            }
            None => Failure { state: State::WorkerFailed, message: told(""), then: Then::Again },
        },
        None => {
            Failure { state: State::WorkerFailed, message: told(" and no exit code was recorded"), then: Then::Again }
        }
    }
}

fn after(mut draft: Draft<'_>, seen: &Observed, job: &JobFacts, at: Timestamp, failure: &Failure) -> Plan {
    let limit = draft.job.spec.backoff_limit;
    let (failures, low_memory) = match failure.then {
        Then::GiveUp => return draft.finish(failure.state, &failure.message, at),
        Then::WithLessMemory => (job.failures, true),
        Then::Again => (job.failures + job.failed.max(1), job.low_memory),
    };
    if failures > limit {
        let message = format!("{} ({failures} failures, backoffLimit {limit})", failure.message.trim_end_matches('.'));
        return draft.finish(failure.state, &message, at);
    }
    start::remember(&mut draft, failure.state, &failure.message);
    if draft.job.spec.suspend {
        return start::suspended(draft);
    }
    if let (Some(seconds), Some(started)) = (draft.job.deadline(), draft.status.start_time.as_ref().map(|t| t.0)) {
        let deadline = started.saturating_add(Duration::from_secs(seconds.unsigned_abs())).unwrap_or(Timestamp::MAX);
        if draft.now >= deadline {
            let now = draft.now;
            return draft.finish(State::DeadlineExceeded, &format!("The run took longer than {seconds} s"), now);
        }
        draft.wake_at(deadline);
    }
    let wait = if low_memory == job.low_memory { pause(failures) } else { Duration::ZERO };
    let next = at.saturating_add(wait).unwrap_or(Timestamp::MAX);
    if draft.now < next {
        draft.wake_at(next);
        return draft.say(State::Retrying, &failure.message);
    }
    start::attempt(draft, seen, job.attempt + 1, failures, low_memory)
}

/// The wait after so many failures.
fn pause(failures: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST_WAIT)
}

/// The Job controller replaces an evicted pod without counting it. A pod that outgrows its disk is evicted every time, so we count.
pub(super) fn evicted_too_often(pods: &[&PodFacts], limit: u32) -> Option<String> {
    let evicted: Vec<&PodEnd> = pods
        .iter()
        .filter_map(|pod| match &pod.state {
            PodState::Failed(end) if end.evicted => Some(end),
            _ => None,
        })
        .collect();
    let last = evicted.last()?;
    (evicted.len() > limit as usize)
        .then(|| format!("{} pods were evicted, the last one because: {}", evicted.len(), last.detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_of_a_pod_has_one_reason_and_one_consequence() {
        let code = |code: i32| PodEnd { exit_code: Some(code), detail: "words".into(), ..PodEnd::default() };
        let table = [
            (code(2), false, State::InvalidJob, Then::GiveUp),
            (code(10), false, State::InvalidModel, Then::GiveUp),
            (code(11), false, State::UnsupportedOperator, Then::GiveUp),
            (code(12), false, State::InvalidData, Then::GiveUp),
            (code(13), false, State::AccessDenied, Then::GiveUp),
            (code(14), false, State::OutputUnwritable, Then::GiveUp),
            (code(20), false, State::StorageUnreachable, Then::Again),
            (code(21), false, State::DeviceLost, Then::Again),
            (code(22), false, State::MemoryLimitTooSmall, Then::GiveUp),
            (code(70), false, State::Internal, Then::GiveUp),
            (code(1), false, State::WorkerFailed, Then::Again),
            (code(139), false, State::WorkerFailed, Then::Again),
            (code(137), false, State::WorkerKilled, Then::Again),
            (PodEnd { oom: true, ..code(137) }, false, State::OutOfMemory, Then::WithLessMemory),
            (PodEnd { oom: true, ..code(137) }, true, State::OutOfMemory, Then::GiveUp),
            (
                PodEnd { evicted: true, disrupted: Some("TerminationByKubelet".into()), ..code(137) },
                false,
                State::Evicted,
                Then::Again,
            ),
            (
                PodEnd { disrupted: Some("PreemptionByScheduler".into()), ..PodEnd::default() },
                false,
                State::WorkerKilled,
                Then::Again,
            ),
            (PodEnd::default(), false, State::WorkerFailed, Then::Again),
        ];
        let pod = PodFacts {
            name: "p".into(),
            job: "j".into(),
            created: None,
            node: Some("n1".into()),
            deleting: false,
            lost: false,
            state: PodState::Pending,
        };
        for (end, low_memory, state, then) in table {
            let failure = of_pod(&pod, &end, low_memory, None);
            assert_eq!((failure.state, failure.then), (state, then), "{end:?}");
            assert!(failure.message.contains("on node n1"), "{}", failure.message);
        }
    }

    #[test]
    fn a_worker_killed_for_memory_is_told_with_its_limit_and_what_it_had_estimated() {
        let pod = PodFacts {
            name: "p".into(),
            job: "j".into(),
            created: None,
            node: None,
            deleting: false,
            lost: false,
            state: PodState::Pending,
        };
        let line = |memory: &str| {
            format!(r#"{{"bakehouse":"progress","stage":"Load","percent":1,"time":"2026-01-02T03:04:05Z"{memory}}}"#)
        };
        let log = format!("of a line\n{}\nsomething else\n{}", line(r#","memory":8200000000"#), line(""));
        let end = PodEnd { exit_code: Some(137), oom: true, message: Some(log), ..PodEnd::default() };
        let said = |low| of_pod(&pod, &end, low, Some("4Gi")).message;
        let estimate = "; the worker had estimated that the bake takes 8.2 GB";
        assert_eq!(said(false), format!("Pod p was killed at its memory limit of 4Gi{estimate}"));
        assert_eq!(
            said(true),
            format!("Pod p was killed at its memory limit of 4Gi, with the plan that needs least memory{estimate}")
        );
        let silent = PodEnd { message: None, ..end.clone() };
        assert_eq!(of_pod(&pod, &silent, false, None).message, "Pod p was killed at its memory limit");
    }

    #[test]
    fn the_wait_doubles_up_to_five_minutes() {
        assert_eq!([1, 2, 3, 9].map(|n| pause(n).as_secs()), [10, 20, 40, 300]);
    }
}
