//! Attention blocks are recognised and counted, not rewritten: below opset 23 ONNX has no operator for them, and engines fuse the pattern themselves.

use crate::accelerator::net::{self, Id, Net, input};
use crate::model::{Effect, Facts, Model, Pass, PassError};

/// The pass `recognise-attention`.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecogniseAttention;

impl Pass for RecogniseAttention {
    fn name(&self) -> &'static str {
        "recognise-attention"
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        let blocks = net::edit(model, facts, |net| net.ids().into_iter().filter(|&id| is_attention(net, id)).count());
        let reason = if blocks == 0 {
            "no attention block is there".to_owned()
        } else {
            format!("{blocks} attention blocks recognised and left as they are: the engine fuses them itself")
        };
        Ok(Effect::Skipped { reason })
    }
}

/// Whether the Softmax in slot `id` weighs values by the product of queries and keys (Vaswani et al. 2017, equation 1).
fn is_attention(net: &Net, id: Id) -> bool {
    let Some((softmax, mut scores)) = net.op(id, "Softmax").and_then(|n| Some((n, input(n, 0)?))) else { return false };
    let weighs = |reader: &Id| net.op(*reader, "MatMul").is_some_and(|n| input(n, 0) == Some(&softmax.output[0]));
    if !net.readers(&softmax.output[0]).iter().any(weighs) {
        return false;
    }
    // Scaling and masking lie between the product and the Softmax.
    for _ in 0..4 {
        let Some((_, node)) = net.producer(scores) else { return false };
        match node.op_type() {
            "MatMul" => return true,
            "Add" | "Mul" | "Div" | "Where" => {
                let computed = |name: &&String| {
                    net.producer(name).is_some_and(|(_, n)| matches!(n.op_type(), "MatMul" | "Mul" | "Div" | "Add"))
                };
                let Some(next) = node.input.iter().find(computed) else { return false };
                scores = next;
            }
            _ => return false,
        }
    }
    false
}
