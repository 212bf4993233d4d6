use super::*;
use crate::model::onnx::AttributeProto;

fn run(op: &str, inputs: &[Tensor], attributes: Vec<AttributeProto>) -> Option<Tensor> {
    let node = edit::node(op, "n", &[], &["y"], attributes);
    let inputs: Vec<_> = inputs.iter().cloned().map(Some).collect();
    evaluate(&Call { node: &node, inputs: &inputs, opset: 17, limit: 1 << 20 }).map(|mut o| o.remove(0))
}

fn i(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::new(shape, values)
}

fn f(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::new(shape, values)
}

#[test]
fn operators_follow_the_onnx_definitions() {
    let six = || i(&[2, 3], &[1, 2, 3, 4, 5, 6]);
    let cases: Vec<(&str, Vec<Tensor>, Vec<AttributeProto>, Tensor)> = vec![
        ("Shape", vec![six()], vec![edit::int("start", -1)], i(&[1], &[3])),
        ("Size", vec![six()], vec![], Tensor::scalar(6_i64)),
        ("ConstantOfShape", vec![i(&[1], &[2])], vec![], f(&[2], &[0.0, 0.0])),
        ("Gather", vec![six(), i(&[2], &[-1, 0])], vec![edit::int("axis", 1)], i(&[2, 2], &[3, 1, 6, 4])),
        ("Gather", vec![i(&[2], &[7, 8]), Tensor::scalar(1_i64)], vec![], Tensor::scalar(8_i64)),
        ("Concat", vec![i(&[1, 2], &[1, 2]), i(&[1, 1], &[3])], vec![edit::int("axis", -1)], i(&[1, 3], &[1, 2, 3])),
        (
            "Slice",
            vec![i(&[4], &[0, 1, 2, 3]), i(&[1], &[-1]), i(&[1], &[i64::MIN]), i(&[1], &[0]), i(&[1], &[-2])],
            vec![],
            i(&[2], &[3, 1]),
        ),
        ("Slice", vec![six(), i(&[1], &[1]), i(&[1], &[i64::MAX]), i(&[1], &[1])], vec![], i(&[2, 2], &[2, 3, 5, 6])),
        ("Reshape", vec![six(), i(&[2], &[0, -1])], vec![], six()),
        ("Flatten", vec![six()], vec![edit::int("axis", 0)], i(&[1, 6], &[1, 2, 3, 4, 5, 6])),
        ("Unsqueeze", vec![i(&[2], &[1, 2]), i(&[2], &[0, -1])], vec![], i(&[1, 2, 1], &[1, 2])),
        ("Squeeze", vec![i(&[1, 2, 1], &[1, 2])], vec![], i(&[2], &[1, 2])),
        ("Transpose", vec![six()], vec![], i(&[3, 2], &[1, 4, 2, 5, 3, 6])),
        ("Div", vec![i(&[2], &[-7, 7]), Tensor::scalar(2_i64)], vec![], i(&[2], &[-3, 3])),
        ("Mod", vec![i(&[2], &[-7, 7]), i(&[2], &[3, -3])], vec![], i(&[2], &[2, -2])),
        ("Mod", vec![i(&[2], &[-7, 7]), i(&[2], &[3, -3])], vec![edit::int("fmod", 1)], i(&[2], &[-1, 1])),
        ("Add", vec![f(&[2, 1], &[1.0, 2.0]), f(&[2], &[10.0, 20.0])], vec![], f(&[2, 2], &[11.0, 21.0, 12.0, 22.0])),
        ("Max", vec![f(&[2], &[1.0, 5.0]), f(&[1], &[3.0])], vec![], f(&[2], &[3.0, 5.0])),
        ("Less", vec![i(&[2], &[1, 2]), Tensor::scalar(2_i64)], vec![], Tensor::from_bools(&[2], &[true, false])),
        ("Not", vec![Tensor::from_bools(&[2], &[true, false])], vec![], Tensor::from_bools(&[2], &[false, true])),
        (
            "Where",
            vec![Tensor::from_bools(&[2], &[true, false]), i(&[2], &[1, 2]), Tensor::scalar(9_i64)],
            vec![],
            i(&[2], &[1, 9]),
        ),
        ("Cast", vec![f(&[2], &[-1.9, 1.9])], vec![edit::int("to", 7)], i(&[2], &[-1, 1])),
        ("Expand", vec![i(&[2, 1], &[1, 2]), i(&[1], &[2])], vec![], i(&[2, 2], &[1, 1, 2, 2])),
        ("Tile", vec![i(&[1, 2], &[1, 2]), i(&[2], &[2, 2])], vec![], i(&[2, 4], &[1, 2, 1, 2, 1, 2, 1, 2])),
        (
            "Range",
            vec![Tensor::scalar(5_i64), Tensor::scalar(0_i64), Tensor::scalar(-2_i64)],
            vec![],
            i(&[3], &[5, 3, 1]),
        ),
        ("ReduceProd", vec![six()], vec![edit::int("keepdims", 0)], Tensor::scalar(720_i64)),
        (
            "ReduceMean",
            vec![f(&[2, 2], &[1.0, 3.0, 5.0, 7.0])],
            vec![edit::ints("axes", &[-1])],
            f(&[2, 1], &[2.0, 6.0]),
        ),
        ("Pad", vec![i(&[2], &[1, 2]), i(&[2], &[1, 2]), Tensor::scalar(9_i64)], vec![], i(&[5], &[9, 1, 2, 9, 9])),
        (
            "OneHot",
            vec![i(&[2], &[1, -1]), Tensor::scalar(3_i64), f(&[2], &[0.0, 1.0])],
            vec![],
            f(&[2, 3], &[0.0, 1.0, 0.0, 0.0, 0.0, 1.0]),
        ),
        ("NonZero", vec![i(&[2, 2], &[0, 1, 2, 0])], vec![], i(&[2, 2], &[0, 1, 1, 0])),
        ("ScatterND", vec![i(&[3], &[1, 2, 3]), i(&[1, 1], &[1]), i(&[1], &[9])], vec![], i(&[3], &[1, 9, 3])),
        ("Trilu", vec![i(&[2, 2], &[1, 2, 3, 4])], vec![edit::int("upper", 0)], i(&[2, 2], &[1, 0, 3, 4])),
        ("EyeLike", vec![i(&[2, 2], &[5, 5, 5, 5])], vec![edit::int("k", 1)], i(&[2, 2], &[0, 1, 0, 0])),
    ];
    for (op, inputs, attributes, expected) in cases {
        let got = run(op, &inputs, attributes).unwrap_or_else(|| panic!("{op} is not evaluated"));
        assert_eq!(got, expected, "{op}: {:?} against {:?}", got.to_f64(), expected.to_f64());
    }
}

#[test]
fn split_gives_every_part() {
    let node = edit::node("Split", "n", &["x"], &["a", "b"], vec![edit::int("axis", 1)]);
    let inputs = [Some(i(&[2, 3], &[1, 2, 3, 4, 5, 6]))];
    let parts = evaluate(&Call { node: &node, inputs: &inputs, opset: 18, limit: 1 << 20 }).unwrap();
    assert_eq!(parts, [i(&[2, 2], &[1, 2, 4, 5]), i(&[2, 1], &[3, 6])]);
}

#[test]
fn what_is_undefined_or_too_big_is_not_evaluated() {
    assert_eq!(run("Div", &[i(&[1], &[1]), i(&[1], &[0])], vec![]), None);
    assert_eq!(run("Cast", &[f(&[1], &[f32::NAN])], vec![edit::int("to", 7)]), None);
    assert_eq!(run("Gather", &[i(&[2], &[1, 2]), i(&[1], &[2])], vec![]), None);
    assert_eq!(run("ConstantOfShape", &[i(&[3], &[1 << 20, 1 << 20, 1 << 20])], vec![]), None);
    assert_eq!(run("Expand", &[i(&[1], &[1]), i(&[1], &[1 << 40])], vec![]), None);
    assert_eq!(run("DequantizeLinear", &[i(&[1], &[1]), f(&[1], &[0.5])], vec![]), None);
}
