//! Static quantisation: ranges from calibration, codes from node to node, and what ONNX Runtime makes of them.

use bakehouse::engine::facts::observe;
use bakehouse::optimizer::calibration::{Policy, calibrate};
use bakehouse::optimizer::int8::qdq::ActivationPlan;
use bakehouse::optimizer::int8::qdq::plan::Ranged;
use bakehouse::optimizer::int8::{Region, StaticInt8};

use super::*;

/// The plan of everything in `model` that can be quantised, but for `left_out`, by ranges seen on `feeds`.
pub(super) fn everything(model: &Model, feeds: &[Feed], left_out: &[&str]) -> StaticInt8 {
    let ranged = ranged(model, feeds);
    let chosen = ranged.choices().map(|s| s.output.as_str()).filter(|o| !left_out.contains(o)).collect();
    ranged.plan(&chosen, WeightScheme::Int8Reduced)
}

/// What of a model can compute on codes, with ranges by estimate.
pub(super) fn ranged(model: &Model, feeds: &[Feed]) -> Ranged {
    let engine = &engines()[0];
    let facts = observe(engine, model, feeds).unwrap();
    let region = Region::of(model, &facts, &Exclude::default());
    let spreads = calibrate(engine, model, region.watches(), feeds).unwrap();
    region.ranged(&spreads, Policy::LeastHarm)
}

fn feeds(shape: &[usize]) -> Vec<Feed> {
    (30..38).map(|seed| feed("x", tensor(shape, seed))).collect()
}

/// Two convolutions with a pooling between, a residual sum, and a classifier.
fn network() -> Model {
    let same = || ints("pads", &[1, 1, 1, 1]);
    Builder::new(17)
        .input("x", DType::F32, &["1", "3", "12", "12"])
        .initializer("w1", tensor(&[16, 3, 3, 3], 1))
        .initializer("b1", tensor(&[16], 2))
        .initializer("w2", tensor(&[16, 16, 3, 3], 3))
        .initializer("b2", tensor(&[16], 4))
        .initializer("w3", tensor(&[16, 10], 5))
        .initializer("b3", tensor(&[10], 6))
        .node("Conv", &["x", "w1", "b1"], "c1", vec![same()])
        .node("Relu", &["c1"], "r1", vec![])
        .node("MaxPool", &["r1"], "p", vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])])
        .node("Conv", &["p", "w2", "b2"], "c2", vec![same()])
        .node("Add", &["c2", "p"], "s", vec![])
        .node("Relu", &["s"], "r2", vec![])
        .node("GlobalAveragePool", &["r2"], "g", vec![])
        .node("Flatten", &["g"], "f", vec![])
        .node("Gemm", &["f", "w3", "b3"], "y", vec![])
        .output("y", DType::F32, &["1", "10"])
        .build()
}

#[test]
fn behind_a_float_convolution_the_pool_is_in_float_too_and_gives_the_same_bits() {
    let (model, feeds) = (network(), feeds(&[1, 3, 12, 12]));
    let mut plan = everything(&model, &feeds, &["c1"]);
    assert!(plan.activations.iter().any(|a| a.tensor == "p") && plan.between.iter().all(|b| b != "p"));
    let baked = applied(&model, &plan);
    let kinds = |model: &Model| -> Vec<String> {
        model.graph().node.iter().map(|n| n.op_type().to_owned()).filter(|op| op != "DequantizeLinear").collect()
    };
    assert_eq!(kinds(&baked)[..4], ["Conv", "MaxPool", "Relu", "QuantizeLinear"]);
    // Nobody else may read what the two exchange.
    let read_elsewhere = {
        let mut model = model.clone();
        let mut outputs = Builder::new(17).output("r1", DType::F32, &["1", "16", "12", "12"]).build();
        model.graph_mut().output.append(&mut outputs.graph_mut().output);
        model
    };
    assert_eq!(kinds(&applied(&read_elsewhere, &plan))[..4], ["Conv", "Relu", "MaxPool", "QuantizeLinear"]);
    for engine in engines() {
        let pooled = |model: &Model| {
            let options = LoadOptions { taps: vec!["p".to_owned()], ..LoadOptions::default() };
            engine.load(model, &options).unwrap().run(&feeds[0]).unwrap()[1].bytes().to_vec()
        };
        assert_eq!(pooled(&baked), pooled(&model), "{}", engine.id());
    }
    // On codes from the first convolution on, the pool picks among codes and stays where it is.
    plan = everything(&model, &feeds, &[]);
    assert_eq!(kinds(&applied(&model, &plan))[1..4], ["Conv", "Relu", "QuantizeLinear"]);
}

#[test]
fn a_network_computes_on_codes_from_its_first_convolution_to_its_logits() {
    let (model, feeds) = (network(), feeds(&[1, 3, 12, 12]));
    let plan = everything(&model, &feeds, &[]);
    let names = |through: bool| -> Vec<&str> {
        plan.activations.iter().filter(|a| a.through == through).map(|a| a.tensor.as_str()).collect()
    };
    assert_eq!(names(true), ["c2", "f", "g", "p", "r1", "r2"], "{plan:?}");
    assert_eq!(names(false), ["x"]);
    assert_eq!(plan.between, ["p", "s", "g", "f"]);
    let range = |tensor: &str| plan.activations.iter().find(|a| a.tensor == tensor).unwrap();
    assert_eq!((range("p").scale, range("f").scale), (range("r1").scale, range("g").scale));
    assert_eq!((range("r1").zero_point, range("r2").zero_point), (0, 0), "behind a Relu there is nothing below 0");

    let baked = applied(&model, &plan);
    let unseen = feed("x", tensor(&[1, 3, 12, 12], 99));
    let difference = difference(&model, &baked, &unseen);
    assert!(difference > 0.0 && difference < 0.03, "{difference}");
    assert!(["w1", "w2", "w3", "b1", "b2", "b3"].iter().all(|w| initializer_type(&baked, w).is_none()));
}

#[test]
#[cfg(feature = "ort")]
fn onnx_runtime_fuses_every_node_of_it_and_leaves_no_float_between() {
    let Ok(ort) = bakehouse::engine::ort::OrtEngine::open(None) else { return };
    let fused_but = |model: &Model, shape: &[usize], left_out: &[&str]| {
        let baked = applied(model, &everything(model, &feeds(shape), left_out));
        let graph = ort.optimised_graph(&baked).unwrap();
        ops(&graph).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let fused = |model: &Model, shape: &[usize]| fused_but(model, shape, &[]);
    let of_network = fused(&network(), &[1, 3, 12, 12]);
    let count = |ops: &[String], op: &str| ops.iter().filter(|o| *o == op).count();
    assert_eq!(count(&of_network, "QLinearConv"), 2, "{of_network:?}");
    for op in ["QLinearAdd", "QLinearGlobalAveragePool", "QGemm", "QuantizeLinear"] {
        assert_eq!(count(&of_network, op), 1, "{op}: {of_network:?}");
    }
    for op in ["Conv", "Gemm", "Relu", "Add", "DequantizeLinear"] {
        assert_eq!(count(&of_network, op), 0, "{op}: {of_network:?}");
    }
    let of_perceptron = fused(&perceptron(17), &[3, 48]);
    assert_eq!(of_perceptron, ["QuantizeLinear", "QGemm", "QGemm"], "{of_perceptron:?}");
    // A pool behind a float convolution picks among floats.
    let of_pool = fused_but(&network(), &[1, 3, 12, 12], &["c1"]);
    let at = |op: &str| of_pool.iter().position(|o| o == op).unwrap();
    assert!(at("MaxPool") < at("QuantizeLinear"), "{of_pool:?}");
    // The Relu goes, and the classifier that was left out computes in float as before.
    let of_first = fused_but(&perceptron(17), &[3, 48], &["y"]);
    assert_eq!(of_first, ["QuantizeLinear", "QGemm", "DequantizeLinear", "Gemm"], "{of_first:?}");
    let of_product = fused(&product(17), &[2, 3, 48]);
    assert_eq!(of_product, ["QuantizeLinear", "Reshape", "QGemm", "Reshape"], "{of_product:?}");
    assert_eq!(count(&fused(&attention(), &[1, 6, 16]), "MatMulIntegerToFloat"), 2);
}

fn perceptron(opset: i64) -> Model {
    Builder::new(opset)
        .input("x", DType::F32, &["3", "48"])
        .initializer("w", tensor(&[64, 48], 1))
        .initializer("b", tensor(&[64], 2))
        .initializer("v", tensor(&[64, 10], 3))
        .initializer("c", tensor(&[10], 4))
        .node("Gemm", &["x", "w", "b"], "h", vec![int("transB", 1), float("alpha", -0.5), float("beta", 2.0)])
        .node("Relu", &["h"], "r", vec![])
        .node("Gemm", &["r", "v", "c"], "y", vec![])
        .output("y", DType::F32, &["3", "10"])
        .build()
}

#[test]
fn factors_of_a_gemm_go_into_its_codes_and_an_old_opset_is_raised() {
    for opset in [9, 17] {
        let model = perceptron(opset);
        let baked = applied(&model, &everything(&model, &feeds(&[3, 48]), &[]));
        assert_eq!(baked.opset(""), Some(17));
        let difference = difference(&model, &baked, &feed("x", tensor(&[3, 48], 99)));
        assert!(difference > 0.0 && difference < 0.03, "{opset}: {difference}");
    }
}

#[test]
fn a_product_and_the_row_behind_it_share_the_scale_of_their_sums() {
    let model = product(17);
    let plan = everything(&model, &feeds(&[2, 3, 48]), &[]);
    let baked = applied(&model, &plan);
    assert_eq!((initializer_type(&baked, "b"), initializer_type(&baked, "m_bias_codes")), (None, Some(DType::I32)));
    let difference = difference(&model, &baked, &product_feed());
    assert!(difference > 0.0 && difference < 0.02, "{difference}");
}

#[test]
fn what_is_left_out_reads_floats_and_its_neighbours_still_compute_on_codes() {
    let (model, feeds) = (network(), feeds(&[1, 3, 12, 12]));
    let plan = everything(&model, &feeds, &["c2"]);
    let nodes: Vec<&str> = plan.nodes.iter().map(|n| n.output.as_str()).collect();
    assert_eq!(nodes, ["c1", "y"]);
    assert!(plan.between.is_empty(), "nothing between has codes on all sides: {:?}", plan.between);
    let baked = applied(&model, &plan);
    assert_eq!(initializer_type(&baked, "w2"), Some(DType::F32));
    assert!(difference(&model, &baked, &feed("x", tensor(&[1, 3, 12, 12], 99))) < 0.03);
}

/// A block of a transformer: a projection that a softmax and a normalisation follow, and a projection of what the softmax gives.
fn attention() -> Model {
    Builder::new(17)
        .input("x", DType::F32, &["1", "6", "16"])
        .initializer("w", tensor(&[16, 16], 1))
        .initializer("v", tensor(&[16, 16], 2))
        .initializer("o", tensor(&[16, 16], 3))
        .initializer("g", tensor(&[16], 4))
        .node("MatMul", &["x", "w"], "q", vec![])
        .node("Softmax", &["q"], "s", vec![])
        .node("MatMul", &["s", "v"], "p", vec![])
        .node("LayerNormalization", &["p", "g"], "n", vec![])
        .node("MatMul", &["n", "o"], "logits", vec![])
        .node("Softmax", &["logits"], "y", vec![])
        .output("y", DType::F32, &["1", "6", "16"])
        .build()
}

#[test]
fn nothing_is_rounded_before_or_after_a_softmax_before_a_normalisation_or_at_the_logits() {
    let model = attention();
    let plan = everything(&model, &feeds(&[1, 6, 16]), &[]);
    let rounded: Vec<&str> = plan.activations.iter().map(|a| a.tensor.as_str()).collect();
    assert_eq!(rounded, ["n", "x"]);
    let nodes: Vec<&str> = plan.nodes.iter().map(|n| n.output.as_str()).collect();
    assert_eq!(nodes, ["q", "logits"], "what a softmax gives is not rounded, so its product stays float");
    assert!(difference(&model, &applied(&model, &plan), &feed("x", tensor(&[1, 6, 16], 99))) < 0.03);
}

#[test]
fn a_convolution_whose_result_leaves_the_graph_stays_float() {
    let model = Builder::new(17)
        .input("x", DType::F32, &["1", "3", "8", "8"])
        .initializer("w", tensor(&[8, 3, 3, 3], 1))
        .node("Conv", &["x", "w"], "c", vec![])
        .node("Flatten", &["c"], "f", vec![])
        .node("Softmax", &["f"], "y", vec![])
        .output("y", DType::F32, &["1", "288"])
        .build();
    assert_eq!(everything(&model, &feeds(&[1, 3, 8, 8]), &[]), StaticInt8::default());
}

#[test]
fn values_that_are_no_numbers_or_always_the_same_have_no_range() {
    let model = Builder::new(17)
        .input("x", DType::F32, &["3", "48"])
        .initializer("w", tensor(&[48, 48], 1))
        .node("MatMul", &["x", "w"], "y", vec![])
        .output("y", DType::F32, &["3", "48"])
        .build();
    let of = |value: f32| everything(&model, &[feed("x", Tensor::new(&[3, 48], &[value; 3 * 48]))], &[]);
    for without in [f32::NAN, f32::INFINITY, 0.0, 7.5, -1e-3] {
        assert_eq!(of(without), StaticInt8::default(), "{without}");
    }
}

#[test]
fn a_model_that_is_quantised_already_is_left_alone() {
    let model = network();
    let baked = applied(&model, &everything(&model, &feeds(&[1, 3, 12, 12]), &[]));
    let again = everything(&baked, &feeds(&[1, 3, 12, 12]), &[]);
    assert!(again.nodes.is_empty(), "{again:?}");
}

#[test]
fn a_scale_that_is_none_is_refused_by_the_tensors_name() {
    let broken = |scale: f64| {
        let tensor = "x".to_owned();
        let activations = vec![ActivationPlan { tensor, scale, zero_point: 0, through: false }];
        let nodes = vec![NodePlan { output: "m".into(), weights: WeightScheme::Int8, range: Range::MaxAbs }];
        StaticInt8 { activations, nodes, between: Vec::new() }
    };
    for scale in [0.0, -1.0, f64::INFINITY, 1e-60] {
        let mut copy = product(17);
        let error = broken(scale).apply(&mut copy, &mut Facts::default()).unwrap_err().to_string();
        assert!(error.contains("node 'x'") && error.contains("is no scale"), "{error}");
        assert_eq!(copy, product(17));
    }
}
