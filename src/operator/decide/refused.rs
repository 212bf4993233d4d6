//! The API server did not take a Job. That is said in the status, not only in an event or a log.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::draft::Draft;
use super::{Plan, run_status};
use crate::api::bakejob::BakeJobStatus;
use crate::api::state::State;
use crate::operator::validate::Validated;

/// Why a Job was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The namespace's quota has no room now.
    Quota(String),
    /// The object is wrong, or a policy forbids it.
    Object(String),
}

/// What to publish when the API server does not take the status itself, as a worker's result may bring one about: the run ends with what it
/// said. The actions were carried out before.
pub fn unwritable(job: &Validated, plan: &Plan, why: &str, now: Timestamp) -> Plan {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let status = BakeJobStatus {
        runs: plan.status.runs,
        start_time: plan.status.start_time.clone(),
        ..BakeJobStatus::default()
    };
    Draft::new(job, status, now).finish(State::Internal, &format!("The API server did not take the status: {why}"), now)
}

/// The plan after a refusal: nothing but a status. It is tried again after a while, since quotas and policies change without a word.
pub fn refused(job: &Validated, refusal: &Refusal, plan: &Plan, now: Timestamp) -> Plan {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let mut draft = Draft::new(job, run_status(job, plan), now);
    draft.wake_in(Duration::from_mins(1));
    match refusal {
        Refusal::Quota(message) => draft.say(State::QuotaExceeded, message),
        Refusal::Object(message) => draft.say(State::JobRefused, message),
    }
}
