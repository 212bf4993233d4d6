//! What goes wrong in a cluster, and what the status then says.

use std::time::{Duration, Instant};

use bakehouse::api::state::State;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, ResourceQuota};
use kube::api::PostParams;
use serde_json::json;

use crate::support::{BAKE, Case, SHELF, SOON, message};

#[tokio::test]
async fn a_damaged_model_ends_the_run_at_once_with_what_the_worker_found() {
    let case = Case::shared("bad-model").await;
    let files = json!({"metadata": {"name": "junk"}, "data": {"model.onnx": "this is no model"}});
    case.create::<ConfigMap>(serde_json::from_value(files).unwrap()).await;
    let mut object = case.mlp("junk", &json!({"source": {"uri": "/junk/model.onnx"}}));
    let worker = &mut object["spec"]["worker"];
    worker["volumes"].as_array_mut().unwrap().push(json!({"name": "junk", "configMap": {"name": "junk"}}));
    worker["volumeMounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "junk", "mountPath": "/junk", "readOnly": true}));
    case.apply(&object).await.unwrap();
    let job = case.ends("junk", State::InvalidModel, BAKE).await;
    assert!(message(&job).contains("/junk/model.onnx"), "{}", message(&job));
    assert_eq!(case.pods("junk").await.len(), 1, "another pod would end the same");
    case.done().await;
}

#[tokio::test]
async fn a_missing_file_names_its_field() {
    let case = Case::shared("missing").await;
    case.apply(&case.mlp("mlp", &json!({"data": {"validation": {"uri": format!("{SHELF}/none.npz")}}}))).await.unwrap();
    let job = case.until("mlp", "at its end", BAKE, crate::support::ended).await;
    assert!(message(&job).contains("none.npz"), "{}", message(&job));
    case.done().await;
}

#[tokio::test]
async fn a_pod_that_no_node_takes_says_so_in_the_schedulers_words() {
    let case = Case::shared("unschedulable").await;
    case.apply(&case.mlp("mlp", &json!({"worker": {"nodeSelector": {"no-such": "node"}}}))).await.unwrap();
    let job = case.reaches("mlp", State::Unschedulable, SOON).await;
    assert!(message(&job).contains("nodes are available"), "{}", message(&job));
    case.done().await;
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_named() {
    let case = Case::shared("image").await;
    case.apply(&case.mlp("mlp", &json!({"worker": {"image": "bakehouse.invalid/none:1"}}))).await.unwrap();
    let job = case.reaches("mlp", State::ImagePullFailed, BAKE).await;
    assert!(message(&job).contains("bakehouse.invalid/none:1"), "{}", message(&job));
    case.done().await;
}

#[tokio::test]
async fn a_missing_secret_is_named() {
    let case = Case::shared("secret").await;
    let storage = json!({"storage": {"credentials": {"secretName": "none"}}});
    case.apply(&case.mlp("mlp", &storage)).await.unwrap();
    let job = case.reaches("mlp", State::ContainerConfigError, BAKE).await;
    assert!(message(&job).contains("secret \"none\" not found"), "{}", message(&job));
    case.done().await;
}

#[tokio::test]
async fn a_namespace_without_quota_says_so_and_bakes_when_there_is_room() {
    let case = Case::shared("quota").await;
    let quota = json!({"metadata": {"name": "none"}, "spec": {"hard": {"count/jobs.batch": "0"}}});
    case.create::<ResourceQuota>(serde_json::from_value(quota).unwrap()).await;
    until_jobs_are_refused(&case).await;
    case.apply(&case.mlp("mlp", &json!({}))).await.unwrap();
    let job = case.reaches("mlp", State::QuotaExceeded, BAKE).await;
    assert!(message(&job).contains("exceeded quota"), "{}", message(&job));
    case.api::<ResourceQuota>().delete("none", &kube::api::DeleteParams::default()).await.unwrap();
    case.bakes("mlp", BAKE).await;
    case.done().await;
}

/// A quota counts once admission has heard of it, which on a busy machine is after the answer to its creation.
async fn until_jobs_are_refused(case: &Case) {
    let pod = json!({"restartPolicy": "Never", "containers": [{"name": "main", "image": "none"}]});
    let job = json!({"metadata": {"name": "trial"}, "spec": {"template": {"spec": pod}}});
    let job: Job = serde_json::from_value(job).unwrap();
    let trial = PostParams { dry_run: true, ..PostParams::default() };
    let started = Instant::now();
    while case.api::<Job>().create(&trial, &job).await.is_ok() {
        assert!(started.elapsed() < SOON, "the quota is not enforced within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_worker_template_that_the_api_server_refuses_lands_in_the_status() {
    let case = Case::shared("template").await;
    let worker = json!({"worker": {"volumeMounts": [{"name": "nobody", "mountPath": "/x"}]}});
    case.apply(&case.mlp("mlp", &worker)).await.unwrap();
    let job = case.reaches("mlp", State::JobRefused, SOON).await;
    assert!(message(&job).contains("volumeMounts"), "{}", message(&job));
    case.done().await;
}
