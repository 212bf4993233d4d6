//! When a Job was seen complete, and when its `BakeJob` was seen terminal, both by watches of this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bakehouse::api::BakeJob;
use futures::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

type Times = Arc<Mutex<HashMap<String, Instant>>>;

pub(crate) struct Watched {
    complete: Times,
    terminal: Times,
}

impl Watched {
    pub(crate) fn begin(client: &Client) -> Self {
        let watched = Self { complete: Times::default(), terminal: Times::default() };
        let (complete, terminal) = (watched.complete.clone(), watched.terminal.clone());
        let jobs = watcher(Api::<Job>::all(client.clone()), watcher::Config::default().labels("bakehouse.dev/bakejob"));
        tokio::spawn(jobs.default_backoff().applied_objects().for_each(move |job| {
            if let Ok(job) = job {
                let ended =
                    job.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Complete");
                let name = job.labels().get("bakehouse.dev/bakejob").cloned().unwrap_or_default();
                note(&complete, ended, &job, &name);
            }
            std::future::ready(())
        }));
        let bakejobs = watcher(Api::<BakeJob>::all(client.clone()), watcher::Config::default());
        tokio::spawn(bakejobs.default_backoff().applied_objects().for_each(move |job| {
            if let Ok(job) = job {
                let ended = job.status.as_ref().is_some_and(|status| status.completion_time.is_some());
                note(&terminal, ended, &job, &job.name_any());
            }
            std::future::ready(())
        }));
        watched
    }

    /// Waits until so many are terminal, and returns how many are.
    pub(crate) async fn all_terminal(&self, jobs: u32, within: Duration) -> u64 {
        let started = Instant::now();
        let mut told = Instant::now();
        loop {
            let count = self.terminal.lock().unwrap().len() as u64;
            if count >= u64::from(jobs) || started.elapsed() > within {
                return count;
            }
            if told.elapsed() > Duration::from_secs(15) {
                told = Instant::now();
                eprintln!("{count} of {jobs} after {:.0} s", started.elapsed().as_secs_f64());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The percentiles of the delay from one to the other.
    pub(crate) fn delays(&self) -> String {
        let (complete, terminal) = (self.complete.lock().unwrap(), self.terminal.lock().unwrap());
        let mut delays: Vec<f64> = terminal
            .iter()
            .filter_map(|(key, end)| Some(end.saturating_duration_since(*complete.get(key)?).as_secs_f64() * 1e3))
            .collect();
        delays.sort_by(f64::total_cmp);
        let at = |share: f64| delays.get(((delays.len() as f64 * share) as usize).min(delays.len().saturating_sub(1)));
        match (at(0.5), at(0.99), delays.last()) {
            (Some(p50), Some(p99), Some(most)) => {
                format!("p50 {p50:.0} ms, p99 {p99:.0} ms, most {most:.0} ms (n = {})", delays.len())
            }
            _ => "no pair was seen".to_owned(),
        }
    }
}

fn note(times: &Times, ended: bool, object: &impl ResourceExt, name: &str) {
    let namespace = object.namespace().unwrap_or_default();
    if ended && namespace.starts_with("scale-") {
        times.lock().unwrap().entry(format!("{namespace}/{name}")).or_insert_with(Instant::now);
    }
}
