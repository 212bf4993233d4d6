//! How long the stages of static quantisation take, each by itself: the pass over the calibration data, the choice of ranges, rounding its weights, writing one
//! candidate, one step of the sensitivity scan. On a generated convolutional model, and on the scoreboard's models where `make scoreboard` has fetched them.
//!
//! Before that, the peak memory of calibration at 16, 64 and 128 samples, each in a process of its own: it has to be the same.

mod scoreboard;

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bakehouse::accelerator::conservative_passes;
use bakehouse::engine::dataset::Limits;
use bakehouse::engine::{Dataset, Engines, Feed, LoadOptions, SharedEngine, facts};
use bakehouse::model::build::Builder;
use bakehouse::model::opset::OpsetUpgrade;
use bakehouse::model::{DType, Facts, IntakeOptions, Model, Pass, Tensor, edit};
use bakehouse::optimizer::calibration::{Policy, Spread, calibrate, counted_of_each};
use bakehouse::optimizer::int8::round::Rounder;
use bakehouse::optimizer::int8::{Exclude, Region, StaticInt8, WeightScheme};
use bakehouse::profiler::clock::peak_rss_bytes;
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, criterion_group};

/// Samples of the generated model, for as many as the memory is measured on.
const SAMPLES: [usize; 3] = [16, 64, 128];

/// Names the number of samples in a process that only calibrates.
const CALIBRATE_ALONE: &str = "BAKEHOUSE_BENCH_CALIBRATE";

/// A model as the search gets it, with its samples.
struct Subject {
    engine: SharedEngine,
    model: Model,
    facts: Facts,
    feeds: Vec<Feed>,
    region: Region,
}

impl Subject {
    fn new(mut model: Model, feeds: Vec<Feed>) -> Self {
        let engine = Engines::discover(None).select(&model, &feeds[..1], None).expect("an engine that runs it").engine;
        let mut facts = facts::observe(&engine, &model, &feeds[..1]).expect("facts");
        // What a bake does before it quantises.
        let upgrade: Box<dyn Pass> = Box::new(OpsetUpgrade::default());
        for pass in std::iter::once(upgrade).chain(conservative_passes()) {
            let _ = pass.apply(&mut model, &mut facts);
        }
        let region = Region::of(&model, &facts, &Exclude::default());
        Self { engine, model, facts, feeds, region }
    }

    fn plan(&self, spreads: &std::collections::BTreeMap<String, Spread>) -> StaticInt8 {
        let ranged = self.region.ranged(spreads, Policy::LeastHarm);
        let all = ranged.choices().map(|site| site.output.as_str()).collect();
        ranged.plan(&all, WeightScheme::Int8)
    }

    fn written(&self, plan: &StaticInt8) -> Model {
        let (mut model, mut facts) = (self.model.clone(), self.facts.clone());
        plan.apply(&mut model, &mut facts).expect("a plan of this very model");
        model
    }
}

/// Eight convolutions of 64 channels on 32 x 32 positions, with residual sums and a classifier.
fn generated(samples: usize) -> (Model, Vec<Feed>) {
    const CHANNELS: usize = 64;
    let values =
        |n: usize, seed: usize| (0..n).map(|i| ((i * 7 + seed * 13) as f32 * 0.37).sin() * 0.1).collect::<Vec<f32>>();
    let mut builder = Builder::new(17)
        .input("x", DType::F32, &["1", "3", "32", "32"])
        .initializer("w_in", Tensor::new(&[CHANNELS, 3, 3, 3], &values(CHANNELS * 27, 1)))
        .node("Conv", &["x", "w_in"], "c_in", vec![edit::ints("pads", &[1; 4])])
        .node("Relu", &["c_in"], "r0", vec![]);
    for layer in 1..=8 {
        let name = |part: &str| format!("{part}{layer}");
        let last = format!("r{}", layer - 1);
        let weight = Tensor::new(&[CHANNELS, CHANNELS, 3, 3], &values(CHANNELS * CHANNELS * 9, layer));
        builder = builder
            .initializer(&name("w"), weight)
            .node("Conv", &[&last, &name("w")], &name("c"), vec![edit::ints("pads", &[1; 4])])
            .node("Add", &[&name("c"), &last], &name("s"), vec![])
            .node("Relu", &[&name("s")], &name("r"), vec![]);
    }
    let model = builder
        .initializer("w_out", Tensor::new(&[CHANNELS, 10], &values(CHANNELS * 10, 99)))
        .node("GlobalAveragePool", &["r8"], "g", vec![])
        .node("Flatten", &["g"], "f", vec![])
        .node("Gemm", &["f", "w_out"], "y", vec![])
        .output("y", DType::F32, &["1", "10"])
        .build();
    let sample = |seed: usize| {
        let pixels: Vec<f32> = values(3 * 32 * 32, seed * 31).iter().map(|v| v * 10.0 + 0.5).collect();
        Feed::new(vec![("x".into(), Tensor::new(&[1, 3, 32, 32], &pixels))])
    };
    (model, (0..samples).map(sample).collect())
}

fn fetched(model: &Path, data: &Path) -> (Model, Vec<Feed>) {
    let (model, _) = Model::intake(model, &IntakeOptions::default()).expect("a valid model");
    let samples = Dataset::load(data, &model, Limits::default()).expect("samples that fit the model").dataset;
    (model, samples.feeds)
}

fn stages(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, load: impl Fn() -> (Model, Vec<Feed>)) {
    let mut loaded = None;
    let mut subject = || {
        let (model, feeds) = load();
        let subject = Subject::new(model, feeds);
        let watches = subject.region.watches();
        let started = Instant::now();
        let spreads = calibrate(&subject.engine, &subject.model, watches, &subject.feeds).expect("it runs");
        let pass = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let plan = subject.plan(&spreads);
        let choice = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let bytes = subject.written(&plan).encoded_len();
        let samples = subject.feeds.len().min(128);
        println!(
            "{name}: {} on {}: {} tensors over {samples} samples in {pass:.3} s ({:.2} ms a sample), ranges {choice:.3} s, written {:.3} s ({} to {bytes} bytes); \
             one candidate {:.3} s, spreads hold {} bytes",
            subject.engine.id(),
            subject.model.graph().node.len(),
            spreads.len(),
            pass / samples as f64 * 1e3,
            started.elapsed().as_secs_f64(),
            subject.model.encoded_len(),
            pass + choice + started.elapsed().as_secs_f64(),
            spreads.values().map(Spread::held_bytes).sum::<usize>()
        );
        (subject, spreads, plan)
    };
    // The model is loaded inside, so that a name given on the command line loads no other.
    group.bench_function(format!("calibrate {name}"), |bencher| {
        let (subject, ..) = loaded.get_or_insert_with(&mut subject);
        bencher.iter(|| calibrate(&subject.engine, &subject.model, subject.region.watches(), &subject.feeds));
    });
    group.bench_function(format!("ranges {name}"), |bencher| {
        let (subject, spreads, _) = loaded.get_or_insert_with(&mut subject);
        bencher.iter(|| black_box(subject.region.ranged(spreads, Policy::LeastHarm)));
    });
    group.bench_function(format!("round weights {name}"), |bencher| {
        let (subject, _, plan) = loaded.get_or_insert_with(&mut subject);
        let passes: Vec<Box<dyn Pass>> = vec![Box::new(plan.clone())];
        // A rounder keeps what it found, so each has to be new.
        bencher.iter_batched(
            || Rounder::new(&subject.engine, &subject.model, &subject.facts, &subject.feeds),
            |rounder| {
                let made = rounder.round(&passes).expect("it runs");
                (rounder, made)
            },
            BatchSize::LargeInput,
        );
    });
    group.bench_function(format!("write {name}"), |bencher| {
        let (subject, _, plan) = loaded.get_or_insert_with(&mut subject);
        bencher.iter(|| black_box(subject.written(plan)));
    });
    group.bench_function(format!("scan step {name}"), |bencher| {
        let (subject, spreads, _) = loaded.get_or_insert_with(&mut subject);
        let ranged = subject.region.ranged(spreads, Policy::LeastHarm);
        let products = ranged.choices().filter(|site| site.weight.is_some());
        let largest = products.max_by_key(|site| site.work).map(|site| site.output.clone()).unwrap_or_default();
        // One site in 8 bits, loaded, and run on as many samples as a scan looks at.
        bencher.iter(|| {
            let one = ranged.plan(&std::collections::HashSet::from([largest.as_str()]), WeightScheme::Int8);
            let model = subject.written(&one);
            let mut session = subject.engine.load(&model, &LoadOptions::default()).expect("it loads");
            subject.feeds.iter().take(32).for_each(|feed| drop(black_box(session.run(feed))));
        });
    });
}

/// One bin of values, all four methods.
fn one_range(c: &mut Criterion) {
    let mut spread = Spread::default();
    for run in 0..64 {
        let values: Vec<f32> = (0..1 << 15).map(|i| ((i * 31 + run * 7) as f32 * 0.731).sin().powi(3) * 4.0).collect();
        spread.merge(Spread::of(&[1 << 15], &values, None, counted_of_each(64)));
    }
    c.bench_function("ranges of one tensor, all methods", |bencher| {
        bencher.iter(|| black_box(&spread).range(Policy::LeastHarm));
    });
    let values: Vec<f32> = (0..64 * 56 * 56).map(|i| (i as f32 * 0.37).sin()).collect();
    c.bench_function("one run's tensor of 200,704 values taken in", |bencher| {
        bencher.iter_batched_ref(
            || spread.clone(),
            |spread| spread.merge(Spread::of(&[1, 64, 56, 56], black_box(&values), None, counted_of_each(64))),
            BatchSize::LargeInput,
        );
    });
}

fn int8(c: &mut Criterion) {
    let mut group = c.benchmark_group("int8");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    // `cargo test --benches` must stay quick.
    let testing = std::env::args().any(|a| a == "--test");
    stages(&mut group, "generated", || generated(if testing { 4 } else { 64 }));
    if testing {
        return;
    }
    scoreboard::each(|name, model, data| stages(&mut group, name, || fetched(model, data)));
    group.finish();
}

/// Calibrates the generated model in this process and prints its peak memory.
fn calibrate_alone(samples: usize) {
    let (model, feeds) = generated(samples);
    let subject = Subject::new(model, feeds);
    let before = peak_rss_bytes().unwrap_or(0);
    let spreads =
        calibrate(&subject.engine, &subject.model, subject.region.watches(), &subject.feeds).expect("it runs");
    let after = peak_rss_bytes().unwrap_or(0);
    println!(
        "calibration of {} tensors on {samples:>3} samples: peak {:.1} MB, {:.1} MB of it by calibrating (model {:.1} MB)",
        spreads.len(),
        after as f64 / 1e6,
        after.saturating_sub(before) as f64 / 1e6,
        subject.model.encoded_len() as f64 / 1e6
    );
}

criterion_group!(benches, one_range, int8);

fn main() {
    if let Some(samples) = std::env::var(CALIBRATE_ALONE).ok().and_then(|n| n.parse().ok()) {
        return calibrate_alone(samples);
    }
    let program = std::env::current_exe().expect("this program");
    let testing = std::env::args().any(|a| a == "--test");
    for samples in SAMPLES.into_iter().filter(|_| !testing) {
        let status = Command::new(&program).env(CALIBRATE_ALONE, samples.to_string()).status();
        assert!(status.expect("this program starts again").success());
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
