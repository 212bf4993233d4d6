//! Is this a graph? Structure only, no operator semantics: [`Model::check`] is fast enough to run after every pass.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::edit::{is_op, label, reads_of, subgraphs};
use super::onnx::{
    GraphProto, NodeProto, TensorProto, ValueInfoProto, tensor_proto::DataType, tensor_shape_proto::dimension::Value,
    type_proto,
};
use super::{DType, Model, ModelError, Tensor, edit, external};

/// Opsets of ONNX's own domain that are understood.
pub const OPSETS: std::ops::RangeInclusive<i64> = 7..=25;
/// Subgraphs inside subgraphs; a file cannot nest deeper than 33, for protobuf readers stop at 100 messages.
const MAX_DEPTH: usize = 40;
/// Bytes of one tensor beyond which a declared shape cannot be meant: 16 TiB, more than any machine that runs this holds.
const MAX_TENSOR_BYTES: u128 = 1 << 44;

/// Names that are visible, innermost graph first.
struct Scope<'g, 's> {
    names: HashSet<&'g str>,
    outer: Option<&'s Scope<'g, 's>>,
}

impl Scope<'_, '_> {
    fn knows(&self, name: &str) -> bool {
        self.names.contains(name) || self.outer.is_some_and(|o| o.knows(name))
    }
}

fn broken(place: impl Into<String>, detail: impl Into<String>) -> ModelError {
    ModelError::Broken { place: place.into(), detail: detail.into() }
}

fn at_node(node: &NodeProto) -> String {
    format!("node '{}'", label(node))
}

impl Model {
    /// Checks the structure: every tensor read is produced before, once; every initializer has the size of its shape; the opset is a known one. Subgraphs
    /// are checked with what they see of the outer graph. Linear in nodes and initializers, values are not looked at.
    pub fn check(&self) -> Result<(), ModelError> {
        self.check_opsets()?;
        let graph = self.graph();
        if graph.node.is_empty() {
            return Err(broken("the graph", "it has no nodes"));
        }
        if graph.output.is_empty() {
            return Err(broken("the graph", "it has no outputs"));
        }
        graph.input.iter().chain(&graph.output).try_for_each(check_declaration)?;
        check_graph(graph, None, 0)
    }

    /// [`Model::check`], and the values: no NaN in any constant, nothing infinite in a weight, no constant shape that fits in no memory.
    pub fn verify(&self) -> Result<(), ModelError> {
        self.check()?;
        self.check_values()
    }

    /// Puts nodes into an order in which everything is computed before it is read, in subgraphs too; nodes that are in order keep their places. Returns
    /// whether anything moved. A cycle is an error that names the nodes on it.
    pub fn sort(&mut self) -> Result<bool, ModelError> {
        let Some(order) = sorted(self.graph())? else { return Ok(false) };
        *self.graph_mut() = order;
        Ok(true)
    }

    fn check_opsets(&self) -> Result<(), ModelError> {
        let refuse = |version, detail: String| ModelError::Opset { domain: "ai.onnx".to_owned(), version, detail };
        let mut own = self
            .proto()
            .opset_import
            .iter()
            .filter(|o| matches!(o.domain(), "" | "ai.onnx"))
            .map(super::onnx::OperatorSetIdProto::version);
        let Some(version) = own.next() else {
            return match first_own_node(self.graph()) {
                Some(node) => Err(broken(
                    at_node(node),
                    format!("'{}' is an operator of ONNX, but the model imports no opset of it", node.op_type()),
                )),
                None => Ok(()),
            };
        };
        if let Some(other) = own.find(|&v| v != version) {
            return Err(broken(
                "the opset imports",
                format!("ONNX's own domain is imported as {version} and as {other}"),
            ));
        }
        if version < *OPSETS.start() {
            return Err(refuse(
                version,
                format!("it is older than {}; export the model again with opset 17 or so", OPSETS.start()),
            ));
        }
        if version > *OPSETS.end() {
            return Err(refuse(
                version,
                format!("it is newer than {}; export the model again with that or an earlier one", OPSETS.end()),
            ));
        }
        Ok(())
    }
}

fn first_own_node(graph: &GraphProto) -> Option<&NodeProto> {
    graph.node.iter().find_map(|n| {
        if matches!(n.domain(), "" | "ai.onnx") {
            return Some(n);
        }
        subgraphs(n).find_map(first_own_node)
    })
}

fn check_graph<'g>(graph: &'g GraphProto, outer: Option<&Scope<'g, '_>>, depth: usize) -> Result<(), ModelError> {
    if depth > MAX_DEPTH {
        return Err(broken("the graph", format!("subgraphs are nested more than {MAX_DEPTH} deep")));
    }
    let mut inputs = HashSet::new();
    for input in &graph.input {
        if input.name().is_empty() || !inputs.insert(input.name()) {
            return Err(broken(format!("input '{}'", input.name()), "it has no name of its own"));
        }
    }
    let mut constants = HashSet::new();
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    for (tensor, is_sparse) in graph.initializer.iter().map(|t| (t, false)).chain(sparse.map(|t| (t, true))) {
        if tensor.name().is_empty() || !constants.insert(tensor.name()) {
            return Err(broken(format!("initializer '{}'", tensor.name()), "it has no name of its own"));
        }
        if !is_sparse {
            check_tensor(tensor)?;
        }
    }
    let producer = producers(graph)?;
    for node in &graph.node {
        if node.op_type().is_empty() {
            return Err(broken(at_node(node), "it has no op_type"));
        }
    }
    let mut names = constants;
    names.extend(&inputs);
    let mut scope = Scope { names, outer };
    for node in &graph.node {
        if let Some(input) = node.input.iter().find(|i| !i.is_empty() && !scope.knows(i)) {
            return Err(match producer.get(input.as_str()) {
                None => broken(at_node(node), format!("it reads '{input}', which nothing produces")),
                Some(later) => match order(graph) {
                    Err(cycle) => cycle,
                    Ok(_) => broken(
                        at_node(node),
                        format!("it reads '{input}' before node '{}' computes it", label(&graph.node[*later])),
                    ),
                },
            });
        }
        for attribute in &node.attribute {
            attribute.t.iter().chain(&attribute.tensors).try_for_each(check_tensor)?;
        }
        for inner in subgraphs(node) {
            // A body that reads what is computed later is an order problem of this graph.
            check_graph(inner, Some(&scope), depth + 1).map_err(|e| match order(graph) {
                Err(cycle) => cycle,
                Ok(_) => inside(e, node),
            })?;
        }
        scope.names.extend(node.output.iter().filter(|o| !o.is_empty()).map(String::as_str));
    }
    let mut outputs = HashSet::new();
    for output in &graph.output {
        if !scope.knows(output.name()) || output.name().is_empty() {
            return Err(broken(format!("output '{}'", output.name()), "no node produces it"));
        }
        if !outputs.insert(output.name()) && depth == 0 {
            return Err(broken(format!("output '{}'", output.name()), "it is listed twice"));
        }
    }
    Ok(())
}

fn inside(error: ModelError, node: &NodeProto) -> ModelError {
    match error {
        ModelError::Broken { place, detail } => broken(format!("{place} inside node '{}'", label(node)), detail),
        other => other,
    }
}

/// A declared input or output whose fixed dimensions multiply to something absurd is a damaged file.
fn check_declaration(info: &ValueInfoProto) -> Result<(), ModelError> {
    let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Ok(());
    };
    let dims = tensor.shape.iter().flat_map(|s| &s.dim).filter_map(|d| match d.value {
        Some(Value::DimValue(v)) if v > 0 => Some(v as u128),
        _ => None,
    });
    let size = DType::from_onnx(tensor.elem_type()).map_or(1, |d| d.size() as u128);
    match dims.clone().try_fold(size, u128::checked_mul).filter(|&bytes| bytes <= MAX_TENSOR_BYTES) {
        Some(_) => Ok(()),
        None => Err(broken(
            format!("'{}'", info.name()),
            format!("its declared shape {:?} fits in no memory", dims.collect::<Vec<_>>()),
        )),
    }
}

/// Bits per element of numeric types; `None` for strings and numbers that ONNX does not define.
fn bits(data_type: i32) -> Option<u128> {
    if let Some(dtype) = DType::from_onnx(data_type) {
        return Some(dtype.size() as u128 * 8);
    }
    Some(match DataType::try_from(data_type).ok()? {
        DataType::Complex64 => 64,
        DataType::Complex128 => 128,
        DataType::Undefined | DataType::String => return None,
        other => match other.as_str_name() {
            name if name.starts_with("FLOAT8") => 8,
            "FLOAT6E2M3" | "FLOAT6E3M2" => 6,
            "INT4" | "UINT4" | "FLOAT4E2M1" => 4,
            "INT2" | "UINT2" => 2,
            _ => return None,
        },
    })
}

/// Number of elements of a tensor, when its dimensions are sane.
fn elements(tensor: &TensorProto) -> Result<u128, ModelError> {
    let count = tensor.dims.iter().try_fold(1_u128, |n, &d| u128::try_from(d).ok().and_then(|d| n.checked_mul(d)));
    count.filter(|&n| n <= MAX_TENSOR_BYTES).ok_or_else(|| {
        broken(format!("tensor '{}'", tensor.name()), format!("its shape {:?} fits in no memory", tensor.dims))
    })
}

/// Bytes that `raw_data` of this tensor must have; `None` where that is not known.
pub(super) fn expected_bytes(tensor: &TensorProto) -> Result<Option<u64>, ModelError> {
    let count = elements(tensor)?;
    Ok(bits(tensor.data_type()).map(|b| (count * b).div_ceil(8) as u64))
}

fn check_tensor(tensor: &TensorProto) -> Result<(), ModelError> {
    let mismatch = || ModelError::TensorData { name: tensor.name().to_owned() };
    if external::is_external(tensor) {
        let detail = "it was not loaded with the model".to_owned();
        return Err(ModelError::ExternalData { name: tensor.name().to_owned(), detail });
    }
    let count = elements(tensor)?;
    if tensor.data_type() == DataType::String as i32 {
        return if tensor.string_data.len() as u128 == count { Ok(()) } else { Err(mismatch()) };
    }
    let Some(bits) = bits(tensor.data_type()) else {
        return Err(broken(
            format!("tensor '{}'", tensor.name()),
            format!("its data type {} is unknown", tensor.data_type()),
        ));
    };
    let expected = (count * bits).div_ceil(8);
    let fits = if let Some(raw) = &tensor.raw_data {
        raw.len() as u128 == expected
    } else {
        let typed = match DataType::try_from(tensor.data_type()) {
            Ok(DataType::Float) => tensor.float_data.len(),
            Ok(DataType::Complex64) => tensor.float_data.len() / 2,
            Ok(DataType::Double) => tensor.double_data.len(),
            Ok(DataType::Complex128) => tensor.double_data.len() / 2,
            Ok(DataType::Int64) => tensor.int64_data.len(),
            Ok(DataType::Uint32 | DataType::Uint64) => tensor.uint64_data.len(),
            _ => tensor.int32_data.len(),
        } as u128;
        // Types under a byte are packed here by some exporters and not by others.
        typed == count || (bits < 8 && typed == expected)
    };
    if fits { Ok(()) } else { Err(mismatch()) }
}

/// The node, by position, that computes each tensor of a graph. Two nodes may not compute one, nor a node what is given.
fn producers(graph: &GraphProto) -> Result<HashMap<&str, usize>, ModelError> {
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    let constants: HashSet<&str> = graph.initializer.iter().chain(sparse).map(TensorProto::name).collect();
    let inputs: HashSet<&str> = graph.input.iter().map(ValueInfoProto::name).collect();
    let mut producer = HashMap::with_capacity(graph.node.len());
    for (position, node) in graph.node.iter().enumerate() {
        for output in node.output.iter().map(String::as_str).filter(|o| !o.is_empty()) {
            if inputs.contains(output) {
                return Err(broken(at_node(node), format!("its output '{output}' is also an input of the graph")));
            }
            if constants.contains(output) {
                return Err(broken(at_node(node), format!("its output '{output}' is also an initializer")));
            }
            if let Some(first) = producer.insert(output, position) {
                let first = label(&graph.node[first]);
                return Err(broken(
                    at_node(node),
                    format!("its output '{output}' is already the output of node '{first}'"),
                ));
            }
        }
    }
    Ok(producer)
}

/// A stable topological order, as positions: always the first node in file order whose inputs are there.
fn order(graph: &GraphProto) -> Result<Vec<usize>, ModelError> {
    let producer = producers(graph)?;
    let mut waits_for: Vec<Vec<usize>> = Vec::with_capacity(graph.node.len());
    let mut unblocks = vec![Vec::new(); graph.node.len()];
    for (position, node) in graph.node.iter().enumerate() {
        let mut sources: Vec<usize> =
            reads_of(node).iter().filter_map(|name| producer.get(name.as_str()).copied()).collect();
        sources.sort_unstable();
        sources.dedup();
        for &source in &sources {
            unblocks[source].push(position);
        }
        waits_for.push(sources);
    }
    let mut missing: Vec<usize> = waits_for.iter().map(Vec::len).collect();
    let mut ready: BinaryHeap<Reverse<usize>> = (0..missing.len()).filter(|&i| missing[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(missing.len());
    while let Some(Reverse(next)) = ready.pop() {
        order.push(next);
        for &reader in &unblocks[next] {
            missing[reader] -= 1;
            if missing[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    if order.len() == graph.node.len() { Ok(order) } else { Err(cycle(graph, &waits_for, &missing)) }
}

/// Walks back from a blocked node to blocked producers until one comes up again: that is a cycle.
fn cycle(graph: &GraphProto, waits_for: &[Vec<usize>], missing: &[usize]) -> ModelError {
    let mut path: Vec<usize> = missing.iter().position(|&m| m > 0).into_iter().collect();
    while let Some(&last) = path.last() {
        let Some(next) = waits_for[last].iter().copied().find(|&s| missing[s] > 0) else { break };
        if let Some(start) = path.iter().position(|&p| p == next) {
            path.drain(..start);
            break;
        }
        path.push(next);
    }
    path.reverse();
    let first = label(&graph.node[path[0]]);
    let mut names: Vec<String> = path.iter().take(5).map(|&i| format!("'{}'", label(&graph.node[i]))).collect();
    if path.len() > 5 {
        names.push(format!("{} more", path.len() - 5));
    }
    broken(format!("node '{first}'"), format!("it waits for its own result ({} -> '{first}')", names.join(" -> ")))
}

/// The graph in order, or `None` when it is already. A node is moved only when something has to.
fn sorted(graph: &GraphProto) -> Result<Option<GraphProto>, ModelError> {
    let mut result: Option<GraphProto> = None;
    for (position, node) in graph.node.iter().enumerate() {
        for (at, attribute) in node.attribute.iter().enumerate() {
            if let Some(inner) = attribute.g.as_ref().map(sorted).transpose()?.flatten() {
                result.get_or_insert_with(|| graph.clone()).node[position].attribute[at].g = Some(inner);
            }
            for (which, inner) in attribute.graphs.iter().enumerate() {
                if let Some(inner) = sorted(inner)? {
                    result.get_or_insert_with(|| graph.clone()).node[position].attribute[at].graphs[which] = inner;
                }
            }
        }
    }
    let order = order(graph)?;
    if !order.is_sorted() {
        let result = result.get_or_insert_with(|| graph.clone());
        let mut nodes: Vec<Option<NodeProto>> = std::mem::take(&mut result.node).into_iter().map(Some).collect();
        result.node = order.iter().filter_map(|&i| nodes[i].take()).collect();
    }
    Ok(result)
}

/// A `ConstantOfShape` or `Expand` whose constant shape fits in no memory would take the process down when it runs.
pub(super) fn check_constant_shapes(model: &Model) -> Result<(), ModelError> {
    let index = edit::Index::new(model.graph());
    for node in &model.graph().node {
        let at = match () {
            () if is_op(node, "ConstantOfShape") => 0,
            () if is_op(node, "Expand") => 1,
            () => continue,
        };
        let shape: Option<Tensor> = node.input.get(at).and_then(|name| model.constant(&index, name));
        let Some(shape) = shape.as_ref().and_then(Tensor::to_i64) else { continue };
        let count = shape.iter().filter(|&&d| d > 0).try_fold(1_u128, |n, &d| n.checked_mul(d as u128));
        if count.is_none_or(|n| n > MAX_TENSOR_BYTES) {
            return Err(broken(at_node(node), format!("the shape {shape:?} that it asks for fits in no memory")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::{Builder, graph_attribute};

    fn chain(nodes: &[(&str, &str)]) -> Model {
        let start = Builder::new(17).input("x", DType::F32, &["N"]);
        let nodes = nodes.iter().fold(start, |b, (from, to)| b.node("Relu", &[from], to, vec![]));
        nodes.output("y", DType::F32, &["N"]).build()
    }

    fn message(model: &Model) -> String {
        model.check().unwrap_err().to_string()
    }

    #[test]
    fn nodes_out_of_order_are_reported_and_can_be_sorted_without_moving_the_others() {
        let mut model = chain(&[("x", "a"), ("b", "y"), ("a", "b")]);
        assert!(message(&model).contains("node 'Relu_1': it reads 'b' before node 'Relu_2' computes it"));
        assert!(model.sort().unwrap());
        model.check().unwrap();
        let outputs: Vec<&str> = model.graph().node.iter().map(|n| n.output[0].as_str()).collect();
        assert_eq!(outputs, ["a", "b", "y"]);
        assert!(!model.sort().unwrap());
    }

    #[test]
    fn a_cycle_is_named_by_the_nodes_on_it_and_not_by_those_behind_it() {
        let model = chain(&[("x", "a"), ("c", "y"), ("c", "b"), ("b", "c")]);
        let message = message(&model);
        assert!(message.contains("it waits for its own result ('Relu_2' -> 'Relu_3' -> 'Relu_2')"), "{message}");
        assert!(model.clone().sort().is_err());
    }

    #[test]
    fn a_subgraph_sees_the_tensors_computed_before_its_node_and_only_those() {
        let with_branch_reading = |name: &str| {
            let branch = || {
                let b = Builder::new(17).node("Identity", &[name], "r", vec![]).output("r", DType::F32, &["N"]);
                b.build_graph()
            };
            Builder::new(17)
                .input("x", DType::F32, &["N"])
                .input("c", DType::Bool, &[])
                .node("Relu", &["x"], "before", vec![])
                .node(
                    "If",
                    &["c"],
                    "y",
                    vec![graph_attribute("then_branch", branch()), graph_attribute("else_branch", branch())],
                )
                .node("Relu", &["y"], "after", vec![])
                .output("after", DType::F32, &["N"])
                .build()
        };
        with_branch_reading("before").check().unwrap();
        assert!(
            message(&with_branch_reading("nowhere"))
                .contains("node 'Identity_0' inside node 'If_1': it reads 'nowhere', which nothing produces")
        );
        assert!(
            message(&with_branch_reading("after"))
                .contains("it waits for its own result ('Relu_2' -> 'If_1' -> 'Relu_2')")
        );
    }

    #[test]
    fn sizes_of_packed_types_are_counted_in_bits() {
        for (data_type, dims, bytes, fits) in [
            (DataType::Int4, vec![3], 2, true),
            (DataType::Int4, vec![3], 3, false),
            (DataType::Float8e4m3fn, vec![3], 3, true),
            (DataType::Float, vec![2, 0], 0, true),
            (DataType::Float, vec![2], 7, false),
            (DataType::Float, vec![-1], 4, false),
            (DataType::Undefined, vec![1], 4, false),
        ] {
            let raw = Some(bytes::Bytes::from(vec![0; bytes]));
            let tensor = TensorProto {
                dims: dims.clone(),
                data_type: Some(data_type as i32),
                raw_data: raw,
                ..TensorProto::default()
            };
            assert_eq!(check_tensor(&tensor).is_ok(), fits, "{data_type:?} {dims:?} in {bytes} bytes");
        }
    }

    #[test]
    fn an_opset_is_required_only_for_operators_of_onnx() {
        let mut model = chain(&[("x", "y")]);
        model.proto_mut().opset_import.clear();
        assert!(message(&model).contains("imports no opset"));
        model.graph_mut().node[0].domain = Some("com.example".to_owned());
        model.check().unwrap();
    }
}
