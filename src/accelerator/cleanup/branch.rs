//! An If whose condition is constant: the branch that is taken moves into the main graph.

use std::collections::BTreeMap;

use crate::accelerator::net::{Id, Net, rename_reads};
use crate::model::edit;
use crate::model::onnx::TensorProto;

pub(super) fn inline(net: &mut Net, id: Id) -> bool {
    let Some(node) = net.get(id) else { return false };
    let Some(condition) = node.input.first().and_then(|c| net.ints(c)).filter(|c| c.len() == 1) else { return false };
    let branch = if condition[0] != 0 { "then_branch" } else { "else_branch" };
    let Some(graph) = edit::attribute(node, branch).and_then(|a| a.g.clone()) else { return false };
    if graph.output.len() != node.output.len() || !graph.sparse_initializer.is_empty() {
        return false;
    }
    let Some(node) = net.remove(id) else { return false };

    // The name that each tensor of the branch has outside: the If's own output where it is one, else a name that is free.
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for (inner, outer) in graph.output.iter().zip(&node.output) {
        let computed = graph.node.iter().any(|n| n.output.iter().any(|o| o == inner.name()));
        if computed && !outer.is_empty() {
            names.entry(inner.name().to_owned()).or_insert_with(|| outer.clone());
        }
    }
    let own = graph
        .initializer
        .iter()
        .map(TensorProto::name)
        .chain(graph.node.iter().flat_map(|n| n.output.iter().map(String::as_str)));
    for name in own.filter(|n| !n.is_empty()) {
        if !names.contains_key(name) {
            names.insert(name.to_owned(), net.fresh_name(name));
        }
    }
    for mut tensor in graph.initializer {
        tensor.name = tensor.name.map(|n| names.get(&n).cloned().unwrap_or(n));
        net.add_initializer(tensor);
    }
    for mut inner in graph.node {
        // In one sweep over what it reads, so that a new name which equals another old one is not renamed twice.
        let marked: Vec<(String, String)> =
            edit::reads_of(&inner).into_iter().filter_map(|r| Some((r.clone(), names.get(&r)?.clone()))).collect();
        for (position, (from, _)) in marked.iter().enumerate() {
            rename_reads(&mut inner, from, &format!("\u{0}{position}"));
        }
        for (position, (_, to)) in marked.iter().enumerate() {
            rename_reads(&mut inner, &format!("\u{0}{position}"), to);
        }
        for output in &mut inner.output {
            if let Some(outer) = names.get(output) {
                output.clone_from(outer);
            }
        }
        net.insert(id, inner);
    }
    for (inner, outer) in graph.output.iter().zip(&node.output).filter(|(_, outer)| !outer.is_empty()) {
        let source = names.get(inner.name()).map_or(inner.name(), String::as_str);
        if source != outer {
            let name = format!("{}_{outer}", node.name());
            net.insert(id, edit::node("Identity", &name, &[source], &[outer], vec![]));
        }
    }
    true
}
