//! What is shipped beside the binary keeps in step with it: the runbook has every reason, and the examples of Argo CD's health check are what
//! the controller's own decisions write.
//!
//! Run with `BLESS=1` to write the generated files instead.
#![cfg(feature = "operator")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bakehouse::api::bakejob::BakeJobStatus;
use bakehouse::api::state::{State, Truth};
use bakehouse::api::wire::Outcome;
use bakehouse::api::{Reason, load};
use bakehouse::operator::decide::{EventReason, PROMOTION_REASONS, Refusal, refused};
use bakehouse::operator::facts::{JobEnd, JobFacts, PodEnd, PodFacts, PodState, Turn};
use bakehouse::operator::{Action, Defaults, Observed, Plan, Validated, build, decide, validate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compares a generated file with the committed one, or writes it.
fn same(path: &str, text: &str) {
    let file = file(path);
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == text,
        "{path} is not what the controller writes: run `BLESS=1 cargo test --test packaging` and look at the difference"
    );
}

/// A cluster in miniature: Jobs are what the controller built, pods what a scenario says.
struct World {
    object: Value,
    seen: Observed,
    now: Timestamp,
}

impl World {
    fn new(name: &str, spec: &Value) -> Self {
        let mut object = json!({
            "apiVersion": "bakehouse.dev/v1alpha1",
            "kind": "BakeJob",
            "metadata": {
                "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1, "name": name, "namespace": "ml",
                "resourceVersion": "1000", "uid": "6f1c1c3e-0b51-4b0e-9a54-3f0d5f8f0a01",
            },
            "spec": {
                "source": {"uri": "pvc://models/digits/model.onnx"},
                "data": {
                    "calibration": {"uri": "pvc://models/digits/calibration.npz"},
                    "validation": {"uri": "pvc://models/digits/validation.npz", "metric": "Top1"},
                },
                "gates": [{"metric": "AccuracyRetention", "min": "0.99"}, {"metric": "Speedup", "min": "1.2"}],
                "output": {"uri": "pvc://models/baked/digits"},
            },
        });
        for (field, value) in spec.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        let mut world = Self { object, seen: Observed::default(), now: "2026-01-01T00:00:02Z".parse().unwrap() };
        // With the defaults that an API server puts in.
        world.object["spec"] = serde_json::to_value(load::admit(&world.object, None).unwrap().spec).unwrap();
        world
    }

    fn job(&self) -> Validated {
        let mut job = load::admit(&self.object, None).unwrap();
        let status = self.object["status"].clone();
        job.status = (!status.is_null()).then(|| serde_json::from_value(status).unwrap());
        validate(&job, &Defaults::default()).unwrap()
    }

    fn publish(&mut self, status: &BakeJobStatus) {
        self.object["status"] = serde_json::to_value(status).unwrap();
    }

    /// Reconciles until nothing changes.
    fn settle(&mut self) -> Option<State> {
        for _ in 0..8 {
            let (job, before) = (self.job(), self.object.clone());
            let plan = decide(&job, &self.seen, self.now);
            plan.actions.iter().for_each(|action| self.apply(&job, action));
            self.publish(&plan.status);
            if plan.actions.is_empty() && self.object == before {
                return plan.state();
            }
        }
        panic!("it does not come to rest: {}", self.object);
    }

    fn apply(&mut self, job: &Validated, action: &Action) {
        match action {
            Action::CreateJob(attempt) => {
                let mut built = build::bake(job, attempt);
                built.metadata.uid = Some(format!("6f1c1c3e-0b51-4b0e-9a54-3f0d5f8f0b{:02}", self.seen.jobs.len() + 1));
                built.metadata.creation_timestamp = Some(Time(self.now));
                let mut facts = JobFacts::read(&built).unwrap();
                facts.started = (!facts.suspended).then_some(self.now);
                self.seen.jobs.push(facts);
            }
            Action::DeleteJob { job, .. } => self.seen.jobs.retain(|j| j.name != *job),
            Action::Expire { job } => self.seen.jobs.iter_mut().find(|j| j.name == *job).unwrap().ttl = Some(1),
            other => panic!("no scenario asks for {other:?}"),
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.now = self.now.checked_add(Duration::from_secs(seconds)).unwrap();
    }

    fn pod(&mut self, state: PodState) {
        let job = self.seen.jobs.last().unwrap().name.clone();
        let on_a_node = !matches!(state, PodState::Unschedulable { .. });
        self.seen.pods.push(PodFacts {
            name: format!("{job}-x7k2p"),
            job,
            // Long enough ago to be told of.
            created: Some(self.now.checked_sub(Duration::from_secs(10)).unwrap()),
            node: on_a_node.then(|| "node-1".to_owned()),
            deleting: false,
            lost: false,
            state,
        });
    }

    fn completes(&mut self, message: Option<String>) {
        self.pod(PodState::Succeeded { at: None, message });
        self.seen.jobs.last_mut().unwrap().end = Some(JobEnd::Complete { at: self.now });
    }

    fn fails(&mut self, end: PodEnd) {
        self.pod(PodState::Failed(end));
        let (reason, message) = ("PodFailurePolicy".to_owned(), "Container worker failed".to_owned());
        let job = self.seen.jobs.last_mut().unwrap();
        job.failed = 1;
        job.end = Some(JobEnd::Failed { at: self.now, reason, message });
    }
}

/// What a worker tells of a bake.
fn outcome(reason: Reason) -> String {
    let (message, retention, speedup, verdict) = match reason {
        Reason::Baked => ("1.84x faster, 71 % smaller; every gate passed", "1.0010", "1.84", "Pass"),
        Reason::NoImprovement => {
            ("Nothing better than the input passed; the input is the artifact", "1.0000", "1.00", "Pass")
        }
        Reason::GateFailed => ("AccuracyRetention is 0.9712, the gate asks for >= 0.99", "0.9712", "1.84", "Fail"),
        _ => (
            "AccuracyRetention is 0.9921 in [0.9840, 1.0002], the gate asks for >= 0.99; 4,200 samples would decide",
            "0.9921",
            "1.84",
            "Inconclusive",
        ),
    };
    let outcome: Outcome = serde_json::from_value(json!({
        "reason": reason, "message": message, "cpu": "x86_64 with AVX-512 VNNI", "engine": "onnxruntime 1.32.0",
        "baseline": {"latencyP50": "412us", "fileSize": "255000", "parameters": 61706},
        "baked": {"accuracyRetention": retention, "speedup": speedup, "latencyP50": "224us", "fileSize": "74000"},
        "gates": [
            {"metric": "AccuracyRetention", "threshold": ">= 0.99", "observed": retention, "verdict": verdict},
            {"metric": "Speedup", "threshold": ">= 1.2", "observed": speedup, "interval": "[1.80, 1.88]", "verdict": "Pass"},
        ],
        "artifacts": [{
            "format": "ONNX", "uri": "pvc://models/baked/digits/model.onnx", "bytes": 74000,
            "sha256": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        }],
        "report": {"uri": "pvc://models/baked/digits/report.json", "sha256": "sha256:60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"},
    }))
    .unwrap();
    outcome.to_message()
}

fn code(code: i32) -> PodEnd {
    PodEnd { exit_code: Some(code), detail: format!("the container ended with code {code}"), ..PodEnd::default() }
}

/// The failure that a worker itself reports.
fn told(reason: Reason, message: &str) -> PodEnd {
    PodEnd { message: Some(Outcome::bare(reason, message).to_message()), ..code(reason.exit_code().into()) }
}

/// A job that a scenario has brought into a state.
fn in_state(state: State) -> World {
    let once = json!({"backoffLimit": 0});
    let spec = match state {
        State::Suspended => json!({"suspend": true}),
        State::InvalidJob => json!({"source": {"uri": "models/model.onnx"}}),
        State::DeadlineExceeded => json!({"activeDeadlineSeconds": 600}),
        State::StorageUnreachable | State::DeviceLost | State::Evicted | State::WorkerKilled | State::WorkerFailed => {
            once
        }
        State::JobDeleted | State::ResultLost => once,
        _ => json!({}),
    };
    let mut world = World::new("digits", &spec);
    if state == State::Queued {
        world.seen.turn = Turn { ahead: 3, now: false };
    }
    if matches!(state, State::QuotaExceeded | State::JobRefused) {
        let job = world.job();
        let plan: Plan = decide(&job, &world.seen, world.now);
        let refusal = if state == State::QuotaExceeded {
            Refusal::Quota("jobs.batch \"digits-1-1\" is forbidden: exceeded quota: bakes, requested: count/jobs.batch=1, used: count/jobs.batch=4, limited: count/jobs.batch=4".into())
        } else {
            Refusal::Object("Job.batch \"digits-1-1\" is invalid: spec.template.spec.containers[0].resources.requests: Invalid value: \"8Gi\": must be less than or equal to memory limit of 4Gi".into())
        };
        let status = refused(&job, &refusal, &plan, world.now).status;
        world.publish(&status);
        return world;
    }
    world.settle();
    world.wait(30);
    match state {
        State::Queued | State::Suspended | State::Starting | State::InvalidJob => {}
        State::Unschedulable => world.pod(PodState::Unschedulable {
            since: Some(world.now),
            message: "0/3 nodes are available: 3 Insufficient memory.".into(),
        }),
        State::ImagePullFailed => {
            world.pod(PodState::ImagePull { message: "Back-off pulling image \"bakehouse-worker:0.1.0\"".into() });
        }
        State::ContainerConfigError => world.pod(PodState::Config { message: "secret \"s3-keys\" not found".into() }),
        State::Running => world.pod(PodState::Running { reachable: true }),
        State::NodeUnreachable => world.pod(PodState::Running { reachable: false }),
        State::Baked => world.completes(Some(outcome(Reason::Baked))),
        State::NoImprovement => world.completes(Some(outcome(Reason::NoImprovement))),
        State::GateFailed => world.completes(Some(outcome(Reason::GateFailed))),
        State::GateInconclusive => world.completes(Some(outcome(Reason::GateInconclusive))),
        State::InvalidModel => world.fails(told(Reason::InvalidModel, "model.onnx is cut off after 4,096 bytes.")),
        State::UnsupportedOperator => {
            world.fails(told(Reason::UnsupportedOperator, "No engine at hand runs com.acme.Fold."));
        }
        State::InvalidData => world.fails(told(Reason::InvalidData, "validation.npz has no array 'image'.")),
        State::AccessDenied => world.fails(told(Reason::AccessDenied, "model.onnx may not be read.")),
        State::OutputUnwritable => world.fails(told(Reason::OutputUnwritable, "The disk is full.")),
        State::Retrying | State::StorageUnreachable => {
            world.fails(told(Reason::StorageUnreachable, "http://minio:9000 does not answer"));
        }
        State::DeviceLost => world.fails(told(Reason::DeviceLost, "The GPU fell off the bus.")),
        State::MemoryLimitTooSmall => {
            world.fails(told(Reason::MemoryLimitTooSmall, "The limit is 256 MiB, the smallest plan needs 410 MiB."));
        }
        State::Internal => world.fails(told(Reason::Internal, "A pass panicked.")),
        State::OutOfMemory => {
            let oom = PodEnd { oom: true, ..code(137) };
            world.fails(oom.clone());
            world.settle();
            world.wait(60);
            world.fails(oom);
        }
        State::Evicted => world.fails(PodEnd {
            evicted: true,
            disrupted: Some("TerminationByKubelet".into()),
            detail: "Pod ephemeral local storage usage exceeds the total limit of containers 10Gi.".into(),
            ..PodEnd::default()
        }),
        State::WorkerKilled => world.fails(code(137)),
        State::WorkerFailed => world.fails(code(139)),
        State::JobDeleted => world.seen.jobs.clear(),
        State::ResultLost => {
            world.completes(None);
            world.wait(60);
        }
        State::DeadlineExceeded => {
            world.pod(PodState::Running { reachable: true });
            world.settle();
            world.wait(600);
        }
        State::QuotaExceeded | State::JobRefused => unreachable!("returned above"),
    }
    world.settle();
    world
}

fn condition(object: &Value, kind: &str) -> (String, String, String) {
    let all = object["status"]["conditions"].as_array().unwrap();
    let one = all.iter().find(|c| c["type"] == kind).unwrap();
    let text = |field: &str| one[field].as_str().unwrap().to_owned();
    (text("status"), text("reason"), text("message"))
}

/// The scenarios that are not simply a state: name, object, health and message that Argo CD is to show.
fn others() -> Vec<(&'static str, Value, &'static str, String)> {
    let edit = |object: &mut Value, field: &str, value: Value| {
        object["spec"][field] = value;
        object["metadata"]["generation"] = json!(object["metadata"]["generation"].as_i64().unwrap() + 1);
    };
    let waiting = "Waiting for the operator to look at it".to_owned();
    let mut all = Vec::new();
    let new = World::new("digits", &json!({})).object;
    all.push(("new-without-status", new.clone(), "Progressing", waiting.clone()));
    let mut defaulted = new;
    defaulted["status"] = json!({"observedGeneration": -1});
    all.push(("new", defaulted, "Progressing", waiting.clone()));

    let mut edited = in_state(State::GateFailed).object;
    edit(&mut edited, "gates", json!([{"metric": "AccuracyRetention", "min": "0.95"}]));
    all.push(("edited-after-the-end", edited, "Progressing", waiting));

    let mut asked = in_state(State::Running).object;
    edit(&mut asked, "suspend", json!(true));
    all.push(("suspend-asked-for", asked, "Suspended", "spec.suspend is true".into()));

    let mut ended = in_state(State::Baked);
    edit(&mut ended.object, "suspend", json!(true));
    assert_eq!(ended.settle(), Some(State::Baked));
    let message = format!("Baked: {}", condition(&ended.object, "Ready").2);
    all.push(("suspended-after-the-end", ended.object, "Healthy", message));
    all
}

#[test]
fn a_scenario_leads_to_every_state() {
    for state in State::ALL {
        let (_, reason, _) = condition(&in_state(*state).object, "Succeeded");
        assert_eq!(reason, state.as_str());
    }
}

/// The promoted ones are written by hand; `deploy/argocd/testdata/README.md` says which.
#[test]
fn the_health_check_is_tested_on_what_the_controller_writes() {
    let mut tests = Vec::new();
    for state in State::ALL {
        let object = in_state(*state).object;
        let meaning = state.meaning();
        let health = match (meaning.suspended, meaning.ready, meaning.stalled) {
            (Truth::True, ..) => "Suspended",
            (_, Truth::True, _) => "Healthy",
            (.., Truth::True) => "Degraded",
            _ => "Progressing",
        };
        let (_, reason, message) = condition(&object, "Ready");
        let message = if health == "Suspended" { message } else { format!("{reason}: {message}") };
        tests.push((kebab(state.as_str()), object, health, message));
    }
    tests
        .extend(others().into_iter().map(|(name, object, health, message)| (name.to_owned(), object, health, message)));
    let mut index = Vec::new();
    for (name, object, health, message) in tests {
        let path = format!("testdata/{name}.yaml");
        same(&format!("deploy/argocd/{path}"), &serde_saphyr::to_string(&object).unwrap());
        index.push(json!({"healthStatus": {"status": health, "message": message}, "inputPath": path}));
    }
    let by_hand = std::fs::read_to_string(file("deploy/argocd/testdata/promotion/tests.yaml")).unwrap();
    let by_hand: Value = serde_saphyr::from_str(&by_hand).unwrap();
    index.extend(by_hand["tests"].as_array().unwrap().iter().cloned());
    let text = serde_saphyr::to_string(&json!({"tests": index})).unwrap();
    same(
        "deploy/argocd/health_test.yaml",
        &format!("# Written by `BLESS=1 cargo test --test packaging`. Do not edit.\n{text}"),
    );
}

fn kebab(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

/// Entries of the runbook: heading and text.
fn runbook() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(file("docs/runbook.md")).unwrap();
    let entries = text.split("\n### ").skip(1).map(|entry| {
        let (heading, text) = entry.split_once('\n').unwrap();
        (heading.trim().to_owned(), text.to_owned())
    });
    entries.collect()
}

/// Every reason that conditions carry besides the names of states, as the controller writes them.
fn condition_reasons() -> BTreeSet<String> {
    let objects = State::ALL.iter().map(|state| in_state(*state).object);
    let reasons = objects.flat_map(|object| {
        let conditions = object["status"]["conditions"].as_array().unwrap().clone();
        conditions.into_iter().map(|c| c["reason"].as_str().unwrap().to_owned())
    });
    reasons.collect()
}

#[test]
fn every_reason_has_one_entry_in_the_runbook() {
    let events = [
        EventReason::DeviceFallback,
        EventReason::OutputDeleted,
        EventReason::OutputNotDeleted,
        EventReason::Promoted,
        EventReason::PromotionFailed,
        EventReason::TimeToLiveOver,
    ];
    let mut all: BTreeSet<String> = State::ALL.iter().map(ToString::to_string).collect();
    all.extend(Reason::ALL.iter().map(ToString::to_string));
    all.extend(events.iter().map(|event| event.as_str().to_owned()));
    all.extend(condition_reasons());
    all.extend(PROMOTION_REASONS.map(str::to_owned));
    let entries = runbook();
    for reason in &all {
        let found = entries.iter().filter(|(heading, _)| heading == reason).count();
        assert_eq!(found, 1, "docs/runbook.md has {found} entries `### {reason}`");
    }
    for (heading, _) in &entries {
        let known = all.contains(heading) || heading.starts_with("Bakehouse");
        assert!(known, "docs/runbook.md has an entry for {heading}, which nothing writes");
    }
}

#[test]
fn the_runbook_names_exit_codes_and_what_to_do() {
    let entries = runbook();
    let entry = |name: &str| entries.iter().find(|(heading, _)| heading == name).unwrap().1.clone();
    for reason in Reason::ALL {
        let text = entry(&reason.to_string());
        let code = format!("Exit code: {}", reason.exit_code());
        assert!(text.contains(&code), "the entry of {reason} does not say `{code}`");
    }
    for state in State::ALL {
        let text = entry(state.as_str());
        for part in ["**Means.**", "**The operator.**", "**You.**"] {
            assert!(text.contains(part), "the entry of {state} has no {part}");
        }
    }
}

#[test]
fn every_alert_has_an_entry_in_the_runbook() {
    let rules = std::fs::read_to_string(file("deploy/prometheus/rules.yaml")).unwrap();
    let alerts: BTreeSet<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(!alerts.is_empty());
    let entries = runbook();
    let headings: BTreeSet<&str> =
        entries.iter().map(|(heading, _)| heading.as_str()).filter(|h| h.starts_with("Bakehouse")).collect();
    assert_eq!(
        alerts, headings,
        "alerts of deploy/prometheus/rules.yaml on the left, entries of docs/runbook.md on the right"
    );
}

/// By the rules of the API server; the cluster tests send the same files to a real one.
#[test]
fn the_examples_for_a_cluster_are_valid() {
    let mut seen = 0;
    for entry in std::fs::read_dir(file("examples/kubernetes")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let documents: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(&path).unwrap()).unwrap();
        for mut object in documents.into_iter().filter(|document| document["kind"] == "BakeJob") {
            let admitted = load::admit(&object, None);
            assert!(admitted.is_ok(), "{}: {admitted:?}", path.display());
            object["metadata"]["namespace"] = json!("ml");
            object["metadata"]["uid"] = json!("u");
            let job = validate(&load::admit(&object, None).unwrap(), &Defaults::default()).unwrap();
            assert_eq!(job.refusal, None, "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 3);
}
