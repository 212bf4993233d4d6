//! What `kubectl wait`, Flux and Helm make of a status: the rules of kstatus (`sigs.k8s.io/cli-utils/pkg/kstatus/status`), and its verdict
//! for every state.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::conditions;
use super::promotion::Promotion;
use crate::api::state::State;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kstatus {
    InProgress,
    Failed,
    Current,
    Terminating,
}

fn kstatus(object: &Value) -> Kstatus {
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return Kstatus::Terminating;
    }
    let observed = &object["status"]["observedGeneration"];
    if !observed.is_null() && observed != &object["metadata"]["generation"] {
        return Kstatus::InProgress;
    }
    let empty = Vec::new();
    let all = object["status"]["conditions"].as_array().unwrap_or(&empty);
    let is = |kind: &str, status: &str| all.iter().any(|c| c["type"] == kind && c["status"] == status);
    match () {
        () if is("Reconciling", "True") => Kstatus::InProgress,
        () if is("Stalled", "True") => Kstatus::Failed,
        () if is("Ready", "True") => Kstatus::Current,
        () if is("Ready", "False") || is("Ready", "Unknown") => Kstatus::InProgress,
        () => Kstatus::Current,
    }
}

fn object(state: State) -> Value {
    let conditions = conditions::all(&[], state, "message", &Promotion::NotRequested, 3, Timestamp::UNIX_EPOCH);
    json!({"metadata": {"generation": 3}, "status": {"observedGeneration": 3, "conditions": conditions}})
}

#[test]
fn every_state_has_the_verdict_that_a_waiting_tool_needs() {
    for state in State::ALL {
        let expected = match state {
            State::Baked | State::NoImprovement => Kstatus::Current,
            State::Queued
            | State::Suspended
            | State::Starting
            | State::Unschedulable
            | State::ImagePullFailed
            | State::ContainerConfigError
            | State::Running
            | State::Retrying
            | State::NodeUnreachable
            | State::QuotaExceeded => Kstatus::InProgress,
            _ => Kstatus::Failed,
        };
        assert_eq!(kstatus(&object(*state)), expected, "{state}");
    }
}

#[test]
fn before_the_first_visit_and_after_an_edit_it_is_in_progress() {
    let fresh = json!({"metadata": {"generation": 1}, "status": {"observedGeneration": -1}});
    assert_eq!(kstatus(&fresh), Kstatus::InProgress);
    let mut edited = object(State::Baked);
    edited["metadata"]["generation"] = json!(4);
    assert_eq!(kstatus(&edited), Kstatus::InProgress);
}

#[test]
fn a_transition_time_changes_only_with_the_status() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let all = |old: &[_], state, second| conditions::all(old, state, "m", &Promotion::NotRequested, 1, at(second));
    let first = all(&[], State::Queued, 1);
    let second = all(&first, State::Running, 2);
    let third = all(&second, State::Baked, 3);
    let times = |all: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]| {
        all.iter().map(|c| c.last_transition_time.0.as_second()).collect::<Vec<_>>()
    };
    assert_eq!(times(&second), [1; 7], "another reason is no transition");
    // Succeeded, GatePassed, Promoted, Suspended, Ready, Reconciling, Stalled
    assert_eq!(times(&third), [3, 3, 1, 1, 3, 3, 1]);
}
