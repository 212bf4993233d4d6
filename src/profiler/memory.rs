//! Resident memory of this process and of its children.

use std::path::Path;

use nix::sys::resource::{UsageWho, getrusage};

use super::ProfilerError;

const STATUS: &str = "/proc/self/status";

/// Resident memory of this process, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resident {
    /// Now.
    pub current: u64,
    /// The most since the process began or [`reset_peak`].
    pub peak: u64,
}

/// Reads the resident memory of this process.
pub fn resident() -> Result<Resident, ProfilerError> {
    let failed = |detail: String| ProfilerError::Proc { path: Path::new(STATUS).to_owned(), detail };
    let text = std::fs::read_to_string(STATUS).map_err(|e| failed(e.to_string()))?;
    parse(&text).ok_or_else(|| failed("it has no VmRSS and VmHWM".to_owned()))
}

fn parse(status: &str) -> Option<Resident> {
    let bytes = |key: &str| {
        let value = status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
        value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Resident { current: bytes("VmRSS")?, peak: bytes("VmHWM")? })
}

/// Starts the peak of this process anew from what is resident now. Fails where the kernel does not allow it; then only a fresh process tells.
pub fn reset_peak() -> std::io::Result<()> {
    // 5 resets the high-water mark (Linux, Documentation/filesystems/proc.rst, clear_refs).
    std::fs::write("/proc/self/clear_refs", "5")
}

/// The largest peak of *any* child that ended and was waited for, bytes; 0 without one. The kernel keeps no figure per child behind this call, so it only
/// speaks of one child when that was the first, or the largest. A child that prints its own [`resident`] peak as its last act says it exactly.
pub fn children_peak() -> u64 {
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0, |u| u64::try_from(u.max_rss()).unwrap_or(0).saturating_mul(1024))
}

/// CPU seconds (user + system) of this process so far.
pub fn cpu_seconds() -> f64 {
    super::Clock::ProcessCpu.now().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_figures_are_read_in_bytes() {
        let status = "Name:\tbakehouse\nVmPeak:\t  999 kB\nVmHWM:\t  2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(parse(status), Some(Resident { current: 1 << 20, peak: 2 << 20 }));
        assert_eq!(parse("Name:\tkthread\n"), None);
    }

    #[test]
    fn a_large_allocation_raises_the_peak_and_the_peak_outlives_it() {
        const SIZE: usize = 64 << 20;
        let before = resident().unwrap();
        let block = vec![1_u8; SIZE];
        assert_eq!(block.iter().step_by(4096).map(|&b| u64::from(b)).sum::<u64>(), (SIZE / 4096) as u64);
        drop(block);
        let after = resident().unwrap();
        assert!(after.peak >= before.current + (SIZE as u64) / 2, "{before:?} {after:?}");
    }

    #[test]
    fn a_finished_child_has_a_peak() {
        assert!(std::process::Command::new("true").status().unwrap().success());
        assert!(children_peak() > 0);
    }
}
