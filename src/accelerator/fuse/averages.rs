//! Means along one axis, in the forms that exporters write them.

use crate::accelerator::net::{Net, input};
use crate::accelerator::shapes::{Shapes, list};
use crate::model::edit;
use crate::model::infer::DimExpr;
use crate::model::onnx::NodeProto;

/// Finds means in a graph.
pub(super) struct Averages<'a> {
    pub(super) net: &'a Net<'a>,
    pub(super) shapes: &'a Shapes,
}

/// A mean.
pub(super) struct Average<'a> {
    /// The tensor that it is the mean of.
    pub(super) of: &'a str,
    /// The axis, counted from the last (0).
    pub(super) back: usize,
    /// Whether the axis is kept with extent one: then the mean lines up with what it is the mean of.
    pub(super) kept: bool,
}

impl<'a> Averages<'a> {
    /// The mean that `tensor` is.
    pub(super) fn of(&self, tensor: &'a str) -> Option<Average<'a>> {
        let (net, (tensor, mut stripped)) = (self.net, self.strip(tensor));
        let (_, node) = net.producer(tensor).filter(|(_, n)| matches!(n.domain(), "" | "ai.onnx"))?;
        let (reduction, factor) = match node.op_type() {
            "ReduceMean" => (node, None),
            "Div" => {
                let (inner, also) = self.strip(input(node, 0)?);
                stripped |= also;
                (net.producer_op(inner, "ReduceSum")?.1, Some(1.0 / net.scalar(input(node, 1)?)?))
            }
            "Mul" => {
                let (a, b) = (input(node, 0)?, input(node, 1)?);
                let (sum, factor) = if net.is_constant(a) { (b, a) } else { (a, b) };
                let (inner, also) = self.strip(sum);
                stripped |= also;
                (net.producer_op(inner, "ReduceSum")?.1, Some(net.scalar(factor)?))
            }
            _ => return None,
        };
        let of = input(reduction, 0)?;
        let back = self.axis(reduction, of)?;
        if let Some(factor) = factor {
            let width = self.width(of, back)?;
            // A reciprocal of a width is rounded to `float32`.
            if (factor * width as f64 - 1.0).abs() > 1e-6 {
                return None;
            }
        }
        Some(Average { of, back, kept: !stripped && edit::int_attribute(reduction, "keepdims", 1) != 0 })
    }

    /// The only axis of a reduction, counted from the last.
    fn axis(&self, node: &NodeProto, x: &str) -> Option<usize> {
        let [axis] = list(self.net, node, 1, "axes")?[..] else { return None };
        if axis < 0 {
            return usize::try_from(-1 - axis).ok();
        }
        self.shapes.rank(self.net, x)?.checked_sub(1 + usize::try_from(axis).ok()?)
    }

    /// Extent of an axis that is counted from the last.
    pub(super) fn width(&self, x: &str, back: usize) -> Option<usize> {
        self.shapes.get(self.net, x)?.iter().rev().nth(back)?.known()
    }

    /// The tensor behind reshapes and expansions, and whether there were any. Both keep the order of the elements; whether they kept their number too is seen from
    /// the shape of what is made of them.
    pub(super) fn strip(&self, mut tensor: &'a str) -> (&'a str, bool) {
        let mut stripped = false;
        while let Some((_, node)) = self.net.producer(tensor)
            && matches!(node.domain(), "" | "ai.onnx")
            && matches!(node.op_type(), "Reshape" | "Unsqueeze" | "Squeeze" | "Expand")
            && let Some(source) = input(node, 0)
        {
            (tensor, stripped) = (source, true);
        }
        (tensor, stripped)
    }

    /// Whether a tensor has x's shape, but for an extent of one along an axis.
    pub(super) fn lines_up(&self, tensor: &str, x: &str, back: usize) -> bool {
        let Some((mut expected, shape)) = self.shapes.get(self.net, x).zip(self.shapes.get(self.net, tensor)) else {
            return false;
        };
        match expected.iter_mut().rev().nth(back) {
            Some(extent) => *extent = DimExpr::Known(1),
            None => return false,
        }
        shape == expected
    }

    /// Whether two tensors have one shape.
    pub(super) fn same_shape(&self, a: &str, b: &str) -> bool {
        self.shapes.get(self.net, a).zip(self.shapes.get(self.net, b)).is_some_and(|(a, b)| a == b)
    }
}
