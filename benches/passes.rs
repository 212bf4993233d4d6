//! How long the graph passes of level Conservative take, all rounds of them, without the checks between them: on the six examples, on a generated convolutional
//! model of 83 MB, and on the scoreboard's models where `make scoreboard` has fetched them.

mod scoreboard;

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use bakehouse::accelerator::conservative_passes;
use bakehouse::engine::dataset::Limits;
use bakehouse::engine::{Dataset, Engines, facts};
use bakehouse::model::build::Builder;
use bakehouse::model::opset::OpsetUpgrade;
use bakehouse::model::{DType, Effect, Facts, IntakeOptions, Model, Pass, Tensor, edit};
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, criterion_group, criterion_main};

const EXAMPLES: [&str; 6] = ["mlp", "cnn", "resnet", "lstm", "gru", "encoder"];

/// As many as a bake makes at most.
const ROUNDS: usize = 3;

/// Applies the passes in rounds until none changes the model any more. Nothing is run and nothing rolled back.
fn rounds(model: &mut Model, facts: &mut Facts, passes: &[Box<dyn Pass>]) -> Vec<(&'static str, Duration)> {
    let mut spent: Vec<_> = passes.iter().map(|pass| (pass.name(), Duration::ZERO)).collect();
    for _ in 0..ROUNDS {
        let mut changed = false;
        for (pass, (_, spent)) in passes.iter().zip(&mut spent) {
            let started = Instant::now();
            changed |= matches!(pass.apply(model, facts), Ok(Effect::Applied { .. }));
            *spent += started.elapsed();
        }
        if !changed {
            break;
        }
    }
    spent
}

fn passes() -> Vec<Box<dyn Pass>> {
    let upgrade: Box<dyn Pass> = Box::new(OpsetUpgrade::default());
    std::iter::once(upgrade).chain(conservative_passes()).collect()
}

/// A model as a bake takes it in, with what a run on its calibration samples shows of its tensors.
fn observed(model: &Path, data: &Path) -> (Model, Facts) {
    let (model, _) = Model::intake(model, &IntakeOptions::default()).expect("a valid model");
    let samples = Dataset::load(data, &model, Limits::default()).expect("samples that fit the model").dataset;
    let engine = Engines::discover(None).select(&model, &samples.feeds[..1], None).expect("an engine that runs it");
    let facts = facts::observe(&engine.engine, &model, &samples.feeds).expect("facts");
    (model, facts)
}

/// Nine convolutions of 512 channels, each followed by `BatchNormalization` and `Relu`: 83 MB of weights that are all folded anew.
fn generated() -> (Model, Facts) {
    const CHANNELS: usize = 512;
    let mut builder = Builder::new(17).input("x", DType::F32, &["N", "512", "14", "14"]);
    let mut last = "x".to_owned();
    for layer in 0..9 {
        let name = |part: &str| format!("{part}{layer}");
        let weight: Vec<f32> = (0..CHANNELS * CHANNELS * 9).map(|i| ((i + layer) % 97) as f32 / 97.0 - 0.5).collect();
        builder = builder.initializer(&name("w"), Tensor::new(&[CHANNELS, CHANNELS, 3, 3], &weight));
        for (part, value) in [("scale", 1.1_f32), ("bias", 0.1), ("mean", 0.2), ("var", 0.9)] {
            builder = builder.initializer(&name(part), Tensor::new(&[CHANNELS], &[value; CHANNELS]));
        }
        let norm = [&*name("c"), &*name("scale"), &*name("bias"), &*name("mean"), &*name("var")].map(str::to_owned);
        builder = builder
            .node("Conv", &[&last, &name("w")], &name("c"), vec![edit::ints("pads", &[1; 4])])
            .node("BatchNormalization", &norm.each_ref().map(String::as_str), &name("n"), vec![])
            .node("Relu", &[&name("n")], &name("r"), vec![]);
        last = name("r");
    }
    (builder.output(&last, DType::F32, &["N", "512", "14", "14"]).build(), Facts::default())
}

fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, load: impl Fn() -> (Model, Facts)) {
    let passes = passes();
    let mut loaded = None;
    // The model is loaded inside, so that a name given on the command line loads no other.
    group.bench_function(name, |bencher| {
        let (model, facts) = loaded.get_or_insert_with(|| {
            let (model, facts) = load();
            let (mut baked, mut known) = (model.clone(), facts.clone());
            let mut spent = rounds(&mut baked, &mut known, &passes);
            spent.sort_by_key(|&(_, spent)| std::cmp::Reverse(spent));
            let most: Vec<String> = spent.iter().take(3).map(|(pass, spent)| format!("{pass} {spent:.1?}")).collect();
            let nodes = [&model, &baked].map(|m| m.graph().node.len());
            println!("{name}: {} nodes become {}; first run: {}", nodes[0], nodes[1], most.join(", "));
            (model, facts)
        });
        bencher.iter_batched_ref(
            || (model.clone(), facts.clone()),
            |(model, facts)| black_box(rounds(model, facts, &passes)),
            BatchSize::PerIteration,
        );
    });
}

fn graph_passes(c: &mut Criterion) {
    let mut group = c.benchmark_group("passes");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for name in EXAMPLES {
        let folder = examples.join(name);
        measure(&mut group, name, || observed(&folder.join("model.onnx"), &folder.join("calibration.npz")));
    }
    // `cargo test --benches` must stay quick.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    measure(&mut group, "generated 83 MB", generated);
    scoreboard::each(|name, model, data| measure(&mut group, name, || observed(model, data)));
    group.finish();
}

criterion_group!(benches, graph_passes);
criterion_main!(benches);
