//! Operators with weights, pools, recurrent layers, normalisation, attention, quantisation.

use super::super::DType;
use super::super::edit::string_attribute;
use super::basics::{axis, broadcast};
use super::{Ctx, DimExpr, Inferred};

/// Batch axes broadcast, inner axes multiplied; vectors as `NumPy`'s `matmul` takes them.
pub(super) fn matmul_dims(a: &[DimExpr], b: &[DimExpr]) -> Option<Vec<DimExpr>> {
    let (inner_a, inner_b) = (a.last()?, if b.len() == 1 { &b[0] } else { b.get(b.len().checked_sub(2)?)? });
    if let (DimExpr::Known(x), DimExpr::Known(y)) = (inner_a, inner_b)
        && x != y
    {
        return None;
    }
    let batch_a = &a[..a.len().saturating_sub(2)];
    let batch_b = &b[..b.len().saturating_sub(2)];
    let mut out = broadcast(batch_a, batch_b)?;
    if a.len() > 1 {
        out.push(a[a.len() - 2].clone());
    }
    if b.len() > 1 {
        out.push(b[b.len() - 1].clone());
    }
    Some(out)
}

/// `MatMul` and its integer forms: operands at inputs `a` and `b`.
pub(super) fn matmul(ctx: &Ctx<'_>, a: usize, b: usize, dtype: Option<DType>) -> Vec<Inferred> {
    let dims = ctx.dims(a).zip(ctx.dims(b)).and_then(|(a, b)| matmul_dims(a, b));
    vec![Inferred::new(dtype, dims)]
}

/// `FusedMatMul`: the last two axes of an operand may be swapped.
pub(super) fn fused_matmul(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let swapped = |i: usize, attribute: &str| {
        let mut dims = ctx.dims(i)?.to_vec();
        let n = dims.len();
        if ctx.attr_int(attribute, 0) != 0 && n >= 2 {
            dims.swap(n - 1, n - 2);
        }
        Some(dims)
    };
    let plain = ctx.attr_int("transBatchA", 0) == 0 && ctx.attr_int("transBatchB", 0) == 0;
    let dims = swapped(0, "transA").zip(swapped(1, "transB")).filter(|_| plain).and_then(|(a, b)| matmul_dims(&a, &b));
    vec![Inferred::new(ctx.dtype(0), dims)]
}

/// `Gemm` with operands at inputs `a` and `b`.
pub(super) fn gemm(ctx: &Ctx<'_>, a: usize, b: usize, dtype: Option<DType>) -> Vec<Inferred> {
    let dims = || {
        let ([a0, a1], [b0, b1]) = (ctx.dims(a)?, ctx.dims(b)?) else { return None };
        let m = if ctx.attr_int("transA", 0) == 0 { a0 } else { a1 };
        let n = if ctx.attr_int("transB", 0) == 0 { b1 } else { b0 };
        Some(vec![m.clone(), n.clone()])
    };
    vec![Inferred::new(dtype, dims())]
}

/// `Conv` and its quantised forms: data at input 0, weights at input `w`.
pub(super) fn conv(ctx: &Ctx<'_>, w: usize, dtype: Option<DType>) -> Vec<Inferred> {
    let dims = || {
        let (x, w) = (ctx.dims(0)?, ctx.dims(w)?);
        if x.len() != w.len() || x.len() < 3 {
            return None;
        }
        let kernel = match ctx.attr_ints("kernel_shape") {
            Some(k) => k.iter().map(|&k| usize::try_from(k).ok()).collect(),
            None => w[2..].iter().map(DimExpr::known).collect::<Vec<_>>(),
        };
        let mut out = vec![x[0].clone(), w[0].clone()];
        out.extend(window(ctx, &x[2..], &kernel, false)?);
        Some(out)
    };
    vec![Inferred::new(dtype, dims())]
}

/// `MaxPool`, `AveragePool`, `LpPool`.
pub(super) fn pool(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let x = ctx.dims(0)?;
        let kernel: Vec<Option<usize>> =
            ctx.attr_ints("kernel_shape")?.iter().map(|&k| usize::try_from(k).ok()).collect();
        if x.len() != kernel.len() + 2 {
            return None;
        }
        let mut out = x[..2].to_vec();
        out.extend(window(ctx, &x[2..], &kernel, ctx.attr_int("ceil_mode", 0) != 0)?);
        Some(out)
    };
    let dims = dims();
    vec![Inferred::new(ctx.dtype(0), dims.clone()), Inferred::new(Some(DType::I64), dims)]
}

/// Extents behind a sliding window, from strides, pads, dilations and `auto_pad`.
fn window(ctx: &Ctx<'_>, input: &[DimExpr], kernel: &[Option<usize>], ceil: bool) -> Option<Vec<DimExpr>> {
    let n = input.len();
    let list = |name: &str, len: usize, default: i64| {
        ctx.attr_ints(name).map_or_else(|| Some(vec![default; len]), |v| (v.len() == len).then(|| v.to_vec()))
    };
    let (strides, dilations, pads) = (list("strides", n, 1)?, list("dilations", n, 1)?, list("pads", 2 * n, 0)?);
    if kernel.len() != n {
        return None;
    }
    let auto = string_attribute(ctx.node, "auto_pad").unwrap_or("NOTSET");
    let extent = |i: usize| {
        let stride = strides[i];
        if stride <= 0 {
            return DimExpr::Unknown;
        }
        if matches!(auto, "SAME_UPPER" | "SAME_LOWER") {
            return match &input[i] {
                DimExpr::Known(x) => DimExpr::Known(x.div_ceil(stride as usize)),
                other if stride == 1 => other.clone(),
                _ => DimExpr::Unknown,
            };
        }
        let Some(k) = kernel[i] else { return DimExpr::Unknown };
        let padding = if auto == "VALID" { 0 } else { pads[i].saturating_add(pads[i + n]) };
        let reach = dilations[i].saturating_mul(k as i64 - 1);
        match &input[i] {
            DimExpr::Known(x) => {
                let span = (*x as i64).saturating_add(padding).saturating_sub(reach).saturating_sub(1);
                if span < 0 {
                    return DimExpr::Unknown;
                }
                let mut out = if ceil { (span + stride - 1) / stride + 1 } else { span / stride + 1 };
                // A window that would start in the padding behind the data is not taken (pooling, ceil_mode).
                if ceil && (out - 1) * stride >= (*x as i64).saturating_add(pads[i]) {
                    out -= 1;
                }
                DimExpr::Known(out as usize)
            }
            other if stride == 1 && padding == reach => other.clone(),
            _ => DimExpr::Unknown,
        }
    };
    Some((0..n).map(extent).collect())
}

pub(super) fn conv_transpose(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let (x, w) = (ctx.dims(0)?, ctx.dims(1)?);
        if x.len() != w.len() || x.len() < 3 {
            return None;
        }
        let n = x.len() - 2;
        let group = usize::try_from(ctx.attr_int("group", 1)).ok()?;
        let channels = w[1].known().and_then(|c| c.checked_mul(group)).map_or(DimExpr::Unknown, DimExpr::Known);
        let mut out = vec![x[0].clone(), channels];
        if let Some(shape) = ctx.attr_ints("output_shape") {
            let spatial = shape.get(shape.len().checked_sub(n)?..)?;
            out.extend(spatial.iter().map(|&d| super::values::Num::Int(d).dim()));
            return Some(out);
        }
        let list = |name: &str, len: usize, default: i64| {
            ctx.attr_ints(name).map_or_else(|| Some(vec![default; len]), |v| (v.len() == len).then(|| v.to_vec()))
        };
        let (strides, dilations) = (list("strides", n, 1)?, list("dilations", n, 1)?);
        let (pads, extra) = (list("pads", 2 * n, 0)?, list("output_padding", n, 0)?);
        let same = string_attribute(ctx.node, "auto_pad").is_some_and(|a| a.starts_with("SAME"));
        for i in 0..n {
            let kernel = ctx
                .attr_ints("kernel_shape")
                .and_then(|k| k.get(i).copied())
                .or_else(|| w[i + 2].known().map(|k| k as i64));
            out.push(match (x[i + 2].known(), kernel) {
                (Some(x), _) if same => super::values::Num::Int((x as i64).saturating_mul(strides[i])).dim(),
                (Some(x), Some(k)) => {
                    let full = strides[i]
                        .saturating_mul(x as i64 - 1)
                        .saturating_add(extra[i])
                        .saturating_add((k - 1).saturating_mul(dilations[i]))
                        + 1;
                    super::values::Num::Int(full.saturating_sub(pads[i]).saturating_sub(pads[i + n])).dim()
                }
                _ => DimExpr::Unknown,
            });
        }
        Some(out)
    };
    vec![Inferred::new(ctx.dtype(0), dims())]
}

/// `GlobalAveragePool`, `GlobalMaxPool`, `GlobalLpPool`.
pub(super) fn global_pool(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = ctx.dims(0).filter(|d| d.len() >= 2).map(|d| {
        let mut out = d[..2].to_vec();
        out.resize(d.len(), DimExpr::Known(1));
        out
    });
    vec![Inferred::new(ctx.dtype(0), dims)]
}

/// `LSTM`, `GRU`, `RNN`: sequence output, last hidden state, last cell state.
pub(super) fn recurrent(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dtype = ctx.dtype(0);
    let Some([x0, x1, _]) = ctx.dims(0) else { return vec![Inferred::new(dtype, None); ctx.node.output.len()] };
    let batch_first = ctx.attr_int("layout", 0) == 1;
    let (time, batch) = if batch_first { (x1, x0) } else { (x0, x1) };
    let directions =
        DimExpr::Known(if string_attribute(ctx.node, "direction") == Some("bidirectional") { 2 } else { 1 });
    let hidden = match (ctx.attr_int("hidden_size", 0), ctx.dims(2)) {
        (h, _) if h > 0 => DimExpr::Known(h as usize),
        // R is [directions, gates * hidden, hidden]; the quantised form transposes it.
        (_, Some([_, h, _])) if ctx.node.op_type() == "DynamicQuantizeLSTM" => h.clone(),
        (_, Some([_, _, h])) => h.clone(),
        _ => DimExpr::Unknown,
    };
    let (y, state) = if batch_first {
        (vec![batch.clone(), time.clone(), directions.clone(), hidden.clone()], vec![batch.clone(), directions, hidden])
    } else {
        (vec![time.clone(), directions.clone(), batch.clone(), hidden.clone()], vec![directions, batch.clone(), hidden])
    };
    let state = Inferred::new(dtype, Some(state));
    vec![Inferred::new(dtype, Some(y)), state.clone(), state]
}

/// `LayerNormalization`: output, mean, inverse standard deviation.
pub(super) fn layer_norm(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = ctx.dims(0).map(<[DimExpr]>::to_vec);
    let stats = dims.as_ref().and_then(|d| {
        let from = axis(ctx.attr_int("axis", -1), d.len())?;
        Some(d.iter().enumerate().map(|(i, d)| if i < from { d.clone() } else { DimExpr::Known(1) }).collect())
    });
    let stats = Inferred::new(Some(DType::F32), stats);
    vec![Inferred::new(ctx.dtype(0), dims), stats.clone(), stats]
}

/// `BatchNormalization`: further outputs (training form) are per channel.
pub(super) fn batch_norm(ctx: &Ctx<'_>) -> Option<Vec<Inferred>> {
    let channel = Inferred::new(ctx.dtype(3), ctx.dims(3).map(<[DimExpr]>::to_vec));
    let mut out = vec![ctx.input(0)?.clone()];
    out.resize(5, channel);
    Some(out)
}

/// `Dropout`: output and mask.
pub(super) fn dropout(ctx: &Ctx<'_>) -> Option<Vec<Inferred>> {
    let x = ctx.input(0)?.clone();
    Some(vec![x.clone(), Inferred::new(Some(DType::Bool), x.dims)])
}

/// `QuantizeLinear`: the type of the zero point, else of `output_dtype`, else uint8.
pub(super) fn quantize(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let number = ctx.attr_int("output_dtype", 0) as i32;
    let dtype = if ctx.has(2) {
        ctx.dtype(2)
    } else if number != 0 {
        DType::from_onnx(number)
    } else {
        Some(DType::U8)
    };
    vec![Inferred::new(dtype, ctx.dims(0).map(<[DimExpr]>::to_vec))]
}

/// `DequantizeLinear`: the type of the scale.
pub(super) fn dequantize(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let number = ctx.attr_int("output_dtype", 0) as i32;
    let dtype = if number == 0 { ctx.dtype(1) } else { DType::from_onnx(number) };
    vec![Inferred::new(dtype, ctx.dims(0).map(<[DimExpr]>::to_vec))]
}

pub(super) fn dynamic_quantize(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let scalar = |dtype| Inferred::new(Some(dtype), Some(Vec::new()));
    vec![Inferred::new(Some(DType::U8), ctx.dims(0).map(<[DimExpr]>::to_vec)), scalar(DType::F32), scalar(DType::U8)]
}

/// `com.microsoft.Attention` and `QAttention`: `[batch, sequence, value width]`; the width is a third of the bias unless `qkv_hidden_sizes` says otherwise.
pub(super) fn packed_attention(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let [batch, sequence, _] = ctx.dims(0)? else { return None };
        let width = match ctx.attr_ints("qkv_hidden_sizes") {
            Some(&[_, _, v]) => super::values::Num::Int(v).dim(),
            _ => match ctx.dims(1)? {
                [_, DimExpr::Known(n)] if n % 3 == 0 => DimExpr::Known(n / 3),
                _ => DimExpr::Unknown,
            },
        };
        Some(vec![batch.clone(), sequence.clone(), width])
    };
    let dtype = if ctx.node.op_type() == "QAttention" { ctx.dtype(3) } else { ctx.dtype(0) };
    vec![Inferred::new(dtype, dims())]
}

/// `Attention` of opset 23: like Q, with the width of V.
pub(super) fn attention(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let (q, v) = (ctx.dims(0)?, ctx.dims(2)?);
        match (q, v) {
            ([b, h, s, _], [_, _, _, d]) => Some(vec![b.clone(), h.clone(), s.clone(), d.clone()]),
            ([b, s, _], [_, _, width]) => {
                let (heads, kv) = (ctx.attr_int("q_num_heads", 0), ctx.attr_int("kv_num_heads", 0));
                // V has kv_num_heads heads, the output q_num_heads of the same size.
                let width = match width.known() {
                    Some(w) if heads > 0 && kv > 0 && w % kv as usize == 0 => {
                        DimExpr::Known(w / kv as usize * heads as usize)
                    }
                    _ => DimExpr::Unknown,
                };
                Some(vec![b.clone(), s.clone(), width])
            }
            _ => None,
        }
    };
    vec![Inferred::new(ctx.dtype(0), dims())]
}

/// `com.microsoft.MultiHeadAttention` with separate Q, K, V.
pub(super) fn multi_head(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let ([b, s, _], [_, _, width]) = (ctx.dims(0)?, ctx.dims(2)?) else { return None };
        Some(vec![b.clone(), s.clone(), width.clone()])
    };
    vec![Inferred::new(ctx.dtype(0), dims())]
}

/// The label of every operand's axes and of the result's, for an equation without ellipsis. Blanks are ignored.
pub(in super::super) fn einsum_labels(equation: &str) -> Option<(Vec<Vec<char>>, Vec<char>)> {
    let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    if text.contains('.') {
        return None;
    }
    let (left, right) = text.split_once("->").map_or((text.as_str(), None), |(l, r)| (l, Some(r)));
    let operands: Vec<Vec<char>> = left.split(',').map(|o| o.chars().collect()).collect();
    let output = if let Some(right) = right {
        right.chars().collect()
    } else {
        // Implicit form: the labels that occur once, in alphabetical order.
        let mut all: Vec<char> = operands.concat();
        all.sort_unstable();
        all.iter().copied().filter(|c| all.iter().filter(|d| *d == c).count() == 1).collect()
    };
    Some((operands, output))
}

pub(super) fn einsum(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = || {
        let (operands, output) = einsum_labels(string_attribute(ctx.node, "equation")?)?;
        let mut extents = std::collections::HashMap::new();
        for (i, labels) in operands.iter().enumerate() {
            let dims = ctx.dims(i).filter(|d| d.len() == labels.len())?;
            for (label, dim) in labels.iter().zip(dims) {
                let entry = extents.entry(*label).or_insert_with(|| dim.clone());
                if *entry == DimExpr::Known(1) || entry.known().is_none() && dim.known().is_some_and(|n| n != 1) {
                    *entry = dim.clone();
                }
            }
        }
        output.iter().map(|label| extents.get(label).cloned()).collect()
    };
    vec![Inferred::new(ctx.dtype(0), dims())]
}

/// `com.microsoft.MatMulNBits`: the weight is packed, its shape stands in the attributes `N` and `K`.
pub(super) fn matmul_nbits(ctx: &Ctx<'_>) -> Vec<Inferred> {
    let dims = ctx.dims(0).and_then(|d| {
        let (_, outer) = d.split_last()?;
        let mut out = outer.to_vec();
        out.push(super::values::Num::Int(ctx.attr_int("N", -1)).dim());
        Some(out)
    });
    vec![Inferred::new(ctx.dtype(0), dims)]
}
