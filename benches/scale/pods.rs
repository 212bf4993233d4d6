//! Who ends the pods: KWOK, or patches of their status as a kubelet would write them.

use std::process::{Child, Command, Stdio};

use bakehouse::api::wire::Outcome;
use bakehouse::api::{BakeJob, Reason};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::process::pid;

/// Ends pods until it is dropped.
pub(crate) enum Ends {
    Kwok(Child),
    Patches { task: tokio::task::JoinHandle<()>, scheduler: Option<u32> },
}

/// Pods that are ended side by side.
const SIDE_BY_SIDE: usize = 16;

/// What every pod says at its end: what the worker of a real bake once said, so that statuses are as large as they are in life.
fn message() -> String {
    let dump = include_str!("../../deploy/argocd/testdata/cluster/Baked.yaml");
    let status = serde_saphyr::from_str::<BakeJob>(dump).unwrap().status.unwrap();
    let outcome = Outcome {
        baseline: status.baseline,
        baked: status.baked,
        gates: status.gates,
        artifacts: status.artifacts,
        report: status.report,
        recipe: status.recipe,
        stages: status.stages,
        passes: status.passes,
        ..Outcome::bare(Reason::Baked, "Ended by the benchmark; nothing was baked")
    };
    outcome.to_message()
}

impl Ends {
    pub(crate) fn begin(how: super::Ends, client: &Client) -> Self {
        match how {
            super::Ends::Kwok => Self::Kwok(kwok(client)),
            super::Ends::Patches => {
                let scheduler = pid("scheduler");
                if let Some(pid) = scheduler {
                    signal(pid, "-STOP");
                }
                Self::Patches { task: tokio::spawn(patches(client.clone())), scheduler }
            }
        }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        match self {
            Self::Kwok(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Self::Patches { task, scheduler } => {
                task.abort();
                if let Some(pid) = scheduler {
                    signal(*pid, "-CONT");
                }
            }
        }
    }
}

fn signal(pid: u32, signal: &str) {
    let _ = Command::new("kill").args([signal, &pid.to_string()]).status();
}

async fn patches(client: Client) {
    let message = message();
    let pods = watcher(Api::<Pod>::all(client.clone()), watcher::Config::default().labels("bakehouse.dev/task=bake"));
    pods.default_backoff()
        .applied_objects()
        .filter_map(async |pod| {
            let pod = pod.ok()?;
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
            (phase == "Pending").then_some(pod)
        })
        .for_each_concurrent(SIDE_BY_SIDE, |pod| end(client.clone(), pod, message.clone()))
        .await;
}

async fn end(client: Client, pod: Pod, message: String) {
    let now = k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let image = pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone()).unwrap_or_default();
    let terminated =
        json!({"exitCode": 0, "reason": "Completed", "message": message, "startedAt": now, "finishedAt": now});
    let status = json!({"status": {
        "phase": "Succeeded",
        "startTime": now,
        "containerStatuses": [{"name": "worker", "image": image, "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": terminated}}],
    }});
    let api: Api<Pod> = Api::namespaced(client, &pod.namespace().unwrap_or_default());
    let _ = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status)).await;
}

fn kwok(client: &Client) -> Child {
    let stages = std::env::temp_dir().join("bakehouse-scale-kwok.yaml");
    std::fs::write(&stages, include_str!("kwok.yaml").replace("MESSAGE", &message().replace('\'', "''"))).unwrap();
    let client = client.clone();
    tokio::spawn(async move { nodes(client).await });
    let log = std::fs::File::create(std::env::temp_dir().join("bakehouse-scale-kwok.log")).unwrap();
    Command::new("kwok")
        .args([
            "--config",
            &stages.display().to_string(),
            "--manage-nodes-with-annotation-selector",
            "kwok.x-k8s.io/node=fake",
        ])
        .args(["--kubeconfig", &std::env::var("KUBECONFIG").expect("KUBECONFIG")])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("kwok: {error}; `make scale` brings it"))
}

/// Twenty nodes that KWOK keeps alive.
async fn nodes(client: Client) {
    let api: Api<Node> = Api::all(client);
    let fake = ListParams::default().labels("type=kwok");
    let _ = api.delete_collection(&DeleteParams::default(), &fake).await;
    for i in 0..20 {
        let room = json!({"cpu": "1000", "memory": "4Ti", "pods": "10000", "ephemeral-storage": "1000Ti"});
        let node = json!({
            "metadata": {"name": format!("kwok-{i}"), "labels": {"type": "kwok", "kubernetes.io/hostname": format!("kwok-{i}")}, "annotations": {"kwok.x-k8s.io/node": "fake"}},
            "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
            "status": {"allocatable": room, "capacity": room},
        });
        api.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    }
}
