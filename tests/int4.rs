//! 4-bit blocks as a job asks for them: by name, never by default, and in no export that cannot hold them.
#![cfg(feature = "tract")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use bakehouse::model::Model;
use serde_json::{Value, json};

fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/encoder").join(file)
}

/// Bakes the encoder on the embedded engine.
fn bake(folder: &Path, arguments: &[&str], optimization: &Value, exports: &Value) -> Output {
    let job = json!({
        "apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob", "metadata": {"name": "encoder"},
        "spec": {
            "source": {"uri": example("model.onnx")},
            "data": {"validation": {"uri": example("validation.npz")}, "calibration": {"uri": example("calibration.npz")}},
            "optimization": optimization,
            "runtime": "Bakehouse",
            "exports": exports,
            "output": {"uri": "out"},
        },
    });
    let file = folder.join("bakejob.yaml");
    fs::write(&file, job.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bakehouse"));
    command.env_remove("BAKEHOUSE_MEMORY_LIMIT").env_remove("BAKEHOUSE_LOG").env("BAKEHOUSE_ORT_LIB", "none");
    command.arg("bake").args(arguments).arg("-f").arg(&file).output().unwrap()
}

#[test]
fn a_job_that_names_the_pass_has_the_candidate_and_its_artifact_is_made_again_by_the_recipe() {
    let root = tempfile::tempdir().unwrap();
    let passes = json!(["fold-constants", "int4-blocks", "round-weights", "weight-int8"]);
    let baked = bake(root.path(), &[], &json!({"goal": "Size", "passes": passes}), &json!(["ONNX"]));
    let said = String::from_utf8_lossy(&baked.stderr);
    assert!(baked.status.code().is_some_and(|code| [0, 3, 4].contains(&code)), "{said}");
    let report: Value = serde_json::from_slice(&fs::read(root.path().join("out/report.json")).unwrap()).unwrap();
    let candidates = report["candidates"].as_array().unwrap();
    let named = |name: &str| candidates.iter().find(|c| c["name"].as_str().unwrap().starts_with(name)).unwrap();
    let (blocks, stored) = (named("int4-blocks"), named("stored-int8"));
    assert!(blocks["bytes"].as_u64() < stored["bytes"].as_u64(), "{blocks}");

    let recipe: Value = serde_json::from_slice(&fs::read(root.path().join("out/recipe.json")).unwrap()).unwrap();
    let steps: Vec<&str> = recipe["steps"].as_array().unwrap().iter().map(|s| s["pass"].as_str().unwrap()).collect();
    assert!(steps.contains(&"int4-blocks"), "{steps:?}: {candidates:?}");
    let artifact = Model::load(&root.path().join("out/model.onnx")).unwrap();
    let replay = root.path().join("again");
    fs::create_dir(&replay).unwrap();
    let pinned = json!({"recipe": {"uri": root.path().join("out/recipe.json")}});
    let again = bake(&replay, &[], &pinned, &json!(["ONNX"]));
    assert!(
        again.status.code().is_some_and(|code| [0, 3, 4].contains(&code)),
        "{}",
        String::from_utf8_lossy(&again.stderr)
    );
    assert_eq!(Model::load(&replay.join("out/model.onnx")).unwrap(), artifact);

    let standard = root.path().join("standard");
    fs::create_dir(&standard).unwrap();
    let refused = bake(&standard, &[], &pinned, &json!(["ONNX", "ONNXStandard"]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("the recipe brings in operators of other domains (com.microsoft.MatMulNBits)"), "{said}");
}

#[test]
fn no_job_has_it_by_default() {
    let root = tempfile::tempdir().unwrap();
    for level in ["Light", "Medium"] {
        let dry = bake(root.path(), &["--dry-run"], &json!({"level": level}), &json!(["ONNX"]));
        let said = String::from_utf8_lossy(&dry.stdout).into_owned();
        assert!(said.contains("round-weights") && !said.contains("int4-blocks"), "{said}");
    }
}

#[test]
fn plain_onnx_of_it_is_refused_before_any_work() {
    let root = tempfile::tempdir().unwrap();
    let passes = json!({"passes": ["int4-blocks"]});
    let refused = bake(root.path(), &[], &passes, &json!(["ONNX", "ONNXStandard"]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("spec.exports: ONNXStandard cannot be written: the pass int4-blocks brings in"), "{said}");
    assert!(said.contains("Leave ONNXStandard out."), "{said}");
    assert!(!root.path().join("out").exists());
}
