//! Making a bakeable model of whatever file is given: loaded, checked, in order, functions written out, every constant a constant.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::build::ir_version_of;
use super::edit::subgraphs;
use super::onnx::{GraphProto, NodeProto, TensorProto, ValueInfoProto};
use super::{Limits, Model, ModelError, external};

/// The newest IR version whose fields this code knows.
const NEWEST_IR: i64 = 14;
/// Constants smaller than this repeat by chance (axes, scalars) and are not worth a note.
const SHARED_FROM: usize = 1024;

/// How a model is taken in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IntakeOptions {
    /// Bounds on external data.
    pub limits: Limits,
    /// Domains whose model-local functions stay calls, because an engine knows these operators.
    pub keep_functions: Vec<String>,
}

/// What was found and changed while a model was taken in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IntakeNotes {
    /// Opset of ONNX's own domain; 0 when the model imports none.
    pub opset: i64,
    /// IR version of the file, as it was.
    pub ir_version: i64,
    /// Function calls that were written out.
    pub functions_inlined: usize,
    /// Nodes that quantise, dequantise or compute on integers: more than 0 means that the input was quantised already.
    pub quantized_nodes: usize,
    /// `If`, `Loop`, `Scan` and `SequenceMap` nodes.
    pub control_flow_nodes: usize,
    /// Initializers that were also inputs, which a caller could have overridden, and that are constants now.
    pub inputs_made_constant: Vec<String>,
    /// Weights that several nodes read.
    pub tied_weights: Vec<String>,
    /// Bytes of weights that repeat another weight to the byte.
    pub duplicate_bytes: u64,
    /// All of it in sentences, for a person.
    pub notes: Vec<String>,
}

impl Model {
    /// Loads a model and makes it ready to be baked. What was found and changed is in the notes; the outputs are those of the file.
    pub fn intake(path: &Path, options: &IntakeOptions) -> Result<(Self, IntakeNotes), ModelError> {
        let model = Self::load_with(path, options.limits)?;
        model.prepare(options).map_err(|e| e.in_file(path))
    }

    /// The part of [`Model::intake`] behind loading.
    pub fn prepare(mut self, options: &IntakeOptions) -> Result<(Self, IntakeNotes), ModelError> {
        let mut notes = IntakeNotes { ir_version: self.proto().ir_version(), ..IntakeNotes::default() };
        if self.normalise_domain() {
            notes.say("Operators of domain 'ai.onnx' are written as of the empty domain, which is the same.");
        }
        notes.opset = self.opset("").unwrap_or(0);
        self.settle_ir_version(&mut notes);
        if self.sort()? {
            notes.say("Nodes were not in the order of computation and were sorted.");
        }
        let keep: Vec<&str> = options.keep_functions.iter().map(String::as_str).collect();
        notes.functions_inlined = self.inline_functions(&keep)?;
        if notes.functions_inlined > 0 {
            notes.say(format!(
                "{} were written out.",
                counted(notes.functions_inlined, "call", "of a model-local function")
            ));
            self.sort()?;
        }
        self.make_initializers_constant(&mut notes);
        self.drop_stale_declarations(&mut notes);
        self.verify()?;
        self.look(&mut notes);
        Ok((self, notes))
    }

    fn normalise_domain(&mut self) -> bool {
        fn named(graph: &GraphProto) -> bool {
            graph.node.iter().any(|n| n.domain() == "ai.onnx" || subgraphs(n).any(named))
        }
        fn rename(nodes: &mut [NodeProto]) {
            for node in nodes {
                if node.domain() == "ai.onnx" {
                    node.domain = None;
                }
                node.attribute
                    .iter_mut()
                    .flat_map(|a| a.g.iter_mut().chain(&mut a.graphs))
                    .for_each(|g| rename(&mut g.node));
            }
        }
        let imported = self.proto().opset_import.iter().any(|o| o.domain() == "ai.onnx");
        let functions = self.proto().functions.iter().any(|f| {
            f.domain() == "ai.onnx"
                || f.node.iter().any(|n| n.domain() == "ai.onnx")
                || f.opset_import.iter().any(|o| o.domain() == "ai.onnx")
        });
        if !imported && !functions && !named(self.graph()) {
            return false;
        }
        rename(&mut self.graph_mut().node);
        let proto = self.proto_mut();
        for function in &mut proto.functions {
            rename(&mut function.node);
            function.domain.iter_mut().filter(|d| *d == "ai.onnx").for_each(String::clear);
            function
                .opset_import
                .iter_mut()
                .filter(|o| o.domain() == "ai.onnx")
                .for_each(|o| o.domain = Some(String::new()));
        }
        for import in proto.opset_import.iter_mut().filter(|o| o.domain() == "ai.onnx") {
            import.domain = Some(String::new());
        }
        // The same version imported under both names is one import.
        let mut seen = HashSet::new();
        proto.opset_import.retain(|o| seen.insert((o.domain().to_owned(), o.version())));
        true
    }

    fn settle_ir_version(&mut self, notes: &mut IntakeNotes) {
        let ir = notes.ir_version;
        if ir < 3 {
            let settled = ir_version_of(notes.opset.max(7));
            notes.say(format!(
                "The file states IR version {ir}, which cannot hold opset {}; {settled} is assumed.",
                notes.opset
            ));
            self.proto_mut().ir_version = Some(settled);
        } else if ir > NEWEST_IR {
            notes.say(format!("The file states IR version {ir}, newer than the {NEWEST_IR} that is known; what only that version has is dropped on export."));
        }
    }

    fn make_initializers_constant(&mut self, notes: &mut IntakeNotes) {
        let graph = self.graph();
        let constant: HashSet<&str> = graph.initializer.iter().map(TensorProto::name).collect();
        let both: Vec<String> =
            graph.input.iter().map(ValueInfoProto::name).filter(|n| constant.contains(n)).map(str::to_owned).collect();
        let old_ir = self.proto().ir_version();
        if both.is_empty() && old_ir >= 4 {
            return;
        }
        if !both.is_empty() {
            notes.say(format!(
                "{} also listed as {} of the graph; {} constant from here on, and cannot be fed.",
                if both.len() == 1 {
                    "One initializer was".to_owned()
                } else {
                    format!("{} initializers were", both.len())
                },
                if both.len() == 1 { "an input" } else { "inputs" },
                if both.len() == 1 { "it is" } else { "they are" },
            ));
            let listed: HashSet<&String> = both.iter().collect();
            self.graph_mut().input.retain(|i| !listed.contains(&i.name().to_owned()));
        }
        if old_ir < 4 {
            // Only from IR 4 on may an initializer not be an input.
            notes.say(format!(
                "IR version {old_ir} was raised to 4, the first in which a constant need not be an input."
            ));
            self.proto_mut().ir_version = Some(4);
        }
        notes.inputs_made_constant = both;
    }

    /// Declarations of tensors that do not exist, or a second one of the same tensor, only confuse readers.
    fn drop_stale_declarations(&mut self, notes: &mut IntakeNotes) {
        let graph = self.graph();
        let mut alive: HashSet<&str> = graph.node.iter().flat_map(|n| &n.output).map(String::as_str).collect();
        alive.extend(graph.initializer.iter().map(TensorProto::name));
        let mut seen = HashSet::new();
        let keep: Vec<bool> =
            graph.value_info.iter().map(|v| alive.contains(v.name()) && seen.insert(v.name())).collect();
        let dropped = keep.iter().filter(|k| !**k).count();
        if dropped > 0 {
            let mut keep = keep.into_iter();
            self.graph_mut().value_info.retain(|_| keep.next().unwrap_or(true));
            notes.say(format!("{} dropped.", was(dropped, "shape declaration", "of a tensor that does not exist")));
        }
    }

    fn look(&self, notes: &mut IntakeNotes) {
        let graph = self.graph();
        count_kinds(graph, notes);
        if notes.quantized_nodes > 0 {
            notes.say(format!(
                "The model is quantised already: it has {}.",
                counted(notes.quantized_nodes, "node", "of quantised arithmetic")
            ));
        }
        if notes.control_flow_nodes > 0 {
            notes.say(format!(
                "{} kept as they are (If, Loop, Scan); passes work around them.",
                counted(notes.control_flow_nodes, "control flow node", "")
            ));
        }
        let mut readers: HashMap<String, usize> = HashMap::new();
        for node in &graph.node {
            super::edit::reads_of(node)
                .into_iter()
                .collect::<HashSet<_>>()
                .into_iter()
                .for_each(|name| *readers.entry(name).or_default() += 1);
        }
        let large = || graph.initializer.iter().filter(|t| t.raw_data.as_ref().is_some_and(|d| d.len() >= SHARED_FROM));
        notes.tied_weights =
            large().map(|t| t.name().to_owned()).filter(|n| readers.get(n).is_some_and(|&r| r > 1)).collect();
        if !notes.tied_weights.is_empty() {
            let n = notes.tied_weights.len();
            notes.say(format!(
                "{} read by several nodes (tied).",
                if n == 1 { "One weight is".to_owned() } else { format!("{n} weights are") }
            ));
        }
        notes.duplicate_bytes = duplicate_bytes(large());
        if notes.duplicate_bytes > 0 {
            notes.say(format!(
                "{} bytes of weights repeat another weight of the model to the byte.",
                notes.duplicate_bytes
            ));
        }
    }
}

impl IntakeNotes {
    fn say(&mut self, sentence: impl Into<String>) {
        self.notes.push(sentence.into());
    }
}

fn counted(n: usize, what: &str, rest: &str) -> String {
    format!("{n} {what}{}{}{rest}", if n == 1 { "" } else { "s" }, if rest.is_empty() { "" } else { " " })
}

fn was(n: usize, what: &str, rest: &str) -> String {
    format!("{} {}", counted(n, what, rest), if n == 1 { "was" } else { "were" })
}

fn count_kinds(graph: &GraphProto, notes: &mut IntakeNotes) {
    for node in &graph.node {
        let op = node.op_type();
        let quantized = matches!(
            op,
            "QuantizeLinear"
                | "DequantizeLinear"
                | "DynamicQuantizeLinear"
                | "MatMulInteger"
                | "ConvInteger"
                | "MatMulNBits"
        ) || op.starts_with("QLinear")
            || op.starts_with("DynamicQuantize")
            || op.starts_with("QGemm")
            || op.starts_with("QAttention");
        notes.quantized_nodes += usize::from(quantized);
        notes.control_flow_nodes += usize::from(matches!(op, "If" | "Loop" | "Scan" | "SequenceMap"));
        subgraphs(node).for_each(|g| count_kinds(g, notes));
    }
}

/// Bytes that storing equal constants once would save.
fn duplicate_bytes<'a>(tensors: impl Iterator<Item = &'a TensorProto>) -> u64 {
    type Kind<'a> = (i32, &'a [i64], Vec<u8>);
    let mut alike: BTreeMap<Kind<'a>, Vec<&'a bytes::Bytes>> = BTreeMap::new();
    let mut repeated = 0;
    for tensor in tensors.filter(|t| !external::is_external(t)) {
        let Some(data) = &tensor.raw_data else { continue };
        // A few bytes from all over tell nearly all pairs apart; only those alike in them are compared in full.
        let sample = data.iter().step_by((data.len() / 61).max(1)).copied().collect();
        let known = alike.entry((tensor.data_type(), &tensor.dims, sample)).or_default();
        if known.contains(&data) {
            repeated += data.len() as u64;
        } else {
            known.push(data);
        }
    }
    repeated
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::{Builder, value_info};
    use crate::model::{DType, Tensor};

    fn prepared(model: Model) -> (Model, IntakeNotes) {
        model.prepare(&IntakeOptions::default()).unwrap()
    }

    #[test]
    fn an_initializer_that_is_also_an_input_becomes_a_constant_at_any_ir_version() {
        for ir in [3, 8] {
            let model = Builder::new(9)
                .ir_version(ir)
                .input("x", DType::F32, &["N", "1"])
                .input("w", DType::F32, &["1", "1"])
                .initializer("w", Tensor::new(&[1, 1], &[2.0_f32]))
                .node("MatMul", &["x", "w"], "y", vec![])
                .output("y", DType::F32, &["N", "1"])
                .build();
            let (model, notes) = prepared(model);
            assert_eq!(notes.inputs_made_constant, ["w"]);
            assert_eq!(model.graph().input.len(), 1);
            assert_eq!(model.proto().ir_version(), ir.max(4));
            assert_eq!(
                notes.notes[0],
                "One initializer was also listed as an input of the graph; it is constant from here on, and cannot be fed."
            );
        }
    }

    #[test]
    fn the_long_name_of_the_domain_is_made_short() {
        let mut model = Builder::new(17)
            .input("x", DType::F32, &["N"])
            .node("Relu", &["x"], "y", vec![])
            .output("y", DType::F32, &["N"])
            .build();
        model.proto_mut().opset_import[0].domain = Some("ai.onnx".to_owned());
        model.graph_mut().node[0].domain = Some("ai.onnx".to_owned());
        let (model, notes) = prepared(model);
        assert_eq!((model.graph().node[0].domain(), model.proto().opset_import[0].domain()), ("", ""));
        assert_eq!((notes.opset, notes.notes.len()), (17, 1));
    }

    #[test]
    fn a_clean_model_is_taken_in_without_a_word_and_without_a_change() {
        let model = Builder::new(17)
            .input("x", DType::F32, &["N"])
            .node("Relu", &["x"], "y", vec![])
            .output("y", DType::F32, &["N"])
            .build();
        let (after, notes) = prepared(model.clone());
        assert_eq!((after, notes.notes), (model, vec![]));
    }

    #[test]
    fn tied_and_repeated_weights_quantised_nodes_and_stale_declarations_are_noted() {
        let weight = Tensor::new(&[16, 16], &[0.5_f32; 256]);
        let mut model = Builder::new(17)
            .input("x", DType::F32, &["N", "16"])
            .initializer("w", weight.clone())
            .initializer("copy", weight)
            .initializer("s", Tensor::scalar(0.1_f32))
            .node("MatMul", &["x", "w"], "a", vec![])
            .node("MatMul", &["a", "w"], "b", vec![])
            .node("MatMul", &["b", "copy"], "c", vec![])
            .node("QuantizeLinear", &["c", "s"], "q", vec![])
            .node("DequantizeLinear", &["q", "s"], "y", vec![])
            .output("y", DType::F32, &["N", "16"])
            .build();
        model.graph_mut().value_info.push(value_info("ghost", DType::F32, &["1"]));
        let (model, notes) = prepared(model);
        assert_eq!(
            (notes.tied_weights.as_slice(), notes.duplicate_bytes, notes.quantized_nodes),
            (&["w".to_owned()][..], 1024, 2)
        );
        assert!(model.graph().value_info.is_empty());
        assert_eq!(
            notes.notes,
            [
                "1 shape declaration of a tensor that does not exist was dropped.",
                "The model is quantised already: it has 2 nodes of quantised arithmetic.",
                "One weight is read by several nodes (tied).",
                "1024 bytes of weights repeat another weight of the model to the byte.",
            ]
        );
    }
}
