//! A run that has ended. Nothing leads out of here but a changed spec digest; what is left is tidying up.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::draft::Draft;
use super::{Action, EventReason, Plan, conditions, promotion};
use crate::api::wire::Task;
use crate::operator::facts::Observed;
use crate::operator::validate::{Validated, ended_at};

pub(super) fn decide(job: &Validated, seen: &Observed, now: Timestamp) -> Plan {
    let mut draft = Draft::new(job, job.status.clone(), now);
    for left in seen.jobs.iter().filter(|j| j.task == Task::Bake && !j.deleting) {
        draft.tidy(left);
    }
    if let (Some(state), Some(message)) = (conditions::state(&job.status), conditions::message(&job.status)) {
        let message = message.to_owned();
        let promotion = promotion::advance(&mut draft, seen, state);
        draft.conditions_with(state, &message, &promotion);
    } else {
        // Written by a later version: not ours to judge.
        draft.status.observed_generation = Some(job.generation);
    }
    if let (Some(after), Some(ended)) = (job.spec.ttl_seconds_after_finished, ended_at(&job.status)) {
        let over = ended.saturating_add(Duration::from_secs(after.into())).unwrap_or(Timestamp::MAX);
        if now >= over {
            draft.act(Action::DeleteSelf);
            draft.event(false, EventReason::TimeToLiveOver, format!("ttlSecondsAfterFinished is {after}"));
        } else {
            draft.wake_at(over);
        }
    }
    draft.plan()
}
