//! The shapes of an opened graph: `model`'s inference of what holds for any feed, and beside it the constants that a pass adds on the way.

use super::net::Net;
use crate::model::infer::{AnyFeed, DimExpr, Num, Small};
use crate::model::onnx::{NodeProto, TensorProto};
use crate::model::{DType, edit};

/// Shapes, element types and small integer values by tensor name.
#[derive(Debug)]
pub(crate) struct Shapes(AnyFeed);

impl Shapes {
    /// Shapes of the graph's inputs and constants; nodes are added by [`Shapes::visit`].
    pub(crate) fn of_inputs(net: &Net) -> Self {
        Self(AnyFeed::of_inputs(net.graph(), net.opset(), net.overridable(), net.facts()))
    }

    /// Shapes of the whole graph, whose nodes must be in topological order.
    pub(crate) fn infer(net: &Net) -> Self {
        let mut shapes = Self::of_inputs(net);
        for id in net.ids() {
            if let Some(node) = net.get(id) {
                shapes.visit(net, node);
            }
        }
        shapes
    }

    /// Adds what a node computes.
    pub(crate) fn visit(&mut self, net: &Net, node: &NodeProto) {
        self.0.visit(node, net.facts());
    }

    /// Adds a constant that took the place of a node.
    pub(crate) fn constant(&mut self, tensor: &TensorProto) {
        self.0.constant(tensor);
    }

    /// The extents of a tensor.
    pub(crate) fn get(&self, net: &Net, tensor: &str) -> Option<Vec<DimExpr>> {
        if let Some(dims) = self.0.dims(tensor) {
            return Some(dims.to_vec());
        }
        Some(net.constant_info(tensor)?.1.into_iter().map(DimExpr::Known).collect())
    }

    /// Number of axes, where inference does not know it as observed.
    pub(crate) fn rank(&self, net: &Net, tensor: &str) -> Option<usize> {
        self.get(net, tensor).map(|s| s.len()).or_else(|| net.facts().rank(tensor))
    }

    /// Element type.
    pub(crate) fn dtype(&self, net: &Net, tensor: &str) -> Option<DType> {
        self.0.dtype(tensor).or_else(|| net.dtype(tensor))
    }

    /// The elements of a small integer tensor.
    pub(crate) fn values(&self, net: &Net, tensor: &str) -> Option<Small> {
        self.0.values(tensor).cloned().or_else(|| Small::of_tensor(net.initializer(tensor)?))
    }

    /// The target of a constant Reshape that turns a tensor of shape `from` into shape `to`: numbers, copied axes (0) and at most one open axis (-1).
    /// `None` when more than one extent would stay open.
    pub(crate) fn reshape_target(from: &[DimExpr], to: &[DimExpr]) -> Option<Vec<i64>> {
        let mut open = None;
        let mut target = Vec::with_capacity(to.len());
        for (i, d) in to.iter().enumerate() {
            target.push(match d {
                DimExpr::Known(0) => return None,
                DimExpr::Known(n) => i64::try_from(*n).ok()?,
                DimExpr::Symbol(_) if from.get(i) == Some(d) => 0,
                _ => {
                    if open.replace(i).is_some() {
                        return None;
                    }
                    -1
                }
            });
        }
        Some(target)
    }
}

/// Whether an element of a list of extents equals an extent for every feed.
pub(crate) fn is_extent(element: &Num, extent: &DimExpr) -> bool {
    *extent != DimExpr::Unknown && element.dim() == *extent
}

/// A constant list of integers that newer opsets take as an input and older ones as an attribute.
pub(crate) fn list(net: &Net, node: &NodeProto, position: usize, attribute: &str) -> Option<Vec<i64>> {
    match super::net::input(node, position) {
        Some(tensor) => net.ints(tensor),
        None => edit::ints_attribute(node, attribute).map(<[i64]>::to_vec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_axis_that_is_a_product_stays_open() {
        let [a, b, c] = ["a", "b", "c"].map(|s| DimExpr::Symbol(s.to_owned()));
        let n = DimExpr::Known;
        let target = |from: &[&DimExpr], to: &[&DimExpr]| {
            let owned = |dims: &[&DimExpr]| dims.iter().map(|&d| d.clone()).collect::<Vec<_>>();
            Shapes::reshape_target(&owned(from), &owned(to))
        };
        assert_eq!(target(&[&a, &b, &n(6)], &[&a, &b, &n(2), &n(3)]), Some(vec![0, 0, 2, 3]));
        assert_eq!(target(&[&a, &b, &n(6)], &[&c, &n(6)]), Some(vec![-1, 6]));
        assert_eq!(target(&[&a, &b, &n(6)], &[&c, &b]), Some(vec![-1, 0]));
        assert_eq!(target(&[&a, &b], &[&b, &a]), None);
        assert_eq!(target(&[&a], &[&DimExpr::Unknown, &n(2)]), Some(vec![-1, 2]));
    }
}
