//! Where the passes of this folder could act: facts for the search, which decides.

use serde::Serialize;

use super::dynamic::WeightScheme;
use super::glob::Exclude;
use super::linear::{Operator, linear};
use super::roles::WeightKind;
use super::scheme::{Layout, Range, weight_error};
use super::scope::{Reading, Scopes, Use};
use super::weight::{Encoding, TensorPlan};
use crate::model::edit::{Index, int_attribute, is_op, label};
use crate::model::onnx::NodeProto;
use crate::model::{DType, Facts, Model, Tensor};

/// A constant that [`super::WeightInt8`] could store in fewer bits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WeightSite {
    /// Its name.
    pub tensor: String,
    /// The kind of its first reader that multiplies by it.
    pub kind: WeightKind,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Number of elements.
    pub elements: usize,
    /// Bytes in float32.
    pub bytes: usize,
    /// Axes with scales of their own.
    pub axes: Vec<usize>,
    /// Outputs of the nodes that read it.
    pub outputs: Vec<String>,
    /// Relative RMS error of its 8-bit form (see [`weight_error`]).
    pub error: f64,
}

impl WeightSite {
    /// The plan that stores it: 8 bits for a factor, 16 for a value.
    pub fn plan(&self, encoding: Encoding, range: Range) -> TensorPlan {
        let encoding = if self.kind == WeightKind::Other { Encoding::Half } else { encoding };
        TensorPlan { tensor: self.tensor.clone(), axes: self.axes.clone(), encoding, range }
    }

    /// The plan that stores it in half precision.
    pub fn half(&self) -> TensorPlan {
        self.plan(Encoding::Half, Range::MaxAbs)
    }
}

/// A table that [`super::EmbeddingInt8`] could store in 8 bits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EmbeddingSite {
    /// Name of the table.
    pub tensor: String,
    /// Rows of the table.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// Bytes in float32.
    pub bytes: usize,
    /// Outputs of the `Gather` nodes that read it.
    pub outputs: Vec<String>,
    /// Relative RMS error of its 8-bit form.
    pub error: f64,
}

/// A node that [`super::DynamicInt8`] could compute in integers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DynamicSite {
    /// Output of the node; what a plan names it by.
    pub output: String,
    /// Its operator.
    pub operator: Operator,
    /// The activation that is quantised at run time; nodes that read the same one share that work.
    pub activation: String,
    /// Name of the weight.
    pub weight: String,
    /// Products summed per output element (for a convolution: channels per group x kernel).
    pub k: usize,
    /// Output channels.
    pub n: usize,
    /// Rows of the activation (for a convolution: positions of the output), when the same in every observed run.
    pub rows: Option<usize>,
    /// Relative RMS error of the weights under the default scheme; after [`super::balance()`] that of the products on real activations.
    pub error: f64,
}

impl DynamicSite {
    /// Number of weights.
    pub fn elements(&self) -> usize {
        self.k * self.n
    }
}

/// Every float32 constant of at least `min_elements` that may be stored in fewer bits, in the model's order. `exclude` matches the nodes that read it.
///
/// Left out: half-precision and integer tensors, what normalisations, biases, resizing and custom operators read, tensors that a caller may feed, and those with an infinity or NaN.
pub fn quantizable_weights(model: &Model, exclude: &Exclude, min_elements: usize) -> Vec<WeightSite> {
    let scopes = Scopes::new(model);
    let mut sites: Vec<WeightSite> = Vec::new();
    for constant in scopes.constants() {
        let tensor = &constant.tensor;
        if tensor.dtype() != DType::F32 || tensor.len() < min_elements.max(1) {
            continue;
        }
        let Some(reading) = scopes.reading(&constant).filter(|r| !r.nodes.iter().any(|n| exclude.matches_node(n)))
        else {
            continue;
        };
        let (axes, error) = best_axes(tensor, &reading);
        // Branches of an If may use one name for two tensors; a plan takes both, so they are one site.
        if error.is_infinite() || sites.iter().any(|s| s.tensor == constant.name) {
            continue;
        }
        sites.push(WeightSite {
            tensor: constant.name.to_owned(),
            kind: reading.kind,
            shape: tensor.shape().to_vec(),
            elements: tensor.len(),
            bytes: tensor.bytes().len(),
            axes,
            outputs: outputs(&reading.nodes),
            error,
        });
    }
    sites
}

/// The readers' axes, or where they do not say: the one axis of few enough scales whose error is least. With the error.
fn best_axes(tensor: &Tensor, reading: &Reading) -> (Vec<usize>, f64) {
    let shape = tensor.shape();
    let few = |axes: &Vec<usize>| axes.iter().map(|&a| shape[a]).product::<usize>() * 8 <= tensor.len();
    let sayable = |axes: &Vec<usize>| Layout::new(shape, axes).is_some() && few(axes);
    let mut choices: Vec<Vec<usize>> = reading.axes.iter().filter(|a| sayable(a)).cloned().collect();
    if choices.is_empty() {
        choices = (0..shape.len()).map(|a| vec![a]).filter(sayable).collect();
        choices.push(Vec::new());
    }
    let scored = choices.into_iter().map(|axes| {
        let error = weight_error(tensor, &axes, 127, Range::MaxAbs);
        (axes, error)
    });
    scored.reduce(|best, next| if next.1 < best.1 { next } else { best }).unwrap_or((Vec::new(), f64::INFINITY))
}

/// Every float32 table of at least `min_elements` that is only ever looked up along axis 0.
pub fn embedding_sites(model: &Model, exclude: &Exclude, min_elements: usize) -> Vec<EmbeddingSite> {
    let scopes = Scopes::new(model);
    let mut sites = Vec::new();
    for constant in scopes.constants().into_iter().filter(|c| c.scope == 0) {
        let tensor = &constant.tensor;
        if tensor.dtype() != DType::F32 || tensor.len() < min_elements.max(1) || tensor.shape().len() < 2 {
            continue;
        }
        let (rows, width) = (tensor.shape()[0], tensor.len() / tensor.shape()[0]);
        let readers = lookups(scopes.uses(0, constant.name), tensor.shape().len());
        let Some(nodes) = readers.filter(|n| width >= 8 && !n.iter().any(|n| exclude.matches_node(n))) else {
            continue;
        };
        let error = weight_error(tensor, &[0], 127, Range::MaxAbs);
        if error.is_finite() {
            sites.push(EmbeddingSite {
                tensor: constant.name.to_owned(),
                rows,
                width,
                bytes: tensor.bytes().len(),
                outputs: outputs(&nodes),
                error,
            });
        }
    }
    sites
}

/// The readers, when each is a `Gather` of rows and there is one.
pub(super) fn lookups<'m>(uses: &[Use<'m>], rank: usize) -> Option<Vec<&'m NodeProto>> {
    let node = |usage: &Use<'m>| match *usage {
        Use::Input { node, position: 0, .. } if is_lookup(node, rank) => Some(node),
        _ => None,
    };
    uses.iter().map(node).collect::<Option<Vec<_>>>().filter(|n| !n.is_empty())
}

pub(super) fn is_lookup(node: &NodeProto, rank: usize) -> bool {
    is_op(node, "Gather") && matches!(int_attribute(node, "axis", 0), a if a == 0 || a == -(rank as i64))
}

/// Every node of the main graph with a constant weight that could compute in integers: `MatMul`, `Gemm` and (slow on ONNX Runtime) `Conv`.
pub fn dynamic_sites(model: &Model, facts: &Facts, exclude: &Exclude) -> Vec<DynamicSite> {
    let index = Index::new(model.graph());
    let mut sites = Vec::new();
    for node in model.graph().node.iter().filter(|n| !exclude.matches_node(n)) {
        let Ok(found) = linear(model, &index, facts, node) else { continue };
        let limit = WeightScheme::default().limit();
        let error = weight_error(&found.matrix, &[found.channel_axis()], limit, Range::MaxAbs);
        if error.is_infinite() {
            continue;
        }
        let (k, n) = (found.depth(), found.channels());
        let output = &node.output[0];
        // Output elements per channel are the rows, for products and convolutions alike.
        let rows = facts.fixed_shape(output).map(|s| s.iter().product::<usize>() / n.max(1));
        sites.push(DynamicSite {
            output: output.clone(),
            operator: found.operator,
            activation: found.activation,
            weight: found.weight,
            k,
            n,
            rows,
            error,
        });
    }
    sites
}

/// First outputs of nodes; the label of one without.
fn outputs(nodes: &[&NodeProto]) -> Vec<String> {
    nodes.iter().map(|n| n.output.iter().find(|o| !o.is_empty()).cloned().unwrap_or_else(|| label(n))).collect()
}
