//! What can be wrong with a job file.

use std::path::PathBuf;

use super::Reason;
use super::support::Refusal;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The field, as `spec.gates[0].min`; empty for the object as a whole.
    pub path: String,
    /// What is wrong and what is expected instead.
    pub message: String,
}

impl Problem {
    pub(super) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// Why a job file cannot be baked. Every kind is [`Reason::InvalidJob`], exit code 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// The text is not YAML.
    #[error("{file}: not valid YAML: {message}\nCorrect the line it names; tabs and missing spaces after a colon are the usual causes.", file = file.display())]
    Yaml {
        /// The job file.
        file: PathBuf,
        /// The parser's words, with line and column.
        message: String,
    },
    /// The file holds no object.
    #[error("{file}: no BakeJob in this file. `bakehouse init` writes one to start from.", file = file.display())]
    Empty {
        /// The job file.
        file: PathBuf,
    },
    /// Fields are wrong.
    #[error("{file}: BakeJob {job} is not valid:{problems}\nCorrect these fields; `bakehouse init` writes a commented example.", file = file.display(), problems = lines(problems))]
    Invalid {
        /// The job file.
        file: PathBuf,
        /// The job's name, or its number in the file.
        job: String,
        /// Everything that is wrong, in the order of the fields.
        problems: Vec<Problem>,
    },
    /// The job asks for what this version cannot do. It is refused rather than run as something less.
    #[error("{file}: BakeJob {job} asks for what is not built yet:{refusals}\nChange these fields and run again.", file = file.display(), refusals = lines(refusals))]
    NotBuilt {
        /// The job file.
        file: PathBuf,
        /// The job's name.
        job: String,
        /// Each refused field.
        refusals: Vec<Refusal>,
    },
}

impl JobError {
    /// The reason, for the exit code and the report.
    #[must_use]
    pub fn reason(&self) -> Reason {
        Reason::InvalidJob
    }
}

fn lines(items: &[impl std::fmt::Display]) -> String {
    items.iter().map(|item| format!("\n  {item}")).collect()
}
