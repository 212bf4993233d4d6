//! The operator as it is installed: its settings, its pods, its Lease.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, ResourceExt};

use super::{eventually, shell};

/// Where `make e2e` installs it.
pub(crate) const NAMESPACE: &str = "bakehouse-system";

/// Settings of the operator for one case, which holds them: when it ends, well or badly, those of before are back before another case begins.
pub(super) struct Settings;

impl Settings {
    /// Installs the operator with these values of the chart over those of `make e2e`.
    pub(super) fn with(values: &[&str]) -> Self {
        let mut arguments = vec!["-f", "e2e/values.yaml"];
        arguments.extend(values.iter().flat_map(|value| ["--set", *value]));
        shell::run(&script(), &arguments);
        Self
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        shell::try_run(&script(), &["-f", "e2e/values.yaml"]);
    }
}

fn script() -> String {
    shell::script("operator.sh").display().to_string()
}

fn pods(client: &Client) -> Api<Pod> {
    Api::namespaced(client.clone(), NAMESPACE)
}

/// The operator's pods that are not on their way out.
pub(crate) async fn replicas(client: &Client) -> Vec<Pod> {
    let ours = ListParams::default().labels("app.kubernetes.io/name=bakehouse");
    let pods = pods(client).list(&ours).await.unwrap().items;
    pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
}

/// The pod that holds the Lease.
pub(crate) async fn leader(client: &Client) -> Option<String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    leases.get_opt("bakehouse-operator").await.unwrap()?.spec?.holder_identity.filter(|holder| !holder.is_empty())
}

/// Waits until one of the pods that are there now holds the Lease.
pub(crate) async fn led(client: &Client, within: Duration) -> String {
    eventually("a replica leads", within, async || {
        let leader = leader(client).await?;
        replicas(client).await.iter().any(|pod| pod.name_any() == leader).then_some(leader)
    })
    .await
}

/// How the leader is made to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    /// SIGKILL to its process: the kubelet starts the container again in the same pod.
    Container,
    /// `kubectl delete pod --force`: another pod.
    Pod,
}

/// Kills the leader, and returns its name.
pub(crate) async fn strike(client: &Client, blow: Blow) -> String {
    let leader = leader(client).await.expect("a leader");
    match blow {
        Blow::Container => {
            let pod = pods(client).get(&leader).await.unwrap();
            kill(&process(&pod.uid().unwrap()));
        }
        Blow::Pod => {
            pods(client).delete(&leader, &DeleteParams::default().grace_period(0)).await.unwrap();
        }
    }
    leader
}

/// The process of the operator in a pod, on this machine: that of its name in the pod's cgroup.
fn process(uid: &str) -> String {
    let of_pod = |pid: &str| {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("comm").trim() == "bakehouse" && read("cgroup").contains(&format!("pod{uid}"))
    };
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let started = Instant::now();
    let found: Vec<String> = processes.filter(|name| name.parse::<u32>().is_ok() && of_pod(name)).collect();
    assert_eq!(found.len(), 1, "looked for {:?} for the operator's process in pod {uid}: {found:?}", started.elapsed());
    found[0].clone()
}

fn kill(pid: &str) {
    shell::run("kill", &["-KILL", pid]);
}

/// A figure of the leader's `/metrics`, summed over its labels.
pub(crate) async fn metric(client: &Client, name: &str) -> f64 {
    let text = metrics(client).await;
    let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    text.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// All of the leader's `/metrics`.
pub(crate) async fn metrics(client: &Client) -> String {
    let leader = led(client, Duration::from_secs(30)).await;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{leader}:8080/proxy/metrics");
    client.request_text(http::Request::get(path).body(Vec::new()).unwrap()).await.unwrap()
}

/// The log of a replica's current container.
pub(crate) async fn log_since_start(client: &Client, name: &str) -> Option<String> {
    pods(client).logs(name, &kube::api::LogParams::default()).await.ok()
}

/// Seconds between the line that says it leads and the first line about an object.
pub(crate) fn first_look(log: &str) -> Option<f64> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut led = None;
    for line in lines {
        let at = || line["timestamp"].as_str()?.parse::<k8s_openapi::jiff::Timestamp>().ok();
        if line["message"] == "leading" {
            led = at();
        } else if line["message"] == "first look" {
            return Some(at()?.duration_since(led?).as_secs_f64());
        }
    }
    None
}

/// How often the container of a replica was started again.
pub(crate) async fn restarts(client: &Client, name: &str) -> i32 {
    let pod = pods(client).get_opt(name).await.unwrap();
    let containers = pod.and_then(|pod| pod.status?.container_statuses).unwrap_or_default();
    containers.first().map_or(0, |container| container.restart_count)
}
