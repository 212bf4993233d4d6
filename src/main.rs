//! The `bakehouse` binary.

use std::process::ExitCode;

#[cfg(feature = "engine")]
fn main() -> ExitCode {
    bakehouse::cli::run(std::env::args_os())
}

#[cfg(all(feature = "operator", not(feature = "engine")))]
fn main() -> ExitCode {
    bakehouse::operator::command::run(std::env::args_os())
}

#[cfg(not(any(feature = "operator", feature = "engine")))]
fn main() -> ExitCode {
    eprintln!("error: this binary was built without features; build it with `operator`, `engine`, or both.");
    ExitCode::from(2)
}
