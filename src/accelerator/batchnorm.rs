//! `BatchNormalization` folded into the linear operator before it, or into the one behind it where no padding lies in between.

use super::linear::{Affine, Kind, Linear, unpadded};
use super::net::{self, Id, Net, input};
use crate::model::{Effect, Facts, Model, Pass, PassError, Tensor, edit};

/// The pass `fold-batchnorm`.
#[derive(Debug, Clone, Copy, Default)]
pub struct FoldBatchNorm;

impl Pass for FoldBatchNorm {
    fn name(&self) -> &'static str {
        "fold-batchnorm"
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        let fused = net::edit(model, facts, |net| {
            let ids = net.ids();
            let fused: Vec<String> = ids.into_iter().filter_map(|id| fold(net, id)).collect();
            if !fused.is_empty() {
                net.sweep();
            }
            fused
        });
        Ok(super::fused(fused, "no BatchNormalization follows a Conv, Gemm or MatMul with constant weights"))
    }
}

fn fold(net: &mut Net, id: Id) -> Option<String> {
    let node = net.op(id, "BatchNormalization")?;
    let affine = Affine::of_batch_norm(net, node)?;
    let x = input(node, 0)?.to_owned();
    into_previous(net, id, &x, &affine).or_else(|| into_next(net, id, &x, &affine))
}

fn into_previous(net: &mut Net, id: Id, x: &str, affine: &Affine) -> Option<String> {
    let linear = Linear::before(net, x, id)?;
    let label = edit::label(net.get(linear.id)?);
    let op = net.get(linear.id)?.op_type().to_owned();
    if linear.kind == Kind::MatMul {
        // BatchNormalization's channel is axis 1, which is MatMul's last only at rank 2. The shift stays, as the Add of a bias.
        if net.facts().rank(x) != Some(2) || !linear.absorb(net, &Affine::scaling(affine.scale.clone())) {
            return None;
        }
        let shift: Vec<f32> = affine.shift.iter().map(|&s| s as f32).collect();
        let name = net.add_constant(&format!("{}_bias", linear.weight), &Tensor::new(&[shift.len()], &shift));
        net.change(id, |node| {
            node.op_type = Some("Add".to_owned());
            node.input = vec![x.to_owned(), name];
            node.output.truncate(1);
            node.attribute.clear();
        });
    } else {
        // First that the node can go, for then the fold is certain to be used: an output that is itself read elsewhere was excluded by `before`.
        if !linear.absorb(net, affine) {
            return None;
        }
        net.bypass(id, x);
    }
    Some(format!("{op}+BatchNormalization: {label}"))
}

fn into_next(net: &mut Net, id: Id, x: &str, affine: &Affine) -> Option<String> {
    let y = net.get(id)?.output.first()?.clone();
    let next = net.only_reader(&y)?;
    let linear = Linear::at(net, next)?;
    let node = net.get(next)?;
    let direct = input(node, 0) == Some(&y) && node.input.iter().filter(|i| **i == y).count() == 1;
    let exact = match linear.kind {
        Kind::Conv => unpadded(node) || affine.only_scales(),
        Kind::Gemm => edit::int_attribute(node, "transA", 0) == 0,
        _ => false,
    };
    let label = format!("BatchNormalization+{}: {}", node.op_type(), edit::label(node));
    if !direct || !exact || !linear.absorb_before(net, affine) {
        return None;
    }
    net.bypass(id, x);
    Some(label)
}
