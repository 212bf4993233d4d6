//! Constant folding: `Constant` nodes become initializers, nodes of constants are computed, shape arithmetic whose extents the model fixes becomes a number,
//! and the shape chains that exporters write before a Reshape become a constant target.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::evaluate::{Call, evaluate};
use super::net::{self, Id, Net, input};
use super::shapes::{Shapes, is_extent};
use crate::model::infer::{DimExpr, Num};
use crate::model::onnx::GraphProto;
use crate::model::{DType, Effect, Facts, Model, Pass, PassError, Tensor, edit};

/// The pass `fold-constants`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FoldConstants {
    /// Whether only tensors of at most 4 KiB are computed (shape arithmetic and the like): the form for little memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_small: bool,
}

/// The largest tensor that [`FoldConstants::only_small`] computes.
const SMALL_BYTES: usize = 4 << 10;

/// No single folded tensor may be larger, unless it replaces as many bytes.
const MOST_BYTES: usize = 1 << 20;
/// A cast to a wider type is folded up to this many elements: larger ones are weights that were stored narrow on purpose.
const MOST_WIDENED: usize = 1024;
/// What all folds together may add to a file: this, or a fiftieth of its weights.
const FREE_GROWTH: usize = 64 << 10;

impl Pass for FoldConstants {
    fn name(&self) -> &'static str {
        "fold-constants"
    }

    fn parameters(&self) -> Value {
        serde_json::to_value(self).expect("plain data always becomes JSON")
    }

    /// What all folds add to the model, and the largest of them: a constant that takes the place of another.
    fn working_bytes(&self, model: &Model) -> u64 {
        if self.only_small {
            return (SMALL_BYTES + FREE_GROWTH) as u64;
        }
        let (all, largest) = weight_bytes(model.graph());
        (growth(all) + MOST_BYTES + 2 * largest) as u64
    }

    fn cheaper(&self) -> Option<Box<dyn Pass>> {
        (!self.only_small).then(|| Box::new(Self { only_small: true }) as Box<dyn Pass>)
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        let largest = if self.only_small { SMALL_BYTES } else { usize::MAX };
        let rewrites = net::edit(model, facts, |net| {
            let mut folding =
                Folding { budget: growth(weight_bytes(net.graph()).0), largest, shapes: Shapes::of_inputs(net) };
            let mut rewrites = 0;
            for id in net.ids() {
                rewrites += usize::from(folding.visit(net, id));
            }
            net.sweep();
            rewrites
        });
        Ok(Effect::rewrites(rewrites, "no node has only constants as inputs"))
    }
}

/// Bytes of all initializers, and of the largest.
fn weight_bytes(graph: &GraphProto) -> (usize, usize) {
    let bytes = graph.initializer.iter().filter_map(|t| {
        let dtype = DType::from_onnx(t.data_type())?;
        crate::model::tensor::element_count(&net::shape_of(t)?)?.checked_mul(dtype.size())
    });
    bytes.fold((0, 0), |(all, largest), bytes| (all.saturating_add(bytes), largest.max(bytes)))
}

/// What folding may add to a file with so many bytes of weights.
fn growth(weights: usize) -> usize {
    FREE_GROWTH.max(weights / 50)
}

struct Folding {
    shapes: Shapes,
    /// Bytes that folding may still add to the file.
    budget: usize,
    /// Bytes of the largest tensor that is computed or computed from.
    largest: usize,
}

impl Folding {
    fn visit(&mut self, net: &mut Net, id: Id) -> bool {
        let Some(node) = net.get(id) else { return false };
        if !matches!(node.domain(), "" | "ai.onnx") || node.output.iter().all(String::is_empty) {
            self.shapes.visit(net, node);
            return false;
        }
        // An output that is constant is computed by a node all the same: not every runtime hands out an initializer.
        let fed_out = node.output.iter().any(|o| net.is_output(o));
        if !fed_out && (self.store(net, id) || self.compute(net, id)) {
            return true;
        }
        let Some(node) = net.get(id) else { return false };
        self.shapes.visit(net, node);
        (!fed_out && self.known_values(net, id)) || self.constant_target(net, id)
    }

    /// `Constant` node to initializer, without decoding the tensor.
    fn store(&mut self, net: &mut Net, id: Id) -> bool {
        let Some(node) = net.op(id, "Constant") else { return false };
        let [output] = node.output.as_slice() else { return false };
        let output = output.clone();
        let tensor = edit::attribute(node, "value").and_then(|a| a.t.clone());
        let proto = match tensor {
            Some(proto) if DType::from_onnx(proto.data_type()).is_some() => proto,
            Some(_) => return false,
            None => match edit::constant_value(node) {
                Some(value) => value.to_proto(&output),
                None => return false,
            },
        };
        net.remove(id);
        let proto = crate::model::onnx::TensorProto { name: Some(output), ..proto };
        self.shapes.constant(&proto);
        net.add_initializer(proto);
        true
    }

    fn compute(&mut self, net: &mut Net, id: Id) -> bool {
        let Some(node) = net.get(id) else { return false };
        if node.input.is_empty() || edit::subgraphs(node).next().is_some() {
            return false;
        }
        let mut infos = Vec::new();
        for name in node.input.iter().filter(|i| !i.is_empty()) {
            let Some(info) = net.constant_info(name) else { return false };
            infos.push((name, info));
        }
        let bytes =
            |(_, (dtype, shape)): &(&String, (DType, Vec<usize>))| shape.iter().product::<usize>() * dtype.size();
        // What goes away with this node: constants that only it reads.
        let freed: usize = infos.iter().filter(|(name, _)| net.only_reader(name) == Some(id)).map(bytes).sum();
        if edit::is_op(node, "Cast")
            && infos.iter().any(|i| widened(node, i.1.0) && bytes(i) / i.1.0.size() > MOST_WIDENED)
        {
            return false;
        }
        if infos.iter().any(|info| bytes(info) > self.largest) {
            return false;
        }
        let limit = freed.max(MOST_BYTES).min(self.largest);
        let inputs: Vec<Option<Tensor>> = node.input.iter().map(|i| net.constant(i)).collect();
        if node.input.iter().zip(&inputs).any(|(name, value)| value.is_none() && !name.is_empty()) {
            return false;
        }
        let Some(outputs) = evaluate(&Call { node, inputs: &inputs, opset: net.opset(), limit }) else { return false };
        let grown = outputs.iter().map(|o| o.bytes().len()).sum::<usize>().saturating_sub(freed);
        if grown > self.budget {
            return false;
        }
        self.budget -= grown;
        self.replace(net, id, outputs);
        true
    }

    /// Shape arithmetic of which every element is known.
    fn known_values(&mut self, net: &mut Net, id: Id) -> bool {
        let Some(node) = net.get(id) else { return false };
        let [output] = node.output.as_slice() else { return false };
        let Some(values) = self.shapes.values(net, output) else { return false };
        let Some(items) = values.nums.iter().map(Num::int).collect::<Option<Vec<i64>>>() else { return false };
        let value = match self.shapes.dtype(net, output) {
            Some(DType::I64) => Tensor::new(&values.shape, &items),
            Some(DType::I32) => match items.iter().map(|&i| i32::try_from(i).ok()).collect::<Option<Vec<_>>>() {
                Some(items) => Tensor::new(&values.shape, &items),
                None => return false,
            },
            Some(DType::Bool) => Tensor::from_bools(&values.shape, &items.iter().map(|&i| i != 0).collect::<Vec<_>>()),
            _ => return false,
        };
        self.replace(net, id, vec![value]);
        true
    }

    /// A computed Reshape target of which at most one extent is open.
    fn constant_target(&mut self, net: &mut Net, id: Id) -> bool {
        let Some(node) = net.op(id, "Reshape") else { return false };
        let Some((data, target)) = input(node, 0).zip(input(node, 1)) else { return false };
        if net.is_constant(target) || edit::int_attribute(node, "allowzero", 0) != 0 {
            return false;
        }
        let Some(values) = self.shapes.values(net, target) else { return false };
        let from = self.shapes.get(net, data).unwrap_or_default();
        // A target that itself says "copy" (0) or "open" (-1) is written with those words already.
        let words = |n: &Num| matches!(n, Num::Int(0 | -1));
        let constant = if values.nums.iter().any(words) {
            literal(&from, &values.nums)
        } else {
            Shapes::reshape_target(&from, &values.nums.iter().map(Num::dim).collect::<Vec<_>>())
        };
        let Some(constant) = constant else { return false };
        let old = target.to_owned();
        let name = net.add_constant(&format!("{old}_constant"), &Tensor::new(&[constant.len()], &constant));
        net.change(id, |node| node.input[1] = name);
        if let Some((producer, _)) = net.producer(&old) {
            net.remove_unused(producer);
        }
        true
    }

    fn replace(&mut self, net: &mut Net, id: Id, outputs: Vec<Tensor>) {
        let Some(node) = net.remove(id) else { return };
        for (name, value) in node.output.iter().zip(outputs).filter(|(name, _)| !name.is_empty()) {
            let proto = value.to_proto(name);
            self.shapes.constant(&proto);
            net.add_initializer(proto);
        }
    }
}

/// A target with words in it: symbols must be copies of the axis above them, for the one open axis is taken.
fn literal(from: &[DimExpr], items: &[Num]) -> Option<Vec<i64>> {
    let mut opens = 0;
    let word = |(i, num): (usize, &Num)| match num {
        Num::Int(n) => {
            opens += usize::from(*n == -1);
            *n
        }
        num if from.get(i).is_some_and(|d| is_extent(num, d)) => 0,
        _ => {
            opens += 1;
            -1
        }
    };
    let target = items.iter().enumerate().map(word).collect();
    (opens <= 1).then_some(target)
}

fn widened(node: &crate::model::onnx::NodeProto, from: DType) -> bool {
    let to = i32::try_from(edit::int_attribute(node, "to", 0)).ok().and_then(DType::from_onnx);
    to.is_none_or(|to| to.size() > from.size())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::Builder;
    use crate::model::onnx::NodeProto;

    fn apply(mut model: Model) -> (Model, Effect) {
        let effect = FoldConstants::default().apply(&mut model, &mut Facts::default()).unwrap();
        (model, effect)
    }

    fn ops(model: &Model) -> Vec<&str> {
        model.graph().node.iter().map(NodeProto::op_type).collect()
    }

    #[test]
    fn the_form_for_little_memory_leaves_large_products_to_the_runtime() {
        let doubled = |n: usize| {
            Builder::new(17)
                .input("x", DType::F32, &["n"])
                .initializer("w", Tensor::new(&[n], &vec![1.5_f32; n]))
                .node("Add", &["w", "w"], "v", vec![])
                .node("Add", &["x", "v"], "y", vec![])
                .output("y", DType::F32, &["n"])
                .build()
        };
        let small = FoldConstants { only_small: true };
        for (n, applies) in [(8, true), (8_192, false)] {
            let mut model = doubled(n);
            let effect = small.apply(&mut model, &mut Facts::default()).unwrap();
            assert_eq!(matches!(effect, Effect::Applied { .. }), applies, "{n}");
            assert!(small.working_bytes(&model) <= FoldConstants::default().working_bytes(&model));
        }
        assert!(matches!(apply(doubled(8_192)).1, Effect::Applied { .. }));
        assert!(FoldConstants::default().cheaper().is_some() && small.cheaper().is_none());
    }

    /// `y = Reshape(x, [dim 0 of x, -1])` as `PyTorch` exports `x.view(x.size(0), -1)`.
    fn exported_flatten(channels: &str) -> Model {
        Builder::new(13)
            .input("x", DType::F32, &["N", channels, "4"])
            .node("Shape", &["x"], "s", vec![])
            .node("Constant", &[], "zero", vec![edit::int("value_int", 0)])
            .node("Gather", &["s", "zero"], "n", vec![])
            .initializer("axes", Tensor::new(&[1], &[0_i64]))
            .node("Unsqueeze", &["n", "axes"], "n1", vec![])
            .initializer("rest", Tensor::new(&[1], &[-1_i64]))
            .node("Concat", &["n1", "rest"], "t", vec![edit::int("axis", 0)])
            .node("Reshape", &["x", "t"], "y", vec![])
            .output("y", DType::F32, &["N", "M"])
            .build()
    }

    #[test]
    fn the_shape_chain_of_an_exported_view_becomes_a_constant() {
        let (model, effect) = apply(exported_flatten("3"));
        assert_eq!(ops(&model), ["Reshape"]);
        assert!(matches!(effect, Effect::Applied { .. }));
        let target = &model.graph().node[0].input[1];
        let initializer = model.graph().initializer.iter().find(|t| t.name() == target).unwrap();
        assert_eq!(&*Tensor::from_proto(initializer).unwrap().to_i64().unwrap(), &[0, -1]);
    }

    #[test]
    fn a_batch_that_was_the_same_in_every_feed_is_not_taken_for_fixed() {
        let mut model = Builder::new(17)
            .input("x", DType::F32, &["2", "3"])
            .node("Shape", &["x"], "y", vec![])
            .node("Identity", &["y"], "z", vec![])
            .output("z", DType::I64, &["2"])
            .build();
        let mut facts = Facts::default();
        facts.merge("x", DType::F32, &[2, 3]);
        let effect = FoldConstants::default().apply(&mut model, &mut facts).unwrap();
        assert!(matches!(effect, Effect::Skipped { .. }), "{effect:?}");
    }

    #[test]
    fn an_axis_that_the_declaration_fixes_folds_unless_execution_contradicts_it() {
        let build = || {
            Builder::new(17)
                .input("x", DType::F32, &["N", "3"])
                .node("Shape", &["x"], "s", vec![edit::int("start", 1)])
                .node("ConstantOfShape", &["s"], "c", vec![])
                .node("Add", &["x", "c"], "y", vec![])
                .output("y", DType::F32, &["N", "3"])
                .build()
        };
        assert_eq!(ops(&apply(build()).0), ["Add"]);
        let mut facts = Facts::default();
        facts.merge("x", DType::F32, &[2, 5]);
        let mut model = build();
        FoldConstants::default().apply(&mut model, &mut facts).unwrap();
        assert_eq!(ops(&model), ["Shape", "ConstantOfShape", "Add"]);
    }

    #[test]
    fn narrow_weights_stay_narrow() {
        let weights = Tensor::new(&[2048], &[1_i8; 2048]);
        let model = Builder::new(17)
            .input("x", DType::F32, &["N", "2048"])
            .initializer("q", weights)
            .initializer("s", Tensor::scalar(0.5_f32))
            .node("DequantizeLinear", &["q", "s"], "d", vec![])
            .node("Cast", &["q"], "c", vec![edit::int("to", 1)])
            .node("Add", &["x", "d"], "a", vec![])
            .node("Add", &["a", "c"], "y", vec![])
            .output("y", DType::F32, &["N", "2048"])
            .build();
        assert_eq!(apply(model.clone()).0, model);
    }

    #[test]
    fn folding_does_not_bloat_the_file() {
        let model = Builder::new(17)
            .input("x", DType::F32, &["N", "512", "512"])
            .initializer("one", Tensor::new(&[1, 1], &[1.0_f32]))
            .initializer("shape", Tensor::new(&[2], &[512_i64, 512]))
            .node("Expand", &["one", "shape"], "e", vec![])
            .node("Add", &["x", "e"], "y", vec![])
            .output("y", DType::F32, &["N", "512", "512"])
            .build();
        assert_eq!(ops(&apply(model).0), ["Expand", "Add"]);
    }

    #[test]
    fn the_transpose_of_a_weight_is_folded_whatever_its_size() {
        let model = Builder::new(17)
            .input("x", DType::F32, &["N", "600"])
            .initializer("w", Tensor::new(&[500, 600], &vec![0.5_f32; 300_000]))
            .node("Transpose", &["w"], "t", vec![])
            .node("MatMul", &["x", "t"], "y", vec![])
            .output("y", DType::F32, &["N", "500"])
            .build();
        let (model, _) = apply(model);
        assert_eq!(ops(&model), ["MatMul"]);
        assert_eq!(model.graph().initializer.len(), 1);
        assert_eq!(model.graph().initializer[0].dims, [600, 500]);
    }

    #[test]
    fn an_initializer_that_a_caller_may_override_is_no_constant() {
        let model = Builder::new(17)
            .input("x", DType::F32, &["N"])
            .input("k", DType::F32, &["1"])
            .initializer("k", Tensor::new(&[1], &[1.0_f32]))
            .node("Neg", &["k"], "m", vec![])
            .node("Add", &["x", "m"], "y", vec![])
            .output("y", DType::F32, &["N"])
            .build();
        assert_eq!(ops(&apply(model).0), ["Neg", "Add"]);
    }
}
