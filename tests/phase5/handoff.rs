//! From phase 5 to phase 7, whole: each example's package, and one in the trainer's own layout, from a bucket through bake and promotion to what a consumer
//! finds of it. The seconds of each stage are printed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Command;
use std::time::Instant;

use bakehouse::api::digest::sha256_hex;
use bakehouse::api::load;

use super::s3::server::{KEY, SECRET, Server, gateway};
use super::*;

const EXAMPLES: [&str; 6] = ["mlp", "cnn", "resnet", "lstm", "gru", "encoder"];

/// What takes its time on the way, in order; a bake's own stages stand apart.
const STEPS: [&str; 5] = ["package", "upload", "bake", "promote", "verify"];

/// Far more than it takes: a machine that does other things too must not fail, one that waits for something must.
const SECONDS: f64 = 60.0;

/// A way from a trainer's files to a verified deployment.
struct Way<'s> {
    server: &'s Server,
    name: &'static str,
    folder: tempfile::TempDir,
    /// Seconds of each step, and of each stage of the bake.
    seconds: BTreeMap<&'static str, f64>,
    stages: Vec<(String, f64)>,
}

impl<'s> Way<'s> {
    fn new(server: &'s Server, name: &'static str) -> Self {
        Self { server, name, folder: tempfile::tempdir().unwrap(), seconds: BTreeMap::new(), stages: Vec::new() }
    }

    fn timed<T>(&mut self, step: &'static str, work: impl FnOnce(&Self) -> T) -> T {
        let started = Instant::now();
        let done = work(self);
        self.seconds.insert(step, started.elapsed().as_secs_f64());
        done
    }

    /// The program as somebody with keys starts it. ONNX Runtime takes part where it is found.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bakehouse"));
        command
            .args(arguments)
            .env("AWS_ACCESS_KEY_ID", KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_ENDPOINT_URL", self.server.endpoint())
            .env("AWS_REGION", "us-east-1")
            .env("NO_PROXY", "127.0.0.1")
            .env_remove("BAKEHOUSE_MEMORY_LIMIT")
            .env_remove("BAKEHOUSE_LOG");
        command.output().unwrap()
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// `bakehouse package` of an example, with all that its trainer knows.
    fn packaged(&self) -> PathBuf {
        let of = |file: &str| root().join("examples").join(self.name).join(file).display().to_string();
        let known: Value = serde_json::from_slice(&fs::read(root().join("examples/accuracy.json")).unwrap()).unwrap();
        let metadata = json!({"version": "1.2", "hyperparameters": {"lr": 0.001, "seed": 0}, "config": {"epochs": 40}, "environment": {"host": "trainer-3"}});
        fs::write(self.path("metadata.json"), metadata.to_string()).unwrap();
        let figure = format!("Top1={}", known[self.name]["accuracy"]);
        let packaged = self.run(&[
            "package",
            "--name",
            self.name,
            "--metric",
            "Top1",
            "--figure",
            &figure,
            "--model",
            &of("model.onnx"),
            "--validation",
            &of("validation.npz"),
            "--calibration",
            &of("calibration.npz"),
            "--training",
            &of("training.npz"),
            "--metadata",
            &self.path("metadata.json"),
            "--out",
            &self.path("package"),
        ]);
        code(&packaged, 0);
        self.folder.path().join("package")
    }

    /// The example's own job, from and to buckets.
    fn job(&self, level_of: &str) {
        let file = root().join("examples").join(level_of).join("bakejob.yaml");
        let job = load::parse(&fs::read_to_string(&file).unwrap(), &file).unwrap().remove(0);
        let mut job = serde_json::to_value(&job).unwrap();
        job["apiVersion"] = json!("bakehouse.dev/v1alpha1");
        job["kind"] = json!("BakeJob");
        job["metadata"] = json!({"name": self.name});
        let spec = &mut job["spec"];
        spec.as_object_mut().unwrap().remove("data");
        spec["source"] = json!({"uri": format!("s3://phase5/{}/", self.name)});
        spec["output"] = json!({"uri": format!("s3://baked/{}/", self.name)});
        spec["exports"] = json!(["ONNX", "Phase7"]);
        spec["promotion"] = json!({"policy": "Manual", "uri": "s3://phase7/"});
        fs::write(self.path("bakejob.json"), job.to_string()).unwrap();
    }

    /// Bakes what lies in the bucket, promotes it and looks at it as its consumer.
    fn baked_and_verified(mut self, level_of: &str) -> Self {
        self.job(level_of);
        let file = self.path("bakejob.json");
        let baked = self.timed("bake", |way| way.run(&["bake", "--quiet", "-f", &file]));
        code(&baked, 0);
        let objects = self.server.objects("baked");
        let of = |name: &str| &objects[&format!("{}/{name}", self.name)];
        let report: Value = serde_json::from_slice(of("report.json")).unwrap();
        self.stages = stages(&report);
        let digest = format!("sha256:{}", sha256_hex(of("model.onnx")));

        let promoted = self.timed("promote", |way| way.run(&["promote", "--approve", &digest, "-f", &file]));
        code(&promoted, 0);
        let current = format!("s3://phase7/{}/current.json", self.name);
        let verified = self.timed("verify", |way| way.run(&["verify", "--json", &current]));
        let found: Value =
            serde_json::from_slice(&verified.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&verified)));
        self.confirmed(&verified, &found);
        self.carried(&report);
        self
    }

    /// Every claim holds, but for those by the clock that other work may have kept open.
    fn confirmed(&self, verified: &Output, found: &Value) {
        let timed = |claim: &str| claim.ends_with(" here") || claim.starts_with("median at");
        let claim = |c: &Value| c["claim"].as_str().unwrap().to_owned();
        let all = found["checks"].as_array().unwrap();
        let (open, other): (Vec<&Value>, Vec<&Value>) = all
            .iter()
            .filter(|c| c["holds"]["state"] != "Yes")
            .partition(|c| c["holds"]["state"] == "Unchecked" && timed(&claim(c)));
        let expected = if open.is_empty() { 0 } else { 4 };
        assert_eq!((verified.status.code(), &other), (Some(expected), &vec![]), "{}: {found:#}", self.name);
        for name in
            ["promoted phase7/model.onnx", "promoted report.json", "package of phase 5", "outputs on the samples"]
        {
            assert!(all.iter().any(|c| c["claim"] == name), "{}: {name}: {found:#}", self.name);
        }
    }

    /// What the trainer knew stands in what is deployed, with the digests of the very files that were baked from.
    fn carried(&self, report: &Value) {
        let promoted = self.server.objects("phase7");
        let current: Value = serde_json::from_slice(&promoted[&format!("{}/current.json", self.name)]).unwrap();
        let version = current["version"].as_str().unwrap();
        let manifest = &promoted[&format!("{}/{version}/phase7/manifest.json", self.name)];
        let manifest: Value = serde_json::from_slice(manifest).unwrap();
        let carried = &manifest["traceability"]["phase5"];
        let of_report = &report["package"];
        for field in ["identity", "training", "environment", "metrics"] {
            assert_eq!(carried[field], of_report["manifest"][field], "{}: {field}", self.name);
        }
        assert!(carried["training"]["config"]["epochs"] == 40, "{carried:#}");
        assert_eq!(carried["baseline"][0]["holds"], true, "{}: {:#}", self.name, carried["baseline"]);
        let packaged = self.server.objects("phase5");
        for file in carried["files"].as_array().unwrap() {
            assert_eq!(file["read"], true, "{file}");
            let sha256 = file["sha256"].as_str().unwrap();
            let lies = packaged.iter().any(|(key, bytes)| key.starts_with(self.name) && sha256_hex(bytes) == sha256);
            assert!(lies, "{}: {file}", self.name);
        }
    }

    fn sum(&self) -> f64 {
        self.seconds.values().sum()
    }
}

/// Seconds of a bake's stages by name, in order.
fn stages(report: &Value) -> Vec<(String, f64)> {
    let mut seconds: Vec<(String, f64)> = Vec::new();
    for stage in report["stages"].as_array().unwrap() {
        let (name, took) = (stage["name"].as_str().unwrap(), stage["seconds"].as_f64().unwrap());
        match seconds.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += took,
            None => seconds.push((name.to_owned(), took)),
        }
    }
    seconds
}

fn table(ways: &[Way<'_>]) -> String {
    let mut text = "\nseconds   ".to_owned();
    for step in STEPS {
        let _ = write!(text, "{step:>9}");
    }
    text += "      sum   of the bake\n";
    for way in ways {
        let _ = write!(text, "{:<10}", way.name);
        for step in STEPS {
            let _ = write!(text, "{:>9.2}", way.seconds.get(step).copied().unwrap_or_default());
        }
        let stages: Vec<String> = way.stages.iter().map(|(name, s)| format!("{name} {s:.2}")).collect();
        let _ = writeln!(text, "{:>9.2}   {}", way.sum(), stages.join(", "));
    }
    text
}

/// Puts a folder into the bucket of packages.
fn upload(server: &Server, folder: &Path, name: &str) {
    let mut folders = vec![(folder.to_owned(), String::new())];
    while let Some((at, before)) = folders.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let entry = entry.unwrap();
            let key = format!("{before}{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                folders.push((entry.path(), format!("{key}/")));
            } else {
                server.put("phase5", &format!("{name}/{key}"), &fs::read(entry.path()).unwrap());
            }
        }
    }
}

#[test]
fn every_examples_package_and_one_of_the_trainers_own_are_baked_promoted_and_verified_from_buckets() {
    let Some(gateway) = gateway() else { return };
    let server = Server::start(&gateway);
    ["phase5", "baked", "phase7"].iter().for_each(|bucket| server.bucket(bucket));
    let mut ways: Vec<Way<'_>> = Vec::new();
    for example in EXAMPLES {
        let mut way = Way::new(&server, example);
        let package = way.timed("package", Way::packaged);
        way.timed("upload", |way| upload(way.server, &package, way.name));
        ways.push(way.baked_and_verified(example));
    }
    let mut way = Way::new(&server, "trainer");
    // As the trainer leaves it: nothing is packaged.
    let folder = trainers_folder(accuracy());
    way.timed("upload", |way| upload(way.server, folder.path(), way.name));
    ways.push(way.baked_and_verified("mlp"));

    // Past what the test runner keeps to itself: these figures are the point.
    let _ = std::io::stderr().write_all(table(&ways).as_bytes());
    for way in &ways {
        assert!(way.sum() < SECONDS, "{}", table(&ways));
    }
}
