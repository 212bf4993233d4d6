//! Model-local functions, written out where they are called: neither passes nor every engine look into a function's body.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::edit::{label, node, subgraphs};
use super::onnx::{
    AttributeProto, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
    attribute_proto::AttributeType,
};
use super::opset::{Context, first_change};
use super::{Facts, Model, ModelError};

/// Nodes that a model may grow to. Functions that call each other ten times over reach any number.
const MAX_NODES: usize = 200_000;
/// Functions inside functions; exporters nest modules, a handful deep.
const MAX_NESTING: usize = 64;
/// Bytes of names that the written-out calls may add: names grow with the nesting.
const MAX_NAME_BYTES: usize = 256 << 20;

/// Domain, operator and overload: what a call and a function are matched by.
type Key = (String, String, String);

fn key(domain: &str, name: &str, overload: &str) -> Key {
    let domain = if domain == "ai.onnx" { "" } else { domain };
    (domain.to_owned(), name.to_owned(), overload.to_owned())
}

impl Model {
    /// Writes every function call out, in subgraphs and in functions called by functions too, and drops the functions. Returns how many calls there were.
    ///
    /// Functions of the domains in `keep` stay what they are: calls of operators that an engine knows. A function written for another opset is brought
    /// to the model's where that is possible, else refused. On an error the model is unchanged.
    pub fn inline_functions(&mut self, keep: &[&str]) -> Result<usize, ModelError> {
        let functions: BTreeMap<Key, FunctionProto> = self
            .proto()
            .functions
            .iter()
            .filter(|f| !keep.contains(&f.domain()))
            .map(|f| (key(f.domain(), f.name(), f.overload()), f.clone()))
            .collect();
        if functions.is_empty() {
            return Ok(0);
        }
        if let Some(kept) = self
            .proto()
            .functions
            .iter()
            .filter(|f| keep.contains(&f.domain()))
            .find(|f| calls_any(&f.node, &functions))
        {
            return Err(failed(
                kept,
                format!("it is kept, but calls functions that are not (kept are {})", keep.join(", ")),
            ));
        }
        let facts = Facts::default();
        let mut graph = self.graph().clone();
        let mut inliner = Inliner {
            functions: &functions,
            opset: self.opset("").unwrap_or(0),
            imports: self.proto().opset_import.clone(),
            context: Context::new(self, &facts),
            stack: Vec::new(),
            calls: 0,
            nodes: 0,
            name_bytes: 0,
        };
        inliner.graph(&mut graph)?;
        let (calls, mut imports) = (inliner.calls, inliner.imports);
        let mut used = BTreeSet::new();
        domains(&graph.node, &mut used);
        let defined: BTreeSet<&str> = functions.keys().map(|k| k.0.as_str()).collect();
        imports.retain(|o| o.domain().is_empty() || used.contains(o.domain()) || !defined.contains(o.domain()));
        *self.graph_mut() = graph;
        let proto = self.proto_mut();
        proto.functions.retain(|f| keep.contains(&f.domain()));
        proto.opset_import = imports;
        Ok(calls)
    }
}

fn failed(function: &FunctionProto, detail: String) -> ModelError {
    ModelError::Function { name: function.name().to_owned(), detail }
}

fn calls_any(nodes: &[NodeProto], functions: &BTreeMap<Key, FunctionProto>) -> bool {
    nodes.iter().any(|n| {
        functions.contains_key(&key(n.domain(), n.op_type(), n.overload()))
            || subgraphs(n).any(|g| calls_any(&g.node, functions))
    })
}

fn domains(nodes: &[NodeProto], used: &mut BTreeSet<String>) {
    for node in nodes {
        used.insert(node.domain().to_owned());
        subgraphs(node).for_each(|g| domains(&g.node, used));
    }
}

struct Inliner<'a, 'c> {
    functions: &'a BTreeMap<Key, FunctionProto>,
    opset: i64,
    imports: Vec<OperatorSetIdProto>,
    context: Context<'c>,
    /// The functions being written out, outermost first.
    stack: Vec<Key>,
    calls: usize,
    nodes: usize,
    name_bytes: usize,
}

impl Inliner<'_, '_> {
    fn graph(&mut self, graph: &mut GraphProto) -> Result<(), ModelError> {
        let mut nodes = Vec::with_capacity(graph.node.len());
        for mut node in std::mem::take(&mut graph.node) {
            for attribute in &mut node.attribute {
                attribute.g.iter_mut().chain(&mut attribute.graphs).try_for_each(|g| self.graph(g))?;
            }
            let key = key(node.domain(), node.op_type(), node.overload());
            let functions = self.functions;
            let Some(function) = functions.get(&key) else {
                nodes.push(node);
                continue;
            };
            if self.stack.contains(&key) {
                return Err(failed(function, "it calls itself".to_owned()));
            }
            if self.stack.len() == MAX_NESTING {
                return Err(failed(function, format!("functions are nested more than {MAX_NESTING} deep")));
            }
            self.calls += 1;
            self.name_bytes += (label(&node).len() + 1) * (1 + 2 * function.node.len());
            if self.name_bytes > MAX_NAME_BYTES {
                return Err(failed(function, "written out, the names alone would fill the memory".to_owned()));
            }
            self.nodes += function.node.len();
            if self.nodes > MAX_NODES {
                return Err(failed(function, format!("written out, the model would have more than {MAX_NODES} nodes")));
            }
            let mut body = self.instantiate(function, &node)?;
            self.stack.push(key);
            self.graph(&mut body)?;
            self.stack.pop();
            nodes.extend(body.node);
            graph.initializer.extend(body.initializer);
            graph.value_info.extend(body.value_info);
        }
        graph.node = nodes;
        Ok(())
    }

    /// The body of `function` as `call` means it: attributes filled in, tensors named after the call, at the model's opset.
    fn instantiate(&mut self, function: &FunctionProto, call: &NodeProto) -> Result<GraphProto, ModelError> {
        if call.input.len() > function.input.len() || call.output.len() > function.output.len() {
            let (i, o) = (function.input.len(), function.output.len());
            let detail = format!(
                "node '{}' gives it {} inputs and {} outputs, but it has {i} and {o}",
                label(call),
                call.input.len(),
                call.output.len()
            );
            return Err(failed(function, detail));
        }
        let mut attributes: HashMap<&str, &AttributeProto> =
            function.attribute_proto.iter().map(|a| (a.name(), a)).collect();
        attributes.extend(call.attribute.iter().map(|a| (a.name(), a)));
        let mut body = GraphProto {
            node: function.node.clone(),
            value_info: function.value_info.clone(),
            ..GraphProto::default()
        };
        fill_attributes(&mut body, &attributes);

        let prefix = label(call);
        let mut names: HashMap<String, String> = HashMap::new();
        let formals = function.input.iter().zip(call.input.iter().map(String::as_str).chain(std::iter::repeat("")));
        names.extend(formals.map(|(formal, actual)| (formal.clone(), actual.to_owned())));
        // An output that is handed straight through, or twice, needs a node to carry its name.
        let mut passed = Vec::new();
        for (formal, actual) in function.output.iter().zip(&call.output).filter(|(_, actual)| !actual.is_empty()) {
            if let Some(source) = names.get(formal) {
                if source.is_empty() {
                    return Err(failed(
                        function,
                        format!("node '{}' reads an output that hands through an input it leaves out", label(call)),
                    ));
                }
                passed.push(node("Identity", &format!("{prefix}/{formal}"), &[source], &[actual], vec![]));
            } else {
                names.insert(formal.clone(), actual.clone());
            }
        }
        self.rename(&mut body, &prefix, &mut names);
        self.adapt(function, &mut body)?;
        body.node.extend(passed);
        Ok(body)
    }

    /// Gives every tensor of a body a name of its own in the model. `names` maps those that are known from outside.
    fn rename(&mut self, graph: &mut GraphProto, prefix: &str, names: &mut HashMap<String, String>) {
        let defined =
            graph.input.iter().map(ValueInfoProto::name).chain(graph.initializer.iter().map(TensorProto::name));
        let defined: Vec<String> =
            defined.map(str::to_owned).chain(graph.node.iter().flat_map(|n| n.output.iter().cloned())).collect();
        for name in defined.into_iter().filter(|n| !n.is_empty()) {
            let taken = self.context.taken();
            names.entry(name).or_insert_with_key(|name| Model::fresh_name(taken, &format!("{prefix}/{name}")));
        }
        let renamed = |name: &str| names.get(name).cloned();
        for info in graph.input.iter_mut().chain(&mut graph.output) {
            info.name = renamed(info.name()).or(info.name.take());
        }
        graph.value_info.retain_mut(|info| {
            let new = renamed(info.name()).filter(|n| !n.is_empty());
            let known = new.is_some();
            info.name = new;
            known
        });
        for tensor in &mut graph.initializer {
            tensor.name = renamed(tensor.name()).or(tensor.name.take());
        }
        for node in &mut graph.node {
            for name in node.input.iter_mut().chain(&mut node.output) {
                if let Some(new) = names.get(name) {
                    name.clone_from(new);
                }
            }
            let own = if node.name().is_empty() { node.op_type() } else { node.name() };
            node.name = Some(format!("{prefix}/{own}"));
            for attribute in &mut node.attribute {
                for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                    // What the inner graph defines hides what is outside, within it alone.
                    let mut inner_names = names.clone();
                    for hidden in inner
                        .input
                        .iter()
                        .map(ValueInfoProto::name)
                        .chain(inner.initializer.iter().map(TensorProto::name))
                    {
                        inner_names.remove(hidden);
                    }
                    for hidden in inner.node.iter().flat_map(|n| &n.output) {
                        inner_names.remove(hidden);
                    }
                    self.rename(inner, prefix, &mut inner_names);
                }
            }
        }
    }

    /// Brings a body from the opsets its function imports to those of the model.
    fn adapt(&mut self, function: &FunctionProto, body: &mut GraphProto) -> Result<(), ModelError> {
        for import in &function.opset_import {
            let own = matches!(import.domain(), "" | "ai.onnx");
            let (written_for, domain) = (import.version(), import.domain());
            let Some(models) = self
                .imports
                .iter()
                .find(|o| if own { matches!(o.domain(), "" | "ai.onnx") } else { o.domain() == domain })
            else {
                if own {
                    self.opset = written_for;
                }
                self.imports.push(import.clone());
                continue;
            };
            let models = models.version();
            if models == written_for {
                continue;
            }
            if !own {
                let mut used = BTreeSet::new();
                domains(&body.node, &mut used);
                let is_ours = self.functions.keys().any(|k| k.0 == domain);
                if used.contains(domain) && !is_ours {
                    return Err(failed(
                        function,
                        format!("it is written for version {written_for} of '{domain}', the model for {models}"),
                    ));
                }
            } else if written_for > models {
                if let Some(node) = body.node.iter().find(|n| first_change(n, models, written_for).is_some()) {
                    let detail = format!(
                        "it is written for opset {written_for}, the model for {models}, and {} changed between them",
                        node.op_type()
                    );
                    return Err(failed(function, detail));
                }
            } else {
                self.context.run(body, written_for, models)?;
            }
        }
        Ok(())
    }
}

/// Replaces references to the function's attributes by what the call gives, else by the default; a reference to neither is left out.
fn fill_attributes(graph: &mut GraphProto, given: &HashMap<&str, &AttributeProto>) {
    for node in &mut graph.node {
        node.attribute.retain_mut(|attribute| {
            if attribute.ref_attr_name().is_empty() {
                attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|g| fill_attributes(g, given));
                return true;
            }
            let Some(value) = given.get(attribute.ref_attr_name()) else { return false };
            let filled = AttributeProto {
                name: attribute.name.take(),
                doc_string: attribute.doc_string.take(),
                ..(*value).clone()
            };
            *attribute = AttributeProto { ref_attr_name: None, r#type: value.r#type.or(attribute.r#type), ..filled };
            true
        });
    }
}

/// A reference to an attribute of the function around it, for building functions in code.
pub fn attribute_reference(name: &str, of_function: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        ref_attr_name: Some(of_function.to_owned()),
        r#type: Some(kind as i32),
        ..AttributeProto::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::Builder;
    use crate::model::edit::{float, float_attribute, int, ints_attribute};
    use crate::model::{DType, Tensor};

    fn function(name: &str, inputs: &[&str], outputs: &[&str], nodes: Vec<NodeProto>) -> FunctionProto {
        FunctionProto {
            name: Some(name.to_owned()),
            domain: Some("local".to_owned()),
            input: inputs.iter().map(|&s| s.to_owned()).collect(),
            output: outputs.iter().map(|&s| s.to_owned()).collect(),
            node: nodes,
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
            ..FunctionProto::default()
        }
    }

    fn call(name: &str, label: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
        NodeProto { domain: Some("local".to_owned()), ..node(name, label, inputs, outputs, attributes) }
    }

    fn leaky() -> FunctionProto {
        let mut f = function(
            "Leaky",
            &["a"],
            &["b"],
            vec![
                node(
                    "LeakyRelu",
                    "inner",
                    &["a"],
                    &["t"],
                    vec![attribute_reference("alpha", "slope", AttributeType::Float)],
                ),
                node("Relu", "", &["t"], &["b"], vec![]),
            ],
        );
        f.attribute_proto = vec![float("slope", 0.25)];
        f
    }

    #[test]
    fn calls_are_written_out_with_their_own_names_attributes_and_defaults() {
        let mut model = Builder::new(17)
            .opset("local", 1)
            .function(leaky())
            .input("x", DType::F32, &["N"])
            .push_node(call("Leaky", "one", &["x"], &["t"], vec![float("slope", 0.5)]))
            .push_node(call("Leaky", "two", &["t"], &["y"], vec![]))
            .output("y", DType::F32, &["N"])
            .build();
        assert_eq!(model.inline_functions(&[]).unwrap(), 2);
        model.check().unwrap();
        let nodes = &model.graph().node;
        let view: Vec<(&str, &str, &str)> =
            nodes.iter().map(|n| (n.name(), n.input[0].as_str(), n.output[0].as_str())).collect();
        let expected = [
            ("one/inner", "x", "one/t"),
            ("one/Relu", "one/t", "t"),
            ("two/inner", "t", "two/t"),
            ("two/Relu", "two/t", "y"),
        ];
        assert_eq!(view, expected);
        assert_eq!([0, 2].map(|i| float_attribute(&nodes[i], "alpha", 0.0)), [0.5, 0.25]);
        assert!(model.proto().functions.is_empty() && model.opset("local").is_none());
    }

    #[test]
    fn functions_call_functions_also_inside_subgraphs() {
        let twice = function(
            "Twice",
            &["a"],
            &["b"],
            vec![call("Leaky", "l1", &["a"], &["m"], vec![]), call("Leaky", "l2", &["m"], &["b"], vec![])],
        );
        let branch = || {
            Builder::new(17)
                .push_node(call("Twice", "t", &["x"], &["r"], vec![]))
                .output("r", DType::F32, &["N"])
                .build_graph()
        };
        let mut model = Builder::new(17)
            .function(twice)
            .function(leaky())
            .input("x", DType::F32, &["N"])
            .input("c", DType::Bool, &[])
            .node(
                "If",
                &["c"],
                "y",
                vec![
                    crate::model::build::graph_attribute("then_branch", branch()),
                    crate::model::build::graph_attribute("else_branch", branch()),
                ],
            )
            .output("y", DType::F32, &["N"])
            .build();
        assert_eq!(model.inline_functions(&[]).unwrap(), 6);
        model.check().unwrap();
        assert_eq!(subgraphs(&model.graph().node[0]).map(|g| g.node.len()).collect::<Vec<_>>(), [4, 4]);
    }

    #[test]
    fn a_function_that_calls_itself_through_another_is_refused_and_the_model_unchanged() {
        let ping = function("Ping", &["a"], &["b"], vec![call("Pong", "", &["a"], &["b"], vec![])]);
        let pong = function("Pong", &["a"], &["b"], vec![call("Ping", "", &["a"], &["b"], vec![])]);
        let mut model = Builder::new(17)
            .function(ping)
            .function(pong)
            .input("x", DType::F32, &["N"])
            .push_node(call("Ping", "p", &["x"], &["y"], vec![]))
            .output("y", DType::F32, &["N"])
            .build();
        let before = model.clone();
        assert!(
            model
                .inline_functions(&[])
                .unwrap_err()
                .to_string()
                .starts_with("function 'Ping' cannot be inlined: it calls itself")
        );
        assert_eq!(model, before);
    }

    #[test]
    fn functions_nested_without_end_are_refused() {
        let level = |i: usize| {
            function(&format!("F{i}"), &["a"], &["b"], vec![call(&format!("F{}", i + 1), "c", &["a"], &["b"], vec![])])
        };
        let b = (0..100).fold(Builder::new(17).input("x", DType::F32, &["N"]), |b, i| b.function(level(i)));
        let mut model = b.push_node(call("F0", "c", &["x"], &["y"], vec![])).output("y", DType::F32, &["N"]).build();
        let error = model.inline_functions(&[]).unwrap_err().to_string();
        assert!(error.contains("functions are nested more than 64 deep"), "{error}");
    }

    #[test]
    fn a_body_for_an_older_opset_is_brought_to_the_models() {
        let mut old = function(
            "Sq",
            &["a"],
            &["b"],
            vec![node(
                "Unsqueeze",
                "u",
                &["a"],
                &["b"],
                vec![attribute_reference("axes", "axes", AttributeType::Ints)],
            )],
        );
        old.opset_import[0].version = Some(11);
        let mut model = Builder::new(17)
            .function(old)
            .input("x", DType::F32, &["N"])
            .push_node(call("Sq", "s", &["x"], &["y"], vec![crate::model::edit::ints("axes", &[0])]))
            .output("y", DType::F32, &["1", "N"])
            .build();
        model.inline_functions(&[]).unwrap();
        model.check().unwrap();
        let node = &model.graph().node[0];
        assert_eq!((node.input.len(), ints_attribute(node, "axes")), (2, None));
        assert_eq!(Tensor::from_proto(&model.graph().initializer[0]).unwrap(), Tensor::new(&[1], &[0_i64]));
    }

    #[test]
    fn a_body_for_a_newer_opset_is_refused_only_where_that_matters() {
        let model = |op: NodeProto| {
            let mut f = function("F", &["a"], &["b"], vec![op]);
            f.opset_import[0].version = Some(13);
            let b = Builder::new(12).function(f).input("x", DType::F32, &["N"]);
            b.push_node(call("F", "f", &["x"], &["y"], vec![])).output("y", DType::F32, &["N"]).build()
        };
        model(node("Relu", "r", &["a"], &["b"], vec![])).inline_functions(&[]).unwrap();
        let error = model(node("Softmax", "s", &["a"], &["b"], vec![int("axis", 0)]))
            .inline_functions(&[])
            .unwrap_err()
            .to_string();
        assert!(error.contains("written for opset 13, the model for 12, and Softmax changed"), "{error}");
    }

    #[test]
    fn an_output_that_is_an_input_becomes_an_identity() {
        let mut model = Builder::new(17)
            .function(function("Same", &["a"], &["a"], vec![]))
            .input("x", DType::F32, &["N"])
            .push_node(call("Same", "s", &["x"], &["y"], vec![]))
            .output("y", DType::F32, &["N"])
            .build();
        model.inline_functions(&[]).unwrap();
        model.check().unwrap();
        assert_eq!(model.graph().node[0].op_type(), "Identity");
    }

    #[test]
    fn kept_domains_stay_calls() {
        let mut model = Builder::new(17)
            .opset("local", 1)
            .function(leaky())
            .input("x", DType::F32, &["N"])
            .push_node(call("Leaky", "one", &["x"], &["y"], vec![]))
            .output("y", DType::F32, &["N"])
            .build();
        assert_eq!(model.inline_functions(&["local"]).unwrap(), 0);
        assert_eq!(model.proto().functions.len(), 1);
    }
}
