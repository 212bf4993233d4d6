//! Which device a job gets and what its node must have, from `spec.hardware` and the labels of the nodes: those that Node Feature Discovery
//! and GPU Feature Discovery set. No scan of our own, and no label is demanded that nobody sets here.

mod cpu;
mod gpu;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement};

use crate::api::bakejob::{Device, Hardware};
use crate::api::wire::GivenDevice;

/// Requirements that must all hold.
pub type Term = Vec<NodeSelectorRequirement>;

/// What is known of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// The labels of feature discovery.
    pub labels: BTreeMap<String, String>,
    /// How many of each extended resource its pods may have.
    pub resources: BTreeMap<String, u64>,
    /// Whether new pods may go there.
    pub schedulable: bool,
    /// Whether its kubelet answers.
    pub reachable: bool,
}

/// Where the labels of feature discovery begin.
const FEATURE_PREFIXES: [&str; 2] = ["nvidia.com/", "feature.node.kubernetes.io/cpu-cpuid."];

impl NodeFacts {
    /// Reads a node.
    pub fn read(node: &Node) -> Self {
        let labels = node.metadata.labels.iter().flatten();
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        let allocatable = node.status.iter().flat_map(|status| status.allocatable.iter().flatten());
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: labels
                .filter(|(name, _)| FEATURE_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            resources: allocatable
                .filter(|(name, _)| name.contains('/'))
                .filter_map(|(name, quantity)| Some((name.clone(), quantity.0.parse().ok()?)))
                .collect(),
            schedulable: node.spec.as_ref().is_none_or(|spec| spec.unschedulable != Some(true)),
            // The node controller writes Unknown when a kubelet was silent for too long.
            reachable: !conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "Unknown"),
        }
    }
}

/// A decision, with its reason.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// The device.
    pub device: GivenDevice,
    /// What the node must have: one of these terms; empty asks for nothing.
    pub terms: Vec<Term>,
    /// The extended resource to ask for, and how many.
    pub resource: Option<(String, u32)>,
    /// Why.
    pub reason: String,
}

/// What is known before deciding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Nothing.
    Fresh,
    /// The run has its device already, and why: its attempts do not change it.
    Keep(GivenDevice, String),
    /// The device was waited for in vain.
    Fallback,
}

/// Decides. `nodes` is `None` where the controller may not see nodes.
///
/// - CPU, or Auto without `gpu`: the processor.
/// - CUDA: a GPU, whether a node has one now or not, because an autoscaler may bring it; after the wait, `fallback` decides.
/// - Auto with `gpu`: a GPU when a node has what is asked for, else the processor.
pub fn place(hardware: &Hardware, nodes: Option<&[NodeFacts]>, choice: &Choice) -> Placement {
    let cpu = |reason: String| {
        let (term, note) = cpu::term(hardware, nodes);
        Placement {
            device: GivenDevice::Cpu,
            terms: if term.is_empty() { Vec::new() } else { vec![term] },
            resource: None,
            reason: reason + &note,
        }
    };
    let cuda = |reason: String| {
        let (term, note) = cpu::term(hardware, nodes);
        let terms = gpu::terms(hardware);
        Placement {
            device: GivenDevice::Cuda,
            terms: and(&terms, &if term.is_empty() { Vec::new() } else { vec![term] }),
            resource: Some(gpu::resource(hardware)),
            reason: reason + &note,
        }
    };
    match choice {
        Choice::Fallback => {
            return cpu(format!("no node took the pod with {} in time; fallback to the CPU", gpu::wanted(hardware)));
        }
        Choice::Keep(device, reason) => {
            let placement = if *device == GivenDevice::Cpu { cpu(String::new()) } else { cuda(String::new()) };
            return Placement { reason: reason.clone(), ..placement };
        }
        Choice::Fresh => {}
    }
    match (hardware.device, nodes) {
        (Device::Cpu, _) => cpu("asked for".into()),
        (Device::Auto, _) if hardware.gpu.is_none() => cpu("Auto, and no GPU is asked for".into()),
        (Device::Cuda, _) => cuda("asked for".into()),
        (Device::Auto, None) => {
            cuda("Auto, and the nodes cannot be seen: the GPU that is asked for is tried first".into())
        }
        (Device::Auto, Some(nodes)) => match nodes.iter().find(|node| gpu::fits(hardware, node)) {
            Some(node) => cuda(format!("Auto, and node {} has {}", node.name, gpu::wanted(hardware))),
            None => cpu(format!("Auto, and none of {} nodes has {}", nodes.len(), gpu::wanted(hardware))),
        },
    }
}

/// Terms that hold where one of `a` and one of `b` hold. Node selector terms are alternatives, so both lists are multiplied out.
pub fn and(a: &[Term], b: &[Term]) -> Vec<Term> {
    match (a, b) {
        ([], other) | (other, []) => other.to_vec(),
        _ => a.iter().flat_map(|x| b.iter().map(move |y| x.iter().chain(y).cloned().collect())).collect(),
    }
}

fn requirement(key: impl Into<String>, operator: &str, values: &[String]) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: key.into(),
        operator: operator.to_owned(),
        values: (!values.is_empty()).then(|| values.to_vec()),
    }
}

#[cfg(test)]
mod tests;
