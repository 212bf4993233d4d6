//! A bake that was killed goes on behind its last finished stage. Real workers, ended with SIGKILL, started again with the same assignment.
#![cfg(feature = "tract")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "resume/blows.rs"]
mod blows;
#[allow(dead_code, reason = "the storage tests use the rest")]
mod s3;

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use bakehouse::api::Reason;
use bakehouse::api::digest::sha256_hex;
use bakehouse::api::wire::{Outcome, ProgressLine};
use bakehouse::bake::passes;
use bakehouse::model::{IntakeOptions, Model};
use bakehouse::optimizer::Recipe;
use serde_json::{Value, json};

fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mlp").join(file)
}

/// A job and the folder it bakes into, for as many pods as it takes.
struct Job {
    folder: tempfile::TempDir,
    spec: Value,
    run: u32,
    low_memory: bool,
    /// Floors of the platform team.
    floors: Value,
    /// Where the bucket lies on the disk that it bakes into, if it is one.
    bucket: Option<PathBuf>,
    /// More of its environment.
    variables: Vec<(&'static str, OsString)>,
}

/// How a pod ended, and what it said until then.
struct Pod {
    output: Output,
    progress: Vec<ProgressLine>,
    outcome: Option<Outcome>,
}

impl Job {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Under this goal a candidate with steps is the artifact, whatever the clock says.
        let spec = json!({
            "source": {"uri": example("model.onnx")},
            "data": {"validation": {"uri": example("validation.npz"), "metric": "Top1"}, "calibration": {"uri": example("calibration.npz")}},
            "optimization": {"level": "Light", "goal": "Size"},
            "output": {"uri": folder.path().join("out")},
            "profile": {"iterations": 20},
            "runtime": "Bakehouse",
        });
        Self { folder, spec, run: 1, low_memory: false, floors: json!([]), bucket: None, variables: Vec::new() }
    }

    fn out(&self) -> PathBuf {
        self.bucket.clone().unwrap_or_else(|| self.folder.path().join("out"))
    }

    /// Where the run keeps a finished stage.
    fn kept(&self, stage: &str) -> PathBuf {
        self.out().join(format!("runs/u-{}/{stage}.json", self.run))
    }

    /// What is kept of a finished stage.
    fn saved(&self, stage: &str) -> Value {
        serde_json::from_slice::<Value>(&fs::read(self.kept(stage)).unwrap()).unwrap()["saved"].take()
    }

    /// Changes what is kept of a finished stage, under a seal that fits.
    fn change(&self, stage: &str, change: impl FnOnce(&mut Value)) {
        let mut saved = self.saved(stage);
        let before = saved.clone();
        change(&mut saved);
        assert_ne!(saved, before);
        let text = saved.to_string();
        let digest = sha256_hex(text.as_bytes());
        fs::write(self.kept(stage), format!("{{\"sha256\":\"{digest}\",\"saved\":{text}}}")).unwrap();
    }

    fn command(&self, task: &str) -> Command {
        let assignment = json!({
            "task": task, "name": "mlp", "namespace": "ml", "uid": "u", "run": self.run, "attempt": 1, "lowMemory": self.low_memory,
            "device": "CPU", "gateFloors": self.floors, "spec": self.spec,
        });
        let mut command = Command::new(env!("CARGO_BIN_EXE_bakehouse"));
        command
            .arg("worker")
            .env("BAKEHOUSE_ASSIGNMENT", assignment.to_string())
            .env("TERMINATION_LOG", self.folder.path().join("termination"))
            .env("BAKEHOUSE_ORT_LIB", "none")
            .env_remove("BAKEHOUSE_MEMORY_LIMIT")
            .env_remove("BAKEHOUSE_LOG")
            .envs(self.variables.iter().cloned());
        command
    }

    /// A pod that is killed as soon as `when` says so of what it told until then, or that ends by itself.
    fn pod(&self, mut when: impl FnMut(&ProgressLine) -> bool) -> Pod {
        let _ = fs::remove_file(self.folder.path().join("termination"));
        let mut child = self.command("Bake").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut progress = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let Some(line) = ProgressLine::parse(&line.unwrap()) else { continue };
            let now = when(&line);
            progress.push(line);
            if now {
                child.kill().unwrap();
                break;
            }
        }
        self.ended(child.wait_with_output().unwrap(), progress)
    }

    fn ended(&self, output: Output, progress: Vec<ProgressLine>) -> Pod {
        let message = fs::read_to_string(self.folder.path().join("termination")).ok();
        Pod { output, progress, outcome: message.and_then(|text| Outcome::parse(&text)) }
    }

    /// A pod that is killed when it enters a stage: nothing of the result is there then.
    fn killed_in(&self, stage: &str) -> Pod {
        let pod = self.pod(|line| line.stage == stage);
        assert!(pod.outcome.is_none() && !self.out().join("report.json").exists(), "it was killed in {stage}");
        pod
    }

    fn whole(&self) -> Pod {
        self.pod(|_| false)
    }

    fn report(&self) -> Value {
        serde_json::from_slice(&fs::read(self.out().join("report.json")).unwrap()).unwrap()
    }

    /// The bake came to a good end, and what it wrote holds.
    #[track_caller]
    fn good(&self, pod: &Pod) {
        let outcome = pod.outcome.as_ref().unwrap_or_else(|| panic!("{}", pod.log()));
        assert_eq!(outcome.reason, Reason::Baked, "{}\n{}", outcome.message, pod.log());
        let mut names: Vec<_> =
            fs::read_dir(self.out()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        // A pod that is killed after it published, before it could say so, has a successor that bakes again.
        names.retain(|name| name != "earlier");
        names.sort();
        let handed = self.spec["exports"].to_string().contains("Phase7");
        let expected = ["model.onnx", "phase7", "recipe.json", "report.html", "report.json"];
        assert_eq!(names, expected.into_iter().filter(|name| handed || *name != "phase7").collect::<Vec<_>>());
        let uri = self.spec["output"]["uri"].as_str().unwrap();
        if handed {
            self.verified(&format!("{}/phase7", uri.trim_end_matches('/')));
        }
        let value = self.verified(uri);
        let checks = value["checks"].as_array().unwrap();
        for claim in ["model.onnx", "recipe.json", "recipe replay"] {
            assert!(checks.iter().any(|c| c["claim"] == claim && c["holds"]["state"] == "Yes"), "{claim}: {value:#}");
        }
    }

    /// What `verify` finds. Inconclusive (4) is what a busy machine may make of a timing; a claim that does not hold is not.
    #[track_caller]
    fn verified(&self, target: &str) -> Value {
        let verified = Command::new(env!("CARGO_BIN_EXE_bakehouse"))
            .args(["verify", "--json", target])
            .env("BAKEHOUSE_ORT_LIB", "none")
            .envs(self.variables.iter().cloned())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&verified.stdout);
        assert!(matches!(verified.status.code(), Some(0 | 4)), "{said}{}", String::from_utf8_lossy(&verified.stderr));
        serde_json::from_slice(&verified.stdout).unwrap()
    }
}

impl Pod {
    fn log(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Stages as they were told, each once in a row.
    fn stages(&self) -> Vec<&str> {
        let mut stages: Vec<&str> = self.progress.iter().map(|line| line.stage.as_str()).collect();
        stages.dedup();
        stages
    }
}

fn records<'a>(stages: &'a Value, name: &str) -> Vec<&'a Value> {
    stages.as_array().unwrap().iter().filter(|record| record["name"] == name).collect()
}

fn remarks(report: &Value) -> String {
    report["remarks"].to_string()
}

#[test]
fn killed_in_validate_it_repeats_neither_baseline_nor_optimize() {
    let job = Job::new();
    job.killed_in("Validate");
    let (baseline, optimize) = (job.saved("baseline"), job.saved("optimize"));

    let second = job.whole();
    job.good(&second);
    let report = job.report();
    assert_eq!(report["baseline"], baseline["body"]["figures"]);
    for stage in ["Baseline", "Optimize"] {
        assert_eq!(records(&report["stages"], stage), records(&optimize["stages"], stage), "{stage} is of the first");
    }
    assert_eq!(records(&report["stages"], "Load").len(), 2);
    let said = "Baseline and Optimize were taken from an earlier pod of this run.";
    assert!(remarks(&report).contains(said), "{}", remarks(&report));
    assert!(second.outcome.as_ref().unwrap().message.ends_with(said));
    let names = |candidates: &Value| -> Vec<Value> {
        let all = candidates.as_array().unwrap();
        all.iter().map(|c| json!([c["name"], c["quality"], c["speed"], c["nodes"], c["bytes"], c["leftOut"]])).collect()
    };
    assert_eq!(names(&report["candidates"]), names(&optimize["body"]["candidates"]));

    // What is skipped is told as finished, and percent never falls.
    let percents: Vec<u32> = second.progress.iter().map(|line| line.percent).collect();
    let loaded = second.progress.iter().filter(|line| line.stage != "Load");
    assert!(percents.is_sorted() && loaded.map(|line| line.percent).all(|percent| percent >= 14), "{percents:?}");
    assert_eq!(second.stages()[..4], ["Load", "Baseline", "Optimize", "Validate"]);
    assert_eq!(second.progress.iter().filter(|line| line.stage == "Optimize").count(), 1);

    // The artifact is what its recipe gives without an interruption.
    let recipe: Recipe = serde_json::from_slice(&fs::read(job.out().join("recipe.json")).unwrap()).unwrap();
    assert!(!recipe.steps.is_empty());
    let input = Model::intake(&example("model.onnx"), &IntakeOptions::default()).unwrap().0;
    let replayed = recipe.replay(&input, &passes::of_step).unwrap().to_bytes();
    assert_eq!(sha256_hex(&replayed), sha256_hex(&fs::read(job.out().join("model.onnx")).unwrap()));
}

#[test]
fn killed_in_optimize_it_does_not_repeat_the_baseline() {
    let job = Job::new();
    job.killed_in("Optimize");
    let baseline = job.saved("baseline");
    assert!(!job.kept("optimize").exists());

    let second = job.whole();
    job.good(&second);
    let report = job.report();
    assert_eq!(report["baseline"], baseline["body"]["figures"]);
    assert_eq!(records(&report["stages"], "Baseline"), records(&baseline["stages"], "Baseline"));
    assert_eq!(records(&report["stages"], "Optimize").len(), 1);
    assert!(remarks(&report).contains("Baseline was taken from an earlier pod of this run."), "{}", remarks(&report));
}

#[test]
fn killed_again_it_goes_on_with_what_both_pods_finished() {
    let job = Job::new();
    job.killed_in("Optimize");
    job.killed_in("Validate");
    let stages = job.saved("optimize")["stages"].take();
    let names: Vec<&str> = stages.as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Load", "Baseline", "Load", "Optimize"]);
    let third = job.whole();
    job.good(&third);
    assert_eq!(job.report()["stages"].as_array().unwrap()[..4], stages.as_array().unwrap()[..]);
}

#[test]
fn what_was_kept_for_something_else_or_is_damaged_is_discarded_and_said() {
    let mut job = Job::new();
    job.killed_in("Validate");
    let whole = ["baseline", "optimize"].map(|stage| (stage, fs::read(job.kept(stage)).unwrap()));
    let set = |stage: &'static str, path: &'static str, value: Value| {
        move |job: &mut Job| job.change(stage, |saved| *saved.pointer_mut(path).unwrap() = value.clone())
    };
    let key = |path: &'static str, value: Value| {
        move |job: &mut Job| {
            for stage in ["baseline", "optimize"] {
                job.change(stage, |saved| *saved.pointer_mut(path).unwrap() = value.clone());
            }
        }
    };
    let truncate = |stage: &'static str| {
        move |job: &mut Job| {
            let bytes = fs::read(job.kept(stage)).unwrap();
            fs::write(job.kept(stage), &bytes[..bytes.len() / 2]).unwrap();
        }
    };
    // What is done to it, what the log says, and whether the baseline still stands.
    let table: [(Box<dyn Fn(&mut Job)>, &str, bool); 11] = [
        (Box::new(key("/key/machine/cpu", json!("Another CPU"))), "on another machine", false),
        (Box::new(key("/key/bakehouse", json!("0.0.1"))), "by another version of Bakehouse", false),
        (Box::new(key("/key/files/0/1", json!("0"))), "from another model or other data", false),
        (Box::new(key("/apiVersion", json!("bakehouse.dev/checkpoint/v9"))), "checkpoint/v9", false),
        (Box::new(|job| job.spec["optimization"]["seed"] = json!(7)), "for another spec", false),
        (
            Box::new(|job| job.floors = json!([{"metric": "OutputConsistency", "min": "0.96"}])),
            "for another spec",
            false,
        ),
        (Box::new(|job| job.low_memory = true), "with another plan for memory", false),
        (Box::new(truncate("baseline")), "it is damaged", false),
        (Box::new(truncate("optimize")), "it is damaged", true),
        (Box::new(set("optimize", "/body/candidates/0/sha256", json!("0"))), "give other bytes", true),
        (Box::new(set("optimize", "/body/candidates/0/steps/0/pass", json!("magic"))), "magic", true),
    ];
    for (change, said, baseline_stands) in table {
        fs::remove_dir_all(job.out()).unwrap();
        fs::create_dir_all(job.kept("baseline").parent().unwrap()).unwrap();
        whole.iter().for_each(|(stage, bytes)| fs::write(job.kept(stage), bytes).unwrap());
        (job.spec["optimization"]["seed"], job.low_memory, job.floors) = (json!(0), false, json!([]));
        change(&mut job);
        let pod = job.pod(|line| line.stage == "Validate");
        assert!(pod.log().contains(said), "{said}: {}", pod.log());
        assert_eq!(job.saved("optimize")["stages"].as_array().unwrap().len(), if baseline_stands { 4 } else { 3 });
        assert!(pod.progress.iter().filter(|line| line.stage == "Optimize").count() > 1, "{said}: it is repeated");
    }
    // And what comes out of it is right.
    let last = job.whole();
    job.good(&last);
}

#[test]
fn a_new_run_and_a_cleanup_leave_nothing_of_what_a_killed_pod_left() {
    let mut job = Job::new();
    job.killed_in("Optimize");
    assert!(job.kept("baseline").exists());
    job.run = 2;
    job.killed_in("Optimize");
    assert!(job.kept("baseline").exists());
    let runs: Vec<_> = fs::read_dir(job.out().join("runs")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(runs, ["u-2"]);
    let cleaned = job.command("Clean").output().unwrap();
    assert_eq!(cleaned.status.code(), Some(0), "{}", String::from_utf8_lossy(&cleaned.stderr));
    assert!(!job.out().exists());
}

#[test]
fn a_run_that_cannot_have_a_result_keeps_nothing() {
    let mut job = Job::new();
    job.killed_in("Optimize");
    job.spec["data"]["validation"]["uri"] = json!(example("model.onnx"));
    let pod = job.whole();
    assert_eq!(pod.outcome.as_ref().unwrap().reason, Reason::InvalidData, "{}", pod.log());
    assert!(!job.out().join("runs").exists());
}

/// Under final names there are only whole files; at most one hidden folder is left of whoever was killed.
fn whole_files(out: &Path) {
    let entries = fs::read_dir(out).into_iter().flatten().map(|e| e.unwrap());
    let names: Vec<String> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
    let final_names = ["earlier", "model.onnx", "phase7", "recipe.json", "report.html", "report.json", "runs"];
    let (visible, hidden): (Vec<_>, Vec<_>) = names.iter().partition(|name| final_names.contains(&name.as_str()));
    assert!(hidden.len() <= 1 && hidden.iter().all(|name| name.starts_with(".bake-u-1.")), "{hidden:?}");
    for name in visible {
        let path = out.join(name);
        match name.as_str() {
            "model.onnx" => assert!(Model::load(&path).is_ok()),
            "recipe.json" | "report.json" => {
                serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
            }
            _ => {}
        }
    }
}
