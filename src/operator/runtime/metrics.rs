//! What `/metrics` shows: the names that dashboards of controllers know, and our own. No label ever holds a name that a user chose.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::requests::Requests;
use super::workqueue::Workqueue;
use crate::api::bakejob::BakeJobStatus;
use crate::api::conditions::GATE_PASSED;
use crate::api::state::{State, Truth};
use crate::operator::decide;
use crate::operator::names::CONTROLLER;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    controller: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControllerLabel {
    controller: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    controller: &'static str,
    error: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CompletedLabel {
    result: &'static str,
    reason: &'static str,
    target: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TargetLabel {
    target: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabel {
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LeaseLabel {
    name: &'static str,
}

/// Every metric.
pub(super) struct Metrics {
    registry: Registry,
    /// What waits and what is worked on.
    pub(super) queue: Workqueue,
    /// What the API server was asked.
    pub(super) requests: Requests,
    reconciles: Family<ResultLabel, Counter>,
    errors: Family<KindLabel, Counter>,
    timeouts: Family<ControllerLabel, Counter>,
    panics: Family<ControllerLabel, Counter>,
    time: Family<ControllerLabel, Histogram, fn() -> Histogram>,
    workers: Family<ControllerLabel, Gauge>,
    leader: Family<LeaseLabel, Gauge>,
    writes: Counter,
    jobs: Family<StateLabel, Gauge>,
    completed: Family<CompletedLabel, Counter>,
    duration: Family<TargetLabel, Histogram, fn() -> Histogram>,
    queued: Histogram,
    gates: Family<VerdictLabel, Counter>,
}

const OURS: ControllerLabel = ControllerLabel { controller: CONTROLLER };

impl Metrics {
    pub(super) fn new(concurrency: u16) -> Self {
        let seconds: fn() -> Histogram =
            || Histogram::new([0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]);
        let long: fn() -> Histogram = || Histogram::new(LONG);
        let mut registry = Registry::default();
        let metrics = Self {
            queue: Workqueue::new(&mut registry),
            requests: Requests::default(),
            registry,
            reconciles: Family::default(),
            errors: Family::default(),
            timeouts: Family::default(),
            panics: Family::default(),
            time: Family::new_with_constructor(seconds),
            workers: Family::default(),
            leader: Family::default(),
            writes: Counter::default(),
            jobs: Family::default(),
            completed: Family::default(),
            duration: Family::new_with_constructor(long),
            queued: Histogram::new(LONG),
            gates: Family::default(),
        };
        let most: Family<ControllerLabel, Gauge> = Family::default();
        most.get_or_create(&OURS).set(concurrency.into());
        metrics.registered(most)
    }

    fn registered(mut self, most: Family<ControllerLabel, Gauge>) -> Self {
        let r = &mut self.registry;
        r.register("controller_runtime_reconcile", "Reconciles by result", self.reconciles.clone());
        r.register("controller_runtime_reconcile_errors", "Reconciles that failed, by kind", self.errors.clone());
        r.register("controller_runtime_reconcile_timeouts", "Reconciles that took too long", self.timeouts.clone());
        r.register("controller_runtime_reconcile_panics", "Reconciles that panicked", self.panics.clone());
        r.register("controller_runtime_reconcile_time_seconds", "Time of a reconcile", self.time.clone());
        r.register("controller_runtime_active_workers", "Reconciles in progress", self.workers.clone());
        r.register("controller_runtime_max_concurrent_reconciles", "Most reconciles side by side", most);
        r.register("rest_client_requests", "Requests to the API server", self.requests.0.clone());
        r.register("leader_election_master_status", "1 while this replica leads", self.leader.clone());
        r.register("bakejob_status_writes", "Statuses published", self.writes.clone());
        r.register("bakejob_jobs", "BakeJobs by state", self.jobs.clone());
        r.register("bakejob_completed", "Runs that ended", self.completed.clone());
        r.register("bakejob_duration_seconds", "From start to end of a run", self.duration.clone());
        r.register("bakejob_queue_seconds", "From creation to the start of the first run", self.queued.clone());
        r.register("bakejob_gate", "Runs by the verdict of their gates", self.gates.clone());
        self
    }

    /// A reconcile ended.
    pub(super) fn reconciled(&self, result: &'static str, took: Duration) {
        self.reconciles.get_or_create(&ResultLabel { controller: CONTROLLER, result }).inc();
        self.time.get_or_create(&OURS).observe(took.as_secs_f64());
    }

    /// A reconcile failed.
    pub(super) fn failed(&self, error: &'static str) {
        self.errors.get_or_create(&KindLabel { controller: CONTROLLER, error }).inc();
    }

    /// A reconcile took too long.
    pub(super) fn timed_out(&self) {
        self.timeouts.get_or_create(&OURS).inc();
    }

    /// A reconcile panicked.
    pub(super) fn panicked(&self) {
        self.panics.get_or_create(&OURS).inc();
    }

    /// Whether this replica leads.
    pub(super) fn leads(&self, leads: bool) {
        self.leader.get_or_create(&LeaseLabel { name: CONTROLLER }).set(leads.into());
    }

    /// A status was published.
    pub(super) fn published(&self, created: Option<i64>, old: &BakeJobStatus, new: &BakeJobStatus) {
        self.writes.inc();
        let start = new.start_time.as_ref().map(|t| t.0.as_second());
        if let (Some(created), Some(start), None, Some(1)) = (created, start, &old.start_time, new.runs) {
            self.queued.observe((start - created).max(0) as f64);
        }
        if old.completion_time == new.completion_time {
            return;
        }
        let (Some(state), Some(end)) = (decide::state(new), new.completion_time.as_ref()) else { return };
        let result = if state.meaning().succeeded == Truth::True { "succeeded" } else { "failed" };
        let target = match new.hardware.as_ref().and_then(|h| h.device.as_deref()) {
            Some("CUDA") => "CUDA",
            Some("CPU") => "CPU",
            _ => "none",
        };
        self.completed.get_or_create(&CompletedLabel { result, reason: state.as_str(), target }).inc();
        if let Some(start) = start {
            self.duration.get_or_create(&TargetLabel { target }).observe((end.0.as_second() - start).max(0) as f64);
        }
        let verdict = new.conditions.iter().find(|c| c.type_ == GATE_PASSED).map(|c| c.reason.as_str());
        let verdict = match verdict {
            Some("GatesPassed") => "pass",
            Some("ThresholdMissed") => "fail",
            Some("Inconclusive") => "inconclusive",
            _ => return,
        };
        self.gates.get_or_create(&VerdictLabel { verdict }).inc();
    }

    /// All of it as text, with the states of these jobs.
    pub(super) fn text(&self, states: impl Iterator<Item = State>) -> String {
        for state in State::ALL {
            self.jobs.get_or_create(&StateLabel { state: state.as_str() }).set(0);
        }
        for state in states {
            self.jobs.get_or_create(&StateLabel { state: state.as_str() }).inc();
        }
        self.queue.measure();
        self.workers.get_or_create(&OURS).set(self.queue.in_progress());
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Buckets from a second to six hours.
const LONG: [f64; 12] = [1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_those_that_dashboards_know() {
        let metrics = Metrics::new(16);
        metrics.reconciled("success", Duration::from_millis(3));
        metrics.failed("Api");
        metrics.timed_out();
        metrics.leads(true);
        let looking = metrics.queue.begins(("ml".into(), "cnn".into()));
        let text = metrics.text([State::Running, State::Running, State::Baked].into_iter());
        drop(looking);
        for line in [
            "controller_runtime_reconcile_total{controller=\"bakehouse-operator\",result=\"success\"} 1",
            "controller_runtime_max_concurrent_reconciles{controller=\"bakehouse-operator\"} 16",
            "controller_runtime_active_workers{controller=\"bakehouse-operator\"} 1",
            "controller_runtime_reconcile_errors_total{controller=\"bakehouse-operator\",error=\"Api\"} 1",
            "leader_election_master_status{name=\"bakehouse-operator\"} 1",
            "bakejob_jobs{state=\"Running\"} 2",
            "bakejob_jobs{state=\"Queued\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn an_end_is_counted_once_with_verdict_and_device() {
        let metrics = Metrics::new(1);
        let status = |end: Option<&str>| -> BakeJobStatus {
            let mut status = json!({
                "runs": 1, "startTime": "2026-01-01T00:00:10Z", "hardware": {"device": "CPU"},
                "conditions": [
                    {"type": "Succeeded", "status": "True", "reason": "GateFailed", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                    {"type": "GatePassed", "status": "False", "reason": "ThresholdMissed", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                ],
            });
            if let Some(end) = end {
                status["completionTime"] = json!(end);
            }
            serde_json::from_value(status).unwrap()
        };
        let (running, ended) = (status(None), status(Some("2026-01-01T00:01:10Z")));
        metrics.published(Some(1_767_225_600), &BakeJobStatus::default(), &running);
        metrics.published(Some(1_767_225_600), &running, &ended);
        metrics.published(Some(1_767_225_600), &ended, &ended);
        let text = metrics.text(std::iter::empty());
        for line in [
            "bakejob_completed_total{result=\"succeeded\",reason=\"GateFailed\",target=\"CPU\"} 1",
            "bakejob_gate_total{verdict=\"fail\"} 1",
            "bakejob_duration_seconds_sum{target=\"CPU\"} 60.0",
            "bakejob_queue_seconds_sum 10.0",
            "bakejob_queue_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
