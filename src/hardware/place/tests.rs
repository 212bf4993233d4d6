use serde_json::json;

use super::*;

fn hardware(text: serde_json::Value) -> Hardware {
    serde_json::from_value(text).unwrap()
}

fn node(name: &str, gpus: u64, labels: &[(&str, &str)]) -> NodeFacts {
    NodeFacts {
        name: name.into(),
        labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        resources: if gpus > 0 { [("nvidia.com/gpu".to_owned(), gpus)].into() } else { BTreeMap::new() },
        schedulable: true,
        reachable: true,
    }
}

fn a100(name: &str) -> NodeFacts {
    node(
        name,
        2,
        &[
            ("nvidia.com/gpu.memory", "81920"),
            ("nvidia.com/gpu.compute.major", "8"),
            ("nvidia.com/gpu.compute.minor", "0"),
        ],
    )
}

fn shown(terms: &[Term]) -> Vec<String> {
    let one = |r: &NodeSelectorRequirement| {
        format!("{} {} {}", r.key, r.operator, r.values.clone().unwrap_or_default().join(","))
    };
    terms.iter().map(|term| term.iter().map(one).collect::<Vec<_>>().join(" & ").trim().to_owned()).collect()
}

#[test]
fn the_device_follows_the_spec_and_the_nodes() {
    use GivenDevice::{Cpu, Cuda};
    let (gpu_node, plain) = (vec![node("plain", 0, &[]), a100("a")], vec![node("plain", 0, &[])]);
    let table = [
        ("default", json!({}), &gpu_node, Cpu, "Auto, and no GPU is asked for"),
        ("CPU", json!({"device": "CPU"}), &gpu_node, Cpu, "asked for"),
        ("CUDA with a node", json!({"device": "CUDA"}), &gpu_node, Cuda, "asked for"),
        ("CUDA without a node waits for one", json!({"device": "CUDA"}), &plain, Cuda, "asked for"),
        ("Auto with a node", json!({"gpu": {}}), &gpu_node, Cuda, "Auto, and node a has 1 nvidia.com/gpu"),
        ("Auto without a node", json!({"gpu": {}}), &plain, Cpu, "Auto, and none of 1 nodes has 1 nvidia.com/gpu"),
        (
            "more than a node has",
            json!({"gpu": {"count": 3}}),
            &gpu_node,
            Cpu,
            "Auto, and none of 2 nodes has 3 nvidia.com/gpu",
        ),
        (
            "more memory than a node has",
            json!({"gpu": {"minMemory": "100Gi"}}),
            &gpu_node,
            Cpu,
            "Auto, and none of 2 nodes has 1 nvidia.com/gpu, 100Gi each",
        ),
        (
            "a newer GPU than there is",
            json!({"gpu": {"minComputeCapability": "9.0"}}),
            &gpu_node,
            Cpu,
            "Auto, and none of 2 nodes has 1 nvidia.com/gpu, compute capability 9.0",
        ),
        (
            "another resource",
            json!({"gpu": {"resourceName": "amd.com/gpu"}}),
            &gpu_node,
            Cpu,
            "Auto, and none of 2 nodes has 1 amd.com/gpu",
        ),
    ];
    for (name, spec, nodes, device, reason) in table {
        let placed = place(&hardware(spec), Some(nodes), &Choice::Fresh);
        assert_eq!((placed.device, placed.reason.as_str()), (device, reason), "{name}");
        assert_eq!(placed.resource.is_some(), device == Cuda, "{name}");
    }
}

#[test]
fn a_device_waited_for_in_vain_becomes_the_cpu() {
    let placed = place(&hardware(json!({"device": "CUDA"})), Some(&[]), &Choice::Fallback);
    assert_eq!(placed.device, GivenDevice::Cpu);
    assert_eq!(placed.reason, "no node took the pod with 1 nvidia.com/gpu in time; fallback to the CPU");
    assert_eq!(placed.resource, None);
}

#[test]
fn what_a_gpu_must_offer_becomes_node_affinity() {
    let terms = |spec: serde_json::Value| shown(&place(&hardware(spec), None, &Choice::Fresh).terms);
    assert_eq!(terms(json!({"device": "CUDA"})), Vec::<String>::new());
    assert_eq!(terms(json!({"device": "CUDA", "gpu": {"minMemory": "16Gi"}})), ["nvidia.com/gpu.memory Gt 16383"]);
    assert_eq!(
        terms(json!({"device": "CUDA", "gpu": {"minMemory": "16Gi", "minComputeCapability": "8.6"}})),
        [
            "nvidia.com/gpu.memory Gt 16383 & nvidia.com/gpu.compute.major Gt 8",
            "nvidia.com/gpu.memory Gt 16383 & nvidia.com/gpu.compute.major In 8 & nvidia.com/gpu.compute.minor Gt 5",
        ]
    );
    assert_eq!(
        terms(json!({"device": "CUDA", "gpu": {"minComputeCapability": "9.0"}})),
        ["nvidia.com/gpu.compute.major Gt 8"]
    );
}

#[test]
fn cpu_features_are_demanded_only_where_nodes_show_them() {
    let spec = hardware(json!({"cpu": {"features": ["avx512_vnni", "fma"]}}));
    let labelled = [node("a", 0, &[("feature.node.kubernetes.io/cpu-cpuid.AVX2", "true")])];
    let placed = place(&spec, Some(&labelled), &Choice::Fresh);
    assert_eq!(
        shown(&placed.terms),
        ["feature.node.kubernetes.io/cpu-cpuid.AVX512VNNI Exists  & feature.node.kubernetes.io/cpu-cpuid.FMA3 Exists"]
    );
    let bare = place(&spec, Some(&[node("a", 0, &[])]), &Choice::Fresh);
    assert!(bare.terms.is_empty() && bare.reason.ends_with("the worker checks avx512_vnni, fma"), "{}", bare.reason);
}

#[test]
fn a_cordoned_node_does_not_count() {
    let cordoned = NodeFacts { schedulable: false, ..a100("a") };
    assert_eq!(place(&hardware(json!({"gpu": {}})), Some(&[cordoned]), &Choice::Fresh).device, GivenDevice::Cpu);
}

#[test]
fn facts_of_a_node_are_only_what_decides() {
    let node = json!({
        "metadata": {"name": "n", "labels": {"nvidia.com/gpu.memory": "1", "kubernetes.io/os": "linux"}},
        "spec": {"unschedulable": true},
        "status": {"allocatable": {"cpu": "4", "nvidia.com/gpu": "2"}},
    });
    let facts = NodeFacts::read(&serde_json::from_value(node).unwrap());
    assert_eq!((facts.labels.len(), facts.resources["nvidia.com/gpu"], facts.schedulable), (1, 2, false));
}

#[test]
fn a_run_keeps_its_device() {
    let keep = Choice::Keep(GivenDevice::Cpu, "earlier".into());
    let placed = place(&hardware(json!({"gpu": {}})), Some(&[a100("a")]), &keep);
    assert_eq!((placed.device, placed.reason.as_str()), (GivenDevice::Cpu, "earlier"));
}
