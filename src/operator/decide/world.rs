//! A cluster in miniature for the tests: it does what a plan says, and lets a test play Job controller, scheduler and kubelet.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{Action, Plan, decide};
use crate::api::state::State;
use crate::api::wire::Outcome;
use crate::api::{Reason, load};
use crate::operator::build;
use crate::operator::facts::{JobEnd, JobFacts, Observed, PodEnd, PodFacts, PodState};
use crate::operator::names::FINALIZER;
use crate::operator::validate::{Defaults, Validated, validate};

#[derive(Debug)]
pub(super) struct World {
    pub(super) object: Value,
    pub(super) defaults: Defaults,
    pub(super) seen: Observed,
    pub(super) now: Timestamp,
    pub(super) gone: bool,
    pub(super) made: u32,
}

impl World {
    /// A job with these fields of the spec, seen for the first time.
    pub(super) fn new(spec: &Value) -> Self {
        let mut object = json!({
            "apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob",
            "metadata": {"name": "cnn", "namespace": "ml", "uid": "u-1", "generation": 1},
            "spec": {"source": {"uri": "/m/a.onnx"}, "data": {"validation": {"uri": "/m/v.npz"}}, "output": {"uri": "/out"}},
        });
        for (field, value) in spec.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        Self { object, defaults: Defaults::default(), seen: Observed::default(), now, gone: false, made: 0 }
    }

    pub(super) fn label(mut self, name: &str, value: &str) -> Self {
        self.object["metadata"]["labels"][name] = json!(value);
        self
    }

    pub(super) fn job(&self) -> Validated {
        let status = self.object["status"].clone();
        let mut job = load::admit(&self.object, None).unwrap();
        job.status = (!status.is_null()).then(|| serde_json::from_value(status).unwrap());
        validate(&job, &self.defaults).unwrap()
    }

    /// Changes the spec, as `kubectl apply` does.
    pub(super) fn edit(&mut self, field: &str, value: Value) {
        self.object["spec"][field] = value;
        self.object["metadata"]["generation"] = json!(self.object["metadata"]["generation"].as_i64().unwrap() + 1);
    }

    /// What would be done now.
    pub(super) fn plan(&self) -> Plan {
        decide(&self.job(), &self.seen, self.now)
    }

    /// One reconcile: decide, apply, publish.
    pub(super) fn step(&mut self) -> Plan {
        let plan = self.plan();
        let job = self.job();
        for action in &plan.actions {
            self.apply(&job, action);
        }
        self.object["status"] = serde_json::to_value(&plan.status).unwrap();
        plan
    }

    /// Reconciles until nothing changes, and returns the state.
    pub(super) fn settle(&mut self) -> State {
        for _ in 0..10 {
            let before = self.object.clone();
            let plan = self.step();
            if plan.actions.is_empty() && self.object == before {
                return plan.state().unwrap();
            }
        }
        panic!("it does not come to rest: {:?}", self.plan());
    }

    pub(super) fn apply(&mut self, job: &Validated, action: &Action) {
        let create = |built: &k8s_openapi::api::batch::v1::Job, uid: String, now| {
            let mut built = built.clone();
            built.metadata.uid = Some(uid);
            JobFacts { created: Some(now), ..JobFacts::read(&built).unwrap() }
        };
        match action {
            Action::CreateJob(attempt) => {
                self.made += 1;
                let mut facts = create(&build::bake(job, attempt), format!("job-{}", self.made), self.now);
                facts.started = (!facts.suspended).then_some(self.now);
                assert!(self.seen.jobs.iter().all(|j| j.name != facts.name), "{} is created twice", facts.name);
                let running = self.seen.jobs.iter().filter(|j| j.end.is_none()).count();
                assert_eq!(running, 0, "two Jobs would write to one output");
                self.seen.jobs.push(facts);
            }
            Action::CreateCleanup => {
                let facts = create(&build::cleanup(job), "job-cleanup".into(), self.now);
                self.seen.jobs.push(facts);
            }
            Action::CreatePromotion => {
                self.made += 1;
                let facts = create(&build::promotion(job), format!("job-{}", self.made), self.now);
                assert!(self.seen.jobs.iter().all(|j| j.name != facts.name), "{} is created twice", facts.name);
                self.seen.jobs.push(facts);
            }
            Action::Adjust { job, suspend, deadline } => {
                let now = self.now;
                let job = self.seen.jobs.iter_mut().find(|j| j.name == *job).unwrap();
                if let Some(suspend) = suspend {
                    job.suspended = *suspend;
                    job.started = (!suspend).then_some(now);
                }
                if let Some(deadline) = deadline {
                    job.deadline = *deadline;
                }
            }
            Action::Expire { job } => self.seen.jobs.iter_mut().find(|j| j.name == *job).unwrap().ttl = Some(1),
            Action::DeleteJob { job, .. } => {
                self.seen.jobs.iter_mut().find(|j| j.name == *job).unwrap().deleting = true;
            }
            Action::AddFinalizer => self.object["metadata"]["finalizers"] = json!([FINALIZER]),
            Action::RemoveFinalizer => self.object["metadata"]["finalizers"] = json!([]),
            Action::DeleteSelf => self.gone = true,
        }
    }

    /// The garbage collector ends what is being deleted.
    pub(super) fn collect(&mut self) {
        self.seen.jobs.retain(|j| !j.deleting);
        let names: Vec<String> = self.seen.jobs.iter().map(|j| j.name.clone()).collect();
        self.seen.pods.retain(|p| names.contains(&p.job));
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now = self.now.checked_add(time).unwrap();
    }

    pub(super) fn newest(&mut self) -> &mut JobFacts {
        self.seen.jobs.last_mut().unwrap()
    }

    /// The newest Job gets a pod in this state, for long enough to be told of; an unfinished one of it is replaced.
    pub(super) fn pod(&mut self, state: PodState) {
        let job = self.newest().name.clone();
        self.made += 1;
        self.seen.pods.retain(|p| p.job != job || matches!(p.state, PodState::Failed(_)));
        self.seen.pods.push(PodFacts {
            name: format!("pod-{}", self.made),
            job,
            created: Some(self.now.checked_sub(s(10)).unwrap()),
            node: Some("n1".into()),
            deleting: false,
            lost: false,
            state,
        });
    }

    /// The pod ends with code 0 and this outcome; the Job with it.
    pub(super) fn complete(&mut self, outcome: &Outcome) {
        self.pod(PodState::Succeeded { at: None, message: Some(outcome.to_message()) });
        let at = self.now;
        self.newest().end = Some(JobEnd::Complete { at });
    }

    pub(super) fn completes(&mut self, reason: Reason) {
        self.complete(&Outcome::bare(reason, "said"));
    }

    /// The pod fails, and the failure policy or the limit ends the Job.
    pub(super) fn fail(&mut self, end: PodEnd) {
        self.pod(PodState::Failed(end));
        let at = self.now;
        let job = self.newest();
        job.failed = 1;
        job.end = Some(JobEnd::Failed { at, reason: "PodFailurePolicy".into(), message: "policy".into() });
    }

    pub(super) fn condition(&self, kind: &str) -> (String, String) {
        let all = self.object["status"]["conditions"].as_array().unwrap();
        let one = all.iter().find(|c| c["type"] == kind).unwrap();
        (one["status"].as_str().unwrap().to_owned(), one["reason"].as_str().unwrap().to_owned())
    }

    pub(super) fn message(&self) -> String {
        self.object["status"]["conditions"][0]["message"].as_str().unwrap().to_owned()
    }
}

/// A pod killed with this code.
pub(super) fn code(code: i32) -> PodEnd {
    PodEnd { exit_code: Some(code), detail: format!("the container ended with code {code}"), ..PodEnd::default() }
}

/// Seconds.
pub(super) fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
