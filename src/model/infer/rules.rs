//! Which rule an operator follows.

use super::super::DType;
use super::{Ctx, DimExpr, Inferred};
use super::{arrange, basics, layers, reduce};

/// What a rule gave.
pub(super) enum Outcome {
    /// Types and shapes by output; parts may be unknown.
    Outputs(Vec<Inferred>),
    /// There is a rule, but it lacks what it needs.
    NotDerived,
    /// No rule for this operator.
    NoRule,
}

/// Applies the rule of the node's operator.
pub(super) fn outputs(ctx: &Ctx<'_>) -> Outcome {
    match ctx.node.domain() {
        "" | "ai.onnx" => standard(ctx),
        "com.microsoft" => microsoft(ctx),
        _ => Outcome::NoRule,
    }
}

fn from(outputs: Option<Vec<Inferred>>) -> Outcome {
    outputs.map_or(Outcome::NotDerived, Outcome::Outputs)
}

#[allow(clippy::too_many_lines)] // one table, one line per rule
fn standard(ctx: &Ctx<'_>) -> Outcome {
    let outputs = match ctx.node.op_type() {
        op if basics::unary(op) => return from(basics::same(ctx)),
        op if basics::arithmetic(op) => basics::elementwise(ctx),
        op if basics::compares(op) => basics::comparison(ctx),
        "CumProd"
        | "CumSum"
        | "GroupNormalization"
        | "Hardmax"
        | "InstanceNormalization"
        | "LRN"
        | "LogSoftmax"
        | "LpNormalization"
        | "MeanVarianceNormalization"
        | "PRelu"
        | "RMSNormalization"
        | "ReverseSequence"
        | "RotaryEmbedding"
        | "Scatter"
        | "ScatterElements"
        | "ScatterND"
        | "Softmax"
        | "TensorScatter"
        | "Trilu" => return from(basics::same(ctx)),
        "BatchNormalization" => return from(layers::batch_norm(ctx)),
        "Dropout" => return from(layers::dropout(ctx)),
        "IsInf" | "IsNaN" => vec![Inferred::new(Some(DType::Bool), ctx.dims(0).map(<[DimExpr]>::to_vec))],
        "Where" => basics::select(ctx),
        "Cast" => arrange::retyped(ctx, "to", None),
        "CastLike" => arrange::retyped(ctx, "", ctx.dtype(1)),
        "Bernoulli" | "EyeLike" | "RandomNormalLike" | "RandomUniformLike" => {
            arrange::retyped(ctx, "dtype", ctx.dtype(0))
        }
        "MatMul" => layers::matmul(ctx, 0, 1, ctx.dtype(0).or(ctx.dtype(1))),
        "MatMulInteger" => layers::matmul(ctx, 0, 1, Some(DType::I32)),
        "QLinearMatMul" => layers::matmul(ctx, 0, 3, ctx.dtype(7)),
        "Gemm" => layers::gemm(ctx, 0, 1, ctx.dtype(0).or(ctx.dtype(1))),
        "Einsum" => layers::einsum(ctx),
        "Conv" => layers::conv(ctx, 1, ctx.dtype(0).or(ctx.dtype(1))),
        "ConvInteger" => layers::conv(ctx, 1, Some(DType::I32)),
        "QLinearConv" => layers::conv(ctx, 3, ctx.dtype(7)),
        "ConvTranspose" => layers::conv_transpose(ctx),
        "AveragePool" | "LpPool" | "MaxPool" => layers::pool(ctx),
        "GlobalAveragePool" | "GlobalLpPool" | "GlobalMaxPool" => layers::global_pool(ctx),
        "GRU" | "LSTM" | "RNN" => layers::recurrent(ctx),
        "LayerNormalization" => layers::layer_norm(ctx),
        "Attention" => layers::attention(ctx),
        "QuantizeLinear" => layers::quantize(ctx),
        "DequantizeLinear" => layers::dequantize(ctx),
        "DynamicQuantizeLinear" => layers::dynamic_quantize(ctx),
        "ArgMax" | "ArgMin" => reduce::arg(ctx),
        "TopK" => reduce::top_k(ctx),
        "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean" | "ReduceMin"
        | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" => reduce::reduce(ctx),
        "Concat" => arrange::concat(ctx),
        "Constant" => arrange::constant(ctx),
        "ConstantOfShape" => arrange::constant_of_shape(ctx),
        "DepthToSpace" => arrange::space_depth(ctx, false),
        "SpaceToDepth" => arrange::space_depth(ctx, true),
        "Expand" => arrange::expand(ctx),
        "Flatten" => arrange::flatten(ctx),
        "Gather" => arrange::gather(ctx),
        "GatherElements" => arrange::gather_elements(ctx),
        "GatherND" => arrange::gather_nd(ctx),
        "NonMaxSuppression" => vec![Inferred::new(Some(DType::I64), Some(vec![DimExpr::Unknown, DimExpr::Known(3)]))],
        "NonZero" => arrange::non_zero(ctx),
        "OneHot" => arrange::one_hot(ctx),
        "Pad" => arrange::pad(ctx),
        "Range" => arrange::range(ctx),
        "Reshape" => arrange::reshape(ctx),
        "Resize" | "Upsample" => arrange::resize(ctx),
        "Shape" => arrange::shape_of(ctx),
        "Size" => vec![Inferred::new(Some(DType::I64), Some(Vec::new()))],
        "Slice" => arrange::slice(ctx),
        "Split" => arrange::split(ctx),
        "Squeeze" => arrange::squeeze(ctx),
        "Tile" => arrange::tile(ctx),
        "Transpose" => arrange::transpose(ctx),
        "Unsqueeze" => arrange::unsqueeze(ctx),
        _ => return Outcome::NoRule,
    };
    Outcome::Outputs(outputs)
}

/// Operators that ONNX Runtime's tools write into files.
fn microsoft(ctx: &Ctx<'_>) -> Outcome {
    let dims = |i: usize| ctx.dims(i).map(<[DimExpr]>::to_vec);
    let outputs = match ctx.node.op_type() {
        "BiasGelu"
        | "BiasSoftmax"
        | "FastGelu"
        | "Gelu"
        | "QLinearLeakyRelu"
        | "QLinearSigmoid"
        | "QLinearSoftmax"
        | "QuickGelu"
        | "RotaryEmbedding"
        | "SimplifiedLayerNormalization"
        | "SkipLayerNormalization"
        | "SkipSimplifiedLayerNormalization" => return from(basics::same(ctx)),
        "QLinearAdd" | "QLinearMul" => {
            vec![Inferred::new(ctx.dtype(0), dims(0).zip(dims(3)).and_then(|(a, b)| basics::broadcast(&a, &b)))]
        }
        "FusedMatMul" => layers::fused_matmul(ctx),
        "FusedGemm" => layers::gemm(ctx, 0, 1, ctx.dtype(0)),
        // Quantised output when a scale for it is given at input 7.
        "QGemm" => layers::gemm(ctx, 0, 3, if ctx.has(7) { ctx.dtype(0) } else { Some(DType::F32) }),
        "FusedConv" => layers::conv(ctx, 1, ctx.dtype(0)),
        "DynamicQuantizeMatMul" => layers::matmul(ctx, 0, 1, ctx.dtype(0)),
        "MatMulIntegerToFloat" => layers::matmul(ctx, 0, 1, ctx.dtype(2)),
        "MatMulNBits" => layers::matmul_nbits(ctx),
        "Attention" | "QAttention" => layers::packed_attention(ctx),
        "MultiHeadAttention" => layers::multi_head(ctx),
        "DynamicQuantizeLSTM" => layers::recurrent(ctx),
        "QLinearAveragePool" => layers::pool(ctx),
        "QLinearGlobalAveragePool" if ctx.attr_int("channels_last", 0) == 0 => layers::global_pool(ctx),
        "QuantizeLinear" => layers::quantize(ctx),
        "DequantizeLinear" => layers::dequantize(ctx),
        _ => return Outcome::NoRule,
    };
    Outcome::Outputs(outputs)
}
