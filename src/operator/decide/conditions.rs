//! The conditions of a state. The only place that sets their times.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::promotion::{self, Promotion};
use crate::api::bakejob::BakeJobStatus;
use crate::api::conditions::{ALL, GATE_PASSED, PROMOTED, READY, RECONCILING, STALLED, SUCCEEDED, SUSPENDED};
use crate::api::state::{State, Truth};

/// Kubernetes takes at most 32,768 characters; a person reads fewer.
const MOST_MESSAGE: usize = 1000;

/// The state that a status tells of.
pub(super) fn state(status: &BakeJobStatus) -> Option<State> {
    status.conditions.iter().find(|c| c.type_ == SUCCEEDED).and_then(|c| State::named(&c.reason))
}

/// Its message.
pub(super) fn message(status: &BakeJobStatus) -> Option<&str> {
    status.conditions.iter().find(|c| c.type_ == SUCCEEDED).map(|c| c.message.as_str())
}

/// All seven conditions, each with its time of before where its status stays.
pub(super) fn all(
    old: &[Condition],
    state: State,
    message: &str,
    promotion: &Promotion,
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let message = crate::api::wire::cut(message, MOST_MESSAGE);
    ALL.into_iter()
        .map(|kind| {
            let (truth, reason, message) = one(kind, state, &message, promotion);
            let status = truth.as_str().to_owned();
            let since =
                old.iter().find(|c| c.type_ == kind && c.status == status).map(|c| c.last_transition_time.clone());
            Condition {
                type_: kind.to_owned(),
                status,
                reason: reason.to_owned(),
                message: message.to_owned(),
                last_transition_time: since.unwrap_or(Time(now)),
                observed_generation: Some(generation),
            }
        })
        .collect()
}

fn one<'m>(kind: &str, state: State, message: &'m str, promotion: &'m Promotion) -> (Truth, &'static str, &'m str) {
    if let Some(truth) = promotion::over(kind, state, promotion) {
        let (_, reason, message) = promotion.condition();
        return (truth, reason, message);
    }
    let meaning = state.meaning();
    match kind {
        SUCCEEDED => (meaning.succeeded, state.as_str(), message),
        GATE_PASSED => match (meaning.gate_passed, meaning.succeeded) {
            (Truth::Unknown, Truth::True) => (Truth::Unknown, "Inconclusive", message),
            (Truth::Unknown, _) => (Truth::Unknown, "NotEvaluated", "No gate was decided."),
            (Truth::True, _) => (Truth::True, "GatesPassed", message),
            (Truth::False, _) => (Truth::False, "ThresholdMissed", message),
        },
        PROMOTED => promotion.condition(),
        SUSPENDED => match meaning.suspended {
            Truth::True => (Truth::True, "SuspendedBySpec", message),
            other => (other, "NotSuspended", ""),
        },
        READY => (meaning.ready, state.as_str(), message),
        RECONCILING => {
            (meaning.reconciling, state.as_str(), if meaning.reconciling == Truth::True { message } else { "" })
        }
        STALLED => (meaning.stalled, state.as_str(), if meaning.stalled == Truth::True { message } else { "" }),
        other => unreachable!("a condition without a rule: {other}"),
    }
}
