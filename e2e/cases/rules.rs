//! What the API server itself refuses or fills in, and who may read what.

use bakehouse::api::BakeJob;
use bakehouse::api::state::State;
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Resource};
use serde_json::json;

use crate::support::{BAKE, Case, SOON, message};

#[tokio::test]
async fn an_invalid_job_is_refused_with_the_words_of_its_rule() {
    let case = Case::shared("rules").await;
    let table = [
        (json!({"gates": [{"metric": "Speedup", "min": "fast"}]}), "must be a decimal number"),
        (json!({"gates": [{"metric": "Speedup"}]}), "exactly one of min and max"),
        (json!({"optimization": {"level": "Extreme"}}), "spec.optimization.level"),
        (json!({"source": {"uri": ""}}), "spec.source.uri"),
        (json!({"backoffLimit": -1}), "spec.backoffLimit"),
    ];
    for (spec, words) in table {
        let error = case.apply(&case.mlp("bad", &spec)).await.unwrap_err().to_string();
        assert!(error.contains(words), "{spec}: {error}");
    }
    let long = "n".repeat(53);
    let error = case.apply(&case.mlp(&long, &json!({}))).await.unwrap_err().to_string();
    assert!(error.contains("metadata.name"), "{error}");
    case.done().await;
}

#[tokio::test]
async fn a_new_object_is_not_finished_before_the_controller_has_seen_it() {
    let case = Case::shared("observed").await;
    let created: BakeJob = serde_json::from_value(case.mlp("mlp", &json!({"suspend": true}))).unwrap();
    let created = case.api::<BakeJob>().create(&PostParams::default(), &created).await.unwrap();
    assert_eq!(created.status.unwrap().observed_generation, Some(-1), "kstatus then says InProgress");
    case.done().await;
}

#[tokio::test]
async fn what_a_cluster_cannot_do_is_refused_by_field_and_bakes_after_the_correction() {
    let case = Case::shared("refused").await;
    case.apply(&case.mlp("mlp", &json!({"source": {"uri": "model.onnx"}}))).await.unwrap();
    let job = case.ends("mlp", State::InvalidJob, SOON).await;
    assert!(message(&job).contains("spec.source.uri: model.onnx is relative"), "{}", message(&job));
    assert!(case.jobs("mlp").await.is_empty());
    case.apply(&case.mlp("mlp", &json!({}))).await.unwrap();
    case.bakes("mlp", BAKE).await;
    case.done().await;
}

#[tokio::test]
async fn an_object_that_no_type_can_read_gets_its_condition_and_stops_nobody() {
    let case = Case::shared("unreadable").await;
    // The schema passes pod-level parts through; the type behind it does not.
    let broken = case.mlp("broken", &json!({"worker": {"affinity": {"nodeAffinity": "node-1"}}}));
    let objects: Api<DynamicObject> =
        Api::namespaced_with(case.client.clone(), &case.namespace, &ApiResource::erase::<BakeJob>(&()));
    let broken: DynamicObject = serde_json::from_value(broken).unwrap();
    objects.create(&PostParams::default(), &broken).await.unwrap();
    case.apply(&case.mlp("mlp", &json!({}))).await.unwrap();
    case.bakes("mlp", BAKE).await;
    let broken = objects.get("broken").await.unwrap();
    let conditions = broken.data["status"]["conditions"].as_array().unwrap();
    let succeeded = conditions.iter().find(|c| c["type"] == "Succeeded").unwrap();
    assert_eq!(succeeded["reason"], "InvalidJob");
    assert!(
        succeeded["message"].as_str().unwrap().contains("nodeAffinity")
            || succeeded["message"].as_str().unwrap().contains("NodeAffinity"),
        "{succeeded}"
    );
    assert_eq!(BakeJob::kind(&()), "BakeJob");
    objects.delete("broken", &kube::api::DeleteParams::default()).await.unwrap();
    case.done().await;
}
