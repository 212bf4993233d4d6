use std::path::Path;

use bytes::Bytes;

use super::super::edit::{int, ints, node};
use super::super::onnx::{
    AttributeProto, ModelProto, OperatorSetIdProto, TensorShapeProto, ValueInfoProto, tensor_shape_proto::Dimension,
};
use super::super::{Tensor, TensorFact};
use super::*;

/// A float input; extents are numbers or names.
fn input(name: &str, dims: &str) -> ValueInfoProto {
    let dim = dims
        .split_whitespace()
        .map(|d| Dimension {
            value: Some(
                d.parse().map_or_else(|_| dimension::Value::DimParam(d.to_owned()), dimension::Value::DimValue),
            ),
            denotation: None,
        })
        .collect();
    let tensor = type_proto::Tensor { elem_type: Some(DType::F32.to_onnx()), shape: Some(TensorShapeProto { dim }) };
    let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None });
    ValueInfoProto { name: Some(name.to_owned()), r#type, ..ValueInfoProto::default() }
}

fn model(inputs: &[(&str, &str)], constants: &[(&str, Tensor)], nodes: Vec<NodeProto>) -> Model {
    let graph = GraphProto {
        input: inputs.iter().map(|(n, d)| input(n, d)).collect(),
        initializer: constants.iter().map(|(n, t)| t.to_proto(n)).collect(),
        output: vec![input("y", "")],
        node: nodes,
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { domain: None, version: Some(17) };
    Model::from_proto(ModelProto { graph: Some(graph), opset_import: vec![opset], ..ModelProto::default() })
}

/// The derived shape of `tensor`, as text.
fn shape(model: &Model, tensor: &str) -> String {
    shape_with(model, tensor, &InferOptions::default())
}

fn shape_with(model: &Model, tensor: &str, options: &InferOptions<'_>) -> String {
    let inference = infer(model, options).unwrap();
    inference.dims(tensor).map_or("none".to_owned(), |d| d.iter().map(DimExpr::to_string).collect::<Vec<_>>().join(" "))
}

fn one(inputs: &[(&str, &str)], constants: &[(&str, Tensor)], node: NodeProto) -> String {
    let model = model(inputs, constants, vec![node]);
    let result = shape(&model, "y");
    // The graph's declared output says rank 0 on purpose: nothing here may come from it.
    assert!(
        !infer(&model, &InferOptions::default()).unwrap().rests_on_declaration("y") || result.is_empty(),
        "came from a declaration"
    );
    result
}

fn i64s(values: &[i64]) -> Tensor {
    Tensor::new(&[values.len()], values)
}

fn f32s(shape: &[usize]) -> Tensor {
    Tensor::new(shape, &vec![0.5_f32; shape.iter().product()])
}

#[test]
#[allow(clippy::too_many_lines)] // one table
fn a_single_operator_derives_its_output() {
    let x = |d: &'static str| vec![("x", d)];
    let cases: Vec<(&str, String, &str)> = vec![
        (
            "matmul with batch",
            one(&x("B 12 S 64"), &[("w", f32s(&[64, 7]))], node("MatMul", "", &["x", "w"], &["y"], vec![])),
            "B 12 S 7",
        ),
        (
            "matmul of a vector",
            one(&x("4 64"), &[("w", f32s(&[64]))], node("MatMul", "", &["x", "w"], &["y"], vec![])),
            "4",
        ),
        (
            "gemm transposed",
            one(&x("N 784"), &[("w", f32s(&[10, 784]))], node("Gemm", "", &["x", "w"], &["y"], vec![int("transB", 1)])),
            "N 10",
        ),
        (
            "strided padded conv",
            one(
                &x("N 3 224 224"),
                &[("w", f32s(&[8, 3, 3, 3]))],
                node("Conv", "", &["x", "w"], &["y"], vec![ints("strides", &[2, 2]), ints("pads", &[1, 1, 1, 1])]),
            ),
            "N 8 112 112",
        ),
        (
            "same-size conv keeps symbols",
            one(
                &x("N 3 H W"),
                &[("w", f32s(&[8, 3, 3, 3]))],
                node("Conv", "", &["x", "w"], &["y"], vec![ints("pads", &[1; 4])]),
            ),
            "N 8 H W",
        ),
        (
            "pool rounding up",
            one(
                &x("1 4 6 7"),
                &[],
                node(
                    "MaxPool",
                    "",
                    &["x"],
                    &["y"],
                    vec![ints("kernel_shape", &[3, 3]), ints("strides", &[2, 2]), int("ceil_mode", 1)],
                ),
            ),
            "1 4 3 3",
        ),
        (
            "conv transpose",
            one(
                &x("N 4 5 5"),
                &[("w", f32s(&[4, 2, 3, 3]))],
                node("ConvTranspose", "", &["x", "w"], &["y"], vec![ints("strides", &[2, 2])]),
            ),
            "N 2 11 11",
        ),
        (
            "reshape with a free axis",
            one(&x("B S 384"), &[("s", i64s(&[0, 0, 12, -1]))], node("Reshape", "", &["x", "s"], &["y"], vec![])),
            "B S 12 32",
        ),
        (
            "reshape that merges symbols",
            one(&x("B S 384"), &[("s", i64s(&[-1, 384]))], node("Reshape", "", &["x", "s"], &["y"], vec![])),
            "? 384",
        ),
        ("flatten", one(&x("N 2 3 4"), &[], node("Flatten", "", &["x"], &["y"], vec![])), "N 24"),
        (
            "transpose",
            one(&x("A B C"), &[], node("Transpose", "", &["x"], &["y"], vec![ints("perm", &[2, 0, 1])])),
            "C A B",
        ),
        (
            "concat",
            one(&x("N 3 4"), &[("c", f32s(&[2, 5, 4]))], node("Concat", "", &["x", "c"], &["y"], vec![int("axis", 1)])),
            "2 8 4",
        ),
        (
            "slice by attribute",
            one(
                &x("N 10"),
                &[],
                node("Slice", "", &["x"], &["y"], vec![ints("starts", &[1]), ints("ends", &[-1]), ints("axes", &[1])]),
            ),
            "N 8",
        ),
        (
            "slice backwards",
            one(
                &x("N 10"),
                &[("s", i64s(&[-1])), ("e", i64s(&[i64::MIN])), ("a", i64s(&[1])), ("t", i64s(&[-2]))],
                node("Slice", "", &["x", "s", "e", "a", "t"], &["y"], vec![]),
            ),
            "N 5",
        ),
        (
            "gather",
            one(&x("N 8 4"), &[("i", i64s(&[1, 3]))], node("Gather", "", &["x", "i"], &["y"], vec![int("axis", 1)])),
            "N 2 4",
        ),
        (
            "squeeze",
            one(&x("N 1 4 1"), &[("a", i64s(&[1, -1]))], node("Squeeze", "", &["x", "a"], &["y"], vec![])),
            "N 4",
        ),
        (
            "unsqueeze",
            one(&x("N 4"), &[], node("Unsqueeze", "", &["x"], &["y"], vec![ints("axes", &[0, 3])])),
            "1 N 4 1",
        ),
        (
            "reduce",
            one(
                &x("N 4 5"),
                &[],
                node("ReduceMean", "", &["x"], &["y"], vec![ints("axes", &[-1]), int("keepdims", 0)]),
            ),
            "N 4",
        ),
        ("argmax", one(&x("N 4 5"), &[], node("ArgMax", "", &["x"], &["y"], vec![int("axis", 1)])), "N 1 5"),
        ("pad", one(&x("N 4"), &[("p", i64s(&[0, 1, 0, 2]))], node("Pad", "", &["x", "p"], &["y"], vec![])), "N 7"),
        (
            "expand",
            one(&x("N 1"), &[("s", i64s(&[3, 1, 5]))], node("Expand", "", &["x", "s"], &["y"], vec![])),
            "3 N 5",
        ),
        (
            "resize by scales",
            one(
                &x("N 3 10 10"),
                &[("s", Tensor::new(&[4], &[1.0_f32, 1.0, 2.0, 1.5]))],
                node("Resize", "", &["x", "", "s"], &["y"], vec![]),
            ),
            "N 3 20 15",
        ),
        (
            "lstm",
            one(
                &x("T N 5"),
                &[("w", f32s(&[1, 16, 5])), ("r", f32s(&[1, 16, 4]))],
                node("LSTM", "", &["x", "w", "r"], &["y"], vec![int("hidden_size", 4)]),
            ),
            "T 1 N 4",
        ),
        ("top k", one(&x("N 9"), &[("k", i64s(&[3]))], node("TopK", "", &["x", "k"], &["y"], vec![])), "N 3"),
        ("broadcast", one(&x("N 1 4"), &[("c", f32s(&[5, 1]))], node("Add", "", &["x", "c"], &["y"], vec![])), "N 5 4"),
    ];
    for (name, got, want) in cases {
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn a_shape_computed_inside_the_graph_is_followed() {
    let nodes = vec![
        node("Shape", "", &["x"], &["shape"], vec![]),
        node("Gather", "", &["shape", "zero"], &["batch"], vec![]),
        node("Unsqueeze", "", &["batch", "axis"], &["batch1"], vec![]),
        node("Concat", "", &["batch1", "rest"], &["target"], vec![int("axis", 0)]),
        node("Reshape", "", &["x", "target"], &["y"], vec![]),
    ];
    let constants = [("zero", Tensor::scalar(0_i64)), ("axis", i64s(&[0])), ("rest", i64s(&[-1, 8]))];
    let model = model(&[("x", "N 4 16")], &constants, nodes);
    assert_eq!(shape(&model, "y"), "N 8 8");
}

#[test]
fn padding_as_pytorch_exports_it_is_followed_through_a_matrix() {
    let zeros = AttributeProto {
        name: Some("value".to_owned()),
        t: Some(i64s(&[0]).to_proto("")),
        ..AttributeProto::default()
    };
    let nodes = vec![
        node("ConstantOfShape", "", &["two"], &["zeros"], vec![zeros]),
        node("Concat", "", &["last", "zeros"], &["flat"], vec![int("axis", 0)]),
        node("Reshape", "", &["flat", "pairs"], &["matrix"], vec![]),
        node("Slice", "", &["matrix", "minus", "lowest", "axis", "minus"], &["reversed"], vec![]),
        node("Transpose", "", &["reversed"], &["turned"], vec![ints("perm", &[1, 0])]),
        node("Reshape", "", &["turned", "minus"], &["pads"], vec![]),
        node("Pad", "", &["x", "pads"], &["y"], vec![]),
    ];
    let constants = [
        ("two", i64s(&[2])),
        ("last", i64s(&[3, 4])),
        ("pairs", i64s(&[-1, 2])),
        ("minus", i64s(&[-1])),
        ("lowest", i64s(&[i64::MIN])),
        ("axis", i64s(&[0])),
    ];
    let model = model(&[("x", "N 10")], &constants, nodes);
    assert_eq!(shape(&model, "y"), "N 17");
}

#[test]
fn given_shapes_bind_the_symbols_of_other_inputs() {
    let nodes = vec![node("Add", "", &["a", "b"], &["y"], vec![])];
    let model = model(&[("a", "B S"), ("b", "B S")], &[], nodes);
    let options = InferOptions { input_shapes: [("a".to_owned(), vec![2, 9])].into(), facts: None };
    assert_eq!(shape_with(&model, "b", &options), "2 9");
    let wrong = InferOptions { input_shapes: [("q".to_owned(), vec![2])].into(), facts: None };
    assert!(matches!(infer(&model, &wrong), Err(InferError::NoSuchInput { .. })));
    let rank = InferOptions { input_shapes: [("a".to_owned(), vec![2])].into(), facts: None };
    assert!(matches!(infer(&model, &rank), Err(InferError::Rank { declared: 2, given: 1, .. })));
}

#[test]
fn a_wrong_declaration_does_not_beat_a_derivation() {
    let mut model = model(
        &[("x", "N 4")],
        &[],
        vec![node("Relu", "", &["x"], &["h"], vec![]), node("Relu", "", &["h"], &["y"], vec![])],
    );
    model.graph_mut().value_info.push(input("h", "1 99"));
    model.graph_mut().output[0] = input("y", "7 7 7");
    let inference = infer(&model, &InferOptions::default()).unwrap();
    assert_eq!(shape(&model, "y"), "N 4");
    assert!(!inference.rests_on_declaration("y"));
}

#[test]
fn behind_an_unknown_operator_a_declaration_helps_but_is_marked() {
    let mut strange = node("Strange", "", &["x"], &["h"], vec![]);
    strange.domain = Some("acme".to_owned());
    let mut model = model(&[("x", "N 4")], &[], vec![strange, node("Relu", "", &["h"], &["y"], vec![])]);
    model.graph_mut().output.clear();
    assert_eq!(shape(&model, "y"), "none");
    model.graph_mut().value_info.push(input("h", "2 3"));
    let inference = infer(&model, &InferOptions::default()).unwrap();
    assert_eq!(shape(&model, "y"), "2 3");
    assert!(inference.rests_on_declaration("y"));
    assert_eq!(inference.unknown_ops.get("acme.Strange"), Some(&1));
    let mut facts = Facts::default();
    facts.insert("h", TensorFact { dtype: DType::F32, shape: vec![Some(5), None] });
    let options = InferOptions { facts: Some(&facts), ..InferOptions::default() };
    assert_eq!(shape_with(&model, "y", &options), "5 ?");
    assert!(!infer(&model, &options).unwrap().rests_on_declaration("y"));
}

#[test]
fn question_marks_are_not_one_symbol() {
    let model = model(&[("x", "-1 3 ? ?")], &[], vec![node("Relu", "", &["x"], &["y"], vec![])]);
    assert_eq!(shape(&model, "y"), "x.0 3 x.2 x.3");
}

#[test]
fn shapes_are_read_as_typed() {
    assert_eq!(parse_shape("input:0=1x3x224x224").unwrap(), ("input:0".to_owned(), vec![1, 3, 224, 224]));
    for bad in ["x", "=1", "x=", "x=1xa", "x=-1"] {
        assert!(parse_shape(bad).is_err(), "{bad}");
    }
}

#[test]
fn hostile_attributes_do_not_panic() {
    let extreme = [i64::MIN, -1, 0, i64::MAX];
    for op in [
        "Conv",
        "MaxPool",
        "ConvTranspose",
        "Slice",
        "Split",
        "Concat",
        "Flatten",
        "Transpose",
        "Gather",
        "TopK",
        "Pad",
        "Squeeze",
        "Unsqueeze",
        "DepthToSpace",
        "ReduceSum",
        "OneHot",
        "GatherND",
        "LSTM",
        "Shape",
        "Resize",
    ] {
        for v in extreme {
            let list = |n: &str| ints(n, &[v, v]);
            let mut attributes: Vec<_> = [
                "kernel_shape",
                "strides",
                "dilations",
                "starts",
                "ends",
                "axes",
                "perm",
                "split",
                "output_shape",
                "output_padding",
            ]
            .map(list)
            .into();
            attributes.push(ints("pads", &[v; 4]));
            attributes.extend(
                ["axis", "blocksize", "k", "batch_dims", "hidden_size", "group", "start", "end"].map(|n| int(n, v)),
            );
            let constants = [("w", f32s(&[2, 2, 1, 1])), ("i", i64s(&[v, v]))];
            for second in ["w", "i"] {
                let model = model(
                    &[("x", "1 2 4 4")],
                    &constants,
                    vec![node(op, "", &["x", second, "i", "i", "i"], &["y"], attributes.clone())],
                );
                infer(&model, &InferOptions::default()).unwrap();
            }
        }
    }
}

#[test]
fn decoding_and_inferring_an_empty_graph_is_no_error() {
    let empty = Model::from_proto(ModelProto::default());
    assert_eq!(infer(&empty, &InferOptions::default()).unwrap().iter().count(), 0);
    assert!(Model::from_bytes(Bytes::new(), Path::new("x")).is_err());
}
