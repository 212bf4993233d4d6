//! The CRD: what the derive generates, brought into the shape that an API server and a reader want.

use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use super::bakejob::{BakeJob, root_rules};
use super::yaml;

/// The longest name: the Job of an attempt is `<name>-<run>-<attempt>` and has at most 63 characters.
const MAX_NAME: u64 = 52;

static CRD: LazyLock<Value> = LazyLock::new(build);

/// The `BakeJob` CRD as an object to apply.
///
/// # Panics
/// Never for the types of this crate: a test builds it.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    serde_json::from_value(CRD.clone()).expect("the generated CRD is a CustomResourceDefinition")
}

/// The `BakeJob` CRD as YAML: the file `crds/bakehouse.dev_bakejobs.yaml`.
#[must_use]
pub fn crd_yaml() -> String {
    format!("# Written by `bakehouse crd`. Do not edit.\n{}", yaml::document(&CRD))
}

/// The OpenAPI schema of a `BakeJob`.
pub(super) fn schema() -> &'static Value {
    &CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

fn build() -> Value {
    let mut crd = serde_json::to_value(BakeJob::crd()).expect("a CRD serializes to JSON");
    let root = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    tidy(root);
    root["x-kubernetes-validations"] = root_rules();
    sort(root.as_object_mut().expect("the root schema is an object"));
    let properties = root["properties"].as_object_mut().expect("the root schema has properties");
    let mut all = Map::new();
    all.insert("apiVersion".into(), json!({"type": "string"}));
    all.insert("kind".into(), json!({"type": "string"}));
    all.insert("metadata".into(), json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": MAX_NAME}}}));
    all.append(properties);
    // Without it a client that waits (kstatus) takes an object that no controller has seen yet for a finished one.
    all["status"]["default"] = json!({"observedGeneration": -1});
    *properties = all;
    crd
}

/// Rewrites one schema node and those below it.
///
/// - `nullable` goes: an explicit null is then pruned as an absent field, instead of being a third state beside set and unset.
/// - Formats of integers go: the unsigned ones are unknown to Kubernetes, and every such field of the spec has its bounds.
/// - Whole numbers are written without a fraction.
fn tidy(schema: &mut Value) {
    let Some(node) = schema.as_object_mut() else { return };
    node.remove("nullable");
    node.remove("title");
    if node.get("format").is_some_and(|format| format != "date-time") {
        node.remove("format");
    }
    for bound in ["minimum", "maximum"] {
        if let Some(number) = node.get_mut(bound)
            && let Some(whole) = number.as_f64().filter(|n| n.fract() == 0.0)
        {
            *number = json!(whole as i64);
        }
    }
    if let Some(properties) = node.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(tidy);
    }
    for child in ["items", "additionalProperties"] {
        if let Some(child) = node.get_mut(child) {
            tidy(child);
            // The list's own description says what its items are.
            if let Some(child) = child.as_object_mut() {
                child.shift_remove("description");
            }
        }
    }
    sort(node);
}

/// Brings keywords into the order a reader wants: what it is, what it may be, what is in it.
fn sort(node: &mut Map<String, Value>) {
    const FIRST: [&str; 14] = [
        "description",
        "type",
        "format",
        "default",
        "enum",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "maxProperties",
        "x-kubernetes-validations",
        "required",
    ];
    let rank = |key: &str| FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len());
    let mut entries: Vec<(String, Value)> = std::mem::take(node).into_iter().collect();
    entries.sort_by(|(a, _), (b, _)| rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)));
    node.extend(entries);
}
