//! What an API server does to an object before CEL, done here: nulls pruned, defaults applied, structure and bounds checked.
//!
//! It covers the keywords that the `BakeJob` schema uses; a test fails if the schema comes to use another.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::error::Problem;
use super::suggest;

/// The keywords that decide validity here. `description`, `format` and the CEL rules are not among them.
#[cfg(test)]
pub(super) const CHECKED: [&str; 15] = [
    "type",
    "enum",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
    "properties",
    "items",
    "additionalProperties",
    "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields",
];

/// Prunes nulls and applies defaults, in the order an API server does.
pub(super) fn default(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(object) => {
            if preserves(schema) {
                return;
            }
            object.retain(|_, v| !v.is_null());
            if let Some(properties) = schema["properties"].as_object() {
                for (name, property) in properties {
                    if let Some(default) = property.get("default").filter(|_| !object.contains_key(name)) {
                        object.insert(name.clone(), default.clone());
                    }
                }
            }
            for (name, child) in object {
                default(child_schema(schema, name).unwrap_or(&Value::Null), child);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| default(&schema["items"], item)),
        _ => {}
    }
}

/// Appends everything in `value` that `schema` does not allow.
pub(super) fn check(schema: &Value, value: &Value, path: &str, problems: &mut Vec<Problem>) {
    let expected = schema["type"].as_str().unwrap_or("object");
    if !has_type(value, expected) {
        problems.push(Problem::new(path, wrong_type(schema, expected, value)));
        return;
    }
    match value {
        Value::Object(object) => check_object(schema, object, path, problems),
        Value::Array(items) => check_array(schema, items, path, problems),
        Value::String(text) => check_string(schema, text, path, problems),
        Value::Number(number) => check_number(schema, number, path, problems),
        Value::Bool(_) | Value::Null => {}
    }
}

fn preserves(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == Value::Bool(true)
}

fn child_schema<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema["properties"].get(name).or_else(|| schema.get("additionalProperties").filter(|s| s.is_object()))
}

fn has_type(value: &Value, expected: &str) -> bool {
    match expected {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        // YAML and JSON write 3.0 for 3; an API server takes it too.
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "number" => value.is_number(),
        _ => false,
    }
}

fn wrong_type(schema: &Value, expected: &str, value: &Value) -> String {
    let got = match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(b) => format!("the boolean {b}"),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) => format!("the string {s:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    };
    let wanted = match expected {
        "object" => "a mapping",
        "array" => "a list",
        "integer" => "a whole number",
        "boolean" => "true or false",
        other => return format!("must be a {other}, not {got}{}", string_hint(schema, value)),
    };
    format!("must be {wanted}, not {got}")
}

fn string_hint(schema: &Value, value: &Value) -> String {
    match (schema["enum"].as_array(), value) {
        (Some(allowed), _) => format!("; allowed are {}", words(allowed)),
        (None, Value::Number(_) | Value::Bool(_)) => format!("; write it in quotes: \"{value}\""),
        _ => String::new(),
    }
}

fn words(values: &[Value]) -> String {
    values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

fn check_object(schema: &Value, object: &Map<String, Value>, path: &str, problems: &mut Vec<Problem>) {
    if preserves(schema) {
        return;
    }
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !object.contains_key(required) {
            let what = schema["properties"][required]["description"].as_str().and_then(|d| d.split_terminator(". ").next());
            let what = what.map(|d| format!(": {}", d.trim_end_matches('.'))).unwrap_or_default();
            problems.push(Problem::new(join(path, required), format!("is required{what}")));
        }
    }
    if let Some(most) = schema["maxProperties"].as_u64().filter(|most| object.len() as u64 > *most) {
        problems.push(Problem::new(path, format!("has {} entries; at most {most} are allowed", object.len())));
    }
    for (name, child) in object {
        match child_schema(schema, name) {
            Some(child_schema) => check(child_schema, child, &join(path, name), problems),
            None => problems.push(unknown(path, name, schema["properties"].as_object().into_iter().flatten().map(|(k, _)| k.as_str()))),
        }
    }
}

/// A field that is not there, with the one that was probably meant.
pub(super) fn unknown<'a>(path: &str, name: &str, allowed: impl Iterator<Item = &'a str>) -> Problem {
    let mut allowed: Vec<&str> = allowed.collect();
    let hint = match suggest::nearest(name, allowed.iter().copied()) {
        Some(meant) => format!("; did you mean '{meant}'?"),
        None if allowed.is_empty() => String::new(),
        None => {
            allowed.sort_unstable();
            format!("; allowed are {}", allowed.join(", "))
        }
    };
    Problem::new(join(path, name), format!("unknown field{hint}"))
}

fn check_array(schema: &Value, items: &[Value], path: &str, problems: &mut Vec<Problem>) {
    if let Some(most) = schema["maxItems"].as_u64().filter(|most| items.len() as u64 > *most) {
        problems.push(Problem::new(path, format!("has {} items; at most {most} are allowed", items.len())));
    }
    if let Some(least) = schema["minItems"].as_u64().filter(|least| (items.len() as u64) < *least) {
        problems.push(Problem::new(path, format!("needs at least {least} item{}", if least == 1 { "" } else { "s" })));
    }
    for (i, item) in items.iter().enumerate() {
        check(&schema["items"], item, &format!("{path}[{i}]"), problems);
    }
    let keys: Option<Vec<&str>> = match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => Some(Vec::new()),
        Some("map") => schema["x-kubernetes-list-map-keys"].as_array().map(|keys| keys.iter().filter_map(Value::as_str).collect()),
        _ => None,
    };
    let Some(keys) = keys else { return };
    let mut seen = BTreeSet::new();
    for (i, item) in items.iter().enumerate() {
        let identity = if keys.is_empty() {
            item.as_str().map_or_else(|| item.to_string(), str::to_owned)
        } else {
            keys.iter().filter_map(|key| item[*key].as_str()).collect::<Vec<_>>().join(", ")
        };
        if !identity.is_empty() && !seen.insert(identity.clone()) {
            problems.push(Problem::new(format!("{path}[{i}]"), format!("{identity} is listed twice")));
        }
    }
}

fn check_string(schema: &Value, text: &str, path: &str, problems: &mut Vec<Problem>) {
    if let Some(allowed) = schema["enum"].as_array() {
        if !allowed.iter().any(|a| a.as_str() == Some(text)) {
            let hint = suggest::nearest(text, allowed.iter().filter_map(Value::as_str))
                .map(|meant| format!("; did you mean '{meant}'?"))
                .unwrap_or_default();
            problems.push(Problem::new(path, format!("{text:?} is not allowed; use one of {}{hint}", words(allowed))));
        }
        return;
    }
    let length = text.chars().count() as u64;
    if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
        problems.push(Problem::new(path, format!("has {length} characters; at most {most} are allowed")));
    }
    if schema["minLength"].as_u64().is_some_and(|least| length < least) {
        problems.push(Problem::new(path, "must not be empty"));
    }
}

fn check_number(schema: &Value, number: &serde_json::Number, path: &str, problems: &mut Vec<Problem>) {
    let value = number.as_f64().unwrap_or(f64::NAN);
    let (least, most) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
    if least.is_none_or(|least| value >= least) && most.is_none_or(|most| value <= most) {
        return;
    }
    let range = match (&schema["minimum"], &schema["maximum"]) {
        (least, Value::Null) => format!("at least {least}"),
        (Value::Null, most) => format!("at most {most}"),
        (least, most) => format!("between {least} and {most}"),
    };
    problems.push(Problem::new(path, format!("must be {range}, not {number}")));
}

/// `path.name`, or `name` at the root. A name with a dot or a slash is quoted, so that the path stays readable.
pub(super) fn join(path: &str, name: &str) -> String {
    match (path.is_empty(), name.contains(['.', '/', ' '])) {
        (true, _) => name.to_owned(),
        (false, true) => format!("{path}[{name:?}]"),
        (false, false) => format!("{path}.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::crd;

    /// Keywords that say nothing about validity, or are checked by CEL or by serde.
    const BESIDE: [&str; 5] = ["description", "default", "format", "x-kubernetes-list-map-keys", "x-kubernetes-validations"];

    fn keywords(schema: &Value, into: &mut BTreeSet<String>) {
        let Some(node) = schema.as_object() else { return };
        into.extend(node.keys().cloned());
        for child in node.get("properties").and_then(Value::as_object).into_iter().flat_map(|p| p.values()) {
            keywords(child, into);
        }
        for child in ["items", "additionalProperties"] {
            keywords(&schema[child], into);
        }
    }

    #[test]
    fn every_keyword_of_the_schema_is_checked_here() {
        let mut used = BTreeSet::new();
        keywords(crd::schema(), &mut used);
        let known: BTreeSet<String> = CHECKED.iter().chain(&BESIDE).map(|k| (*k).to_owned()).collect();
        assert_eq!(used.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new());
    }
}
