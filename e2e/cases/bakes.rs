//! Bakes that come to their end, and what their gates said.

use bakehouse::api::bakejob::Verdict;
use bakehouse::api::metric::Metric;
use bakehouse::api::state::State;
use serde_json::json;

use crate::support::{BAKE, Case, condition, message, phase};

#[tokio::test]
async fn a_bake_ends_with_measured_results_and_passed_gates() {
    let case = Case::shared("baked").await;
    case.apply(&case.mlp("mlp", &json!({}))).await.unwrap();
    let job = case.bakes("mlp", BAKE).await;
    assert_eq!(condition(&job, "GatePassed").unwrap(), ("True".into(), "GatesPassed".into()));
    assert_eq!(condition(&job, "Ready").unwrap().0, "True");
    assert_eq!(condition(&job, "Reconciling").unwrap().0, "False");

    let status = job.status.unwrap();
    assert_eq!((status.runs, status.progress), (Some(1), Some(100)));
    let quality = |metric| status.gates.iter().find(|gate| gate.metric == metric).unwrap();
    assert!(status.gates.iter().all(|gate| gate.verdict == Verdict::Pass && gate.observed.is_some()));
    assert!(quality(Metric::AccuracyRetention).interval.is_some());
    let (baseline, baked) = (status.baseline.unwrap(), status.baked.unwrap());
    assert!(baseline.latency_p50.is_some() && baked.file_size.is_some() && baked.accuracy_retention.is_some());
    let hardware = status.hardware.unwrap();
    assert_eq!(hardware.device.as_deref(), Some("CPU"));
    assert!(hardware.engine.unwrap().starts_with("onnxruntime "), "the worker's image brings ONNX Runtime along");
    assert!(hardware.cpu.is_some());
    assert!(status.report.unwrap().sha256.starts_with("sha256:") && status.recipe.is_some());
    let stages: Vec<&str> = status.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!((stages[0], *stages.last().unwrap()), ("Load", "Export"));
    assert!(status.stages.iter().all(|stage| stage.start_time.is_some() && stage.completion_time.is_some()));

    let pod = &case.pods("mlp").await[0];
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(hardware.node, spec.node_name, "the status names the node");
    assert_eq!(spec.automount_service_account_token, Some(false), "the worker has no credentials of the API");
    case.done().await;
}

#[tokio::test]
async fn a_missed_gate_is_a_verdict_and_not_a_failure_of_the_run() {
    let case = Case::shared("gate-failed").await;
    case.apply(&case.mlp("mlp", &json!({"gates": [{"metric": "FileSize", "max": "1"}]}))).await.unwrap();
    let job = case.ends("mlp", State::GateFailed, BAKE).await;
    assert_eq!(condition(&job, "Succeeded").unwrap().0, "True");
    assert_eq!(condition(&job, "GatePassed").unwrap(), ("False".into(), "ThresholdMissed".into()));
    assert_eq!(condition(&job, "Stalled").unwrap().0, "True");
    let gate = job.status.as_ref().unwrap().gates.iter().find(|gate| gate.metric == Metric::FileSize).unwrap();
    assert_eq!(gate.verdict, Verdict::Fail);
    assert!(gate.observed.is_some(), "what was measured stands beside the bound");
    // The Job itself was fine: a verdict must not make it bake again.
    let pods = case.pods("mlp").await;
    assert_eq!((case.jobs("mlp").await.len(), pods.len()), (1, 1));
    assert_eq!(phase(&pods[0]), "Succeeded");
    case.done().await;
}

#[tokio::test]
async fn too_few_samples_leave_a_gate_open_and_say_how_many_would_do() {
    let case = Case::shared("inconclusive").await;
    let spec = json!({"gates": [{"metric": "AccuracyRetention", "min": "0.9999"}], "optimization": {"level": "Light", "goal": "Size"}});
    case.apply(&case.mlp("mlp", &spec)).await.unwrap();
    let job = case.ends("mlp", State::GateInconclusive, BAKE).await;
    assert_eq!(condition(&job, "GatePassed").unwrap(), ("Unknown".into(), "Inconclusive".into()));
    // Without it, whatever waits by kstatus would wait for ever.
    assert_eq!(condition(&job, "Stalled").unwrap().0, "True");
    assert!(message(&job).contains("samples"), "{}", message(&job));
    case.done().await;
}
