//! The Jobs that the controller creates, as values. They are created once and never applied again: Kueue and the Job controller change them.

mod pod;
mod storage;

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::decide::{Attempt, promotion_job};
use super::names;
use super::validate::Validated;
use crate::api::Reason;
use crate::api::wire::{Assignment, Candidate, GivenDevice, Task};
use crate::hardware::place::Placement;

/// Seconds that deleting an output may take.
const CLEANUP_DEADLINE: i64 = 600;

/// Seconds after which it goes by itself.
const CLEANUP_KEPT: i32 = 3600;

/// Seconds that a promotion may take.
const PROMOTION_DEADLINE: i64 = 3600;

/// The code of a process that was killed; the container's reason tells whether it was for memory.
const KILLED: i32 = 137;

/// The Job of an attempt.
pub fn bake(job: &Validated, attempt: &Attempt) -> Job {
    let assignment = Assignment {
        run: attempt.run,
        attempt: attempt.number,
        low_memory: attempt.low_memory,
        device: attempt.placement.device,
        cache: job.defaults.cache.clone(),
        ..assignment(job, Task::Bake)
    };
    let name = names::job(&job.name, attempt.run, attempt.number);
    let (mut labels, annotations) = metadata(job, &assignment);
    labels.extend(job.kueue.clone());
    let mut notes = annotations.clone();
    notes.extend([
        (names::NOTE_DIGEST.to_owned(), job.spec_digest.clone()),
        (names::NOTE_FAILURES.to_owned(), attempt.failures.to_string()),
        (names::NOTE_LOW_MEMORY.to_owned(), attempt.low_memory.to_string()),
        (names::NOTE_DEVICE.to_owned(), attempt.placement.device.as_str().to_owned()),
        (names::NOTE_DEVICE_REASON.to_owned(), attempt.placement.reason.clone()),
    ]);
    let left = job.spec.backoff_limit.saturating_sub(attempt.failures);
    let template = pod::template(job, &assignment, &attempt.placement, labels.clone(), annotations);
    Job {
        metadata: object_meta(job, name, labels, notes),
        spec: Some(JobSpec {
            // Kueue admits it; without Kueue it starts at once.
            suspend: Some(job.by_kueue()),
            active_deadline_seconds: job.deadline(),
            backoff_limit: Some(i32::try_from(left).unwrap_or(i32::MAX)),
            pod_failure_policy: Some(failure_policy()),
            template,
            ..job_spec()
        }),
        status: None,
    }
}

/// The Job that deletes the output of a `BakeJob` that is going. No owner reference leads to that: a foreground deletion (Argo CD's, which asks
/// for it every two seconds) takes all that the `BakeJob` owns first, and this Job with it, again and again.
pub fn cleanup(job: &Validated) -> Job {
    let assignment = Assignment { gate_floors: Vec::new(), ..assignment(job, Task::Clean) };
    let (labels, annotations) = metadata(job, &assignment);
    let mut notes = annotations.clone();
    notes.insert(names::NOTE_OWNER.to_owned(), job.uid.clone());
    let template = pod::template(job, &assignment, &anywhere(), labels.clone(), annotations);
    Job {
        metadata: ObjectMeta { owner_references: None, ..object_meta(job, names::cleanup(&job.name), labels, notes) },
        spec: Some(JobSpec {
            active_deadline_seconds: Some(CLEANUP_DEADLINE),
            // It is deleted when the `BakeJob` goes; this is for one whose finalizer somebody took off.
            ttl_seconds_after_finished: Some(CLEANUP_KEPT),
            backoff_limit: Some(3),
            template,
            ..job_spec()
        }),
        status: None,
    }
}

/// The Job that promotes the artifact of a run that has ended.
pub fn promotion(job: &Validated) -> Job {
    let artifact = job.status.artifacts.first().map(|artifact| artifact.sha256.clone());
    let report = job.status.report.as_ref().map(|report| report.sha256.clone());
    let candidate = artifact.zip(report).map(|(artifact, report)| Candidate { artifact, report });
    let assignment = Assignment { candidate, ..assignment(job, Task::Promote) };
    let (labels, annotations) = metadata(job, &assignment);
    let template = pod::template(job, &assignment, &anywhere(), labels.clone(), annotations.clone());
    Job {
        metadata: object_meta(job, promotion_job(job), labels, annotations),
        spec: Some(JobSpec {
            active_deadline_seconds: Some(PROMOTION_DEADLINE),
            backoff_limit: Some(i32::try_from(job.spec.backoff_limit).unwrap_or(i32::MAX)),
            pod_failure_policy: Some(failure_policy()),
            template,
            ..job_spec()
        }),
        status: None,
    }
}

/// What a worker is told of a job, for a task that is no attempt of a bake and needs no device.
fn assignment(job: &Validated, task: Task) -> Assignment {
    Assignment {
        task,
        name: job.name.clone(),
        namespace: job.namespace.clone(),
        uid: job.uid.clone(),
        run: job.status.runs.unwrap_or(0),
        attempt: 0,
        low_memory: true,
        device: GivenDevice::Cpu,
        gate_floors: job.defaults.gate_floors.clone(),
        cache: None,
        candidate: None,
        spec: job.spec.clone(),
    }
}

/// For what needs no device.
fn anywhere() -> Placement {
    Placement { device: GivenDevice::Cpu, terms: Vec::new(), resource: None, reason: String::new() }
}

fn job_spec() -> JobSpec {
    JobSpec {
        completions: Some(1),
        parallelism: Some(1),
        // With a failure policy this is demanded, and it is what keeps two workers from writing one artifact.
        pod_replacement_policy: Some("Failed".to_owned()),
        ..JobSpec::default()
    }
}

fn object_meta(
    job: &Validated,
    name: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(job.namespace.clone()),
        labels: Some(labels),
        annotations: (!annotations.is_empty()).then_some(annotations),
        owner_references: Some(vec![job.owner_reference()]),
        ..ObjectMeta::default()
    }
}

/// Labels and annotations of Job and pod: the worker's own, and ours over them.
fn metadata(job: &Validated, assignment: &Assignment) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let worker = job.spec.worker.clone().unwrap_or_default();
    let mut labels = worker.labels;
    labels.extend([
        ("app.kubernetes.io/name".to_owned(), "bakehouse-worker".to_owned()),
        ("app.kubernetes.io/managed-by".to_owned(), names::CONTROLLER.to_owned()),
        (names::LABEL_JOB.to_owned(), job.name.clone()),
        (names::LABEL_RUN.to_owned(), assignment.run.to_string()),
        (names::LABEL_ATTEMPT.to_owned(), assignment.attempt.to_string()),
        (names::LABEL_TASK.to_owned(), assignment.task.as_str().to_owned()),
    ]);
    (labels, worker.annotations)
}

/// The exit-code contract, as the Job controller reads it. The first rule that fits decides.
///
/// 1. Preempted, drained, evicted, node lost: not the worker's fault, a new pod.
/// 2. A permanent code: give up, another pod would end the same.
/// 3. Killed: give up this Job; the controller reads why, and makes the next attempt with less memory where that was it.
/// 4. Anything else counts against `backoffLimit`.
fn failure_policy() -> PodFailurePolicy {
    let permanent = Reason::ALL.into_iter().filter(|r| !r.worth_a_retry()).map(|r| i32::from(r.exit_code()));
    let mut permanent: Vec<i32> = permanent.filter(|code| Reason::from_exit_code(*code).is_some()).collect();
    permanent.sort_unstable();
    let on_codes = |values: Vec<i32>| PodFailurePolicyRule {
        action: "FailJob".to_owned(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: Some(names::CONTAINER.to_owned()),
            operator: "In".to_owned(),
            values,
        }),
        on_pod_conditions: None,
    };
    PodFailurePolicy {
        rules: vec![
            PodFailurePolicyRule {
                action: "Ignore".to_owned(),
                on_exit_codes: None,
                on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                    type_: "DisruptionTarget".to_owned(),
                    status: "True".to_owned(),
                }]),
            },
            on_codes(permanent),
            on_codes(vec![KILLED]),
        ],
    }
}

#[cfg(test)]
mod tests;
