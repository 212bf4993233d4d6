//! Records whose fields are facts, shown field by field: a field that is added to such a record appears on the page by itself.

use serde_json::Value;

use super::markup::{Node, el, text};
use super::text::{bytes, count, humanised, significant};

/// Every leaf of a value with the words of its path. Empty lists, empty maps and absent values are left out.
pub(super) fn flat(value: &Value) -> Vec<(String, String)> {
    let mut out = Vec::new();
    walk(value, "", &mut out);
    out
}

fn walk(value: &Value, path: &str, out: &mut Vec<(String, String)>) {
    let below = |field: &str| if path.is_empty() { humanised(field) } else { format!("{path}: {}", field_name(field)) };
    match value {
        Value::Null => {}
        Value::Object(fields) => fields.iter().for_each(|(field, inner)| walk(inner, &below(field), out)),
        Value::Array(items) if items.iter().all(|i| !i.is_object() && !i.is_array()) => {
            if !items.is_empty() {
                out.push((path.to_owned(), items.iter().map(|i| leaf(path, i)).collect::<Vec<_>>().join(", ")));
            }
        }
        Value::Array(items) => items.iter().enumerate().for_each(|(i, inner)| walk(inner, &format!("{path} {}", i + 1), out)),
        leaf_value => out.push((path.to_owned(), leaf(path, leaf_value))),
    }
}

/// Names of fields become words; names of operators and types, the keys of maps, stay as they are.
fn field_name(field: &str) -> String {
    if field.starts_with(|c: char| c.is_ascii_lowercase()) { humanised(field).to_lowercase() } else { field.to_owned() }
}

fn leaf(path: &str, value: &Value) -> String {
    let of_bytes = path.to_lowercase().contains("bytes");
    match value {
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::String(content) => content.clone(),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(n), _) if of_bytes => bytes(n as f64),
            (Some(n), _) => count(n),
            (None, Some(v)) => significant(v),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// Facts as a list of names and values.
pub(super) fn list(facts: &[(String, String)]) -> Node {
    el("dl").extend(facts.iter().map(|(name, value)| el("div").push(text("dt", name)).push(text("dd", value))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_leaf_is_named_by_its_path_and_absent_ones_are_left_out() {
        let value = json!({"parameters": {"nonZero": 1200}, "operators": {"Conv": 2}, "weightBytes": 4096, "cpu": null, "isa": ["avx2", "fma"], "none": []});
        let plain: Vec<(String, String)> = flat(&value).into_iter().map(|(n, v)| (n, v.replace('\u{202f}', " "))).collect();
        let expected = [("Parameters: non zero", "1 200"), ("Operators: Conv", "2"), ("Weight bytes", "4.10 kB"), ("Isa", "avx2, fma")];
        assert_eq!(plain, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }
}
