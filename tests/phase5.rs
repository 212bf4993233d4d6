//! Phase 5 packages through the program: made of loose files, baked, verified; the trainer's own layout; and each refusal by its name.
#![cfg(feature = "tract")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "phase5/checkpoint.rs"]
mod checkpoint;
#[path = "phase5/handoff.rs"]
mod handoff;
#[allow(dead_code, reason = "the storage tests use the rest")]
mod s3;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use bakehouse::api::digest::sha256_hex;
use bakehouse::model::{Model, Tensor};
use bakehouse::package::manifest_schema;
use checkpoint::{Raw, archive, dict, global, number, ordered, real, stored, tensor, text, tuple};
use serde_json::{Value, json};

const SCHEMA: &str = "docs/phase5-v1.schema.json";

/// Share of the example's validation samples that its model names rightly, as its training script measured it.
fn accuracy() -> f64 {
    let text = fs::read_to_string(root().join("examples/accuracy.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["mlp"]["accuracy"].as_f64().unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn example(file: &str) -> PathBuf {
    root().join("examples/mlp").join(file)
}

fn bakehouse() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bakehouse"));
    command.env_remove("BAKEHOUSE_MEMORY_LIMIT").env_remove("BAKEHOUSE_LOG").env("BAKEHOUSE_ORT_LIB", "none");
    command
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn code(output: &Output, expected: i32) {
    assert_eq!(output.status.code(), Some(expected), "{}", said(output));
}

/// `bakehouse package` of the example's model and splits, with more flags.
fn package(out: &Path, model: &Path, more: &[&str]) -> Output {
    let mut command = bakehouse();
    command.args(["package", "--name", "digits", "--metric", "Top1", "--model"]).arg(model);
    for split in ["validation", "calibration", "training"] {
        command.arg(format!("--{split}")).arg(example(&format!("{split}.npz")));
    }
    command.args(more).arg("--out").arg(out).output().unwrap()
}

fn bake(source: &Path, out: &Path) -> Output {
    bakehouse()
        .args(["bake", "--quiet", "--level", "conservative", "--runtime", "bakehouse"])
        .arg(source)
        .arg("--out")
        .arg(out)
        .output()
        .unwrap()
}

/// The report of a bake that ended with an artifact or with the input.
#[track_caller]
fn baked(source: &Path) -> (tempfile::TempDir, Value) {
    let out = tempfile::tempdir().unwrap();
    let output = bake(source, out.path());
    code(&output, 0);
    let report = serde_json::from_slice(&fs::read(out.path().join("report.json")).unwrap()).unwrap();
    (out, report)
}

/// What verify says about the claims whose names begin with `claim`.
fn verified(folder: &Path, claim: &str) -> Vec<String> {
    let output = bakehouse().args(["verify", "--json"]).arg(folder).output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&output)));
    let checks = found["checks"].as_array().unwrap().iter();
    let checks = checks.filter(|c| c["claim"].as_str().unwrap().starts_with(claim));
    checks.map(|c| c["holds"]["state"].as_str().unwrap().to_owned()).collect()
}

fn roles(report: &Value) -> Vec<&str> {
    report["data"]["files"].as_array().unwrap().iter().map(|f| f["role"].as_str().unwrap()).collect()
}

/// The example's trained weights by name.
fn trained() -> BTreeMap<String, Tensor> {
    let model = Model::load(&example("model.onnx")).unwrap();
    let floats = model.graph().initializer.iter().filter(|t| t.data_type() == 1);
    floats.map(|t| (t.name().to_owned(), Tensor::from_proto(t).unwrap())).collect()
}

/// The example's graph, its weights all zero.
fn untrained(path: &Path) {
    let mut model = Model::load(&example("model.onnx")).unwrap();
    for initializer in model.graph_mut().initializer.iter_mut().filter(|t| t.data_type() == 1) {
        let shape: Vec<usize> = initializer.dims.iter().map(|&d| d as usize).collect();
        let zeros = vec![0.0_f32; shape.iter().product()];
        *initializer = Tensor::new(&shape, &zeros).to_proto(initializer.name());
    }
    model.save(path).unwrap();
}

/// A state dictionary, and the storages that it refers to.
fn state(weights: &BTreeMap<String, Tensor>) -> (Vec<u8>, Vec<Raw>) {
    let entry = |(at, (name, t)): (usize, (&String, &Tensor))| {
        let shape: Vec<u64> = t.shape().iter().map(|&d| d as u64).collect();
        (name.clone(), tensor(&at.to_string(), "FloatStorage", t.len() as u64, &shape))
    };
    let entries: Vec<(String, Vec<u8>)> = weights.iter().enumerate().map(entry).collect();
    let entries: Vec<(&str, Vec<u8>)> = entries.iter().map(|(name, t)| (name.as_str(), t.clone())).collect();
    let raw = |t: &Tensor| Raw { class: "FloatStorage", bytes: t.bytes().to_vec(), elements: t.len() };
    (ordered(&entries), weights.values().map(raw).collect())
}

/// The trainer's checkpoint.
fn trained_model(weights: &BTreeMap<String, Tensor>, accuracy: f64) -> Vec<u8> {
    let (state, storages) = state(weights);
    let root = dict(&[
        ("model_state_dict", state),
        (
            "config",
            dict(&[("epochs", number(40)), ("hidden", tuple(&[number(256), number(128)])), ("lr", real(0.001))]),
        ),
        ("training_results", dict(&[("final_accuracy", real(accuracy)), ("final_loss", real(0.08))])),
        ("phase5_metadata", dict(&[("model_name", text("digits-mlp")), ("version", number(2))])),
    ]);
    archive(&root, &storages)
}

fn safetensors(weights: &BTreeMap<String, Tensor>) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, t) in weights {
        let from = data.len();
        data.extend_from_slice(t.bytes());
        header.insert(name.clone(), json!({"dtype": "F32", "shape": t.shape(), "data_offsets": [from, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

/// A folder as the trainer leaves it.
fn trainers_folder(accuracy: f64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    untrained(&folder.path().join("model.onnx"));
    fs::write(folder.path().join("trained_model.pt"), trained_model(&trained(), accuracy)).unwrap();
    fs::write(
        folder.path().join("phase5_metadata.json"),
        r#"{"version": "2.1", "environment": {"host": "trainer-3"}}"#,
    )
    .unwrap();
    for split in ["validation", "calibration"] {
        fs::copy(example(&format!("{split}.npz")), folder.path().join(format!("{split}.npz"))).unwrap();
    }
    folder
}

#[test]
fn the_committed_schema_is_the_one_of_the_code() {
    let made = serde_json::to_string_pretty(&manifest_schema()).unwrap() + "\n";
    let path = root().join(SCHEMA);
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == made,
        "{SCHEMA} is not what the code says. Write it again with: UPDATE_SCHEMA=1 cargo test --test phase5"
    );
    let printed = bakehouse().args(["package-schema", "phase5"]).output().unwrap();
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), made);
}

#[test]
fn loose_files_become_a_package_and_the_report_of_its_bake_carries_it() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path().join("digits");
    let metadata = work.path().join("phase5_metadata.json");
    fs::write(&metadata, r#"{"version": 7, "hyperparameters": {"lr": 0.001}, "config": {"epochs": 40}, "seed": 5}"#)
        .unwrap();
    let figure = format!("Top1={:.3}", accuracy());
    let more = ["--metadata", metadata.to_str().unwrap(), "--figure", &figure, "--figure", "val_loss=0.081"];
    let output = package(&folder, &example("model.onnx"), &more);
    code(&output, 0);
    assert!(said(&output).contains("769 validation samples"), "{}", said(&output));
    let manifest: Value = serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let schema = jsonschema::validator_for(&manifest_schema()).unwrap();
    let problems: Vec<String> = schema.iter_errors(&manifest).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(problems.is_empty(), "{problems:#?}");
    code(&package(&folder, &example("model.onnx"), &[]), 14);

    let (out, report) = baked(&folder);
    assert_eq!(report["package"]["layout"], "Phase5");
    assert_eq!(report["package"]["manifest"], manifest, "all of it is carried along");
    assert_eq!(report["package"]["manifestSha256"], sha256_hex(&fs::read(folder.join("manifest.json")).unwrap()));
    assert_eq!(report["package"]["manifest"]["training"]["hyperParameters"]["lr"], 0.001);
    assert_eq!(roles(&report), ["Manifest", "Model", "Validation", "Calibration", "Training"]);
    let top1 = &report["package"]["baseline"][0];
    assert_eq!(
        (&top1["metric"], &top1["holds"], &top1["samples"]),
        (&json!("Top1"), &json!(true), &json!(769)),
        "{top1}"
    );
    assert_eq!(report["package"]["baseline"].as_array().unwrap().len(), 1, "a loss is carried along and not measured");
    assert_eq!(report["quality"]["retention"]["why"], "named", "the package names the metric");
    assert!(fs::read_to_string(out.path().join("report.html")).unwrap().contains("Figures of the trainer"));
    assert_eq!(verified(out.path(), "recipe replay"), ["Yes"]);
}

#[test]
fn a_job_names_a_package_without_data_or_with_data_of_its_own() {
    let work = tempfile::tempdir().unwrap();
    code(&package(&work.path().join("p"), &example("model.onnx"), &["--figure", "Top1=0.979"]), 0);
    let pin = format!("sha256:{}", sha256_hex(&fs::read(work.path().join("p/manifest.json")).unwrap()));
    let job = |spec: Value| {
        let object = json!({"apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob", "metadata": {"name": "digits"}, "spec": spec});
        fs::write(work.path().join("job.yaml"), object.to_string()).unwrap();
        bakehouse().args(["bake", "--quiet", "-f"]).arg(work.path().join("job.yaml")).output().unwrap()
    };
    let spec = |digest: &str| {
        json!({
            "source": {"uri": "p/", "digest": digest},
            "optimization": {"level": "Conservative"},
            "output": {"uri": "out"},
            "runtime": "Bakehouse",
        })
    };
    code(&job(spec(&pin)), 0);
    let other = job(spec(&format!("sha256:{}", "0".repeat(64))));
    code(&other, 2);
    assert!(said(&other).contains("spec.source.digest: the manifest of"), "{}", said(&other));

    fs::copy(example("validation.npz"), work.path().join("own.npz")).unwrap();
    let mut own = spec(&pin);
    own["data"] = json!({"validation": {"uri": "own.npz", "metric": "Top1"}});
    // What the job does not use is not looked at.
    fs::write(work.path().join("p/data/validation.npz"), b"changed").unwrap();
    code(&job(own), 0);
    let used = job(spec(&pin));
    code(&used, 12);
    assert!(said(&used).contains("splits.validation: 'data/validation.npz' has 7 bytes"), "{}", said(&used));
}

#[test]
fn the_trainers_own_layout_is_baked_as_it_lies() {
    let folder = trainers_folder(accuracy());
    let (out, report) = baked(folder.path());
    let package = &report["package"];
    assert_eq!(package["layout"], "Trainer");
    assert_eq!(package["manifest"]["identity"], json!({"name": "digits-mlp", "version": "2.1"}));
    assert_eq!(package["manifest"]["training"]["config"], json!({"epochs": 40, "hidden": [256, 128], "lr": 0.001}));
    assert_eq!(package["manifest"]["environment"], json!({"host": "trainer-3"}));
    assert_eq!(package["manifest"]["metrics"][0]["source"], "training_results.final_accuracy");
    assert_eq!(package["baseline"][0]["holds"], true, "{}", package["baseline"]);
    let remarks = report["remarks"].to_string();
    assert!(remarks.contains("'version' is another in phase5_metadata.json"), "{remarks}");
    assert_eq!(roles(&report), ["Model", "Weights", "Validation", "Calibration"]);

    // The weights are in the artifact, and anybody can make it again from graph and checkpoint.
    let artifact = Model::load(&out.path().join("model.onnx")).unwrap();
    let weights = artifact.graph().initializer.iter().map(|t| Tensor::from_proto(t).unwrap());
    assert!(weights.into_iter().any(|t| t == trained()["coefficient1"]));
    assert_eq!(verified(out.path(), "recipe replay"), ["Yes"]);
    assert_eq!(verified(out.path(), "Weights file"), ["Yes"]);

    let digest = json!({"apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob", "metadata": {"name": "d"}, "spec": {
        "source": {"uri": folder.path(), "digest": format!("sha256:{}", "0".repeat(64))}, "output": {"uri": "/nowhere/out"}}});
    let job = out.path().join("job.yaml");
    fs::write(&job, digest.to_string()).unwrap();
    let output = bakehouse().args(["bake", "-f"]).arg(&job).output().unwrap();
    code(&output, 2);
    assert!(said(&output).contains("without a manifest that a digest could pin"), "{}", said(&output));
}

#[test]
fn weights_in_safetensors_or_in_a_checkpoint_give_the_same_model() {
    let work = tempfile::tempdir().unwrap();
    let graph = work.path().join("graph.onnx");
    untrained(&graph);
    let mut hashes = Vec::new();
    for (name, bytes) in [("w.safetensors", safetensors(&trained())), ("w.pt", trained_model(&trained(), 0.5))] {
        let weights = work.path().join(name);
        fs::write(&weights, bytes).unwrap();
        let folder = work.path().join(format!("{name}-package"));
        code(
            &package(
                &folder,
                &graph,
                &["--weights", weights.to_str().unwrap(), "--figure", &format!("Top1={}", accuracy())],
            ),
            0,
        );
        let (out, report) = baked(&folder);
        assert_eq!(roles(&report), ["Manifest", "Model", "Weights", "Validation", "Calibration", "Training"]);
        let figures = report["package"]["baseline"].as_array().unwrap();
        assert!(figures.len() == 1 && figures[0]["holds"] == true, "the flag counts, not the checkpoint: {figures:?}");
        assert_eq!(verified(out.path(), "recipe replay"), ["Yes"]);
        hashes.push(report["baseline"]["sha256"].clone());
    }
    assert_eq!(hashes[0], hashes[1]);
}

#[test]
fn a_figure_that_does_not_come_out_is_reported_with_the_difference() {
    let folder = trainers_folder(0.9999);
    let out = tempfile::tempdir().unwrap();
    let output = bake(folder.path(), out.path());
    code(&output, 0);
    let less = format!("{:.4} less", 0.9999 - accuracy());
    assert!(
        said(&output).contains("Top1 of 0.9999 is not reproduced") && said(&output).contains(&less),
        "{}",
        said(&output)
    );
    let report: Value = serde_json::from_slice(&fs::read(out.path().join("report.json")).unwrap()).unwrap();
    assert_eq!(report["package"]["baseline"][0]["holds"], false);
    assert!(report["remarks"].to_string().contains("is not reproduced"));

    // Weights that were never trained give themselves away.
    untrained(&folder.path().join("model.onnx"));
    let zeros =
        trained().into_iter().map(|(name, t)| (name, Tensor::new(t.shape(), &vec![0.0_f32; t.len()]))).collect();
    fs::write(folder.path().join("trained_model.pt"), trained_model(&zeros, accuracy())).unwrap();
    let output = bake(folder.path(), out.path());
    assert!(said(&output).contains("is not reproduced"), "{}", said(&output));
}

#[test]
fn a_checkpoint_runs_nothing_and_is_refused_by_the_name_that_it_asks_for() {
    let folder = trainers_folder(0.9);
    let ran = folder.path().join("ran");
    let command = text(&format!("touch {}", ran.display()));
    let (weights, storages) = state(&trained());
    let call = |function: Vec<u8>| [function, tuple(std::slice::from_ref(&command)), b"R".to_vec()].concat();
    let inside =
        |value: Vec<u8>| archive(&dict(&[("model_state_dict", weights.clone()), ("config", value)]), &storages);
    let names = [text("posix"), text("system"), b"\x93".to_vec()].concat();
    for (bytes, expected) in [
        (archive(&call(global("posix", "system")), &[]), "'posix.system'"),
        (inside(call(global("os", "system"))), "'os.system'"),
        (inside(call(global("builtins", "exec"))), "'builtins.exec'"),
        (inside(call(names)), "'posix.system'"),
        (inside(global("torch.nn", "Linear")), "'torch.nn.Linear'"),
        (inside([b"(".to_vec(), command.clone(), b"iposix\nsystem\n".to_vec()].concat()), "opcode INST"),
        (inside([global("collections", "OrderedDict"), b")\x81".to_vec()].concat()), "opcode NEWOBJ"),
    ] {
        fs::write(folder.path().join("trained_model.pt"), bytes).unwrap();
        let output = bake(folder.path(), &folder.path().join("out"));
        code(&output, 10);
        let said = said(&output);
        assert!(
            said.contains("trained_model.pt") && said.contains(expected) && said.contains("Nothing of it was run"),
            "{said}"
        );
    }
    assert!(!ran.exists() && !folder.path().join("out").exists());
}

#[test]
fn a_checkpoint_that_does_not_fit_the_graph_is_refused_with_the_tensors_name() {
    let folder = trainers_folder(0.9);
    let edited = |edit: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut weights = trained();
        edit(&mut weights);
        trained_model(&weights, 0.9)
    };
    let turned = Tensor::new(&[128, 256], &vec![0.5_f32; 128 * 256]);
    let whole = trained_model(&trained(), 0.9);
    let table: [(Vec<u8>, &str); 8] = [
        (edited(&|w| drop(w.remove("intercepts1"))), "no tensor has the name of the graph's 'intercepts1'"),
        (edited(&|w| drop(w.insert("head.bias".into(), Tensor::new(&[3], &[1.0_f32; 3])))), "the name of 'head.bias'"),
        (
            edited(&|w| drop(w.insert("intercepts".into(), Tensor::new(&[1, 9], &[1.0_f32; 9])))),
            "'intercepts' has the shape [1, 9]",
        ),
        (
            edited(&|w| drop(w.insert("coefficient1".into(), turned.clone()))),
            "'coefficient1' has the shape [128, 256], but the initializer 'coefficient1' of the graph has [256, 128]. It looks transposed",
        ),
        (whole[..whole.len() - 40].to_vec(), "is not a readable archive of torch.save"),
        (b"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec(), "before version 1.6"),
        (stored(&[("a/notes.txt".into(), b"x".to_vec())]), "without data.pkl"),
        (Vec::new(), "is empty"),
    ];
    for (bytes, expected) in table {
        fs::write(folder.path().join("trained_model.pt"), bytes).unwrap();
        let output = bake(folder.path(), &folder.path().join("out"));
        code(&output, 10);
        assert!(
            said(&output).contains("trained_model.pt") && said(&output).contains(expected),
            "{expected}: {}",
            said(&output)
        );
    }
    fs::remove_file(folder.path().join("model.onnx")).unwrap();
    let output = bake(folder.path(), &folder.path().join("out"));
    code(&output, 10);
    assert!(
        said(&output).contains("model.graph: 'model.onnx' is not there. A checkpoint holds weights and no graph"),
        "{}",
        said(&output)
    );
    assert!(!folder.path().join("out").exists());
}

#[test]
fn a_package_that_cannot_be_made_leaves_nothing_behind() {
    let work = tempfile::tempdir().unwrap();
    let bad = work.path().join("bad.npz");
    fs::write(&bad, b"no archive").unwrap();
    let bad = bad.to_str().unwrap();
    for (flags, expected_code, words) in [
        (&["--validation", bad][..], 12, "bad.npz"),
        (&["--weights", bad], 10, "neither .safetensors nor .pt"),
        (&["--metadata", bad], 10, "is no JSON"),
        (&["--metric", "Best"], 2, "'Best' is no metric"),
        (&["--figure", "Top1=high"], 2, "Top1=0.979"),
    ] {
        let out = work.path().join("p");
        let mut command = bakehouse();
        command.args(["package", "--model"]).arg(example("model.onnx")).arg("--out").arg(&out);
        if flags[0] != "--validation" {
            command.arg("--validation").arg(example("validation.npz"));
        }
        let output = command.args(flags).output().unwrap();
        code(&output, expected_code);
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
    let names: Vec<_> = fs::read_dir(work.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["bad.npz"]);
}
