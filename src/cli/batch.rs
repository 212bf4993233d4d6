//! Many bakes at once. Each is a process of its own, so that one that crashes or runs out of memory does not disturb the rest; timing runs take turns.

use std::collections::VecDeque;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
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
    let queue: Mutex<VecDeque<usize>> = Mutex::new((0..tasks.len()).collect());
    let done: Mutex<Vec<Option<Summary>>> = Mutex::new(vec![None; tasks.len()]);
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(tasks.len()) {
            scope.spawn(|| {
                while let Some(next) = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front() {
                    let summary = one(&tasks[next], flags);
                    let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    done[next] = Some(summary.clone());
                    let finished = done.iter().flatten().count();
                    if !quiet {
                        let _ = writeln!(
                            std::io::stderr(),
                            "[{finished}/{}] {}: {}",
                            tasks.len(),
                            summary.job,
                            summary.message
                        );
                    }
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_iter().flatten().collect()
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
    let output = Command::new(program)
        .args(["bake", "--json", "--quiet", "--document", &task.document.to_string(), "--file"])
        .arg(&task.file)
        .args(flags)
        .stdin(Stdio::null())
        .output();
    match output {
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
