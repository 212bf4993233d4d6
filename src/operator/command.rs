//! The command line of an image without an engine: `operator` and `crd` only.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::settings::OperatorArgs;

/// The Bakehouse operator: gives each BakeJob a worker, and says in its status what was measured.
#[derive(Debug, Parser)]
#[command(name = "bakehouse", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)] // parsed once per process
enum Command {
    /// Run the controller.
    Operator(OperatorArgs),
    /// Print the BakeJob CustomResourceDefinition.
    Crd,
}

/// Runs the command line and returns the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match cli.command {
        Command::Operator(args) => operator(&args),
        Command::Crd => match std::io::stdout().write_all(crate::api::crd_yaml().as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
    }
}

/// Runs the controller until it ends; a pod's restart policy starts it again.
pub fn operator(args: &OperatorArgs) -> ExitCode {
    match super::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
