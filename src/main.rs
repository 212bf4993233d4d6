//! The `bakehouse` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    bakehouse::cli::run(std::env::args_os())
}
