//! What the API server is asked, told as sentences.

use std::sync::Arc;

use kube::runtime::controller::Action;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::mock::{Asked, Mock, bakejob, status};
use super::reconcile::{ReconcileError, reconcile};

/// One look at the object, as the cache keeps it.
async fn look(mock: &Mock) -> Result<Action, ReconcileError> {
    let object = mock.context.store.state().into_iter().next().unwrap();
    reconcile(object, mock.context.clone()).await
}

/// The object after what was published.
fn after(mock: &Mock, object: &Value) -> Value {
    let asked = mock.asked();
    let published = asked.iter().rev().find(|a| a.path.ends_with("/status")).unwrap();
    let mut object = object.clone();
    object["status"] = published.body["status"].clone();
    object
}

fn created(asked: &[Asked]) -> Value {
    let mut job = asked.iter().find(|a| a.short() == "POST jobs").unwrap().body.clone();
    job["metadata"]["uid"] = json!("job-1");
    job
}

fn on(
    method: &'static str,
    path: &'static str,
    answer: (u16, Value),
) -> impl Fn(&Asked) -> Option<(u16, Value)> + Send {
    move |asked| (asked.short() == format!("{method} {path}")).then(|| answer.clone())
}

#[tokio::test]
async fn a_new_bakejob_gets_a_job_a_status_and_an_event_in_that_order() {
    let mock = Mock::new(&bakejob(), |_| None);
    look(&mock).await.unwrap();
    assert_eq!(mock.short(), ["GET bakejobs/cnn", "POST jobs", "PATCH bakejobs/cnn/status", "POST events"]);
    let asked = mock.asked();
    assert_eq!(asked[1].body["metadata"]["name"], "cnn-1-1");
    assert_eq!(asked[2].body["metadata"]["resourceVersion"], "7", "a status never overwrites one it has not seen");
    assert_eq!(asked[3].body["reason"], "Starting");
    assert_eq!(asked[3].path, "/apis/events.k8s.io/v1/namespaces/ml/events");
}

#[tokio::test]
async fn at_rest_nothing_is_asked_and_nothing_written() {
    let first = Mock::new(&bakejob(), |_| None);
    look(&first).await.unwrap();
    let mock = Mock::new(&after(&first, &bakejob()), |_| None);
    mock.context.jobs.take(&Event::Apply(serde_json::from_value(created(&first.asked())).unwrap()));
    look(&mock).await.unwrap();
    let third = Mock::new(&after(&mock, &bakejob()), |_| None);
    third.context.jobs.take(&Event::Apply(serde_json::from_value(created(&first.asked())).unwrap()));
    look(&third).await.unwrap();
    assert_eq!(third.short(), Vec::<String>::new());
}

#[tokio::test]
async fn a_job_of_ours_that_exists_already_is_taken_for_the_one_to_create() {
    let ours = json!({"metadata": {"name": "cnn-1-1", "ownerReferences": [
        {"apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob", "name": "cnn", "uid": "u-1", "controller": true}]}});
    let mock = Mock::new(&bakejob(), move |asked| match asked.short().as_str() {
        "POST jobs" => Some(status(409, "AlreadyExists", "exists")),
        "GET jobs/cnn-1-1" => Some((200, ours.clone())),
        _ => None,
    });
    look(&mock).await.unwrap();
    assert_eq!(mock.reason(), "Starting");
}

#[tokio::test]
async fn somebody_elses_job_of_that_name_is_said_in_the_status() {
    let theirs = json!({"metadata": {"name": "cnn-1-1"}});
    let mock = Mock::new(&bakejob(), move |asked| match asked.short().as_str() {
        "POST jobs" => Some(status(409, "AlreadyExists", "exists")),
        "GET jobs/cnn-1-1" => Some((200, theirs.clone())),
        _ => None,
    });
    look(&mock).await.unwrap();
    assert_eq!(mock.reason(), "JobRefused");
}

#[tokio::test]
async fn a_full_quota_and_a_refused_pod_are_said_in_the_status_and_tried_again() {
    let quota = status(
        403,
        "Forbidden",
        "jobs.batch \"cnn-1-1\" is forbidden: exceeded quota: small, requested: count/jobs.batch=1",
    );
    for (answer, reason) in
        [(quota, "QuotaExceeded"), (status(422, "Invalid", "spec.template: Invalid value"), "JobRefused")]
    {
        let mock = Mock::new(&bakejob(), on("POST", "jobs", answer));
        let action = look(&mock).await.unwrap();
        assert_eq!(mock.reason(), reason);
        assert_ne!(action, Action::await_change());
        let published = mock.asked().into_iter().find(|a| a.path.ends_with("/status")).unwrap().body;
        assert_eq!(published["status"].get("jobRef"), None, "no Job came about");
    }
}

#[tokio::test]
async fn a_decision_on_an_old_version_starts_nothing() {
    let mut newer = bakejob();
    newer["metadata"]["resourceVersion"] = json!("8");
    let mock = Mock::new(&bakejob(), on("GET", "bakejobs/cnn", (200, newer)));
    assert_eq!(look(&mock).await.unwrap_err().category(), "Stale");
    assert_eq!(mock.short(), ["GET bakejobs/cnn"]);
}

#[tokio::test]
async fn a_status_that_lost_the_race_is_decided_again() {
    let mock = Mock::new(&bakejob(), on("PATCH", "bakejobs/cnn/status", status(409, "Conflict", "changed")));
    assert_eq!(look(&mock).await.unwrap_err().category(), "Stale");
}

#[tokio::test]
async fn what_a_status_was_written_over_is_not_decided_on_again() {
    let mut written = bakejob();
    written["metadata"]["resourceVersion"] = json!("8");
    let mock = Mock::new(&bakejob(), on("PATCH", "bakejobs/cnn/status", (200, written)));
    look(&mock).await.unwrap();
    let before = mock.asked().len();
    let again = look(&mock).await.unwrap();
    assert_eq!(mock.asked().len(), before, "the watch brings the new status soon");
    assert_ne!(again, Action::await_change(), "and if it does not, it is looked at again");
}

#[tokio::test]
async fn the_first_status_names_the_job_by_its_uid() {
    let mock = Mock::new(&bakejob(), |asked| {
        let mut job = asked.body.clone();
        (asked.short() == "POST jobs").then(|| {
            job["metadata"]["uid"] = json!("job-1");
            (201, job)
        })
    });
    look(&mock).await.unwrap();
    let published = mock.asked().into_iter().find(|a| a.path.ends_with("/status")).unwrap().body;
    assert_eq!(published["status"]["jobRef"], json!({"name": "cnn-1-1", "uid": "job-1"}));
}

#[tokio::test]
async fn a_status_that_no_schema_takes_ends_the_run_and_says_why() {
    let tried = std::sync::atomic::AtomicBool::new(false);
    let mock = Mock::new(&bakejob(), move |asked| {
        let first = asked.path.ends_with("/status") && !tried.swap(true, std::sync::atomic::Ordering::Relaxed);
        first.then(|| status(500, "InternalError", "failed to create typed patch object: duplicate entries"))
    });
    look(&mock).await.unwrap();
    assert_eq!(mock.reason(), "Internal");
    let asked = mock.asked();
    let last = asked.iter().rev().find(|a| a.path.ends_with("/status")).unwrap();
    assert!(last.body["status"]["conditions"][0]["message"].as_str().unwrap().contains("duplicate entries"));
}

#[tokio::test]
async fn a_job_that_no_watch_shows_is_asked_for_before_it_counts_as_gone() {
    let first = Mock::new(&bakejob(), |_| None);
    look(&first).await.unwrap();
    let mock = Mock::new(&after(&first, &bakejob()), on("GET", "jobs/cnn-1-1", (200, created(&first.asked()))));
    look(&mock).await.unwrap();
    assert!(!mock.short().contains(&"POST jobs".to_owned()), "{:?}", mock.short());
}

#[tokio::test]
async fn a_bakejob_that_another_controller_manages_is_left_alone() {
    let mut theirs = bakejob();
    theirs["spec"]["managedBy"] = json!("kueue.x-k8s.io/multikueue");
    let mock = Mock::new(&theirs, |_| None);
    assert_eq!(look(&mock).await.unwrap(), Action::await_change());
    assert_eq!(mock.short(), Vec::<String>::new());
}

#[tokio::test]
async fn an_unreadable_bakejob_gets_a_status_once_and_stops_no_other() {
    let mut broken = bakejob();
    broken["spec"]["worker"] = json!({"affinity": "not an object"});
    let mock = Mock::new(&broken, |_| None);
    look(&mock).await.unwrap();
    look(&mock).await.unwrap();
    assert_eq!(mock.reason(), "InvalidJob");
    assert_eq!(mock.short().iter().filter(|s| s.ends_with("/status")).count(), 1);
}

/// A `BakeJob` whose run has ended, with an artifact that only the API server remembers.
fn baked(spec_digest: &str) -> Value {
    let mut object = bakejob();
    let condition = |kind: &str, reason: &str| json!({"type": kind, "status": "True", "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:01:00Z", "observedGeneration": 1});
    object["metadata"]["managedFields"] = json!([{"manager": "kubectl"}]);
    object["status"] = json!({
        "observedGeneration": 1, "runs": 1, "specDigest": spec_digest,
        "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:00Z",
        "conditions": [condition("Succeeded", "Baked"), condition("GatePassed", "GatesPassed")],
        "stages": [{"name": "Load"}],
        "gates": [{"metric": "FileSize", "threshold": "<= 1", "verdict": "Pass"}],
        "artifacts": [{"format": "ONNX", "uri": "/out/model.onnx", "sha256": "abc", "bytes": 5}],
    });
    object
}

#[tokio::test]
async fn of_a_finished_run_only_what_decides_is_kept_and_a_new_one_remembers_the_rest() {
    let mock = Mock::new(&baked("sha256:of-another-spec"), |_| None);
    let kept = mock.context.store.state().into_iter().next().unwrap();
    let status = kept.0.as_ref().unwrap().status.clone().unwrap();
    assert!(status.stages.is_empty() && status.gates.is_empty() && status.artifacts.is_empty(), "{status:?}");
    look(&mock).await.unwrap();
    assert_eq!(mock.short()[0], "GET bakejobs/cnn", "nothing is written on what is not whole");
    assert_eq!(mock.reason(), "Starting");
    let published = mock.asked().into_iter().find(|a| a.path.ends_with("/status")).unwrap().body;
    assert_eq!(published["status"]["history"][0]["sha256"], "abc");
}

#[tokio::test]
async fn a_finished_run_of_this_spec_asks_for_nothing() {
    let first = Mock::new(&bakejob(), |_| None);
    look(&first).await.unwrap();
    let digest = after(&first, &bakejob())["status"]["specDigest"].as_str().unwrap().to_owned();
    // The first look brings every condition up to date; the second finds nothing to do.
    let old = Mock::new(&baked(&digest), |_| None);
    look(&old).await.unwrap();
    let published = after(&old, &baked(&digest));
    assert_eq!(published["status"]["artifacts"][0]["sha256"], "abc", "nothing of the status is lost");
    let mock = Mock::new(&published, |_| None);
    look(&mock).await.unwrap();
    assert_eq!(mock.short(), Vec::<String>::new());
}

#[tokio::test]
async fn a_server_that_does_not_answer_ends_the_look_in_time() {
    let (service, _handle) =
        tower_test::mock::pair::<http::Request<kube::client::Body>, http::Response<kube::client::Body>>();
    let mock = Mock::new(&bakejob(), |_| None);
    let Ok(mut context) = Arc::try_unwrap(mock.context) else { panic!("the context is shared") };
    context.client = kube::Client::new(service, "ml");
    context.timeout = std::time::Duration::from_millis(50);
    let object = context.store.state().into_iter().next().unwrap();
    assert_eq!(reconcile(object, Arc::new(context)).await.unwrap_err().category(), "Timeout");
}
