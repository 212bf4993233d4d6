//! The worker as its pod meets it: assignment in, progress lines and termination message out, exit codes of the contract.
#![cfg(feature = "tract")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use bakehouse::api::wire::{Outcome, ProgressLine, TERMINATION_BYTES};
use bakehouse::api::{Reason, bakejob::Verdict};
use serde_json::{Value, json};

struct Pod {
    folder: tempfile::TempDir,
    output: Output,
}

impl Pod {
    /// Runs a worker with this task, on the perceptron of the examples with these fields of the spec.
    fn run(task: &str, spec: &Value, folder: tempfile::TempDir) -> Self {
        Self::assigned(task, spec, &json!({}), folder)
    }

    /// The same, with these fields of the assignment.
    fn assigned(task: &str, spec: &Value, fields: &Value, folder: tempfile::TempDir) -> Self {
        let example = |file: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mlp").join(file);
        let mut whole = json!({
            "source": {"uri": example("model.onnx")},
            "data": {"validation": {"uri": example("validation.npz"), "metric": "Top1"}, "calibration": {"uri": example("calibration.npz")}},
            "optimization": {"level": "Conservative"},
            "output": {"uri": folder.path().join("out")},
            "runtime": "Bakehouse",
        });
        for (field, value) in spec.as_object().unwrap() {
            whole[field] = value.clone();
        }
        let mut assignment = json!({
            "task": task, "name": "mlp", "namespace": "ml", "uid": "u", "run": 1, "attempt": 1, "lowMemory": false, "device": "CPU", "spec": whole,
        });
        for (field, value) in fields.as_object().unwrap() {
            assignment[field] = value.clone();
        }
        let output = Command::new(env!("CARGO_BIN_EXE_bakehouse"))
            .arg("worker")
            .env("BAKEHOUSE_ASSIGNMENT", assignment.to_string())
            .env("TERMINATION_LOG", folder.path().join("termination"))
            .env("BAKEHOUSE_ORT_LIB", "none")
            .env_remove("BAKEHOUSE_MEMORY_LIMIT")
            .output()
            .unwrap();
        Self { folder, output }
    }

    fn new(spec: &Value) -> Self {
        Self::run("Bake", spec, tempfile::tempdir().unwrap())
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn outcome(&self) -> Outcome {
        let message = fs::read_to_string(self.folder.path().join("termination")).unwrap();
        assert!(message.len() <= TERMINATION_BYTES);
        Outcome::parse(&message).unwrap()
    }

    #[track_caller]
    fn ended(&self, code: i32, reason: Reason) -> Outcome {
        let outcome = self.outcome();
        let log = String::from_utf8_lossy(&self.output.stderr);
        assert_eq!((self.output.status.code(), outcome.reason), (Some(code), reason), "{}\n{log}", outcome.message);
        outcome
    }
}

#[test]
fn a_bake_tells_its_progress_and_its_result_and_a_cleanup_deletes_what_it_wrote() {
    let pod = Pod::new(&json!({}));
    let outcome = pod.outcome();
    assert!(matches!(outcome.reason, Reason::Baked | Reason::NoImprovement), "{}: {}", outcome.reason, outcome.message);
    assert_eq!(pod.output.status.code(), Some(0));
    let lines = String::from_utf8(pod.output.stdout.clone()).unwrap();
    let progress: Vec<ProgressLine> = lines.lines().filter_map(ProgressLine::parse).collect();
    assert_eq!((progress[0].stage.as_str(), progress[0].percent), ("Load", 0));
    assert_eq!(progress.last().unwrap().stage, "Export");

    let model = &outcome.artifacts[0];
    assert_eq!(model.format, "ONNX");
    assert_eq!(model.bytes, i64::try_from(fs::metadata(&model.uri).unwrap().len()).unwrap());
    assert_eq!(outcome.gates.len(), 4);
    assert!(outcome.gates.iter().all(|g| g.verdict == Verdict::Pass && g.observed.is_some()));
    assert!(outcome.baseline.unwrap().latency_p50.unwrap().ends_with('s'));
    assert!(outcome.report.is_some() && outcome.recipe.is_some() && outcome.engine.is_some());
    assert!(outcome.stages.iter().all(|s| s.start_time.is_some() && s.completion_time.is_some()));

    fs::write(pod.out().join("notes.txt"), "somebody's own").unwrap();
    let out = pod.out();
    let cleaned = Pod::run("Clean", &json!({}), pod.folder);
    cleaned.ended(0, Reason::Baked);
    let left: Vec<_> = fs::read_dir(out).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["notes.txt"]);
}

#[test]
fn a_missed_gate_is_a_result_and_not_a_failure_of_the_pod() {
    let pod = Pod::new(&json!({"gates": [{"metric": "FileSize", "max": "1"}]}));
    let outcome = pod.ended(0, Reason::GateFailed);
    assert!(outcome.gates.iter().any(|g| g.verdict == Verdict::Fail));
}

#[test]
fn a_floor_of_the_platform_is_applied_last_and_shown() {
    let floors =
        json!({"gateFloors": [{"metric": "FileSize", "max": "1"}, {"metric": "AccuracyRetention", "min": "0.5"}]});
    let spec = json!({"gates": [{"metric": "FileSize", "max": "1Gi"}]});
    let outcome = Pod::assigned("Bake", &spec, &floors, tempfile::tempdir().unwrap()).ended(0, Reason::GateFailed);
    let thresholds: Vec<&str> = outcome.gates.iter().map(|gate| gate.threshold.as_str()).collect();
    assert!(thresholds.contains(&"<= 1 (platform floor)") && thresholds.contains(&">= 0.9500"), "{thresholds:?}");
}

#[test]
fn each_permanent_error_has_its_code_and_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.onnx");
    fs::write(&broken, b"not a model").unwrap();
    let table = [
        (json!({"source": {"uri": broken}}), 10, Reason::InvalidModel, "broken.onnx"),
        (json!({"data": {"validation": {"uri": broken}}}), 12, Reason::InvalidData, "broken.onnx"),
        (json!({"source": {"uri": "oci://models/a.onnx"}}), 2, Reason::InvalidJob, "spec.source.uri"),
        (json!({"output": {"uri": "/proc/out"}}), 14, Reason::OutputUnwritable, "/proc/out"),
    ];
    for (spec, code, reason, said) in table {
        let outcome = Pod::new(&spec).ended(code, reason);
        assert!(outcome.message.contains(said), "{}", outcome.message);
    }
}
