//! 4-bit blocks against a scalar reference of the same codes, on every engine at hand.

use bakehouse::model::edit::int_attribute;
use bakehouse::model::infer::Inference;
use bakehouse::model::onnx::NodeProto;
use bakehouse::model::stats::Stats;
use bakehouse::optimizer::int8::{BlockPlan, Int4Blocks, block_sites};

use super::*;

/// Relative RMS error that float arithmetic in another order may have; tract holds scales of blocks of 32 in half precision.
const FLOAT: f64 = 1e-3;

/// The same with activations in 8 bits, one scale per block.
const ROUNDED: f64 = 3e-2;

fn blocks(output: &str, size: usize, accuracy_level: i64) -> Int4Blocks {
    Int4Blocks { nodes: vec![BlockPlan { output: output.into(), size }], accuracy_level }
}

/// The pass for every site, as the search makes it.
fn everywhere(model: &Model) -> Int4Blocks {
    let sites = block_sites(model, &Facts::default(), &Exclude::default());
    let nodes = sites.into_iter().map(|s| BlockPlan { output: s.output, size: s.size }).collect();
    Int4Blocks { nodes, accuracy_level: 4 }
}

fn constant(model: &Model, name: &str) -> Tensor {
    Tensor::from_proto(model.graph().initializer.iter().find(|t| t.name() == name).unwrap()).unwrap()
}

fn packed(model: &Model) -> &NodeProto {
    model.graph().node.iter().find(|n| n.op_type() == "MatMulNBits").unwrap()
}

/// `[k, n]` weights that a `MatMulNBits` stands for, read off its own constants.
fn restored(model: &Model, node: &NodeProto) -> Vec<f32> {
    let size = |name| int_attribute(node, name, 0) as usize;
    let (k, n, block) = (size("K"), size("N"), size("block_size"));
    let (codes, scales) = (constant(model, &node.input[1]), constant(model, &node.input[2]));
    assert_eq!(codes.shape(), [n, k.div_ceil(block), block / 2]);
    assert_eq!(scales.shape(), [n * k.div_ceil(block)]);
    let (codes, scales) = (codes.values::<u8>().unwrap(), scales.to_f32());
    let mut weights = vec![0.0; k * n];
    for row in 0..k {
        for column in 0..n {
            let place = column * k.div_ceil(block) + row / block;
            let byte = codes[place * block / 2 + row % block / 2];
            let code = if row % 2 == 0 { byte & 15 } else { byte >> 4 };
            weights[row * n + column] = (f32::from(code) - 8.0) * scales[place];
        }
    }
    weights
}

fn product_of(k: usize, n: usize, batch: &[usize]) -> (Model, Feed) {
    let shape = |last: usize| -> Vec<usize> { batch.iter().copied().chain([3, last]).collect() };
    let dims = |last: usize| -> Vec<String> { shape(last).iter().map(ToString::to_string).collect() };
    let (inputs, outputs) = (dims(k), dims(n));
    let model = Builder::new(17)
        .input("x", DType::F32, &inputs.iter().map(String::as_str).collect::<Vec<_>>())
        .initializer("w", tensor(&[k, n], (k * 131 + n) as u64))
        .node("MatMul", &["x", "w"], "y", vec![])
        .output("y", DType::F32, &outputs.iter().map(String::as_str).collect::<Vec<_>>())
        .build();
    (model, feed("x", tensor(&shape(k), 9)))
}

#[test]
fn every_engine_computes_what_the_codes_say_over_a_grid_of_odd_sizes() {
    for (k, n) in
        [(1, 1), (15, 2), (16, 1), (31, 7), (32, 1), (33, 5), (48, 64), (70, 3), (127, 2), (128, 16), (200, 1)]
    {
        for size in [16, 32, 64, 128] {
            for (batch, accuracy_level) in [(&[][..], 0), (&[2], 1), (&[2, 3], 4)] {
                let (model, feed) = product_of(k, n, batch);
                let baked = applied(&model, &blocks("y", size, accuracy_level));
                let mut reference = model.clone();
                let weights = Tensor::new(&[k, n], &restored(&baked, packed(&baked)));
                reference.graph_mut().initializer[0] = weights.to_proto("w");
                let difference = difference(&reference, &baked, &feed);
                let most = if accuracy_level == 4 { ROUNDED } else { FLOAT };
                assert!(difference < most, "{k} x {n}, blocks of {size}, batch {batch:?}: {difference}");
                assert!(super::difference(&model, &baked, &feed) < 0.3, "{k} x {n}, blocks of {size}");
            }
        }
    }
}

#[test]
fn factors_and_biases_of_a_gemm_come_along() {
    let model = Builder::new(13)
        .input("x", DType::F32, &["3", "64"])
        .initializer("w", tensor(&[40, 64], 3))
        .initializer("b", tensor(&[40], 4))
        .node("Gemm", &["x", "w", "b"], "y", vec![int("transB", 1), float("alpha", 0.5), float("beta", 3.0)])
        .output("y", DType::F32, &["3", "40"])
        .build();
    let baked = applied(&model, &blocks("y", 32, 1));
    assert_eq!(ops(&baked), ["MatMulNBits", "Add"]);
    assert_eq!(baked.opset("com.microsoft"), Some(1));
    assert_eq!(baked.opset(""), Some(13), "ONNX's own opset stays");
    assert!(["w", "b"].iter().all(|name| initializer_type(&baked, name).is_none()));
    let weights = restored(&baked, packed(&baked));
    let mut reference = model.clone();
    let transposed: Vec<f32> = (0..40 * 64).map(|at| 2.0 * weights[at % 64 * 40 + at / 64]).collect();
    reference.graph_mut().initializer[0] = Tensor::new(&[40, 64], &transposed).to_proto("w");
    let difference = difference(&reference, &baked, &feed("x", tensor(&[3, 64], 9)));
    assert!(difference < FLOAT, "{difference}");
}

#[test]
fn a_bias_that_is_added_behind_stays_an_add_and_a_weight_of_two_products_is_packed_once() {
    let model = Builder::new(17)
        .input("x", DType::F32, &["3", "64"])
        .initializer("w", tensor(&[64, 64], 1))
        .initializer("b", tensor(&[64], 2))
        .node("MatMul", &["x", "w"], "m", vec![])
        .node("Add", &["m", "b"], "a", vec![])
        .node("MatMul", &["a", "w"], "y", vec![])
        .output("y", DType::F32, &["3", "64"])
        .build();
    let baked = applied(&model, &everywhere(&model));
    assert_eq!(ops(&baked), ["MatMulNBits", "Add", "MatMulNBits"]);
    assert_eq!(baked.graph().initializer.len(), 3, "codes, scales, bias");
    assert!(baked.to_bytes().len() * 5 < model.to_bytes().len());
    let stats = Stats::of(&baked, &Inference::default());
    assert_eq!(stats.parameters.all, 64 * 64 + 64, "two weights to a byte are still two");
}

#[test]
fn what_has_no_form_in_blocks_is_left_with_a_reason() {
    let vector = Builder::new(17)
        .input("x", DType::F32, &["64"])
        .initializer("w", tensor(&[64, 32], 1))
        .node("MatMul", &["x", "w"], "y", vec![])
        .output("y", DType::F32, &["32"])
        .build();
    let mut facts = Facts::default();
    facts.merge("x", DType::F32, &[64]);
    assert_eq!(block_sites(&vector, &facts, &Exclude::default()), []);
    let effect = blocks("y", 32, 4).apply(&mut vector.clone(), &mut facts).unwrap();
    assert!(matches!(effect, Effect::Skipped { reason } if reason.contains("is a vector")));

    let (_, convolution, ..) = every_operator().into_iter().find(|(name, ..)| *name == "grouped Conv").unwrap();
    assert!(skipped(&convolution, &blocks("y", 32, 4)).contains("no form in 4-bit blocks"));
    assert!(skipped(&convolution, &blocks("z", 32, 4)).contains("no listed node"));
    let (narrow, _) = product_of(4, 4, &[]);
    assert_eq!(block_sites(&narrow, &Facts::default(), &Exclude::default()), [], "a block would take more than 8 bits");
    for size in [0, 8, 48] {
        let (mut model, _) = product_of(64, 32, &[]);
        let error = blocks("y", size, 4).apply(&mut model, &mut Facts::default()).unwrap_err().to_string();
        assert!(error.contains("no size of blocks"), "{error}");
    }
}
