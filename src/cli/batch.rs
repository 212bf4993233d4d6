//! Many bakes at once. Each is a process of its own, so that one that crashes or runs out of memory does not disturb the rest; timing runs take turns.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::text;
use crate::api::Reason;
use crate::bake::Summary;

/// One bake of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    /// Name for the table.
    pub(crate) name: String,
    /// The `BakeJob` file.
    pub(crate) file: PathBuf,
    /// Which document of it.
    pub(crate) document: usize,
    /// The job could not even be read: why.
    pub(crate) refused: Option<(Reason, String)>,
}

/// Runs the tasks, `jobs` at a time, with `flags` passed on to each. Reports each as it ends; returns the summaries in the order of the tasks.
pub(crate) fn run(tasks: &[Task], jobs: usize, flags: &[String], quiet: bool) -> Vec<Summary> {
    let finished = AtomicUsize::new(0);
    each(tasks.len(), jobs, |next| {
        let summary = one(&tasks[next], flags);
        let finished = finished.fetch_add(1, Ordering::Relaxed) + 1;
        if !quiet {
            let _ = writeln!(std::io::stderr(), "[{finished}/{}] {}: {}", tasks.len(), summary.job, summary.message);
        }
        summary
    })
}

/// `work` of every number below `count`, `at_once` at a time, in the order of the numbers.
fn each<R: Send>(count: usize, at_once: usize, work: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
        let worker = || {
            let mine = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&n| n < count));
            mine.map(|n| (n, work(n))).collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..at_once.min(count)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    done.sort_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, result)| result).collect()
}

fn one(task: &Task, flags: &[String]) -> Summary {
    let started = Instant::now();
    let failed = |reason, message| Summary::failed(&task.name, reason, message, started.elapsed().as_secs_f64());
    if let Some((reason, message)) = &task.refused {
        return failed(*reason, message.clone());
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return failed(Reason::Internal, format!("cannot find this program again: {error}")),
    };
    let mut command = Command::new(program);
    command.args(["bake", "--json", "--quiet", "--document", &task.document.to_string(), "--file"]);
    command.arg(&task.file).args(flags).stdin(Stdio::null());
    match crate::signals::output(&mut command) {
        Err(error) => failed(Reason::Internal, format!("cannot start a bake: {error}")),
        Ok(output) => serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let last = stderr.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it printed nothing");
            failed(Reason::Internal, format!("the bake's process ended with {}: {last}", output.status))
        }),
    }
}

/// The exit code of a batch: that of its worst job (70, then 2 and 10-22, then 3, then 4, then 0).
pub(crate) fn exit_code(summaries: &[Summary]) -> u8 {
    let severity = |code: u8| match code {
        0 => 0,
        4 => 1,
        3 => 2,
        70 => 4,
        _ => 3,
    };
    summaries.iter().map(|s| s.reason.exit_code()).max_by_key(|&code| (severity(code), code)).unwrap_or(0)
}

/// The table at the end of a batch.
pub(crate) fn table(summaries: &[Summary]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header([
        "Job",
        "Result",
        "Candidate",
        "Size",
        "Speedup",
        "Retention",
        "Seconds",
    ]);
    for summary in summaries {
        let figures = summary.result.as_ref();
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row([
            Cell::new(&summary.job),
            Cell::new(summary.reason),
            Cell::new(figures.map_or("-", |f| f.candidate.as_str())),
            right(figures.map_or_else(|| "-".to_owned(), |f| text::size_change(f.bytes))),
            right(figures.and_then(|f| f.speedup).map_or_else(|| "-".to_owned(), |s| format!("{:.2}x", s.estimate))),
            right(
                figures
                    .and_then(|f| f.retention)
                    .map_or_else(|| "-".to_owned(), |r| format!("{:.2} %", r.estimate * 100.0)),
            ),
            right(format!("{:.1}", summary.seconds)),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn tasks_run_side_by_side_and_their_results_keep_the_order() {
        // Each of the two waits for a word of the other: one after the other, neither would ever get it.
        let (to_first, from_second) = mpsc::channel();
        let (to_second, from_first) = mpsc::channel();
        let ends = [std::sync::Mutex::new((to_second, from_second)), std::sync::Mutex::new((to_first, from_first))];
        let met = each(2, 2, |n| {
            let (other, mine) = &*ends[n].lock().unwrap();
            other.send(()).unwrap();
            mine.recv_timeout(Duration::from_secs(30)).is_ok()
        });
        assert_eq!(met, [true, true]);
        assert_eq!(each(100, 3, |n| n), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn the_worst_job_decides_the_exit_code() {
        let of = |reasons: &[Reason]| {
            exit_code(&reasons.iter().map(|&r| Summary::failed("j", r, String::new(), 0.0)).collect::<Vec<_>>())
        };
        assert_eq!(of(&[Reason::Baked, Reason::NoImprovement]), 0);
        assert_eq!(of(&[Reason::Baked, Reason::GateInconclusive, Reason::GateFailed]), 3);
        assert_eq!(of(&[Reason::GateFailed, Reason::InvalidModel, Reason::GateInconclusive]), 10);
        assert_eq!(of(&[Reason::InvalidJob, Reason::Internal, Reason::InvalidModel]), 70);
    }
}
