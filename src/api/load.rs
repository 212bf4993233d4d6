//! From the text of a job file to `BakeJob`s, by the rules of the API server: the same defaults, bounds and CEL rules, read from the same schema.

use std::path::Path;
use std::sync::LazyLock;

use kube::core::cel::{CompiledSchema, ErrorKind, compile_schema, validate_compiled};
use serde_json::{Map, Value};

use super::bakejob::BakeJob;
use super::crd;
use super::error::{JobError, Problem};
use super::schema::{self, join};

const API_VERSION: &str = "bakehouse.dev/v1alpha1";

/// A job file of more than this is not a job file.
const MAX_BYTES: usize = 4 << 20;

/// The fields of `metadata` that an API server knows.
const METADATA: [&str; 16] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
    "clusterName",
];

static RULES: LazyLock<CompiledSchema> = LazyLock::new(|| compile_schema(crd::schema()));

/// Parses every `BakeJob` of a file; documents are separated by `---`. A `status` is dropped, as an API server does on create.
///
/// # Errors
/// [`JobError::Yaml`], [`JobError::Empty`], or [`JobError::Invalid`] with everything that is wrong in the first document that is.
pub fn parse(yaml: &str, file: &Path) -> Result<Vec<BakeJob>, JobError> {
    let yaml_error = |message: String| JobError::Yaml { file: file.to_owned(), message };
    if yaml.len() > MAX_BYTES {
        return Err(yaml_error(format!("the file has {} bytes; a job file has at most {MAX_BYTES}", yaml.len())));
    }
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).map_err(|e| yaml_error(first_line(&e.to_string())))?;
    let documents: Vec<Value> = documents.into_iter().filter(|d| !d.is_null()).collect();
    if documents.is_empty() {
        return Err(JobError::Empty { file: file.to_owned() });
    }
    documents
        .into_iter()
        .enumerate()
        .map(|(i, mut document)| {
            let job = document["metadata"]["name"].as_str().map_or_else(|| format!("number {}", i + 1), str::to_owned);
            if let Some(object) = document.as_object_mut() {
                object.remove("status");
            }
            admit(&document, None).map_err(|problems| JobError::Invalid { file: file.to_owned(), job, problems })
        })
        .collect()
}

/// What an API server does with a create (`old` is `None`) or an update: prunes, applies defaults, checks the schema and then the CEL rules.
///
/// # Errors
/// Everything that is wrong. As on an API server, CEL rules are evaluated only on an object that fits the schema.
pub fn admit(object: &Value, old: Option<&Value>) -> Result<BakeJob, Vec<Problem>> {
    let mut object = object.clone();
    let mut problems = Vec::new();
    identity(&object, &mut problems);
    if problems.is_empty() {
        schema::default(crd::schema(), &mut object);
        let metadata = object["metadata"].take();
        object["metadata"] = serde_json::json!({"name": metadata["name"]});
        schema::check(crd::schema(), &object, "", &mut problems);
        object["metadata"] = metadata;
    }
    if problems.is_empty() {
        problems = rules(&object, old);
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let job: BakeJob = serde_json::from_value(object.clone()).map_err(|e| vec![Problem::new("spec.worker", e.to_string())])?;
    // The pod-level parts have no schema here; what their types did not take up would be lost without a word.
    let kept = serde_json::to_value(&job.spec.worker).unwrap_or_default();
    lost(&object["spec"]["worker"], &kept, "spec.worker", &mut problems);
    if problems.is_empty() { Ok(job) } else { Err(problems) }
}

/// Kind, version and metadata, which the schema of a CRD does not hold.
fn identity(object: &Value, problems: &mut Vec<Problem>) {
    let Some(root) = object.as_object() else {
        problems.push(Problem::new("", "must be a mapping with apiVersion, kind, metadata and spec"));
        return;
    };
    for (field, wanted) in [("apiVersion", API_VERSION), ("kind", "BakeJob")] {
        match &object[field] {
            Value::String(value) if value == wanted => {}
            Value::Null => problems.push(Problem::new(field, format!("is required: write {field}: {wanted}"))),
            other => problems.push(Problem::new(field, format!("must be {wanted}, not {}", other.as_str().unwrap_or("another type")))),
        }
    }
    let Some(metadata) = root.get("metadata").and_then(Value::as_object) else {
        problems.push(Problem::new("metadata.name", "is required"));
        return;
    };
    for name in metadata.keys().filter(|name| !METADATA.contains(&name.as_str())) {
        problems.push(schema::unknown("metadata", name, METADATA.into_iter()));
    }
    match metadata.get("name") {
        None | Some(Value::Null) => problems.push(Problem::new("metadata.name", "is required")),
        Some(Value::String(_)) => {}
        Some(other) => problems.push(Problem::new("metadata.name", format!("must be a string; write it in quotes: \"{other}\""))),
    }
    for field in ["labels", "annotations"] {
        for (name, value) in metadata.get(field).and_then(Value::as_object).unwrap_or(&Map::new()) {
            if !value.is_string() {
                problems.push(Problem::new(join(&format!("metadata.{field}"), name), format!("must be a string; write it in quotes: \"{value}\"")));
            }
        }
    }
}

fn rules(object: &Value, old: Option<&Value>) -> Vec<Problem> {
    let Err(errors) = validate_compiled(&RULES, object, old) else { return Vec::new() };
    let mut problems: Vec<Problem> = errors
        .into_iter()
        .map(|error| {
            let message = match error.kind {
                ErrorKind::ValidationFailure => error.message,
                _ => format!("cannot be checked ({}): this is a fault of Bakehouse, please report it", error.message),
            };
            Problem::new(error.field_path.trim_start_matches('.'), message)
        })
        .collect();
    // The rules of a node come in an order that differs between runs.
    problems.sort();
    problems
}

/// Appends the fields of `given` that are not in `kept`.
fn lost(given: &Value, kept: &Value, path: &str, problems: &mut Vec<Problem>) {
    match (given, kept) {
        (Value::Object(given), kept) => {
            for (name, value) in given {
                let empty = match value {
                    Value::Null => true,
                    Value::Array(items) => items.is_empty(),
                    Value::Object(fields) => fields.is_empty(),
                    _ => false,
                };
                match kept.get(name) {
                    Some(kept) => lost(value, kept, &join(path, name), problems),
                    None if empty => {}
                    None => problems.push(Problem::new(join(path, name), "unknown field")),
                }
            }
        }
        (Value::Array(given), Value::Array(kept)) => {
            for (i, (given, kept)) in given.iter().zip(kept).enumerate() {
                lost(given, kept, &format!("{path}[{i}]"), problems);
            }
        }
        _ => {}
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
