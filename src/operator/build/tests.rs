use serde_json::{Value, json};

use super::*;
use crate::api::load;
use crate::operator::facts::JobFacts;
use crate::operator::validate::{Defaults, validate};

/// A job as an API server gives it out.
fn job(spec: &Value, labels: &Value) -> Validated {
    let mut object = json!({
        "apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob",
        "metadata": {"name": "cnn", "namespace": "ml", "uid": "u-1", "generation": 1, "labels": labels},
        "spec": {"source": {"uri": "pvc://models/a.onnx"}, "data": {"validation": {"uri": "s3://data/v.npz"}}, "output": {"uri": "pvc://out/cnn"}},
    });
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    validate(&load::admit(&object, None).unwrap(), &Defaults::default()).unwrap()
}

fn attempt(number: u32) -> Attempt {
    let placement = Placement {
        device: GivenDevice::Cuda,
        terms: (0..2).map(|i| vec![requirement(&format!("gpu-{i}"))]).collect(),
        resource: Some(("nvidia.com/gpu".into(), 2)),
        reason: "asked for".into(),
    };
    Attempt { run: 3, number, failures: 1, low_memory: true, placement }
}

fn requirement(key: &str) -> k8s_openapi::api::core::v1::NodeSelectorRequirement {
    k8s_openapi::api::core::v1::NodeSelectorRequirement { key: key.into(), operator: "Exists".into(), values: None }
}

fn built(spec: &Value) -> Value {
    serde_json::to_value(bake(&job(spec, &json!({})), &attempt(2))).unwrap()
}

#[test]
fn the_name_is_the_same_whoever_creates_it() {
    let job = built(&json!({}));
    assert_eq!(job["metadata"]["name"], "cnn-3-2");
    assert_eq!(
        job["metadata"]["ownerReferences"][0],
        json!({
            "apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob", "name": "cnn", "uid": "u-1", "controller": true, "blockOwnerDeletion": true
        })
    );
}

#[test]
fn what_was_built_is_read_back_as_the_same_attempt() {
    let mut built = bake(&job(&json!({"activeDeadlineSeconds": 60}), &json!({})), &attempt(2));
    built.metadata.uid = Some("j".into());
    let facts = JobFacts::read(&built).unwrap();
    assert_eq!((facts.run, facts.attempt, facts.failures, facts.low_memory), (3, 2, 1, true));
    assert_eq!(
        (facts.device, facts.device_reason.as_str(), facts.deadline),
        (GivenDevice::Cuda, "asked for", Some(60))
    );
}

#[test]
fn the_exit_code_contract_is_the_failure_policy() {
    let rules = built(&json!({}))["spec"]["podFailurePolicy"]["rules"].clone();
    assert_eq!(rules[0]["action"], "Ignore");
    assert_eq!(rules[0]["onPodConditions"][0], json!({"type": "DisruptionTarget", "status": "True"}));
    assert_eq!(
        rules[1]["onExitCodes"],
        json!({"containerName": "worker", "operator": "In", "values": [2, 10, 11, 12, 13, 14, 22, 70]})
    );
    assert_eq!(rules[2]["onExitCodes"]["values"], json!([137]));
}

#[test]
fn failures_of_earlier_attempts_count_against_the_limit() {
    let job = built(&json!({"backoffLimit": 3}));
    assert_eq!(job["spec"]["backoffLimit"], 2);
    assert_eq!(job["spec"]["podReplacementPolicy"], "Failed");
    assert_eq!(job["spec"]["template"]["spec"]["restartPolicy"], "Never");
}

#[test]
fn the_pod_is_restricted_and_has_no_credentials_of_the_api() {
    let pod = built(&json!({}))["spec"]["template"]["spec"].clone();
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let container = &pod["containers"][0]["securityContext"];
    assert_eq!(container["allowPrivilegeEscalation"], false);
    assert_eq!(container["readOnlyRootFilesystem"], true);
    assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
}

#[test]
fn storage_is_named_and_never_read() {
    let pod = built(&json!({"storage": {
        "credentials": {"secretName": "s3"}, "caBundle": {"configMapName": "ca", "key": "root.pem"}}}))["spec"]["template"]["spec"].clone();
    let container = &pod["containers"][0];
    assert_eq!(container["envFrom"][0]["secretRef"]["name"], "s3");
    let volumes = pod["volumes"].as_array().unwrap();
    let claims: Vec<_> = volumes.iter().filter_map(|v| v.get("persistentVolumeClaim")).collect();
    assert_eq!(
        claims,
        [&json!({"claimName": "models", "readOnly": true}), &json!({"claimName": "out", "readOnly": false})]
    );
    assert!(volumes.iter().any(|v| v["configMap"]["items"][0]["key"] == "root.pem"));
    let mounts = container["volumeMounts"].as_array().unwrap();
    assert!(mounts.iter().any(|m| m["mountPath"] == "/bakehouse/pvc/models" && m["readOnly"] == true));
    assert!(mounts.iter().any(|m| m["mountPath"] == "/tmp"));
}

#[test]
fn the_assignment_is_whole_and_cannot_be_overridden() {
    let job = built(&json!({"worker": {"env": [
        {"name": "HTTPS_PROXY", "value": "http://proxy"}, {"name": "BAKEHOUSE_ASSIGNMENT", "value": "{}"}]},
        "optimization": {"exclude": ["/a$(HOME)"]}}));
    let env = job["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().clone();
    let last = env.last().unwrap();
    assert_eq!(last["name"], "BAKEHOUSE_ASSIGNMENT");
    let text = last["value"].as_str().unwrap();
    assert!(text.contains("$$(HOME)"), "the kubelet must not expand it: {text}");
    let read: Assignment = serde_json::from_str(&text.replace("$$", "$")).unwrap();
    assert_eq!((read.run, read.attempt, read.low_memory, read.task), (3, 2, true, Task::Bake));
    assert!(env.iter().any(|e| e["name"] == "HTTPS_PROXY"));
}

#[test]
fn devices_and_affinity_are_added_to_the_jobs_own() {
    let own = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]},
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}}});
    let job = built(&json!({"worker": {"affinity": own, "resources": {"limits": {"memory": "2Gi"}}}}));
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(
        pod["containers"][0]["resources"]["limits"],
        json!({"memory": "2Gi", "nvidia.com/gpu": "2", "ephemeral-storage": "10Gi"})
    );
    let terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(terms.len(), 4, "two of the job's times two of the placement");
    assert_eq!(terms[0]["matchExpressions"].as_array().unwrap().len(), 2);
    assert!(terms[2]["matchFields"].is_array() && terms[2]["matchExpressions"].is_array());
}

#[test]
fn the_scratch_volume_is_as_large_as_the_disk_that_the_job_allows() {
    for (limits, size) in [(json!({}), "10Gi"), (json!({"ephemeral-storage": "40Gi"}), "40Gi")] {
        let job = built(&json!({"worker": {"resources": {"limits": limits}}}));
        let pod = &job["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().unwrap();
        let scratch = volumes.iter().find(|v| v["name"] == "scratch").unwrap();
        assert_eq!(scratch["emptyDir"]["sizeLimit"], size);
        assert_eq!(pod["containers"][0]["resources"]["limits"]["ephemeral-storage"], size);
    }
}

#[test]
fn with_kueue_the_job_is_made_suspended_and_carries_its_labels() {
    let labels = json!({"kueue.x-k8s.io/queue-name": "q", "team": "a"});
    let job = serde_json::to_value(bake(&job(&json!({}), &labels), &attempt(1))).unwrap();
    assert_eq!(job["spec"]["suspend"], true);
    assert_eq!(job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"], "q");
    assert_eq!(job["metadata"]["labels"].get("team"), None);
}

#[test]
fn only_a_bake_is_told_of_the_cache() {
    let mut validated = job(&json!({"cache": "Use"}), &json!({}));
    validated.defaults.cache = Some("s3://bakes/cache".to_owned());
    let told = |job: k8s_openapi::api::batch::v1::Job| {
        let job = serde_json::to_value(job).unwrap();
        let env = job["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().clone();
        serde_json::from_str::<Assignment>(env.last().unwrap()["value"].as_str().unwrap()).unwrap().cache
    };
    assert_eq!(told(bake(&validated, &attempt(1))).as_deref(), Some("s3://bakes/cache"));
    assert_eq!(told(cleanup(&validated)), None);
    assert_eq!(told(promotion(&validated)), None);
}

#[test]
fn the_cleanup_asks_for_no_device_and_ends_by_itself() {
    let job = serde_json::to_value(cleanup(&job(
        &json!({"worker": {"resources": {"limits": {"memory": "64Gi"}}}}),
        &json!({}),
    )))
    .unwrap();
    assert_eq!(job["metadata"]["name"], "cnn-cleanup");
    assert_eq!(job["spec"]["activeDeadlineSeconds"], 600);
    assert_eq!(job["spec"]["template"]["spec"]["containers"][0]["resources"], json!({}));
}

#[test]
fn the_cleanup_is_nothing_that_a_foreground_deletion_takes_first_and_is_known_all_the_same() {
    let validated = job(&json!({}), &json!({}));
    let mut built = cleanup(&validated);
    assert_eq!(built.metadata.owner_references, None);
    assert!(built.spec.as_ref().unwrap().ttl_seconds_after_finished.is_some());
    built.metadata.uid = Some("j".to_owned());
    let facts = JobFacts::read(&built).unwrap();
    assert_eq!((facts.owner, facts.task), (validated.uid, Task::Clean));
}
