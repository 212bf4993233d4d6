//! Lossless graph work: folding, dead code, common subexpressions, fusion, layout. Passes only; running and checking them is the driver's.
//!
//! A pass reads the graph, the constants and what was observed of ranks and element types; it runs nothing. What holds only for the samples that were observed
//! (an extent, above all the batch) is never built into a graph.

pub mod activation;
pub mod batchnorm;
pub mod bias;
pub mod cleanup;
pub mod cse;
pub mod dce;
mod evaluate;
pub mod fold;
pub mod fuse;
pub mod layout;
mod linear;
mod net;
pub mod pad;
#[cfg(test)]
mod reference;
mod shapes;

use serde::Deserialize as _;

use crate::model::{Effect, Pass};

/// Names of all passes of this room, in the order in which they run; the last is not run unless asked for by name.
pub const PASS_NAMES: &[&str] = &[
    "fold-constants",
    "eliminate-dead-code",
    "clean-up",
    "merge-common-subexpressions",
    "fold-pad",
    "fold-batchnorm",
    "fold-bias",
    "simplify-activations",
    "fuse-layer-normalization",
    "fuse-softmax",
    "fuse-hard-swish",
    "convert-layout",
    "recognise-attention",
    "fuse-gelu",
];

/// The passes of level Conservative in their order. To be run, in rounds, until none of them applies any more.
///
/// GELU is not among them: see [`fuse::gelu`].
#[must_use]
pub fn conservative_passes() -> Vec<Box<dyn Pass>> {
    PASS_NAMES.iter().filter(|&&name| name != "fuse-gelu").filter_map(|name| by_name(name)).collect()
}

/// The pass of a recipe's step; `None` when it is not one of this room or the parameters are not its own.
#[must_use]
pub fn from_parameters(name: &str, parameters: &serde_json::Value) -> Option<Box<dyn Pass>> {
    if name == "fold-constants" {
        return fold::FoldConstants::deserialize(parameters).ok().map(|pass| Box::new(pass) as Box<dyn Pass>);
    }
    by_name(name)
}

/// A pass of this room by its name.
#[must_use]
pub fn by_name(name: &str) -> Option<Box<dyn Pass>> {
    Some(match name {
        "fold-constants" => Box::new(fold::FoldConstants::default()),
        "eliminate-dead-code" => Box::new(dce::EliminateDeadCode),
        "clean-up" => Box::new(cleanup::CleanUp),
        "merge-common-subexpressions" => Box::new(cse::MergeCommonSubexpressions),
        "fold-pad" => Box::new(pad::FoldPad),
        "fold-batchnorm" => Box::new(batchnorm::FoldBatchNorm),
        "fold-bias" => Box::new(bias::FoldBias),
        "simplify-activations" => Box::new(activation::SimplifyActivations),
        "fuse-layer-normalization" => Box::new(fuse::layer_norm::FuseLayerNormalization),
        "fuse-softmax" => Box::new(fuse::softmax::FuseSoftmax),
        "fuse-hard-swish" => Box::new(fuse::hard_swish::FuseHardSwish),
        "convert-layout" => Box::new(layout::ConvertLayout),
        "recognise-attention" => Box::new(fuse::attention::RecogniseAttention),
        "fuse-gelu" => Box::new(fuse::gelu::FuseGelu),
        _ => return None,
    })
}

/// The effect of a pass that fuses.
fn fused(fused: Vec<String>, none: &str) -> Effect {
    if fused.is_empty() {
        Effect::Skipped { reason: none.to_owned() }
    } else {
        Effect::Applied { rewrites: fused.len(), fused }
    }
}

#[cfg(test)]
mod tests;
