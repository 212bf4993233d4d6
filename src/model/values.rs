//! Constants whose values make a model worthless: NaN anywhere, infinities in weights.
//!
//! A lone infinity is legitimate (an attention mask adds `-inf`, a reduction starts from it), so infinities count only inside tensors that a layer
//! multiplies by.

use std::collections::BTreeMap;

use super::edit::{is_op, subgraphs};
use super::onnx::{GraphProto, NodeProto, TensorProto};
use super::{DType, Model, ModelError, verify};

/// How many values of a constant are not finite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct NonFinite {
    nan: usize,
    infinite: usize,
}

impl Model {
    /// The part of [`Model::verify`] that reads every weight once.
    pub(super) fn check_values(&self) -> Result<(), ModelError> {
        verify::check_constant_shapes(self)?;
        in_graph(self.graph())
    }
}

/// The inputs that are multiplied with, by operator.
fn weight_inputs(node: &NodeProto) -> &'static [usize] {
    const WEIGHTS: &[(&str, &[usize])] = &[
        ("MatMul", &[0, 1]),
        ("Gemm", &[0, 1]),
        ("Conv", &[1]),
        ("ConvTranspose", &[1]),
        ("LSTM", &[1, 2]),
        ("GRU", &[1, 2]),
        ("RNN", &[1, 2]),
    ];
    WEIGHTS.iter().find(|(op, _)| is_op(node, op)).map_or(&[], |(_, inputs)| inputs)
}

fn in_graph(graph: &GraphProto) -> Result<(), ModelError> {
    let mut infinite: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let constants = graph
        .node
        .iter()
        .filter(|n| is_op(n, "Constant"))
        .filter_map(|n| Some((n.output.first()?.as_str(), n.attribute.first()?.t.as_ref()?)));
    for (name, tensor) in graph.initializer.iter().map(|t| (t.name(), t)).chain(constants) {
        let found = count(tensor);
        let elements = tensor.dims.iter().product::<i64>() as usize;
        if found.nan > 0 {
            return Err(ModelError::NotANumber { name: name.to_owned(), count: found.nan, elements });
        }
        if found.infinite > 0 && elements > 1 {
            infinite.insert(name, (found.infinite, elements));
        }
    }
    for node in &graph.node {
        for input in weight_inputs(node).iter().filter_map(|&i| node.input.get(i)) {
            if let Some(&(count, elements)) = infinite.get(input.as_str()) {
                return Err(ModelError::Infinite {
                    name: input.clone(),
                    node: super::edit::label(node),
                    count,
                    elements,
                });
            }
        }
        subgraphs(node).try_for_each(in_graph)?;
    }
    Ok(())
}

fn count(tensor: &TensorProto) -> NonFinite {
    let Some(dtype) = DType::from_onnx(tensor.data_type()).filter(|d| d.is_float()) else {
        return NonFinite::default();
    };
    // By bits: sign off, then at or above the exponent of all ones. The pattern of the infinity itself is that exponent with an empty fraction.
    if let Some(raw) = &tensor.raw_data {
        return match dtype {
            DType::F32 => tally(raw.as_chunks::<4>().0, |b| u32::from_le_bytes(*b) & 0x7fff_ffff, 0x7f80_0000),
            DType::F64 => tally(raw.as_chunks::<8>().0, |b| u64::from_le_bytes(*b) & !(1 << 63), 0x7ff0_0000_0000_0000),
            DType::F16 => tally(raw.as_chunks::<2>().0, |b| u16::from_le_bytes(*b) & 0x7fff, 0x7c00),
            _ => tally(raw.as_chunks::<2>().0, |b| u16::from_le_bytes(*b) & 0x7fff, 0x7f80),
        };
    }
    match dtype {
        DType::F32 => tally(&tensor.float_data, |v| v.to_bits() & 0x7fff_ffff, 0x7f80_0000),
        DType::F64 => tally(&tensor.double_data, |v| v.to_bits() & !(1 << 63), 0x7ff0_0000_0000_0000),
        DType::F16 => tally(&tensor.int32_data, |v| *v as u16 & 0x7fff, 0x7c00),
        _ => tally(&tensor.int32_data, |v| *v as u16 & 0x7fff, 0x7f80),
    }
}

fn tally<T, B: Ord + Copy>(values: &[T], magnitude: impl Fn(&T) -> B, infinity: B) -> NonFinite {
    // Nearly always nothing is found: the first look is one compare per value.
    let suspects = values.iter().map(|v| usize::from(magnitude(v) >= infinity)).sum::<usize>();
    if suspects == 0 {
        return NonFinite::default();
    }
    let nan = values.iter().filter(|v| magnitude(v) > infinity).count();
    NonFinite { nan, infinite: suspects - nan }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::model::{Tensor, build::Builder};

    #[test]
    fn every_float_type_is_counted_raw_and_typed() {
        let expected = NonFinite { nan: 1, infinite: 2 };
        let f32s = [1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX];
        let f64s = f32s.map(f64::from);
        assert_eq!(count(&Tensor::new(&[5], &f32s).to_proto("t")), expected);
        assert_eq!(count(&Tensor::new(&[5], &f64s).to_proto("t")), expected);
        assert_eq!(
            count(&Tensor::new(&[4], &[f16::NAN, f16::INFINITY, f16::NEG_INFINITY, f16::MAX]).to_proto("t")),
            expected
        );
        assert_eq!(
            count(&Tensor::new(&[4], &[bf16::NAN, bf16::INFINITY, bf16::NEG_INFINITY, bf16::MAX]).to_proto("t")),
            expected
        );
        assert_eq!(count(&Tensor::new(&[1], &[-1_i32]).to_proto("t")), NonFinite::default());
        let typed = TensorProto {
            data_type: Some(DType::F16.to_onnx()),
            int32_data: vec![0x7e00, 0x7c00, 0xfc00],
            ..TensorProto::default()
        };
        assert_eq!(count(&typed), expected);
    }

    #[test]
    fn an_infinite_mask_is_fine_and_an_infinite_weight_is_not() {
        let model = |op: &str| {
            Builder::new(17)
                .input("x", DType::F32, &["2", "2"])
                .initializer("w", Tensor::new(&[2, 2], &[0.0, f32::NEG_INFINITY, 0.0, 0.0]))
                .node(op, &["x", "w"], "y", vec![])
                .output("y", DType::F32, &["2", "2"])
                .build()
        };
        model("Add").verify().unwrap();
        let error = model("MatMul").verify().unwrap_err().to_string();
        assert_eq!(
            error,
            "weight 'w' of node 'MatMul_0' holds 1 infinite values among its 4. Train or export the model again."
        );
    }
}
