//! The program as a person and a script meet it: help, files, exit codes, replay, batches, verification and tampering.
#![cfg(feature = "tract")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use bakehouse::api::digest::sha256_hex;
use bakehouse::model::{Model, SaveOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

fn bakehouse() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bakehouse"));
    command.env_remove("BAKEHOUSE_MEMORY_LIMIT").env_remove("BAKEHOUSE_LOG");
    command
}

fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mlp").join(file)
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn run(arguments: &[&str]) -> Output {
    bakehouse().args(arguments).output().unwrap()
}

#[track_caller]
fn code(output: &Output, expected: i32) {
    assert_eq!(output.status.code(), Some(expected), "stdout:\n{}\nstderr:\n{}", out(output), err(output));
}

/// One bake of the example on the embedded engine, shared by the tests that look at its results.
struct Baked {
    folder: tempfile::TempDir,
    output: Output,
}

fn baked() -> &'static Baked {
    static BAKED: OnceLock<Baked> = OnceLock::new();
    BAKED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let output = bakehouse()
            .args(["bake", "--json", "--goal", "size", "--runtime", "bakehouse", "-f"])
            .arg(example("bakejob.yaml"))
            .arg("--out")
            .arg(folder.path())
            .env("BAKEHOUSE_ORT_LIB", "none")
            .output()
            .unwrap();
        Baked { folder, output }
    })
}

/// A copy of the baked folder that a test may damage.
fn copy() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(baked().folder.path()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

fn report(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("report.json")).unwrap()).unwrap()
}

fn verify(folder: &Path) -> (i32, Value) {
    let output = bakehouse().args(["verify", "--json"]).arg(folder).env("BAKEHOUSE_ORT_LIB", "none").output().unwrap();
    let value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", out(&output), err(&output)));
    (output.status.code().unwrap(), value)
}

/// Edits the report and verifies; returns the exit code and everything that was said against it.
fn tampered(edit: impl FnOnce(&mut Value, &Path)) -> (i32, String) {
    let folder = copy();
    let mut changed = report(folder.path());
    edit(&mut changed, folder.path());
    fs::write(folder.path().join("report.json"), serde_json::to_vec(&changed).unwrap()).unwrap();
    let (code, found) = verify(folder.path());
    let refuted = found["checks"].as_array().unwrap().iter().filter(|c| c["holds"]["state"] == "No");
    let mut said: Vec<String> =
        refuted.map(|c| format!("{}: {}", c["claim"].as_str().unwrap(), c["holds"]["why"].as_str().unwrap())).collect();
    said.extend(
        found["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| format!("{}: {}", f["cheat"].as_str().unwrap(), f["detail"].as_str().unwrap())),
    );
    (code, said.join("\n"))
}

#[test]
fn help_names_the_exit_codes_and_every_command_says_what_it_does() {
    // Lines are broken to fit a terminal.
    let help = out(&run(&["--help"])).split_whitespace().collect::<Vec<_>>().join(" ");
    for word in [
        "0 baked",
        "3 a gate failed",
        "4 a gate is inconclusive",
        "12 invalid data",
        "22 memory limit too small",
        "70 internal",
        "130 and 143 ended by SIGINT or SIGTERM",
    ] {
        assert!(help.contains(word), "{word} is missing in\n{help}");
    }
    for command in [
        "bake",
        "init",
        "inspect",
        "compare",
        "package",
        "verify",
        "crd",
        "report-schema",
        "package-schema",
        "completions",
    ] {
        let output = run(&[command, "--help"]);
        code(&output, 0);
        assert!(help.contains(command) && out(&output).contains("Usage:"), "{command}");
    }
    assert!(!help.contains("probe"), "the fresh process of a bake is no command for people");
    assert_eq!(out(&run(&["--version"])), format!("bakehouse {}\n", env!("CARGO_PKG_VERSION")));
    code(&run(&["bak"]), 2);
    code(&run(&["bake", "--max-drop", "1"]), 2);
}

#[test]
fn every_preset_is_a_job_that_can_be_baked() {
    let folder = tempfile::tempdir().unwrap();
    for preset in ["development", "production", "edge", "research"] {
        let file = folder.path().join(format!("{preset}.yaml"));
        let init = |file: &Path| {
            let mut command = bakehouse();
            command
                .args(["init", "--preset", preset, "--data"])
                .arg(example("validation.npz"))
                .arg("--calibration")
                .arg(example("calibration.npz"));
            command.arg(example("model.onnx")).arg("-o").arg(file).output().unwrap()
        };
        code(&init(&file), 0);
        code(&init(&file), 14);
        let dry = bakehouse().args(["bake", "--dry-run"]).arg(&file).output().unwrap();
        code(&dry, 0);
        assert!(out(&dry).contains("AccuracyRetention >="), "{}", out(&dry));
    }
    assert!(!folder.path().join("model-baked").exists(), "a dry run writes nothing");
}

#[test]
fn what_is_generated_is_what_is_committed() {
    let committed =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/bakehouse.dev_bakejobs.yaml")).unwrap();
    assert_eq!(out(&run(&["crd"])), committed);
    let schema: Value = serde_json::from_slice(&run(&["report-schema"]).stdout).unwrap();
    assert!(jsonschema::validator_for(&schema).unwrap().is_valid(&report(baked().folder.path())));
    for (shell, word) in [("bash", "complete"), ("zsh", "#compdef bakehouse"), ("fish", "complete -c bakehouse")] {
        let output = run(&["completions", shell]);
        code(&output, 0);
        assert!(out(&output).contains(word), "{shell}");
    }
}

#[test]
fn a_bake_writes_its_files_and_prints_a_summary() {
    let Baked { folder, output } = baked();
    code(output, 0);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["reason"], "Baked", "{summary}");
    assert!(summary["engine"].as_str().unwrap().starts_with("tract"), "{summary}");
    let [before, after] = [0, 1].map(|i| summary["bytes"][i].as_u64().unwrap());
    assert!(after * 2 < before, "{summary}");
    for file in ["model.onnx", "report.json", "report.html", "recipe.json"] {
        assert!(folder.path().join(file).metadata().unwrap().len() > 0, "{file}");
    }
    let report = report(folder.path());
    assert_eq!(fs::metadata(folder.path().join("model.onnx")).unwrap().len(), after);
    assert!(
        report["backends"].as_array().unwrap().iter().any(|b| b["name"] == "onnxruntime" && b["available"] == false)
    );
    assert_eq!(report["baked"]["determinism"], json!({"runs": true, "threads": true, "processes": true}));
    assert!(err(output).is_empty(), "quiet when asked for JSON: {}", err(output));
}

#[test]
fn a_recipe_gives_the_same_bytes_again() {
    let first = baked().folder.path();
    let second = tempfile::tempdir().unwrap();
    let output = bakehouse()
        .args(["bake", "--runtime", "bakehouse", "--goal", "size", "-f"])
        .arg(example("bakejob.yaml"))
        .arg("--recipe")
        .arg(first.join("recipe.json"))
        .arg("--out")
        .arg(second.path())
        .env("BAKEHOUSE_ORT_LIB", "none")
        .output()
        .unwrap();
    code(&output, 0);
    assert_eq!(fs::read(first.join("model.onnx")).unwrap(), fs::read(second.path().join("model.onnx")).unwrap());
    assert!(!out(&output).contains('\u{1b}') && !err(&output).contains('\u{1b}'), "no escape codes when piped");
    assert!(out(&output).contains("AccuracyRetention") && out(&output).contains("model.onnx"), "{}", out(&output));
}

#[test]
fn a_bare_model_is_baked_by_flags_alone() {
    let folder = tempfile::tempdir().unwrap();
    let output = bakehouse()
        .args([
            "bake",
            "--json",
            "--level",
            "CONSERVATIVE",
            "--goal",
            "latency",
            "--max-drop",
            "2%",
            "--metric",
            "Top1",
            "--runtime",
            "bakehouse",
        ])
        .arg(example("model.onnx"))
        .arg("--data")
        .arg(example("validation.npz"))
        .arg("--out")
        .arg(folder.path())
        .env("BAKEHOUSE_ORT_LIB", "none")
        .output()
        .unwrap();
    code(&output, 0);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["job"], &summary["plan"]), (&json!("model"), &json!("Conservative/Latency")));
    let gate = summary["gates"].as_array().unwrap().iter().find(|g| g["metric"] == "AccuracyRetention").unwrap();
    assert_eq!(gate["threshold"], ">= 0.9800");
    code(&bakehouse().arg("bake").arg(example("model.onnx")).output().unwrap(), 2);
}

#[test]
fn one_poisoned_job_does_not_stop_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("poison.onnx"), b"<html>").unwrap();
    let job = |name: &str, model: &Path| {
        json!({
            "apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob", "metadata": {"name": name},
            "spec": {"source": {"uri": model}, "data": {"validation": {"uri": example("validation.npz")}}, "runtime": "Bakehouse",
                     "optimization": {"level": "Conservative"}, "profile": {"iterations": 10, "batchSizes": [1]}, "output": {"uri": folder.path().join(name)}},
        })
        .to_string()
    };
    let text = [
        job("one", &example("model.onnx")),
        job("poisoned", &folder.path().join("poison.onnx")),
        job("two", &example("model.onnx")),
    ]
    .join("\n---\n");
    fs::write(folder.path().join("jobs.yaml"), text).unwrap();
    let output = bakehouse()
        .args(["bake", "--jobs", "2", "-f"])
        .arg(folder.path().join("jobs.yaml"))
        .env("BAKEHOUSE_ORT_LIB", "none")
        .output()
        .unwrap();
    code(&output, 10);
    let table = out(&output);
    assert!(
        table.contains("InvalidModel") && ["one", "two", "poisoned"].iter().all(|name| table.contains(name)),
        "{table}"
    );
    assert!(!table.contains('\u{1b}') && !err(&output).contains('\u{1b}'), "no escape codes when piped");
    for (name, made) in [("one", true), ("poisoned", false), ("two", true)] {
        assert_eq!(folder.path().join(name).join("model.onnx").exists(), made, "{name}");
    }
}

#[test]
fn a_model_is_inspected_and_two_are_compared() {
    let model = example("model.onnx");
    let text = out(&bakehouse().arg("inspect").arg(&model).output().unwrap());
    assert!(text.contains("parameters") && text.contains("MatMul"), "{text}");
    let inspected: Value =
        serde_json::from_slice(&bakehouse().args(["inspect", "--json"]).arg(&model).output().unwrap().stdout).unwrap();
    let input = inspected["inputs"][0]["name"].as_str().unwrap().to_owned();
    code(&bakehouse().args(["inspect", "--shapes", &format!("{input}=nonsense")]).arg(&model).output().unwrap(), 2);
    code(&bakehouse().args(["inspect", "--shapes", "ghost=1x2"]).arg(&model).output().unwrap(), 2);

    let against = |other: &Path| {
        let mut command = bakehouse();
        command
            .args(["compare", "--json"])
            .arg(&model)
            .arg(other)
            .arg("--data")
            .arg(example("validation.npz"))
            .env("BAKEHOUSE_ORT_LIB", "none");
        let output = command.output().unwrap();
        code(&output, 0);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let same = against(&model);
    assert_eq!(
        (&same["graph"]["identical"], &same["outputs"]["outputs"][0]["maxAbsDifference"]),
        (&json!(true), &json!(0.0))
    );
    let other = against(&baked().folder.path().join("model.onnx"));
    let output = &other["outputs"]["outputs"][0];
    assert!(
        output["maxAbsDifference"].as_f64().unwrap() > 0.0 && output["argmaxAgreement"].as_f64().unwrap() > 0.9,
        "{output}"
    );
    assert!(
        output["cosine"].as_f64().unwrap() > 0.99 && output["relativeRmsError"].as_f64().unwrap() < 0.1,
        "{output}"
    );
}

#[test]
fn an_untouched_result_is_confirmed_claim_by_claim() {
    let (code, found) = verify(baked().folder.path());
    let refuted: Vec<&Value> =
        found["checks"].as_array().unwrap().iter().filter(|c| c["holds"]["state"] != "Yes").collect();
    assert_eq!((code, &refuted, &found["findings"]), (0, &vec![], &json!([])));
    let claims: Vec<&str> = found["checks"].as_array().unwrap().iter().map(|c| c["claim"].as_str().unwrap()).collect();
    for claim in [
        "model.onnx",
        "recipe replay",
        "verdict samples",
        "AccuracyRetention",
        "OutputConsistency",
        "speedup at batch 1",
        "peak memory",
        "bit-identical over processes",
    ] {
        assert!(claims.contains(&claim), "{claim} is not among {claims:?}");
    }
}

#[test]
fn one_changed_byte_of_the_model_is_found() {
    let (code, said) = tampered(|_, folder| {
        let path = folder.join("model.onnx");
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    });
    assert!(code == 3 && said.contains("model.onnx: DigestMismatch"), "{code}: {said}");
}

#[test]
fn an_edited_figure_is_found() {
    let (code, said) = tampered(|report, _| report["quality"]["output_consistency"]["estimate"] = json!(0.5));
    assert!(code == 3 && said.contains("QualityNotReproduced") && said.contains("gates as reported"), "{code}: {said}");
    let (code, said) = tampered(|report, _| {
        for ratio in report["speedup"][0]["paired"]["ratios"].as_array_mut().unwrap() {
            *ratio = json!(9.0);
        }
        for field in ["ratio", "lower", "upper"] {
            report["speedup"][0]["paired"][field] = json!(9.0);
        }
    });
    assert!(code == 3 && said.contains("SpeedupNotReproduced"), "{code}: {said}");
    let (code, said) = tampered(|report, _| report["baseline"]["bytes"] = json!(99_000_000));
    assert!(code == 3 && said.contains("SizeMismatch"), "{code}: {said}");
    let (code, said) = tampered(|report, _| report["gates"][0]["verdict"] = json!("Fail"));
    assert!(code == 3 && said.contains("gates as reported"), "{code}: {said}");
}

#[test]
fn the_input_in_place_of_the_artifact_is_found() {
    let (code, said) = tampered(|report, folder| {
        fs::copy(example("model.onnx"), folder.join("model.onnx")).unwrap();
        // Even with every digest made to match.
        let (sha256, bytes) = (report["baseline"]["sha256"].clone(), report["baseline"]["bytes"].clone());
        for artifact in report["artifacts"].as_array_mut().unwrap().iter_mut().filter(|a| a["file"] == "model.onnx") {
            (artifact["sha256"], artifact["bytes"]) = (sha256.clone(), bytes.clone());
        }
        report["baked"]["sha256"] = sha256;
    });
    assert!(code == 3 && said.contains("ArtifactIsInput") && said.contains("recipe replay"), "{code}: {said}");
}

#[test]
fn samples_of_the_verdict_that_the_search_saw_are_found() {
    let (code, said) = tampered(|report, _| {
        let seen = report["data"]["search"][0].clone();
        report["data"]["verdict"].as_array_mut().unwrap().push(seen);
    });
    assert!(code == 3 && said.contains("ValidationLeak"), "{code}: {said}");
}

#[test]
fn what_cannot_be_checked_is_said_and_is_no_confirmation() {
    let folder = copy();
    let mut changed = report(folder.path());
    for file in changed["data"]["files"].as_array_mut().unwrap() {
        file["path"] = json!("/nowhere/gone");
    }
    fs::write(folder.path().join("report.json"), serde_json::to_vec(&changed).unwrap()).unwrap();
    let (code, found) = verify(folder.path());
    assert_eq!((code, &found["findings"]), (4, &json!([])), "{found}");
    let output = bakehouse().arg("verify").arg(example("")).output().unwrap();
    assert!(
        output.status.code() == Some(2) && err(&output).contains("Give a folder that a bake wrote"),
        "{}",
        err(&output)
    );
}

/// A bake that was started on the embedded engine and has come to this stage; with it what it says from then on.
fn at_stage(stage: &str, arguments: &[&str], job: &Path, out: &Path) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_bakehouse"))
        .args(["bake", "-v", "--runtime", "bakehouse"])
        .args(arguments)
        .arg("-f")
        .arg(job)
        .arg("--out")
        .arg(out)
        .env_remove("BAKEHOUSE_LOG")
        .env("BAKEHOUSE_ORT_LIB", "none")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(stage) {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it ended before {stage}");
    }
    (child, said)
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

fn hidden(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|n| n.starts_with('.')).collect()
}

#[test]
fn a_signal_ends_a_bake_with_its_own_code_and_nothing_is_left() {
    let job = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/encoder/bakejob.yaml");
    for (signal, name, code) in [(Signal::SIGTERM, "SIGTERM", 143), (Signal::SIGINT, "SIGINT", 130)] {
        for former in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let out = root.path().join("out");
            if former {
                fs::create_dir(&out).unwrap();
                fs::write(out.join("model.onnx"), b"of an earlier bake").unwrap();
            }
            let (mut child, mut rest) = at_stage("Optimize", &[], &job, &out);
            assert_eq!(hidden(&out).len(), 1, "it works in a hidden folder");
            let sent = Instant::now();
            send(&child, signal);
            let mut said = String::new();
            rest.read_to_string(&mut said).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(code), "{said}");
            assert!(said.contains(&format!("ended by {name}; nothing was written")), "{said}");
            assert!(sent.elapsed() < Duration::from_secs(5), "{:?}", sent.elapsed());
            if former {
                assert_eq!((hidden(&out), fs::read_dir(&out).unwrap().count()), (vec![], 1));
                assert_eq!(fs::read(out.join("model.onnx")).unwrap(), b"of an earlier bake");
            } else {
                assert!(!out.exists(), "an output folder that was made for the bake goes too");
            }
        }
    }
}

/// Processes that name `folder` on their command line.
#[cfg(target_os = "linux")]
fn processes(folder: &Path) -> usize {
    let lines = fs::read_dir("/proc").unwrap().filter_map(|e| fs::read(e.unwrap().path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(folder.to_str().unwrap())).count()
}

#[test]
#[cfg(target_os = "linux")]
fn a_signal_ends_every_bake_of_a_batch() {
    let root = tempfile::tempdir().unwrap();
    let encoder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/encoder");
    let outs = ["one", "two"].map(|name| root.path().join(name));
    let job = |out: &PathBuf| {
        json!({
            "apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob", "metadata": {"name": out.file_name().unwrap().to_str()},
            "spec": {"source": {"uri": encoder.join("model.onnx")}, "data": {"validation": {"uri": encoder.join("validation.npz")}},
                     "runtime": "Bakehouse", "output": {"uri": out}},
        })
        .to_string()
    };
    let file = root.path().join("jobs.yaml");
    fs::write(&file, outs.each_ref().map(job).join("\n---\n")).unwrap();
    let mut batch = std::process::Command::new(env!("CARGO_BIN_EXE_bakehouse"))
        .args(["bake", "--jobs", "2", "-f"])
        .arg(&file)
        .env("BAKEHOUSE_ORT_LIB", "none")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !outs.iter().all(|out| hidden(out).len() == 1) {
        assert!(started.elapsed() < Duration::from_mins(1), "both bakes begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(processes(root.path()) >= 3, "the batch and its two bakes");
    send(&batch, Signal::SIGTERM);
    assert_eq!(batch.wait().unwrap().code(), Some(143));
    assert!(outs.iter().all(|out| !out.exists()), "{:?}", outs.each_ref().map(|out| hidden(out)));
    assert_eq!(processes(root.path()), 0, "no process outlives the batch");
}

#[test]
fn the_report_names_the_bytes_that_were_loaded_not_those_that_lie_there_later() {
    let root = tempfile::tempdir().unwrap();
    for file in ["bakejob.yaml", "model.onnx", "validation.npz", "calibration.npz", "training.npz"] {
        fs::copy(example(file), root.path().join(file)).unwrap();
    }
    let out = root.path().join("out");
    let arguments = ["--level", "conservative"];
    let (mut child, mut rest) = at_stage("Optimize", &arguments, &root.path().join("bakejob.yaml"), &out);
    // Another file takes its place while the bake runs; it fits the model too.
    fs::rename(root.path().join("calibration.npz"), root.path().join("validation.npz")).unwrap();
    let mut said = String::new();
    rest.read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().code().is_some_and(|c| [0, 3, 4].contains(&c)), "{said}");
    for file in report(&out)["data"]["files"].as_array().unwrap() {
        let name = Path::new(file["path"].as_str().unwrap()).file_name().unwrap().to_str().unwrap();
        assert_eq!(file["sha256"], json!(sha256_hex(&fs::read(example(name)).unwrap())), "{file}");
    }
}

#[test]
fn an_input_that_is_returned_unchanged_comes_with_its_external_data_and_a_recipe_that_gives_it_again() {
    let root = tempfile::tempdir().unwrap();
    let input = root.path().join("input.onnx");
    let mut model = Model::load(&example("model.onnx")).unwrap();
    // Not as it would be written: a bake sorts the nodes for itself, and hands out the file as it was.
    model.graph_mut().node.reverse();
    model.save_with(&input, SaveOptions { external: Some(64) }).unwrap();
    let bake = |out: &Path, job: Value, arguments: &[&Path]| {
        let file = root.path().join("job.yaml");
        let whole = json!({
            "apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob", "metadata": {"name": "unchanged"},
            "spec": {"source": {"uri": "input.onnx"}, "data": {"validation": {"uri": example("validation.npz")}}, "runtime": "Bakehouse",
                     "optimization": job, "profile": {"iterations": 10, "batchSizes": [1]}, "output": {"uri": out}},
        });
        fs::write(&file, whole.to_string()).unwrap();
        let mut command = bakehouse();
        command.args(["bake", "--json", "-f"]).arg(&file).args(arguments).env("BAKEHOUSE_ORT_LIB", "none");
        let output = command.output().unwrap();
        code(&output, 0);
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(summary["reason"], "NoImprovement", "{summary}");
        for (made, given) in [("model.onnx", "input.onnx"), ("input.onnx.data", "input.onnx.data")] {
            assert_eq!(fs::read(out.join(made)).unwrap(), fs::read(root.path().join(given)).unwrap(), "{made}");
        }
        Model::load(&out.join("model.onnx")).unwrap();
    };
    let (first, second) = (root.path().join("first"), root.path().join("second"));
    // A pass that has nothing to do here.
    bake(&first, json!({"level": "Conservative", "passes": ["fold-pad"]}), &[]);
    let recipe = first.join("recipe.json");
    bake(&second, json!({"level": "Conservative"}), &[Path::new("--recipe"), &recipe]);

    let (code, found) = verify(&first);
    let state = |claim: &str| {
        found["checks"].as_array().unwrap().iter().find(|c| c["claim"] == claim).map(|c| c["holds"]["state"].clone())
    };
    assert_eq!(
        (code, state("recipe replay"), state("ModelData file"), state("input.onnx.data")),
        (0, Some(json!("Yes")), Some(json!("Yes")), Some(json!("Yes"))),
        "{found}"
    );
}
