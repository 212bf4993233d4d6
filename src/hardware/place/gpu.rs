//! GPUs, as GPU Feature Discovery labels them and the device plugin counts them.

use super::{NodeFacts, Term, requirement};
use crate::api::bakejob::{Gpu, Hardware};
use crate::api::value;

/// MiB of each GPU.
const MEMORY: &str = "nvidia.com/gpu.memory";
const MAJOR: &str = "nvidia.com/gpu.compute.major";
const MINOR: &str = "nvidia.com/gpu.compute.minor";

/// What is asked for; a job with device CUDA that says nothing more wants one.
fn gpu(hardware: &Hardware) -> Gpu {
    hardware.gpu.clone().unwrap_or_else(|| Gpu {
        count: 1,
        min_memory: None,
        min_compute_capability: None,
        resource_name: "nvidia.com/gpu".into(),
    })
}

/// The extended resource, and how many.
pub(super) fn resource(hardware: &Hardware) -> (String, u32) {
    let gpu = gpu(hardware);
    (gpu.resource_name, gpu.count)
}

/// What is asked for, in words.
pub(super) fn wanted(hardware: &Hardware) -> String {
    let gpu = gpu(hardware);
    let memory = gpu.min_memory.map(|m| format!(", {m} each")).unwrap_or_default();
    let capability = gpu.min_compute_capability.map(|c| format!(", compute capability {c}")).unwrap_or_default();
    format!("{} {}{memory}{capability}", gpu.count, gpu.resource_name)
}

/// Least memory in MiB.
fn mebibytes(gpu: &Gpu) -> Option<u64> {
    let bytes = value::bytes(gpu.min_memory.as_deref()?).ok()?;
    Some((bytes / f64::from(1 << 20)).ceil() as u64)
}

/// Least compute capability, as major and minor.
fn capability(gpu: &Gpu) -> Option<(u64, u64)> {
    let (major, minor) = gpu.min_compute_capability.as_deref()?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// What a node must show. A capability of at least 8.6 is "major above 8, or major 8 and minor above 5": two terms.
pub(super) fn terms(hardware: &Hardware) -> Vec<Term> {
    let gpu = gpu(hardware);
    let above = |label: &str, least: u64| requirement(label, "Gt", &[(least.saturating_sub(1)).to_string()]);
    let memory: Term = mebibytes(&gpu).filter(|m| *m > 0).map(|least| above(MEMORY, least)).into_iter().collect();
    let capability = match capability(&gpu) {
        None => Vec::new(),
        Some((major, 0)) => vec![vec![above(MAJOR, major)]],
        Some((major, minor)) => vec![
            vec![above(MAJOR, major + 1)],
            vec![requirement(MAJOR, "In", &[major.to_string()]), above(MINOR, minor)],
        ],
    };
    let memory = if memory.is_empty() { Vec::new() } else { vec![memory] };
    super::and(&memory, &capability)
}

/// Whether a node has what is asked for, free or not.
pub(super) fn fits(hardware: &Hardware, node: &NodeFacts) -> bool {
    let gpu = gpu(hardware);
    let number = |label: &str| node.labels.get(label).and_then(|value| value.parse::<u64>().ok());
    let enough_memory = mebibytes(&gpu).is_none_or(|least| number(MEMORY).is_some_and(|has| has >= least));
    let capable = capability(&gpu)
        .is_none_or(|least| number(MAJOR).zip(number(MINOR).or(Some(0))).is_some_and(|has| has >= least));
    node.schedulable
        && node.reachable
        && node.resources.get(&gpu.resource_name).is_some_and(|has| *has >= u64::from(gpu.count))
        && enough_memory
        && capable
}
