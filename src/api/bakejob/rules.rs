//! The CEL rules that several fields share, and those of the whole object.
//!
//! Formats are CEL rules rather than `pattern`s: a rule carries its own message, a pattern shows the reader a regular expression.

use serde_json::{Value, json};

/// One `x-kubernetes-validations` entry.
pub(super) fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}

/// A rule whose message names the offending value.
pub(super) fn rule_with(rule: &str, message_expression: &str) -> Value {
    json!({"rule": rule, "messageExpression": message_expression})
}

/// What may be read: a path, or a URI of a scheme that Bakehouse names.
pub(super) fn readable_uri() -> Value {
    json!([rule(
        "!self.contains('://') || self.matches('^(file|s3|gs|az|oci|pvc|https)://.+')",
        "must be a path, or start with file://, s3://, gs://, az://, oci://, pvc:// or https://"
    )])
}

/// What may be written: as [`readable_uri`], without https.
pub(super) fn writable_uri() -> Value {
    json!([rule(
        "!self.contains('://') || self.matches('^(file|s3|gs|az|oci|pvc)://.+')",
        "must be a path, or start with file://, s3://, gs://, az://, oci:// or pvc://"
    )])
}

/// A content digest.
pub(super) fn digest() -> Value {
    json!([rule("self.matches('^sha256:[0-9a-f]{64}$')", "must be sha256: and 64 lower-case hexadecimal digits")])
}

/// A quantity of bytes. One grammar for limits and gates; `value::bytes` reads the same.
pub(super) fn bytes() -> Value {
    json!([rule(
        "self.matches('^[0-9]+([.][0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$')",
        "must be a number of bytes, with or without a suffix: 100Mi, 2G or 1048576"
    )])
}

/// The rules of the whole object: its name, and what is frozen while a run is active.
///
/// Frozen is what the spec digest covers: a change there after the end starts a new run, and during a run would make the status speak
/// of another spec than the one that is being baked.
pub(crate) fn root_rules() -> Value {
    // The status is always there: the schema gives it a default.
    const IDLE: &str = "!has(oldSelf.status.startTime) || has(oldSelf.status.completionTime)";
    let mut rules = vec![json!({
        "rule": "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "message": "must be lower-case letters, digits and dashes, because Jobs and labels are named after it",
        "fieldPath": ".metadata.name",
    })];
    let frozen = |field: &str, same: String| {
        json!({
            "rule": format!("{IDLE} || {same}"),
            "message": "is frozen while a run is active; wait for its end, or delete the BakeJob",
            "fieldPath": format!(".spec.{field}"),
            "reason": "FieldValueForbidden",
        })
    };
    for field in ["source", "data", "optimization", "hardware", "profile", "gates", "exports", "output.uri"] {
        rules.push(frozen(field, format!("self.spec.{field} == oldSelf.spec.{field}")));
    }
    rules.push(frozen(
        "runtime",
        "(has(self.spec.runtime) ? self.spec.runtime : '') == (has(oldSelf.spec.runtime) ? oldSelf.spec.runtime : '')".into(),
    ));
    // `a.?b` would be shorter, but the CEL that checks files here does not have it.
    let image = |of: &str| format!("(has({of}.spec.worker) && has({of}.spec.worker.image) ? {of}.spec.worker.image : '')");
    rules.push(frozen("worker.image", format!("{} == {}", image("self"), image("oldSelf"))));
    Value::Array(rules)
}
