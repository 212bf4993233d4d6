//! Promotions, told as sentences.

use serde_json::json;

use super::world::{World, code, s};
use super::{Action, EventReason};
use crate::api::Reason;
use crate::api::bakejob::{Artifact, FileRef};
use crate::api::state::State;
use crate::api::wire::Outcome;
use crate::operator::facts::JobEnd;

const ARTIFACT: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// A world whose bake has ended well.
fn baked(policy: &serde_json::Value) -> World {
    let mut world = World::new(&json!({"promotion": policy}));
    world.settle();
    let artifact = Artifact { format: "ONNX".into(), uri: "/out/model.onnx".into(), sha256: ARTIFACT.into(), bytes: 5 };
    let report = FileRef { uri: "/out/report.json".into(), sha256: "sha256:bb".into() };
    world.complete(&Outcome {
        artifacts: vec![artifact],
        report: Some(report),
        ..Outcome::bare(Reason::Baked, "said")
    });
    world
}

fn promoted() -> Outcome {
    let place = FileRef { uri: "/p/cnn/versions/aa".into(), sha256: ARTIFACT.into() };
    Outcome { promoted: Some(place), ..Outcome::bare(Reason::Baked, "promoted") }
}

fn ready(world: &World) -> [String; 3] {
    ["Ready", "Reconciling", "Stalled"].map(|kind| world.condition(kind).0)
}

fn promotions(world: &World) -> usize {
    world.seen.jobs.iter().filter(|j| j.name.contains("-p-")).count()
}

#[test]
fn a_result_that_passed_is_promoted_at_once_and_is_ready_only_then() {
    let mut world = baked(&json!({"policy": "Automatic", "uri": "/p"}));
    world.step();
    assert_eq!(
        world.condition("Promoted"),
        ("Unknown".into(), "Promoting".into()),
        "no tool that waits goes on too early"
    );
    assert_eq!(world.settle(), State::Baked);
    assert_eq!((promotions(&world), ready(&world)), (1, ["False".into(), "True".into(), "False".into()]));
    assert!(world.newest().name.len() <= 63);
    world.complete(&promoted());
    let plan = world.step();
    assert_eq!(plan.events[0].reason, EventReason::Promoted);
    world.settle();
    assert_eq!(world.condition("Promoted"), ("True".into(), "Promoted".into()));
    assert_eq!(ready(&world), ["True".to_owned(), "False".into(), "False".into()]);
    assert_eq!(world.object["status"]["promotion"]["uri"], "/p/cnn/versions/aa");
    assert_eq!((promotions(&world), world.newest().ttl), (1, Some(1)), "its Job goes once its result is in the status");
}

#[test]
fn a_person_approves_this_artifact_and_no_other() {
    let mut world = baked(&json!({"policy": "Manual", "uri": "/p"}));
    world.settle();
    assert_eq!(world.condition("Promoted"), ("False".into(), "AwaitingApproval".into()));
    assert_eq!(ready(&world), ["False".to_owned(), "False".into(), "False".into()]);
    world.edit(
        "promotion",
        json!({"policy": "Manual", "uri": "/p", "approvedDigest": format!("sha256:{}", "c".repeat(64))}),
    );
    world.settle();
    assert_eq!((world.condition("Promoted").1, promotions(&world)), ("AwaitingApproval".into(), 0));
    world.edit("promotion", json!({"policy": "Manual", "uri": "/p", "approvedDigest": ARTIFACT}));
    world.settle();
    assert_eq!(promotions(&world), 1);
    world.complete(&promoted());
    assert_eq!(world.settle(), State::Baked);
    assert_eq!(world.condition("Promoted").0, "True");
    assert_eq!(world.object["status"]["runs"], 1, "an approval bakes nothing");
}

#[test]
fn what_missed_its_gates_is_never_promoted() {
    for reason in [Reason::GateFailed, Reason::GateInconclusive] {
        let mut world = World::new(&json!({"promotion": {"policy": "Automatic", "uri": "/p"}}));
        world.settle();
        world.completes(reason);
        world.settle();
        assert_eq!((world.condition("Promoted").1, promotions(&world)), ("GatesNotPassed".into(), 0));
    }
}

#[test]
fn a_promotion_that_failed_says_why_and_is_tried_again_when_the_spec_is_touched() {
    let mut world = baked(&json!({"policy": "Automatic", "uri": "/p"}));
    world.settle();
    let mut end = code(13);
    end.message = Some(Outcome::bare(Reason::AccessDenied, "access to /p is denied").to_message());
    world.fail(end);
    let plan = world.step();
    assert_eq!(plan.events[0].reason, EventReason::PromotionFailed);
    world.settle();
    assert_eq!(world.condition("Promoted"), ("False".into(), "PromotionFailed".into()));
    assert_eq!(ready(&world), ["False".to_owned(), "False".into(), "True".into()]);
    assert_eq!(world.condition("Succeeded"), ("True".into(), "Baked".into()), "the bake itself went well");
    world.seen.jobs.retain(|j| !j.name.contains("-p-"));
    world.settle();
    assert_eq!(promotions(&world), 0, "not again by itself");
    world.edit("promotion", json!({"policy": "Automatic", "uri": "/q"}));
    world.settle();
    assert_eq!(promotions(&world), 1);
}

#[test]
fn a_verdict_that_the_promotion_reads_differently_is_a_refusal() {
    let mut world = baked(&json!({"policy": "Automatic", "uri": "/p"}));
    world.settle();
    world.complete(&Outcome::bare(Reason::GateFailed, "the gate Speedup >= 2 did not pass"));
    world.settle();
    assert_eq!(world.condition("Promoted"), ("False".into(), "PromotionFailed".into()));
}

#[test]
fn a_promotion_whose_pod_is_not_seen_yet_is_waited_for() {
    let mut world = baked(&json!({"policy": "Automatic", "uri": "/p"}));
    world.settle();
    let at = world.now;
    world.newest().end = Some(JobEnd::Complete { at });
    world.settle();
    assert_eq!(world.condition("Promoted").1, "Promoting");
    world.wait(s(31));
    world.settle();
    assert_eq!(world.condition("Promoted").1, "PromotionFailed");
}

#[test]
fn a_changed_wish_and_a_new_run_end_the_promotion_under_way() {
    let mut world = baked(&json!({"policy": "Automatic", "uri": "/p"}));
    world.settle();
    world.edit("promotion", json!({"policy": "Never"}));
    let plan = world.step();
    assert!(matches!(plan.actions.as_slice(), [Action::DeleteJob { .. }, ..]), "{:?}", plan.actions);
    world.collect();
    world.settle();
    assert_eq!((promotions(&world), ready(&world)[0].as_str()), (0, "True"));

    let mut world = baked(&json!({"policy": "Automatic", "uri": "/p"}));
    world.settle();
    world.edit("optimization", json!({"level": "Light"}));
    let plan = world.plan();
    assert!(
        plan.actions.iter().any(|a| matches!(a, Action::DeleteJob { job, .. } if job.contains("-p-"))),
        "{:?}",
        plan.actions
    );
}
