//! Dead-code elimination: nodes, initializers and declarations that no output depends on.

use super::net;
use crate::model::{Effect, Facts, Model, Pass, PassError};

/// The pass `eliminate-dead-code`.
#[derive(Debug, Clone, Copy, Default)]
pub struct EliminateDeadCode;

impl Pass for EliminateDeadCode {
    fn name(&self) -> &'static str {
        "eliminate-dead-code"
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        let rewrites = net::edit(model, facts, |net| {
            let before = net.ids();
            for &id in before.iter().rev() {
                net.remove_unused(id);
            }
            before.len() - net.ids().len() + net.sweep()
        });
        Ok(Effect::rewrites(rewrites, "every node and every initializer contributes to an output"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::{Builder, graph_attribute};
    use crate::model::onnx::NodeProto;
    use crate::model::{DType, Tensor};

    #[test]
    fn what_no_output_needs_goes_and_what_a_subgraph_captures_stays() {
        let branch =
            || Builder::new(17).node("Neg", &["captured"], "z", vec![]).output("z", DType::F32, &["N"]).build_graph();
        let mut model = Builder::new(17)
            .input("x", DType::F32, &["N"])
            .input("c", DType::Bool, &[])
            .initializer("w", Tensor::scalar(1.0_f32))
            .initializer("dead", Tensor::scalar(2.0_f32))
            .node("Add", &["x", "w"], "captured", vec![])
            .node("Mul", &["x", "dead"], "a", vec![])
            .node("Relu", &["a"], "b", vec![])
            .node(
                "If",
                &["c"],
                "y",
                vec![graph_attribute("then_branch", branch()), graph_attribute("else_branch", branch())],
            )
            .output("y", DType::F32, &["N"])
            .build();
        let effect = EliminateDeadCode.apply(&mut model, &mut Facts::default()).unwrap();
        assert_eq!(effect, Effect::Applied { rewrites: 3, fused: vec![] });
        let ops: Vec<_> = model.graph().node.iter().map(NodeProto::op_type).collect();
        assert_eq!(ops, ["Add", "If"]);
        assert_eq!(model.graph().initializer.len(), 1);
    }
}
