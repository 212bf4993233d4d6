//! Reading `MatMul`, `Gemm` and `Conv` with a constant weight as one thing: activation x weight + bias.

use serde::{Deserialize, Serialize};

use crate::model::edit::{Index, float_attribute, int_attribute, ints_attribute, is_op};
use crate::model::onnx::NodeProto;
use crate::model::{DType, Facts, Model, Tensor};

/// The operators that have an integer form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Operator {
    /// Matrix product with the weight on the right.
    MatMul,
    /// Matrix product with factors and a bias.
    Gemm,
    /// Convolution.
    Conv,
}

/// What is added to the products.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Bias {
    None,
    /// A constant, its factor multiplied in, one value per output channel where it can be said so.
    Constant {
        values: Tensor,
        /// Whether `values` is the operand itself.
        unchanged: bool,
    },
    /// A computed tensor.
    Computed(String),
}

/// A node with a constant weight.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Linear {
    pub(super) operator: Operator,
    pub(super) activation: String,
    /// Name of the weight as the node has it.
    pub(super) weight: String,
    /// Whether `matrix` is the transpose of the tensor called `weight`.
    pub(super) transposed: bool,
    /// float32: `[k, n]` for a product, `[n, channels / group, kernel...]` for a convolution.
    pub(super) matrix: Tensor,
    /// Factor of the products.
    pub(super) alpha: f32,
    pub(super) bias: Bias,
}

impl Linear {
    /// Axis of `matrix` that counts output channels.
    pub(super) fn channel_axis(&self) -> usize {
        usize::from(self.operator != Operator::Conv)
    }

    /// Number of output channels.
    pub(super) fn channels(&self) -> usize {
        self.matrix.shape()[self.channel_axis()]
    }

    /// Products summed per output element.
    pub(super) fn depth(&self) -> usize {
        self.matrix.len() / self.channels().max(1)
    }
}

/// Reads a node, or says in words why it has no integer form.
pub(super) fn linear(model: &Model, index: &Index, facts: &Facts, node: &NodeProto) -> Result<Linear, String> {
    let operator = match () {
        () if is_op(node, "MatMul") => Operator::MatMul,
        () if is_op(node, "Gemm") => Operator::Gemm,
        () if is_op(node, "Conv") => Operator::Conv,
        () => return Err(format!("{} has no integer form", node.op_type())),
    };
    let (Some(activation), Some(weight), Some(output)) = (node.input.first(), node.input.get(1), node.output.first())
    else {
        return Err("it lacks an operand".to_owned());
    };
    if output.is_empty() {
        return Err("nobody reads its output".to_owned());
    }
    let constant = resolve(model, index, weight, 0).ok_or("its weight is not constant, or is on the left")?;
    if constant.dtype() != DType::F32 {
        return Err(format!("its weight is {}, not float32", constant.dtype()));
    }
    if facts.dtype(activation).is_some_and(|t| t != DType::F32) || resolve(model, index, activation, 0).is_some() {
        return Err("its activation is not a computed float32 tensor".to_owned());
    }
    let rank = constant.shape().len();
    let mut found = Linear {
        operator,
        activation: activation.clone(),
        weight: weight.clone(),
        transposed: false,
        matrix: constant,
        alpha: 1.0,
        bias: Bias::None,
    };
    if operator == Operator::Conv {
        if rank < 3 {
            return Err("its weight is no convolution kernel".to_owned());
        }
    } else if rank != 2 {
        return Err(format!("its weight has {rank} axes, not 2"));
    }
    if found.matrix.is_empty() {
        return Err("its weight is empty".to_owned());
    }
    if operator == Operator::Gemm {
        if int_attribute(node, "transA", 0) != 0 {
            return Err("its activation is transposed".to_owned());
        }
        if int_attribute(node, "transB", 0) != 0 {
            found.matrix = transpose(&found.matrix);
            found.transposed = true;
        }
        found.alpha = float_attribute(node, "alpha", 1.0);
    }
    if let Some(name) = node.input.get(2).filter(|n| !n.is_empty()) {
        let beta = if operator == Operator::Gemm { float_attribute(node, "beta", 1.0) } else { 1.0 };
        found.bias = match resolve(model, index, name, 0) {
            Some(tensor) if tensor.dtype() == DType::F32 => {
                let values = row(&tensor, beta, found.channels());
                Bias::Constant { unchanged: values == tensor, values }
            }
            None if beta == 1.0 && operator == Operator::Gemm => Bias::Computed(name.clone()),
            _ => return Err("its bias is computed and scaled, or not float32".to_owned()),
        };
    }
    Ok(found)
}

/// The constant behind a name, through `Identity` and two-dimensional `Transpose`.
fn resolve(model: &Model, index: &Index, name: &str, depth: usize) -> Option<Tensor> {
    if let Some(tensor) = model.constant(index, name) {
        return Some(tensor);
    }
    let producer = &model.graph().node[index.producer(name)?];
    let input = producer.input.first().filter(|_| depth < 8)?;
    if is_op(producer, "Identity") {
        return resolve(model, index, input, depth + 1);
    }
    if is_op(producer, "Transpose") && ints_attribute(producer, "perm").is_none_or(|p| p == [1, 0]) {
        let tensor = resolve(model, index, input, depth + 1)?;
        return (tensor.shape().len() == 2 && tensor.dtype() == DType::F32).then(|| transpose(&tensor));
    }
    None
}

/// The transpose of a float32 matrix.
pub(super) fn transpose(matrix: &Tensor) -> Tensor {
    let (rows, columns) = (matrix.shape()[0], matrix.shape()[1]);
    let values = matrix.to_f32();
    let flipped: Vec<f32> = (0..columns).flat_map(|c| values.iter().skip(c).step_by(columns.max(1)).copied()).collect();
    Tensor::new(&[columns, rows], &flipped)
}

/// A constant bias times `beta`, as one row of `n` values where it is one: that form fuses.
fn row(bias: &Tensor, beta: f32, n: usize) -> Tensor {
    let values: Vec<f32> = bias.to_f32().iter().map(|v| v * beta).collect();
    let leading_ones = bias.shape().iter().rev().skip(1).all(|&d| d == 1);
    match values.len() {
        1 => Tensor::new(&[n], &vec![values[0]; n]),
        len if len == n && leading_ones => Tensor::new(&[n], &values),
        _ => Tensor::new(bias.shape(), &values),
    }
}
