//! The 8-bit passes on small models of every operator they know, run on every engine at hand.

#![cfg(feature = "tract")]
#![allow(missing_docs, clippy::unwrap_used)]

use bakehouse::engine::tract::TractEngine;
use bakehouse::engine::{Feed, LoadOptions, SharedEngine};
use bakehouse::model::build::{Builder, graph_attribute, string_attribute, tensor_attribute};
use bakehouse::model::edit::{float, int, ints};
use bakehouse::model::{DType, Effect, Facts, Model, Pass, Tensor};
use bakehouse::optimizer::int8::WeightKind as Kind;
use bakehouse::optimizer::int8::{
    Balance, DynamicInt8, EmbeddingInt8, Encoding, Exclude, NodePlan, Range, TablePlan, WeightInt8, WeightKind,
    WeightScheme, balance, dynamic_sites, embedding_sites, from_parameters, quantizable_weights,
};
use half::f16;

#[path = "int8/blocks.rs"]
mod blocks;
#[path = "int8/fixed.rs"]
mod fixed;
#[path = "int8/repair.rs"]
mod repair;
#[path = "int8/round.rs"]
mod round;

/// Numbers without a pattern that quantisation could like, in about -1 to 1; the same everywhere.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 0.9
        })
        .collect()
}

fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::new(shape, &numbers(shape.iter().product(), seed))
}

fn ids(shape: &[usize], rows: i64) -> Tensor {
    let n: usize = shape.iter().product();
    Tensor::new(shape, &(0..n as i64).map(|i| i * 7 % rows).collect::<Vec<_>>())
}

fn feed(name: &str, tensor: Tensor) -> Feed {
    Feed::new(vec![(name.into(), tensor)])
}

fn engines() -> Vec<SharedEngine> {
    let mut found: Vec<SharedEngine> = vec![std::sync::Arc::new(TractEngine::new())];
    #[cfg(feature = "ort")]
    if let Ok(ort) = bakehouse::engine::ort::OrtEngine::open(None) {
        found.push(std::sync::Arc::new(ort));
    }
    found
}

/// Relative RMS difference of the first output, the worst engine's.
fn difference(before: &Model, after: &Model, feed: &Feed) -> f64 {
    difference_on(&engines(), before, after, feed)
}

fn difference_on(engines: &[SharedEngine], before: &Model, after: &Model, feed: &Feed) -> f64 {
    let run = |engine: &SharedEngine, model: &Model| {
        let options = LoadOptions { optimise: false, ..LoadOptions::default() };
        engine.load(model, &options).unwrap_or_else(|e| panic!("{}: {e}", engine.id())).run(feed).unwrap()[0].clone()
    };
    let one = |engine: &SharedEngine| {
        let (a, b) = (run(engine, before), run(engine, after));
        assert_eq!(a.shape(), b.shape());
        let (a, b) = (a.to_f64(), b.to_f64());
        let error: f64 = a.iter().zip(&*b).map(|(x, y)| (x - y).powi(2)).sum();
        (error / a.iter().map(|x| x * x).sum::<f64>()).sqrt()
    };
    engines.iter().map(one).fold(0.0, f64::max)
}

/// Applies a pass to a copy. That it gives the same bytes twice, and once more when rebuilt from its own JSON, is checked on the way.
fn applied(model: &Model, pass: &dyn Pass) -> Model {
    let run = |pass: &dyn Pass| {
        let mut copy = model.clone();
        let effect = pass.apply(&mut copy, &mut Facts::default()).unwrap();
        assert!(matches!(effect, Effect::Applied { .. }), "{}: {effect:?}", pass.name());
        copy
    };
    let once = run(pass);
    let text = serde_json::to_string(&pass.parameters()).unwrap();
    let rebuilt = from_parameters(pass.name(), &serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(rebuilt.parameters(), pass.parameters());
    assert_eq!(run(pass).to_bytes(), once.to_bytes());
    assert_eq!(run(rebuilt.as_ref()).to_bytes(), once.to_bytes());
    once.check().unwrap();
    once
}

fn skipped(model: &Model, pass: &dyn Pass) -> String {
    let mut copy = model.clone();
    match pass.apply(&mut copy, &mut Facts::default()).unwrap() {
        Effect::Skipped { reason } => {
            assert_eq!(copy.to_bytes(), model.to_bytes(), "a skipped pass changes nothing");
            reason
        }
        applied @ Effect::Applied { .. } => panic!("{applied:?}"),
    }
}

/// Weight-only storage of everything that is listed.
fn all_weights(model: &Model, encoding: Encoding, range: Range) -> WeightInt8 {
    let sites = quantizable_weights(model, &Exclude::default(), 512);
    WeightInt8 { tensors: sites.iter().map(|s| s.plan(encoding, range)).collect(), min_elements: 512 }
}

fn all_products(model: &Model, weights: WeightScheme) -> DynamicInt8 {
    let sites = dynamic_sites(model, &Facts::default(), &Exclude::default());
    let plan = |output: String| NodePlan { output, weights, range: Range::MaxAbs };
    DynamicInt8 { nodes: sites.into_iter().map(|s| plan(s.output)).collect(), ..DynamicInt8::default() }
}

fn ops(model: &Model) -> Vec<&str> {
    model.graph().node.iter().map(bakehouse::model::onnx::NodeProto::op_type).collect()
}

fn initializer_type(model: &Model, name: &str) -> Option<DType> {
    model.graph().initializer.iter().find(|t| t.name() == name).and_then(|t| DType::from_onnx(t.data_type()))
}

/// A product whose weight lies in a `Constant` node, behind a `Transpose`.
fn product_behind_a_transpose() -> Model {
    Builder::new(17)
        .input("x", DType::F32, &["2", "3", "48"])
        .node("Constant", &[], "c", vec![tensor_attribute("value", &tensor(&[64, 48], 3))])
        .node("Transpose", &["c"], "w", vec![ints("perm", &[1, 0])])
        .node("MatMul", &["x", "w"], "y", vec![])
        .output("y", DType::F32, &["2", "3", "64"])
        .build()
}

fn product(opset: i64) -> Model {
    Builder::new(opset)
        .input("x", DType::F32, &["2", "3", "48"])
        .initializer("w", tensor(&[48, 64], 1))
        .initializer("b", tensor(&[64], 2))
        .node("MatMul", &["x", "w"], "m", vec![])
        .node("Add", &["m", "b"], "y", vec![])
        .output("y", DType::F32, &["2", "3", "64"])
        .build()
}

fn product_feed() -> Feed {
    feed("x", tensor(&[2, 3, 48], 9))
}

/// Name, model, feed, and what its weights are.
fn every_operator() -> Vec<(&'static str, Model, Feed, Vec<(WeightKind, Vec<usize>)>)> {
    let one = |op: &str, shape: &[usize], dims: &[&str], out: &[&str], attributes| {
        Builder::new(17)
            .input("x", DType::F32, dims)
            .initializer("w", tensor(shape, 3))
            .node(op, &["x", "w"], "y", attributes)
            .output("y", DType::F32, out)
            .build()
    };
    let recurrent = |op: &str, gates: usize| {
        let direction = string_attribute("direction", "bidirectional");
        Builder::new(17)
            .input("x", DType::F32, &["5", "1", "24"])
            .initializer("w", tensor(&[2, gates * 16, 24], 4))
            .initializer("r", tensor(&[2, gates * 16, 16], 5))
            .initializer("b", tensor(&[2, 2 * gates * 16], 6))
            .node(op, &["x", "w", "r", "b"], "y", vec![int("hidden_size", 16), direction])
            .output("y", DType::F32, &["5", "2", "1", "16"])
            .build()
    };
    let image = feed("x", tensor(&[1, 8, 6, 6], 7));
    let steps = feed("x", tensor(&[5, 1, 24], 8));
    vec![
        ("MatMul", product(17), product_feed(), vec![(Kind::MatMul, vec![1])]),
        (
            "batched MatMul",
            one("MatMul", &[2, 48, 32], &["2", "3", "48"], &["2", "3", "32"], vec![]),
            product_feed(),
            vec![(Kind::MatMul, vec![0, 2])],
        ),
        (
            "Gemm transB",
            one("Gemm", &[40, 32], &["3", "32"], &["3", "40"], vec![int("transB", 1)]),
            feed("x", tensor(&[3, 32], 8)),
            vec![(Kind::Gemm, vec![0])],
        ),
        (
            "grouped Conv",
            one("Conv", &[32, 4, 3, 3], &["1", "8", "6", "6"], &["1", "32", "4", "4"], vec![int("group", 2)]),
            image.clone(),
            vec![(Kind::Conv, vec![0])],
        ),
        (
            "grouped ConvTranspose",
            one("ConvTranspose", &[8, 16, 3, 3], &["1", "8", "6", "6"], &["1", "32", "8", "8"], vec![int("group", 2)]),
            image,
            vec![(Kind::ConvTranspose, vec![1])],
        ),
        (
            "two-direction LSTM",
            recurrent("LSTM", 4),
            steps.clone(),
            vec![(Kind::Recurrent, vec![0, 1]), (Kind::Recurrent, vec![0, 1])],
        ),
        (
            "two-direction GRU",
            recurrent("GRU", 3),
            steps,
            vec![(Kind::Recurrent, vec![0, 1]), (Kind::Recurrent, vec![0, 1])],
        ),
        (
            "weight in a Constant node, behind a Transpose",
            product_behind_a_transpose(),
            product_feed(),
            vec![(Kind::MatMul, vec![0])],
        ),
        (
            "tied embedding",
            Builder::new(17)
                .input("ids", DType::I64, &["1", "6"])
                .initializer("table", tensor(&[50, 32], 3))
                .node("Gather", &["table", "ids"], "h", vec![])
                .node("Transpose", &["table"], "t", vec![])
                .node("MatMul", &["h", "t"], "y", vec![])
                .output("y", DType::F32, &["1", "6", "50"])
                .build(),
            feed("ids", ids(&[1, 6], 50)),
            vec![(Kind::Embedding, vec![0])],
        ),
    ]
}

#[test]
fn weights_of_every_operator_are_found_with_their_channels() {
    for (name, model, _, expected) in every_operator() {
        let sites = quantizable_weights(&model, &Exclude::default(), 512);
        let found: Vec<_> = sites.into_iter().map(|s| (s.kind, s.axes)).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn weights_of_every_operator_are_stored_in_8_bits_and_keep_the_outputs() {
    for (name, model, feed, _) in every_operator() {
        for (encoding, range) in
            [(Encoding::CastMul, Range::MaxAbs), (Encoding::CastMul, Range::Mse), (Encoding::Dequantize, Range::MaxAbs)]
        {
            let stored = applied(&model, &all_weights(&model, encoding, range));
            assert!(stored.to_bytes().len() * 2 < model.to_bytes().len(), "{name} {encoding:?}");
            let difference = difference(&model, &stored, &feed);
            assert!(difference > 0.0 && difference < 0.01, "{name} {encoding:?} {range:?}: {difference}");
        }
    }
}

#[test]
fn a_tied_weight_is_stored_once() {
    let (_, model, ..) = every_operator().pop().unwrap();
    let stored = applied(&model, &all_weights(&model, Encoding::CastMul, Range::MaxAbs));
    assert_eq!(ops(&stored), ["Cast", "Mul", "Gather", "Transpose", "MatMul"]);
}

#[test]
fn half_precision_takes_half_the_bytes_and_ten_bits() {
    let model = product(17);
    let tensors = quantizable_weights(&model, &Exclude::default(), 512)
        .iter()
        .map(bakehouse::optimizer::int8::WeightSite::half)
        .collect();
    let stored = applied(&model, &WeightInt8 { tensors, min_elements: 512 });
    assert_eq!(ops(&stored), ["Cast", "MatMul", "Add"]);
    assert!(difference(&model, &stored, &product_feed()) < 1e-3);
    let huge = Builder::new(17)
        .input("x", DType::F32, &["48"])
        .initializer("w", Tensor::new(&[48, 64], &[1e6_f32; 48 * 64]))
        .node("MatMul", &["x", "w"], "y", vec![])
        .output("y", DType::F32, &["64"])
        .build();
    let tensors = quantizable_weights(&huge, &Exclude::default(), 512)
        .iter()
        .map(bakehouse::optimizer::int8::WeightSite::half)
        .collect();
    skipped(&huge, &WeightInt8 { tensors, min_elements: 512 });
}

#[test]
fn large_constants_that_are_values_get_half_precision_and_not_8_bits() {
    let model = Builder::new(17)
        .input("x", DType::F32, &["1", "64", "16"])
        .initializer("positions", tensor(&[1, 64, 16], 3))
        .node("Add", &["x", "positions"], "y", vec![])
        .output("y", DType::F32, &["1", "64", "16"])
        .build();
    let sites = quantizable_weights(&model, &Exclude::default(), 512);
    assert_eq!((sites.len(), sites[0].kind), (1, WeightKind::Other));
    let stored = applied(&model, &all_weights(&model, Encoding::CastMul, Range::MaxAbs));
    assert_eq!(initializer_type(&stored, "positions_q"), Some(DType::F16));
}

/// A model whose product is in the branches of an If: one takes the weight from outside, the other has its own.
fn branches() -> Model {
    let outside = Builder::new(17)
        .node("MatMul", &["x", "w"], "then", vec![])
        .output("then", DType::F32, &["3", "64"])
        .build_graph();
    let own = Builder::new(17)
        .initializer("v", tensor(&[48, 64], 4))
        .node("MatMul", &["x", "v"], "else", vec![])
        .output("else", DType::F32, &["3", "64"])
        .build_graph();
    Builder::new(17)
        .input("x", DType::F32, &["3", "48"])
        .input("choose", DType::Bool, &[])
        .initializer("w", tensor(&[48, 64], 3))
        .node(
            "If",
            &["choose"],
            "y",
            vec![graph_attribute("then_branch", outside), graph_attribute("else_branch", own)],
        )
        .output("y", DType::F32, &["3", "64"])
        .build()
}

#[test]
fn weights_that_branches_take_or_hold_are_stored_where_they_are_defined() {
    let model = branches();
    let stored = applied(&model, &all_weights(&model, Encoding::CastMul, Range::MaxAbs));
    assert_eq!(ops(&stored), ["Cast", "Mul", "If"]);
    let inner: Vec<Vec<&str>> = stored.graph().node[2]
        .attribute
        .iter()
        .map(|a| a.g.as_ref().unwrap().node.iter().map(bakehouse::model::onnx::NodeProto::op_type).collect())
        .collect();
    assert_eq!(inner, [vec!["MatMul"], vec!["Cast", "Mul", "MatMul"]]);
    #[cfg(feature = "ort")]
    if let Ok(ort) = bakehouse::engine::ort::OrtEngine::open(None) {
        use bakehouse::engine::Engine;
        for choice in [true, false] {
            let feed = Feed::new(vec![
                ("x".into(), tensor(&[3, 48], 9)),
                ("choose".into(), Tensor::from_bools(&[], &[choice])),
            ]);
            let [a, b] = [&model, &stored]
                .map(|m| ort.load(m, &LoadOptions::default()).unwrap().run(&feed).unwrap()[0].to_f64().into_owned());
            let worst = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
            assert!(worst < 0.1 && worst > 0.0, "{choice}: {worst}");
        }
    }
}

#[test]
fn what_must_stay_float_is_no_site() {
    let with = |w: Tensor| {
        Builder::new(17)
            .input("x", DType::F32, &["48"])
            .initializer("w", w)
            .node("MatMul", &["x", "w"], "y", vec![])
            .output("y", DType::F32, &["64"])
            .build()
    };
    let halves: Vec<f16> = numbers(48 * 64, 1).into_iter().map(f16::from_f32).collect();
    let mut broken = numbers(48 * 64, 1);
    broken[7] = f32::NAN;
    let mut fed = with(tensor(&[48, 64], 1));
    fed.graph_mut().input.push(bakehouse::model::build::value_info("w", DType::F32, &["48", "64"]));
    let cases = [
        ("half precision", with(Tensor::new(&[48, 64], &halves))),
        ("8 bits already", with(Tensor::new(&[48, 64], &[1_i8; 48 * 64]))),
        ("NaN", with(Tensor::new(&[48, 64], &broken))),
        ("small", with(tensor(&[4, 4], 1))),
        ("a caller may feed it", fed),
    ];
    for (name, model) in cases {
        assert_eq!(quantizable_weights(&model, &Exclude::default(), 512), [], "{name}");
        let plan = bakehouse::optimizer::int8::TensorPlan {
            tensor: "w".into(),
            axes: vec![1],
            encoding: Encoding::CastMul,
            range: Range::MaxAbs,
        };
        skipped(&model, &WeightInt8 { tensors: vec![plan], min_elements: 512 });
    }
}

#[test]
fn excluded_nodes_keep_their_weights() {
    let model = product(17);
    for pattern in ["MatMul_*", "m"] {
        let exclude = Exclude::new(&[pattern]);
        assert_eq!(quantizable_weights(&model, &exclude, 512).len(), 0, "{pattern}");
        assert_eq!(dynamic_sites(&model, &Facts::default(), &exclude).len(), 0, "{pattern}");
    }
    assert_eq!(quantizable_weights(&model, &Exclude::new(&["other*"]), 512).len(), 1);
}

#[test]
fn before_ir_version_4_the_signature_stays_and_new_constants_are_nodes() {
    let mut model = product(8);
    assert_eq!(model.proto().ir_version(), 3);
    for (name, dims) in [("w", &["48", "64"][..]), ("b", &["64"])] {
        model.graph_mut().input.push(bakehouse::model::build::value_info(name, DType::F32, dims));
    }
    let stored = applied(&model, &all_weights(&model, Encoding::Dequantize, Range::MaxAbs));
    assert_eq!(ops(&stored), ["Constant", "Constant", "Cast", "Mul", "MatMul", "Add"]);
    let inputs: Vec<&str> = stored.graph().input.iter().map(bakehouse::model::onnx::ValueInfoProto::name).collect();
    assert_eq!(inputs, ["x", "b"]);
    assert!(difference(&model, &stored, &product_feed()) < 0.01);
}

#[test]
fn a_product_becomes_the_chain_that_fuses() {
    let model = product(17);
    let baked = applied(&model, &all_products(&model, WeightScheme::default()));
    assert_eq!(ops(&baked), ["DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul", "Mul", "Add"]);
    assert_eq!(initializer_type(&baked, "w"), None);
    assert_eq!(initializer_type(&baked, "w_codes"), Some(DType::I8));
}

#[test]
fn every_weight_scheme_computes_nearly_the_same() {
    let model = product(17);
    for scheme in [WeightScheme::Int8, WeightScheme::Int8Reduced, WeightScheme::Uint8] {
        let baked = applied(&model, &all_products(&model, scheme));
        // Int8 is exact only where pairs of products are not added in 16 bits; the embedded engine never does.
        let engines = if scheme == WeightScheme::Int8 { engines()[..1].to_vec() } else { engines() };
        let difference = difference_on(&engines, &model, &baked, &product_feed());
        assert!(difference > 0.0 && difference < 0.02, "{scheme:?}: {difference}");
    }
}

#[test]
fn the_factors_of_a_gemm_end_up_in_weights_and_bias() {
    let model = |bias: &[usize], beta: f32| {
        Builder::new(17)
            .input("x", DType::F32, &["3", "48"])
            .initializer("w", tensor(&[64, 48], 1))
            .initializer("b", tensor(bias, 2))
            .node("Gemm", &["x", "w", "b"], "y", vec![int("transB", 1), float("alpha", -0.5), float("beta", beta)])
            .output("y", DType::F32, &["3", "64"])
            .build()
    };
    for (bias, beta) in
        [(&[64][..], 1.0), (&[64], 3.0), (&[1, 64], 1.0), (&[1], 2.0), (&[], 1.0), (&[3, 1], 2.0), (&[3, 64], 1.0)]
    {
        let model = model(bias, beta);
        let baked = applied(&model, &all_products(&model, WeightScheme::default()));
        let difference = difference(&model, &baked, &feed("x", tensor(&[3, 48], 9)));
        assert!(difference < 0.02, "{bias:?} {beta}: {difference}");
    }
}

#[test]
fn products_of_one_activation_share_its_quantisation_and_one_weight_is_stored_once() {
    let model = Builder::new(17)
        .input("x", DType::F32, &["3", "48"])
        .initializer("w", tensor(&[48, 48], 1))
        .initializer("v", tensor(&[48, 48], 2))
        .node("MatMul", &["x", "w"], "q", vec![])
        .node("MatMul", &["x", "v"], "k", vec![])
        .node("Add", &["q", "k"], "s", vec![])
        .node("MatMul", &["s", "w"], "y", vec![])
        .output("y", DType::F32, &["3", "48"])
        .build();
    let baked = applied(&model, &all_products(&model, WeightScheme::default()));
    let count = |op: &str| ops(&baked).iter().filter(|o| **o == op).count();
    assert_eq!((count("DynamicQuantizeLinear"), count("MatMulInteger")), (2, 3));
    assert_eq!(baked.graph().initializer.len(), 4);
    assert!(difference(&model, &baked, &feed("x", tensor(&[3, 48], 9))) < 0.03);
}

/// Two products of one activation, of whose 48 channels two are a hundred times the others.
fn lopsided() -> Model {
    let spread: Vec<f32> = (0..48).map(|k| if k % 24 == 5 { 100.0 } else { 1.0 }).collect();
    Builder::new(17)
        .input("x", DType::F32, &["2", "3", "48"])
        .initializer("spread", Tensor::new(&[48], &spread))
        .initializer("w", tensor(&[48, 64], 1))
        .initializer("v", tensor(&[48, 64], 2))
        .node("Mul", &["x", "spread"], "a", vec![])
        .node("MatMul", &["a", "w"], "p", vec![])
        .node("MatMul", &["a", "v"], "q", vec![])
        .node("Concat", &["p", "q"], "y", vec![int("axis", -1)])
        .output("y", DType::F32, &["2", "3", "128"])
        .build()
}

#[test]
fn a_balanced_activation_is_multiplied_once_and_more_of_its_small_channels_is_kept() {
    let model = lopsided();
    let plain = all_products(&model, WeightScheme::Int8Reduced);
    let mut sites = dynamic_sites(&model, &Facts::default(), &Exclude::default());
    let of_weights: Vec<f64> = sites.iter().map(|s| s.error).collect();
    let feeds: Vec<Feed> = (20..24).map(|seed| feed("x", tensor(&[2, 3, 48], seed))).collect();
    let balances = balance(&engines()[0], &model, &Facts::default(), &mut sites, &feeds, 64).unwrap();
    assert_eq!(balances.len(), 1);
    assert!(sites.iter().zip(of_weights).all(|(s, before)| s.error != before), "errors are those of the products now");
    let balanced = DynamicInt8 { balances, ..plain.clone() };

    let after = applied(&model, &balanced);
    assert_eq!(ops(&after).iter().filter(|op| **op == "DynamicQuantizeLinear").count(), 1);
    let multiplied = after.graph().node.iter().filter(|n| n.op_type() == "Mul" && n.input[0] == "a");
    assert_eq!(multiplied.count(), 1);
    let sample = product_feed();
    let (with, without) = (difference(&model, &after, &sample), difference(&model, &applied(&model, &plain), &sample));
    assert!(with < 0.8 * without, "{with} balanced, {without} plain");
}

#[test]
fn a_balance_of_other_channels_leaves_the_product_alone() {
    let balances = vec![Balance { activation: "x".into(), exponents: vec![1; 7] }];
    let plain = all_products(&product(17), WeightScheme::Int8);
    let reason = skipped(&product(17), &DynamicInt8 { balances, ..plain });
    assert!(reason.contains("its activation's balance has 7 channels"), "{reason}");
}

#[test]
fn a_weight_that_somebody_else_reads_stays() {
    let model = Builder::new(17)
        .input("x", DType::F32, &["3", "48"])
        .initializer("w", tensor(&[48, 48], 1))
        .node("MatMul", &["x", "w"], "h", vec![])
        .node("MatMul", &["w", "h2"], "z", vec![])
        .node("Transpose", &["h"], "h2", vec![])
        .node("Identity", &["h"], "y", vec![])
        .output("y", DType::F32, &["3", "48"])
        .build();
    let mut baked = model.clone();
    all_products(&model, WeightScheme::default()).apply(&mut baked, &mut Facts::default()).unwrap();
    assert_eq!(initializer_type(&baked, "w"), Some(DType::F32));
}

#[test]
fn a_constant_on_the_left_or_a_transposed_activation_is_no_dynamic_site() {
    let left = Builder::new(17)
        .input("x", DType::F32, &["48", "3"])
        .initializer("w", tensor(&[64, 48], 1))
        .node("MatMul", &["w", "x"], "m", vec![])
        .node("Gemm", &["x", "w2"], "y", vec![int("transA", 1)])
        .initializer("w2", tensor(&[48, 64], 1))
        .output("m", DType::F32, &["64", "3"])
        .output("y", DType::F32, &["3", "64"])
        .build();
    assert_eq!(dynamic_sites(&left, &Facts::default(), &Exclude::default()), []);
    let plan = |output: &str| NodePlan { output: output.into(), weights: WeightScheme::Int8, range: Range::MaxAbs };
    let reason = skipped(&left, &DynamicInt8 { nodes: vec![plan("m"), plan("y")], ..DynamicInt8::default() });
    assert!(
        reason.contains("MatMul_0: its weight is not constant") && reason.contains("Gemm_1: its activation"),
        "{reason}"
    );
    assert!(
        skipped(&left, &DynamicInt8 { nodes: vec![plan("nowhere")], ..DynamicInt8::default() })
            .contains("no listed node")
    );
}

#[test]
fn a_weight_of_one_scale_is_rescaled_by_a_single_number_and_a_little_coarser() {
    let model = product(17);
    let channels = all_products(&model, WeightScheme::Int8Reduced);
    let whole = DynamicInt8 { one_scale: true, ..channels.clone() };
    let [per_channel, one_scale] = [&channels, &whole].map(|pass| applied(&model, pass));
    let scales =
        |model: &Model| model.graph().initializer.iter().find(|t| t.name() == "w_scales").unwrap().dims.clone();
    assert_eq!((scales(&per_channel).len(), scales(&one_scale)), (1, vec![]));
    assert_eq!(ops(&one_scale), ops(&per_channel));
    let off = |baked: &Model| difference_on(&engines(), &model, baked, &product_feed());
    assert!(off(&one_scale) > off(&per_channel) && off(&one_scale) < 0.03, "{} {}", off(&one_scale), off(&per_channel));
    let parameters = whole.parameters();
    assert_eq!(parameters["one_scale"], true);
    assert!(channels.parameters().get("one_scale").is_none(), "recipes of before read the same");
}

#[test]
fn an_old_model_is_upgraded_before_its_products_become_integers() {
    let model = product(9);
    let baked = applied(&model, &all_products(&model, WeightScheme::default()));
    assert_eq!(baked.opset(""), Some(17));
    assert!(difference(&model, &baked, &product_feed()) < 0.02);
}

#[test]
fn a_convolution_has_an_integer_form_too() {
    let model = Builder::new(17)
        .input("x", DType::F32, &["1", "8", "6", "6"])
        .initializer("w", tensor(&[16, 4, 3, 3], 1))
        .initializer("b", tensor(&[16], 2))
        .node("Conv", &["x", "w", "b"], "y", vec![int("group", 2), ints("pads", &[1, 1, 1, 1])])
        .output("y", DType::F32, &["1", "16", "6", "6"])
        .build();
    let sites = dynamic_sites(&model, &Facts::default(), &Exclude::default());
    assert_eq!((sites[0].k, sites[0].n, sites[0].elements()), (36, 16, 576));
    let baked = applied(&model, &all_products(&model, WeightScheme::default()));
    assert_eq!(ops(&baked), ["DynamicQuantizeLinear", "ConvInteger", "Cast", "Mul", "Mul", "Add"]);
    let difference = difference(&model, &baked, &feed("x", tensor(&[1, 8, 6, 6], 7)));
    assert!(difference < 0.02, "{difference}");
}

fn lookup() -> Model {
    Builder::new(13)
        .input("ids", DType::I64, &["2", "5"])
        .initializer("table", tensor(&[50, 32], 3))
        .node("Gather", &["table", "ids"], "y", vec![int("axis", -2)])
        .output("y", DType::F32, &["2", "5", "32"])
        .build()
}

#[test]
fn a_table_is_looked_up_in_8_bits() {
    let model = lookup();
    let sites = embedding_sites(&model, &Exclude::default(), 512);
    assert_eq!((sites[0].rows, sites[0].width), (50, 32));
    let pass = EmbeddingInt8 { tables: vec![TablePlan { tensor: "table".into(), range: Range::MaxAbs }] };
    let baked = applied(&model, &pass);
    assert_eq!(ops(&baked), ["Gather", "Cast", "Gather", "Mul"]);
    assert_eq!(initializer_type(&baked, "table"), None);
    let difference = difference(&model, &baked, &feed("ids", ids(&[2, 5], 50)));
    assert!(difference > 0.0 && difference < 0.01, "{difference}");
}

#[test]
fn a_table_that_is_also_multiplied_by_is_left_to_weight_storage() {
    let (_, tied, ..) = every_operator().pop().unwrap();
    assert_eq!(embedding_sites(&tied, &Exclude::default(), 512), []);
    let pass = EmbeddingInt8 { tables: vec![TablePlan { tensor: "table".into(), range: Range::MaxAbs }] };
    skipped(&tied, &pass);
}

#[test]
fn the_three_passes_compose() {
    let model = Builder::new(17)
        .input("ids", DType::I64, &["1", "6"])
        .initializer("table", tensor(&[50, 48], 3))
        .initializer("w", tensor(&[48, 64], 4))
        .initializer("k", tensor(&[16, 6, 7], 5))
        .node("Gather", &["table", "ids"], "h", vec![])
        .node("MatMul", &["h", "w"], "m", vec![])
        .node("Conv", &["m", "k"], "y", vec![])
        .output("y", DType::F32, &["1", "16", "58"])
        .build();
    let weights = all_weights(&model, Encoding::CastMul, Range::MaxAbs);
    let mut products = all_products(&model, WeightScheme::default());
    products.nodes.retain(|n| n.output == "m");
    let tables = EmbeddingInt8 { tables: vec![TablePlan { tensor: "table".into(), range: Range::MaxAbs }] };
    let baked = applied(&applied(&applied(&model, &tables), &products), &weights);
    assert!(baked.graph().initializer.iter().all(|t| t.data_type() != 1 || t.dims.iter().product::<i64>() < 128));
    assert!(difference(&model, &baked, &feed("ids", ids(&[1, 6], 50))) < 0.03);
}

#[test]
fn foreign_or_damaged_parameters_make_no_pass() {
    let parameters = serde_json::json!({ "nodes": [] });
    assert!(from_parameters("dynamic-int8", &parameters).is_some());
    assert!(from_parameters("prune", &parameters).is_none());
    assert!(from_parameters("weight-int8", &parameters).is_none());
    assert!(from_parameters("dynamic-int8", &serde_json::json!({ "nodes": [], "more": 1 })).is_none());
}
