//! What waits to be looked at, and for how long, under the names that controller-runtime gives its work queue.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::children::Key;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabel {
    name: &'static str,
}

const OURS: NameLabel = NameLabel { name: "bakejob" };

/// Controller-runtime's buckets, down to a tenth of a millisecond.
const SECONDS: [f64; 8] = [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0];

type Times = Family<NameLabel, Histogram, fn() -> Histogram>;

/// The queue, as it is measured. An object that is asked for several times before it is looked at waits once.
#[derive(Debug)]
pub(super) struct Workqueue {
    waiting: Mutex<HashMap<Key, Instant>>,
    working: Mutex<HashMap<Key, Instant>>,
    depth: Family<NameLabel, Gauge>,
    adds: Family<NameLabel, Counter>,
    retries: Family<NameLabel, Counter>,
    waited: Times,
    worked: Times,
    longest: Family<NameLabel, Gauge<f64, std::sync::atomic::AtomicU64>>,
    unfinished: Family<NameLabel, Gauge<f64, std::sync::atomic::AtomicU64>>,
}

impl Workqueue {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(SECONDS);
        let queue = Self {
            waiting: Mutex::default(),
            working: Mutex::default(),
            depth: Family::default(),
            adds: Family::default(),
            retries: Family::default(),
            waited: Times::new_with_constructor(seconds),
            worked: Times::new_with_constructor(seconds),
            longest: Family::default(),
            unfinished: Family::default(),
        };
        registry.register("workqueue_depth", "Objects that wait to be looked at", queue.depth.clone());
        registry.register("workqueue_adds", "Objects that were asked to be looked at", queue.adds.clone());
        registry.register(
            "workqueue_retries",
            "Objects that are looked at again after a failure",
            queue.retries.clone(),
        );
        registry.register("workqueue_queue_duration_seconds", "How long an object waited", queue.waited.clone());
        registry.register("workqueue_work_duration_seconds", "How long a look took", queue.worked.clone());
        registry.register(
            "workqueue_longest_running_processor_seconds",
            "How long the longest look in progress has taken",
            queue.longest.clone(),
        );
        registry.register(
            "workqueue_unfinished_work_seconds",
            "How long all looks in progress have taken together",
            queue.unfinished.clone(),
        );
        queue
    }

    /// An object was asked for.
    pub(super) fn asked(&self, key: &Key) {
        self.adds.get_or_create(&OURS).inc();
        locked(&self.waiting).entry(key.clone()).or_insert_with(Instant::now);
    }

    /// It is not looked at after all: it is gone, or this replica does not lead.
    pub(super) fn forget(&self, key: &Key) {
        locked(&self.waiting).remove(key);
    }

    /// It is looked at, until the guard is dropped.
    pub(super) fn begins(&self, key: Key) -> Working<'_> {
        let now = Instant::now();
        if let Some(since) = locked(&self.waiting).remove(&key) {
            self.waited.get_or_create(&OURS).observe((now - since).as_secs_f64());
        }
        locked(&self.working).insert(key.clone(), now);
        Working { queue: self, key }
    }

    /// How many looks are in progress.
    pub(super) fn in_progress(&self) -> i64 {
        i64::try_from(locked(&self.working).len()).unwrap_or(i64::MAX)
    }

    /// It is looked at again because of a failure.
    pub(super) fn retried(&self) {
        self.retries.get_or_create(&OURS).inc();
    }

    /// Brings the gauges up to date.
    pub(super) fn measure(&self) {
        let waiting = i64::try_from(locked(&self.waiting).len()).unwrap_or(i64::MAX);
        self.depth.get_or_create(&OURS).set(waiting);
        let times: Vec<Duration> = locked(&self.working).values().map(Instant::elapsed).collect();
        self.longest.get_or_create(&OURS).set(times.iter().max().map_or(0.0, Duration::as_secs_f64));
        self.unfinished.get_or_create(&OURS).set(times.iter().sum::<Duration>().as_secs_f64());
    }
}

/// A look in progress.
pub(super) struct Working<'q> {
    queue: &'q Workqueue,
    key: Key,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if let Some(since) = locked(&self.queue.working).remove(&self.key) {
            self.queue.worked.get_or_create(&OURS).observe(since.elapsed().as_secs_f64());
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    fn key(name: &str) -> Key {
        ("ml".into(), name.into())
    }

    #[test]
    fn an_object_waits_once_however_often_it_is_asked_for() {
        let mut registry = Registry::default();
        let queue = Workqueue::new(&mut registry);
        for name in ["a", "a", "b", "c"] {
            queue.asked(&key(name));
        }
        queue.forget(&key("c"));
        drop(queue.begins(key("a")));
        let busy = queue.begins(key("d"));
        queue.measure();
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        drop(busy);
        for line in [
            "workqueue_depth{name=\"bakejob\"} 1",
            "workqueue_adds_total{name=\"bakejob\"} 4",
            "workqueue_queue_duration_seconds_count{name=\"bakejob\"} 1",
            "workqueue_work_duration_seconds_count{name=\"bakejob\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("longest_running_processor_seconds{name=\"bakejob\"} 0.0\n"), "{text}");
    }
}
