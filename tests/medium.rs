//! Level Medium on data and models that are not as they should be, and what its report says: through the program, on the embedded engine.
#![cfg(feature = "tract")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use bakehouse::engine::tract::TractEngine;
use bakehouse::engine::{Feed, SharedEngine, facts};
use bakehouse::model::build::Builder;
use bakehouse::model::{DType, IntakeOptions, Model, Pass, Tensor, safetensors};
use bakehouse::optimizer::calibration::{Policy, calibrate};
use bakehouse::optimizer::int8::{Exclude, Region, WeightScheme};
use serde_json::{Value, json};

/// Values of a sample.
const WIDTH: usize = 16;

/// Numbers without a pattern, in about -1 to 1; the same everywhere.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn tensor(shape: &[usize], seed: u64) -> Tensor {
    let (n, fan_in) = (shape.iter().product(), shape[0] as f32);
    Tensor::new(shape, &numbers(n, seed).iter().map(|v| v * (3.0 / fan_in).sqrt()).collect::<Vec<_>>())
}

/// Three layers, from `x` to `y`, and what `more` puts beside them.
fn network(more: impl FnOnce(Builder) -> Builder) -> Model {
    let builder = Builder::new(17)
        .input("x", DType::F32, &["1", "16"])
        .initializer("w1", tensor(&[16, 64], 1))
        .initializer("b1", Tensor::new(&[64], &numbers(64, 2).iter().map(|v| v * 0.1).collect::<Vec<_>>()))
        .initializer("w2", tensor(&[64, 64], 3))
        .initializer("w3", tensor(&[64, 10], 4))
        .node("Gemm", &["x", "w1", "b1"], "g1", vec![])
        .node("Relu", &["g1"], "r1", vec![])
        .node("MatMul", &["r1", "w2"], "m2", vec![])
        .node("Relu", &["m2"], "r2", vec![])
        .node("MatMul", &["r2", "w3"], "y", vec![])
        .output("y", DType::F32, &["1", "10"]);
    more(builder).build()
}

/// A folder with a model, its data and a job at Medium.
struct Ground {
    folder: tempfile::TempDir,
    job: Value,
    variables: Vec<(&'static str, PathBuf)>,
}

/// How a bake ended: its message and its report.
struct Ended {
    code: Option<i32>,
    message: String,
    report: Value,
}

impl Ground {
    fn new(model: &Model) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("model.onnx"), model.to_bytes()).unwrap();
        let job = json!({
            "apiVersion": "bakehouse.dev/v1alpha1",
            "kind": "BakeJob",
            "metadata": {"name": "medium"},
            "spec": {
                "source": {"uri": "model.onnx"},
                "data": {"validation": {"uri": "validation.safetensors"}, "calibration": {"uri": "calibration.safetensors"}},
                "optimization": {"level": "Medium", "goal": "Balanced"},
                "output": {"uri": "out"},
                "profile": {"iterations": 10},
                "runtime": "Bakehouse",
            },
        });
        let ground = Self { folder, job, variables: Vec::new() };
        ground.samples("validation", 240, 11, 1.0);
        ground.samples("calibration", 48, 12, 1.0);
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a split of `n` samples, all values times `scale`.
    fn samples(&self, split: &str, n: usize, seed: u64, scale: f32) {
        let values: Vec<f32> = numbers(n * WIDTH, seed).iter().map(|v| v * scale).collect();
        let arrays = BTreeMap::from([("x".to_owned(), Tensor::new(&[n, 1, WIDTH], &values))]);
        let file = self.path(&format!("{split}.safetensors"));
        fs::write(file, safetensors::write(&arrays, None).unwrap()).unwrap();
    }

    fn bake(&self) -> Ended {
        fs::write(self.path("bakejob.yaml"), self.job.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bakehouse"));
        command.args(["bake", "--json", "-f"]).arg(self.path("bakejob.yaml"));
        command.env_remove("BAKEHOUSE_MEMORY_LIMIT").env("BAKEHOUSE_ORT_LIB", "none");
        let output = command.envs(self.variables.iter().cloned()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
        let report = fs::read(self.path("out/report.json")).unwrap_or_else(|e| panic!("{e}: {said}"));
        Ended {
            code: output.status.code(),
            message: summary["message"].as_str().unwrap().to_owned(),
            report: serde_json::from_slice(&report).unwrap(),
        }
    }

    fn artifact(&self) -> Model {
        Model::intake(&self.path("out/model.onnx"), &IntakeOptions::default()).unwrap().0
    }
}

impl Ended {
    #[track_caller]
    fn remark(&self, words: &str) -> &str {
        let remarks = self.report["remarks"].as_array().unwrap();
        let found = remarks.iter().filter_map(Value::as_str).find(|remark| remark.contains(words));
        found.unwrap_or_else(|| panic!("no remark has '{words}': {remarks:#?}"))
    }

    fn has_remark(&self, words: &str) -> bool {
        self.report["remarks"].as_array().unwrap().iter().any(|r| r.as_str().unwrap().contains(words))
    }

    fn candidates(&self) -> &[Value] {
        self.report["candidates"].as_array().unwrap()
    }

    /// The candidate with static int8 as the search left it; those of its larger sites alone, which are named so, have no scan of their own.
    #[track_caller]
    fn fixed(&self) -> &Value {
        let named = |c: &&Value| {
            let name = c["name"].as_str().unwrap();
            name.starts_with("static-int8") && !name.contains(" from ")
        };
        self.candidates().iter().find(named).unwrap_or_else(|| panic!("{:#?}", self.candidates()))
    }

    fn ops(model: &Model) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for node in &model.graph().node {
            *counts.entry(node.op_type().to_owned()).or_default() += 1;
        }
        counts
    }
}

#[test]
fn the_report_has_what_calibration_saw_and_what_each_site_harms_and_the_front() {
    let ended = Ground::new(&network(|b| b)).bake();
    assert_eq!(ended.code, Some(0), "{}", ended.message);
    let calibration = &ended.report["calibration"];
    assert_eq!(calibration["source"], "spec.data.calibration");
    assert_eq!((&calibration["samples"], &calibration["tensors"]), (&json!(48), &json!(4)));
    let methods: u64 = calibration["methods"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(methods, 4, "{calibration:#}");
    assert!(calibration["seconds"].as_f64().unwrap() > 0.0 && calibration["heldBytes"].as_u64().unwrap() > 4 * 32_000);
    assert_eq!((&calibration["compared"], &calibration["off"]), (&json!(4), &json!(0)), "{calibration:#}");
    assert!(!ended.has_remark("another distribution"));

    let sites = ended.fixed()["scan"]["sites"].as_array().unwrap();
    let mut names: Vec<&str> = sites.iter().map(|s| s["site"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["g1", "m2", "y"]);
    for site in sites {
        assert!(["Alone", "LeftOut", "Estimated"].iter().any(|how| site["how"] == *how), "{site}");
        assert!(site["work"].as_u64().unwrap() > 100 && site["harm"].as_f64().unwrap() >= 0.0, "{site}");
    }

    let front = ended.report["front"].as_array().unwrap();
    assert!(!front.is_empty());
    let place = |point: &Value| {
        let of = |field: &str| point[field].as_f64().unwrap();
        (-of("bytes"), of("speed"), of("slack"))
    };
    for point in front {
        let candidate = &ended.candidates()[point["candidate"].as_u64().unwrap() as usize];
        assert_eq!((&candidate["name"], &candidate["bytes"]), (&point["name"], &point["bytes"]));
        let (a, b, c) = place(point);
        let beaten = front.iter().map(place).any(|(x, y, z)| x >= a && y >= b && z >= c && (x, y, z) != (a, b, c));
        assert!(!beaten, "{front:#?}");
    }
}

#[test]
fn products_are_tried_with_one_scale_for_each_weight_as_a_whole_or_not_at_all() {
    let ended = Ground::new(&network(|builder| builder)).bake();
    let named = |name: &str| ended.candidates().iter().find(|c| c["name"] == name).unwrap();
    let (one_scale, channels) = (named("dynamic-int8-one-scale"), named("dynamic-int8"));
    assert_eq!(one_scale["leftOut"], json!([]));
    assert!(one_scale["bytes"].as_u64() < channels["bytes"].as_u64(), "{one_scale:#} {channels:#}");
    // How far the outputs are off is what the two are told apart by.
    let deviation = |candidate: &Value| candidate["deviation"].as_f64().unwrap();
    assert!(deviation(one_scale) > deviation(channels) && deviation(channels) > 0.0);
}

#[test]
fn calibration_data_of_another_distribution_is_told_by_name_with_numbers_and_ruins_nothing() {
    let ground = Ground::new(&network(|b| b));
    ground.samples("calibration", 48, 12, 1.0 / 255.0);
    let ended = ground.bake();
    assert_eq!(ended.code, Some(0), "{}", ended.message);
    let remark = ended.remark("of another distribution than the validation data");
    for words in
        ["input 'x' was calibrated on -0.0", "% beyond", "on 48 calibration samples and 32 of the search split"]
    {
        assert!(remark.contains(words), "{words}: {remark}");
    }
    let shift = &ended.report["calibration"]["shifts"][0];
    assert_eq!((&shift["tensor"], &shift["input"]), (&json!("x"), &json!(true)));
    assert!(shift["beyond"].as_f64().unwrap() > 0.9 && shift["width"].as_f64().unwrap() > 200.0, "{shift}");
    assert!(ended.fixed()["refused"].as_str().is_some(), "{:#}", ended.fixed());
    assert_eq!(ended.report["outcome"]["gatePassed"], true);
}

#[test]
fn activations_that_are_zero_constant_or_no_number_stay_in_float_and_are_named_with_the_reason() {
    // Beside the three layers: a unit that is never on, one that is always the same, and one that is never a number but chooses nothing.
    let model = network(|b| {
        b.initializer("minus", Tensor::scalar(-9.0_f32))
            .initializer("zero", Tensor::scalar(0.0_f32))
            .initializer("v", tensor(&[16, 10], 7))
            .node("Abs", &["x"], "size", vec![])
            .node("Sub", &["minus", "size"], "below", vec![])
            .node("Relu", &["below"], "never", vec![])
            .node("MatMul", &["never", "v"], "of_never", vec![])
            .node("Max", &["below", "minus"], "always", vec![])
            .node("MatMul", &["always", "v"], "of_always", vec![])
            .node("Sqrt", &["below"], "broken", vec![])
            .node("MatMul", &["broken", "v"], "of_broken", vec![])
            .node("Less", &["of_broken", "zero"], "chosen", vec![])
            .node("Where", &["chosen", "of_always", "of_never"], "beside", vec![])
            .output("beside", DType::F32, &["1", "10"])
    });
    let mut ground = Ground::new(&model);
    ground.job["spec"]["data"]["validation"]["outputs"] = json!(["y"]);
    let ended = ground.bake();
    let left_out: BTreeMap<&str, (&str, &Value)> = ended.report["calibration"]["leftOut"]
        .as_array()
        .unwrap_or_else(|| panic!("{}", ended.message))
        .iter()
        .map(|u| (u["tensor"].as_str().unwrap(), (u["reason"].as_str().unwrap(), &u["sites"])))
        .collect();
    assert_eq!(left_out["never"], ("it was zero throughout", &json!(["of_never"])), "{left_out:#?}");
    assert_eq!(left_out["always"], ("it was -9 throughout", &json!(["of_always"])));
    assert_eq!(left_out["broken"], ("768 of its 768 values were infinite or no number", &json!(["of_broken"])));
    let remark = ended.remark("stay in float because the calibration data gives no range");
    assert!(remark.starts_with("3 nodes") && remark.contains("'never': it was zero throughout"), "{remark}");
    let sites = ended.fixed()["scan"]["sites"].as_array().unwrap();
    assert!(sites.iter().all(|s| !s["site"].as_str().unwrap().starts_with("of_")), "{sites:#?}");
}

/// The network with its first two layers in 8 bits, as an exporter would leave it.
fn half_quantised() -> Model {
    let mut model = network(|b| b);
    let engine: SharedEngine = std::sync::Arc::new(TractEngine::new());
    let feeds: Vec<Feed> = (0..32)
        .map(|seed| Feed::new(vec![("x".into(), Tensor::new(&[1, WIDTH], &numbers(WIDTH, 500 + seed)))]))
        .collect();
    let mut facts = facts::observe(&engine, &model, &feeds).unwrap();
    let region = Region::of(&model, &facts, &Exclude::default());
    let spreads = calibrate(&engine, &model, region.watches(), &feeds).unwrap();
    let chosen = ["g1", "m2"].into();
    let plan = region.ranged(&spreads, Policy::Unclipped).plan(&chosen, WeightScheme::Int8);
    plan.apply(&mut model, &mut facts).unwrap();
    model
}

#[test]
fn a_model_that_is_in_8_bits_already_is_never_quantised_twice_and_that_is_said() {
    let model = half_quantised();
    let ground = Ground::new(&model);
    let ended = ground.bake();
    assert_eq!(ended.code, Some(0), "{}", ended.message);
    let remark = ended.remark("in 8 bits already");
    assert!(remark.contains("only lossless passes touch them"), "{remark}");
    let (before, after) = (Ended::ops(&model), Ended::ops(&ground.artifact()));
    for op in ["QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger"] {
        assert!(after.get(op) <= before.get(op), "{op}: {before:?} became {after:?}");
    }
    for candidate in ended.candidates() {
        let sites = candidate["scan"]["sites"].as_array().cloned().unwrap_or_default();
        assert!(sites.iter().all(|s| s["site"] != "g1" && s["site"] != "m2"), "{candidate:#}");
    }
    assert!(ended.report["intake"]["quantizedNodes"].as_u64().unwrap() > 0);
}

#[test]
fn a_budget_that_nothing_in_8_bits_reaches_is_told_with_the_nearest_and_what_passes_is_written() {
    let mut ground = Ground::new(&network(|b| b));
    ground.job["spec"]["gates"] = json!([{"metric": "OutputConsistency", "min": "0.9999999"}]);
    let ended = ground.bake();
    assert_eq!(ended.code, Some(0), "{}", ended.message);
    assert_eq!(ended.report["outcome"]["gatePassed"], true);
    let found = &ended.report["budgetUnreachable"];
    let nearest = found["nearest"].as_str().unwrap();
    assert!(nearest.contains("int8"), "{found:#}");
    let candidate = ended.candidates().iter().find(|c| c["name"] == nearest).unwrap();
    assert_eq!((&found["missed"], &found["bytes"]), (&candidate["missed"], &candidate["bytes"]));
    assert_eq!(found["missed"]["metric"], "OutputConsistency");
    assert!(found["missed"]["estimate"].as_f64().unwrap() < 0.999_999_9);
    assert!(found["speed"]["ratio"].as_f64().unwrap() > 0.0, "the nearest is timed: {found:#}");
    let said = found["message"].as_str().unwrap();
    assert!(said.starts_with("BudgetUnreachable: of ") && said.contains(&format!("Nearest is {nearest}")), "{said}");
    assert!(ended.message.ends_with(said), "{}", ended.message);
    ended.remark("BudgetUnreachable");
    let ops = Ended::ops(&ground.artifact());
    assert!(!ops.keys().any(|op| op.contains("Quantize") || op.contains("Integer")), "{ops:?}");
    assert!(ended.report["front"].as_array().unwrap().iter().all(|point| point["name"] != nearest));
}

#[test]
fn a_second_bake_with_other_gates_reads_what_calibration_saw_and_another_sample_runs_anew() {
    let mut ground = Ground::new(&network(|b| b));
    ground.variables.push(("BAKEHOUSE_CACHE", ground.path("cache")));
    ground.job["spec"]["cache"] = json!("Use");
    let spreads = |ground: &Ground| {
        let files = fs::read_dir(ground.path("cache/spreads")).unwrap().map(|e| e.unwrap().path());
        files.collect::<std::collections::BTreeSet<PathBuf>>()
    };
    let first = ground.bake();
    let kept = spreads(&ground);
    let one: &Path = kept.first().unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(first.report["calibration"]["fromCache"], false);
    assert_eq!(one.file_stem().unwrap().to_str(), first.report["calibration"]["key"].as_str());

    ground.job["spec"]["gates"] = json!([{"metric": "OutputConsistency", "min": "0.9"}]);
    let second = ground.bake();
    let (a, b) = (&first.report["calibration"], &second.report["calibration"]);
    assert_eq!((&b["fromCache"], &b["key"], &b["methods"]), (&json!(true), &a["key"], &a["methods"]), "{b:#}");
    let estimates = |ended: &Ended| {
        let sites = ended.fixed()["scan"]["sites"].clone();
        let estimated = |s: &&Value| s["how"] == "Estimated";
        sites.as_array().unwrap().iter().filter(estimated).cloned().collect::<Vec<_>>()
    };
    assert_eq!(estimates(&first), estimates(&second), "the same ranges to the bit give the same estimates");

    fs::write(one, b"{}").unwrap();
    ground.job["spec"]["gates"] = json!([{"metric": "OutputConsistency", "min": "0.91"}]);
    let third = ground.bake();
    assert_eq!(third.report["calibration"]["fromCache"], false);
    assert!(third.remark("it is damaged").contains("the samples were run"));

    ground.samples("calibration", 48, 13, 1.0);
    let fourth = ground.bake();
    assert_eq!(fourth.report["calibration"]["fromCache"], false);
    assert_ne!(fourth.report["calibration"]["key"], a["key"]);
    assert_eq!(spreads(&ground).len(), 2);
}

#[test]
fn without_calibration_data_it_is_said_what_serves_in_its_place() {
    let mut ground = Ground::new(&network(|b| b));
    ground.job["spec"]["data"].as_object_mut().unwrap().remove("calibration");
    let ended = ground.bake();
    assert_eq!(ended.code, Some(0), "{}", ended.message);
    ended.remark("Ranges of activations are then found on the samples that candidates are ordered by");
    assert_eq!(ended.report["calibration"]["source"], "the search's third of spec.data.validation");
    assert_eq!(ended.report["calibration"]["samples"], 80);
    assert_eq!(ended.report["calibration"]["comparedWith"], 0);
}
