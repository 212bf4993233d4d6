//! What goes wrong with a job, and what is done about it.

use serde_json::json;

use super::world::{World, code, s};
use super::{Action, EventReason};
use crate::api::state::State;
use crate::api::wire::{GivenDevice, Outcome};
use crate::api::{Reason, floor};
use crate::operator::facts::{PodEnd, PodState};

fn oom() -> PodEnd {
    PodEnd { oom: true, ..code(137) }
}

fn unschedulable(world: &World) -> PodState {
    PodState::Unschedulable {
        since: Some(world.now),
        message: "0/2 nodes are available: Insufficient nvidia.com/gpu".into(),
    }
}

#[test]
fn a_permanent_error_ends_the_run_at_once_with_what_the_worker_said() {
    let mut world = World::new(&json!({}));
    world.step();
    let said = Outcome::bare(Reason::InvalidModel, "node Conv_3 has no weights").to_message();
    world.fail(PodEnd { message: Some(said), ..code(10) });
    assert_eq!(world.settle(), State::InvalidModel);
    assert!(world.message().starts_with("node Conv_3 has no weights."), "{}", world.message());
    assert_eq!(world.condition("Stalled").0, "True");
}

#[test]
fn out_of_memory_is_tried_once_more_with_less_and_then_given_up() {
    let mut world = World::new(&json!({"backoffLimit": 0}));
    world.step();
    world.fail(oom());
    assert_eq!(world.settle(), State::Starting);
    assert!(world.newest().low_memory && world.newest().attempt == 2);
    let last = world.object["status"]["attempt"]["lastFailure"].as_str().unwrap();
    assert!(last.starts_with("OutOfMemory: Pod "), "{last}");
    world.fail(oom());
    assert_eq!(world.settle(), State::OutOfMemory);
    assert!(
        world.message().contains("least memory") && world.message().contains("limits.memory"),
        "{}",
        world.message()
    );
}

#[test]
fn a_killed_worker_is_started_again_after_a_while_within_the_limit() {
    let mut world = World::new(&json!({"backoffLimit": 2}));
    world.step();
    for (failures, pause) in [(1, 10), (2, 20)] {
        world.fail(code(137));
        let plan = world.step();
        assert_eq!((plan.state(), plan.requeue), (Some(State::Retrying), Some(s(pause))));
        world.wait(s(pause));
        assert_eq!(world.settle(), State::Starting);
        assert_eq!(world.newest().failures, failures);
    }
    world.fail(code(137));
    assert_eq!(world.settle(), State::WorkerKilled);
    assert!(world.message().contains("3 failures, backoffLimit 2"), "{}", world.message());
}

#[test]
fn a_deleted_job_is_made_again_within_the_limit() {
    let mut world = World::new(&json!({"backoffLimit": 1}));
    world.settle();
    world.seen.jobs.clear();
    assert_eq!(world.settle(), State::Starting);
    assert_eq!((world.newest().attempt, world.newest().failures), (2, 1));
    world.seen.jobs.clear();
    assert_eq!(world.settle(), State::JobDeleted);
}

#[test]
fn a_result_that_is_not_seen_yet_is_waited_for_and_a_lost_one_is_baked_again() {
    let mut world = World::new(&json!({}));
    world.settle();
    world.completes(Reason::Baked);
    let pods = std::mem::take(&mut world.seen.pods);
    assert_eq!(world.settle(), State::Running);
    let mut patient = World { seen: world.seen.clone(), object: world.object.clone(), ..World::new(&json!({})) };
    patient.seen.pods = pods;
    assert_eq!(patient.settle(), State::Baked);
    world.wait(s(60));
    assert_eq!(world.settle(), State::Starting);
    assert_eq!(world.newest().attempt, 2);
}

#[test]
fn code_0_without_a_measured_result_is_no_success() {
    let mut world = World::new(&json!({}));
    world.settle();
    world.completes(Reason::InvalidData);
    assert_eq!(world.settle(), State::Internal);
    assert_eq!(world.condition("Succeeded").0, "False");
}

#[test]
fn a_pass_below_the_platforms_floor_is_no_pass() {
    let mut world = World::new(&json!({}));
    world.defaults.gate_floors = vec![floor::parse("AccuracyRetention>=0.97").unwrap()];
    world.settle();
    // As an older worker would: it decided the job's own bound.
    let gates = json!([{"metric": "AccuracyRetention", "threshold": ">= 0.9500", "verdict": "Pass"}]);
    let outcome = Outcome { gates: serde_json::from_value(gates).unwrap(), ..Outcome::bare(Reason::Baked, "said") };
    world.complete(&outcome);
    assert_eq!(world.settle(), State::Internal);
    assert!(world.message().contains("floor for AccuracyRetention"), "{}", world.message());
}

#[test]
fn a_gpu_waited_for_in_vain_becomes_the_cpu() {
    let mut world = World::new(&json!({"hardware": {"device": "CUDA", "gpu": {}}}));
    world.settle();
    world.pod(unschedulable(&world));
    assert_eq!(world.settle(), State::Unschedulable);
    assert!(world.message().contains("Insufficient nvidia.com/gpu"));
    assert_eq!(world.plan().requeue, Some(s(300)));
    world.wait(s(300));
    let plan = world.step();
    assert!(plan.events.iter().any(|e| e.reason == EventReason::DeviceFallback));
    assert_eq!(world.settle(), State::Retrying);
    world.collect();
    assert_eq!(world.settle(), State::Starting);
    assert_eq!((world.newest().device, world.newest().attempt, world.newest().failures), (GivenDevice::Cpu, 2, 0));
    let hardware = &world.object["status"]["hardware"];
    assert_eq!(hardware["device"], "CPU");
    assert!(hardware["reason"].as_str().unwrap().contains("fallback to the CPU"));
}

#[test]
fn without_fallback_a_gpu_is_waited_for() {
    let mut world = World::new(&json!({"hardware": {"device": "CUDA", "fallback": "None"}}));
    world.settle();
    world.pod(unschedulable(&world));
    world.wait(s(100_000));
    assert_eq!(world.settle(), State::Unschedulable);
    assert!(!world.newest().deleting);
}

#[test]
fn a_pod_that_outgrows_its_disk_is_not_replaced_for_ever() {
    let mut world = World::new(&json!({"backoffLimit": 2}));
    world.settle();
    for _ in 0..3 {
        assert_ne!(world.settle(), State::Evicted);
        world.pod(PodState::Failed(PodEnd { evicted: true, detail: "out of disk".into(), ..PodEnd::default() }));
    }
    assert_eq!(world.settle(), State::Evicted);
    assert!(world.newest().deleting && world.message().contains("out of disk"));
}

#[test]
fn a_lost_node_is_named() {
    let mut world = World::new(&json!({}));
    world.settle();
    world.pod(PodState::Running { reachable: false });
    assert_eq!(world.settle(), State::NodeUnreachable);
    assert!(world.message().contains("on node n1") && world.message().contains("out-of-service"));
}

#[test]
fn a_failed_cleanup_never_holds_up_the_deletion() {
    let mut world = World::new(&json!({"output": {"uri": "/out", "onDelete": "Delete"}}));
    world.settle();
    world.completes(Reason::Baked);
    world.settle();
    world.object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:10:00Z");
    world.settle();
    world.fail(code(13));
    let plan = world.step();
    assert_eq!(plan.actions[0], Action::RemoveFinalizer);
    assert!(plan.events[0].warning && plan.events[0].note.contains("it stays"));
}
