//! Naive loops for the operators that passes rewrite but never fold, so that tests can run a whole graph before and after.

use std::collections::BTreeMap;

use super::evaluate::{Call, axis, evaluate, strides, walk};
use crate::model::onnx::NodeProto;
use crate::model::{Model, Tensor, edit};

/// Runs the main graph. Panics on an operator it does not know: that is a test to be written otherwise.
pub(super) fn run(model: &Model, feeds: &[(&str, Tensor)]) -> Vec<Tensor> {
    let graph = model.graph();
    let mut values: BTreeMap<String, Tensor> = BTreeMap::new();
    values.extend(graph.initializer.iter().map(|t| (t.name().to_owned(), Tensor::from_proto(t).unwrap())));
    values.extend(feeds.iter().map(|(name, t)| ((*name).to_owned(), t.clone())));
    for node in &graph.node {
        let inputs: Vec<Option<Tensor>> = node.input.iter().map(|i| values.get(i).cloned()).collect();
        let call = Call { node, inputs: &inputs, opset: model.opset("").unwrap(), limit: usize::MAX };
        let outputs = evaluate(&call).or_else(|| Some(vec![extra(node, &inputs)?]));
        let outputs = outputs.unwrap_or_else(|| panic!("{} of '{}' cannot be run", node.op_type(), edit::label(node)));
        values.extend(node.output.iter().cloned().zip(outputs));
    }
    graph.output.iter().map(|o| values[o.name()].clone()).collect()
}

/// Largest |a - b| / max(1, max |a|) over all outputs; infinite when a shape or type differs.
pub(super) fn difference(a: &[Tensor], b: &[Tensor]) -> f64 {
    let mut worst = if a.len() == b.len() { 0.0 } else { f64::INFINITY };
    for (a, b) in a.iter().zip(b) {
        if a.shape() != b.shape() || a.dtype() != b.dtype() {
            return f64::INFINITY;
        }
        let scale = a.to_f64().iter().fold(1.0_f64, |m, v| m.max(v.abs()));
        for (x, y) in a.to_f64().iter().zip(b.to_f64().iter()) {
            let gap = if x == y || (x.is_nan() && y.is_nan()) { 0.0 } else { (x - y).abs() / scale };
            worst = if gap.is_nan() { f64::INFINITY } else { worst.max(gap) };
        }
    }
    worst
}

fn map(x: &Tensor, f: impl Fn(f64) -> f64) -> Tensor {
    Tensor::new(x.shape(), &x.to_f64().iter().map(|&v| f(v) as f32).collect::<Vec<_>>())
}

fn erf(x: f64) -> f64 {
    // Series of the error function; the arguments of the tests are small.
    let mut term = x;
    let mut sum = x;
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn extra(node: &NodeProto, inputs: &[Option<Tensor>]) -> Option<Tensor> {
    let x = inputs.first()?.as_ref()?;
    let get = |i: usize| inputs.get(i).and_then(Option::as_ref);
    let alpha = f64::from(edit::float_attribute(node, "alpha", 0.2));
    let beta = f64::from(edit::float_attribute(node, "beta", 0.5));
    Some(match node.op_type() {
        "Sigmoid" => map(x, |v| 1.0 / (1.0 + (-v).exp())),
        "Tanh" => map(x, f64::tanh),
        "Exp" => map(x, f64::exp),
        "Erf" => map(x, erf),
        "Pow" => {
            let n = get(1)?.to_f64()[0];
            map(x, |v| v.powf(n))
        }
        "HardSigmoid" => map(x, |v| (alpha * v + beta).clamp(0.0, 1.0)),
        "HardSwish" => map(x, |v| v * (v / 6.0 + 0.5).clamp(0.0, 1.0)),
        "Gelu" if edit::string_attribute(node, "approximate") == Some("tanh") => {
            map(x, |v| 0.5 * v * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (v + 0.044_715 * v * v * v)).tanh()))
        }
        "Gelu" => map(x, |v| 0.5 * v * (1.0 + erf(v / 2_f64.sqrt()))),
        "Clip" => {
            let bound = |i: usize, name: &str, default: f64| {
                get(i).map_or_else(
                    || edit::attribute(node, name).map_or(default, |a| f64::from(a.f.unwrap())),
                    |t| t.to_f64()[0],
                )
            };
            let (low, high) = (bound(1, "min", f64::NEG_INFINITY), bound(2, "max", f64::INFINITY));
            map(x, |v| v.max(low).min(high))
        }
        "Softmax" => rows(x, edit::int_attribute(node, "axis", -1), |row| {
            let max = row.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(v));
            let sum: f64 = row.iter().map(|v| (v - max).exp()).sum();
            row.iter().map(|v| (v - max).exp() / sum).collect()
        }),
        "LayerNormalization" => {
            let epsilon = f64::from(edit::float_attribute(node, "epsilon", 1e-5));
            let (scale, bias) = (get(1)?.to_f64().into_owned(), get(2).map(|b| b.to_f64().into_owned()));
            rows(x, -1, |row| {
                let n = row.len() as f64;
                let mean = row.iter().sum::<f64>() / n;
                let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
                let one = |(i, v): (usize, &f64)| {
                    (v - mean) / (var + epsilon).sqrt() * scale[i] + bias.as_ref().map_or(0.0, |b| b[i])
                };
                row.iter().enumerate().map(one).collect()
            })
        }
        "BatchNormalization" => {
            let epsilon = f64::from(edit::float_attribute(node, "epsilon", 1e-5));
            let p: Vec<Vec<f64>> = (1..5).map(|i| get(i).unwrap().to_f64().into_owned()).collect();
            let inner: usize = x.shape()[2..].iter().product();
            let channels = x.shape()[1];
            let v = x.to_f64();
            let data = (0..x.len()).map(|i| {
                let c = i / inner % channels;
                ((v[i] - p[2][c]) / (p[3][c] + epsilon).sqrt() * p[0][c] + p[1][c]) as f32
            });
            Tensor::new(x.shape(), &data.collect::<Vec<_>>())
        }
        "MatMul" => matmul(x, get(1)?),
        "Gemm" => gemm(node, x, get(1)?, get(2)),
        "Conv" => conv(node, x, get(1)?, get(2)),
        "ConvTranspose" => conv_transpose(node, x, get(1)?, get(2)),
        "AveragePool" | "MaxPool" => pool(node, x),
        _ => return None,
    })
}

fn rows(x: &Tensor, along: i64, f: impl Fn(&[f64]) -> Vec<f64>) -> Tensor {
    let along = axis(along, x.shape().len()).unwrap();
    let own = strides(x.shape());
    let mut outer = x.shape().to_vec();
    outer[along] = 1;
    let steps: Vec<isize> = own.iter().map(|&s| s as isize).collect();
    let v = x.to_f64();
    let mut out = vec![0_f32; x.len()];
    for start in walk(&outer, &steps, 0) {
        let at: Vec<usize> = (0..x.shape()[along]).map(|i| start + i * own[along]).collect();
        let row: Vec<f64> = at.iter().map(|&i| v[i]).collect();
        for (&i, y) in at.iter().zip(f(&row)) {
            out[i] = y as f32;
        }
    }
    Tensor::new(x.shape(), &out)
}

/// The right operand is a matrix.
fn matmul(a: &Tensor, b: &Tensor) -> Tensor {
    let (k, n) = (b.shape()[0], b.shape()[1]);
    let m = a.len() / k;
    let (x, w) = (a.to_f64(), b.to_f64());
    let data = (0..m * n).map(|i| (0..k).map(|j| x[i / n * k + j] * w[j * n + i % n]).sum::<f64>() as f32);
    let mut shape = a.shape().to_vec();
    *shape.last_mut().unwrap() = n;
    Tensor::new(&shape, &data.collect::<Vec<_>>())
}

fn gemm(node: &NodeProto, a: &Tensor, b: &Tensor, c: Option<&Tensor>) -> Tensor {
    let trans = edit::int_attribute(node, "transB", 0) != 0;
    let b = if trans { super::evaluate::movement::transposed(b, &[1, 0]).unwrap() } else { b.clone() };
    let (alpha, beta) = (edit::float_attribute(node, "alpha", 1.0), edit::float_attribute(node, "beta", 1.0));
    let y = matmul(a, &b);
    let n = y.shape()[1];
    let bias = c.map(|c| c.to_f32().into_owned());
    let at = |i: usize| bias.as_ref().map_or(0.0, |b| b[if b.len() == 1 { 0 } else { i % n }]);
    let data: Vec<f32> = y.to_f32().iter().enumerate().map(|(i, v)| alpha * v + beta * at(i)).collect();
    Tensor::new(y.shape(), &data)
}

/// One spatial axis is enough to tell the passes' arithmetic right from wrong.
fn conv(node: &NodeProto, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let ([n, c, d], [m, per, k]) = (dims(x), dims(w));
    let group = edit::int_attribute(node, "group", 1) as usize;
    let pads = edit::ints_attribute(node, "pads").unwrap_or(&[0, 0]);
    let out = d + (pads[0] + pads[1]) as usize - k + 1;
    let (v, w, b) = (x.to_f64(), w.to_f64(), bias.map(|b| b.to_f64().into_owned()));
    let mut y = vec![0_f32; n * m * out];
    for (i, y) in y.iter_mut().enumerate() {
        let (image, channel, at) = (i / out / m, i / out % m, i % out);
        let mut sum = b.as_ref().map_or(0.0, |b| b[channel]);
        for p in 0..per {
            let from = channel / (m / group) * per + p;
            for t in 0..k {
                let position = (at + t) as i64 - pads[0];
                if (0..d as i64).contains(&position) {
                    sum += v[(image * c + from) * d + position as usize] * w[(channel * per + p) * k + t];
                }
            }
        }
        *y = sum as f32;
    }
    Tensor::new(&[n, m, out], &y)
}

fn conv_transpose(node: &NodeProto, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let ([n, c, d], [_, per, k]) = (dims(x), dims(w));
    let group = edit::int_attribute(node, "group", 1) as usize;
    let (m, out) = (per * group, d + k - 1);
    let (v, w, b) = (x.to_f64(), w.to_f64(), bias.map(|b| b.to_f64().into_owned()));
    let mut y = vec![0_f64; n * m * out];
    for image in 0..n {
        for channel in 0..m {
            let rows = c / group;
            for at in 0..out {
                y[(image * m + channel) * out + at] += b.as_ref().map_or(0.0, |b| b[channel]);
            }
            for r in 0..rows {
                let from = channel / per * rows + r;
                for s in 0..d {
                    for t in 0..k {
                        let weight = w[(from * per + channel % per) * k + t];
                        y[(image * m + channel) * out + s + t] += v[(image * c + from) * d + s] * weight;
                    }
                }
            }
        }
    }
    Tensor::new(&[n, m, out], &y.iter().map(|&v| v as f32).collect::<Vec<_>>())
}

fn pool(node: &NodeProto, x: &Tensor) -> Tensor {
    let [n, c, d] = dims(x);
    let k = edit::ints_attribute(node, "kernel_shape").unwrap()[0] as usize;
    let pads = edit::ints_attribute(node, "pads").unwrap_or(&[0, 0]);
    let counted = edit::int_attribute(node, "count_include_pad", 0) != 0;
    let out = d + (pads[0] + pads[1]) as usize - k + 1;
    let v = x.to_f64();
    let mut y = Vec::new();
    for row in 0..n * c {
        for at in 0..out {
            let inside = (0..k).map(|t| (at + t) as i64 - pads[0]).filter(|p| (0..d as i64).contains(p));
            let window: Vec<f64> = inside.map(|p| v[row * d + p as usize]).collect();
            y.push(if node.op_type() == "MaxPool" {
                window.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(v)) as f32
            } else {
                (window.iter().sum::<f64>() / if counted { k } else { window.len() } as f64) as f32
            });
        }
    }
    Tensor::new(&[n, c, out], &y)
}

fn dims(t: &Tensor) -> [usize; 3] {
    t.shape().try_into().expect("a tensor of rank 3")
}
