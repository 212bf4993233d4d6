//! Clocks and memory counters of the operating system.

use nix::time::{ClockId, clock_gettime};

/// CPU seconds that the calling thread has used. On a shared machine this is what one thread's work costs, whoever else runs.
pub fn thread_cpu_seconds() -> f64 {
    seconds(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU seconds that all threads of this process have used.
pub fn process_cpu_seconds() -> f64 {
    seconds(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

/// Seconds of the monotonic clock.
pub fn wall_seconds() -> f64 {
    seconds(ClockId::CLOCK_MONOTONIC)
}

fn seconds(clock: ClockId) -> f64 {
    // These clocks exist on every Linux; a kernel without them could not run this program.
    clock_gettime(clock).map_or(f64::NAN, |t| t.tv_sec() as f64 + t.tv_nsec() as f64 * 1e-9)
}

/// Largest resident memory of this process so far, bytes (`VmHWM`).
pub fn peak_rss_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

/// Resident memory of this process now, bytes (`VmRSS`).
pub fn rss_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

fn status_bytes(field: &str) -> Option<u64> {
    parse_status(&std::fs::read_to_string("/proc/self/status").ok()?, field)
}

/// A field of `/proc/<pid>/status`, which counts in units of 1,024 bytes.
fn parse_status(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_fields_are_read_in_bytes() {
        assert_eq!(parse_status("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n", "VmHWM:"), Some(2 << 20));
        assert_eq!(parse_status("Name:\tx\n", "VmHWM:"), None);
        // In this order: other tests of this process go on allocating.
        let now = rss_bytes();
        assert!(peak_rss_bytes() >= now);
    }

    #[test]
    fn cpu_time_advances_with_work_and_not_beyond_the_process() {
        let (thread, process) = (thread_cpu_seconds(), process_cpu_seconds());
        std::hint::black_box((0..2_000_000_u64).fold(0, |a, b| a ^ b.wrapping_mul(0x9e37_79b9)));
        assert!(thread_cpu_seconds() > thread && process_cpu_seconds() > process);
    }
}
