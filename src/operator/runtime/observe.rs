//! From caches to what a decision rests on. Two things are asked of the API server: whether a Job that the status names and no watch shows
//! is really gone, and, every ten seconds at most, the last lines of a running pod's log.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;

use super::children::Child;
use super::context::Context;
use crate::api::wire::ProgressLine;
use crate::operator::facts::{JobFacts, Observed, PodFacts, PodState};
use crate::operator::names;
use crate::operator::validate::Validated;

/// Reading a log is a favour; it must not hold up anything.
const LOG_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a log is read at most.
const LOG_EVERY: Duration = Duration::from_secs(9);

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
    Ok(Observed { turn: context.turn(&job.uid), nodes: context.nodes(), jobs, pods, progress })
}

/// The pod that bakes now.
fn running<'p>(jobs: &[JobFacts], pods: &'p [PodFacts]) -> Option<&'p PodFacts> {
    let active = |pod: &&PodFacts| jobs.iter().any(|j| j.name == pod.job && j.end.is_none());
    pods.iter().filter(active).find(|pod| pod.state == PodState::Running { reachable: true } && !pod.deleting)
}

async fn progress(context: &Context, job: &Validated, pod: &PodFacts) -> Vec<ProgressLine> {
    {
        let mut read = context.logs_read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.get(&job.uid).is_some_and(|at| at.elapsed() < LOG_EVERY) {
            return Vec::new();
        }
        read.retain(|_, at| at.elapsed() < LOG_EVERY * 2);
        read.insert(job.uid.clone(), Instant::now());
    }
    let parameters = LogParams {
        container: Some(names::CONTAINER.to_owned()),
        tail_lines: Some(LOG_LINES),
        limit_bytes: Some(64 << 10),
        ..LogParams::default()
    };
    let api = Api::<Pod>::namespaced(context.client.clone(), &job.namespace);
    match tokio::time::timeout(LOG_TIMEOUT, api.logs(&pod.name, &parameters)).await {
        Ok(Ok(log)) => log.lines().filter_map(ProgressLine::parse).collect(),
        Ok(Err(error)) => {
            tracing::debug!(%error, pod = pod.name, "cannot read the log");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}
