//! What happens to a job, told from its first sight to its end.

use serde_json::json;

use super::world::{World, s};
use super::{Action, EventReason};
use crate::api::Reason;
use crate::api::state::State;
use crate::api::wire::{Outcome, ProgressLine};
use crate::operator::facts::{PodState, Turn};

const RUNNING: PodState = PodState::Running { reachable: true };

#[test]
fn a_job_is_baked_and_its_result_is_in_the_status() {
    let mut world = World::new(&json!({}));
    let plan = world.step();
    assert!(matches!(&plan.actions[..], [Action::CreateJob(attempt)] if attempt.run == 1 && attempt.number == 1));
    assert_eq!(world.settle(), State::Starting);
    world.pod(RUNNING);
    assert_eq!(world.settle(), State::Running);
    assert_eq!(world.object["status"]["hardware"]["node"], "n1");
    let artifact = json!({"format": "ONNX", "uri": "/out/model.onnx", "sha256": "sha256:1", "bytes": 10});
    let outcome = json!({"reason": "Baked", "message": "1.8x", "artifacts": [artifact], "baked": {"speedup": "1.80"}});
    world.complete(&serde_json::from_value::<Outcome>(outcome).unwrap());
    assert_eq!(world.settle(), State::Baked);
    for (kind, status) in [("Succeeded", "True"), ("GatePassed", "True"), ("Ready", "True"), ("Stalled", "False")] {
        assert_eq!(world.condition(kind).0, status, "{kind}");
    }
    let status = &world.object["status"];
    assert_eq!(
        (&status["baked"]["speedup"], &status["artifacts"][0], &status["progress"]),
        (&json!("1.80"), &artifact, &json!(100))
    );
    assert_eq!(world.seen.jobs[0].ttl, Some(1), "the finished Job goes by itself, later");
}

#[test]
fn steps_that_pass_in_moments_are_not_written() {
    let mut world = World::new(&json!({}));
    world.step();
    world.settle();
    for state in [PodState::Pending, RUNNING] {
        world.pod(state);
        world.seen.pods[0].created = Some(world.now);
        let plan = world.plan();
        assert_eq!(serde_json::to_value(&plan.status).unwrap(), world.object["status"]);
        assert!(plan.requeue.is_some_and(|wait| wait <= s(3)), "it is looked at again: {:?}", plan.requeue);
    }
    world.wait(s(3));
    assert_eq!(world.settle(), State::Running);
    world.pod(PodState::Succeeded { at: Some(world.now), message: None });
    assert!(world.message().contains("bakes"));
    world.settle();
    assert!(world.message().contains("bakes"));
    world.wait(s(3));
    world.settle();
    assert!(world.message().contains("the Job is about to"), "a Job controller that hangs is told of");
}

#[test]
fn trouble_on_the_way_is_told_at_once() {
    let mut world = World::new(&json!({}));
    world.step();
    world.pod(PodState::Unschedulable { since: Some(world.now), message: "0/2 nodes".into() });
    assert_eq!(world.settle(), State::Unschedulable);
    world.pod(PodState::Pending);
    world.seen.pods[0].created = Some(world.now);
    assert_eq!(world.settle(), State::Starting, "and that it is over");
}

#[test]
fn a_missed_gate_is_a_success_that_is_not_ready() {
    for (reason, gate, gate_reason) in
        [(Reason::GateFailed, "False", "ThresholdMissed"), (Reason::GateInconclusive, "Unknown", "Inconclusive")]
    {
        let mut world = World::new(&json!({}));
        world.step();
        world.completes(reason);
        world.settle();
        assert_eq!(world.condition("Succeeded").0, "True");
        assert_eq!(world.condition("GatePassed"), (gate.into(), gate_reason.into()));
        assert_eq!((world.condition("Ready").0, world.condition("Stalled").0), ("False".into(), "True".into()));
    }
}

#[test]
fn a_result_that_names_a_stage_or_a_gate_twice_is_made_a_map() {
    let mut world = World::new(&json!({}));
    world.step();
    let stage = |name: &str, from: u32, to: u32| json!({"name": name, "startTime": format!("2026-01-01T00:00:0{from}Z"), "completionTime": format!("2026-01-01T00:00:0{to}Z")});
    let gate = |verdict: &str| json!({"metric": "Speedup", "threshold": ">= 1", "verdict": verdict});
    let outcome = json!({
        "reason": "GateFailed", "message": "said",
        "stages": [stage("Load", 0, 1), stage("Validate", 1, 2), stage("Profile", 2, 3), stage("Validate", 3, 4)],
        "gates": [gate("Fail"), gate("Pass")],
    });
    world.complete(&serde_json::from_value::<Outcome>(outcome).unwrap());
    world.settle();
    let status = &world.object["status"];
    assert_eq!(status["stages"], json!([stage("Load", 0, 1), stage("Validate", 1, 4), stage("Profile", 2, 3)]));
    assert_eq!(status["gates"], json!([gate("Fail")]));
}

#[test]
fn the_end_is_kept_when_the_job_and_its_pod_are_gone() {
    let mut world = World::new(&json!({}));
    world.step();
    world.completes(Reason::Baked);
    world.settle();
    world.seen.jobs.clear();
    world.seen.pods.clear();
    world.wait(s(100_000));
    assert_eq!(world.settle(), State::Baked);
    assert!(world.seen.jobs.is_empty());
}

#[test]
fn suspending_stops_the_pod_and_resuming_goes_on_with_the_same_job() {
    let mut world = World::new(&json!({"activeDeadlineSeconds": 100}));
    world.settle();
    world.edit("suspend", json!(true));
    assert_eq!(world.settle(), State::Suspended);
    assert!(world.newest().suspended);
    assert_eq!((world.condition("Suspended").0, world.condition("Ready").0), ("True".into(), "False".into()));
    world.wait(s(500));
    assert_eq!(world.settle(), State::Suspended);
    world.edit("suspend", json!(false));
    assert_eq!(world.settle(), State::Starting);
    assert!(!world.newest().suspended && world.seen.jobs.len() == 1, "the deadline starts anew on resume");
    assert_eq!(world.condition("Suspended").0, "False");
}

#[test]
fn a_job_suspended_from_the_start_gets_no_job() {
    let mut world = World::new(&json!({"suspend": true}));
    assert_eq!(world.settle(), State::Suspended);
    assert!(world.seen.jobs.is_empty());
}

#[test]
fn the_deadline_ends_the_run_and_stops_its_job() {
    let mut world = World::new(&json!({"activeDeadlineSeconds": 100}));
    world.settle();
    world.pod(RUNNING);
    assert!(world.step().requeue.unwrap() <= s(100));
    world.wait(s(101));
    assert_eq!(world.settle(), State::DeadlineExceeded);
    assert!(world.newest().deleting);
}

#[test]
fn a_raised_deadline_reaches_the_running_job() {
    let mut world = World::new(&json!({"activeDeadlineSeconds": 100}));
    world.settle();
    world.edit("activeDeadlineSeconds", json!(1000));
    world.settle();
    assert_eq!(world.newest().deadline, Some(1000));
    world.wait(s(500));
    assert_eq!(world.settle(), State::Starting);
}

#[test]
fn a_changed_spec_starts_a_new_run_and_a_changed_control_field_does_not() {
    let mut world = World::new(&json!({}));
    world.settle();
    world.completes(Reason::GateFailed);
    world.settle();
    world.edit("backoffLimit", json!(9));
    assert_eq!(world.settle(), State::GateFailed);
    assert_eq!((world.seen.jobs.len(), &world.object["status"]["observedGeneration"]), (1, &json!(2)));
    world.edit("gates", json!([{"metric": "AccuracyRetention", "min": "0.5"}]));
    assert_eq!(world.settle(), State::Starting);
    assert_eq!((world.newest().run, world.newest().attempt), (2, 1));
    let status = &world.object["status"];
    assert_eq!((&status["history"][0]["run"], &status["history"][0]["reason"]), (&json!(1), &json!("GateFailed")));
    assert_eq!(status.get("completionTime"), None);
    world.completes(Reason::Baked);
    assert_eq!(world.settle(), State::Baked);
}

#[test]
fn a_new_run_waits_until_the_old_one_has_stopped() {
    let mut world = World::new(&json!({}));
    world.settle();
    world.edit("source", json!({"uri": "/m/b.onnx"}));
    assert_eq!(world.settle(), State::Starting);
    assert_eq!(world.seen.jobs.len(), 1, "the old Job is on its way out, the new one not made");
    assert!(world.newest().deleting);
    world.collect();
    world.settle();
    assert_eq!(world.newest().run, 2);
}

#[test]
fn a_controller_that_lost_its_memory_adopts_the_job() {
    let mut world = World::new(&json!({}));
    world.settle();
    world.pod(RUNNING);
    world.object["status"] = json!({"observedGeneration": -1});
    assert_eq!(world.settle(), State::Running);
    assert_eq!((world.seen.jobs.len(), &world.object["status"]["runs"]), (1, &json!(1)));
}

#[test]
fn it_waits_for_its_turn_and_says_how_many_are_ahead() {
    let mut world = World::new(&json!({}));
    world.seen.turn = Turn { ahead: 3, now: false };
    assert_eq!(world.settle(), State::Queued);
    assert_eq!(world.object["status"]["queuePosition"], 3);
    assert!(world.seen.jobs.is_empty() && world.plan().requeue.is_some());
    world.seen.turn = Turn { ahead: 0, now: true };
    assert_eq!(world.settle(), State::Starting);
    assert_eq!(world.object["status"].get("queuePosition"), None);
    world.seen.turn = Turn { ahead: 5, now: false };
    assert_eq!(world.settle(), State::Starting, "a place once given is kept");
}

#[test]
fn with_kueue_the_job_waits_for_admission_and_eviction_shows() {
    let mut world = World::new(&json!({"activeDeadlineSeconds": 100})).label("kueue.x-k8s.io/queue-name", "q");
    world.seen.turn = Turn { ahead: 9, now: false };
    assert_eq!(world.settle(), State::Queued);
    assert!(world.newest().suspended, "it is made suspended, and our own caps do not hold it");
    world.wait(s(1000));
    assert_eq!(world.settle(), State::Queued, "queueing is not counted against the deadline");
    let now = world.now;
    (world.newest().suspended, world.newest().started) = (false, Some(now));
    world.pod(RUNNING);
    assert_eq!(world.settle(), State::Running);
    (world.newest().suspended, world.newest().started) = (true, None);
    world.seen.pods.clear();
    assert_eq!(world.settle(), State::Queued);
    world.edit("suspend", json!(true));
    assert_eq!(world.settle(), State::Suspended);
    world.collect();
    assert_eq!(world.settle(), State::Suspended);
    world.edit("suspend", json!(false));
    assert_eq!(world.settle(), State::Queued);
    assert_eq!((world.newest().attempt, world.newest().failures), (2, 0), "a stop on request is no failure");
}

#[test]
fn an_invalid_job_is_refused_until_it_is_corrected() {
    let mut world = World::new(&json!({"promotion": {"policy": "Automatic", "uri": "promoted"}}));
    assert_eq!(world.settle(), State::InvalidJob);
    assert!(world.message().contains("spec.promotion.uri"));
    assert_eq!((world.condition("Succeeded").0, world.condition("Stalled").0), ("False".into(), "True".into()));
    world.edit("promotion", json!({"policy": "Never"}));
    assert_eq!(world.settle(), State::Starting, "a control field can make it valid without a new digest");
}

#[test]
fn progress_and_the_time_of_each_stage_come_from_the_log() {
    let mut world = World::new(&json!({}));
    world.settle();
    world.pod(RUNNING);
    let line = |stage: &str, percent, time: &str| -> ProgressLine {
        serde_json::from_value(json!({"bakehouse": "progress", "stage": stage, "percent": percent, "time": time}))
            .unwrap()
    };
    world.seen.progress = vec![
        line("Load", 0, "2026-01-01T00:00:01Z"),
        line("Baseline", 10, "2026-01-01T00:00:05Z"),
        line("Baseline", 20, "2026-01-01T00:00:06Z"),
    ];
    world.settle();
    let status = &world.object["status"];
    assert_eq!((&status["stage"], &status["progress"]), (&json!("Baseline"), &json!(20)));
    assert_eq!(
        status["stages"],
        json!([
            {"name": "Load", "startTime": "2026-01-01T00:00:01Z", "completionTime": "2026-01-01T00:00:05Z"},
            {"name": "Baseline", "startTime": "2026-01-01T00:00:05Z"},
        ])
    );
}

#[test]
fn a_time_to_live_deletes_the_bakejob_and_without_one_it_stays() {
    let mut world = World::new(&json!({"ttlSecondsAfterFinished": 60}));
    world.settle();
    world.completes(Reason::Baked);
    assert_eq!(world.step().requeue, Some(s(60)));
    world.settle();
    assert!(!world.gone);
    world.wait(s(60));
    world.step();
    assert!(world.gone);
}

#[test]
fn deleting_removes_the_output_only_where_it_is_asked_for() {
    let mut plain = World::new(&json!({}));
    plain.settle();
    assert_eq!(plain.object["metadata"].get("finalizers"), None);

    let mut world = World::new(&json!({"output": {"uri": "/out", "onDelete": "Delete"}}));
    world.settle();
    assert_eq!(world.object["metadata"]["finalizers"], json!(["bakehouse.dev/output"]));
    world.object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:10:00Z");
    world.settle();
    assert!(world.newest().deleting, "the bake is stopped first");
    world.collect();
    world.settle();
    assert_eq!(world.newest().name, "cnn-cleanup");
    let at = world.now;
    world.newest().end = Some(crate::operator::facts::JobEnd::Complete { at });
    let plan = world.step();
    let cleanup = Action::DeleteJob { job: "cnn-cleanup".into(), uid: "job-cleanup".into() };
    assert_eq!(plan.actions, [Action::RemoveFinalizer, cleanup]);
    assert_eq!(plan.events[0].reason, EventReason::OutputDeleted);
}

#[test]
fn an_event_is_written_when_the_state_changes_and_only_then() {
    let mut world = World::new(&json!({}));
    let first = world.step();
    assert_eq!(first.events.len(), 1);
    assert!(world.step().events.is_empty());
    world.completes(Reason::GateFailed);
    let last = world.step();
    assert_eq!(last.events[0].reason, EventReason::State(State::GateFailed));
    assert!(last.events[0].warning);
}
