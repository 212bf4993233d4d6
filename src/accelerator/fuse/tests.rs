use crate::accelerator::by_name;
use crate::accelerator::reference::{difference, run};
use crate::model::build::Builder;
use crate::model::onnx::{AttributeProto, NodeProto};
use crate::model::{DType, Effect, Facts, Model, Tensor, edit};

fn sample() -> Tensor {
    let values: Vec<f32> = (0..24_u8).map(|i| (f32::from(i) * 1.7).sin() * 4.0).collect();
    Tensor::new(&[2, 3, 4], &values)
}

/// Applies one pass and checks that it keeps the output.
fn apply(pass: &str, model: &Model) -> (Model, Effect) {
    let mut edited = model.clone();
    let effect = by_name(pass).unwrap().apply(&mut edited, &mut Facts::default()).unwrap();
    let gap = difference(&run(model, &[("x", sample())]), &run(&edited, &[("x", sample())]));
    assert!(gap <= 1e-5, "{pass}: {gap}");
    (edited, effect)
}

fn ops(model: &Model) -> Vec<&str> {
    model.graph().node.iter().map(NodeProto::op_type).collect()
}

fn start(opset: i64) -> Builder {
    let mut builder = Builder::new(opset).input("x", DType::F32, &["N", "3", "4"]);
    for (name, value) in
        [("half", 0.5), ("one", 1.0), ("two", 2.0), ("three", 3.0), ("six", 6.0), ("zero", 0.0), ("eps", 1e-5)]
    {
        builder = builder.initializer(name, Tensor::scalar(value as f32));
    }
    builder.initializer("root", Tensor::scalar(std::f32::consts::SQRT_2))
}

fn last() -> Vec<AttributeProto> {
    vec![edit::ints("axes", &[-1])]
}

fn layer_norm(opset: i64, square: &str) -> Model {
    let squared: &[&str] = if square == "Pow" { &["d", "two"] } else { &["d", "d"] };
    start(opset)
        .initializer("g", Tensor::new(&[4], &[1.0_f32, 2.0, 3.0, 4.0]))
        .initializer("b", Tensor::new(&[4], &[0.1_f32, 0.2, 0.3, 0.4]))
        .node("ReduceMean", &["x"], "m", last())
        .node("Sub", &["x", "m"], "d", vec![])
        .node(square, squared, "q", vec![])
        .node("ReduceMean", &["q"], "v", last())
        .node("Add", &["v", "eps"], "e", vec![])
        .node("Sqrt", &["e"], "s", vec![])
        .node("Div", &["d", "s"], "n", vec![])
        .node("Mul", &["n", "g"], "p", vec![])
        .node("Add", &["p", "b"], "y", vec![])
        .output("y", DType::F32, &["N", "3", "4"])
        .build()
}

#[test]
fn a_decomposed_layer_normalisation_is_put_together() {
    for square in ["Pow", "Mul"] {
        let (model, effect) = apply("fuse-layer-normalization", &layer_norm(17, square));
        assert_eq!(ops(&model), ["LayerNormalization"]);
        assert_eq!(effect, Effect::Applied { rewrites: 1, fused: vec!["LayerNormalization: Add_8".to_owned()] });
    }
}

/// Layer normalisation as JAX writes it: the variance from sums, axes dropped and restored.
fn layer_norm_of_sums(axis: i64, scale: &[usize], parameters: [&[f32]; 2]) -> Model {
    let width = if axis == 2 { 4.0 } else { 3.0 };
    let restored: &[i64] = if axis == 2 { &[0, 3, 1] } else { &[0, 1, 4] };
    let dropped = || vec![edit::int("keepdims", 0)];
    start(17)
        .initializer("g", Tensor::new(scale, parameters[0]))
        .initializer("b", Tensor::new(scale, parameters[1]))
        .initializer("axis", Tensor::new(&[1], &[axis]))
        .initializer("per", Tensor::scalar(1.0_f32 / width))
        .initializer("rows", Tensor::new(&[3], restored))
        .node("ReduceSum", &["x", "axis"], "sum", dropped())
        .node("Mul", &["sum", "per"], "m", vec![])
        .node("Mul", &["x", "x"], "xx", vec![])
        .node("ReduceSum", &["xx", "axis"], "sums", dropped())
        .node("Mul", &["sums", "per"], "mm", vec![])
        .node("Mul", &["m", "m"], "q", vec![])
        .node("Sub", &["mm", "q"], "w", vec![])
        .node("Max", &["zero", "w"], "v", vec![])
        .node("Reshape", &["v", "rows"], "v1", vec![])
        .node("Add", &["v1", "eps"], "e", vec![])
        .node("Sqrt", &["e"], "s", vec![])
        .node("Reciprocal", &["s"], "r", vec![])
        .node("Mul", &["r", "g"], "f", vec![])
        .node("Reshape", &["m", "rows"], "m1", vec![])
        .node("Sub", &["x", "m1"], "d", vec![])
        .node("Mul", &["d", "f"], "p", vec![])
        .node("Add", &["p", "b"], "y", vec![])
        .output("y", DType::F32, &["N", "3", "4"])
        .build()
}

#[test]
fn a_layer_normalisation_whose_variance_comes_from_sums_is_put_together() {
    let model = layer_norm_of_sums(2, &[1, 4], [&[1.0, 2.0, 3.0, 4.0], &[0.1, 0.2, 0.3, 0.4]]);
    let (model, effect) = apply("fuse-layer-normalization", &model);
    assert_eq!(ops(&model), ["LayerNormalization"]);
    assert_eq!(effect, Effect::Applied { rewrites: 1, fused: vec!["LayerNormalization: Add_16".to_owned()] });
}

#[test]
fn a_normalised_axis_that_is_not_the_last_is_moved_there_and_back() {
    let model = layer_norm_of_sums(1, &[1, 3, 1], [&[1.0, 2.0, 3.0], &[0.1, 0.2, 0.3]]);
    let (model, _) = apply("fuse-layer-normalization", &model);
    assert_eq!(ops(&model), ["Transpose", "LayerNormalization", "Transpose"]);
}

#[test]
fn a_normalisation_by_something_else_than_its_own_variance_stays() {
    let build = |tensor: &str, from: &str, to: &str| {
        let mut model = layer_norm_of_sums(2, &[1, 4], [&[1.0; 4], &[0.0; 4]]);
        let node = model.graph_mut().node.iter_mut().find(|n| n.output[0] == tensor).unwrap();
        node.input.iter_mut().filter(|i| *i == from).for_each(|i| to.clone_into(i));
        model
    };
    // Not divided by the width; not the square of the mean; rows that do not line up with x any more.
    for (tensor, from, to) in [("mm", "per", "half"), ("q", "m", "mm"), ("d", "m1", "b")] {
        let model = build(tensor, from, to);
        assert_eq!(apply("fuse-layer-normalization", &model).0.graph().node, model.graph().node, "{tensor}");
    }
}

#[test]
fn a_layer_normalisation_as_keras_writes_it_is_put_together() {
    let model = start(17)
        .initializer("g", Tensor::new(&[4], &[1.0_f32, 2.0, 3.0, 4.0]))
        .initializer("b", Tensor::new(&[4], &[0.1_f32, 0.2, 0.3, 0.4]))
        .node("ReduceMean", &["x"], "m", last())
        .node("Sub", &["x", "m"], "d", vec![])
        .node("Mul", &["d", "d"], "q", vec![])
        .node("ReduceMean", &["q"], "v", last())
        .node("Add", &["v", "eps"], "e", vec![])
        .node("Sqrt", &["e"], "s", vec![])
        .node("Reciprocal", &["s"], "r", vec![])
        .node("Mul", &["r", "g"], "f", vec![])
        .node("Mul", &["x", "f"], "p", vec![])
        .node("Mul", &["m", "f"], "h", vec![])
        .node("Sub", &["b", "h"], "c", vec![])
        .node("Add", &["p", "c"], "y", vec![])
        .output("y", DType::F32, &["N", "3", "4"])
        .build();
    assert_eq!(ops(&apply("fuse-layer-normalization", &model).0), ["LayerNormalization"]);
}

#[test]
fn below_its_opset_a_fusion_is_skipped_and_says_why() {
    let (model, effect) = apply("fuse-layer-normalization", &layer_norm(13, "Pow"));
    assert_eq!(model.graph().node.len(), 9);
    let Effect::Skipped { reason } = effect else { panic!("not skipped") };
    assert!(reason.contains("needs opset 17 and the model has 13"), "{reason}");
}

#[test]
fn a_normalisation_whose_inner_values_are_read_elsewhere_keeps_them() {
    let mut model = layer_norm(17, "Pow");
    model.graph_mut().output.push(crate::model::build::value_info("v", DType::F32, &["N", "3", "1"]));
    let (model, _) = apply("fuse-layer-normalization", &model);
    assert_eq!(ops(&model), ["ReduceMean", "Sub", "Pow", "ReduceMean", "LayerNormalization"]);
}

#[test]
fn a_gelu_of_either_form_is_put_together_from_opset_20_on() {
    let erf = |order: u8| {
        let builder = start(20).node("Div", &["x", "root"], "a", vec![]).node("Erf", &["a"], "b", vec![]).node(
            "Add",
            &["b", "one"],
            "c",
            vec![],
        );
        let builder = match order {
            0 => builder.node("Mul", &["x", "c"], "d", vec![]).node("Mul", &["d", "half"], "y", vec![]),
            1 => builder.node("Mul", &["c", "half"], "d", vec![]).node("Mul", &["x", "d"], "y", vec![]),
            _ => builder.node("Mul", &["half", "x"], "d", vec![]).node("Mul", &["d", "c"], "y", vec![]),
        };
        builder.output("y", DType::F32, &["N", "3", "4"]).build()
    };
    for order in 0..3 {
        assert_eq!(ops(&apply("fuse-gelu", &erf(order)).0), ["Gelu"], "order {order}");
    }
    let tanh = start(20)
        .initializer("k", Tensor::scalar(0.044_715_f32))
        .initializer("r", Tensor::scalar(0.797_884_6_f32))
        .node("Mul", &["k", "x"], "a", vec![])
        .node("Mul", &["x", "a"], "b", vec![])
        .node("Mul", &["x", "b"], "c", vec![])
        .node("Add", &["x", "c"], "d", vec![])
        .node("Mul", &["r", "d"], "e", vec![])
        .node("Tanh", &["e"], "f", vec![])
        .node("Add", &["one", "f"], "g", vec![])
        .node("Mul", &["half", "g"], "h", vec![])
        .node("Mul", &["x", "h"], "y", vec![])
        .output("y", DType::F32, &["N", "3", "4"])
        .build();
    assert_eq!(ops(&apply("fuse-gelu", &tanh).0), ["Gelu"]);
}

#[test]
fn a_hard_swish_is_put_together_as_far_as_the_opset_allows() {
    let model = |opset: i64, gate_first: bool| {
        let builder =
            start(opset).node("Add", &["x", "three"], "a", vec![]).node("Clip", &["a", "zero", "six"], "b", vec![]);
        let builder = if gate_first {
            builder.node("Div", &["b", "six"], "c", vec![]).node("Mul", &["c", "x"], "y", vec![])
        } else {
            builder.node("Mul", &["x", "b"], "c", vec![]).node("Div", &["c", "six"], "y", vec![])
        };
        builder.output("y", DType::F32, &["N", "3", "4"]).build()
    };
    for gate_first in [false, true] {
        assert_eq!(ops(&apply("fuse-hard-swish", &model(14, gate_first)).0), ["HardSwish"]);
        assert_eq!(ops(&apply("fuse-hard-swish", &model(11, gate_first)).0), ["HardSigmoid", "Mul"]);
    }
}

#[test]
fn a_decomposed_softmax_is_put_together() {
    let model = start(13)
        .initializer("axes", Tensor::new(&[1], &[-1_i64]))
        .node("ReduceMax", &["x"], "m", last())
        .node("Sub", &["x", "m"], "d", vec![])
        .node("Exp", &["d"], "e", vec![])
        .node("ReduceSum", &["e", "axes"], "s", vec![])
        .node("Div", &["e", "s"], "y", vec![])
        .output("y", DType::F32, &["N", "3", "4"])
        .build();
    assert_eq!(ops(&apply("fuse-softmax", &model).0), ["Softmax"]);
}

#[test]
fn a_softmax_whose_reductions_drop_their_axis_is_put_together() {
    let dropped = || vec![edit::int("keepdims", 0)];
    let model = start(13)
        .initializer("axes", Tensor::new(&[1], &[2_i64]))
        .initializer("rows", Tensor::new(&[3], &[0_i64, 3, 1]))
        .initializer("low", Tensor::scalar(f32::NEG_INFINITY))
        .node("Shape", &["x"], "n", vec![])
        .initializer("to", Tensor::new(&[1], &[2_i64]))
        .initializer("from", Tensor::new(&[1], &[0_i64]))
        .initializer("one_axis", Tensor::new(&[1], &[1_i64]))
        .node("Slice", &["n", "from", "to"], "outer", vec![])
        .node("Concat", &["outer", "one_axis"], "target", vec![edit::int("axis", 0)])
        .node("ReduceMax", &["x"], "m", vec![edit::ints("axes", &[2]), edit::int("keepdims", 0)])
        .node("Max", &["low", "m"], "m0", vec![])
        .node("Reshape", &["m0", "rows"], "m1", vec![])
        .node("Expand", &["m1", "target"], "m2", vec![])
        .node("Sub", &["x", "m2"], "d", vec![])
        .node("Exp", &["d"], "e", vec![])
        .node("ReduceSum", &["e", "axes"], "s", dropped())
        .node("Reshape", &["s", "rows"], "s1", vec![])
        .node("Expand", &["s1", "target"], "s2", vec![])
        .node("Div", &["e", "s2"], "y", vec![])
        .output("y", DType::F32, &["N", "3", "4"])
        .build();
    assert_eq!(ops(&apply("fuse-softmax", &model).0).last(), Some(&"Softmax"));
}

#[test]
fn attention_is_counted_and_left() {
    let model = start(17)
        .node("MatMul", &["q", "k"], "a", vec![])
        .node("Div", &["a", "two"], "b", vec![])
        .node("Softmax", &["b"], "c", vec![])
        .node("MatMul", &["c", "v"], "y", vec![])
        .output("y", DType::F32, &["N", "3", "4"])
        .build();
    let mut edited = model.clone();
    let effect = by_name("recognise-attention").unwrap().apply(&mut edited, &mut Facts::default()).unwrap();
    assert!(matches!(effect, Effect::Skipped { reason } if reason.starts_with("1 attention blocks")));
    assert_eq!(edited.graph(), model.graph());
}
