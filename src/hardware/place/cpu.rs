//! Instruction sets, as Node Feature Discovery labels them.

use super::{NodeFacts, Term, requirement};
use crate::api::bakejob::Hardware;

const PREFIX: &str = "feature.node.kubernetes.io/cpu-cpuid.";

/// The label of an instruction set. Node Feature Discovery uses the names of Go's `cpuid` package: upper case, no underscores, a few its own.
fn label(feature: &str) -> String {
    let flag = match feature {
        "fma" => "FMA3".to_owned(),
        "sse4_1" | "sse4.1" => "SSE4".to_owned(),
        "sse4_2" | "sse4.2" => "SSE42".to_owned(),
        "neon" => "ASIMD".to_owned(),
        other => other.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_uppercase(),
    };
    format!("{PREFIX}{flag}")
}

/// What the node's processor must have, and a remark for the status. Without any such label in the cluster, the worker checks by itself: a
/// demand that no node can show would keep the pod waiting for ever.
pub(super) fn term(hardware: &Hardware, nodes: Option<&[NodeFacts]>) -> (Term, String) {
    let features = hardware.cpu.as_ref().map_or(&[][..], |cpu| &cpu.features);
    if features.is_empty() {
        return (Term::new(), String::new());
    }
    let labelled = nodes.is_none_or(|nodes| nodes.iter().any(|node| node.labels.keys().any(|l| l.starts_with(PREFIX))));
    if labelled {
        (
            features.iter().map(|f| requirement(label(f), "Exists", &[])).collect(),
            format!("; on a node with {}", features.join(", ")),
        )
    } else {
        (Term::new(), format!("; no node is labelled with CPU features, the worker checks {}", features.join(", ")))
    }
}
