//! The worker of a pod: takes its assignment from the environment, bakes by the same pipeline as a person's shell, tells its progress in log
//! lines and its result in the termination message. It has no credentials of the API and needs none.
//!
//! [`bake`] is that pipeline with the files of object storage fetched before it and published after it; a shell goes through it too.

mod assignment;
pub(crate) mod cache;
mod clean;
mod outcome;
mod place;
mod progress;
pub(crate) mod promote;
mod retention;
mod stages;
#[cfg(feature = "store")]
mod stored;
mod verify;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::api::bakejob::Cache;
use crate::api::wire::{ASSIGNMENT_VARIABLE, Assignment, Outcome, TERMINATION_PATH, TERMINATION_VARIABLE, Task};
use crate::api::{Reason, ResolvedJob, floor};
use crate::bake::{BakeError, Options, Progress, Summary};
use crate::engine::Engines;
use crate::signals::HeldFolder;
use progress::Lines;
pub(crate) use verify::verify;

/// A finished bake.
pub(crate) struct Baked {
    /// How it ended.
    pub(crate) summary: Summary,
    /// Where its files lie on this machine, for as long as this is held.
    folder: PathBuf,
    _held: Option<HeldFolder>,
}

/// Why a bake, or what goes before and after it, could not be done.
#[derive(Debug)]
pub(crate) struct Failed {
    reason: Reason,
    message: String,
}

impl Failed {
    pub(crate) fn reason(&self) -> Reason {
        self.reason
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// A folder for what is on its way; it goes with the value.
pub(crate) fn scratch() -> Result<HeldFolder, Failed> {
    HeldFolder::temporary().map_err(|error| Failed {
        reason: Reason::OutputUnwritable,
        message: format!("cannot make a folder for temporary files: {error}. Set TMPDIR to one that may be written."),
    })
}

impl From<BakeError> for Failed {
    fn from(error: BakeError) -> Self {
        Self { reason: error.reason(), message: error.to_string() }
    }
}

#[cfg(feature = "store")]
impl From<crate::store::StoreError> for Failed {
    fn from(error: crate::store::StoreError) -> Self {
        Self { reason: error.reason(), message: error.to_string() }
    }
}

/// Bakes a job wherever its files lie, and lets earlier results go as it says. Finished stages are kept until the result is published, a bucket's
/// included, or cannot come about. `cache` is where results are kept for later bakes of the same inputs.
pub(crate) fn bake(
    job: &ResolvedJob,
    options: &Options,
    cache: Option<&Path>,
    progress: &mut dyn Progress,
) -> Result<Baked, Failed> {
    let mut ended = published(job, options, cache, progress);
    if let Ok(baked) = &mut ended
        && let Some(said) = retention::tidy(job)
    {
        baked.summary.message = format!("{} {said}", baked.summary.message);
    }
    if !ended.as_ref().is_err_and(|failed| failed.reason.worth_a_retry()) {
        crate::bake::forget(options);
    }
    ended
}

fn published(
    job: &ResolvedJob,
    options: &Options,
    cache: Option<&Path>,
    progress: &mut dyn Progress,
) -> Result<Baked, Failed> {
    #[cfg(feature = "store")]
    if let Some(place) = stored::Place::of(job)? {
        return place.bake(options, cache, progress);
    }
    let summary = cache::bake(job, options, cache, progress)?;
    Ok(Baked { summary, folder: job.output.clone(), _held: None })
}

/// Does what the environment assigns, and returns the exit code of the contract: 0 when the bake came to its end, whatever its gates said.
pub fn run(ort_lib: Option<&Path>) -> u8 {
    logging();
    let text = std::env::var(ASSIGNMENT_VARIABLE).unwrap_or_default();
    let outcome = catch_unwind(AssertUnwindSafe(|| done(&text, ort_lib))).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Outcome::bare(Reason::Internal, format!("the worker panicked: {}", said.unwrap_or("without a word")))
    });
    tracing::info!(reason = %outcome.reason, message = outcome.message, "ended");
    let path = std::env::var_os(TERMINATION_VARIABLE).map_or_else(|| PathBuf::from(TERMINATION_PATH), PathBuf::from);
    if let Err(error) = std::fs::write(&path, outcome.to_message()) {
        // Without it a good result would be lost without a word; the kubelet then takes the end of the log.
        tracing::error!(%error, path = %path.display(), "cannot write the termination message; set TERMINATION_LOG to a file that can be written");
        return Reason::OutputUnwritable.exit_code();
    }
    exit_code(outcome.reason)
}

/// In a pod a verdict is a result, not a failure: the Job would try again.
fn exit_code(reason: Reason) -> u8 {
    match reason {
        Reason::GateFailed | Reason::GateInconclusive => 0,
        other => other.exit_code(),
    }
}

fn done(text: &str, ort_lib: Option<&Path>) -> Outcome {
    let assignment: Assignment = match serde_json::from_str(text) {
        Ok(assignment) => assignment,
        Err(error) => {
            let message = format!(
                "{ASSIGNMENT_VARIABLE} holds no assignment ({error}). The operator starts workers; by hand use `bakehouse bake`."
            );
            return Outcome::bare(Reason::InvalidJob, message);
        }
    };
    let mut job = match assignment::resolve(&assignment) {
        Ok(job) => job,
        Err(error) => return Outcome::bare(error.reason(), error.to_string()),
    };
    let raised = match floor::raise(&mut job.gates, &assignment.gate_floors) {
        Ok(raised) => raised,
        Err(error) => {
            return Outcome::bare(Reason::InvalidJob, format!("a floor of the operator cannot be used: {error}"));
        }
    };
    match assignment.task {
        Task::Bake => outcome::marked(assigned(&assignment, &job, ort_lib), &raised),
        Task::Promote => promote::assigned(&assignment, &job),
        Task::Clean => {
            stages::clean(&assignment, &job).or_else(|| retention::clear(&job)).unwrap_or_else(|| clean::clean(&job))
        }
    }
}

fn assigned(assignment: &Assignment, job: &ResolvedJob, ort_lib: Option<&Path>) -> Outcome {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return Outcome::bare(Reason::Internal, format!("cannot find this program again: {error}")),
    };
    // The platform's place goes before one that the job's own variables name.
    let cache = match assignment.cache.as_deref() {
        _ if job.cache == Cache::Off => Ok(None),
        Some(uri) => cache::located(uri).map(Some),
        None => cache::named(),
    };
    let cache = match cache {
        Ok(cache) => cache,
        Err(message) => return Outcome::bare(Reason::InvalidJob, message),
    };
    let options = Options {
        engines: Engines::discover(ort_lib),
        ort_lib: ort_lib.map(Path::to_owned),
        program,
        low_memory: assignment.low_memory,
        checkpoints: stages::of(assignment, job),
        spreads: cache::spreads(cache.as_deref()),
    };
    match bake(job, &options, cache.as_deref(), &mut Lines::new(std::io::stdout())) {
        Ok(baked) => outcome::of(&baked.summary, &baked.folder, &assignment.spec.output.uri),
        Err(failed) => Outcome::bare(failed.reason, failed.message),
    }
}

/// JSON lines on standard error; standard output is for progress.
fn logging() {
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("BAKEHOUSE_LOG").unwrap_or_else(|_| "bakehouse=info".into());
    let _ = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_no_failure_of_the_pod() {
        for reason in Reason::ALL {
            let verdict = matches!(reason, Reason::GateFailed | Reason::GateInconclusive);
            assert_eq!(exit_code(reason), if verdict { 0 } else { reason.exit_code() }, "{reason}");
        }
    }

    #[test]
    fn without_an_assignment_it_says_who_gives_one() {
        let outcome = done("", None);
        assert_eq!(outcome.reason, Reason::InvalidJob);
        assert!(outcome.message.contains("bakehouse bake"), "{}", outcome.message);
    }
}
