//! A Job that ended well: its result goes from the termination message into the status.

use k8s_openapi::jiff::Timestamp;

use super::draft::Draft;
use super::{Plan, failure};
use crate::api::bakejob::{GateStatus, Stage};
use crate::api::state::State;
use crate::api::wire::Outcome;
use crate::api::{Reason, floor};
use crate::operator::facts::{JobFacts, Observed, PodState};

pub(super) fn complete(mut draft: Draft<'_>, seen: &Observed, job: &JobFacts, at: Timestamp) -> Plan {
    let ended = seen.pods_of(&job.name).into_iter().rev().find_map(|pod| match &pod.state {
        PodState::Succeeded { message, .. } => Some((pod, message.as_deref())),
        _ => None,
    });
    let Some((pod, message)) = ended else {
        if failure::within_grace(draft.now, at) {
            return failure::not_seen_yet(draft, State::Running);
        }
        let message = format!("Job {} ended well, but its pod was deleted before its result was read", job.name);
        return failure::result_lost(draft, seen, job, at, message);
    };
    draft.hardware().node.clone_from(&pod.node);
    match message.and_then(Outcome::parse) {
        // Code 0 with a result that says otherwise would be a success that nobody measured.
        Some(outcome) if concluded(outcome.reason) => {
            take(&mut draft, &outcome);
            if let Some(message) = below_floor(&draft, &outcome) {
                return draft.finish(State::Internal, &message, at);
            }
            draft.finish(outcome.reason.into(), &outcome.message, at)
        }
        Some(outcome) => {
            let message =
                format!("Pod {} ended with code 0 but says {}: {}", pod.name, outcome.reason, outcome.message);
            draft.finish(State::Internal, &message, at)
        }
        None => {
            let message = format!("Pod {} ended with code 0, but its termination message is not a result", pod.name);
            failure::result_lost(draft, seen, job, at, message)
        }
    }
}

/// Reasons with which a bake came to its end.
fn concluded(reason: Reason) -> bool {
    matches!(reason, Reason::Baked | Reason::NoImprovement | Reason::GateFailed | Reason::GateInconclusive)
}

/// A pass is one only when it keeps the platform's floors.
fn below_floor(draft: &Draft<'_>, outcome: &Outcome) -> Option<String> {
    if !matches!(outcome.reason, Reason::Baked | Reason::NoImprovement) {
        return None;
    }
    let unkept = floor::unkept(&outcome.gates, &draft.job.defaults.gate_floors)?;
    Some(format!(
        "The worker did not decide the platform's floor for {}. Its image may be older than the operator: leave spec.worker.image unset, or name a newer one",
        unkept.metric
    ))
}

/// A gate for each metric: the status is a map by it, and the API server takes no key twice.
fn one_each(gates: &[GateStatus]) -> Vec<GateStatus> {
    let mut first: Vec<GateStatus> = Vec::new();
    for gate in gates {
        if first.iter().all(|known| known.metric != gate.metric) {
            first.push(gate.clone());
        }
    }
    first
}

/// A stage for each name. A bake enters some stages again and again: then its first start and its last end count.
fn merged(stages: &[Stage]) -> Vec<Stage> {
    let mut merged: Vec<Stage> = Vec::new();
    for stage in stages {
        match merged.iter_mut().find(|known| known.name == stage.name) {
            Some(known) => known.completion_time.clone_from(&stage.completion_time),
            None => merged.push(stage.clone()),
        }
    }
    merged.truncate(32);
    merged
}

fn take(draft: &mut Draft<'_>, outcome: &Outcome) {
    let hardware = draft.hardware();
    hardware.cpu.clone_from(&outcome.cpu);
    hardware.gpu.clone_from(&outcome.gpu);
    hardware.engine.clone_from(&outcome.engine);
    let status = &mut draft.status;
    status.baseline.clone_from(&outcome.baseline);
    status.baked.clone_from(&outcome.baked);
    status.gates = one_each(&outcome.gates);
    status.artifacts = outcome.artifacts.iter().take(16).cloned().collect();
    status.report.clone_from(&outcome.report);
    status.recipe.clone_from(&outcome.recipe);
    status.passes = outcome.passes.iter().take(64).cloned().collect();
    if !outcome.stages.is_empty() {
        status.stages = merged(&outcome.stages);
    }
}
