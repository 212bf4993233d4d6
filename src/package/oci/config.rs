//! The config of a model artifact: what registries and tools show of a model without fetching it.

use serde::Serialize;

use super::File;
use crate::model::stats::Stats;

/// What the config says of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// Digest of the model's file, in hexadecimal.
    pub sha256: String,
    /// Its parameters.
    pub parameters: usize,
    /// Element types of its weights.
    pub precision: Vec<String>,
}

impl Facts {
    /// Those of a model with these statistics.
    pub fn of(name: &str, sha256: &str, stats: &Stats) -> Self {
        // Shapes, axes and indices are no weights.
        let weight = |dtype: &&String| !matches!(dtype.as_str(), "int64" | "int32" | "bool" | "string");
        Self {
            name: name.to_owned(),
            sha256: sha256.to_owned(),
            parameters: stats.parameters.all,
            precision: stats.by_dtype.keys().filter(weight).cloned().collect(),
        }
    }
}

#[derive(Serialize)]
struct Config<'a> {
    descriptor: Descriptor<'a>,
    #[serde(rename = "config")]
    technical: Technical,
    modelfs: Layers,
}

#[derive(Serialize)]
struct Descriptor<'a> {
    name: &'a str,
    revision: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Technical {
    format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    param_size: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    precision: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Layers {
    r#type: &'static str,
    diff_ids: Vec<String>,
}

/// The config as it is stored. Nothing in it hangs on when it was made.
pub(super) fn json(facts: &Facts, files: &[File]) -> Vec<u8> {
    let config = Config {
        descriptor: Descriptor { name: &facts.name, revision: format!("sha256:{}", facts.sha256) },
        technical: Technical {
            format: "onnx",
            param_size: size(facts.parameters),
            precision: facts.precision.join(","),
        },
        modelfs: Layers { r#type: "layers", diff_ids: files.iter().map(|f| format!("sha256:{}", f.sha256)).collect() },
    };
    serde_json::to_vec(&config).unwrap_or_default()
}

/// A number of parameters with one digit behind the point and a letter, as the specification wants it; `None` below a twentieth of a thousand.
fn size(parameters: usize) -> Option<String> {
    let n = parameters as f64;
    let (unit, letter) = [(1e15, "Q"), (1e12, "T"), (1e9, "B"), (1e6, "M")]
        .into_iter()
        .find(|(unit, _)| n >= *unit)
        .unwrap_or((1e3, "K"));
    (n >= 50.0).then(|| format!("{:.1}{letter}", n / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_one_digit_behind_the_point_and_a_letter() {
        let said = [0, 49, 50, 1_234, 999_999, 6_700_000_000].map(size);
        assert_eq!(said.map(Option::unwrap_or_default), ["", "", "0.1K", "1.2K", "1000.0K", "6.7B"]);
    }

    #[test]
    fn the_config_has_the_fields_that_the_specification_requires_and_no_time() {
        let facts = Facts { name: "m".into(), sha256: "ab".into(), parameters: 2_000, precision: vec!["int8".into()] };
        let file = File { path: "model.onnx".into(), sha256: "ab".into(), bytes: 3 };
        assert_eq!(
            String::from_utf8(json(&facts, &[file])).unwrap(),
            r#"{"descriptor":{"name":"m","revision":"sha256:ab"},"config":{"format":"onnx","paramSize":"2.0K","precision":"int8"},"modelfs":{"type":"layers","diffIds":["sha256:ab"]}}"#
        );
    }
}
