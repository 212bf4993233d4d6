//! The phase 7 package: what a bake hands over is confirmed claim by claim, alone in a folder of its own, and every way to break it is caught by name.
#![cfg(feature = "tract")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use assert_cmd::Command;
use bakehouse::api::digest::sha256_hex;
use bakehouse::model::build::Builder;
use bakehouse::model::edit::{int, ints, node};
use bakehouse::model::{DType, Model, Tensor, safetensors};
use bakehouse::package::oci;
use bakehouse::package::phase7::{self, Defect, deployment_schema, manifest_schema};
use serde_json::{Value, json};

const PACKAGE: &str = "phase7";

fn bakehouse() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bakehouse"));
    command.env_remove("BAKEHOUSE_MEMORY_LIMIT").env_remove("BAKEHOUSE_LOG").env("BAKEHOUSE_ORT_LIB", "none");
    command
}

fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mlp").join(file)
}

/// Bakes a job on the embedded engine; the exit code and what was said.
fn bake(folder: &Path, spec: &Value) -> (Option<i32>, String) {
    let job = json!({"apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob", "metadata": {"name": "handed-over"}, "spec": spec});
    fs::write(folder.join("bakejob.yaml"), job.to_string()).unwrap();
    let output = bakehouse().args(["bake", "--quiet", "-f"]).arg(folder.join("bakejob.yaml")).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), said)
}

/// The example as its trainer hands it over.
fn packaged(out: &Path) {
    let known =
        json!({"hyperparameters": {"lr": 0.001}, "config": {"epochs": 40}, "environment": {"host": "trainer-3"}});
    let metadata = out.with_extension("json");
    fs::write(&metadata, known.to_string()).unwrap();
    let mut command = bakehouse();
    command.args([
        "package",
        "--name",
        "digits",
        "--metric",
        "Top1",
        "--figure",
        "Top1=0.979",
        "--figure",
        "loss=0.08",
    ]);
    for (flag, file) in [("model", "model.onnx"), ("validation", "validation.npz"), ("calibration", "calibration.npz")]
    {
        command.arg(format!("--{flag}")).arg(example(file));
    }
    command.arg("--metadata").arg(metadata).arg("--out").arg(out).assert().success();
}

/// One bake of the example's package with every export there is, shared by the tests.
fn baked() -> &'static Path {
    static BAKED: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = BAKED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        packaged(&folder.path().join("digits"));
        let (code, said) = bake(
            folder.path(),
            &json!({
                "source": {"uri": "digits/"},
                "optimization": {"level": "Light", "goal": "Size"},
                "runtime": "Bakehouse",
                "exports": ["ONNX", "Phase7", "SafeTensors", "ONNXStandard", "NNEF", "OCI"],
                "output": {"uri": "out"},
            }),
        );
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("package ") && said.contains("out/phase7"), "{said}");
        folder
    });
    folder.path()
}

fn out() -> PathBuf {
    baked().join("out")
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A copy of a package, in a folder where nothing else is, that a test may break.
struct Package {
    root: tempfile::TempDir,
    manifest: Value,
    config: Value,
}

impl Package {
    fn copy(of: &Path) -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(PACKAGE);
        fs::create_dir(&folder).unwrap();
        for entry in fs::read_dir(of).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        let [manifest, config] = [phase7::MANIFEST_FILE, phase7::CONFIG_FILE].map(|name| json_of(&folder.join(name)));
        Self { root, manifest, config }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join(PACKAGE)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder().join(file)
    }

    /// Writes manifest and config as they are now.
    fn write(&self) {
        fs::write(self.path(phase7::CONFIG_FILE), self.config.to_string()).unwrap();
        fs::write(self.path(phase7::MANIFEST_FILE), self.manifest.to_string()).unwrap();
    }

    /// Writes them with every digest made to match: whoever forges a claim forges those too.
    fn seal(&mut self) {
        fs::write(self.path(phase7::CONFIG_FILE), self.config.to_string()).unwrap();
        let folder = self.folder();
        for file in self.manifest["files"].as_array_mut().unwrap() {
            if let Ok(bytes) = fs::read(folder.join(file["path"].as_str().unwrap())) {
                file["sha256"] = json!(sha256_hex(&bytes));
                file["bytes"] = json!(bytes.len());
            }
        }
        fs::write(self.path(phase7::MANIFEST_FILE), self.manifest.to_string()).unwrap();
    }

    /// Takes another model in, with all digests that speak of it.
    fn swap(&mut self, model: &[u8], recipe_too: bool) {
        fs::write(self.path(phase7::MODEL_FILE), model).unwrap();
        let digest = json!(sha256_hex(model));
        self.config["model"]["sha256"] = digest.clone();
        if recipe_too {
            let mut recipe = json_of(&self.path(phase7::RECIPE_FILE));
            recipe["outputSha256"] = digest.clone();
            fs::write(self.path(phase7::RECIPE_FILE), recipe.to_string()).unwrap();
            self.manifest["traceability"]["recipe"]["outputSha256"] = digest;
        }
        self.seal();
    }

    fn verify(&self, arguments: &[&Path]) -> (i32, Value) {
        let output = bakehouse().args(["verify", "--json"]).arg(self.folder()).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let found = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
        (output.status.code().unwrap(), found)
    }
}

/// What was said against a package, as `claim: why`.
fn refuted(found: &Value) -> Vec<String> {
    let checks = found["checks"].as_array().unwrap().iter().filter(|c| c["holds"]["state"] == "No");
    checks.map(|c| format!("{}: {}", c["claim"].as_str().unwrap(), c["holds"]["why"].as_str().unwrap())).collect()
}

fn state<'a>(found: &'a Value, claim: &str) -> &'a Value {
    let checks = found["checks"].as_array().unwrap();
    let check = checks.iter().find(|c| c["claim"] == claim);
    &check.unwrap_or_else(|| panic!("{claim} is not among {checks:#?}"))["holds"]["state"]
}

fn output_bounds(package: &Package) -> String {
    format!("bounds of output '{}'", package.config["signature"]["outputs"][0]["name"].as_str().unwrap())
}

#[test]
fn a_package_alone_is_confirmed_claim_by_claim() {
    let package = Package::copy(&out().join(PACKAGE));
    let (code, found) = package.verify(&[]);
    // What hangs on the clock is left open where other work kept the machine busy.
    let timed = |claim: &str| claim.ends_with(" here") || claim.starts_with("median at");
    let (open, others): (Vec<&Value>, Vec<&Value>) = found["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|c| c["holds"]["state"] != "Yes")
        .partition(|c| timed(c["claim"].as_str().unwrap()) && c["holds"]["state"] == "Unchecked");
    assert_eq!((code, &others), (if open.is_empty() { 0 } else { 4 }, &vec![]), "{found:#}");
    assert_eq!(found["job"], "handed-over");
    for claim in [
        "manifest.json",
        "deployment_config.json",
        "model.onnx",
        "no other file",
        "signature",
        "opsets and operators",
        "recipe",
        "gates",
        "package of phase 5",
        "evidence of bit-identical processes",
        "evidence of batch flexibility",
        "outputs on the samples",
        "reload in a fresh process",
        "bit-identical over runs",
        "bit-identical over threads",
        "bit-identical over processes",
        "rows of batch 2 as single runs",
        "rows of batch 8 as single runs",
        "peak memory",
        "latency at batch 1",
        "median at batch 1, wall",
        "LatencyP99 here",
        "limit LatencyP99 <= 50ms",
        "limit Throughput >= 30",
    ] {
        assert!(state(&found, claim) == "Yes" || timed(claim), "{claim}");
    }
    let remarks = found["remarks"].to_string();
    assert!(remarks.contains("No safety level is claimed"), "{remarks}");

    // On the whole split, the same ranges; on other data nothing is said of them.
    let (code, found) = package.verify(&[Path::new("--data"), &example("validation.npz")]);
    assert!([0, 4].contains(&code), "{:#?}", refuted(&found));
    assert_eq!(state(&found, &output_bounds(&package)), "Yes");
    let (code, found) = package.verify(&[Path::new("--data"), &example("calibration.npz")]);
    assert_eq!(state(&found, &output_bounds(&package)), "Unchecked");
    assert_eq!((code, refuted(&found)), (4, vec![]));
}

#[test]
fn the_table_for_people_says_claims_and_verdicts() {
    let output = bakehouse().arg("verify").arg(out().join(PACKAGE)).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["handed-over", "bit-identical over processes", "claim", "No safety level is claimed"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn the_report_lists_every_file_of_the_package_and_its_own_check_covers_them() {
    let report = json_of(&out().join("report.json"));
    let listed: BTreeMap<&str, &Value> =
        report["artifacts"].as_array().unwrap().iter().map(|a| (a["file"].as_str().unwrap(), a)).collect();
    for entry in fs::read_dir(out().join(PACKAGE)).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{PACKAGE}/{}", entry.file_name().to_str().unwrap());
        assert_eq!(listed[&*name]["sha256"], json!(sha256_hex(&fs::read(entry.path()).unwrap())), "{name}");
    }
    assert_eq!(listed["phase7/manifest.json"]["format"], "Phase7");
    let last = report["artifacts"].as_array().unwrap().iter().rposition(|a| a["format"] == "Phase7File").unwrap();
    assert_eq!(report["artifacts"][last + 1]["format"], "Phase7", "the manifest is published behind what it names");
    let output = bakehouse().args(["verify", "--json"]).arg(out()).output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(state(&found, "phase7/manifest.json"), "Yes");
    assert_eq!(state(&found, "measured model"), "Yes");
    assert!(found["remarks"].to_string().contains("bakehouse verify"), "{}", found["remarks"]);
}

#[test]
fn what_a_deployment_reads_is_what_was_measured() {
    let folder = out().join(PACKAGE);
    let (manifest, config) = (json_of(&folder.join("manifest.json")), json_of(&folder.join("deployment_config.json")));
    let report = json_of(&out().join("report.json"));
    assert_eq!(config["model"]["sha256"], report["baked"]["sha256"]);
    assert_eq!(manifest["traceability"]["specDigest"], report["job"]["specDigest"]);
    assert_eq!(manifest["traceability"]["inputSha256"], report["baseline"]["sha256"]);
    assert_eq!(manifest["traceability"]["gatesPassed"], true);
    assert_eq!(config["machine"]["cpu"], report["machine"]["cpu"]);
    let limits = config["limits"].as_array().unwrap();
    assert_eq!(limits.len(), 4);
    for limit in limits {
        assert!(limit["measured"].is_f64() || limit["measured"].is_u64(), "{limit}");
    }
    assert_eq!(limits[3]["measured"].as_f64().unwrap(), config["memory"]["peakBytes"].as_f64().unwrap());
    // The ranges are those of the split: digits are sixteen shades.
    let input = &config["signature"]["inputs"][0]["range"];
    assert_eq!((input["min"].as_f64(), input["nonFinite"].as_u64()), (Some(0.0), Some(0)), "{input}");
    let samples = safetensors::read(&fs::read(folder.join("samples.safetensors")).unwrap().into()).unwrap();
    let places = manifest["evidence"]["samples"]["places"].as_array().unwrap().len();
    assert!(samples.values().all(|array| array.shape()[0] == places), "{places}");
}

#[test]
fn what_the_trainer_said_is_carried_along_and_held_against_the_report() {
    let report = json_of(&out().join("report.json"));
    let carried = &json_of(&out().join(PACKAGE).join("manifest.json"))["traceability"]["phase5"];
    for field in ["identity", "training", "environment", "metrics"] {
        assert_eq!(carried[field], report["package"]["manifest"][field], "{field}");
    }
    assert_eq!(carried["training"]["hyperParameters"], json!({"lr": 0.001}));
    assert_eq!(carried["manifestSha256"], sha256_hex(&fs::read(baked().join("digits/manifest.json")).unwrap()));
    assert_eq!((&carried["baseline"][0]["metric"], &carried["baseline"][0]["holds"]), (&json!("Top1"), &json!(true)));
    let files: Vec<&str> = carried["files"].as_array().unwrap().iter().map(|f| f["field"].as_str().unwrap()).collect();
    assert_eq!(files, ["model.graph", "splits.validation", "splits.calibration"]);

    // Nothing in the package itself tells that a hyper-parameter was edited and every digest made to match; the report does.
    let copy = tempfile::tempdir().unwrap();
    let mut package = Package::copy(&out().join(PACKAGE));
    package.manifest["traceability"]["phase5"]["training"]["hyperParameters"]["lr"] = json!(0.1);
    package.seal();
    assert_eq!(refuted(&package.verify(&[]).1), Vec::<String>::new());
    for entry in fs::read_dir(out()).unwrap().map(Result::unwrap).filter(|e| e.path().is_file()) {
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    fs::rename(package.folder(), copy.path().join(PACKAGE)).unwrap();
    let mut report = report;
    let artifacts = report["artifacts"].as_array_mut().unwrap();
    artifacts.retain(|artifact| !artifact["file"].as_str().unwrap().starts_with("oci/"));
    for artifact in artifacts {
        let bytes = fs::read(copy.path().join(artifact["file"].as_str().unwrap())).unwrap();
        (artifact["sha256"], artifact["bytes"]) = (json!(sha256_hex(&bytes)), json!(bytes.len()));
    }
    fs::write(copy.path().join("report.json"), report.to_string()).unwrap();
    let output = bakehouse().args(["verify", "--json"]).arg(copy.path()).output().unwrap();
    let said = refuted(&serde_json::from_slice(&output.stdout).unwrap());
    let expected = "training in the package: TrainingMisstated: manifest.json: traceability.phase5: training";
    assert_eq!((output.status.code(), said), (Some(3), vec![expected.to_owned()]));
}

#[test]
fn the_weights_alone_are_those_of_the_model_and_the_plain_model_has_plain_operators() {
    let held = safetensors::read(&fs::read(out().join("weights.safetensors")).unwrap().into()).unwrap();
    let model = Model::load(&out().join("model.onnx")).unwrap();
    assert_eq!(held.len(), model.graph().initializer.len());
    for initializer in &model.graph().initializer {
        assert_eq!(held[initializer.name()], Tensor::from_proto(initializer).unwrap());
    }
    let plain = Model::load(&out().join("model.standard.onnx")).unwrap();
    assert!(phase7::ModelFacts::of(&plain).other_operators.is_empty());
    let probe = |arguments: &[&Path]| {
        let mut command = bakehouse();
        command.arg("probe").arg(out().join("model.onnx")).args(arguments);
        serde_json::from_slice::<Value>(&command.output().unwrap().stdout).unwrap()
    };
    let seen = probe(&[Path::new("--weights"), &out().join("weights.safetensors")]);
    assert_eq!(seen["different"], json!([]));
    let other = tempfile::tempdir().unwrap();
    let file = other.path().join("w.safetensors");
    let mut changed = held;
    let first = changed.keys().next().unwrap().clone();
    changed.insert(first.clone(), Tensor::scalar(1.0_f32));
    changed.insert("another".to_owned(), Tensor::scalar(1.0_f32));
    fs::write(&file, safetensors::write(&changed, None).unwrap()).unwrap();
    let seen = probe(&[Path::new("--weights"), &file]);
    assert_eq!(seen["different"], json!([first, "another"]));
}

/// A way to break a package, and the name that it must be caught by.
type Case = (&'static str, Defect, fn(&mut Package));

const CASES: &[Case] = &[
    ("a truncated manifest", Defect::ManifestUnreadable, |p| {
        let text = fs::read(p.path("manifest.json")).unwrap();
        fs::write(p.path("manifest.json"), &text[..text.len() / 2]).unwrap();
    }),
    ("another major version of the manifest", Defect::UnknownVersion, |p| {
        p.manifest["apiVersion"] = json!("bakehouse.dev/phase7/v2");
        p.seal();
    }),
    ("another version of the deployment config", Defect::UnknownVersion, |p| {
        p.config["apiVersion"] = json!("bakehouse.dev/phase7-deployment/v9");
        p.seal();
    }),
    ("a manifest without a field", Defect::SchemaBroken, |p| {
        p.manifest.as_object_mut().unwrap().remove("traceability");
        p.seal();
    }),
    ("a config with text for a number", Defect::SchemaBroken, |p| {
        p.config["runtime"]["threads"] = json!("one");
        p.seal();
    }),
    ("a missing file", Defect::FileMissing, |p| fs::remove_file(p.path("outputs.safetensors")).unwrap()),
    ("a changed byte of the model", Defect::DigestMismatch, |p| flip(&p.path("model.onnx"))),
    ("a changed byte of the samples", Defect::DigestMismatch, |p| flip(&p.path("samples.safetensors"))),
    ("a claim that was edited in place", Defect::DigestMismatch, |p| {
        p.config["limits"][0]["verdict"] = json!("Met");
        p.config["name"] = json!("another");
        p.write();
    }),
    ("a file too many", Defect::ExtraFile, |p| fs::write(p.path("notes.txt"), b"mine").unwrap()),
    ("a file too many in a folder", Defect::ExtraFile, |p| {
        fs::create_dir(p.path("sub")).unwrap();
        fs::write(p.path("sub/notes.txt"), b"mine").unwrap();
    }),
    ("a path that leaves the package", Defect::UnsafePath, |p| {
        fs::write(p.root.path().join("secret"), b"secret").unwrap();
        p.manifest["files"][0]["path"] = json!("../secret");
        p.seal();
    }),
    ("an absolute path", Defect::UnsafePath, |p| {
        p.manifest["files"][0]["path"] = json!("/etc/hostname");
        p.seal();
    }),
    ("a link in place of a file", Defect::UnsafePath, |p| {
        let real = p.root.path().join("model.onnx");
        fs::rename(p.path("model.onnx"), &real).unwrap();
        std::os::unix::fs::symlink(real, p.path("model.onnx")).unwrap();
    }),
    ("a file that is listed twice", Defect::ListedTwice, |p| {
        let again = p.manifest["files"][0].clone();
        p.manifest["files"].as_array_mut().unwrap().push(again);
        p.seal();
    }),
    ("no samples", Defect::PartMissing, |p| {
        fs::remove_file(p.path("samples.safetensors")).unwrap();
        p.manifest["files"].as_array_mut().unwrap().retain(|f| f["role"] != "Samples");
        p.seal();
    }),
    ("a model that is none", Defect::ModelUnreadable, |p| p.swap(b"no model", true)),
    ("a config that speaks of another model", Defect::ModelMismatch, |p| {
        p.config["model"]["sha256"] = json!("0".repeat(64));
        p.seal();
    }),
    ("another type of an input", Defect::SignatureMismatch, |p| {
        p.config["signature"]["inputs"][0]["dtype"] = json!("float64");
        p.seal();
    }),
    ("another shape of an output", Defect::SignatureMismatch, |p| {
        p.config["signature"]["outputs"][0]["shape"][1] = json!(11);
        p.seal();
    }),
    ("an input too many", Defect::SignatureMismatch, |p| {
        let again = p.config["signature"]["inputs"][0].clone();
        p.config["signature"]["inputs"].as_array_mut().unwrap().push(again);
        p.seal();
    }),
    ("another opset", Defect::SignatureMismatch, |p| {
        p.manifest["model"]["opsets"]["ai.onnx"] = json!(99);
        p.seal();
    }),
    ("the input model in place of the artifact", Defect::RecipeMismatch, |p| {
        p.swap(&fs::read(example("model.onnx")).unwrap(), false);
    }),
    ("steps that are not those of the recipe", Defect::RecipeMismatch, |p| {
        p.manifest["traceability"]["recipe"]["steps"] = json!(["another-pass"]);
        p.seal();
    }),
    ("the input model in place of the artifact, with a recipe that ends in it", Defect::OutputsDiffer, |p| {
        let model = renamed_like(p, &example("model.onnx"));
        p.swap(&model, true);
        p.manifest["model"] =
            serde_json::to_value(phase7::ModelFacts::of(&Model::load(&p.path("model.onnx")).unwrap())).unwrap();
        p.seal();
    }),
    ("a bit-identity that no digest shows", Defect::ClaimWithoutEvidence, |p| {
        p.manifest["evidence"]["determinism"]["processes"] = json!([]);
        p.seal();
    }),
    ("a bit-identity that the digests deny", Defect::ClaimContradictsEvidence, |p| {
        p.manifest["evidence"]["determinism"]["threads"][0]["sha256"] = json!("0".repeat(64));
        p.seal();
    }),
    ("digests of other outputs", Defect::ClaimContradictsEvidence, |p| {
        let other = json!("0".repeat(64));
        let evidence = &mut p.manifest["evidence"]["determinism"];
        evidence["runs"] = json!([other, other]);
        evidence["processes"] = json!([other, other]);
        evidence["threads"][0]["sha256"] = other;
        p.seal();
    }),
    ("a batch flexibility without a batch", Defect::ClaimWithoutEvidence, |p| {
        p.config["batchFlexibility"]["sizes"] = json!([]);
        p.seal();
    }),
    ("a batch whose difference denies the claim", Defect::ClaimContradictsEvidence, |p| {
        p.config["batchFlexibility"]["sizes"][0]["maxDifference"] = json!(0.5);
        p.seal();
    }),
    ("latencies without samples", Defect::ClaimWithoutEvidence, |p| {
        p.manifest["evidence"]["latency"] = json!([]);
        p.seal();
    }),
    ("no latency at all", Defect::ClaimWithoutEvidence, |p| {
        p.config["batches"] = json!([]);
        for limit in p.config["limits"].as_array_mut().unwrap().iter_mut().take(3) {
            let limit = limit.as_object_mut().unwrap();
            limit.remove("measured");
            limit.remove("interval");
            limit.insert("verdict".to_owned(), json!("NotMeasured"));
        }
        p.seal();
    }),
    ("a percentile that does not follow from its samples", Defect::ClaimContradictsEvidence, |p| {
        p.config["batches"][0]["latency"][0]["p50"] = json!(1e-9);
        p.seal();
    }),
    ("a limit of one's own", Defect::LimitMisstated, |p| {
        p.config["limits"][0]["max"] = json!(5.0);
        p.seal();
    }),
    ("a limit that is left out", Defect::LimitMisstated, |p| {
        p.config["limits"].as_array_mut().unwrap().pop();
        p.seal();
    }),
    ("a limit that is met without a figure", Defect::LimitMisstated, |p| {
        p.config["limits"][0].as_object_mut().unwrap().remove("measured");
        p.config["limits"][0]["verdict"] = json!("Met");
        p.seal();
    }),
    ("a limit with another figure than the one beside it", Defect::ClaimContradictsEvidence, |p| {
        p.config["limits"][2]["measured"] = json!(1e9);
        p.config["limits"][2]["interval"] = json!([1e9, 1e9]);
        p.config["limits"][2]["verdict"] = json!("Met");
        p.seal();
    }),
    ("a gate that passed below its bound", Defect::GateMisstated, |p| {
        p.manifest["traceability"]["gates"][0]["observed"] = json!(0.1);
        p.seal();
    }),
    ("a gate that passed without an observation", Defect::GateMisstated, |p| {
        p.manifest["traceability"]["gates"][0].as_object_mut().unwrap().remove("observed");
        p.seal();
    }),
    ("gates that passed with one that failed", Defect::GateMisstated, |p| {
        p.manifest["traceability"]["gates"][0]["verdict"] = json!("Fail");
        p.seal();
    }),
    ("another manifest of phase 5", Defect::TrainingMisstated, |p| {
        p.manifest["traceability"]["phase5"]["manifestSha256"] = json!("0".repeat(64));
        p.seal();
    }),
    ("no word of the training", Defect::TrainingMisstated, |p| {
        p.manifest["traceability"].as_object_mut().unwrap().remove("phase5");
        p.seal();
    }),
    ("a split that the bake did not read", Defect::TrainingMisstated, |p| {
        p.manifest["traceability"]["phase5"]["files"][1]["sha256"] = json!("0".repeat(64));
        p.seal();
    }),
    ("a trainer's figure that is said to hold and does not", Defect::TrainingMisstated, |p| {
        let claim = &mut p.manifest["traceability"]["phase5"];
        claim["metrics"][0]["value"] = json!(0.999);
        claim["baseline"][0]["claimed"] = json!(0.999);
        p.seal();
    }),
    ("a figure that no trainer named", Defect::TrainingMisstated, |p| {
        p.manifest["traceability"]["phase5"]["metrics"] = json!([]);
        p.seal();
    }),
    ("ranges without samples", Defect::ClaimWithoutEvidence, |p| {
        p.manifest["evidence"]["samples"]["validationSamples"] = json!(0);
        p.manifest["evidence"]["samples"]["places"] = json!([]);
        p.seal();
    }),
    ("a wider bound of an output", Defect::BoundNotReproduced, |p| {
        p.config["signature"]["outputs"][0]["range"]["max"] = json!(1e6);
        p.seal();
    }),
    ("a narrower bound of an output", Defect::BoundNotReproduced, |p| {
        let range = &mut p.config["signature"]["outputs"][0]["range"];
        let middle = f64::midpoint(range["min"].as_f64().unwrap(), range["max"].as_f64().unwrap());
        range["max"] = json!(middle);
        p.seal();
    }),
    ("another range of an input", Defect::BoundNotReproduced, |p| {
        p.config["signature"]["inputs"][0]["range"]["min"] = json!(-3.0);
        p.seal();
    }),
    ("a bound that is left out", Defect::BoundNotReproduced, |p| {
        p.config["signature"]["outputs"][0].as_object_mut().unwrap().remove("range");
        p.seal();
    }),
    ("less memory than it takes", Defect::MemoryNotReproduced, |p| {
        p.config["memory"]["peakBytes"] = json!(1_000_000);
        p.config["limits"][3]["measured"] = json!(1_000_000.0);
        p.config["limits"][3]["interval"] = json!([1_000_000.0, 1_000_000.0]);
        p.config["limits"][3]["verdict"] = json!("Met");
        p.seal();
    }),
    ("a latency that nobody reaches", Defect::LatencyNotReproduced, |p| {
        let (batch, seconds) = (p.config["batches"][0]["batch"].as_f64().unwrap(), 1e-9);
        for evidence in p.manifest["evidence"]["latency"].as_array_mut().unwrap() {
            if evidence["batch"].as_f64() == Some(batch) {
                evidence["seconds"] = json!(vec![seconds; 400]);
            }
        }
        let figures = &mut p.config["batches"][0];
        figures["throughput"] = json!(batch / seconds);
        // By every clock: a time that only the wall refutes is left open.
        for figures in figures["latency"].as_array_mut().unwrap() {
            let clock = figures["clock"].clone();
            *figures = json!({"clock": clock, "p50": seconds, "p95": seconds, "p99": seconds, "jitter": 0.0, "n": 400});
        }
        for (limit, value) in [(0, seconds), (1, 0.0), (2, batch / seconds)] {
            let limit = &mut p.config["limits"][limit];
            (limit["measured"], limit["interval"], limit["n"]) = (json!(value), json!([value, value]), json!(400));
            limit["verdict"] = json!("Met");
        }
        p.seal();
    }),
];

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The model of a file, declaring its inputs and outputs as the package's does: a forger would see to that.
fn renamed_like(package: &Package, path: &Path) -> Vec<u8> {
    let like = Model::load(&package.path("model.onnx")).unwrap();
    let mut model = Model::load(path).unwrap();
    model.graph_mut().input.clone_from(&like.graph().input);
    model.graph_mut().output.clone_from(&like.graph().output);
    model.to_bytes()
}

#[test]
fn every_way_to_break_a_package_is_caught_by_name() {
    let mut wrong = Vec::new();
    for (what, defect, damage) in CASES {
        let mut package = Package::copy(&out().join(PACKAGE));
        damage(&mut package);
        let (code, found) = package.verify(&[]);
        let said = refuted(&found);
        if code != 3 || !said.iter().any(|why| why.contains(&format!(": {defect}: "))) {
            wrong.push(format!("{what}: exit code {code}, not {defect} but {said:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_defect_names_the_file_and_the_field() {
    let mut package = Package::copy(&out().join(PACKAGE));
    package.config["batchFlexibility"]["sizes"] = json!([]);
    package.seal();
    let said = refuted(&package.verify(&[]).1).join("\n");
    assert!(said.contains("deployment_config.json: batchFlexibility.flexible is claimed"), "{said}");
    let said = {
        package.manifest["files"][0]["path"] = json!("../model.onnx");
        package.seal();
        refuted(&package.verify(&[]).1).join("\n")
    };
    assert!(said.contains("manifest.json: files names '../model.onnx', which leaves the package"), "{said}");
}

/// `y = Relu(x w) + (mean of the batch - x)`: alone a row is its own mean; in a batch it is not.
fn mixing() -> Model {
    let weights: Vec<f32> = (0..16).map(|i| (i as f32 * 0.61).sin()).collect();
    Builder::new(17)
        .input("x", DType::F32, &["N", "4"])
        .initializer("w", Tensor::new(&[4, 4], &weights))
        .node("MatMul", &["x", "w"], "h", vec![])
        .node("Relu", &["h"], "r", vec![])
        .node("ReduceMean", &["x"], "m", vec![ints("axes", &[0])])
        .node("Sub", &["m", "x"], "d", vec![])
        .node("Add", &["r", "d"], "y", vec![])
        .output("y", DType::F32, &["N", "4"])
        .build()
}

/// `y = x w` with noise: never the same twice.
fn noisy() -> Model {
    let weights: Vec<f32> = (0..16).map(|i| (i as f32 * 0.61).sin()).collect();
    Builder::new(17)
        .input("x", DType::F32, &["N", "4"])
        .initializer("w", Tensor::new(&[4, 4], &weights))
        .node("MatMul", &["x", "w"], "h", vec![])
        .push_node(node("RandomUniformLike", "NoiseLike", &["h"], &["n"], vec![]))
        .node("Add", &["h", "n"], "y", vec![])
        .output("y", DType::F32, &["N", "4"])
        .build()
}

/// Bakes a model of four inputs with a package, and returns the job's spec.
fn bake_small(folder: &Path, model: &Model) -> Value {
    fs::write(folder.join("model.onnx"), model.to_bytes()).unwrap();
    let values: Vec<f32> = (0..240).map(|i| (i as f32 * 0.7 + 0.3).sin()).collect();
    let split = BTreeMap::from([("x".to_owned(), Tensor::new(&[60, 1, 4], &values))]);
    fs::write(folder.join("validation.safetensors"), safetensors::write(&split, None).unwrap()).unwrap();
    let spec = json!({
        "source": {"uri": "model.onnx"}, "data": {"validation": {"uri": "validation.safetensors"}}, "runtime": "Bakehouse",
        "optimization": {"level": "Conservative"}, "profile": {"iterations": 10, "batchSizes": [1]},
        "exports": ["ONNX", "Phase7"], "output": {"uri": "out"},
    });
    let (code, said) = bake(folder, &spec);
    assert!(code.is_some_and(|c| [0, 3, 4].contains(&c)), "{said}");
    spec
}

#[test]
fn a_model_that_is_never_the_same_is_said_to_be_and_a_claim_of_the_contrary_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    bake_small(folder.path(), &noisy());
    let mut package = Package::copy(&folder.path().join("out").join(PACKAGE));
    assert_eq!(package.config["bitIdentical"], json!({"runs": false, "threads": false, "processes": false}));
    let (code, found) = package.verify(&[]);
    assert_eq!((code, refuted(&found)), (4, vec![]), "what cannot be held against it is left open");
    assert_eq!(state(&found, "outputs on the samples"), "Unchecked");

    package.config["bitIdentical"] = json!({"runs": true, "threads": true, "processes": true});
    let evidence = &mut package.manifest["evidence"]["determinism"];
    let first = evidence["runs"][0].clone();
    evidence["runs"] = json!([first, first]);
    evidence["processes"] = json!([first, first]);
    evidence["threads"][0]["sha256"] = first;
    package.seal();
    let said = refuted(&package.verify(&[]).1);
    for claim in
        ["bit-identical over runs: NotDeterministic", "bit-identical over processes: NotDeterministic", "OutputsDiffer"]
    {
        assert!(said.iter().any(|why| why.contains(claim)), "{claim}: {said:#?}");
    }
}

#[test]
fn a_model_that_mixes_its_rows_is_said_to_and_a_claim_of_the_contrary_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let spec = bake_small(folder.path(), &mixing());
    let mut package = Package::copy(&folder.path().join("out").join(PACKAGE));
    assert_eq!(package.config["batchFlexibility"]["flexible"], false);
    assert_eq!(refuted(&package.verify(&[]).1), Vec::<String>::new());

    package.config["batchFlexibility"]["flexible"] = json!(true);
    for size in package.config["batchFlexibility"]["sizes"].as_array_mut().unwrap() {
        *size = json!({"batch": size["batch"], "bitEqual": true, "maxDifference": 0.0, "withinTolerance": true});
    }
    package.seal();
    let (code, found) = package.verify(&[]);
    assert!(code == 3 && refuted(&found).iter().any(|why| why.contains("BatchRowsDiffer")), "{:#?}", refuted(&found));

    // Baked again over it, the package is the new one, whole.
    fs::write(folder.path().join("out/phase7/left-over"), b"of an earlier bake").unwrap();
    bake(folder.path(), &spec);
    assert!(!folder.path().join("out/phase7/left-over").exists());
    assert!(
        !fs::read_dir(folder.path().join("out")).unwrap().any(|e| e
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with('.'))
    );

    // A folder of that name that is somebody's own is left alone, before any work.
    let own = folder.path().join("own/phase7");
    fs::create_dir_all(&own).unwrap();
    fs::write(own.join("mine.txt"), b"mine").unwrap();
    let (code, said) = bake(folder.path(), &{
        let mut spec = spec;
        spec["output"] = json!({"uri": "own"});
        spec
    });
    assert!(code == Some(14) && said.contains("own/phase7") && said.contains("not replaced"), "{code:?}: {said}");
    assert!(own.join("mine.txt").exists());
}

#[test]
fn an_archive_of_nnef_is_listed_and_computes_what_the_model_does() {
    let report = json_of(&out().join("report.json"));
    let listed = report["artifacts"].as_array().unwrap().iter().find(|a| a["format"] == "NNEF").unwrap();
    let archive = out().join("model.nnef.tar");
    assert_eq!(listed["file"], "model.nnef.tar");
    assert_eq!(listed["sha256"], json!(sha256_hex(&fs::read(&archive).unwrap())));
    let probe = |nnef: &Path| {
        let mut command = bakehouse();
        command.arg("probe").arg(out().join("model.onnx")).arg("--nnef").arg(nnef);
        command.arg("--data").arg(example("validation.npz")).args(["--samples", "20"]).output().unwrap()
    };
    let seen: Value = serde_json::from_slice(&probe(&archive).stdout).unwrap();
    assert_eq!(seen["samples"], 20);
    assert!(seen["maxDifference"].as_f64().unwrap() <= 1e-5, "{seen}");

    // One byte of a weight is another one: the same check says so.
    let mut bytes = fs::read(&archive).unwrap();
    let weights = bytes.windows(8).rposition(|w| w.iter().all(|b| *b != 0)).unwrap();
    bytes[weights..weights + 8].copy_from_slice(&[0x7f; 8]);
    let other = baked().join("changed.nnef.tar");
    fs::write(&other, bytes).unwrap();
    let output = probe(&other);
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert!(!seen["maxDifference"].as_f64().is_some_and(|d| d <= 1e-5), "{seen}");
}

#[test]
fn a_model_that_has_no_form_in_nnef_is_refused_before_the_bake_by_its_operator() {
    let folder = tempfile::tempdir().unwrap();
    let model = Builder::new(17)
        .input("x", DType::F32, &["N", "4"])
        .initializer("w", Tensor::new(&[4, 4], &[3_i8; 16]))
        .node_with_outputs("DynamicQuantizeLinear", &["x"], &["q", "s", "z"], vec![])
        .node("MatMulInteger", &["q", "w", "z"], "i", vec![])
        .node("Cast", &["i"], "f", vec![int("to", 1)])
        .node("Mul", &["f", "s"], "y", vec![])
        .output("y", DType::F32, &["N", "4"])
        .build();
    fs::write(folder.path().join("model.onnx"), model.to_bytes()).unwrap();
    let values: Vec<f32> = (0..240).map(|i| (i as f32 * 0.7 + 0.3).sin()).collect();
    let split = BTreeMap::from([("x".to_owned(), Tensor::new(&[60, 1, 4], &values))]);
    fs::write(folder.path().join("validation.safetensors"), safetensors::write(&split, None).unwrap()).unwrap();
    let (code, said) = bake(
        folder.path(),
        &json!({
            "source": {"uri": "model.onnx"}, "data": {"validation": {"uri": "validation.safetensors"}}, "runtime": "Bakehouse",
            "optimization": {"level": "Conservative"}, "exports": ["ONNX", "NNEF"], "output": {"uri": "out"},
        }),
    );
    assert_eq!(code, Some(2), "{said}");
    let said: String = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("spec.exports: NNEF cannot be written: ") && said.contains("Leave NNEF out."), "{said}");
    assert!(said.contains("DynamicQuantizeLinear"), "{said}");
    assert!(!folder.path().join("out/report.json").exists());
}

#[test]
fn the_image_layout_holds_every_other_file_and_a_changed_blob_is_found() {
    let layout = out().join("oci");
    let opened = oci::open(&layout).unwrap();
    let report = json_of(&out().join("report.json"));
    let mut listed: Vec<(String, String)> = report["artifacts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|a| !matches!(a["format"].as_str(), Some("OCI" | "OCIFile" | "HTML")))
        .map(|a| (a["file"].as_str().unwrap().to_owned(), a["sha256"].as_str().unwrap().to_owned()))
        .collect();
    let mut held: Vec<(String, String)> = opened.files.into_iter().map(|file| (file.path, file.sha256)).collect();
    assert_eq!(held[0].0, "model.onnx", "the model comes first");
    listed.sort();
    held.sort();
    assert_eq!(held, listed);

    let probe = |folder: &Path| bakehouse().arg("probe").arg(folder).arg("--layout").output().unwrap();
    assert!(probe(&layout).status.success());
    let root = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(&layout).arg(root.path()).output().unwrap();
    assert!(copied.status.success());
    let blob =
        root.path().join("oci/blobs/sha256").join(&held.iter().find(|f| f.0 == "weights.safetensors").unwrap().1);
    flip(&blob);
    let said = String::from_utf8_lossy(&probe(&root.path().join("oci")).stderr).into_owned();
    assert!(said.contains(blob.file_name().unwrap().to_str().unwrap()), "{said}");
}

#[test]
fn a_folder_of_somebodys_own_is_not_taken_for_an_image_layout() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("out/oci")).unwrap();
    fs::write(folder.path().join("out/oci/mine.txt"), b"mine").unwrap();
    let (code, said) = bake(
        folder.path(),
        &json!({
            "source": {"uri": example("model.onnx")}, "data": {"validation": {"uri": example("validation.npz")}}, "runtime": "Bakehouse",
            "exports": ["ONNX", "OCI"], "output": {"uri": "out"},
        }),
    );
    assert!(code == Some(14) && said.contains("out/oci") && said.contains("not replaced"), "{code:?}: {said}");
    assert!(folder.path().join("out/oci/mine.txt").exists());
}

#[test]
fn what_is_no_package_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let verify = |arguments: &[&str]| {
        let output = bakehouse().arg("verify").arg(folder.path()).args(arguments).output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (code, said) = verify(&[]);
    assert!(code == Some(2) && said.contains("Give a folder that a bake wrote"), "{said}");
    let (code, said) = verify(&["--data", "x.npz"]);
    assert!(code == Some(2) && said.contains("--data is for a package"), "{said}");
    fs::write(folder.path().join("manifest.json"), r#"{"apiVersion": "bakehouse.dev/phase5/v1"}"#).unwrap();
    let (code, said) = verify(&[]);
    let said: String = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(code == Some(3) && said.contains("UnknownVersion"), "{said}");
}

#[test]
fn the_committed_schemas_are_those_of_the_code_and_every_package_keeps_them() {
    let folder = out().join(PACKAGE);
    for (command, file, made, document) in [
        ("manifest", "docs/phase7-manifest-v1.schema.json", manifest_schema(), "manifest.json"),
        ("deployment", "docs/phase7-deployment-v1.schema.json", deployment_schema(), "deployment_config.json"),
    ] {
        let text = serde_json::to_string_pretty(&made).unwrap() + "\n";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "{file} is not what the code says. Write it again with: UPDATE_SCHEMA=1 cargo test --test phase7"
        );
        let printed = bakehouse().args(["package-schema", command]).output().unwrap();
        assert_eq!(String::from_utf8(printed.stdout).unwrap(), text);
        let schema = jsonschema::validator_for(&made).unwrap();
        let problems: Vec<String> = schema
            .iter_errors(&json_of(&folder.join(document)))
            .map(|e| format!("{}: {e}", e.instance_path()))
            .collect();
        assert!(problems.is_empty(), "{document}: {problems:#?}");
    }
}
