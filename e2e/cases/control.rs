//! What a person does to a `BakeJob` while it bakes or after.

use std::time::Duration;

use bakehouse::api::BakeJob;
use bakehouse::api::state::State;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;

use crate::support::{BAKE, Case, SOON, condition, eventually, message, phase, slow};

#[tokio::test]
async fn a_suspended_bake_has_no_pod_and_goes_on_when_it_is_resumed() {
    let case = Case::shared("suspend").await;
    case.apply(&case.mlp("mlp", &json!({"suspend": true, "worker": slow(10)["worker"]}))).await.unwrap();
    let job = case.reaches("mlp", State::Suspended, SOON).await;
    assert_eq!(condition(&job, "Suspended").unwrap(), ("True".into(), "SuspendedBySpec".into()));
    assert!(case.jobs("mlp").await.is_empty());

    case.change("mlp", &json!({"suspend": false})).await;
    case.reaches("mlp", State::Running, BAKE).await;
    case.change("mlp", &json!({"suspend": true})).await;
    case.reaches("mlp", State::Suspended, BAKE).await;
    eventually("its pod is gone", Duration::from_mins(1), async || case.pods("mlp").await.is_empty().then_some(()))
        .await;

    case.change("mlp", &json!({"suspend": false})).await;
    let job = case.bakes("mlp", BAKE).await;
    assert_eq!(condition(&job, "Suspended").unwrap().0, "False");
    assert_eq!(job.status.unwrap().runs, Some(1), "suspending is not a new run");
    case.done().await;
}

#[tokio::test]
async fn a_run_ends_at_its_deadline() {
    let case = Case::shared("deadline").await;
    let mut spec = slow(60);
    spec["activeDeadlineSeconds"] = json!(5);
    case.apply(&case.mlp("mlp", &spec)).await.unwrap();
    let job = case.ends("mlp", State::DeadlineExceeded, BAKE).await;
    assert!(message(&job).contains("activeDeadlineSeconds"), "{}", message(&job));
    eventually("its pod is gone", Duration::from_mins(1), async || {
        (!case.pods("mlp").await.iter().any(|pod| phase(pod) == "Running")).then_some(())
    })
    .await;
    case.done().await;
}

#[tokio::test]
async fn applying_the_same_again_writes_nothing_and_an_edit_bakes_again() {
    let case = Case::shared("edit").await;
    let object = case.mlp("mlp", &json!({}));
    case.apply(&object).await.unwrap();
    let first = case.bakes("mlp", BAKE).await;

    case.apply(&object).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let same = case.api::<BakeJob>().get("mlp").await.unwrap();
    assert_eq!(same.resource_version(), first.resource_version(), "a finished job is written to by nobody");

    // A control field changes nothing about the artifact.
    case.change("mlp", &json!({"backoffLimit": 5, "activeDeadlineSeconds": 900})).await;
    let controlled = case
        .until("mlp", "observed", SOON, |job| {
            job.status.as_ref().unwrap().observed_generation == job.metadata.generation
        })
        .await;
    assert_eq!(controlled.status.as_ref().unwrap().runs, Some(1));
    assert_eq!(case.jobs("mlp").await.len(), 1);

    case.change("mlp", &json!({"gates": [{"metric": "SizeReduction", "min": "0.0"}]})).await;
    let second = case
        .until("mlp", "baked again", BAKE, |job| {
            job.status.as_ref().unwrap().runs == Some(2) && crate::support::ended(job)
        })
        .await
        .status
        .unwrap();
    assert_eq!(second.history.len(), 1);
    assert_eq!(second.history[0].run, 1);
    assert!(["Baked", "NoImprovement"].contains(&second.history[0].reason.as_str()));
    assert_ne!(Some(&second.history[0].spec_digest), second.spec_digest.as_ref());
    case.done().await;
}

#[tokio::test]
async fn a_deleted_job_takes_its_pods_with_it() {
    let case = Case::shared("delete").await;
    case.apply(&case.mlp("mlp", &slow(60))).await.unwrap();
    case.reaches("mlp", State::Running, BAKE).await;
    case.api::<BakeJob>().delete("mlp", &DeleteParams::default()).await.unwrap();
    eventually("everything is gone", Duration::from_secs(90), async || {
        let gone = case.api::<BakeJob>().get_opt("mlp").await.unwrap().is_none();
        (gone && case.jobs("mlp").await.is_empty() && case.pods("mlp").await.is_empty()).then_some(())
    })
    .await;
    case.done().await;
}

#[tokio::test]
async fn a_time_to_live_is_only_kept_when_it_is_asked_for() {
    let case = Case::shared("ttl").await;
    case.apply(&case.mlp("mlp", &json!({"ttlSecondsAfterFinished": 3}))).await.unwrap();
    eventually("it deletes itself after its end", BAKE, async || {
        case.api::<BakeJob>().get_opt("mlp").await.unwrap().is_none().then_some(())
    })
    .await;
    case.done().await;
}

#[tokio::test]
async fn a_job_deleted_behind_its_back_is_made_again() {
    let case = Case::shared("job-deleted").await;
    case.apply(&case.mlp("mlp", &slow(60))).await.unwrap();
    case.reaches("mlp", State::Running, BAKE).await;
    let first = case.jobs("mlp").await[0].name_any();
    case.api::<Job>().delete(&first, &DeleteParams::background()).await.unwrap();
    let again = case
        .until("mlp", "in its second attempt", BAKE, |job| {
            job.status.as_ref().and_then(|s| s.attempt.as_ref()).is_some_and(|attempt| attempt.number == 2)
        })
        .await;
    let attempt = again.status.unwrap().attempt.unwrap();
    assert!(attempt.last_failure.unwrap().starts_with("JobDeleted"));
    case.done().await;
}
