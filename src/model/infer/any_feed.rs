//! What holds for every feed that a model accepts: what a graph may be rewritten on.
//!
//! So an extent that was merely observed is not used, nor is a declaration inside the graph. The first axis of an input is always a symbol, and so is an axis whose
//! declaration is no number or was contradicted by execution. Every extent that is not known has a name of its own, so that its equality can be followed.

use std::collections::{HashMap, HashSet};

use super::{DimExpr, Inferred, Scope, Small, declared};
use crate::model::onnx::{GraphProto, NodeProto, TensorProto};
use crate::model::{DType, Facts};

/// Shapes, element types and small integer values by tensor, derived node by node in topological order, so that a graph can be edited on the way.
#[derive(Debug)]
pub(crate) struct AnyFeed {
    scope: Scope,
}

impl AnyFeed {
    /// Starts from the inputs and constants of a graph. Initializers that are `overridable` are inputs.
    pub(crate) fn of_inputs(graph: &GraphProto, opset: i64, overridable: &HashSet<String>, facts: &Facts) -> Self {
        let mut scope = Scope { opset, any_feed: true, ..Scope::default() };
        scope.constants(graph);
        let constants: HashSet<&str> = graph.initializer.iter().map(TensorProto::name).collect();
        for input in &graph.input {
            let name = input.name();
            if constants.contains(name) && !overridable.contains(name) {
                continue;
            }
            scope.small.remove(name);
            scope.floats.remove(name);
            let Inferred { dtype, dims } = declared(input);
            let observed = facts.get(name);
            let rank = observed.map(|f| f.shape.len()).or(dims.as_ref().map(Vec::len));
            let dims = dims.filter(|d| Some(d.len()) == rank);
            let extent = |axis: usize| {
                let seen = observed.map(|f| f.shape[axis]);
                match dims.as_ref().map(|d| &d[axis]) {
                    Some(&DimExpr::Known(n)) if axis > 0 && n > 0 && seen.is_none_or(|s| s == Some(n)) => {
                        DimExpr::Known(n)
                    }
                    // The same symbol is the same extent, unless execution says otherwise.
                    Some(DimExpr::Symbol(symbol)) => DimExpr::Symbol(format!("{symbol} {:?}", seen.flatten())),
                    _ => DimExpr::Symbol(format!("{name}.{axis}")),
                }
            };
            let dims = rank.map(|rank| (0..rank).map(extent).collect());
            scope.set(name, Inferred::new(observed.map(|f| f.dtype).or(dtype), dims));
        }
        Self { scope }
    }

    /// Adds a constant.
    pub(crate) fn constant(&mut self, tensor: &TensorProto) {
        self.scope.constant(tensor);
    }

    /// Adds what a node computes. `facts` give the rank where no rule does.
    pub(crate) fn visit(&mut self, node: &NodeProto, facts: &Facts) {
        self.scope.step(node, Some(facts), &HashMap::new());
    }

    /// Extents of a tensor, when its rank is known.
    pub(crate) fn dims(&self, tensor: &str) -> Option<&[DimExpr]> {
        self.scope.result.dims(tensor)
    }

    /// Element type, when known.
    pub(crate) fn dtype(&self, tensor: &str) -> Option<DType> {
        self.scope.result.dtype(tensor)
    }

    /// The elements of a small integer tensor.
    pub(crate) fn values(&self, tensor: &str) -> Option<&Small> {
        self.scope.small.get(tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::Builder;
    use crate::model::infer::Num;
    use crate::model::{Tensor, edit};

    fn of(model: &crate::model::Model, facts: &Facts) -> AnyFeed {
        let mut shapes = AnyFeed::of_inputs(model.graph(), 17, &HashSet::new(), facts);
        model.graph().node.iter().for_each(|node| shapes.visit(node, facts));
        shapes
    }

    #[test]
    fn extents_are_fixed_by_the_model_and_never_by_the_batch() {
        let model = Builder::new(17)
            .input("x", DType::F32, &["2", "8", "S"])
            .node("Shape", &["x"], "s", vec![])
            .node("Transpose", &["x"], "t", vec![])
            .node("Flatten", &["x"], "f", vec![edit::int("axis", 2)])
            .initializer("w", Tensor::new(&[2, 4], &[0.0_f32; 8]))
            .output("t", DType::F32, &["S", "8", "2"])
            .build();
        let mut facts = Facts::default();
        facts.merge("x", DType::F32, &[2, 8, 5]);
        let shapes = of(&model, &facts);
        let x = shapes.dims("x").unwrap();
        assert!(matches!(x, [DimExpr::Symbol(_), DimExpr::Known(8), DimExpr::Symbol(_)]));
        assert_eq!(shapes.values("s").unwrap().nums, x.iter().map(Num::from).collect::<Vec<_>>());
        assert_eq!(shapes.dims("t").unwrap(), [x[2].clone(), x[1].clone(), x[0].clone()]);
        assert_eq!(shapes.dims("f").unwrap()[1], x[2]);
        assert_eq!(shapes.dims("w").unwrap(), [DimExpr::Known(2), DimExpr::Known(4)]);
    }

    #[test]
    fn an_extent_that_no_rule_derives_is_equal_to_itself_alone() {
        let model = Builder::new(17)
            .input("x", DType::F32, &["N", "M"])
            .node("Concat", &["x", "x"], "a", vec![edit::int("axis", 1)])
            .node("Concat", &["x", "x"], "b", vec![edit::int("axis", 1)])
            .node("Relu", &["a"], "c", vec![])
            .node("Size", &["x"], "n", vec![])
            .node("Mystery", &["x"], "m", vec![])
            .output("c", DType::F32, &["N", "K"])
            .build();
        let mut facts = Facts::default();
        facts.merge("m", DType::F32, &[3]);
        let shapes = of(&model, &facts);
        assert_eq!(shapes.dims("a"), shapes.dims("c"));
        assert_ne!(shapes.dims("a"), shapes.dims("b"));
        assert!(matches!(shapes.values("n").unwrap().nums[..], [Num::Symbol(_)]));
        assert!(matches!(shapes.dims("m").unwrap(), [DimExpr::Symbol(_)]), "observed is not fixed");
    }

    #[test]
    fn an_initializer_that_a_caller_may_override_has_no_value() {
        let model = Builder::new(17)
            .input("k", DType::I64, &["1"])
            .initializer("k", Tensor::new(&[1], &[4_i64]))
            .output("k", DType::I64, &["1"])
            .build();
        let shapes = AnyFeed::of_inputs(model.graph(), 17, &HashSet::from(["k".to_owned()]), &Facts::default());
        assert_eq!(shapes.values("k"), None);
    }
}
