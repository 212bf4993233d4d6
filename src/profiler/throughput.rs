//! How many rows per second.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::{Clock, Estimate, Interval, Summary, ThroughputFigure};

/// Rows per second of one thread that runs inference after inference: rows / median latency. The interval's ends change places, as time becomes rate.
pub fn from_latency(batch_rows: usize, latency: &Summary) -> ThroughputFigure {
    let rate = |seconds: f64| batch_rows as f64 / seconds.max(1e-9);
    let interval = latency.p50.interval.map(|i| Interval { low: rate(i.high), high: rate(i.low) });
    ThroughputFigure {
        unit: "1/s".to_owned(),
        batch_rows,
        threads: 1,
        n: latency.n,
        rows_per_second: Estimate { value: rate(latency.p50.value), interval },
    }
}

/// What several threads did side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sustained {
    /// Rows per inference.
    pub batch_rows: usize,
    /// Inferences that each thread finished.
    pub runs: Vec<usize>,
    /// Wall time from the common start until the last thread was done, seconds.
    pub wall_s: f64,
    /// CPU time of the process in that time, seconds.
    pub cpu_s: f64,
}

impl Sustained {
    /// The figure for the report. A single run of some seconds has no interval.
    pub fn figure(&self) -> ThroughputFigure {
        let n = self.runs.iter().sum::<usize>();
        let value = (n * self.batch_rows) as f64 / self.wall_s.max(1e-9);
        ThroughputFigure {
            unit: "1/s".to_owned(),
            batch_rows: self.batch_rows,
            threads: self.runs.len(),
            n,
            rows_per_second: Estimate { value, interval: None },
        }
    }
}

/// One thread's work: an inference on a session of its own.
pub type Worker<'a, E> = Box<dyn FnMut() -> Result<(), E> + Send + 'a>;

/// Runs every worker on its own thread for `seconds` of wall time, each at least once. A worker's error stops all and is returned.
pub fn sustain<E: Send>(workers: Vec<Worker<'_, E>>, seconds: f64, batch_rows: usize) -> Result<Sustained, E> {
    let start = Barrier::new(workers.len() + 1);
    let stop = AtomicBool::new(false);
    let (mut wall, mut cpu) = (Clock::Wall.now(), Clock::ProcessCpu.now());
    let results: Vec<Result<usize, E>> = std::thread::scope(|scope| {
        let threads: Vec<_> = workers
            .into_iter()
            .map(|mut run| {
                let (start, stop) = (&start, &stop);
                scope.spawn(move || {
                    start.wait();
                    let begin = Clock::Wall.now();
                    let mut runs = 0;
                    loop {
                        if let Err(error) = run() {
                            stop.store(true, Ordering::Relaxed);
                            return Err(error);
                        }
                        runs += 1;
                        if stop.load(Ordering::Relaxed) || Clock::Wall.since(begin) >= seconds {
                            return Ok(runs);
                        }
                    }
                })
            })
            .collect();
        start.wait();
        (wall, cpu) = (Clock::Wall.now(), Clock::ProcessCpu.now());
        threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let (wall_s, cpu_s) = (Clock::Wall.since(wall), Clock::ProcessCpu.since(cpu));
    Ok(Sustained { batch_rows, runs: results.into_iter().collect::<Result<_, _>>()?, wall_s, cpu_s })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_faster_end_of_latency_is_the_higher_end_of_throughput() {
        let latency = Summary::of(&[0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.4]).unwrap();
        let figure = from_latency(8, &latency);
        let interval = figure.rows_per_second.interval.unwrap();
        assert_eq!((figure.rows_per_second.value, interval.low, interval.high), (40.0, 20.0, 80.0));
    }

    #[test]
    fn every_thread_runs_and_is_counted() {
        let count = AtomicUsize::new(0);
        let worker = || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok::<(), ()>(())
        };
        let sustained = sustain(vec![Box::new(worker), Box::new(worker), Box::new(worker)], 0.0, 4).unwrap();
        assert_eq!(sustained.runs, [1, 1, 1]);
        assert_eq!(count.load(Ordering::Relaxed), 3);
        let figure = sustained.figure();
        assert_eq!((figure.threads, figure.n), (3, 3));
        assert!(figure.rows_per_second.value > 0.0);
    }

    #[test]
    fn an_error_stops_all_threads() {
        let result = sustain(vec![Box::new(|| Ok(())), Box::new(|| Err("broken"))], 600.0, 1);
        assert_eq!(result, Err("broken"));
    }
}
