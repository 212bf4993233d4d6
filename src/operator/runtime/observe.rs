//! From caches to what a decision rests on. Three things are asked of the API server: whether a Job that the status names and no watch shows
//! is really gone, and, every ten seconds at most, the last lines of a running pod's log and why Kueue lets a Job wait.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, LogParams};

use super::children::Child;
use super::context::Context;
use crate::api::wire::ProgressLine;
use crate::operator::facts::{JobFacts, Observed, PodFacts, PodState, waits};
use crate::operator::names;
use crate::operator::validate::Validated;

/// A log and a Workload are read as a favour; it must not hold up anything.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often they are read at most.
const ASK_EVERY: Duration = Duration::from_secs(9);

/// Kueue's API, newest version first.
const KUEUE_GROUP: &str = "kueue.x-k8s.io";
const KUEUE_VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];

/// Lines that are read: more than a bake has stages.
const LOG_LINES: i64 = 60;

pub(super) async fn observe(context: &Context, job: &Validated) -> Result<Observed, kube::Error> {
    let key = (job.namespace.clone(), job.name.clone());
    let mut jobs: Vec<JobFacts> = context.jobs.of(&key).into_iter().filter(|j| j.owner == job.uid).collect();
    if let Some(named) = &job.status.job_ref
        && job.status.completion_time.is_none()
        && !jobs.iter().any(|j| j.name == named.name)
    {
        // Watches run apart: only the API server can say that it is gone.
        let found = Api::<Job>::namespaced(context.client.clone(), &job.namespace).get_opt(&named.name).await?;
        jobs.extend(found.as_ref().and_then(Child::facts).filter(|j| j.owner == job.uid));
    }
    let pods = context.pods.of(&key);
    let progress = match running(&jobs, &pods) {
        Some(pod) => progress(context, job, pod).await,
        None => Vec::new(),
    };
    let kueue = match jobs.iter().find(|j| j.kueue && j.suspended && j.end.is_none()) {
        Some(waiting) => kueue(context, job, waiting).await,
        None => None,
    };
    Ok(Observed { turn: context.turn(&job.uid), nodes: context.nodes(), jobs, pods, progress, kueue })
}

/// The pod that bakes now.
fn running<'p>(jobs: &[JobFacts], pods: &'p [PodFacts]) -> Option<&'p PodFacts> {
    let active = |pod: &&PodFacts| jobs.iter().any(|j| j.name == pod.job && j.end.is_none());
    pods.iter().filter(active).find(|pod| pod.state == PodState::Running { reachable: true } && !pod.deleting)
}

/// Whether a favour may be asked again for this object: every few seconds at most.
fn due(context: &Context, uid: &str) -> bool {
    let mut asked = context.asked.lock().unwrap_or_else(PoisonError::into_inner);
    if asked.get(uid).is_some_and(|at| at.elapsed() < ASK_EVERY) {
        return false;
    }
    asked.retain(|_, at| at.elapsed() < ASK_EVERY * 2);
    asked.insert(uid.to_owned(), Instant::now());
    true
}

/// Why Kueue lets a Job wait. Without Kueue, or without the right to read its Workloads, nothing is known.
async fn kueue(context: &Context, job: &Validated, waiting: &JobFacts) -> Option<String> {
    if !due(context, &waiting.uid) {
        return None;
    }
    for version in KUEUE_VERSIONS {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(KUEUE_GROUP, version, "Workload"));
        let workloads = Api::<DynamicObject>::namespaced_with(context.client.clone(), &job.namespace, &resource);
        let of_job = ListParams::default().labels(&format!("{}={}", names::KUEUE_JOB_UID, waiting.uid)).limit(1);
        match tokio::time::timeout(ASK_TIMEOUT, workloads.list(&of_job)).await {
            Ok(Ok(found)) => return found.items.first().and_then(|workload| waits(&workload.data)),
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, job = waiting.name, "cannot read the Workload");
                return None;
            }
            Err(_) => return None,
        }
    }
    None
}

async fn progress(context: &Context, job: &Validated, pod: &PodFacts) -> Vec<ProgressLine> {
    if !due(context, &job.uid) {
        return Vec::new();
    }
    let parameters = LogParams {
        container: Some(names::CONTAINER.to_owned()),
        tail_lines: Some(LOG_LINES),
        limit_bytes: Some(64 << 10),
        ..LogParams::default()
    };
    let api = Api::<Pod>::namespaced(context.client.clone(), &job.namespace);
    match tokio::time::timeout(ASK_TIMEOUT, api.logs(&pod.name, &parameters)).await {
        Ok(Ok(log)) => log.lines().filter_map(ProgressLine::parse).collect(),
        Ok(Err(error)) => {
            tracing::debug!(%error, pod = pod.name, "cannot read the log");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}
