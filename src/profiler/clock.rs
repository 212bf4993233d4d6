//! Clocks: wall time, and the CPU time of a thread or of the process.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// What time is read from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// Time that passes. What a caller waits; disturbed by whatever else runs.
    Wall,
    /// CPU time of the calling thread. Blind to work on other threads: only for one-threaded runs.
    #[default]
    ThreadCpu,
    /// CPU time of all threads of this process.
    ProcessCpu,
}

impl Clock {
    /// The CPU clock that sees all work of a run on so many threads.
    pub fn cpu(threads: usize) -> Self {
        if threads <= 1 { Self::ThreadCpu } else { Self::ProcessCpu }
    }

    /// Time since a fixed but arbitrary moment.
    ///
    /// # Panics
    /// Never on Linux, which has all three clocks.
    pub fn now(self) -> Duration {
        let id = match self {
            Self::Wall => ClockId::CLOCK_MONOTONIC,
            Self::ThreadCpu => ClockId::CLOCK_THREAD_CPUTIME_ID,
            Self::ProcessCpu => ClockId::CLOCK_PROCESS_CPUTIME_ID,
        };
        clock_gettime(id).expect("Linux has the three clocks").into()
    }

    /// Seconds since a moment of the same clock.
    pub fn since(self, start: Duration) -> f64 {
        self.now().saturating_sub(start).as_secs_f64()
    }

    /// Seconds that `work` takes, with what it returns.
    pub fn time<T>(self, work: impl FnOnce() -> T) -> (f64, T) {
        let start = self.now();
        let result = work();
        (self.since(start), result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_clock_runs_backwards_and_sleep_costs_no_cpu() {
        for clock in [Clock::Wall, Clock::ThreadCpu, Clock::ProcessCpu] {
            let start = clock.now();
            assert!(clock.now() >= start, "{clock:?}");
        }
        let (wall, (cpu, ())) =
            Clock::Wall.time(|| Clock::ThreadCpu.time(|| std::thread::sleep(Duration::from_millis(20))));
        assert!(wall >= 0.02 && cpu < wall, "wall {wall} cpu {cpu}");
    }

    #[test]
    fn more_than_one_thread_needs_the_clock_of_the_process() {
        assert_eq!((Clock::cpu(1), Clock::cpu(2)), (Clock::ThreadCpu, Clock::ProcessCpu));
    }
}
