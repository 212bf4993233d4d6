//! Commands of the machine: Helm, and the scripts that do things to nodes. Both come with `make e2e`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn ended(program: &str, arguments: &[&str]) -> std::io::Result<Output> {
    Command::new(program).args(arguments).current_dir(project()).output()
}

/// Runs a command to its end, however that is.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Output {
    let output = ended(program, arguments);
    output.unwrap_or_else(|error| panic!("{program}: {error}; `make e2e` brings it"))
}

/// Runs a command and returns what it printed; its end with another code than 0 fails the case with all it said.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = output(program, arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {}\n{said}{error}", arguments.join(" "), output.status);
    said
}

/// The same for tidying up: what fails is said, and no reason to fail.
pub(crate) fn try_run(program: &str, arguments: &[&str]) {
    let ended = ended(program, arguments);
    if !ended.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("{program} {}: {ended:?}", arguments.join(" "));
    }
}

/// `e2e/cluster/node.sh`: kill, start, gpu.
pub(crate) fn node(arguments: &[&str]) {
    run(&script("node.sh").display().to_string(), arguments);
}

/// A script of the test cluster.
pub(crate) fn script(name: &str) -> PathBuf {
    project().join("e2e/cluster").join(name)
}

/// Whether the cluster is the one that the project's own scripts started on this machine: only there may a case kill a process.
pub(crate) fn own_cluster() -> bool {
    std::env::var_os("BAKEHOUSE_E2E_OWN_CLUSTER").is_some()
}
