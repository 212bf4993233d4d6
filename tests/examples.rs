//! The six examples: what they state is measured again, every level and goal bakes them well, and a model that learnt nothing is not taken for one of them.
//!
//! ONNX Runtime takes part when its library is found; without it the same runs on the embedded engine.
#![cfg(feature = "tract")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use bakehouse::api::bakejob::{Export, Goal, Level, Verdict};
use bakehouse::api::digest::sha256_hex;
use bakehouse::api::{Metric, Reason, ResolvedJob, load};
use bakehouse::bake::{self, Options, Quiet, Report, Summary, passes, probe};
use bakehouse::engine::{Dataset, Engines, LoadOptions, dataset};
use bakehouse::model::{IntakeOptions, Model, Tensor};
use bakehouse::optimizer::recipe::ReplayError;
use bakehouse::optimizer::{Outcome, Recipe};
use bakehouse::quality;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const EXAMPLES: [&str; 6] = ["mlp", "cnn", "resnet", "lstm", "gru", "encoder"];

fn folder(example: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example)
}

/// The example's own job, settled, with fewer timed runs: what is timed here decides nothing that is asserted.
fn job(example: &str) -> ResolvedJob {
    let file = folder(example).join("bakejob.yaml");
    let jobs = load::parse(&std::fs::read_to_string(&file).unwrap(), &file).unwrap();
    let mut job = ResolvedJob::resolve(&jobs[0], &file).unwrap();
    job.profile.iterations = 10;
    job.profile.warmup = 1;
    job.exports = vec![Export::Onnx, Export::Nnef];
    job
}

fn options() -> Options {
    Options {
        engines: Engines::discover(None),
        ort_lib: None,
        program: env!("CARGO_BIN_EXE_bakehouse").into(),
        low_memory: false,
        checkpoints: None,
        spreads: None,
    }
}

/// The example's model as a bake takes it in.
fn taken_in(example: &str) -> Model {
    Model::intake(&folder(example).join("model.onnx"), &IntakeOptions::default()).unwrap().0
}

fn split(example: &str, name: &str, model: &Model) -> Dataset {
    Dataset::load(&folder(example).join(format!("{name}.npz")), model, dataset::Limits::default()).unwrap().dataset
}

/// A finished bake and the folder it wrote.
struct Baked {
    summary: Summary,
    report: Report,
    folder: PathBuf,
}

impl Baked {
    fn artifact(&self) -> PathBuf {
        self.folder.join("model.onnx")
    }
}

type Slots = Mutex<BTreeMap<String, Arc<OnceLock<Baked>>>>;

/// Bakes an example, once per test run for each level and goal.
fn baked(example: &str, level: Level, goal: Goal) -> (Arc<OnceLock<Baked>>, String) {
    static DONE: OnceLock<Slots> = OnceLock::new();
    let key = format!("{example}-{level:?}-{goal:?}").to_lowercase();
    let slot = DONE.get_or_init(Slots::default).lock().unwrap().entry(key.clone()).or_default().clone();
    slot.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("examples").join(&key);
        let job = ResolvedJob { level, goal, output: folder.clone(), ..job(example) };
        let summary = bake::bake(&job, &options(), &mut Quiet).unwrap_or_else(|e| panic!("{key}: {e}"));
        let report = serde_json::from_slice(&std::fs::read(folder.join("report.json")).unwrap()).unwrap();
        Baked { summary, report, folder }
    });
    (slot, key)
}

/// Bakes every example and checks what every good bake shows; hands each on.
fn every_example_bakes_well(level: Level, goal: Goal, mut further: impl FnMut(&Baked, &str)) {
    for example in EXAMPLES {
        let (slot, key) = baked(example, level, goal);
        let baked = slot.get().unwrap();
        let outcome = &baked.report.outcome;
        assert!(matches!(outcome.reason, Reason::Baked | Reason::NoImprovement), "{key}: {}", outcome.message);
        let passed: Vec<Metric> =
            baked.report.gates.iter().filter(|g| g.verdict == Verdict::Pass).map(|g| g.metric).collect();
        assert_eq!(passed, Metric::DEFAULT_GATES.map(|(metric, _)| metric), "{key}: {:#?}", baked.report.gates);
        assert_eq!(baked.summary.reason, outcome.reason, "{key}");
        reloads_to_the_same_outputs(baked, example, &key);
        // Either it is there, reloaded and compared, or the result says what has no form in it; what is lossless always has one.
        let nnef = baked.report.artifacts.iter().any(|a| a.format == "NNEF");
        assert_eq!(nnef, !outcome.message.contains("NNEF was not written: "), "{key}: {}", outcome.message);
        assert!(nnef || level != Level::Conservative, "{key}: {}", outcome.message);
        further(baked, &key);
    }
}

/// A fresh process reads the very bytes that the report names and computes what this process does.
fn reloads_to_the_same_outputs(baked: &Baked, example: &str, key: &str) {
    let claimed = baked.report.baked.as_ref().unwrap_or(&baked.report.baseline);
    let file = std::fs::read(baked.artifact()).unwrap();
    assert_eq!((sha256_hex(&file), file.len() as u64), (claimed.sha256.clone(), claimed.bytes), "{key}");

    let model = Model::load(&baked.artifact()).unwrap();
    let data = split(example, "validation", &model);
    let runtime = options().engines.select(&model, &data.feeds, None).unwrap();
    let mut session = runtime.engine.load(&model, &LoadOptions::default()).unwrap();
    let here: Vec<Tensor> = data.feeds[..8].iter().flat_map(|feed| session.run(feed).unwrap()).collect();
    let seen = probe::spawn(
        Path::new(env!("CARGO_BIN_EXE_bakehouse")),
        &probe::Request {
            model: baked.artifact(),
            data: folder(example).join("validation.npz"),
            samples: 8,
            runtime: runtime.runtime,
            ort_lib: None,
            threads: 1,
        },
    )
    .unwrap_or_else(|e| panic!("{key}: {e}"));
    assert_eq!(seen.file_sha256, claimed.sha256, "{key}");
    assert_eq!(seen.outputs_sha256, probe::outputs_digest(here.iter()), "{key}");
}

#[test]
fn the_stated_accuracy_is_measured_again_to_the_sample() {
    let stated: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&std::fs::read(folder("accuracy.json")).unwrap()).unwrap();
    assert_eq!(stated.keys().map(String::as_str).collect::<BTreeSet<_>>(), EXAMPLES.into_iter().collect());
    let engines = Engines::discover(None);
    for (example, stated) in &stated {
        let model = taken_in(example);
        let data = split(example, "validation", &model);
        let labels = data.labels.as_ref().unwrap().to_i64().unwrap();
        let engine = engines.select(&model, &data.feeds, None).unwrap().engine;
        let mut session = engine.load(&model, &LoadOptions::default()).unwrap();
        let right = data.feeds.iter().zip(labels.iter()).filter(|(feed, label)| {
            let scores = &session.run(feed).unwrap()[0];
            let scores = scores.to_f32();
            let top = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
            top as i64 == **label
        });
        let right = right.count();
        let (accuracy, n) = (stated["accuracy"].as_f64().unwrap(), stated["n"].as_u64().unwrap() as usize);
        assert_eq!(stated["metric"], "Top1", "{example}");
        assert_eq!(data.len(), n, "{example}");
        assert_eq!(right, (accuracy * n as f64).round() as usize, "{example} on {}", engine.id());
        assert!((right as f64 / n as f64 - accuracy).abs() < 1e-6, "{example}: {right} of {n}, stated {accuracy}");
    }
}

#[test]
fn the_splits_of_an_example_share_no_sample() {
    for example in EXAMPLES {
        let model = taken_in(example);
        let [calibration, training, validation] =
            ["calibration", "training", "validation"].map(|name| split(example, name, &model));
        assert!(training.len() > validation.len() && validation.len() > calibration.len(), "{example}");
        for (name, a, b) in [
            ("calibration, training", &calibration, &training),
            ("calibration, validation", &calibration, &validation),
            ("training, validation", &training, &validation),
        ] {
            assert_eq!(a.overlap(b), [], "{example}: {name}");
        }
    }
}

#[test]
fn every_example_passes_at_conservative_for_balance() {
    every_example_bakes_well(Level::Conservative, Goal::Balanced, |_, _| {});
}

#[test]
fn every_example_passes_at_conservative_for_size() {
    every_example_bakes_well(Level::Conservative, Goal::Size, |baked, key| {
        let [before, after] = baked.summary.result.as_ref().unwrap().bytes;
        assert!(after <= before, "{key}: {before} bytes became {after}");
    });
}

#[test]
fn every_example_passes_at_light_for_balance() {
    every_example_bakes_well(Level::Light, Goal::Balanced, |_, _| {});
}

#[test]
fn every_example_shrinks_to_45_percent_at_light_for_size() {
    every_example_bakes_well(Level::Light, Goal::Size, |baked, key| {
        let result = baked.summary.result.as_ref().unwrap();
        assert_eq!(baked.summary.reason, Reason::Baked, "{key}: {}", baked.summary.message);
        assert_ne!(result.candidate, "input", "{key}");
        let [before, after] = result.bytes;
        assert!(after as f64 <= 0.45 * before as f64, "{key}: {after} of {before} bytes");
    });
}

#[test]
fn every_example_keeps_99_percent_of_its_accuracy_at_medium() {
    every_example_bakes_well(Level::Medium, Goal::Latency, |baked, key| {
        let retention = &baked.report.quality.as_ref().unwrap().accuracy_retention;
        assert!(retention.estimate.is_some_and(|kept| kept >= 0.99), "{key}: {retention:?}");
        // What Light may do, Medium may do.
        let names: Vec<&str> = baked.report.candidates.iter().map(|c| c.name.as_str()).collect();
        assert!(names.contains(&"stored-int8"), "{key}: {names:?}");
        let calibrated = names.iter().any(|n| n.starts_with("static-int8"));
        let recurrent = ["lstm", "gru"].iter().any(|kind| key.starts_with(kind));
        assert!(calibrated || recurrent, "{key}: {names:?}");
    });
}

#[test]
fn networks_with_normalisation_lose_15_percent_of_their_nodes_without_loss() {
    for example in ["cnn", "resnet"] {
        let (slot, key) = baked(example, Level::Conservative, Goal::Balanced);
        let report = &slot.get().unwrap().report;
        let [before, after] =
            [&report.baseline, report.baked.as_ref().expect(&key)].map(|m| m.stats.nodes.computing as f64);
        assert!(after <= 0.85 * before, "{key}: {before} nodes became {after}");
        let fused: usize = report.passes.iter().map(|p| p.fused.len()).sum();
        assert!(fused > 0, "{key}: no fusion is listed");
        for pass in report.passes.iter().filter(|p| p.outcome == Outcome::Applied) {
            assert!(pass.max_difference.is_some_and(|d| d <= 1e-5), "{key}: {} was not checked: {pass:?}", pass.name);
        }
    }
}

/// The same architecture and shapes, every weight drawn anew from N(0, 0.05^2): a model that learnt nothing. Constants of one element stay (they are the
/// formulas' own: the 2 under a square root), and a variance stays positive.
fn with_random_weights(model: &Model, seed: u64) -> Model {
    let mut other = model.clone();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = move || (f64::from(rng.next_u32()) + 0.5) / (f64::from(u32::MAX) + 1.0);
    // Box and Muller (1958).
    let mut normal = move || 0.05 * ((-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32;
    let graph = other.graph_mut();
    let variances: Vec<String> =
        graph.node.iter().filter(|n| n.op_type() == "BatchNormalization").map(|n| n.input[4].clone()).collect();
    let constants = graph.node.iter_mut().filter(|n| n.op_type() == "Constant").filter_map(|n| {
        let name = n.output[0].clone();
        n.attribute.iter_mut().find(|a| a.name() == "value").and_then(|a| a.t.as_mut()).map(|t| (name, t))
    });
    let initializers = graph.initializer.iter_mut().map(|t| (t.name().to_owned(), t));
    for (name, proto) in initializers.chain(constants) {
        let Ok(tensor) = Tensor::from_proto(proto) else { continue };
        if tensor.dtype().is_float() && tensor.len() > 1 {
            let positive = variances.contains(&name);
            let drawn: Vec<f32> =
                (0..tensor.len()).map(|_| normal()).map(|v| if positive { v.abs() + 1e-3 } else { v }).collect();
            *proto = Tensor::new(tensor.shape(), &drawn).to_proto(proto.name());
        }
    }
    other
}

#[test]
fn a_copy_with_random_weights_fails_all_four_metrics() {
    let mut kept = Vec::new();
    for example in EXAMPLES {
        let job = job(example);
        let model = taken_in(example);
        let random = with_random_weights(&model, 7);
        assert_ne!(model, random, "{example}");
        let quality = bake::assess(&job, &options(), &random).unwrap();
        let gates = quality::decide(&job.gates, &quality.figures());
        assert_eq!(gates.len(), 4, "{example}");
        for gate in gates {
            println!("{example}: {} {:?} {:?}", gate.metric, gate.observed, gate.interval);
            if gate.verdict != Verdict::Fail {
                kept.push(format!("{example}: {:?} of {}: {}", gate.verdict, gate.metric, gate.message));
            }
        }
    }
    assert!(kept.is_empty(), "{kept:#?}");
}

#[test]
fn the_model_itself_passes_all_four_metrics() {
    for example in EXAMPLES {
        let job = job(example);
        let quality = bake::assess(&job, &options(), &taken_in(example)).unwrap();
        for gate in quality::decide(&job.gates, &quality.figures()) {
            assert_eq!(gate.verdict, Verdict::Pass, "{example}: {}", gate.message);
        }
    }
}

/// The recipe of a bake, as its file holds it.
fn recipe(baked: &Baked) -> (String, Recipe) {
    let text = std::fs::read_to_string(baked.folder.join("recipe.json")).unwrap();
    let recipe = serde_json::from_str(&text).unwrap();
    (text, recipe)
}

#[test]
fn a_recipe_gives_the_artifact_again_byte_for_byte() {
    for example in EXAMPLES {
        for (level, goal) in
            [(Level::Light, Goal::Size), (Level::Light, Goal::Balanced), (Level::Medium, Goal::Latency)]
        {
            let (slot, key) = baked(example, level, goal);
            let baked = slot.get().unwrap();
            let (text, recipe) = recipe(baked);
            assert!(!recipe.steps.is_empty() || level == Level::Medium, "{key}");
            let input = taken_in(example);
            let replayed = recipe.replay(&input, &passes::of_step).unwrap_or_else(|e| panic!("{key}: {e}"));
            assert!(std::fs::read(baked.artifact()).unwrap() == replayed.to_bytes(), "{key}: other bytes");

            // Through text once more, number by number.
            let again = serde_json::to_string_pretty(&recipe).unwrap();
            assert_eq!(again, text, "{key}");
            let again: Recipe = serde_json::from_str(&again).unwrap();
            assert_eq!(again, recipe, "{key}");
            assert!(again.replay(&input, &passes::of_step).unwrap().to_bytes() == replayed.to_bytes(), "{key}");
        }
    }
}

#[test]
fn a_recipe_is_replayed_by_a_fresh_process() {
    let (slot, key) = baked("gru", Level::Light, Goal::Size);
    let baked = slot.get().unwrap();
    let out = tempfile::tempdir().unwrap();
    let recipe = baked.folder.join("recipe.json");
    let run = program(&["bake", "--quiet", "--goal", "size", "-f"])
        .arg(folder("gru").join("bakejob.yaml"))
        .arg("--recipe")
        .arg(&recipe)
        .arg("--out")
        .arg(out.path())
        .output()
        .unwrap();
    assert!(run.status.success(), "{key}: {}", String::from_utf8_lossy(&run.stderr));
    let [first, second] = [baked.artifact(), out.path().join("model.onnx")].map(|p| std::fs::read(p).unwrap());
    assert!(first == second, "{key}: the fresh process wrote other bytes");
}

#[test]
fn a_recipe_for_another_model_is_refused() {
    let (slot, _) = baked("gru", Level::Light, Goal::Size);
    let baked = slot.get().unwrap();
    let (_, recipe) = recipe(baked);
    for other in [taken_in("mlp"), with_random_weights(&taken_in("gru"), 1)] {
        let refused = recipe.replay(&other, &passes::of_step);
        assert!(matches!(refused, Err(ReplayError::Input { .. })), "{refused:?}");
    }
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("never");
    let run = program(&["bake", "--quiet", "-f"])
        .arg(folder("mlp").join("bakejob.yaml"))
        .arg("--recipe")
        .arg(baked.folder.join("recipe.json"))
        .arg("--out")
        .arg(&target)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(2), "{said}");
    assert!(said.contains("made for another model"), "{said}");
    assert!(!target.exists(), "something was left behind");
}

fn program(arguments: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bakehouse"));
    command.args(arguments);
    command
}

/// Backends that a report lists as passes that were skipped because the backend is not there.
fn unavailable(report: &Report) -> Vec<&str> {
    let skipped = report.passes.iter().filter(|p| p.outcome == Outcome::Skipped);
    let absent = skipped.filter(|p| p.reason.as_deref().is_some_and(|r| r.starts_with("BackendUnavailable")));
    absent.map(|p| p.name.as_str()).collect()
}

#[test]
fn a_backend_that_is_not_there_is_a_pass_that_was_skipped() {
    let (slot, key) = baked("mlp", Level::Conservative, Goal::Balanced);
    let listed = unavailable(&slot.get().unwrap().report);
    for backend in ["backend-cuda", "backend-tensorrt"] {
        assert!(listed.contains(&backend), "{key}: {listed:?}");
    }

    // And the same without ONNX Runtime, where the embedded engine does the work.
    let out = tempfile::tempdir().unwrap();
    let run = program(&["bake", "--quiet", "--level", "conservative", "--ort-lib", "none", "-f"])
        .arg(folder("mlp").join("bakejob.yaml"))
        .arg("--out")
        .arg(out.path())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let report: Report = serde_json::from_slice(&std::fs::read(out.path().join("report.json")).unwrap()).unwrap();
    let listed = unavailable(&report);
    for backend in ["backend-onnxruntime", "backend-cuda", "backend-tensorrt"] {
        assert!(listed.contains(&backend), "{listed:?}");
    }
    assert_eq!(report.engine.name, "tract");
    assert!(report.gates.iter().all(|g| g.verdict == Verdict::Pass), "{:#?}", report.gates);
}
