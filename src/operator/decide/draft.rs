//! A plan in the making.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::promotion::{self, Promotion};
use super::{Action, EventReason, EventSpec, Plan, conditions};
use crate::api::bakejob::{BakeJobStatus, HardwareStatus};
use crate::api::state::{State, Truth};
use crate::operator::facts::JobFacts;
use crate::operator::validate::Validated;

/// A plan in the making: the status as it is changed, and what is to be done.
pub(super) struct Draft<'j> {
    pub(super) job: &'j Validated,
    pub(super) now: Timestamp,
    pub(super) status: BakeJobStatus,
    actions: Vec<Action>,
    requeue: Option<Duration>,
    events: Vec<EventSpec>,
}

impl<'j> Draft<'j> {
    pub(super) fn new(job: &'j Validated, status: BakeJobStatus, now: Timestamp) -> Self {
        let mut draft = Self { job, now, status, actions: Vec::new(), requeue: None, events: Vec::new() };
        match (job.cleans(), job.finalizer) {
            (true, false) => draft.act(Action::AddFinalizer),
            (false, true) => draft.act(Action::RemoveFinalizer),
            _ => {}
        }
        draft
    }

    pub(super) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Lets a Job of an ended run go: it is stopped, or deletes itself later. Only once its end is in the status; it would be created again otherwise.
    pub(super) fn tidy(&mut self, left: &JobFacts) {
        match &left.end {
            None => self.act(Action::DeleteJob { job: left.name.clone(), uid: left.uid.clone() }),
            Some(_) if left.ttl.is_none() => self.act(Action::Expire { job: left.name.clone() }),
            Some(_) => {}
        }
    }

    pub(super) fn event(&mut self, warning: bool, reason: EventReason, note: impl Into<String>) {
        self.events.push(EventSpec { warning, reason, note: note.into() });
    }

    /// Look again after `wait` at the latest.
    pub(super) fn wake_in(&mut self, wait: Duration) {
        let wait = wait.max(Duration::from_secs(1));
        self.requeue = Some(self.requeue.map_or(wait, |earlier| earlier.min(wait)));
    }

    /// Look again at `then` at the latest.
    pub(super) fn wake_at(&mut self, then: Timestamp) {
        self.wake_in(Duration::try_from(then.duration_since(self.now)).unwrap_or_default());
    }

    pub(super) fn hardware(&mut self) -> &mut HardwareStatus {
        self.status.hardware.get_or_insert_default()
    }

    /// Ends a run.
    pub(super) fn finish(mut self, state: State, message: &str, at: Timestamp) -> Plan {
        debug_assert!(state.terminal(), "{state} is no end");
        let at = at.max(self.status.start_time.as_ref().map_or(at, |start| start.0));
        self.status.start_time.get_or_insert(Time(at));
        self.status.completion_time = Some(Time(at));
        self.status.stage = None;
        if state.meaning().succeeded == Truth::True {
            self.status.progress = Some(100);
        }
        if let Some(after) = self.job.spec.ttl_seconds_after_finished {
            self.wake_at(at.saturating_add(Duration::from_secs(after.into())).unwrap_or(Timestamp::MAX));
        }
        self.say(state, message)
    }

    /// Says where the job is, and that is the plan.
    pub(super) fn say(mut self, state: State, message: &str) -> Plan {
        let advice = state.advice();
        let message = match (message, advice) {
            (message, "") => message.to_owned(),
            ("", advice) => advice.to_owned(),
            (message, advice) => format!("{} {advice}", sentence(message)),
        };
        if state != State::Queued {
            self.status.queue_position = None;
        }
        if conditions::state(&self.job.status) != Some(state) || self.job.status.runs != self.status.runs {
            let warning = state.meaning().stalled == Truth::True
                || matches!(
                    state,
                    State::Unschedulable
                        | State::ImagePullFailed
                        | State::ContainerConfigError
                        | State::Retrying
                        | State::NodeUnreachable
                        | State::QuotaExceeded
                );
            self.event(warning, EventReason::State(state), message.clone());
        }
        self.conditions(state, &message);
        self.plan()
    }

    /// Leaves what was said as it is, and that is the plan.
    pub(super) fn say_no_more(mut self, state: State) -> Plan {
        let message = conditions::message(&self.status).unwrap_or_default().to_owned();
        self.conditions(state, &message);
        self.plan()
    }

    /// Sets the conditions of a state, without an event.
    pub(super) fn conditions(&mut self, state: State, message: &str) {
        let promotion = promotion::outlook(self.job, &self.status, state);
        self.conditions_with(state, message, &promotion);
    }

    /// The same, with a promotion that was looked at.
    pub(super) fn conditions_with(&mut self, state: State, message: &str, promotion: &Promotion) {
        let job = self.job;
        self.status.observed_generation = Some(job.generation);
        self.status.spec_digest = Some(job.spec_digest.clone());
        self.status.conditions =
            conditions::all(&job.status.conditions, state, message, promotion, job.generation, self.now);
    }

    pub(super) fn plan(self) -> Plan {
        Plan { actions: self.actions, status: self.status, requeue: self.requeue, events: self.events }
    }
}

/// Ends with a full stop.
fn sentence(text: &str) -> String {
    let text = text.trim_end();
    if text.ends_with(['.', '!', '?', '…']) { text.to_owned() } else { format!("{text}.") }
}
