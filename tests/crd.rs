//! The CRD in `crds/`: as generated, small enough, and structural.

use std::collections::BTreeSet;
use std::path::Path;

use kube::core::cel::{compile_schema, estimate_rule_cost};
use serde_json::Value;

const FILE: &str = "crds/bakehouse.dev_bakejobs.yaml";

fn schema() -> Value {
    let crd = serde_json::to_value(bakehouse::api::crd()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Calls `visit` with every schema node and its path.
fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        walk(child, &format!("{path}.{name}"), visit);
    }
    for (key, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[key].is_object() {
            walk(&schema[key], &format!("{path}{suffix}"), visit);
        }
    }
}

/// Run with `BLESS=1` to write the file instead.
#[test]
fn the_file_is_what_the_types_generate() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let generated = bakehouse::api::crd_yaml();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&file, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(committed == generated, "{FILE} is not what the types generate: run `bakehouse crd > {FILE}`, or this test with BLESS=1");
}

#[test]
fn it_is_under_40_kilobytes() {
    let size = bakehouse::api::crd_yaml().len();
    assert!(size < 40_000, "{size} bytes");
}

#[test]
fn the_yaml_reads_back_as_the_same_object() {
    let back: Value = serde_saphyr::from_str(&bakehouse::api::crd_yaml()).unwrap();
    let crd: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition = serde_json::from_value(back).unwrap();
    assert_eq!(crd, bakehouse::api::crd());
}

#[test]
fn names_columns_and_subresource_are_those_of_the_design() {
    let crd = serde_json::to_value(bakehouse::api::crd()).unwrap();
    assert_eq!(crd["metadata"]["name"], "bakejobs.bakehouse.dev");
    assert_eq!(crd["spec"]["scope"], "Namespaced");
    assert_eq!(crd["spec"]["names"]["shortNames"], serde_json::json!(["bj"]));
    assert_eq!(crd["spec"]["names"]["categories"], serde_json::json!(["bake"]));
    let version = &crd["spec"]["versions"][0];
    assert_eq!(version["name"], "v1alpha1");
    assert!(version["subresources"]["status"].is_object());
    let columns: Vec<(&str, i64)> = version["additionalPrinterColumns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["name"].as_str().unwrap(), c["priority"].as_i64().unwrap_or(0)))
        .collect();
    let narrow = ["Succeeded", "Reason", "Gate", "Device", "Speedup", "Retention", "Progress", "Age"].map(|c| (c, 0));
    let wide = ["Artifact", "Digest", "Node"].map(|c| (c, 1));
    assert_eq!(columns, [&narrow[..], &wide[..]].concat());
    assert_eq!(schema()["properties"]["status"]["default"], serde_json::json!({"observedGeneration": -1}));
}

/// The rules of structural schemas that can be checked without an API server.
#[test]
fn it_is_structural() {
    let mut wrong = Vec::new();
    walk(&schema(), "", &mut |path, node| {
        let mut say = |what: &str| wrong.push(format!("{path}: {what}"));
        let fields = node.as_object().unwrap();
        if !node["type"].is_string() {
            say("has no type");
        }
        for forbidden in ["$ref", "definitions", "$defs", "uniqueItems", "oneOf", "anyOf", "allOf", "not", "nullable", "pattern", "const", "exclusiveMinimum"] {
            if fields.contains_key(forbidden) {
                say(&format!("uses {forbidden}"));
            }
        }
        if fields.contains_key("properties") && fields.contains_key("additionalProperties") {
            say("has properties and additionalProperties");
        }
        if node["type"] == "array" && !node["items"].is_object() {
            say("is a list without items");
        }
        if node["type"] == "object" && !["properties", "additionalProperties", "x-kubernetes-preserve-unknown-fields"].iter().any(|k| fields.contains_key(*k)) && path != ".metadata" {
            say("is an object that allows nothing");
        }
        for required in node["required"].as_array().into_iter().flatten() {
            if !node["properties"][required.as_str().unwrap()].is_object() {
                say(&format!("requires {required}, which it does not have"));
            }
        }
        for key in node["x-kubernetes-list-map-keys"].as_array().into_iter().flatten() {
            if !node["items"]["required"].as_array().is_some_and(|r| r.contains(key)) {
                say(&format!("has map key {key} that is not required"));
            }
        }
        if node["x-kubernetes-list-type"] == "set" && matches!(node["items"]["type"].as_str(), Some("object" | "array")) {
            say("is a set of what is no scalar");
        }
        if let Some(format) = node["format"].as_str()
            && format != "date-time"
        {
            say(&format!("has format {format}, which Kubernetes does not know"));
        }
    });
    assert_eq!(wrong, Vec::<String>::new());
}

/// An API server refuses a rule whose estimated cost is too high; the estimate takes the bounds.
#[test]
fn every_field_of_the_spec_is_bounded_and_described() {
    let mut wrong = Vec::new();
    walk(&schema()["properties"]["spec"], "spec", &mut |path, node| {
        let bound = match node["type"].as_str() {
            Some("string") if node["enum"].is_array() => None,
            Some("string") => Some("maxLength"),
            Some("array") => Some("maxItems"),
            Some("integer") => Some("maximum"),
            Some("object") if node["additionalProperties"].is_object() => Some("maxProperties"),
            _ => None,
        };
        if let Some(bound) = bound.filter(|bound| node[*bound].is_null()) {
            wrong.push(format!("{path} has no {bound}"));
        }
        let item = path.ends_with("[]") || path.ends_with("{}");
        if !item && node["description"].as_str().unwrap_or_default().is_empty() {
            wrong.push(format!("{path} has no description"));
        }
    });
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_rule_compiles_has_a_message_and_is_within_its_cost() {
    let mut wrong = Vec::new();
    let mut count = 0;
    walk(&schema(), "", &mut |path, node| {
        let compiled = compile_schema(node);
        for rule in node["x-kubernetes-validations"].as_array().into_iter().flatten() {
            count += 1;
            let text = rule["rule"].as_str().unwrap();
            let message = rule["message"].as_str().or(rule["messageExpression"].as_str()).unwrap_or_default();
            if message.is_empty() || message.contains('\n') {
                wrong.push(format!("{path}: no message, or one of two lines: {text}"));
            }
            if kube::core::cel::cel::Program::compile(text).is_err() {
                wrong.push(format!("{path}: does not compile: {text}"));
            }
            wrong.extend(estimate_rule_cost(text, &compiled).into_iter().map(|w| format!("{path}: {}: {text}", w.message)));
        }
    });
    assert_eq!(wrong, Vec::<String>::new());
    assert!(count > 30, "{count} rules");
}

/// What `BakeJobSpec::new` fills in is what the schema fills in.
#[test]
fn defaults_in_rust_are_the_defaults_of_the_schema() {
    let yaml = "apiVersion: bakehouse.dev/v1alpha1\nkind: BakeJob\nmetadata: {name: m}\nspec:\n  source: {uri: m.onnx}\n  data: {validation: {uri: v.npz}}\n  output: {uri: out}\n";
    let jobs = bakehouse::api::load::parse(yaml, Path::new("a.yaml")).unwrap();
    assert_eq!(jobs[0].spec, bakehouse::api::BakeJobSpec::new("m.onnx", "v.npz", "out"));
    let mut defaulted = BTreeSet::new();
    walk(&schema()["properties"]["spec"], "spec", &mut |path, node| {
        if !node["default"].is_null() {
            defaulted.insert(path.to_owned());
        }
    });
    for field in ["spec.optimization.level", "spec.optimization.goal", "spec.hardware.device", "spec.exports", "spec.promotion.policy", "spec.backoffLimit"] {
        assert!(defaulted.contains(field), "{field}");
    }
}
