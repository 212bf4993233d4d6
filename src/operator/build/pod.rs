//! The pod of a worker: restricted by the Pod Security Standard, with no credentials of the API.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, EmptyDirVolumeSource, EnvVar, LocalObjectReference, NodeAffinity, NodeSelector,
    NodeSelectorTerm, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile,
    SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::storage;
use crate::api::bakejob::Worker;
use crate::api::wire::{ASSIGNMENT_VARIABLE, Assignment, IMAGE_VARIABLE, TERMINATION_PATH, TERMINATION_VARIABLE, Task};
use crate::hardware::place::{Placement, Term, and};
use crate::operator::names;
use crate::operator::validate::Validated;

/// What a worker may use of the node's disk when the job does not say.
const SCRATCH: &str = "10Gi";

/// The resource of that name.
const DISK: &str = "ephemeral-storage";

/// User and group of the worker; nobody's in particular.
const USER: i64 = 65532;

/// Seconds between being asked to stop and being killed: enough to write the stage record.
const GRACE: i64 = 30;

pub(super) fn template(
    job: &Validated,
    assignment: &Assignment,
    placement: &Placement,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
) -> PodTemplateSpec {
    let worker = job.spec.worker.clone().unwrap_or_default();
    let storage = storage::of(&job.spec, assignment.task);
    let mut volumes = storage.volumes;
    volumes.push(scratch(&worker));
    volumes.extend(worker.volumes.clone());
    let bakes = assignment.task == Task::Bake;
    let pull_secrets = worker.image_pull_secrets.iter().map(|s| LocalObjectReference { name: s.name.clone() });
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            restart_policy: Some("Never".to_owned()),
            // A workload identity gets its own projected token by its cloud's webhook; the token of the API is never needed.
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            service_account_name: worker.service_account_name.clone(),
            image_pull_secrets: some(pull_secrets.collect()),
            termination_grace_period_seconds: Some(GRACE),
            security_context: Some(pod_security()),
            node_selector: (!worker.node_selector.is_empty()).then(|| worker.node_selector.clone()),
            affinity: affinity(worker.affinity.clone(), if bakes { &placement.terms } else { &[] }),
            tolerations: some(worker.tolerations.clone()),
            priority_class_name: worker.priority_class_name.clone(),
            runtime_class_name: worker.runtime_class_name.clone().filter(|_| bakes),
            resource_claims: some(worker.resource_claims.clone()).filter(|_| bakes),
            volumes: Some(volumes),
            containers: vec![container(job, &worker, assignment, placement, storage.env, storage.mounts)],
            ..PodSpec::default()
        }),
    }
}

fn container(
    job: &Validated,
    worker: &Worker,
    assignment: &Assignment,
    placement: &Placement,
    env: Vec<EnvVar>,
    mounts: Vec<VolumeMount>,
) -> Container {
    let variable = |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), value_from: None };
    let assigned = serde_json::to_string(assignment).expect("an assignment serializes to JSON");
    let mut all_env =
        vec![variable("HOME", "/tmp".to_owned()), variable(TERMINATION_VARIABLE, TERMINATION_PATH.to_owned())];
    all_env.extend(env);
    // The job's own come behind ours, so a proxy or a credential may be set; image and assignment come last, so they may not.
    all_env.extend(worker.env.clone());
    let image = worker.image.clone().unwrap_or_else(|| job.defaults.image.clone());
    all_env.push(variable(IMAGE_VARIABLE, escaped(&image)));
    all_env.push(variable(ASSIGNMENT_VARIABLE, escaped(&assigned)));
    let mut all_mounts = vec![mount("scratch", "/tmp", false)];
    all_mounts.extend(mounts);
    all_mounts.extend(worker.volume_mounts.clone());
    let bakes = assignment.task == Task::Bake;
    Container {
        name: names::CONTAINER.to_owned(),
        image: Some(image),
        args: Some(vec!["worker".to_owned()]),
        env: Some(all_env),
        env_from: some(storage::env_from(&job.spec).into_iter().chain(worker.env_from.clone()).collect()),
        resources: Some(if bakes {
            resources(worker.resources.clone(), placement)
        } else {
            ResourceRequirements::default()
        }),
        volume_mounts: Some(all_mounts),
        termination_message_path: Some(TERMINATION_PATH.to_owned()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// The kubelet expands `$(NAME)` in values of variables; `$$` stands for a dollar sign.
fn escaped(text: &str) -> String {
    text.replace('$', "$$")
}

fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        // Volumes become writable for the group, or an output on a claim could not be written.
        fs_group: Some(USER),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

/// The job's own requests and limits, a bound for the disk where there is none, and the devices.
fn resources(own: Option<ResourceRequirements>, placement: &Placement) -> ResourceRequirements {
    let mut resources = own.unwrap_or_default();
    let limits = resources.limits.get_or_insert_default();
    if let Some((name, count)) = &placement.resource {
        limits.insert(name.clone(), Quantity(count.to_string()));
    }
    if !limits.contains_key(DISK) {
        limits.insert(DISK.to_owned(), Quantity(SCRATCH.to_owned()));
        resources.requests.get_or_insert_default().entry(DISK.to_owned()).or_insert_with(|| Quantity("1Gi".to_owned()));
    }
    resources
}

/// The job's own affinity, and what the placement demands on top of it.
fn affinity(own: Option<Affinity>, terms: &[Term]) -> Option<Affinity> {
    if terms.is_empty() {
        return own;
    }
    let mut affinity = own.unwrap_or_default();
    let node = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    let selector = node.required_during_scheduling_ignored_during_execution.take().unwrap_or_default();
    let all = if selector.node_selector_terms.is_empty() {
        terms.iter().map(|term| expressions(term.clone())).collect()
    } else {
        selector.node_selector_terms.iter().flat_map(|own| terms.iter().map(move |term| both(own, term))).collect()
    };
    node.required_during_scheduling_ignored_during_execution = Some(NodeSelector { node_selector_terms: all });
    Some(affinity)
}

fn expressions(term: Term) -> NodeSelectorTerm {
    NodeSelectorTerm { match_expressions: Some(term), match_fields: None }
}

fn both(own: &NodeSelectorTerm, term: &Term) -> NodeSelectorTerm {
    let own_expressions: Vec<Term> = own.match_expressions.clone().into_iter().collect();
    let all = and(&own_expressions, std::slice::from_ref(term));
    NodeSelectorTerm { match_expressions: all.into_iter().next(), match_fields: own.match_fields.clone() }
}

/// The worker's folder for temporary files, as large as the disk that the job allows it.
fn scratch(worker: &Worker) -> Volume {
    let own = worker.resources.as_ref().and_then(|resources| resources.limits.as_ref()?.get(DISK));
    let size_limit = own.cloned().unwrap_or_else(|| Quantity(SCRATCH.to_owned()));
    Volume {
        name: "scratch".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource { medium: None, size_limit: Some(size_limit) }),
        ..Volume::default()
    }
}

/// A mount of a volume.
pub(super) fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn some<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}
