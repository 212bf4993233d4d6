//! A worker as its pod starts it: the assignment in a variable, credentials in two others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use bakehouse::api::Reason;
use bakehouse::api::wire::{Outcome, TERMINATION_BYTES};
use serde_json::{Value, json};

use super::server::{KEY, SECRET, Server};

pub(crate) fn example(name: &str, file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).join(file)
}

pub(crate) struct Pod {
    folder: tempfile::TempDir,
    output: Output,
}

/// A worker that is still at work.
pub(crate) struct Running {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Running {
    /// As the kernel does it: nothing can be cleaned up.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn spec_at(server: &Server, spec: &Value) -> Value {
    let mut spec = spec.clone();
    if spec["storage"].is_null() {
        spec["storage"] = json!({"endpoint": server.endpoint(), "region": "us-east-1"});
    }
    spec
}

fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bakehouse"));
    surround(&mut command, folder);
    command
}

/// The environment of a pod: of this one's, nothing that has to do with stores.
fn surround(command: &mut Command, folder: &Path) {
    let scratch = folder.join("tmp");
    fs::create_dir_all(&scratch).unwrap();
    let stores = ["AWS_", "AZURE_", "GOOGLE_", "GCE_", "SERVICE_ACCOUNT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
    let of_a_store = |name: &str| stores.iter().any(|store| name.to_uppercase().starts_with(store));
    for (name, _) in std::env::vars_os().filter(|(name, _)| of_a_store(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
        .env("AWS_ACCESS_KEY_ID", KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("NO_PROXY", "127.0.0.1")
        .env("TMPDIR", scratch)
        .env("BAKEHOUSE_ORT_LIB", "none")
        .env_remove("BAKEHOUSE_MEMORY_LIMIT");
}

fn worker(task: &str, spec: &Value, folder: &Path) -> Command {
    let mut command = program(folder);
    command.arg("worker");
    assign(&mut command, task, spec, folder);
    command
}

fn assign(command: &mut Command, task: &str, spec: &Value, folder: &Path) {
    let assignment = json!({
        "task": task, "name": "stored", "namespace": "ml", "uid": "u", "run": 1, "attempt": 1, "lowMemory": false, "device": "CPU",
        "spec": spec,
    });
    command.env("BAKEHOUSE_ASSIGNMENT", assignment.to_string()).env("TERMINATION_LOG", folder.join("termination"));
}

/// Nothing may be left of what was fetched. Every bake on a machine takes turns by a lock file, which stays.
fn assert_clean(folder: &Path) {
    let left = fs::read_dir(folder.join("tmp")).unwrap().map(|entry| entry.unwrap().path());
    let left: Vec<_> = left.filter(|path| path.extension().is_none_or(|e| e != "lock")).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

impl Pod {
    /// Runs a worker to its end, with these variables over the usual ones; an empty one is not set.
    pub(crate) fn run(server: &Server, task: &str, spec: &Value, variables: &[(&str, &str)]) -> Self {
        Self::alone(task, &spec_at(server, spec), variables)
    }

    /// The same without that server.
    pub(crate) fn alone(task: &str, spec: &Value, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::end(worker(task, spec, folder.path()), folder, variables)
    }

    /// A bake that may write no file of more than so many blocks: to a program this is like a full disk, and needs no disk of one's own.
    pub(crate) fn limited(server: &Server, spec: &Value, blocks: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        // Whoever ignores the signal is told by the write instead.
        command.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" worker"));
        command.arg(env!("CARGO_BIN_EXE_bakehouse"));
        surround(&mut command, folder.path());
        assign(&mut command, "Bake", &spec_at(server, spec), folder.path());
        Self::end(command, folder, &[])
    }

    fn end(mut command: Command, folder: tempfile::TempDir, variables: &[(&str, &str)]) -> Self {
        for (name, value) in variables {
            if value.is_empty() {
                command.env_remove(name)
            } else {
                command.env(name, value)
            };
        }
        let output = command.output().unwrap();
        assert_clean(folder.path());
        Self { folder, output }
    }

    pub(crate) fn bake(server: &Server, spec: &Value) -> Self {
        Self::run(server, "Bake", spec, &[])
    }

    /// Starts a worker and returns at once.
    pub(crate) fn start(server: &Server, spec: &Value) -> Running {
        let folder = tempfile::tempdir().unwrap();
        let mut command = worker("Bake", &spec_at(server, spec), folder.path());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Running { child, _folder: folder }
    }

    /// The same bake as a person starts it. Returns the summary.
    pub(crate) fn shell(server: &Server, spec: &Value) -> Value {
        let folder = tempfile::tempdir().unwrap();
        let job = json!({
            "apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob", "metadata": {"name": "stored"}, "spec": spec_at(server, spec),
        });
        let file = folder.path().join("bakejob.yaml");
        fs::write(&file, job.to_string()).unwrap();
        let output = program(folder.path()).args(["bake", "--json", "-f"]).arg(file).output().unwrap();
        assert_clean(folder.path());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said} ({})", output.status))
    }

    /// `bakehouse verify` of a folder of a bucket: its exit code and what was found.
    pub(crate) fn verify(server: &Server, uri: &str, arguments: &[&str]) -> (Option<i32>, Value) {
        let folder = tempfile::tempdir().unwrap();
        let mut command = program(folder.path());
        command.env("AWS_ENDPOINT_URL", server.endpoint()).env("AWS_REGION", "us-east-1");
        let output = command.args(["verify", "--json", uri]).args(arguments).output().unwrap();
        assert_clean(folder.path());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or(Value::String(said)))
    }

    pub(crate) fn outcome(&self) -> Outcome {
        let message = fs::read_to_string(self.folder.path().join("termination")).unwrap();
        assert!(message.len() <= TERMINATION_BYTES);
        Outcome::parse(&message).unwrap()
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    #[track_caller]
    pub(crate) fn ended(&self, code: i32, reason: Reason) -> Outcome {
        let outcome = self.outcome();
        let found = (self.output.status.code(), outcome.reason);
        assert_eq!(found, (Some(code), reason), "{}\n{}", outcome.message, self.log());
        outcome
    }
}
