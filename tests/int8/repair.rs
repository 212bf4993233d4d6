//! Repairs of static quantisation: kept where held-out samples say so, undone where they do not.

use std::time::{Duration, Instant};

use bakehouse::api::bakejob::Goal;
use bakehouse::engine::EngineError;
use bakehouse::engine::facts::observe;
use bakehouse::optimizer::int8::correction;
use bakehouse::optimizer::int8::qdq::measured::{MEASURED_RANGES, measured_ranges};
use bakehouse::optimizer::int8::{BiasCorrection, Equalise, StaticInt8, equalise};
use bakehouse::optimizer::{Candidate, Judge, Limits, Outcome, Quality, Score, SiteInfo, Speed, Variant, Work, search};

use super::fixed::{everything, ranged};
use super::*;

fn work(model: &Model, feeds: &[Feed]) -> Work {
    let facts = observe(&engines()[0], model, feeds).unwrap();
    Work { model: model.clone(), facts, steps: Vec::new() }
}

/// Samples from 0 to about 1.8: what a rounded weight loses adds up over them.
fn positive(shape: &[usize], seeds: std::ops::Range<u64>) -> Vec<Feed> {
    let of = |seed| {
        let values: Vec<f32> = numbers(shape.iter().product(), seed).iter().map(|v| v + 0.9).collect();
        feed("x", Tensor::new(shape, &values))
    };
    seeds.map(of).collect()
}

/// Quality on samples that no calibration saw: 1 less the relative RMS error of the output, every sample by itself.
struct HeldOut {
    engine: SharedEngine,
    float: Model,
    feeds: Vec<Feed>,
    /// What the gate asks for.
    needed: f64,
    /// Per sample, every time that quality was asked for.
    seen: Vec<Vec<f64>>,
}

impl HeldOut {
    fn new(float: &Model, feeds: Vec<Feed>, needed: f64) -> Self {
        Self { engine: engines()[0].clone(), float: float.clone(), feeds, needed, seen: Vec::new() }
    }

    fn of_each(&self, candidate: &Model) -> Result<Vec<f64>, EngineError> {
        let options = LoadOptions { optimise: false, ..LoadOptions::default() };
        let mut sessions = [self.engine.load(&self.float, &options)?, self.engine.load(candidate, &options)?];
        let quality = |feed| {
            let [exact, rounded] = [sessions[0].run(feed)?.remove(0), sessions[1].run(feed)?.remove(0)];
            let (exact, rounded) = (exact.to_f64(), rounded.to_f64());
            let error: f64 = exact.iter().zip(&*rounded).map(|(a, b)| (a - b).powi(2)).sum();
            Ok(1.0 - (error / exact.iter().map(|v| v * v).sum::<f64>()).sqrt())
        };
        self.feeds.iter().map(quality).collect()
    }
}

impl Judge for HeldOut {
    fn quality(&mut self, candidate: &Model) -> Result<Quality, EngineError> {
        let of_each = self.of_each(candidate)?;
        let estimate = of_each.iter().sum::<f64>() / of_each.len() as f64;
        self.seen.push(of_each);
        let needed = (self.needed - 0.5) / 0.5;
        let score = Score { metric: "Likeness".into(), estimate, threshold: 0.5, least: needed, needed };
        Ok(Quality { scores: vec![score], deviation: 1.0 - estimate })
    }

    fn speed(&mut self, candidate: &Model) -> Result<Speed, EngineError> {
        let ratio = if ops(candidate).contains(&"QuantizeLinear") { 2.0 } else { 1.0 };
        Ok(Speed { ratio, lower: ratio - 0.1, upper: ratio + 0.1, n: 9 })
    }

    fn harm(&mut self, candidate: &Model) -> Result<f64, EngineError> {
        let of_each = self.of_each(candidate)?;
        Ok(1.0 - of_each.iter().sum::<f64>() / of_each.len() as f64)
    }

    fn trying(&mut self, _: &str) {}
}

/// The 95 % interval of a mean.
fn interval(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = 2.07 * (variance / n).sqrt();
    (mean - half, mean + half)
}

/// Static quantisation of `base` behind `first`, each product of it a site.
fn variant(name: &str, base: &Work, feeds: &[Feed], first: Option<&Equalise>) -> Variant {
    let ranged_on = first.map_or_else(|| base.model.clone(), |pass| applied_to(base, pass));
    let outputs: Vec<String> =
        everything(&ranged_on, feeds, &[]).nodes.iter().map(|node| node.output.clone()).collect();
    let site = |name: &String| SiteInfo { name: name.clone(), part: "Conv", elements: 1, error: 0.1, follows: false };
    let (feeds, first, named) = (feeds.to_vec(), first.cloned(), outputs.clone());
    Variant {
        name: name.to_owned(),
        kind: "static",
        sites: outputs.iter().map(site).collect(),
        build: Box::new(move |mask| {
            let left_out = named.iter().zip(mask).filter(|(_, on)| !**on).map(|(name, _)| name.as_str());
            let plan = everything(&ranged_on, &feeds, &left_out.collect::<Vec<_>>());
            if plan.nodes.is_empty() {
                return Vec::new();
            }
            let first = first.clone().map(|pass| Box::new(pass) as Box<dyn Pass>);
            first.into_iter().chain([Box::new(plan) as Box<dyn Pass>]).collect()
        }),
        probe: None,
        tunable: outputs.len(),
        measured: true,
        smallest: false,
        only_whole: false,
        repairs: Vec::new(),
        begun: None,
    }
}

fn applied_to(base: &Work, pass: &dyn Pass) -> Model {
    let (mut model, mut facts) = (base.model.clone(), base.facts.clone());
    let effect = pass.apply(&mut model, &mut facts).unwrap();
    assert!(matches!(effect, Effect::Applied { .. }), "{effect:?}");
    model
}

fn searched(base: &Work, variants: &[Variant], judge: &mut HeldOut) -> Vec<Candidate> {
    let deadline = Instant::now() + Duration::from_mins(2);
    let limits = Limits { goal: Goal::Latency, input_bytes: 1, deadline, measuring: Duration::ZERO, room: None };
    search(base, variants, &limits, judge)
}

fn named<'c>(candidates: &'c [Candidate], name: &str) -> &'c Candidate {
    candidates.iter().find(|c| c.name == name).unwrap()
}

/// Three convolutions and a classifier. All weights but one of a channel are just too small for a code of their own, and of one sign.
fn convolutions() -> Model {
    let weights = |shape: &[usize]| {
        let each = shape[1..].iter().product::<usize>();
        let lost = |at: usize| if at % each == at / each % each { 1.0_f32 } else { 0.45 / 64.0 };
        Tensor::new(shape, &(0..shape[0] * each).map(lost).collect::<Vec<_>>())
    };
    Builder::new(17)
        .input("x", DType::F32, &["1", "4", "10", "10"])
        .initializer("w1", weights(&[16, 4, 3, 3]))
        .initializer("w2", weights(&[16, 16, 3, 3]))
        .initializer("b2", tensor(&[16], 3))
        .initializer("w3", weights(&[16, 16, 3, 3]))
        .initializer("w4", weights(&[10, 16]))
        .initializer("b4", tensor(&[10], 6))
        .node("Conv", &["x", "w1"], "c1", vec![])
        .node("Relu", &["c1"], "r1", vec![])
        .node("Conv", &["r1", "w2", "b2"], "c2", vec![])
        .node("Relu", &["c2"], "r2", vec![])
        .node("Conv", &["r2", "w3"], "c3", vec![])
        .node("Relu", &["c3"], "r3", vec![])
        .node("GlobalAveragePool", &["r3"], "g", vec![])
        .node("Flatten", &["g"], "f", vec![])
        .node("Gemm", &["f", "w4", "b4"], "y", vec![int("transB", 1)])
        .output("y", DType::F32, &["1", "10"])
        .build()
}

const IMAGE: [usize; 4] = [1, 4, 10, 10];

#[test]
fn what_rounding_shifts_is_taken_back_and_held_out_quality_rises_by_more_than_its_interval() {
    let model = convolutions();
    let seen = positive(&IMAGE, 0..16);
    let base = work(&model, &seen);
    let mut judge = HeldOut::new(&model, positive(&IMAGE, 100..124), 0.9);
    let mut corrected = variant("static", &base, &seen, None);
    corrected.repairs = vec![correction::repair(&engines()[0], &seen)];
    let candidates = searched(&base, &[corrected], &mut judge);
    let best = named(&candidates, "static");
    let (before, after) = (interval(&judge.seen[0]), interval(&judge.seen[1]));
    let said = format!("{before:?} {after:?} {:?}", best.quality);
    assert_eq!((best.refused.as_deref(), best.left_out.len()), (None, 0), "{said}");
    assert!(after.0 > before.1 + (before.1 - before.0) + (after.1 - after.0), "{before:?} {after:?}");

    let record = best.records.iter().find(|r| r.name == BiasCorrection::NAME).unwrap();
    assert_eq!((record.outcome, record.rewrites), (Outcome::Applied, 4));
    let said = record.reason.as_ref().unwrap();
    assert!(
        said.starts_with("deviation ") && said.contains(", Likeness 0.") && said.ends_with("on the search split"),
        "{said}"
    );
    let names: Vec<&str> = best.work.steps.iter().map(|step| step.pass.as_str()).collect();
    assert_eq!(names, [BiasCorrection::NAME, StaticInt8::NAME]);
    let mut replayed = base.clone();
    replayed.replay(&best.work.steps, &|step| from_parameters(&step.pass, &step.parameters)).unwrap();
    assert_eq!(replayed.model.sha256(), best.work.model.sha256(), "a recipe needs neither samples nor an engine");

    // Without it the same budget is only kept with sites in float, or not at all.
    let plain = variant("static", &base, &seen, None);
    let candidates = searched(&base, &[plain], &mut HeldOut::new(&model, positive(&IMAGE, 100..124), 0.9));
    let plain = named(&candidates, "static");
    assert!(plain.refused.is_some() || !plain.left_out.is_empty(), "{:?}", plain.quality);
}

/// Two products in a row of values around zero: what rounding adds is around zero too.
fn straight() -> Model {
    Builder::new(17)
        .input("x", DType::F32, &["8", "48"])
        .initializer("w", tensor(&[48, 32], 1))
        .initializer("b", tensor(&[32], 2))
        .initializer("v", tensor(&[32, 10], 3))
        .initializer("c", tensor(&[10], 4))
        .node("Gemm", &["x", "w", "b"], "h", vec![])
        .node("Gemm", &["h", "v", "c"], "y", vec![])
        .output("y", DType::F32, &["8", "10"])
        .build()
}

#[test]
fn where_rounding_shifts_nothing_the_correction_is_undone_and_the_record_says_so() {
    let model = straight();
    let of = |seeds: std::ops::Range<u64>| seeds.map(|seed| feed("x", tensor(&[8, 48], seed))).collect::<Vec<_>>();
    let seen = of(0..16);
    let base = work(&model, &seen);
    // Nothing on codes can be as good as this.
    let mut judge = HeldOut::new(&model, of(100..124), 0.999_99);
    let mut corrected = variant("static", &base, &seen, None);
    corrected.repairs = vec![correction::repair(&engines()[0], &seen)];
    let candidates = searched(&base, &[corrected], &mut judge);
    let refused = named(&candidates, "static");
    let record = refused.records.iter().find(|r| r.name == BiasCorrection::NAME).unwrap();
    assert_eq!(record.outcome, Outcome::RolledBack, "{record:?}");
    assert!(record.reason.as_ref().unwrap().starts_with("no gain: deviation "), "{record:?}");
    assert!(refused.work.steps.iter().all(|step| step.pass != BiasCorrection::NAME));
}

/// A product whose outputs saturate: how much larger than all others an input is does not matter.
fn saturating() -> Model {
    let [w, v] = [1, 3].map(|seed| numbers(48 * 48, seed).iter().map(|v| v * 0.5).collect::<Vec<_>>());
    Builder::new(17)
        .input("x", DType::F32, &["8", "48"])
        .initializer("w", Tensor::new(&[48, 48], &w))
        .initializer("b", tensor(&[48], 2))
        .initializer("v", Tensor::new(&[48, 48], &v))
        .initializer("c", tensor(&[48], 4))
        .node("Gemm", &["x", "w", "b"], "h", vec![])
        .node("Tanh", &["h"], "t", vec![])
        .node("Gemm", &["t", "v", "c"], "y", vec![])
        .output("y", DType::F32, &["8", "48"])
        .build()
}

#[test]
fn a_range_spread_over_what_does_not_count_is_narrowed_and_held_out_quality_rises_by_more_than_its_interval() {
    // Of every twelve samples one holds a value that is a hundred times the others.
    let of = |seeds: std::ops::Range<u64>| {
        let one = |seed| {
            let mut values = numbers(8 * 48, seed);
            if seed % 12 == 5 {
                values[77] = 100.0;
            }
            feed("x", Tensor::new(&[8, 48], &values))
        };
        seeds.map(one).collect::<Vec<_>>()
    };
    let (model, seen) = (saturating(), of(0..24));
    let base = work(&model, &seen);
    let mut judge = HeldOut::new(&model, of(100..124), 0.6);
    let mut measured = variant("static", &base, &seen, None);
    measured.repairs = vec![measured_ranges(ranged(&model, &seen), WeightScheme::Int8Reduced)];
    let candidates = searched(&base, &[measured], &mut judge);
    let kept = named(&candidates, "static");
    // The samples with the large value lose by it, all others gain.
    let gains: Vec<f64> = judge.seen[1].iter().zip(&judge.seen[0]).map(|(after, before)| after - before).collect();
    let (least, most) = interval(&gains);
    assert!(least > (most - least) / 2.0, "{least} to {most}: {gains:?}");
    assert_eq!((kept.refused.as_deref(), kept.left_out.len()), (None, 0), "{:?}", kept.quality);
    let record = kept.records.iter().find(|r| r.name == StaticInt8::NAME).unwrap();
    assert!(record.reason.as_ref().unwrap().starts_with("measured-ranges: deviation "), "{record:?}");
    let scale = |tensor: &str| {
        let activations = kept.work.steps[0].parameters["activations"].as_array().unwrap();
        activations.iter().find(|a| a["tensor"] == tensor).unwrap()["scale"].as_f64().unwrap()
    };
    assert!(scale("x") < 10.0 / 255.0, "{}", scale("x"));
    let mut replayed = base.clone();
    replayed.replay(&kept.work.steps, &|step| from_parameters(&step.pass, &step.parameters)).unwrap();
    assert_eq!(replayed.model.sha256(), kept.work.model.sha256(), "the recipe has the ranges");
}

#[test]
fn ranges_that_fit_stay_and_the_record_says_that_others_were_tried() {
    let model = straight();
    let of = |seeds: std::ops::Range<u64>| seeds.map(|seed| feed("x", tensor(&[8, 48], seed))).collect::<Vec<_>>();
    let seen = of(0..16);
    let base = work(&model, &seen);
    let mut measured = variant("static", &base, &seen, None);
    measured.repairs = vec![measured_ranges(ranged(&model, &seen), WeightScheme::Int8Reduced)];
    let candidates = searched(&base, &[measured], &mut HeldOut::new(&model, of(100..124), 0.999_99));
    let record = &named(&candidates, "static").records;
    let record = record.iter().find(|r| r.name == MEASURED_RANGES).unwrap();
    assert_eq!((record.outcome, record.reason.as_deref()), (Outcome::Skipped, Some("no other range does less harm")));
}

/// Sizes of channels, a thousand to one and in between.
fn sizes(n: usize) -> Vec<f32> {
    (0..n).map(|at| [1.0, 1000.0, 30.0, 5.0][at % 4]).collect()
}

/// Two convolutions whose channels between differ as `sizes` do; what the first makes large the second reads with small weights.
fn lopsided(sizes: &[f32]) -> Model {
    let n = sizes.len();
    let first: Vec<f32> = numbers(n * 27, 1).iter().enumerate().map(|(at, v)| v * sizes[at / 27]).collect();
    let second: Vec<f32> = numbers(8 * n * 9, 2).iter().enumerate().map(|(at, v)| v / sizes[at / 9 % n]).collect();
    Builder::new(17)
        .input("x", DType::F32, &["1", "3", "10", "10"])
        .initializer("w1", Tensor::new(&[n, 3, 3, 3], &first))
        .initializer("w2", Tensor::new(&[8, n, 3, 3], &second))
        .initializer("w3", tensor(&[8, 10], 3))
        .node("Conv", &["x", "w1"], "c1", vec![])
        .node("Relu", &["c1"], "r1", vec![])
        .node("MaxPool", &["r1"], "p", vec![ints("kernel_shape", &[2, 2])])
        .node("Conv", &["p", "w2"], "c2", vec![])
        .node("Relu", &["c2"], "r2", vec![])
        .node("GlobalAveragePool", &["r2"], "g", vec![])
        .node("Flatten", &["g"], "f", vec![])
        .node("Gemm", &["f", "w3"], "y", vec![])
        .output("y", DType::F32, &["1", "10"])
        .build()
}

fn found(base: &Work, feeds: &[Feed]) -> Option<Equalise> {
    equalise(&engines()[0], &base.model, &base.facts, &Exclude::default(), feeds, 64).unwrap()
}

#[test]
fn channels_evened_out_across_layers_raise_held_out_quality_by_more_than_its_interval() {
    let of =
        |seeds: std::ops::Range<u64>| seeds.map(|seed| feed("x", tensor(&[1, 3, 10, 10], seed))).collect::<Vec<_>>();
    let (model, seen) = (lopsided(&sizes(16)), of(0..16));
    let base = work(&model, &seen);
    let pass = found(&base, &seen).unwrap();
    assert_eq!(pass.activations[0].activation, "p");
    let mut judge = HeldOut::new(&model, of(100..124), 0.97);
    let variants = [variant("static", &base, &seen, None), variant("static-equalised", &base, &seen, Some(&pass))];
    let candidates = searched(&base, &variants, &mut judge);
    let (before, after) = (interval(&judge.seen[0]), interval(&judge.seen[1]));
    assert!(after.0 > before.1 + (before.1 - before.0) + (after.1 - after.0), "{before:?} {after:?}");
    let kept = named(&candidates, "static-equalised");
    assert_eq!((kept.refused.as_deref(), kept.left_out.len()), (None, 0), "{:?}", kept.quality);
    let names: Vec<&str> = kept.work.steps.iter().map(|step| step.pass.as_str()).collect();
    assert_eq!(names, [Equalise::NAME, StaticInt8::NAME]);
    let mut replayed = base.clone();
    replayed.replay(&kept.work.steps, &|step| from_parameters(&step.pass, &step.parameters)).unwrap();
    assert_eq!(replayed.model.sha256(), kept.work.model.sha256());
}

#[test]
fn channels_alike_are_not_equalised_and_factors_that_harm_are_not_kept() {
    let of =
        |seeds: std::ops::Range<u64>| seeds.map(|seed| feed("x", tensor(&[1, 3, 10, 10], seed))).collect::<Vec<_>>();
    let (model, seen) = (lopsided(&[1.0; 16]), of(0..16));
    let base = work(&model, &seen);
    // The classifier reads channels that do differ; those between the convolutions do not.
    let evened = found(&base, &seen).map_or_else(Vec::new, |pass| pass.activations);
    assert!(evened.iter().all(|balance| balance.activation != "p"), "{evened:?}");
    let exponents = (0..16).map(|at| if at % 2 == 0 { 5 } else { -5 }).collect();
    let harmful = Equalise { activations: vec![Balance { activation: "p".into(), exponents }] };
    let variants = [variant("static", &base, &seen, None), variant("static-equalised", &base, &seen, Some(&harmful))];
    let candidates = searched(&base, &variants, &mut HeldOut::new(&model, of(100..124), 0.999));
    let refused = named(&candidates, "static-equalised").refused.clone().unwrap();
    assert_eq!(refused, "static runs the same kernels and keeps more quality");
}

/// A model, the activation in it that can be scaled, and its number of channels.
#[allow(clippy::too_many_lines)]
fn seams() -> Vec<(&'static str, Model, &'static str, usize)> {
    let image = |builder: Builder| builder.input("x", DType::F32, &["1", "4", "8", "8"]);
    let rows = |builder: Builder| builder.input("x", DType::F32, &["2", "6", "16"]);
    let new = || {
        Builder::new(17)
            .initializer("w", tensor(&[16, 16], 1))
            .initializer("v", tensor(&[16, 16], 2))
            .initializer("b", tensor(&[16], 3))
            .initializer("s", tensor(&[16], 4))
            .initializer("k", tensor(&[8, 4, 3, 3], 5))
            .initializer("kb", tensor(&[8], 6))
            .initializer("d", tensor(&[8, 1, 3, 3], 7))
            .initializer("e", tensor(&[6, 8, 1, 1], 8))
            .initializer("g", tensor(&[8, 8], 9))
    };
    let two = |builder: Builder| {
        builder
            .node("MatMul", &["n", "w"], "q", vec![])
            .node("MatMul", &["n", "v"], "k2", vec![])
            .node("Add", &["q", "k2"], "y", vec![])
            .output("y", DType::F32, &["2", "6", "16"])
            .build()
    };
    let pool = || vec![ints("kernel_shape", &[2, 2])];
    let mean = Tensor::new(&[8], &[0.1_f32; 8]);
    let variance = Tensor::new(&[8], &[0.7_f32; 8]);
    vec![
        (
            "a convolution, a Relu, a pooling and a convolution",
            image(new())
                .node("Conv", &["x", "k", "kb"], "c", vec![])
                .node("Relu", &["c"], "r", vec![])
                .node("AveragePool", &["r"], "p", pool())
                .node("Conv", &["p", "e"], "y", vec![])
                .output("y", DType::F32, &["1", "6", "5", "5"])
                .build(),
            "p",
            8,
        ),
        (
            "a convolution that a grouped one reads",
            image(new())
                .node("Conv", &["x", "k"], "c", vec![])
                .node("LeakyRelu", &["c"], "r", vec![float("alpha", 0.3)])
                .node("Conv", &["r", "d"], "y", vec![int("group", 8)])
                .output("y", DType::F32, &["1", "8", "4", "4"])
                .build(),
            "r",
            8,
        ),
        (
            "a chain of sums that convolutions read, one of which it goes around",
            image(new())
                .initializer("m", tensor(&[8, 8, 1, 1], 12))
                .node("Conv", &["x", "k", "kb"], "c", vec![])
                .node("Relu", &["c"], "r", vec![])
                .node("Conv", &["r", "m", "kb"], "a", vec![])
                .node("Add", &["a", "r"], "sum", vec![])
                .node("Relu", &["sum"], "t", vec![])
                .node("Conv", &["t", "m"], "b2", vec![])
                .node("Add", &["t", "b2"], "u", vec![])
                .node("Conv", &["u", "e"], "y", vec![])
                .output("y", DType::F32, &["1", "6", "6", "6"])
                .build(),
            "r",
            8,
        ),
        (
            "a grouped convolution that a classifier reads",
            image(new())
                .node("Conv", &["x", "k"], "c", vec![])
                .node("Conv", &["c", "d", "kb"], "e1", vec![int("group", 8)])
                .node("GlobalAveragePool", &["e1"], "p", vec![])
                .node("Flatten", &["p"], "f", vec![])
                .node("Gemm", &["f", "g", "kb"], "y", vec![int("transB", 1), float("alpha", 0.5), float("beta", 3.0)])
                .output("y", DType::F32, &["1", "8"])
                .build(),
            "f",
            8,
        ),
        (
            "a product with a row that a product reads",
            rows(new())
                .node("MatMul", &["x", "w"], "m", vec![])
                .node("Add", &["b", "m"], "a", vec![])
                .node("Relu", &["a"], "r", vec![])
                .node("MatMul", &["r", "v"], "y", vec![])
                .output("y", DType::F32, &["2", "6", "16"])
                .build(),
            "r",
            16,
        ),
        ("a layer normalisation", two(rows(new()).node("LayerNormalization", &["x", "s", "b"], "n", vec![])), "n", 16),
        (
            "a scale and a bias as nodes of their own, the row shared",
            two(rows(new()).node("Mul", &["s", "x"], "u", vec![]).node("Add", &["u", "s"], "n", vec![])),
            "n",
            16,
        ),
        (
            "a batch normalisation before a convolution",
            image(new())
                .initializer("mean", mean)
                .initializer("variance", variance)
                .node("Conv", &["x", "k"], "c", vec![])
                .node("Sigmoid", &["c"], "z", vec![])
                .node("BatchNormalization", &["z", "kb", "kb", "mean", "variance"], "n", vec![])
                .node("Relu", &["n"], "r", vec![])
                .node("Conv", &["r", "e"], "y", vec![])
                .output("y", DType::F32, &["1", "6", "6", "6"])
                .build(),
            "r",
            8,
        ),
    ]
}

/// As [`seams`]: magnitudes of a spectrum.
fn spectra() -> Vec<(&'static str, Model, &'static str, usize)> {
    let two = image()
        .initializer("k", tensor(&[8, 4, 3, 3], 5))
        .initializer("k2", tensor(&[8, 4, 3, 3], 10))
        .initializer("kb", tensor(&[8], 6))
        .initializer("two", Tensor::scalar(2.0_f32))
        .node("Conv", &["x", "k"], "re", vec![])
        .node("Conv", &["x", "k2", "kb"], "im", vec![]);
    let of_halves = magnitude(halves(image(), &[8, i64::MAX]), ["im", "re"]);
    vec![
        ("the magnitude of both halves of a convolution's channels", of_halves.build(), "r", 8),
        ("the magnitude of two convolutions", magnitude(two, ["re", "im"]).build(), "r", 8),
    ]
}

/// What a spectrum is made from and read by.
fn image() -> Builder {
    let builder = Builder::new(17).input("x", DType::F32, &["1", "4", "8", "8"]);
    builder.initializer("b", tensor(&[16], 3)).initializer("e", tensor(&[6, 8, 1, 1], 8))
}

/// The root of the sum of two squares, one as a product and one as a power, that a convolution reads.
fn magnitude(builder: Builder, [product, power]: [&str; 2]) -> Builder {
    let [first, second] = [product, power].map(|name| format!("{name}2"));
    builder
        .node("Mul", &[product, product], &first, vec![])
        .node("Pow", &[power, "two"], &second, vec![])
        .node("Add", &[&first, &second], "sum", vec![])
        .node("Sqrt", &["sum"], "r", vec![])
        .node("Conv", &["r", "e"], "y", vec![])
        .output("y", DType::F32, &["1", "6", "6", "6"])
}

/// A convolution of 16 channels, of which `re` are the first eight and `im` those from and to the given numbers, without the first column.
fn halves(builder: Builder, [from, to]: &[i64; 2]) -> Builder {
    builder
        .initializer("z", tensor(&[16, 4, 3, 3], 11))
        .initializer("two", Tensor::scalar(2.0_f32))
        .initializer("start", Tensor::new(&[1], &[0_i64]))
        .initializer("half", Tensor::new(&[1], &[8_i64]))
        .initializer("from", Tensor::new(&[2], &[*from, 1]))
        .initializer("to", Tensor::new(&[2], &[*to, i64::MAX]))
        .initializer("channels", Tensor::new(&[1], &[1_i64]))
        .initializer("and columns", Tensor::new(&[2], &[-3_i64, 3]))
        .initializer("columns", Tensor::new(&[1], &[3_i64]))
        .initializer("one", Tensor::new(&[1], &[1_i64]))
        .initializer("end", Tensor::new(&[1], &[i64::MAX]))
        .node("Conv", &["x", "z", "b"], "c", vec![])
        .node("Slice", &["c", "start", "half", "channels"], "all re", vec![])
        .node("Slice", &["all re", "one", "end", "columns"], "re", vec![])
        .node("Slice", &["c", "from", "to", "and columns"], "im", vec![])
}

#[test]
fn powers_of_two_fold_into_whatever_makes_an_activation_and_the_float_model_stays_the_same_to_the_bit() {
    for (what, model, activation, channels) in seams().into_iter().chain(spectra()) {
        let input: &[usize] = if channels == 16 { &[2, 6, 16] } else { &[1, 4, 8, 8] };
        let sample = feed("x", tensor(input, 50));
        let base = work(&model, std::slice::from_ref(&sample));
        let exponents: Vec<i8> = (0..channels as i8).map(|at| at * 5 % 7 - 3).collect();
        let balance = Balance { activation: activation.into(), exponents: exponents.clone() };
        let pass = Equalise { activations: vec![balance] };
        let equalised = applied_to(&base, &pass);
        equalised.check().unwrap();
        assert_eq!(ops(&equalised), ops(&model), "{what}: nothing is added");
        for engine in engines() {
            let run = |model: &Model, tap: &str| {
                let options = LoadOptions { optimise: false, taps: vec![tap.to_owned()], ..LoadOptions::default() };
                engine.load(model, &options).unwrap().run(&sample).unwrap()
            };
            // What is scaled has another name: nobody who reads a tensor by name takes it for what it was.
            let (before, after) = (run(&model, activation), run(&equalised, &format!("{activation}/equalised")));
            assert_eq!(before[0].bytes(), after[0].bytes(), "{what} on {}", engine.id());
            assert_ne!(before[1].bytes(), after[1].bytes(), "{what}: the activation itself is another");
            let kept: Vec<&String> = equalised.graph().node.iter().flat_map(|node| &node.output).collect();
            let alike = |name: &&String| model.graph().node.iter().any(|node| node.output.contains(name));
            for name in kept.into_iter().filter(alike) {
                assert_eq!(run(&model, name)[1].bytes(), run(&equalised, name)[1].bytes(), "{what}: {name}");
            }
        }
    }
}

#[test]
fn an_activation_that_something_else_reads_or_makes_is_not_scaled() {
    let new = || {
        Builder::new(17)
            .input("x", DType::F32, &["2", "16"])
            .initializer("w", tensor(&[16, 16], 1))
            .initializer("b", tensor(&[16], 2))
            .node("Gemm", &["x", "w", "b"], "h", vec![])
    };
    let [residual, gated] = ["Add", "Mul"].map(|joins| {
        new()
            .node("Relu", &["h"], "r", vec![])
            .node("Gemm", &["r", "w", "b"], "g", vec![])
            .node(joins, &["g", "r"], "y", vec![])
            .output("y", DType::F32, &["2", "16"])
            .build()
    });
    let an_output = new()
        .node("Gemm", &["h", "w", "b"], "y", vec![])
        .output("y", DType::F32, &["2", "16"])
        .output("h", DType::F32, &["2", "16"])
        .build();
    let curved = new()
        .node("Sigmoid", &["h"], "r", vec![])
        .node("Gemm", &["r", "w", "b"], "y", vec![])
        .output("y", DType::F32, &["2", "16"])
        .build();
    let other_channels = magnitude(halves(image(), &[7, 15]), ["re", "im"]).build();
    let read_elsewhere =
        magnitude(halves(image(), &[8, 16]), ["re", "im"]).output("c", DType::F32, &["1", "16", "6", "6"]).build();
    let cubed =
        magnitude(halves(image(), &[8, 16]).initializer("three", Tensor::scalar(3.0_f32)), ["re", "im"]).build();
    let cubed = replaced(&cubed, "two", "three");
    let nothing_makes_it = "nothing that makes it has a factor per channel";
    for model in [other_channels, read_elsewhere, cubed] {
        let mut base = work(&model, &[feed("x", tensor(&[1, 4, 8, 8], 50))]);
        let balance = Balance { activation: "r".into(), exponents: vec![1; 8] };
        let effect = Equalise { activations: vec![balance] }.apply(&mut base.model, &mut base.facts).unwrap();
        assert_eq!(effect, Effect::Skipped { reason: format!("'r': {nothing_makes_it}") });
        assert_eq!(base.model.to_bytes(), model.to_bytes());
    }
    for (model, activation, said) in [
        (residual, "r", "it leaves the graph"),
        (gated, "r", "something other than a product with a constant weight reads it"),
        (an_output, "h", "it leaves the graph"),
        (curved, "r", nothing_makes_it),
    ] {
        let mut base = work(&model, &[feed("x", tensor(&[2, 16], 50))]);
        let pass = Equalise { activations: vec![Balance { activation: activation.into(), exponents: vec![1; 16] }] };
        let effect = pass.apply(&mut base.model, &mut base.facts).unwrap();
        assert_eq!(effect, Effect::Skipped { reason: format!("'{activation}': {said}") });
    }
}

/// The model in which whoever read one tensor reads another.
fn replaced(model: &Model, from: &str, to: &str) -> Model {
    let mut model = model.clone();
    let inputs = model.graph_mut().node.iter_mut().flat_map(|node| &mut node.input);
    inputs.filter(|input| *input == from).for_each(|input| to.clone_into(input));
    model
}
