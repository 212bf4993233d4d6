use super::*;
use crate::model::build::{Builder, graph_attribute};
use crate::model::onnx::{AttributeProto, NodeProto};
use crate::model::{Tensor, edit};

fn apply(mut model: Model) -> Model {
    let mut facts = Facts::default();
    // To a fix point, as the driver does.
    while let Effect::Applied { .. } = CleanUp.apply(&mut model, &mut facts).unwrap() {}
    model
}

fn ops(model: &Model) -> Vec<&str> {
    model.graph().node.iter().map(NodeProto::op_type).collect()
}

/// `Relu -> op(constants) -> Neg` with x of shape [N, 3, 4].
fn with(op: &str, constants: &[Tensor], attributes: Vec<AttributeProto>) -> Model {
    let names: Vec<String> = (0..constants.len()).map(|i| format!("k{i}")).collect();
    let mut builder = Builder::new(17).input("x", DType::F32, &["N", "3", "4"]);
    for (name, constant) in names.iter().zip(constants) {
        builder = builder.initializer(name, constant.clone());
    }
    let inputs: Vec<&str> = std::iter::once("a").chain(names.iter().map(String::as_str)).collect();
    builder
        .node("Relu", &["x"], "a", vec![])
        .node(op, &inputs, "b", attributes)
        .node("Neg", &["b"], "y", vec![])
        .output("y", DType::F32, &["N", "3", "4"])
        .build()
}

fn i(values: &[i64]) -> Tensor {
    Tensor::new(&[values.len()], values)
}

#[test]
fn nodes_without_effect_go() {
    let one = || Tensor::scalar(1.0_f32);
    let cases: Vec<(&str, Vec<Tensor>, Vec<AttributeProto>)> = vec![
        ("Identity", vec![], vec![]),
        ("Dropout", vec![], vec![]),
        ("Cast", vec![], vec![edit::int("to", 1)]),
        ("Concat", vec![], vec![edit::int("axis", 1)]),
        ("Sum", vec![], vec![]),
        ("Transpose", vec![], vec![edit::ints("perm", &[0, 1, 2])]),
        ("Reshape", vec![i(&[0, 3, 4])], vec![]),
        ("Reshape", vec![i(&[-1, 3, 4])], vec![]),
        ("Expand", vec![i(&[1, 3, 1])], vec![]),
        ("Tile", vec![i(&[1, 1, 1])], vec![]),
        ("Pad", vec![i(&[0; 6])], vec![]),
        ("Slice", vec![i(&[0, 0]), i(&[i64::MAX, 4]), i(&[0, -1])], vec![]),
        ("Add", vec![Tensor::new(&[3, 1], &[0.0_f32; 3])], vec![]),
        ("Sub", vec![Tensor::scalar(0.0_f32)], vec![]),
        ("Mul", vec![one()], vec![]),
        ("Div", vec![one()], vec![]),
        ("Pow", vec![one()], vec![]),
    ];
    for (op, constants, attributes) in cases {
        let model = apply(with(op, &constants, attributes));
        // The declared type of the graph's input is what tells the Cast to be one.
        let expected: &[&str] = if op == "Cast" { &["Relu", "Cast", "Neg"] } else { &["Relu", "Neg"] };
        assert_eq!(ops(&model), expected, "{op}");
    }
}

#[test]
fn nodes_with_an_effect_stay() {
    let cases: Vec<(&str, Vec<Tensor>, Vec<AttributeProto>)> = vec![
        ("Sub", vec![Tensor::scalar(1.0_f32)], vec![]),
        ("Add", vec![Tensor::new(&[2, 1, 1, 1], &[0.0_f32; 2])], vec![]),
        ("Slice", vec![i(&[0]), i(&[3]), i(&[2])], vec![]),
        ("Slice", vec![i(&[0]), i(&[100]), i(&[0])], vec![]),
        ("Pad", vec![i(&[0, 0, 0, 0, 0, 1])], vec![]),
        ("Expand", vec![i(&[2, 1, 1, 1])], vec![]),
        ("Reshape", vec![i(&[0, 4, 3])], vec![]),
        ("Dropout", vec![Tensor::scalar(0.5_f32), Tensor::from_bools(&[], &[true])], vec![]),
    ];
    for (op, constants, attributes) in cases {
        assert_eq!(ops(&apply(with(op, &constants, attributes))), ["Relu", op, "Neg"], "{op}");
    }
}

#[test]
fn a_cast_to_the_type_that_was_observed_goes() {
    let mut facts = Facts::default();
    facts.merge("a", DType::F32, &[1, 3, 4]);
    let mut model = with("Cast", &[], vec![edit::int("to", 1)]);
    CleanUp.apply(&mut model, &mut facts).unwrap();
    assert_eq!(ops(&model), ["Relu", "Neg"]);
}

#[test]
fn transposes_compose_and_cancel() {
    let chain = |second: &[i64]| {
        apply(
            Builder::new(17)
                .input("x", DType::F32, &["N", "3", "4"])
                .node("Transpose", &["x"], "a", vec![edit::ints("perm", &[0, 2, 1])])
                .node("Transpose", &["a"], "b", vec![edit::ints("perm", second)])
                .node("Neg", &["b"], "y", vec![])
                .output("y", DType::F32, &["N", "3", "4"])
                .build(),
        )
    };
    assert_eq!(ops(&chain(&[0, 2, 1])), ["Neg"]);
    let model = chain(&[1, 0, 2]);
    assert_eq!(ops(&model), ["Transpose", "Neg"]);
    assert_eq!(edit::ints_attribute(&model.graph().node[0], "perm"), Some(&[2, 0, 1][..]));
}

#[test]
fn a_chain_of_reshapes_becomes_one() {
    let model = apply(
        Builder::new(17)
            .input("x", DType::F32, &["N", "3", "4"])
            .initializer("axes", i(&[1]))
            .initializer("t", i(&[0, -1]))
            .node("Unsqueeze", &["x", "axes"], "a", vec![])
            .node("Flatten", &["a"], "b", vec![edit::int("axis", 2)])
            .node("Reshape", &["b", "t"], "c", vec![])
            .node("Neg", &["c"], "y", vec![])
            .output("y", DType::F32, &["N", "12"])
            .build(),
    );
    assert_eq!(ops(&model), ["Reshape", "Neg"]);
    assert_eq!(model.graph().node[0].input[0], "x");
}

#[test]
fn a_reshape_through_an_unknown_product_is_left_alone() {
    let model = Builder::new(17)
        .input("x", DType::F32, &["N", "S", "4"])
        .initializer("t", i(&[2, -1]))
        .initializer("u", i(&[0, 4, -1]))
        .node("Reshape", &["x", "t"], "a", vec![])
        .node("Neg", &["a"], "y", vec![])
        .output("y", DType::F32, &["2", "M"])
        .build();
    assert_eq!(ops(&apply(model)), ["Reshape", "Neg"]);
}

#[test]
fn a_known_branch_moves_into_the_main_graph() {
    let branch = |op: &str| {
        Builder::new(17)
            .initializer("k", Tensor::scalar(3.0_f32))
            .node(op, &["x", "k"], "inner", vec![])
            .output("inner", DType::F32, &["N"])
            .build_graph()
    };
    let model = apply(
        Builder::new(17)
            .input("x", DType::F32, &["N"])
            .initializer("k", Tensor::scalar(5.0_f32))
            .initializer("yes", Tensor::from_bools(&[], &[true]))
            .node(
                "If",
                &["yes"],
                "b",
                vec![graph_attribute("then_branch", branch("Mul")), graph_attribute("else_branch", branch("Add"))],
            )
            .node("Sub", &["b", "k"], "y", vec![])
            .output("y", DType::F32, &["N"])
            .build(),
    );
    let nodes: Vec<_> = model.graph().node.iter().map(|n| (n.op_type(), n.input.join(" "))).collect();
    assert_eq!(nodes, [("Mul", "x k_1".to_owned()), ("Sub", "b k".to_owned())]);
}

#[test]
fn transposes_on_either_side_of_an_unsqueeze_become_one_or_none() {
    for (axis, second, expected) in [
        (3, [0, 2, 1, 3], vec!["Relu", "Unsqueeze"]),
        (1, [1, 0, 3, 2], vec!["Relu", "Unsqueeze"]),
        (0, [1, 3, 0, 2], vec!["Relu", "Unsqueeze"]),
        (2, [3, 2, 0, 1], vec!["Relu", "Transpose", "Unsqueeze"]),
    ] {
        let model = Builder::new(17)
            .input("x", DType::F32, &["N", "3", "4"])
            .initializer("axis", i(&[axis]))
            .node("Relu", &["x"], "a", vec![])
            .node("Transpose", &["a"], "b", vec![edit::ints("perm", &[0, 2, 1])])
            .node("Unsqueeze", &["b", "axis"], "c", vec![])
            .node("Transpose", &["c"], "y", vec![edit::ints("perm", &second)])
            .output("y", DType::F32, &["A", "B", "C", "D"])
            .build();
        let cleaned = apply(model.clone());
        assert_eq!(ops(&cleaned), expected, "{axis} {second:?}");
        let x = Tensor::new(&[2, 3, 4], &(0..24_u8).map(f32::from).collect::<Vec<_>>());
        let [before, after] = [&model, &cleaned].map(|m| crate::accelerator::reference::run(m, &[("x", x.clone())]));
        assert_eq!(before, after, "{axis} {second:?}");
    }
}
