//! Promotion from a shell and from a pod, between folders and between buckets of a real S3 server (versitygw, skipped where it is not found).
#![cfg(feature = "tract")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "promote/retention.rs"]
mod retention;
#[allow(dead_code, reason = "the storage tests use the rest")]
mod s3;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bakehouse::api::digest::sha256_hex;
use bakehouse::api::wire::Outcome;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use s3::pod::example;
use s3::server::{KEY, SECRET, Server, gateway};
use serde_json::{Value, json};

type Files = BTreeMap<String, Vec<u8>>;

/// Where a test bakes and promotes.
struct Ground {
    folder: tempfile::TempDir,
    server: Option<Server>,
}

/// Runs a case between folders, and again between buckets.
fn on_each_ground(case: impl Fn(&Ground)) {
    case(&Ground { folder: tempfile::tempdir().unwrap(), server: None });
    if let Some(gateway) = gateway() {
        let server = Server::start(&gateway);
        ["baked", "promoted"].iter().for_each(|bucket| server.bucket(bucket));
        case(&Ground { folder: tempfile::tempdir().unwrap(), server: Some(server) });
    }
}

impl Ground {
    fn uri(&self, bucket: &str) -> String {
        match self.server {
            Some(_) => format!("s3://{bucket}"),
            None => self.folder.path().join(bucket).display().to_string(),
        }
    }

    /// Everything that lies there, by name.
    fn files(&self, bucket: &str) -> Files {
        match &self.server {
            Some(server) => server.objects(bucket),
            None => all(&self.folder.path().join(bucket)),
        }
    }

    /// Replaces a file.
    fn put(&self, bucket: &str, name: &str, bytes: &[u8]) {
        if let Some(server) = &self.server {
            return server.put(bucket, name, bytes);
        }
        let path = self.folder.path().join(bucket).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A job that bakes the perceptron into `baked/<output>`, with this promotion.
    fn spec(&self, output: &str, promotion: &Value) -> Value {
        let mut spec = json!({
            "source": {"uri": example("mlp", "model.onnx")},
            "data": {"validation": {"uri": example("mlp", "validation.npz"), "metric": "Top1"}},
            "optimization": {"level": "Light", "goal": "Size"},
            "output": {"uri": format!("{}/{output}", self.uri("baked"))},
            "profile": {"iterations": 10},
            "runtime": "Bakehouse",
        });
        spec["promotion"] = promotion.clone();
        if promotion["policy"] != "Never" {
            spec["promotion"]["uri"] = json!(self.uri("promoted"));
        }
        if let Some(server) = &self.server {
            spec["storage"] = json!({"endpoint": server.endpoint(), "region": "us-east-1"});
        }
        spec
    }

    fn job(&self, output: &str, spec: &Value) -> PathBuf {
        let job = json!({"apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob", "metadata": {"name": "digits"}, "spec": spec});
        let file = self.folder.path().join(format!("{output}.yaml"));
        fs::write(&file, job.to_string()).unwrap();
        file
    }

    fn command(&self) -> Command {
        let scratch = self.folder.path().join("tmp");
        fs::create_dir_all(&scratch).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bakehouse"));
        let keys = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET), ("NO_PROXY", "127.0.0.1")];
        command.envs(keys).env("TMPDIR", scratch).env("BAKEHOUSE_ORT_LIB", "none").env_remove("BAKEHOUSE_MEMORY_LIMIT");
        command
    }

    fn run(&self, arguments: &[&str], job: &Path) -> Output {
        self.command().args(arguments).arg("-f").arg(job).output().unwrap()
    }

    /// Bakes with policy Manual, and returns the job and the digest of its model.
    fn baked(&self, output: &str, optimization: &Value) -> (PathBuf, String) {
        let mut spec = self.spec(output, &json!({"policy": "Manual"}));
        spec["optimization"] = optimization.clone();
        let job = self.job(output, &spec);
        code(&self.run(&["bake", "--quiet"], &job), 0);
        let model = &self.files("baked")[&format!("{output}/model.onnx")];
        (job, format!("sha256:{}", sha256_hex(model)))
    }

    fn promote(&self, job: &Path, digest: &str) -> Output {
        self.run(&["promote", "--approve", digest], job)
    }

    fn promoting(&self, job: &Path, digest: &str) -> Child {
        let mut command = self.command();
        command.args(["promote", "--approve", digest, "-f"]).arg(job).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// `bakehouse verify` of something that is promoted: its exit code, and what was found or said.
    fn verify(&self, name: &str) -> (Option<i32>, Value) {
        let mut command = self.command();
        if let Some(server) = &self.server {
            command.env("AWS_ENDPOINT_URL", server.endpoint()).env("AWS_REGION", "us-east-1");
        }
        let output =
            command.args(["verify", "--json"]).arg(format!("{}/{name}", self.uri("promoted"))).output().unwrap();
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_else(|_| json!(said(&output))))
    }

    fn history(&self, job: &Path) -> Vec<Value> {
        let said = self.run(&["promote", "--history", "--json"], job);
        code(&said, 0);
        serde_json::from_slice(&said.stdout).unwrap()
    }

    /// Whatever is promoted is there, whole: every version that an entry names, and the newest under its fixed name.
    fn assert_whole(&self) -> Vec<Value> {
        let files = self.files("promoted");
        let read = |name: &str| -> Value { serde_json::from_slice(&files[name]).unwrap() };
        let count = files.keys().filter(|name| name.starts_with("digits/history/0")).count();
        let history: Vec<Value> = (1..=count).map(|i| read(&format!("digits/history/{i:06}.json"))).collect();
        for (i, entry) in history.iter().enumerate() {
            assert_eq!(entry["sequence"], json!(i + 1));
            for file in entry["files"].as_array().unwrap() {
                let path = format!("digits/{}/{}", entry["version"].as_str().unwrap(), file["file"].as_str().unwrap());
                assert_eq!(file["sha256"], json!(sha256_hex(&files[&path])), "{path}");
            }
        }
        if let Some(newest) = history.last() {
            assert_eq!(&read("digits/current.json"), newest);
        }
        history
    }
}

fn all(folder: &Path) -> Files {
    let Ok(entries) = fs::read_dir(folder) else { return Files::new() };
    let mut files = Files::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            files.extend(all(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            files.insert(name, fs::read(&path).unwrap());
        }
    }
    files
}

#[track_caller]
fn code(output: &Output, expected: i32) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(expected), "{out}\n{err}");
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn size() -> Value {
    json!({"level": "Light", "goal": "Size"})
}

fn conservative() -> Value {
    json!({"level": "Conservative", "goal": "Size"})
}

#[test]
fn an_automatic_promotion_follows_the_bake_and_doing_it_again_changes_nothing() {
    on_each_ground(|ground| {
        let job = ground.job("a", &ground.spec("a", &json!({"policy": "Automatic"})));
        let baked = ground.run(&["bake", "--quiet"], &job);
        code(&baked, 0);
        assert!(said(&baked).contains("is promoted as number 1 of digits"), "{}", said(&baked));
        let history = ground.assert_whole();
        assert_eq!(history.len(), 1);
        let files = ground.files("promoted");
        let version = history[0]["version"].as_str().unwrap();
        let baked = ground.files("baked");
        for (name, bytes) in baked.iter().filter(|(name, _)| !name.starts_with("a/earlier/promoted/")) {
            let name = name.strip_prefix("a/").unwrap();
            assert_eq!(&files[&format!("digits/{version}/{name}")], bytes, "{name} is promoted as it was baked");
        }
        code(&ground.run(&["promote"], &job), 0);
        assert_eq!(ground.files("promoted"), files);
    });
}

#[test]
fn only_the_artifact_that_a_person_names_is_promoted() {
    on_each_ground(|ground| {
        let (job, digest) = ground.baked("a", &size());
        let unnamed = ground.run(&["promote"], &job);
        code(&unnamed, 2);
        assert!(said(&unnamed).contains("--approve"), "{}", said(&unnamed));
        let other = ground.promote(&job, &format!("sha256:{}", "0".repeat(64)));
        code(&other, 12);
        assert!(said(&other).contains(&digest), "{}", said(&other));
        assert!(ground.files("promoted").is_empty(), "a refused promotion leaves nothing");
        code(&ground.promote(&job, &digest), 0);
        assert_eq!(ground.assert_whole()[0]["sha256"], json!(digest));
    });
}

#[test]
fn what_missed_a_gate_or_was_changed_after_the_bake_is_refused_and_leaves_nothing() {
    on_each_ground(|ground| {
        let mut spec = ground.spec("missed", &json!({"policy": "Automatic"}));
        spec["gates"] = json!([{"metric": "FileSize", "max": "1"}]);
        let missed = ground.job("missed", &spec);
        let baked = ground.run(&["bake", "--quiet"], &missed);
        code(&baked, 3);
        assert!(said(&baked).contains("Not promoted"), "{}", said(&baked));
        let refused = ground.run(&["promote"], &missed);
        assert!(matches!(refused.status.code(), Some(3 | 12)), "{}", said(&refused));
        assert!(ground.files("promoted").is_empty());

        let (job, digest) = ground.baked("changed", &size());
        let report = ground.files("baked")["changed/report.html"].clone();
        ground.put("baked", "changed/report.html", b"<html>better</html>");
        let refused = ground.promote(&job, &digest);
        code(&refused, 12);
        assert!(said(&refused).contains("report.html"), "{}", said(&refused));
        assert!(ground.files("promoted").is_empty(), "{:?}", ground.files("promoted").keys());
        ground.put("baked", "changed/report.html", &report);
        code(&ground.promote(&job, &digest), 0);
        ground.assert_whole();
    });
}

#[test]
fn a_rollback_promotes_the_version_before_if_it_is_still_whole() {
    on_each_ground(|ground| {
        let (first, a) = ground.baked("a", &size());
        let (second, b) = ground.baked("b", &conservative());
        assert_ne!(a, b);
        code(&ground.promote(&first, &a), 0);
        let none = ground.run(&["promote", "--rollback"], &first);
        code(&none, 2);
        assert!(said(&none).contains("no other version"), "{}", said(&none));
        code(&ground.promote(&second, &b), 0);
        code(&ground.run(&["promote", "--rollback"], &second), 0);
        let history = ground.assert_whole();
        assert_eq!(history, ground.history(&second));
        let told: Vec<_> = history.iter().map(|entry| (&entry["act"], &entry["sha256"])).collect();
        assert_eq!(
            told,
            [(&json!("Promote"), &json!(a)), (&json!("Promote"), &json!(b)), (&json!("Rollback"), &json!(a))]
        );

        let model = format!("digits/{}/model.onnx", history[1]["version"].as_str().unwrap());
        ground.put("promoted", &model, b"another model");
        let refused = ground.run(&["promote", "--rollback"], &second);
        code(&refused, 12);
        assert!(said(&refused).contains("model.onnx"), "{}", said(&refused));
        // Promoting it anew puts the right file back.
        code(&ground.promote(&second, &b), 0);
        assert_eq!(ground.assert_whole().len(), 4);
    });
}

#[test]
fn the_same_model_baked_again_is_promoted_already_and_no_entry_loses_the_files_that_it_names() {
    on_each_ground(|ground| {
        let (first, digest) = ground.baked("a", &size());
        let (again, same) = ground.baked("b", &size());
        let baked = ground.files("baked");
        assert_eq!(digest, same);
        assert_ne!(baked["a/report.json"], baked["b/report.json"], "its evidence is another");
        code(&ground.promote(&first, &digest), 0);
        let files = ground.files("promoted");
        code(&ground.promote(&again, &digest), 0);
        assert_eq!(ground.files("promoted"), files);
        assert_eq!(ground.assert_whole().len(), 1);

        // Where somebody took a file away, the version is made whole again by what was baked last, and a new entry names that.
        let version = ground.history(&first)[0]["version"].as_str().unwrap().to_owned();
        ground.put("promoted", &format!("digits/{version}/report.html"), b"half");
        code(&ground.promote(&again, &digest), 0);
        let history = ground.history(&first);
        assert_eq!(history.len(), 2);
        let files = ground.files("promoted");
        for file in history[1]["files"].as_array().unwrap() {
            let path = format!("digits/{version}/{}", file["file"].as_str().unwrap());
            assert_eq!(file["sha256"], json!(sha256_hex(&files[&path])), "{path}");
        }
    });
}

#[test]
fn what_is_promoted_is_verified_by_its_record_file_by_file() {
    on_each_ground(|ground| {
        let mut spec = ground.spec("a", &json!({"policy": "Automatic"}));
        spec["exports"] = json!(["ONNX", "Phase7"]);
        let job = ground.job("a", &spec);
        let none = ground.verify("digits/current.json");
        assert!(matches!(none.0, Some(2 | 12)), "{none:?}");
        code(&ground.run(&["bake", "--quiet"], &job), 0);
        let version = ground.assert_whole()[0]["version"].as_str().unwrap().to_owned();
        for name in ["digits/current.json", "digits"] {
            let (code, found) = ground.verify(name);
            let checks = found["checks"].as_array().unwrap_or_else(|| panic!("{found}"));
            let refuted: Vec<_> = checks.iter().filter(|c| c["holds"]["state"] == "No").collect();
            assert!(matches!(code, Some(0 | 4)) && refuted.is_empty(), "{code:?}: {refuted:#?}");
            for claim in ["promoted report.json", "promoted phase7/manifest.json", "outputs on the samples"] {
                assert!(
                    checks.iter().any(|c| c["claim"] == claim && c["holds"]["state"] == "Yes"),
                    "{claim}: {found:#}"
                );
            }
            assert!(found["remarks"].to_string().contains("promoted as number 1 of digits"), "{found}");
        }
        ground.put("promoted", &format!("digits/{version}/recipe.json"), b"{}");
        let (code, found) = ground.verify("digits/current.json");
        assert_eq!(code, Some(3));
        assert!(found["checks"].to_string().contains("DigestMismatch"), "{found}");
    });
}

#[test]
fn of_promotions_at_the_same_time_one_is_the_newest_and_all_are_whole() {
    on_each_ground(|ground| {
        let (first, a) = ground.baked("a", &size());
        let (second, b) = ground.baked("b", &conservative());
        let children: Vec<Child> = (0..8)
            .map(|i| if i % 2 == 0 { ground.promoting(&first, &a) } else { ground.promoting(&second, &b) })
            .collect();
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        let history = ground.assert_whole();
        assert!((2..=8).contains(&history.len()), "{history:?}");
        let told = |digest: &str| history.iter().any(|entry| entry["sha256"] == json!(digest));
        assert!(told(&a) && told(&b));
        assert!(
            history.windows(2).all(|pair| pair[0]["sha256"] != pair[1]["sha256"]),
            "none is promoted on top of itself"
        );
    });
}

#[test]
fn killed_at_twenty_moments_it_leaves_nothing_half_and_ends_well() {
    on_each_ground(|ground| {
        let mut random = ChaCha8Rng::seed_from_u64(11);
        let jobs = [ground.baked("a", &size()), ground.baked("b", &conservative())];
        for i in 0..20 {
            let (job, digest) = &jobs[i % 2];
            let mut child = ground.promoting(job, digest);
            std::thread::sleep(Duration::from_millis(random.random_range(0..80)));
            let _ = child.kill();
            let _ = child.wait();
            // `current.json` may lag behind the history until the next promotion; nothing may be named that is not there whole.
            let files = ground.files("promoted");
            for (name, bytes) in files.iter().filter(|(name, _)| !name.contains("/versions/") && !name.contains("/.")) {
                let entry: Value = serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
                for file in entry["files"].as_array().unwrap() {
                    let path =
                        format!("digits/{}/{}", entry["version"].as_str().unwrap(), file["file"].as_str().unwrap());
                    assert_eq!(file["sha256"], json!(sha256_hex(&files[&path])), "{path}");
                }
            }
        }
        for (job, digest) in &jobs {
            code(&ground.promote(job, digest), 0);
        }
        assert_eq!(ground.assert_whole().last().unwrap()["sha256"], json!(jobs[1].1));
        // What lies there then is a finished bake whose claims hold; a busy machine may leave some open (4).
        let (code, found) = ground.verify("digits/current.json");
        assert!(matches!(code, Some(0 | 4)), "{found:#}");
    });
}

#[test]
fn a_pod_promotes_what_the_status_names_and_says_where_it_lies() {
    on_each_ground(|ground| {
        let (_, digest) = ground.baked("a", &size());
        let report = format!("sha256:{}", sha256_hex(&ground.files("baked")["a/report.json"]));
        let spec = ground.spec("a", &json!({"policy": "Automatic"}));
        let termination = ground.folder.path().join("termination");
        let promote = |report: &str| {
            let assignment = json!({
                "task": "Promote", "name": "digits", "namespace": "ml", "uid": "u", "run": 3, "attempt": 0, "lowMemory": true, "device": "CPU",
                "candidate": {"artifact": digest, "report": report}, "spec": spec,
            });
            let mut command = ground.command();
            command
                .arg("worker")
                .env("BAKEHOUSE_ASSIGNMENT", assignment.to_string())
                .env("TERMINATION_LOG", &termination);
            let output = command.output().unwrap();
            (output.status.code(), Outcome::parse(&fs::read_to_string(&termination).unwrap()).unwrap())
        };
        let (exit, outcome) = promote(&format!("sha256:{}", "1".repeat(64)));
        assert_eq!(exit, Some(12), "{}", outcome.message);
        assert!(ground.files("promoted").is_empty() && outcome.promoted.is_none());
        let (exit, outcome) = promote(&report);
        assert_eq!(exit, Some(0), "{}", outcome.message);
        let promoted = outcome.promoted.unwrap();
        assert_eq!(promoted.sha256, digest);
        let hex = digest.trim_start_matches("sha256:");
        assert_eq!(promoted.uri, format!("{}/digits/versions/{hex}", ground.uri("promoted")));
        let origin = &ground.assert_whole()[0]["bakejob"];
        assert_eq!(origin, &json!({"namespace": "ml", "name": "digits", "uid": "u", "run": 3}));
    });
}
