//! The command line: parsing, resolving, printing. No decision of the bake is made here.

mod args;
mod bake;
mod batch;
mod cache;
mod compare;
mod inspect;
mod jobs;
mod package;
mod probe;
mod promote;
mod text;
mod verify;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::api::Reason;
use crate::package::phase7;
use args::{Cli, Command, PackageFile};

/// An error for a person: what happened, what to do, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(reason: Reason, message: impl std::fmt::Display) -> Self {
        Self { reason, message: message.to_string() }
    }

    pub(crate) fn usage(message: impl std::fmt::Display) -> Self {
        Self::new(Reason::InvalidJob, message)
    }
}

macro_rules! failure_from {
    ($($error:ty),*) => { $(impl From<$error> for Failure { fn from(e: $error) -> Self { Self::new(e.reason(), e) } })* };
}
failure_from!(
    crate::worker::Failed,
    crate::bake::BakeError,
    crate::model::ModelError,
    crate::engine::EngineError,
    crate::package::PackageError,
    crate::api::JobError
);

/// Runs the command line and returns the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    crate::model::mapped::give_back_large_blocks();
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    #[cfg(feature = "operator")]
    if let Command::Operator(args) = &cli.command {
        return crate::operator::command::operator(args);
    }
    if let Command::Worker(args) = &cli.command {
        crate::signals::install();
        return ExitCode::from(crate::worker::run(args.ort_lib.as_deref()));
    }
    watch::logging(cli.verbose);
    crate::signals::install();
    let ended = match cli.command {
        Command::Bake(args) => bake::run(&args),
        Command::Init(args) => jobs::init(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Package(args) => package::run(&args),
        Command::Cache(args) => cache::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Promote(args) => promote::run(&args),
        Command::Probe(args) => probe::run(&args),
        #[cfg(feature = "operator")]
        Command::Operator(_) => Ok(0),
        Command::Worker(_) => Ok(0),
        Command::Crd => print(&crate::api::crd_yaml()),
        Command::ReportSchema => schema(&crate::bake::report::report_schema()),
        Command::PackageSchema { file } => schema(&match file {
            PackageFile::Phase5 => crate::package::manifest_schema(),
            PackageFile::Manifest => phase7::manifest_schema(),
            PackageFile::Deployment => phase7::deployment_schema(),
        }),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "bakehouse", &mut std::io::stdout());
            Ok(0)
        }
    };
    ExitCode::from(ended.unwrap_or_else(|failure| {
        eprintln!("error: {}", failure.message);
        failure.reason.exit_code()
    }))
}

/// `bakehouse report-schema` and `bakehouse package-schema`.
fn schema(schema: &serde_json::Value) -> Result<u8, Failure> {
    print(&serde_json::to_string_pretty(schema).map_err(|e| Failure::new(Reason::Internal, e))?)
}

/// One line of JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|e| Failure::new(Reason::Internal, e))
}

/// Prints to standard output; a reader that went away is no error.
pub(crate) fn print(text: &str) -> Result<u8, Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    match write!(out, "{text}{newline}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Reason::OutputUnwritable, format!("standard output: {error}")))
        }
        _ => Ok(0),
    }
}
