//! From phase 5 to phase 7 on the cluster: a trainer's package in the bucket, baked and promoted by a BakeJob, then looked at by a pod as its consumer.

use std::path::Path;
use std::time::{Duration, Instant};

use bakehouse::api::BakeJob;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::LogParams;
use serde_json::{Value, json};

use super::storage::Server;
use crate::support::{BAKE, Case, condition, eventually, shell};

const EXAMPLE: &str = "cnn";

/// Far more than bake, promotion and verification take: a machine that does other things too must not fail, one that waits for something must.
const SECONDS: f64 = 120.0;

/// The example as its trainer hands it over.
fn packaged(out: &Path) {
    let of = |file: &str| format!("examples/{EXAMPLE}/{file}");
    let known: Value = serde_json::from_slice(&std::fs::read("examples/accuracy.json").unwrap()).unwrap();
    let figure = format!("Top1={}", known[EXAMPLE]["accuracy"]);
    let (model, validation) = (of("model.onnx"), of("validation.npz"));
    let (calibration, training, out) = (of("calibration.npz"), of("training.npz"), out.display().to_string());
    let files =
        ["--model", &model, "--validation", &validation, "--calibration", &calibration, "--training", &training];
    let about = ["package", "--name", EXAMPLE, "--metric", "Top1", "--figure", &figure, "--out", &out];
    shell::run(env!("CARGO_BIN_EXE_bakehouse"), &[&about[..], &files].concat());
}

/// The pod of a consumer, which has the keys of the bucket and nothing of the BakeJob.
fn consumer(server: &Server, target: &str) -> Pod {
    let endpoint = &server.storage["endpoint"];
    let pod = json!({
        "metadata": {"name": "consumer"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "scratch", "emptyDir": {}}],
            "containers": [{
                "name": "verify",
                "image": "bakehouse.dev/worker:e2e",
                "imagePullPolicy": "IfNotPresent",
                "args": ["verify", "--json", target],
                "env": [
                    {"name": "HOME", "value": "/tmp"},
                    {"name": "AWS_ENDPOINT_URL", "value": endpoint},
                    {"name": "AWS_REGION", "value": "us-east-1"},
                ],
                "envFrom": [{"secretRef": {"name": "s3-credentials"}}],
                "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    });
    serde_json::from_value(pod).unwrap()
}

fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    containers.first()?.state.as_ref()?.terminated.as_ref()
}

/// Seconds that a pod waited for a node, that its container took to start, and that it ran. The API tells whole seconds.
fn seconds(pod: &Pod) -> Option<[f64; 3]> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|c| c.type_ == "PodScheduled")?.last_transition_time.as_ref()?.0;
    let ended = terminated(pod)?;
    let (started, finished) = (ended.started_at.as_ref()?.0, ended.finished_at.as_ref()?.0);
    let between = |a: Timestamp, b: Timestamp| b.duration_since(a).as_secs_f64();
    let created = pod.metadata.creation_timestamp.as_ref()?.0;
    Some([between(created, scheduled), between(scheduled, started), between(started, finished)])
}

/// Seconds of the bake's stages, as its worker measured them.
fn stages(job: &BakeJob) -> String {
    let stages = job.status.iter().flat_map(|status| &status.stages);
    let told = stages.filter_map(|stage| {
        let (from, to) = (stage.start_time.as_ref()?.0, stage.completion_time.as_ref()?.0);
        Some(format!("{} {:.1}", stage.name, to.duration_since(from).as_secs_f64()))
    });
    told.collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn a_trainers_package_in_the_bucket_becomes_a_deployment_that_its_consumer_confirms() {
    let case = Case::shared("handoff").await;
    if !shell::own_cluster() {
        println!("skipped: the S3 server of another cluster cannot be reached from here");
        return;
    }
    let server = Server::in_namespace(&case);
    let folder = tempfile::tempdir().unwrap();
    let package = folder.path().join("package");
    packaged(&package);
    server.put_folder(&package, &format!("phase5/{EXAMPLE}"));

    let began = Instant::now();
    let spec = json!({
        "source": {"uri": format!("s3://models/phase5/{EXAMPLE}/")},
        "exports": ["ONNX", "Phase7"],
        "output": {"uri": format!("s3://models/baked/{EXAMPLE}/")},
        "promotion": {"policy": "Automatic", "uri": "s3://models/phase7/"},
        "storage": server.storage,
    });
    case.apply(&case.bakejob(EXAMPLE, &spec)).await.unwrap();
    let promoted = |job: &BakeJob| condition(job, "Promoted").is_some_and(|(status, _)| status == "True");
    let job = case.until(EXAMPLE, "promoted", BAKE, promoted).await;
    let until_promoted = began.elapsed();
    let formats: Vec<&str> = job.status.iter().flat_map(|s| &s.artifacts).map(|a| a.format.as_str()).collect();
    assert!(formats.contains(&"Phase7"), "{formats:?}");

    case.create(consumer(&server, &format!("s3://models/phase7/{EXAMPLE}/current.json"))).await;
    let consumer = eventually("the consumer's pod has ended", BAKE, async || {
        case.api::<Pod>().get("consumer").await.ok().filter(|pod| terminated(pod).is_some())
    })
    .await;
    let whole = began.elapsed();
    let log = case.api::<Pod>().logs("consumer", &LogParams::default()).await.unwrap();
    confirmed(terminated(&consumer).unwrap().exit_code, &log);

    let pods = case.pods(EXAMPLE).await;
    assert_eq!(pods.len(), 2, "one pod bakes, one promotes");
    told(&[("bake", &pods[0]), ("promotion", &pods[1]), ("verify", &consumer)], [until_promoted, whole], &job);
    case.done().await;
}

/// No claim is refuted, and none is left open but those by the clock, which other work on the machine may have kept open.
fn confirmed(code: i32, log: &str) {
    // What was logged may stand before the result.
    let found: Value = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .find(|line: &Value| line["checks"].is_array())
        .unwrap_or_else(|| panic!("no result: {log}"));
    let timed = |claim: &str| claim.ends_with(" here") || claim.starts_with("median at");
    let all = found["checks"].as_array().unwrap();
    let open: Vec<&Value> = all.iter().filter(|check| check["holds"]["state"] != "Yes").collect();
    let by_the_clock =
        open.iter().all(|c| c["holds"]["state"] == "Unchecked" && timed(c["claim"].as_str().unwrap_or_default()));
    assert!(by_the_clock && code == if open.is_empty() { 0 } else { 4 }, "exit code {code}: {open:#?}\n{log}");
    for claim in ["promoted phase7/manifest.json", "package of phase 5", "outputs on the samples"] {
        assert!(all.iter().any(|check| check["claim"] == claim), "{claim}: {log}");
    }
}

/// Prints where the seconds went. Scheduling and the start of pods are the cluster's and stand apart.
fn told(pods: &[(&str, &Pod)], [promoted, whole]: [Duration; 2], job: &BakeJob) {
    println!("seconds      node  start  run");
    let mut ran = 0.0;
    for (what, pod) in pods {
        let [node, start, run] = seconds(pod).unwrap_or_else(|| panic!("{} has no times", pod.name_any()));
        println!("{what:<10} {node:>6} {start:>6} {run:>4}");
        ran += run;
    }
    println!("{ran} s of bake, promotion and verification; the bake's stages: {}", stages(job));
    println!(
        "{:.1} s from `apply` to the promotion, {:.1} s to the end of verification",
        promoted.as_secs_f64(),
        whole.as_secs_f64()
    );
    assert!(ran < SECONDS, "{ran} s");
}
