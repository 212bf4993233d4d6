//! The constants of a model: what each is for, and how many of its elements are zero.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;

use super::super::edit::{constant_value, int_attribute, is_op, subgraphs};
use super::super::onnx::{GraphProto, NodeProto, TensorProto, tensor_proto::DataType};
use super::super::{DType, Tensor};

/// What a constant is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A weight.
    Parameter,
    /// A scale or zero point.
    Quantization,
    /// A shape, axis, index, text.
    Other,
}

/// One constant, counted.
pub(super) struct Constant {
    pub(super) name: String,
    pub(super) data_type: i32,
    pub(super) shape: Vec<usize>,
    pub(super) elements: usize,
    pub(super) non_zero: usize,
    pub(super) bytes: usize,
    pub(super) role: Role,
}

/// Where the zero point of a quantised weight is found.
struct ZeroPoint {
    name: String,
    /// Axis that a vector of zero points runs along; negative counts from the end.
    axis: i64,
    /// Elements per zero point along the axis, for blocked quantisation; 0 otherwise.
    block: usize,
}

/// How the nodes use the constants.
#[derive(Default)]
struct Uses {
    /// Names read as scale or zero point.
    quantization: BTreeSet<String>,
    /// Names read as anything else.
    plain: BTreeSet<String>,
    /// int32 names read as a quantised bias.
    bias: BTreeSet<String>,
    zero_points: BTreeMap<String, ZeroPoint>,
    /// Weights packed into bytes.
    packed: BTreeMap<String, Packed>,
}

/// Codes of a `MatMulNBits`, several to a byte, low bits first; each of `rows` is filled up to whole blocks.
struct Packed {
    rows: usize,
    depth: usize,
    bits: usize,
    /// Whether the code of 0 is that in the middle; zero points of its own are not looked up.
    symmetric: bool,
}

impl Packed {
    fn of(node: &NodeProto) -> Option<Self> {
        let size = |name: &str| usize::try_from(int_attribute(node, name, 0)).ok().filter(|v| *v > 0);
        let bits = usize::try_from(int_attribute(node, "bits", 4)).ok().filter(|bits| matches!(bits, 2 | 4 | 8))?;
        let symmetric = node.input.get(3).is_none_or(String::is_empty);
        Some(Self { rows: size("N")?, depth: size("K")?, bits, symmetric })
    }

    /// Codes that do not stand for zero; `None` where the bytes are not those of so many weights.
    fn non_zero(&self, bytes: &[u8]) -> Option<usize> {
        let (per_byte, zero) = (8 / self.bits, 1_u8 << (self.bits - 1));
        let mask = u8::MAX >> (8 - self.bits);
        let row = bytes.len() / self.rows;
        if row * self.rows != bytes.len() || row * per_byte < self.depth {
            return None;
        }
        let code = |row: &[u8], at: usize| row[at / per_byte] >> (at % per_byte * self.bits) & mask;
        let differing = |row: &[u8]| (0..self.depth).filter(|&at| !self.symmetric || code(row, at) != zero).count();
        Some(bytes.chunks_exact(row).map(differing).sum())
    }
}

/// Every constant of the graph and of its subgraphs: initializers, sparse initializers and `Constant` nodes.
pub(super) fn constants(graph: &GraphProto) -> Vec<Constant> {
    let (mut found, mut uses) = (Vec::new(), Uses::default());
    collect(graph, &mut found, &mut uses);
    let by_name: BTreeMap<&str, &TensorProto> = found.iter().map(|(n, t)| (n.as_str(), &**t)).collect();
    let mut counted: Vec<Constant> = found.iter().map(|(name, tensor)| count(name, tensor, &uses, &by_name)).collect();
    sparse(graph, &mut counted);
    counted
}

fn collect<'a>(graph: &'a GraphProto, found: &mut Vec<(String, Cow<'a, TensorProto>)>, uses: &mut Uses) {
    found.extend(graph.initializer.iter().map(|t| (t.name().to_owned(), Cow::Borrowed(t))));
    for node in &graph.node {
        if is_op(node, "Constant") {
            let name = node.output.first().cloned().unwrap_or_default();
            if let Some(tensor) = node.attribute.iter().find(|a| a.name() == "value").and_then(|a| a.t.as_ref()) {
                found.push((name, Cow::Borrowed(tensor)));
            } else if let Some(tensor) = constant_value(node) {
                found.push((name, Cow::Owned(tensor.to_proto(""))));
            }
        }
        record(node, uses);
        subgraphs(node).for_each(|g| collect(g, found, uses));
    }
}

fn record(node: &NodeProto, uses: &mut Uses) {
    let op = node.op_type();
    for (i, name) in node.input.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
        if is_quantization_input(op, i) {
            uses.quantization.insert(name.clone());
        } else {
            uses.plain.insert(name.clone());
            if matches!((op, i), ("DequantizeLinear", 0) | ("QLinearConv", 8) | ("QGemm", 6)) {
                uses.bias.insert(name.clone());
            }
        }
    }
    if (node.domain(), op) == ("com.microsoft", "MatMulNBits")
        && let (Some(weight), Some(packed)) = (node.input.get(1), Packed::of(node))
    {
        uses.packed.insert(weight.clone(), packed);
    }
    // Weight input, zero-point input, axis of per-channel zero points.
    let (weight, zero, axis) = match op {
        "DequantizeLinear" => (0, 2, int_attribute(node, "axis", 1)),
        "QLinearConv" => (3, 5, 0),
        "ConvInteger" => (1, 3, 0),
        "QLinearMatMul" => (3, 5, -1),
        "QGemm" => (3, 5, if int_attribute(node, "transB", 0) == 0 { -1 } else { 0 }),
        "MatMulInteger" | "DynamicQuantizeMatMul" => (1, 3, -1),
        "MatMulIntegerToFloat" => (1, 5, -1),
        "QAttention" => (1, 7, -1),
        _ => return,
    };
    if let (Some(weight), Some(zero)) = (node.input.get(weight), node.input.get(zero))
        && !zero.is_empty()
    {
        let block = usize::try_from(int_attribute(node, "block_size", 0)).unwrap_or(0);
        uses.zero_points.insert(weight.clone(), ZeroPoint { name: zero.clone(), axis, block });
    }
}

/// Whether input `i` of an operator is a scale or a zero point.
fn is_quantization_input(op: &str, i: usize) -> bool {
    match op {
        "QuantizeLinear" | "DequantizeLinear" => i >= 1,
        "QLinearConv" | "QLinearMatMul" | "QLinearAdd" | "QLinearMul" => matches!(i, 1 | 2 | 4..=7),
        "MatMulInteger" | "ConvInteger" | "DynamicQuantizeMatMul" | "MatMulNBits" => matches!(i, 2 | 3),
        "MatMulIntegerToFloat" => (2..=5).contains(&i),
        "QGemm" => matches!(i, 1 | 2 | 4 | 5 | 7 | 8),
        "QAttention" => matches!(i, 3 | 4 | 6 | 7),
        "QLinearSigmoid"
        | "QLinearLeakyRelu"
        | "QLinearSoftmax"
        | "QLinearAveragePool"
        | "QLinearGlobalAveragePool" => (1..=4).contains(&i),
        "QLinearConcat" => i < 2 || !(i - 2).is_multiple_of(3),
        "DynamicQuantizeLSTM" => i >= 8,
        _ => false,
    }
}

fn count(name: &str, tensor: &TensorProto, uses: &Uses, by_name: &BTreeMap<&str, &TensorProto>) -> Constant {
    let shape: Vec<usize> = tensor.dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
    let elements = shape.iter().fold(1_usize, |n, &d| n.saturating_mul(d));
    let data_type = tensor.data_type();
    let role = role(name, data_type, uses);
    let codes = narrow(tensor, elements);
    let numeric = if codes.is_none() { Tensor::from_proto(tensor).ok() } else { None };
    let bytes = match (bits(data_type), &numeric) {
        (Some(bits), _) => elements.saturating_mul(bits).div_ceil(8),
        (None, Some(t)) => t.bytes().len(),
        (None, None) => tensor
            .string_data
            .iter()
            .map(Vec::len)
            .sum::<usize>()
            .max(tensor.raw_data.as_ref().map_or(0, bytes::Bytes::len)),
    };
    if let Some(packed) = uses.packed.get(name)
        && let Some(non_zero) = numeric.as_ref().and_then(|t| packed.non_zero(t.bytes()))
    {
        let elements = packed.rows * packed.depth;
        return Constant { name: name.to_owned(), data_type, shape, elements, non_zero, bytes, role };
    }
    let zero_point = uses.zero_points.get(name).and_then(|z| Some((z, by_name.get(z.name.as_str()).copied()?)));
    let non_zero = match (zero_point, &codes, &numeric) {
        (Some((place, zero)), _, _) => {
            let codes = codes.or_else(|| numeric.as_ref()?.to_i64().map(std::borrow::Cow::into_owned));
            codes.and_then(|codes| differing(&codes, &shape, zero, place)).unwrap_or(elements)
        }
        (None, Some(codes), _) => codes.iter().filter(|&&c| c != 0).count(),
        (None, None, Some(t)) => non_zero(t),
        (None, None, None) => elements,
    };
    Constant { name: name.to_owned(), data_type, shape, elements, non_zero, bytes, role }
}

fn role(name: &str, data_type: i32, uses: &Uses) -> Role {
    if uses.quantization.contains(name) && !uses.plain.contains(name) {
        return Role::Quantization;
    }
    match DType::from_onnx(data_type) {
        Some(DType::I32) if uses.bias.contains(name) => Role::Parameter,
        Some(DType::I32 | DType::I64 | DType::U32 | DType::U64 | DType::Bool) => Role::Other,
        Some(_) => Role::Parameter,
        None => match DataType::try_from(data_type) {
            Ok(DataType::String | DataType::Undefined) | Err(_) => Role::Other,
            Ok(_) => Role::Parameter,
        },
    }
}

/// Bits per element of the types that [`DType`] lacks.
fn bits(data_type: i32) -> Option<usize> {
    Some(match DataType::try_from(data_type).ok()? {
        DataType::Uint4 | DataType::Int4 | DataType::Float4e2m1 => 4,
        DataType::Uint2 | DataType::Int2 => 2,
        DataType::Float6e2m3 | DataType::Float6e3m2 => 6,
        DataType::Float8e4m3fn
        | DataType::Float8e4m3fnuz
        | DataType::Float8e5m2
        | DataType::Float8e5m2fnuz
        | DataType::Float8e8m0 => 8,
        DataType::Complex64 => 64,
        DataType::Complex128 => 128,
        _ => return None,
    })
}

/// The integers of a 2- or 4-bit tensor, low bits first as ONNX packs them.
fn narrow(tensor: &TensorProto, elements: usize) -> Option<Vec<i64>> {
    let (width, signed) = match DataType::try_from(tensor.data_type()).ok()? {
        DataType::Uint4 => (4, false),
        DataType::Int4 => (4, true),
        DataType::Uint2 => (2, false),
        DataType::Int2 => (2, true),
        _ => return None,
    };
    let packed: Cow<'_, [u8]> = match &tensor.raw_data {
        Some(raw) => Cow::Borrowed(raw),
        None => tensor.int32_data.iter().map(|&v| v as u8).collect(),
    };
    let per_byte = 8 / width;
    if packed.len() < elements.div_ceil(per_byte) {
        return None;
    }
    let code = |i: usize| {
        let raw = i64::from(packed[i / per_byte] >> (i % per_byte * width)) & ((1 << width) - 1);
        if signed && raw >> (width - 1) == 1 { raw - (1 << width) } else { raw }
    };
    Some((0..elements).map(code).collect())
}

/// Elements that are neither +0 nor -0.
fn non_zero(tensor: &Tensor) -> usize {
    let bytes = tensor.bytes();
    let count = |width: usize, float: bool| {
        bytes
            .chunks_exact(width)
            .filter(|e| {
                let (last, rest) = e.split_last().expect("an element has at least one byte");
                // The sign bit of a float is the top bit of its last byte.
                (if float { last & 0x7f } else { *last }) != 0 || rest.iter().any(|&b| b != 0)
            })
            .count()
    };
    match tensor.values::<f32>() {
        Some(values) => values.iter().filter(|&&v| v != 0.0).count(),
        None => count(tensor.dtype().size(), tensor.dtype().is_float()),
    }
}

/// How many codes differ from their zero point; `None` when the zero points do not fit the shape.
fn differing(codes: &[i64], shape: &[usize], zero: &TensorProto, place: &ZeroPoint) -> Option<usize> {
    let zero_shape: Vec<usize> = zero.dims.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()?;
    let zeros = narrow(zero, zero_shape.iter().product())
        .or_else(|| Tensor::from_proto(zero).ok()?.to_i64().map(Cow::into_owned))?;
    if let [one] = zeros[..] {
        return Some(codes.iter().filter(|&&c| c != one).count());
    }
    let rank = shape.len() as i64;
    let axis = usize::try_from(if place.axis < 0 { place.axis + rank } else { place.axis })
        .ok()
        .filter(|&a| a < shape.len())?;
    let inner: usize = shape[axis + 1..].iter().product();
    let extent = shape[axis];
    let whole = NonZeroUsize::new(place.block).map(|block| (block, zero_shape.get(axis).copied().unwrap_or(1)));
    let at = |i: usize| {
        let along = i / inner.max(1) % extent.max(1);
        match whole {
            None => along,
            Some((block, blocks)) => (i / (inner * extent).max(1) * blocks + along / block) * inner + i % inner.max(1),
        }
    };
    let fits = match whole {
        None => zeros.len() == extent,
        Some(_) => zero_shape.len() == shape.len() && zeros.len() == zero_shape.iter().product::<usize>(),
    };
    if !fits {
        return None;
    }
    let mut n = 0;
    for (i, &c) in codes.iter().enumerate() {
        n += usize::from(c != *zeros.get(at(i))?);
    }
    Some(n)
}

fn sparse(graph: &GraphProto, counted: &mut Vec<Constant>) {
    for tensor in &graph.sparse_initializer {
        let Some(values) = &tensor.values else { continue };
        let shape: Vec<usize> = tensor.dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
        let stored = Tensor::from_proto(values).ok();
        let indices = tensor.indices.as_ref().and_then(|i| Tensor::from_proto(i).ok());
        counted.push(Constant {
            name: values.name().to_owned(),
            data_type: values.data_type(),
            elements: shape.iter().fold(1, |n: usize, &d| n.saturating_mul(d)),
            non_zero: stored.as_ref().map_or(0, non_zero),
            bytes: stored.map_or(0, |t| t.bytes().len()) + indices.map_or(0, |t| t.bytes().len()),
            shape,
            role: Role::Parameter,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocked_zero_points_are_found_per_block() {
        let codes: Vec<i64> = vec![1, 1, 2, 2, 3, 3, 4, 9];
        let zero = Tensor::new(&[2, 2], &[1_u8, 2, 3, 4]).to_proto("z");
        let place = ZeroPoint { name: "z".to_owned(), axis: 1, block: 2 };
        assert_eq!(differing(&codes, &[2, 4], &zero, &place), Some(1));
        let along_rows = ZeroPoint { name: "z".to_owned(), axis: 0, block: 2 };
        let zero = Tensor::new(&[1, 4], &[1_u8, 1, 2, 2]).to_proto("z");
        assert_eq!(differing(&[1, 1, 2, 2, 1, 1, 2, 0], &[2, 4], &zero, &along_rows), Some(1));
        assert_eq!(differing(&codes, &[4, 2], &zero, &ZeroPoint { block: 0, axis: 1, ..along_rows }), None);
    }

    #[test]
    fn packed_weights_count_one_by_one_and_what_fills_their_last_block_does_not() {
        let packed = |symmetric| Packed { rows: 2, depth: 3, bits: 4, symmetric };
        let bytes = [0x18, 0x89, 0x88, 0x88];
        assert_eq!(packed(true).non_zero(&bytes), Some(2), "1 and 9; 8 stands for zero");
        assert_eq!(packed(false).non_zero(&bytes), Some(6), "where zero points decide, none counts as zero");
        assert_eq!(packed(true).non_zero(&bytes[..3]), None);
        assert_eq!(packed(true).non_zero(&bytes[..2]), None);
    }

    #[test]
    fn negative_zero_is_zero_in_every_float_type() {
        assert_eq!(non_zero(&Tensor::new(&[3], &[0.0_f64, -0.0, 1e-300])), 1);
        assert_eq!(non_zero(&Tensor::new(&[2], &[half::f16::NEG_ZERO, half::f16::ONE])), 1);
        assert_eq!(non_zero(&Tensor::new(&[2], &[i16::MIN, 0])), 1);
    }
}
