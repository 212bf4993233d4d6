//! Quantising operators as the arithmetic that they stand for: NNEF has no form for tract's own ones, and a plan without them is free of the known fault.

use tract_onnx::prelude::{DatumType, SpecialOps, TractResult, TypedModel, tensor0};
use tract_onnx::tract_core::internal::{ElementWiseMiniOp, OutletId, TypedModelPatch, TypedNode, TypedOp};
use tract_onnx::tract_core::model::Rewriter;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::math::{add, max, min, mul, round_half_to_even, sub};
use tract_onnx::tract_core::ops::quant::{DequantizeLinearF32, QuantizeLinearI8, QuantizeLinearU8};

/// Writes every quantising and dequantising operator out.
pub(super) fn write_out(model: &mut TypedModel) -> TractResult<()> {
    Rewriter::default()
        .with_rule_for("quantise", |(): &(), model, node, _: &str, op: &ElementWiseOp| quantise(model, node, &*op.0))
        .with_rule_for("dequantise", |(): &(), model, node, _: &str, op: &DequantizeLinearF32| {
            dequantise(model, node, op).map(Some)
        })
        .rewrite(&(), model)
}

/// `clamp(round(x * s) + z)`, where tract's `s` is one over the scale.
fn quantise(model: &TypedModel, node: &TypedNode, op: &dyn ElementWiseMiniOp) -> TractResult<Option<TypedModelPatch>> {
    let (scale, zero, [least, most], dtype) = if let Some(op) = op.downcast_ref::<QuantizeLinearU8>() {
        (op.scale, f32::from(op.zero_point), [0.0, 255.0], DatumType::U8)
    } else if let Some(op) = op.downcast_ref::<QuantizeLinearI8>() {
        (op.scale, f32::from(op.zero_point), [-128.0, 127.0], DatumType::I8)
    } else {
        return Ok(None);
    };
    let mut chain = Chain::new(model, node)?;
    chain.then("float", cast(DatumType::F32), None)?;
    chain.then("scaled", mul(), Some(scale))?;
    chain.then("rounded", round_half_to_even(), None)?;
    chain.then("shifted", add(), Some(zero))?;
    chain.then("above", max(), Some(least))?;
    chain.then("below", min(), Some(most))?;
    chain.then("stored", cast(dtype), None)?;
    chain.end(model, node).map(Some)
}

/// `(x - z) * s`
fn dequantise(model: &TypedModel, node: &TypedNode, op: &DequantizeLinearF32) -> TractResult<TypedModelPatch> {
    let mut chain = Chain::new(model, node)?;
    chain.then("float", cast(DatumType::F32), None)?;
    if op.zero_point != 0 {
        chain.then("shifted", sub(), Some(op.zero_point as f32))?;
    }
    chain.then("scaled", mul(), Some(op.scale))?;
    chain.end(model, node)
}

/// Operators one after the other, in place of one node.
struct Chain {
    patch: TypedModelPatch,
    name: String,
    at: OutletId,
    rank: usize,
}

impl Chain {
    fn new(model: &TypedModel, node: &TypedNode) -> TractResult<Self> {
        let mut patch = TypedModelPatch::default();
        let at = patch.tap_model(model, node.inputs[0])?;
        let rank = model.outlet_fact(node.inputs[0])?.rank();
        Ok(Self { patch, name: node.name.clone(), at, rank })
    }

    /// The next operator, with this number as its other input where it takes one.
    fn then(&mut self, what: &str, op: impl Into<Box<dyn TypedOp>>, number: Option<f32>) -> TractResult<()> {
        let name = format!("{}.{what}", self.name);
        let mut inputs = vec![self.at];
        if let Some(number) = number {
            let value = tensor0(number).broadcast_into_rank(self.rank)?;
            inputs.push(self.patch.add_const(format!("{name}.by"), value)?);
        }
        self.at = self.patch.wire_node(name, op, &inputs)?[0];
        Ok(())
    }

    fn end(mut self, model: &TypedModel, node: &TypedNode) -> TractResult<TypedModelPatch> {
        self.patch.shunt_outside(model, node.id.into(), self.at)?;
        Ok(self.patch)
    }
}
