//! A magnitude whose squares are channels of products.
//!
//! ```text
//!  Conv ─┬─ Slice ─ Pow 2 ─┐                          a spectrum: real and imaginary part of a channel have one factor, and so has their
//!        └─ Slice ─ Pow 2 ─┴─ Add ─ Sqrt ─ x ─ Conv    magnitude, for  sqrt((s a)^2 + (s b)^2) = s sqrt(a^2 + b^2)
//! ```

use super::walk::{Product, Walk};
use crate::model::edit::is_op;
use crate::model::onnx::NodeProto;

/// One of the two that are squared and added.
struct Part {
    /// What the product gives.
    from: String,
    /// The first of its channels that it has.
    first: usize,
    /// Who reads that.
    reader: usize,
}

impl Walk<'_> {
    /// The products whose squares `sum` adds: two, or the two halves of the channels of one.
    pub(super) fn magnitude(&mut self, sum: &str) -> Option<Vec<Product>> {
        self.inner.push(sum.to_owned());
        let at = self.index.producer(sum)?;
        let node = &self.model.graph().node[at];
        let [a, b] = node.input.as_slice() else { return None };
        if !is_op(node, "Add") {
            return None;
        }
        let (a, b) = (self.squared(self.passed(a, at)?)?, self.squared(self.passed(b, at)?)?);
        let made = |part: &Part, runs: usize| {
            let at = self.index.producer(&part.from)?;
            self.product(at, &self.model.graph().node[at], false, runs)
        };
        let products = if a.from == b.from {
            let firsts = [a.first.min(b.first), a.first.max(b.first)];
            let alone = self.index.readers(&a.from).iter().all(|reader| [a.reader, b.reader].contains(reader));
            if firsts != [0, self.channels] || !alone || self.index.is_output(&a.from) {
                return None;
            }
            vec![made(&a, 2)?]
        } else {
            let whole = |part: &Part| part.first == 0 && self.passed(&part.from, part.reader).is_some();
            if !whole(&a) || !whole(&b) {
                return None;
            }
            vec![made(&a, 1)?, made(&b, 1)?]
        };
        self.inner.push(a.from.clone());
        if a.from != b.from {
            self.inner.push(b.from);
        }
        Some(products)
    }

    /// What `name` is the square of, seen through slices.
    fn squared(&mut self, name: &str) -> Option<Part> {
        let at = self.index.producer(name)?;
        let node = &self.model.graph().node[at];
        let (base, operand) = (node.input.first()?, node.input.get(1)?);
        let twice = || {
            self.model
                .constant(self.index, operand)
                .is_some_and(|e| !e.is_empty() && e.to_f32().iter().all(|v| *v == 2.0))
        };
        let square = (is_op(node, "Pow") && twice()) || (is_op(node, "Mul") && base == operand);
        if !square {
            return None;
        }
        self.inner.push(name.to_owned());
        let mut part = Part { from: base.clone(), first: 0, reader: at };
        loop {
            let at = self.index.producer(&part.from)?;
            let node = &self.model.graph().node[at];
            if !is_op(node, "Slice") {
                return Some(part);
            }
            // A slice is read by nobody else; what is sliced may be.
            self.passed(&part.from, part.reader)?;
            part.first += self.first_channel(node)?;
            self.inner.push(std::mem::replace(&mut part.from, node.input.first()?.clone()));
            part.reader = at;
        }
    }

    /// The first channel of a slice that leaves all channels, or as many as there are here.
    fn first_channel(&self, node: &NodeProto) -> Option<usize> {
        let input = &self.facts.get(node.input.first()?)?.shape;
        let all = input.get(1).copied().flatten()?;
        let numbers = |operand: usize| -> Option<Vec<i64>> {
            let name = node.input.get(operand).filter(|name| !name.is_empty())?;
            Some(self.model.constant(self.index, name)?.to_i64()?.into_owned())
        };
        let (starts, ends) = (numbers(1)?, numbers(2)?);
        let axes = numbers(3).unwrap_or_else(|| (0..starts.len() as i64).collect());
        let rank = input.len() as i64;
        let Some(at) = axes.iter().position(|&axis| axis == 1 || axis + rank == 1) else { return Some(0) };
        let from_start = |place: i64| if place < 0 { place + all as i64 } else { place }.clamp(0, all as i64) as usize;
        let (first, end) = (from_start(*starts.get(at)?), from_start(*ends.get(at)?));
        let step = numbers(4).map_or(Some(1), |steps| steps.get(at).copied())?;
        (step == 1 && (end.checked_sub(first)? == self.channels)).then_some(first)
    }
}
