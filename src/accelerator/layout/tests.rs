use super::*;
use crate::model::build::Builder;
use crate::model::onnx::NodeProto;
use crate::model::{DType, Tensor};

const TO_LAST: &[i64] = &[0, 2, 3, 1];
const TO_FIRST: &[i64] = &[0, 3, 1, 2];

fn transpose(perm: &[i64]) -> Vec<crate::model::onnx::AttributeProto> {
    vec![edit::ints("perm", perm)]
}

fn apply(mut model: Model) -> (Model, Effect) {
    let effect = ConvertLayout.apply(&mut model, &mut Facts::default()).unwrap();
    (model, effect)
}

fn ops(model: &Model) -> Vec<&str> {
    model.graph().node.iter().map(NodeProto::op_type).collect()
}

#[test]
fn a_pair_around_elementwise_operators_cancels() {
    let bias: Vec<f32> = (0..3_u8).map(f32::from).collect();
    let (model, _) = apply(
        Builder::new(17)
            .input("x", DType::F32, &["N", "3", "4", "4"])
            .initializer("b", Tensor::new(&[3], &bias))
            .initializer("pads", Tensor::new(&[8], &[0_i64, 1, 2, 0, 0, 3, 4, 0]))
            .node("Transpose", &["x"], "a", transpose(TO_LAST))
            .node("Add", &["a", "b"], "c", vec![])
            .node("Pad", &["c", "pads"], "d", vec![])
            .node("Relu", &["d"], "e", vec![])
            .node("Transpose", &["e"], "y", transpose(TO_FIRST))
            .output("y", DType::F32, &["N", "3", "8", "10"])
            .build(),
    );
    assert_eq!(ops(&model), ["Add", "Pad", "Relu"]);
    assert_eq!(model.output_names(), ["y"]);
    let bias = model.graph().initializer.iter().find(|t| t.name() == model.graph().node[0].input[1]).unwrap();
    assert_eq!(bias.dims, [1, 3, 1, 1]);
    let pads = model.graph().initializer.iter().find(|t| t.name() == model.graph().node[1].input[1]).unwrap();
    assert_eq!(&*Tensor::from_proto(pads).unwrap().to_i64().unwrap(), &[0, 0, 1, 2, 0, 0, 3, 4]);
}

#[test]
fn two_transposed_operands_need_one_transpose_behind() {
    let (model, _) = apply(
        Builder::new(17)
            .input("x", DType::F32, &["N", "3", "4", "4"])
            .input("z", DType::F32, &["N", "3", "4", "4"])
            .node("Transpose", &["x"], "a", transpose(TO_LAST))
            .node("Transpose", &["z"], "b", transpose(TO_LAST))
            .node("Concat", &["a", "b"], "y", vec![edit::int("axis", -1)])
            .output("y", DType::F32, &["N", "4", "4", "6"])
            .build(),
    );
    assert_eq!(ops(&model), ["Concat", "Transpose"]);
    assert_eq!(edit::int_attribute(&model.graph().node[0], "axis", 0), 1);
    assert_eq!(edit::ints_attribute(&model.graph().node[1], "perm"), Some(TO_LAST));
}

#[test]
fn a_mean_over_the_moved_axes_takes_the_transpose_in() {
    let (model, _) = apply(
        Builder::new(17)
            .input("x", DType::F32, &["N", "3", "4", "4"])
            .node("Transpose", &["x"], "a", transpose(TO_LAST))
            .node("Relu", &["a"], "b", vec![])
            .node("ReduceMean", &["b"], "y", vec![edit::ints("axes", &[1, 2]), edit::int("keepdims", 0)])
            .output("y", DType::F32, &["N", "3"])
            .build(),
    );
    assert_eq!(ops(&model), ["Relu", "ReduceMean"]);
    assert_eq!(edit::ints_attribute(&model.graph().node[1], "axes"), Some(&[2, 3][..]));
}

#[test]
fn a_move_that_saves_nothing_is_not_made() {
    let model = Builder::new(17)
        .input("x", DType::F32, &["N", "3", "4", "4"])
        .node("Transpose", &["x"], "a", transpose(TO_LAST))
        .node("Relu", &["a"], "b", vec![])
        .node("Flatten", &["b"], "y", vec![])
        .output("y", DType::F32, &["N", "48"])
        .build();
    let (edited, effect) = apply(model.clone());
    assert_eq!(edited.graph(), model.graph());
    assert!(matches!(effect, Effect::Skipped { .. }));
}

#[test]
fn a_tensor_that_others_read_transposed_keeps_its_transpose() {
    let (model, _) = apply(
        Builder::new(17)
            .input("x", DType::F32, &["N", "3", "4", "4"])
            .node("Transpose", &["x"], "a", transpose(TO_LAST))
            .node("Relu", &["a"], "b", vec![])
            .node("Transpose", &["b"], "y", transpose(TO_FIRST))
            .node("Flatten", &["b"], "z", vec![])
            .output("y", DType::F32, &["N", "3", "4", "4"])
            .output("z", DType::F32, &["N", "48"])
            .build(),
    );
    assert_eq!(ops(&model), ["Relu", "Transpose", "Flatten"]);
}
