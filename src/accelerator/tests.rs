use proptest::prelude::*;

use super::reference::{difference, run};
use super::*;
use crate::model::build::Builder;
use crate::model::onnx::{AttributeProto, NodeProto};
use crate::model::{DType, Facts, Model, Tensor, edit};

/// Numbers without a pattern, the same on every machine.
fn numbers(seed: u32, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(next).collect()
}

fn random(seed: u32, shape: &[usize]) -> Tensor {
    Tensor::new(shape, &numbers(seed, shape.iter().product()))
}

fn positive(seed: u32, n: usize) -> Tensor {
    Tensor::new(&[n], &numbers(seed, n).iter().map(|v| v.abs() + 0.1).collect::<Vec<_>>())
}

/// Facts as an engine would observe them: from runs with two batch sizes.
fn observe(model: &Model, feeds: &[Vec<(&str, Tensor)>]) -> Facts {
    let mut facts = Facts::default();
    for feed in feeds {
        let mut tapped = model.clone();
        let graph = tapped.graph_mut();
        let names: Vec<String> = graph.node.iter().flat_map(|n| n.output.clone()).collect();
        graph.output = names.iter().map(|n| crate::model::build::value_info(n, DType::F32, &[])).collect();
        for (name, tensor) in names.iter().zip(run(&tapped, feed)) {
            facts.merge(name, tensor.dtype(), tensor.shape());
        }
        for (name, tensor) in feed {
            facts.merge(name, tensor.dtype(), tensor.shape());
        }
    }
    facts
}

/// Applies `names` in rounds, checks the outputs of two batch sizes, and gives back what is left with what was fused.
fn bake(model: &Model, inner: &[usize], names: &[&str]) -> (Model, Vec<String>) {
    let feed = |n: usize| vec![("x", random(n as u32, &[&[n], inner].concat()))];
    let feeds = [feed(2), feed(3)];
    let mut facts = observe(model, &feeds);
    let mut baked = model.clone();
    let mut fused = Vec::new();
    for _ in 0..3 {
        for name in names {
            if let Effect::Applied { fused: more, .. } = by_name(name).unwrap().apply(&mut baked, &mut facts).unwrap() {
                fused.extend(more);
            }
            baked.check().unwrap_or_else(|e| panic!("after {name}: {e}"));
            for feed in &feeds {
                let gap = difference(&run(model, feed), &run(&baked, feed));
                assert!(gap <= 1e-5, "after {name}: {gap}");
            }
        }
    }
    (baked, fused)
}

fn ops(model: &Model) -> Vec<&str> {
    model.graph().node.iter().map(NodeProto::op_type).collect()
}

fn all() -> Vec<&'static str> {
    PASS_NAMES.to_vec()
}

fn ints(values: &[i64]) -> Tensor {
    Tensor::new(&[values.len()], values)
}

#[test]
fn every_pass_is_found_by_its_own_name() {
    for name in PASS_NAMES {
        assert_eq!(by_name(name).unwrap().name(), *name);
    }
    assert!(by_name("no-such-pass").is_none());
    assert_eq!(conservative_passes().len(), PASS_NAMES.len() - 1);
}

fn batch_norm(builder: Builder, x: &str, y: &str, channels: usize) -> Builder {
    builder
        .initializer("s", random(1, &[channels]))
        .initializer("b", random(2, &[channels]))
        .initializer("m", random(3, &[channels]))
        .initializer("v", positive(4, channels))
        .node("BatchNormalization", &[x, "s", "b", "m", "v"], y, vec![])
}

#[test]
fn batch_normalisation_goes_into_the_operator_before_it() {
    type Case<'a> = (&'a str, &'a [usize], Vec<(&'a str, Tensor)>, Vec<AttributeProto>, &'a [usize], &'a [&'a str]);
    let cases: Vec<Case> = vec![
        ("Conv", &[4, 7], vec![("w", random(5, &[6, 2, 3]))], vec![edit::int("group", 2)], &[6], &["Conv"]),
        (
            "Conv",
            &[4, 7],
            vec![("w", random(5, &[6, 4, 3])), ("c", random(6, &[6]))],
            vec![edit::ints("pads", &[1, 1])],
            &[6],
            &["Conv"],
        ),
        (
            "ConvTranspose",
            &[4, 7],
            vec![("w", random(5, &[4, 3, 3]))],
            vec![edit::int("group", 2)],
            &[6],
            &["ConvTranspose"],
        ),
        (
            "Gemm",
            &[5],
            vec![("w", random(5, &[6, 5])), ("c", random(6, &[6]))],
            vec![edit::int("transB", 1), edit::float("beta", 0.5)],
            &[6],
            &["Gemm"],
        ),
        ("MatMul", &[5], vec![("w", random(5, &[5, 6]))], vec![], &[6], &["Gemm"]),
    ];
    for (op, inner, constants, attributes, channels, expected) in cases {
        let mut builder = Builder::new(17).input("x", DType::F32, &vec!["N"; inner.len() + 1]);
        let mut inputs = vec!["x"];
        for (name, tensor) in constants {
            builder = builder.initializer(name, tensor);
            inputs.push(name);
        }
        let model = batch_norm(builder.node(op, &inputs, "h", attributes), "h", "y", channels[0])
            .output("y", DType::F32, &[])
            .build();
        let (baked, fused) = bake(&model, inner, &all());
        assert_eq!(ops(&baked), expected, "{op}");
        assert!(fused[0].starts_with(&format!("{op}+BatchNormalization: {op}_0")), "{fused:?}");
    }
}

#[test]
fn batch_normalisation_goes_into_an_unpadded_convolution_behind_it() {
    let build = |pads: &[i64]| {
        let builder = Builder::new(17)
            .input("x", DType::F32, &["N", "4", "7"])
            .initializer("w", random(5, &[6, 2, 3]))
            .node("Sigmoid", &["x"], "a", vec![]);
        batch_norm(builder, "a", "n", 4)
            .node("Conv", &["n", "w"], "y", vec![edit::int("group", 2), edit::ints("pads", pads)])
            .output("y", DType::F32, &[])
            .build()
    };
    assert_eq!(ops(&bake(&build(&[0, 0]), &[4, 7], &all()).0), ["Sigmoid", "Conv"]);
    assert_eq!(ops(&bake(&build(&[1, 1]), &[4, 7], &all()).0), ["Sigmoid", "BatchNormalization", "Conv"]);
}

#[test]
fn a_weight_that_two_operators_share_is_copied_for_the_one_that_changes() {
    let builder = Builder::new(17)
        .input("x", DType::F32, &["N", "4", "7"])
        .initializer("w", random(5, &[4, 4, 1]))
        .node("Conv", &["x", "w"], "h", vec![])
        .node("Conv", &["h", "w"], "i", vec![]);
    let (baked, _) = bake(&batch_norm(builder, "i", "y", 4).output("y", DType::F32, &[]).build(), &[4, 7], &all());
    assert_eq!(ops(&baked), ["Conv", "Conv"]);
    assert_eq!(baked.graph().initializer.len(), 3);
}

#[test]
fn constants_behind_a_linear_operator_go_into_it() {
    let model = Builder::new(17)
        .input("x", DType::F32, &["N", "4", "7"])
        .initializer("w", random(5, &[6, 4, 3]))
        .initializer("c", random(6, &[1, 6, 1]))
        .initializer("k", random(7, &[6, 1]))
        .initializer("two", Tensor::scalar(2.0_f32))
        .node("Conv", &["x", "w"], "a", vec![])
        .node("Add", &["c", "a"], "b", vec![])
        .node("Mul", &["b", "k"], "d", vec![])
        .node("Sub", &["two", "d"], "e", vec![])
        .node("Div", &["e", "two"], "y", vec![])
        .output("y", DType::F32, &[])
        .build();
    assert_eq!(ops(&bake(&model, &[4, 7], &all()).0), ["Conv"]);
}

#[test]
fn a_constant_along_another_axis_stays() {
    let model = Builder::new(17)
        .input("x", DType::F32, &["N", "4", "8"])
        .initializer("w", random(5, &[6, 4, 3]))
        .initializer("c", random(6, &[6]))
        .node("Conv", &["x", "w"], "a", vec![])
        .node("Add", &["a", "c"], "y", vec![])
        .output("y", DType::F32, &[])
        .build();
    assert_eq!(ops(&bake(&model, &[4, 8], &all()).0), ["Conv", "Add"]);
}

#[test]
fn a_bias_behind_a_batched_product_stays_an_add_but_its_factor_goes() {
    let model = Builder::new(17)
        .input("x", DType::F32, &["N", "4", "5"])
        .initializer("w", random(5, &[5, 6]))
        .initializer("k", Tensor::scalar(3.0_f32))
        .initializer("c", random(6, &[6]))
        .node("MatMul", &["x", "w"], "a", vec![])
        .node("Mul", &["a", "k"], "b", vec![])
        .node("Add", &["b", "c"], "y", vec![])
        .output("y", DType::F32, &[])
        .build();
    assert_eq!(ops(&bake(&model, &[4, 5], &all()).0), ["MatMul", "Add"]);
}

#[test]
fn padding_goes_into_what_reads_it() {
    let padded = |op: &str, value: f32, attributes: Vec<AttributeProto>| {
        let mut inputs = vec!["p"];
        inputs.extend((op == "Conv").then_some("w"));
        Builder::new(17)
            .input("x", DType::F32, &["N", "4", "7"])
            .initializer("pads", ints(&[0, 0, 1, 0, 0, 2]))
            .initializer("value", Tensor::scalar(value))
            .initializer("w", random(5, &[6, 4, 3]))
            .node("Pad", &["x", "pads", "value"], "p", vec![])
            .node(op, &inputs, "y", attributes)
            .output("y", DType::F32, &[])
            .build()
    };
    let kernel = || vec![edit::ints("kernel_shape", &[3])];
    let cases = [
        ("Conv", 0.0, vec![edit::ints("pads", &[1, 0])], true),
        ("Conv", 1.0, vec![], false),
        ("AveragePool", 0.0, kernel(), true),
        ("AveragePool", 0.0, [kernel(), vec![edit::ints("pads", &[1, 1])]].concat(), false),
        ("MaxPool", f32::NEG_INFINITY, kernel(), true),
        ("MaxPool", 0.0, kernel(), false),
    ];
    for (op, value, attributes, gone) in cases {
        let (baked, _) = bake(&padded(op, value, attributes), &[4, 7], &all());
        assert_eq!(!ops(&baked).contains(&"Pad"), gone, "{op} behind a Pad of {value}");
    }
}

#[test]
fn activations_in_a_row_become_one() {
    let model = Builder::new(17)
        .input("x", DType::F32, &["N", "4"])
        .initializer("zero", Tensor::scalar(0.0_f32))
        .initializer("six", Tensor::scalar(6.0_f32))
        .node("Clip", &["x", "zero"], "a", vec![])
        .node("Relu", &["a"], "b", vec![])
        .node("Clip", &["b", "zero", "six"], "c", vec![])
        .node("Relu", &["c"], "y", vec![])
        .output("y", DType::F32, &[])
        .build();
    assert_eq!(ops(&bake(&model, &[4], &all()).0), ["Clip"]);
}

#[derive(Debug, Clone)]
enum Step {
    Unary(&'static str),
    Constant(&'static str, bool),
    Join(&'static str, usize),
    Transpose(u8),
    Reshape,
    Slice,
    Concat(usize, i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop::sample::select(vec!["Relu", "Neg", "Abs", "Identity", "Dropout"]).prop_map(Step::Unary),
        (prop::sample::select(vec!["Add", "Mul", "Sub", "Div"]), any::<bool>())
            .prop_map(|(op, neutral)| Step::Constant(op, neutral)),
        (prop::sample::select(vec!["Add", "Mul", "Max"]), 0_usize..8).prop_map(|(op, other)| Step::Join(op, other)),
        (0_u8..2).prop_map(Step::Transpose),
        Just(Step::Reshape),
        Just(Step::Slice),
        (0_usize..8, 0_i64..3).prop_map(|(other, axis)| Step::Concat(other, axis)),
    ]
}

/// A graph over tensors of shape [N, 2, 2] (so that every transpose of the last two axes fits everything), or wider after a Concat.
fn graph(steps: &[Step]) -> Model {
    let mut builder = Builder::new(17)
        .input("x", DType::F32, &["N", "2", "2"])
        .initializer("zero", Tensor::scalar(0.0_f32))
        .initializer("one", Tensor::scalar(1.0_f32))
        .initializer("k", random(9, &[2, 1]))
        .initializer("flat", ints(&[0, -1]))
        .initializer("square", ints(&[-1, 2, 2]))
        .initializer("begin", ints(&[0, 0]))
        .initializer("end", ints(&[i64::MAX, i64::MAX]))
        .initializer("upto", ints(&[2]))
        .initializer("first", ints(&[0]))
        .initializer("axes", ints(&[0, 2]));
    let mut tensors = vec!["x".to_owned()];
    for (i, step) in steps.iter().enumerate() {
        let last = tensors.last().unwrap().clone();
        let name = format!("t{i}");
        let inner = format!("i{i}");
        builder = match step {
            Step::Unary("Dropout") => {
                builder.node("Dropout", &[&last], &name, vec![]).node("Identity", &[&name], &inner, vec![])
            }
            Step::Unary(op) => builder.node(op, &[&last], &name, vec![]),
            Step::Constant(op, true) => {
                builder.node(op, &[&last, if matches!(*op, "Add" | "Sub") { "zero" } else { "one" }], &name, vec![])
            }
            Step::Constant(op, false) => builder.node(op, &[&last, "k"], &name, vec![]),
            Step::Join(op, other) => builder.node(op, &[&last, &tensors[other % tensors.len()]], &name, vec![]),
            Step::Transpose(0) => builder.node("Transpose", &[&last], &name, vec![edit::ints("perm", &[0, 2, 1])]),
            Step::Transpose(_) => builder
                .node("Transpose", &[&last], &inner, vec![edit::ints("perm", &[1, 2, 0])])
                .node("Transpose", &[&inner], &name, vec![edit::ints("perm", &[2, 0, 1])]),
            Step::Reshape => builder.node("Reshape", &[&last, "flat"], &inner, vec![]).node(
                "Reshape",
                &[&inner, "square"],
                &name,
                vec![],
            ),
            Step::Slice => builder.node("Slice", &[&last, "begin", "end", "axes"], &name, vec![]),
            Step::Concat(other, axis) => {
                let axis_list = format!("axis{i}");
                let batch = format!("s{i}");
                let stop = if *axis == 0 { batch.as_str() } else { "upto" };
                builder
                    .initializer(&axis_list, ints(&[*axis]))
                    .node("Concat", &[&last, &tensors[other % tensors.len()]], &inner, vec![edit::int("axis", *axis)])
                    .node("Shape", &["x"], &batch, vec![edit::int("end", 1)])
                    .node("Slice", &[&inner, "first", stop, &axis_list], &name, vec![])
            }
        };
        tensors.push(name);
    }
    let middle = tensors[tensors.len() / 2].clone();
    builder = builder.output(tensors.last().unwrap(), DType::F32, &["N", "2", "2"]);
    if middle != *tensors.last().unwrap() && middle != "x" {
        builder = builder.output(&middle, DType::F32, &["N", "2", "2"]);
    }
    builder.build()
}

/// The interpreter knows no Dropout: in inference it is the identity.
fn without_dropout(mut model: Model) -> Model {
    for node in model.graph_mut().node.iter_mut().filter(|n| n.op_type() == "Dropout") {
        node.op_type = Some("Identity".to_owned());
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn passes_never_change_what_a_graph_calculates(steps in prop::collection::vec(step(), 1..12)) {
        let model = without_dropout(graph(&steps));
        let outputs: Vec<String> = model.output_names().iter().map(|&n| n.to_owned()).collect();
        let nodes = model.graph().node.len();
        let (baked, _) = bake(&model, &[2, 2], &all());
        prop_assert_eq!(baked.output_names(), outputs);
        prop_assert!(baked.graph().node.len() <= nodes);
    }

    #[test]
    fn the_same_model_gives_the_same_bytes(steps in prop::collection::vec(step(), 1..12)) {
        let model = without_dropout(graph(&steps));
        prop_assert_eq!(bake(&model, &[2, 2], &all()).0.to_bytes(), bake(&model, &[2, 2], &all()).0.to_bytes());
    }
}
