//! Facts of a Job.

use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::jiff::Timestamp;
use kube::Resource;

use super::at;
use crate::api::BakeJob;
use crate::api::wire::{GivenDevice, Task};
use crate::operator::names;

/// What is known of one Job.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub struct JobFacts {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// UID of the `BakeJob` that controls it.
    pub owner: String,
    /// What it is for.
    pub task: Task,
    /// The run, from 1.
    pub run: u32,
    /// The attempt, from 1.
    pub attempt: u32,
    /// Failures of the run before it.
    pub failures: u32,
    /// Whether it takes the low-memory plan.
    pub low_memory: bool,
    /// Its device.
    pub device: GivenDevice,
    /// Why that device.
    pub device_reason: String,
    /// What it bakes.
    pub spec_digest: String,
    /// Whether Kueue decides when it runs.
    pub kueue: bool,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// When the Job controller started it last; unset while suspended.
    pub started: Option<Timestamp>,
    /// Whether it is suspended.
    pub suspended: bool,
    /// Its own deadline, seconds.
    pub deadline: Option<i64>,
    /// Seconds after which it deletes itself.
    pub ttl: Option<i32>,
    /// Its failed pods that count.
    pub failed: u32,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// How it ended.
    pub end: Option<JobEnd>,
}

/// How a Job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEnd {
    /// A pod ended with code 0.
    Complete {
        /// When.
        at: Timestamp,
    },
    /// It was given up.
    Failed {
        /// When.
        at: Timestamp,
        /// The Job controller's reason, such as `PodFailurePolicy`.
        reason: String,
        /// Its words.
        message: String,
    },
}

impl JobEnd {
    /// When it ended.
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Complete { at } | Self::Failed { at, .. } => *at,
        }
    }
}

impl JobFacts {
    /// The uid of the `BakeJob` that a Job belongs to: its controller, or, for a cleanup, the one that it names.
    pub fn owner(job: &Job) -> Option<&str> {
        let controller = job.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
        match controller {
            Some(controller) => (controller.kind == BakeJob::kind(&())).then_some(&controller.uid),
            None if task(job) == Task::Clean => job.metadata.annotations.as_ref()?.get(names::NOTE_OWNER),
            None => None,
        }
        .map(String::as_str)
    }

    /// Reads a Job that a `BakeJob` controls or that deletes its output; any other is `None`.
    pub fn read(job: &Job) -> Option<Self> {
        let meta = &job.metadata;
        let label = |name: &str| meta.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
        let note = |name: &str| meta.annotations.as_ref().and_then(|notes| notes.get(name)).map(String::as_str);
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok()).unwrap_or(0);
        let spec = job.spec.as_ref();
        let status = job.status.as_ref();
        Some(Self {
            name: meta.name.clone()?,
            uid: meta.uid.clone()?,
            owner: Self::owner(job)?.to_owned(),
            task: task(job),
            run: number(label(names::LABEL_RUN)),
            attempt: number(label(names::LABEL_ATTEMPT)),
            failures: number(note(names::NOTE_FAILURES)),
            low_memory: note(names::NOTE_LOW_MEMORY) == Some("true"),
            device: note(names::NOTE_DEVICE).and_then(GivenDevice::named).unwrap_or(GivenDevice::Cpu),
            device_reason: note(names::NOTE_DEVICE_REASON).unwrap_or_default().to_owned(),
            spec_digest: note(names::NOTE_DIGEST).unwrap_or_default().to_owned(),
            kueue: label(names::KUEUE_QUEUE).is_some(),
            created: at(meta.creation_timestamp.as_ref()),
            started: at(status.and_then(|s| s.start_time.as_ref())),
            suspended: spec.and_then(|s| s.suspend) == Some(true),
            deadline: spec.and_then(|s| s.active_deadline_seconds),
            ttl: spec.and_then(|s| s.ttl_seconds_after_finished),
            failed: status.and_then(|s| s.failed).and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            deleting: meta.deletion_timestamp.is_some(),
            end: status.and_then(|s| s.conditions.iter().flatten().find_map(end)),
        })
    }
}

/// What a Job does, by its label.
fn task(job: &Job) -> Task {
    let label = job.metadata.labels.as_ref().and_then(|labels| labels.get(names::LABEL_TASK));
    if label.is_some_and(|label| label == "clean") { Task::Clean } else { Task::Bake }
}

/// The end that a condition tells of. `FailureTarget` and `SuccessCriteriaMet` come earlier, while pods still run, and are no end.
fn end(condition: &JobCondition) -> Option<JobEnd> {
    let at = at(condition.last_transition_time.as_ref()).unwrap_or(Timestamp::UNIX_EPOCH);
    match (condition.type_.as_str(), condition.status.as_str()) {
        ("Complete", "True") => Some(JobEnd::Complete { at }),
        ("Failed", "True") => Some(JobEnd::Failed {
            at,
            reason: condition.reason.clone().unwrap_or_default(),
            message: condition.message.clone().unwrap_or_default(),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(status: &serde_json::Value) -> JobFacts {
        let job = json!({
            "metadata": {
                "name": "cnn-2-3", "uid": "j", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"bakehouse.dev/bakejob": "cnn", "bakehouse.dev/run": "2", "bakehouse.dev/attempt": "3"},
                "annotations": {"bakehouse.dev/failures": "1", "bakehouse.dev/low-memory": "true", "bakehouse.dev/device": "CUDA",
                                "bakehouse.dev/spec-digest": "sha256:1"},
                "ownerReferences": [{"apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob", "name": "cnn", "uid": "b", "controller": true}],
            },
            "spec": {"suspend": false, "activeDeadlineSeconds": 60, "template": {}},
            "status": status,
        });
        JobFacts::read(&serde_json::from_value(job).unwrap()).unwrap()
    }

    #[test]
    fn labels_and_annotations_say_which_attempt_it_is() {
        let facts = read(&json!({"failed": 2}));
        assert_eq!((facts.run, facts.attempt, facts.failures, facts.failed), (2, 3, 1, 2));
        assert!(facts.low_memory && facts.device == GivenDevice::Cuda && facts.owner == "b" && facts.end.is_none());
    }

    #[test]
    fn only_final_conditions_are_an_end() {
        let with = |kind: &str, status: &str| {
            read(&json!({"conditions": [{"type": kind, "status": status, "reason": "R", "lastTransitionTime": "2026-01-01T00:01:00Z"}]})).end
        };
        assert!(matches!(with("Complete", "True"), Some(JobEnd::Complete { .. })));
        assert!(matches!(with("Failed", "True"), Some(JobEnd::Failed { .. })));
        for (kind, status) in
            [("FailureTarget", "True"), ("SuccessCriteriaMet", "True"), ("Suspended", "True"), ("Failed", "False")]
        {
            assert_eq!(with(kind, status), None, "{kind} {status}");
        }
    }

    #[test]
    fn a_job_of_nobody_is_not_ours() {
        assert_eq!(JobFacts::read(&Job::default()), None);
        let nobodys = |task: &str| -> Job {
            let meta = json!({"name": "cnn-1-1", "uid": "j", "labels": {"bakehouse.dev/task": task}, "annotations": {"bakehouse.dev/owner-uid": "b"}});
            serde_json::from_value(json!({"metadata": meta})).unwrap()
        };
        assert_eq!(
            JobFacts::read(&nobodys("bake")),
            None,
            "a bake belongs to its controller, whatever it says of itself"
        );
        assert_eq!(JobFacts::read(&nobodys("clean")).unwrap().owner, "b");
    }
}
