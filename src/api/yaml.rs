//! YAML for files that people read: whatever fits on a line is written on one. The CRD is less than half as long this way.

use std::fmt::Write as _;

use serde_json::Value;

/// The longest line, indentation not counted: a deep schema would else be all indentation.
const WIDTH: usize = 120;

/// `value` as a YAML document.
pub(super) fn document(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

/// Writes `value` as block YAML at `indent`, each line ended.
fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (key, child) in object {
                let _ = write!(out, "{:indent$}{}:", "", scalar(key));
                below(child, indent, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let flow = flow(item);
                if flow.len() <= WIDTH || !is_nested(item) {
                    let _ = writeln!(out, "{:indent$}- {flow}", "");
                } else {
                    let mut inner = String::new();
                    block(item, indent + 2, &mut inner);
                    // The first line's indentation makes room for the dash.
                    let _ = write!(out, "{:indent$}- {}", "", inner.trim_start());
                }
            }
        }
        other => {
            let _ = writeln!(out, "{:indent$}{}", "", flow(other));
        }
    }
}

/// Writes what follows `key:`: the rest of the line where it fits, else a block below.
fn below(child: &Value, indent: usize, out: &mut String) {
    let flow = flow(child);
    if flow.len() <= WIDTH || !is_nested(child) {
        let _ = writeln!(out, " {flow}");
        return;
    }
    out.push('\n');
    // Lists stand under their key without further indentation, as kubectl writes them.
    block(child, if child.is_array() { indent } else { indent + 2 }, out);
}

fn is_nested(value: &Value) -> bool {
    matches!(value, Value::Object(o) if !o.is_empty()) || matches!(value, Value::Array(a) if !a.is_empty())
}

fn flow(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let fields: Vec<String> = object.iter().map(|(key, child)| format!("{}: {}", scalar(key), flow(child))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// A string: plain where no reader of YAML 1.1 or 1.2 can take it for something else, else in double quotes, whose escapes are those of JSON.
fn scalar(text: &str) -> String {
    let inside = |c: char| c.is_ascii_alphanumeric() || " ./_-()$;".contains(c);
    let safe = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !text.ends_with(' ')
        && text.chars().all(inside)
        && !matches!(text.to_ascii_lowercase().as_str(), "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n");
    if safe { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::document;
    use serde_json::{Value, json};

    #[test]
    fn what_is_written_reads_back() {
        let long = "a sentence that is rather long, so that it does not fit beside anything else on one line, be it ever so wide";
        for value in [
            json!({"a": 1, "b": [], "c": {}, "d": [1, [2, {"e": null}]], "f": {"g": long, "h": [long, {"i": long, "j": [long]}]}}),
            json!({"on": "off", "1": "2", "": "", "x y": "y", "q": "a: b # c", "n": "null", "e": "1e3", "dash": "- a", "nl": "a\nb"}),
            json!([{"a": [long, long]}, [[long], long], "~"]),
            json!("plain"),
        ] {
            let text = document(&value);
            assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), value, "{text}");
            assert!(text.lines().all(|line| !line.ends_with(' ')), "{text}");
        }
    }
}
