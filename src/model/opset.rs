//! Bringing a model to a newer opset of ONNX's own domain, so that a pass may use what that opset has.
//!
//! A model is taken through the versions one by one; at each, the operators whose *signature or meaning* changed there are rewritten ([`steps`]).
//! Versions that only admit more types, or add an attribute whose default is the old behaviour, need nothing. The list was made from the operator
//! changelog (`Changelog.md` of ONNX 1.20, opsets 8 to 25).

mod steps;

use std::collections::{BTreeMap, HashSet};

use super::build::ir_version_of;
use super::edit::{Index, attribute, constant_value, int_attribute, is_op, label, reads_of, subgraphs};
use super::onnx::{GraphProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto, type_proto};
use super::{DType, Effect, Facts, Model, ModelError, Pass, PassError, Tensor, verify};

/// The opset that models are brought to when nothing else is asked for: the first that has `LayerNormalization`, and known to every engine in use.
pub const DEFAULT_TARGET: i64 = 17;

/// The pass that calls [`Model::upgrade`].
#[derive(Debug, Clone, Copy)]
pub struct OpsetUpgrade {
    /// The opset to reach.
    pub target: i64,
}

impl Default for OpsetUpgrade {
    fn default() -> Self {
        Self { target: DEFAULT_TARGET }
    }
}

impl Pass for OpsetUpgrade {
    fn name(&self) -> &'static str {
        "opset-upgrade"
    }

    fn parameters(&self) -> serde_json::Value {
        serde_json::json!({ "target": self.target })
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        if model.opset("").is_none_or(|v| v >= self.target) {
            return Ok(Effect::Skipped { reason: format!("The model is at opset {} or later already.", self.target) });
        }
        let rewrites = model.upgrade(facts, self.target)?;
        // A raised version is a change of the file even where no node had to be rewritten.
        Ok(Effect::Applied { rewrites, fused: Vec::new() })
    }
}

impl Model {
    /// Brings a model that is older than opset `least` to [`DEFAULT_TARGET`]; see [`Model::upgrade`].
    pub fn raise(&mut self, facts: &Facts, least: i64) -> Result<(), ModelError> {
        if self.opset("").is_some_and(|opset| opset < least) {
            self.upgrade(facts, DEFAULT_TARGET)?;
        }
        Ok(())
    }

    /// Brings the model to `target` (at most 25), subgraphs included, and returns how many nodes were rewritten. A model that is there already, or that
    /// imports no opset of ONNX, is untouched; so is one with an operator that cannot be carried over, which is the error. `facts` (may be empty) spare
    /// `Softmax` a detour where they tell the rank.
    pub fn upgrade(&mut self, facts: &Facts, target: i64) -> Result<usize, ModelError> {
        let Some(from) = self.opset("").filter(|&v| v < target) else { return Ok(0) };
        if let Some(version) = [from, target].into_iter().find(|v| !verify::OPSETS.contains(v)) {
            let detail = format!(
                "models of opset {} to {} can be upgraded, to at most {}",
                verify::OPSETS.start(),
                verify::OPSETS.end(),
                verify::OPSETS.end()
            );
            return Err(ModelError::Opset { domain: "ai.onnx".to_owned(), version, detail });
        }
        for function in &self.proto().functions {
            let own = function
                .opset_import
                .iter()
                .find(|o| matches!(o.domain(), "" | "ai.onnx"))
                .map_or(from, OperatorSetIdProto::version);
            if let Some((node, version)) = function.node.iter().find_map(|n| Some((n, first_change(n, own, target)?))) {
                return Err(refusal(
                    node,
                    version,
                    format!("it is inside function '{}', which must be inlined first", function.name()),
                ));
            }
        }
        let mut graph = self.graph().clone();
        let mut context = Context::new(self, facts);
        let rewritten = context.run(&mut graph, from, target)?;
        let old_ir = self.proto().ir_version();
        if old_ir < 4 {
            // Before IR 4 every initializer had to be listed as an input; from 4 on that would make it overridable.
            let constant: HashSet<&str> = graph.initializer.iter().map(TensorProto::name).collect();
            graph.input.retain(|i| !constant.contains(i.name()));
        }
        *self.graph_mut() = graph;
        let proto = self.proto_mut();
        proto.ir_version = Some(old_ir.max(ir_version_of(target)));
        for import in proto.opset_import.iter_mut().filter(|o| matches!(o.domain(), "" | "ai.onnx")) {
            import.version = Some(target);
        }
        Ok(rewritten)
    }
}

/// The first version in `(from, to]` at which this node, or one in its subgraphs, has to be rewritten.
pub(super) fn first_change(node: &NodeProto, from: i64, to: i64) -> Option<i64> {
    let own = matches!(node.domain(), "" | "ai.onnx")
        .then(|| (from + 1..=to).find(|&v| steps::changes(node.op_type(), v)))
        .flatten();
    let inner = subgraphs(node).flat_map(|g| &g.node).filter_map(|n| first_change(n, from, to)).min();
    own.into_iter().chain(inner).min()
}

fn refusal(node: &NodeProto, version: i64, detail: String) -> ModelError {
    ModelError::Upgrade { node: label(node), op_type: node.op_type().to_owned(), version, detail }
}

/// What is known of the whole model while its graphs are taken through the versions.
pub(super) struct Context<'a> {
    facts: &'a Facts,
    taken: HashSet<String>,
    /// Whether `float32` is the only floating-point type that occurs, so that it can be assumed where nothing is declared.
    only_f32: bool,
    /// Outputs of `Upsample` nodes that became `Resize`: those only ever enlarge.
    upsampled: HashSet<String>,
}

impl<'a> Context<'a> {
    pub(super) fn new(model: &Model, facts: &'a Facts) -> Self {
        Self { facts, taken: model.tensor_names(), only_f32: only_f32(model.graph()), upsampled: HashSet::new() }
    }

    /// Every tensor name in use; names made here are added.
    pub(super) fn taken(&mut self) -> &mut HashSet<String> {
        &mut self.taken
    }

    /// Takes a graph and its subgraphs from one version to another. On an error the graph is left half-way: work on a copy.
    pub(super) fn run(&mut self, graph: &mut GraphProto, from: i64, to: i64) -> Result<usize, ModelError> {
        let mut rewritten = 0;
        for version in from + 1..=to {
            if graph.node.iter().any(|n| first_change(n, version - 1, version).is_some()) {
                rewritten += self.step(graph, version)?;
            }
        }
        Ok(rewritten)
    }

    fn step(&mut self, graph: &mut GraphProto, version: i64) -> Result<usize, ModelError> {
        let mut rewritten = 0;
        let mut read: HashSet<String> = graph.node.iter().flat_map(reads_of).collect();
        read.extend(graph.output.iter().map(|o| o.name().to_owned()));
        let mut site = Site {
            context: self,
            graph,
            index: Index::new(graph),
            read,
            constants: Vec::new(),
            integers: BTreeMap::new(),
        };
        let mut nodes = Vec::with_capacity(graph.node.len());
        for node in &graph.node {
            if matches!(node.domain(), "" | "ai.onnx")
                && steps::changes(node.op_type(), version)
                && let Some(replacement) =
                    steps::rewrite(node, version, &mut site).map_err(|detail| refusal(node, version, detail))?
            {
                rewritten += 1;
                nodes.extend(replacement);
                continue;
            }
            nodes.push(node.clone());
        }
        let constants = site.constants;
        for node in &mut nodes {
            for attribute in &mut node.attribute {
                for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                    rewritten += self.step(inner, version)?;
                }
            }
        }
        graph.node = nodes;
        graph.initializer.extend(constants.iter().map(|(name, tensor)| tensor.to_proto(name)));
        Ok(rewritten)
    }
}

/// One graph at one version, as the rewriting of a node sees it.
struct Site<'a, 'c> {
    context: &'a mut Context<'c>,
    graph: &'a GraphProto,
    index: Index,
    read: HashSet<String>,
    constants: Vec<(String, Tensor)>,
    /// Integer lists made so far: axes and shapes repeat.
    integers: BTreeMap<Vec<i64>, String>,
}

impl Site<'_, '_> {
    fn fresh(&mut self, stem: &str) -> String {
        Model::fresh_name(&mut self.context.taken, stem)
    }

    fn constant(&mut self, stem: &str, tensor: Tensor) -> String {
        let name = self.fresh(stem);
        self.constants.push((name.clone(), tensor));
        name
    }

    fn integers(&mut self, values: &[i64]) -> String {
        if let Some(name) = self.integers.get(values) {
            return name.clone();
        }
        let words: Vec<String> = values.iter().map(i64::to_string).collect();
        let name = self.constant(&format!("int64_{}", words.join("_")), Tensor::new(&[values.len()], values));
        self.integers.insert(values.to_vec(), name.clone());
        name
    }

    fn is_read(&self, tensor: &str) -> bool {
        self.read.contains(tensor)
    }

    /// The value of an initializer or `Constant` of this graph.
    fn value(&self, tensor: &str) -> Option<Tensor> {
        match self.index.initializer(tensor) {
            Some(position) => Tensor::from_proto(&self.graph.initializer[position]).ok(),
            None => constant_value(&self.graph.node[self.index.producer(tensor)?]),
        }
    }

    /// Element type of a floating-point tensor: observed, declared, certain from the operators that lead to it, or the only one there is.
    fn float_type(&self, tensor: &str) -> Option<DType> {
        let known = self.context.facts.dtype(tensor).or_else(|| self.type_by_structure(tensor, 16));
        known.or(self.context.only_f32.then_some(DType::F32))
    }

    fn type_by_structure(&self, tensor: &str, depth: usize) -> Option<DType> {
        let infos = self.graph.input.iter().chain(&self.graph.value_info).chain(&self.graph.output);
        if let Some(declared) = infos.filter(|i| i.name() == tensor).find_map(declared_type) {
            return Some(declared);
        }
        if let Some(position) = self.index.initializer(tensor) {
            return DType::from_onnx(self.graph.initializer[position].data_type());
        }
        let node = &self.graph.node[self.index.producer(tensor)?];
        match node.op_type() {
            "Cast" => DType::from_onnx(int_attribute(node, "to", 0) as i32),
            "Constant" => constant_value(node).map(|t| t.dtype()),
            "Relu" | "Identity" | "Add" | "Sub" | "Mul" | "Div" | "MatMul" | "Gemm" | "Conv" | "BatchNormalization"
            | "Reshape" | "Transpose" | "Concat" | "Pad" | "Clip" | "Sigmoid" | "Tanh" | "MaxPool" | "AveragePool"
            | "GlobalAveragePool" => self.type_by_structure(node.input.first()?, depth.checked_sub(1)?),
            _ => None,
        }
    }

    /// Rank of a tensor: observed, or certain from the operators that lead to it. Declarations are not trusted with it.
    fn rank(&self, tensor: &str) -> Option<usize> {
        self.context.facts.rank(tensor).or_else(|| self.rank_by_structure(tensor, 8))
    }

    /// Dimensions of an initializer, or of the value of a `Constant` node.
    fn constant_dims(&self, tensor: &str) -> Option<&Vec<i64>> {
        if let Some(position) = self.index.initializer(tensor) {
            return Some(&self.graph.initializer[position].dims);
        }
        let node = &self.graph.node[self.index.producer(tensor)?];
        if is_op(node, "Constant") { Some(&attribute(node, "value")?.t.as_ref()?.dims) } else { None }
    }

    fn rank_by_structure(&self, tensor: &str, depth: usize) -> Option<usize> {
        let dims_of = |name: &String| self.constant_dims(name);
        if let Some(dims) = self.constant_dims(tensor) {
            return Some(dims.len());
        }
        let node = &self.graph.node[self.index.producer(tensor)?];
        if node.output.first().is_none_or(|o| o != tensor) || !matches!(node.domain(), "" | "ai.onnx") {
            return None;
        }
        match node.op_type() {
            "Gemm" | "Flatten" => Some(2),
            "Conv" | "ConvTranspose" => node.input.get(1).and_then(dims_of).map(Vec::len),
            "Reshape" => node.input.get(1).and_then(dims_of).filter(|d| d.len() == 1).map(|d| d[0] as usize),
            "Relu" | "Identity" | "Dropout" | "BatchNormalization" | "Sigmoid" | "Tanh" | "LeakyRelu" | "Clip"
            | "MaxPool" | "AveragePool" | "GlobalAveragePool" | "Softmax" | "Transpose" | "Cast" => {
                depth.checked_sub(1).and_then(|d| self.rank_by_structure(node.input.first()?, d))
            }
            "Add" | "Sub" | "Mul" | "Div" if node.input.len() == 2 => {
                let ranks = node.input.iter().map(|i| self.rank_by_structure(i, depth.checked_sub(1)?));
                ranks.collect::<Option<Vec<_>>>()?.into_iter().max()
            }
            "MatMul" => {
                let of = |i: usize| self.rank_by_structure(node.input.get(i)?, depth.checked_sub(1)?);
                (of(1)? == 2).then(|| of(0)).flatten().filter(|&r| r >= 2)
            }
            _ => None,
        }
    }

    /// Extents of the axes behind `axis`, when all were observed to be fixed.
    fn all_one_behind(&self, tensor: &str, axis: usize) -> bool {
        self.context.facts.get(tensor).is_some_and(|f| f.shape.iter().skip(axis + 1).all(|&d| d == Some(1)))
    }
}

fn declared_type(info: &ValueInfoProto) -> Option<DType> {
    match info.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(t) => DType::from_onnx(t.elem_type()),
        _ => None,
    }
}

fn only_f32(graph: &GraphProto) -> bool {
    let fine = |dtype: Option<DType>| dtype.is_none_or(|d| !d.is_float() || d == DType::F32);
    graph.initializer.iter().all(|t| fine(DType::from_onnx(t.data_type())))
        && graph.input.iter().all(|i| fine(declared_type(i)))
        && graph.node.iter().all(|n| {
            let casts = !is_op(n, "Cast") || fine(DType::from_onnx(int_attribute(n, "to", 0) as i32));
            casts
                && attribute(n, "dtype").and_then(|a| a.i).is_none_or(|d| fine(DType::from_onnx(d as i32)))
                && n.attribute.iter().filter_map(|a| a.t.as_ref()).all(|t| fine(DType::from_onnx(t.data_type())))
                && subgraphs(n).all(only_f32)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TensorFact;
    use crate::model::build::{Builder, graph_attribute};
    use crate::model::edit::{float, int, ints, string_attribute};

    fn one(opset: i64, op: &str, dtype: DType, attributes: Vec<super::super::onnx::AttributeProto>) -> Model {
        let b = Builder::new(opset).input("x", dtype, &["N", "2", "3"]).node(op, &["x"], "y", attributes);
        b.output("y", dtype, &["A", "B", "C"]).build()
    }

    fn upgraded(mut model: Model, facts: &Facts) -> Model {
        model.upgrade(facts, 17).unwrap();
        model.check().unwrap();
        assert_eq!(model.opset(""), Some(17));
        model
    }

    fn ops(graph: &GraphProto) -> Vec<&str> {
        graph.node.iter().map(super::super::onnx::NodeProto::op_type).collect()
    }

    fn constant(model: &Model, position: usize, input: usize) -> Tensor {
        model.constant(&Index::new(model.graph()), &model.graph().node[position].input[input]).unwrap()
    }

    #[test]
    fn attributes_that_became_inputs_are_inputs() {
        let cases: Vec<(&str, i64, Vec<_>, Vec<Vec<i64>>)> = vec![
            ("Squeeze", 11, vec![ints("axes", &[0])], vec![vec![0]]),
            ("Unsqueeze", 7, vec![ints("axes", &[1, 3])], vec![vec![1, 3]]),
            ("ReduceSum", 12, vec![ints("axes", &[2])], vec![vec![2]]),
            (
                "Slice",
                9,
                vec![ints("starts", &[1, 0]), ints("ends", &[2, 9])],
                vec![vec![1, 0], vec![2, 9], vec![0, 1]],
            ),
            ("Pad", 10, vec![ints("pads", &[0, 0, 1, 0, 0, 1])], vec![vec![0, 0, 1, 0, 0, 1]]),
            ("TopK", 9, vec![int("k", 2)], vec![vec![2]]),
            ("Split", 11, vec![ints("split", &[1, 1])], vec![vec![1, 1]]),
        ];
        for (op, opset, attributes, inputs) in cases {
            let model = upgraded(one(opset, op, DType::F32, attributes), &Facts::default());
            let node = &model.graph().node[0];
            assert!(node.attribute.is_empty(), "{op}");
            let found: Vec<Vec<i64>> =
                (1..node.input.len()).map(|i| constant(&model, 0, i).to_i64().unwrap().into_owned()).collect();
            assert_eq!(found, inputs, "{op}");
        }
    }

    #[test]
    fn bounds_of_clip_take_the_type_of_what_is_clipped() {
        for dtype in [DType::F32, DType::F64, DType::F16] {
            let model = upgraded(one(7, "Clip", dtype, vec![float("max", 6.0)]), &Facts::default());
            let node = &model.graph().node[0];
            assert_eq!((node.input.len(), node.input[1].as_str()), (3, ""), "no lower bound");
            assert_eq!((constant(&model, 0, 2).dtype(), constant(&model, 0, 2).to_f32()[0]), (dtype, 6.0));
        }
    }

    #[test]
    fn softmax_over_several_axes_goes_through_a_flat_tensor_unless_one_axis_is_enough() {
        let fact = |dims: &[usize]| {
            let mut facts = Facts::default();
            facts.insert("x", TensorFact { dtype: DType::F32, shape: dims.iter().map(|&d| Some(d)).collect() });
            facts
        };
        let wrapped = ["Shape", "Flatten", "Softmax", "Reshape"];
        let cases: [(Facts, Option<i64>, &[&str], i64); 6] = [
            (Facts::default(), None, &wrapped, -1),
            (Facts::default(), Some(-1), &["Softmax"], -1),
            (fact(&[4, 2, 3]), Some(1), &wrapped, -1),
            (fact(&[4, 2, 3]), Some(2), &["Softmax"], -1),
            (fact(&[4, 2]), None, &["Softmax"], -1),
            (fact(&[4, 2, 1, 1]), None, &["Softmax"], 1),
        ];
        for (facts, axis, expected, new_axis) in cases {
            let model =
                upgraded(one(11, "Softmax", DType::F32, axis.map(|a| int("axis", a)).into_iter().collect()), &facts);
            assert_eq!(ops(model.graph()), expected, "axis {axis:?} of {:?}", facts.get("x"));
            let softmax = model.graph().node.iter().find(|n| n.op_type() == "Softmax").unwrap();
            assert_eq!(int_attribute(softmax, "axis", 0), new_axis);
        }
    }

    #[test]
    fn a_resize_of_version_10_keeps_its_coordinates_and_its_rounding() {
        for (scale, rounding) in [(2.0_f32, Some("floor")), (0.5, Some("ceil"))] {
            let model = Builder::new(10)
                .input("x", DType::F32, &["1", "1", "4"])
                .initializer("s", Tensor::new(&[3], &[1.0, 1.0, scale]));
            let model = upgraded(
                model.node("Resize", &["x", "s"], "y", vec![]).output("y", DType::F32, &["1", "1", "M"]).build(),
                &Facts::default(),
            );
            let node = &model.graph().node[0];
            assert_eq!((node.input.len(), node.input[2].as_str()), (3, "s"));
            assert_eq!(string_attribute(node, "nearest_mode"), rounding);
            assert_eq!(string_attribute(node, "coordinate_transformation_mode"), Some("asymmetric"));
        }
        let model = Builder::new(7).input("x", DType::F32, &["1", "1", "4"]);
        let scales = super::super::onnx::AttributeProto { floats: vec![1.0, 1.0, 2.0], ..float("scales", 0.0) };
        let model = model.node("Upsample", &["x"], "y", vec![scales]).output("y", DType::F32, &["1", "1", "8"]).build();
        assert_eq!(ops(upgraded(model, &Facts::default()).graph()), ["Resize"]);
    }

    #[test]
    fn subgraphs_are_upgraded_too() {
        let body = Builder::new(11)
            .node("Squeeze", &["x"], "r", vec![ints("axes", &[0])])
            .output("r", DType::F32, &["N"])
            .build_graph();
        let model = Builder::new(11).input("x", DType::F32, &["1", "N"]).input("c", DType::Bool, &[]);
        let branches = vec![graph_attribute("then_branch", body.clone()), graph_attribute("else_branch", body)];
        let model = upgraded(
            model.node("If", &["c"], "y", branches).output("y", DType::F32, &["N"]).build(),
            &Facts::default(),
        );
        for inner in subgraphs(&model.graph().node[0]) {
            assert_eq!((inner.node[0].input.len(), inner.initializer.len()), (2, 1));
        }
    }

    #[test]
    fn a_refusal_names_the_node_and_leaves_the_model_as_it_was() {
        let read_mask = Builder::new(7)
            .input("x", DType::F32, &["N"])
            .node("Squeeze", &["x"], "s", vec![ints("axes", &[0])])
            .node_with_outputs("Dropout", &["s"], &["y", "mask"], vec![])
            .output("y", DType::F32, &["N"])
            .output("mask", DType::F32, &["N"])
            .build();
        let per_position = {
            let inputs = ["x", "a", "a", "a", "a"];
            let b =
                Builder::new(7).input("x", DType::F32, &["N", "2"]).initializer("a", Tensor::new(&[2], &[1.0_f32; 2]));
            b.node("BatchNormalization", &inputs, "y", vec![int("spatial", 0)])
                .output("y", DType::F32, &["N", "2"])
                .build()
        };
        for (mut model, message) in [
            (read_mask, "node 'Dropout_1' (Dropout) cannot be brought to opset 10: its output 'mask' is read"),
            (
                one(8, "Scan", DType::F32, vec![]),
                "node 'Scan_0' (Scan) cannot be brought to opset 9: what changed there is not carried over",
            ),
            (
                per_position,
                "node 'BatchNormalization_0' (BatchNormalization) cannot be brought to opset 9: it normalises every position",
            ),
        ] {
            let before = model.clone();
            let error = model.upgrade(&Facts::default(), 17).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
            assert_eq!(model, before);
        }
    }

    #[test]
    fn versions_outside_of_what_is_known_are_refused_and_a_newer_model_is_left_alone() {
        let mut newer = one(20, "Relu", DType::F32, vec![]);
        assert_eq!(newer.upgrade(&Facts::default(), 17).unwrap(), 0);
        assert_eq!(newer.opset(""), Some(20));
        assert!(newer.upgrade(&Facts::default(), 26).is_err());
        assert!(one(6, "Relu", DType::F32, vec![]).upgrade(&Facts::default(), 17).is_err());
    }

    #[test]
    fn initializers_of_ir_3_stay_constants() {
        let mut model = Builder::new(7)
            .input("x", DType::F32, &["N", "1"])
            .input("w", DType::F32, &["1", "1"])
            .initializer("w", Tensor::new(&[1, 1], &[1.0_f32]))
            .node("MatMul", &["x", "w"], "y", vec![])
            .output("y", DType::F32, &["N", "1"])
            .build();
        model.upgrade(&Facts::default(), 17).unwrap();
        assert_eq!((model.proto().ir_version(), model.graph().input.len()), (8, 1));
        assert!(model.constant(&Index::new(model.graph()), "w").is_some());
    }

    #[test]
    fn the_pass_says_when_there_is_nothing_to_do() {
        let mut model = one(17, "Relu", DType::F32, vec![]);
        let effect = OpsetUpgrade::default().apply(&mut model, &mut Facts::default()).unwrap();
        assert_eq!(effect, Effect::Skipped { reason: "The model is at opset 17 or later already.".to_owned() });
    }
}
