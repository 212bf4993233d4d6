//! Nodes: lost, with GPUs, with too little memory.

use std::time::Duration;

use bakehouse::api::state::State;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::support::{BAKE, Case, MOODY, SOON, message, shell, slow};

/// Gives a node its kubelet and its good name back, however the case ends.
struct Lost(&'static str);

impl Drop for Lost {
    fn drop(&mut self) {
        let script = shell::script("node.sh").display().to_string();
        shell::try_run(&script, &["start", self.0]);
        shell::try_run("kubectl", &["wait", "--for=condition=Ready", "node", "--all", "--timeout=90s"]);
        shell::try_run(
            "kubectl",
            &["taint", "node", &format!("node-{}", self.0), "node.kubernetes.io/out-of-service-"],
        );
    }
}

/// Takes the pretended GPUs away again.
struct Gpus(&'static str);

impl Drop for Gpus {
    fn drop(&mut self) {
        shell::try_run(&shell::script("node.sh").display().to_string(), &["gpu", self.0, "0"]);
    }
}

#[tokio::test]
async fn a_bake_whose_node_is_lost_goes_on_elsewhere() {
    let case = Case::alone("node-loss").await;
    if !shell::own_cluster() {
        println!("skipped: the nodes of this cluster are not on this machine");
        return;
    }
    let soon = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
    let spec = json!({
        "worker": {
            "image": MOODY, "env": [{"name": "MOOD_SLEEP", "value": "60"}],
            "tolerations": [soon("node.kubernetes.io/unreachable"), soon("node.kubernetes.io/not-ready")],
            "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 100, "preference": {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-2"]}]}}
            ]}},
        },
    });
    case.apply(&case.mlp("mlp", &spec)).await.unwrap();
    case.reaches("mlp", State::Running, BAKE).await;
    assert_eq!(case.pods("mlp").await[0].spec.as_ref().unwrap().node_name.as_deref(), Some("node-2"));
    let lost = Lost("2");
    shell::node(&["kill", "2"]);
    let job = case.reaches("mlp", State::NodeUnreachable, Duration::from_secs(90)).await;
    assert!(message(&job).contains("node-2") && message(&job).contains("out-of-service"), "{}", message(&job));

    // What the message advises.
    shell::run("kubectl", &["taint", "node", "node-2", "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"]);
    let job = case.bakes("mlp", BAKE * 2).await;
    let status = job.status.unwrap();
    assert_eq!(status.hardware.unwrap().node.as_deref(), Some("node-1"));
    assert_eq!(status.runs, Some(1));
    drop(lost);
    case.done().await;
}

#[tokio::test]
async fn a_gpu_node_gets_the_bake_that_asks_for_one() {
    let case = Case::alone("gpu").await;
    if !shell::own_cluster() {
        println!("skipped: it pretends GPUs on a node of its own");
        return;
    }
    let _gpus = Gpus("2");
    shell::node(&["gpu", "2", "2"]);
    let nodes: Api<Node> = Api::all(case.client.clone());
    let allocatable = nodes.get("node-2").await.unwrap().status.unwrap().allocatable.unwrap();
    assert_eq!(allocatable["nvidia.com/gpu"].0, "2");

    let gpu = json!({"hardware": {"device": "Auto", "gpu": {"count": 1, "minMemory": "16Gi", "minComputeCapability": "8.6"}}});
    case.apply(&case.mlp("one", &gpu)).await.unwrap();
    // There is no GPU in this machine and none is used yet: the worker says so. What counts here is where its pod went, and why.
    let job = case.until("one", "at its end", BAKE, crate::support::ended).await;
    let hardware = job.status.as_ref().unwrap().hardware.clone().unwrap();
    assert_eq!(hardware.device.as_deref(), Some("CUDA"));
    assert!(hardware.reason.unwrap().contains("node node-2 has 1 nvidia.com/gpu"));
    let pod: Pod = case.pods("one").await[0].clone();
    let spec = pod.spec.unwrap();
    assert_eq!(spec.node_name.as_deref(), Some("node-2"));
    assert_eq!(spec.containers[0].resources.as_ref().unwrap().limits.as_ref().unwrap()["nvidia.com/gpu"].0, "1");

    let many = json!({"hardware": {"device": "CUDA", "gpu": {"count": 3}}});
    case.apply(&case.mlp("three", &many)).await.unwrap();
    let job = case.reaches("three", State::Unschedulable, SOON).await;
    assert!(message(&job).contains("Insufficient nvidia.com/gpu"), "{}", message(&job));
    let job = case.bakes("three", BAKE).await;
    let hardware = job.status.unwrap().hardware.unwrap();
    assert_eq!(hardware.device.as_deref(), Some("CPU"));
    assert!(hardware.reason.unwrap().contains("fallback to the CPU"));

    let stays = json!({"hardware": {"device": "CUDA", "fallback": "None", "gpu": {"count": 3}}});
    case.apply(&case.mlp("waits", &stays)).await.unwrap();
    case.reaches("waits", State::Unschedulable, SOON).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    case.reaches("waits", State::Unschedulable, SOON).await;
    case.done().await;
}

#[tokio::test]
async fn a_worker_killed_for_memory_is_tried_once_more_with_the_plan_that_needs_least() {
    let case = Case::shared("oom").await;
    let worker = json!({"worker": {"image": MOODY, "env": [{"name": "MOOD", "value": "hungry"}], "resources": {"limits": {"memory": "512Mi"}}}});
    case.apply(&case.mlp("mlp", &worker)).await.unwrap();
    let job = case.bakes("mlp", BAKE).await;
    let attempt = job.status.unwrap().attempt.unwrap();
    assert!(attempt.low_memory && attempt.number == 2 && attempt.failures == 0);
    let failure = attempt.last_failure.unwrap();
    assert!(failure.starts_with("OutOfMemory: ") && failure.contains("on node node-"), "{failure}");

    // Always hungry.
    let mut worker = worker;
    worker["worker"]["env"] = json!([{"name": "MOOD", "value": "ravenous"}]);
    case.apply(&case.mlp("twice", &worker)).await.unwrap();
    let job = case.ends("twice", State::OutOfMemory, BAKE).await;
    assert!(message(&job).contains("limits.memory"), "{}", message(&job));
    assert_eq!(case.jobs("twice").await.len(), 2, "once more, and no more");
    case.done().await;
}

#[tokio::test]
async fn a_worker_that_is_drained_is_started_again() {
    let case = Case::shared("drained").await;
    case.apply(&case.mlp("mlp", &json!({"worker": slow(20)["worker"], "backoffLimit": 0}))).await.unwrap();
    case.reaches("mlp", State::Running, BAKE).await;
    let pod = case.pods("mlp").await.pop().unwrap();
    // As `kubectl drain` does it: the pod gets condition DisruptionTarget, which counts against no limit.
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod.metadata.name}});
    let path = format!("/api/v1/namespaces/{}/pods/{}/eviction", case.namespace, pod.metadata.name.as_ref().unwrap());
    let request = http::Request::post(path).header("content-type", "application/json");
    case.client.request_text(request.body(serde_json::to_vec(&eviction).unwrap()).unwrap()).await.unwrap();
    case.bakes("mlp", BAKE).await;
    let names: Vec<String> = case.pods("mlp").await.iter().map(ResourceExt::name_any).collect();
    assert!(!names.contains(&pod.name_any()) || names.len() > 1, "{names:?}");
    case.done().await;
}
