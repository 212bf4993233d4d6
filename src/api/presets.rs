//! The text of a commented `BakeJob` to start from.

/// What the job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Quick feedback on a laptop: lossless, few iterations.
    Development,
    /// A service: latency, with gates on the tail and on memory.
    Production,
    /// A small device: size, one thread.
    Edge,
    /// Numbers to compare: many iterations and batch sizes, gates wide open but for the quality defaults.
    Research,
}

impl Preset {
    /// Every preset, as `--preset` names them.
    pub const ALL: [Self; 4] = [Self::Development, Self::Production, Self::Edge, Self::Research];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Production => "production",
            Self::Edge => "edge",
            Self::Research => "research",
        }
    }
}

impl std::str::FromStr for Preset {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|preset| preset.name() == name)
            .ok_or_else(|| format!("there is no preset {name}; use development, production, edge or research"))
    }
}

/// What a preset is filled with. Paths are written as they are given, so they should be relative to the file that is written.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The job's name; what Kubernetes does not allow in a name is replaced.
    pub name: &'a str,
    /// The model.
    pub model: &'a str,
    /// The validation split.
    pub validation: &'a str,
    /// The calibration split, when there is one.
    pub calibration: Option<&'a str>,
    /// The folder the result goes to.
    pub output: &'a str,
}

/// The YAML of a commented `BakeJob`.
#[must_use]
pub fn yaml(preset: Preset, inputs: &Inputs<'_>) -> String {
    let name = job_name(inputs.name);
    let [model, validation, output] = [inputs.model, inputs.validation, inputs.output].map(quoted);
    let calibration = match inputs.calibration {
        Some(path) => format!(
            "    # Sets the ranges of quantised tensors. No sample may also be in the validation split.\n    calibration:\n      uri: {}\n",
            quoted(path)
        ),
        None => "    # Sets the ranges of quantised tensors: 100 to 500 typical samples that are not in the validation split.\n    # calibration:\n    #   uri: calibration.npz\n".into(),
    };
    let body = match preset {
        Preset::Development => DEVELOPMENT,
        Preset::Production => PRODUCTION,
        Preset::Edge => EDGE,
        Preset::Research => RESEARCH,
    };
    format!(
        "\
# A BakeJob for `bakehouse bake -f`, preset {preset}. Paths are relative to this file.
apiVersion: bakehouse.dev/v1alpha1
kind: BakeJob
metadata:
  name: {name}
spec:
  source:
    # The trained model, one .onnx file.
    uri: {model}
  data:
    # Held-out samples (.npz or .safetensors): one tensor per model input, and `labels` where they are known.
    # The gates are decided on them; the more samples, the narrower the interval a gate is decided by.
    validation:
      uri: {validation}
      # What accuracy means: Top1, TopK, F1, R2, Cosine or ArgmaxSequence. Unset: inferred from the model's outputs.
      # metric: Top1
{calibration}{body}  output:
    # The folder for model.onnx, report.json, report.html and recipe.json.
    uri: {output}
",
        preset = preset.name()
    )
}

const DEVELOPMENT: &str = "\
  optimization:
    # Conservative changes no result: folding, fusion, dead code. Light adds 8-bit weights.
    level: Conservative
    goal: Balanced
  profile:
    # Few runs: quick, with wide intervals.
    warmup: 5
    iterations: 30
  # The four quality gates apply with their defaults; list one here to change it.
  # gates:
  #   - metric: AccuracyRetention
  #     min: \"0.95\"
";

const PRODUCTION: &str = "\
  optimization:
    # Light adds 8-bit weights to the lossless work of Conservative.
    level: Light
    # Latency, Size or Balanced: what to prefer among results that pass the gates.
    goal: Latency
  profile:
    # The gates read the first batch size.
    batchSizes: [1]
    warmup: 20
    iterations: 300
  # Beside the quality gates OutputConsistency, FeaturePreservation and DistributionSimilarity, which apply with their defaults.
  gates:
    # At least 99 % of the accuracy is kept.
    - metric: AccuracyRetention
      min: \"0.99\"
    - metric: LatencyP99
      max: 50ms
    - metric: PeakMemory
      max: 1Gi
";

const EDGE: &str = "\
  optimization:
    level: Light
    # The smallest result that passes the gates.
    goal: Size
  hardware:
    device: CPU
    cpu:
      # Measure as the device will run it.
      threads: 1
  profile:
    batchSizes: [1]
    warmup: 10
    iterations: 200
  # Beside the four quality gates, which apply with their defaults.
  gates:
    # At least half of the bytes are gone.
    - metric: SizeReduction
      min: \"0.5\"
    - metric: PeakMemory
      max: 100Mi
";

const RESEARCH: &str = "\
  optimization:
    level: Light
    goal: Balanced
    # Seeds every random choice; the recipe in the output replays the bake byte for byte.
    seed: 0
  profile:
    # Many runs at several batch sizes: narrow intervals, raw samples in the report.
    batchSizes: [1, 8, 32]
    warmup: 50
    iterations: 1000
  # The four quality gates apply with their defaults; list one here to change it.
  # gates:
  #   - metric: OutputConsistency
  #     min: \"0.99\"
";

/// A name that Kubernetes takes: lower-case letters, digits and dashes, at most 52.
fn job_name(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars().map(|c| c.to_ascii_lowercase()) {
        if c.is_ascii_alphanumeric() {
            out.push(c);
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    out.truncate(52);
    let out = out.trim_end_matches('-');
    if out.is_empty() { "model".into() } else { out.into() }
}

/// A YAML scalar: plain where that is safe, else in double quotes (whose escapes are those of JSON).
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let safe = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/') || text.starts_with("./") || text.starts_with("../");
    // A word such as `true` or `null`, or one with nothing but letters, may be no string in YAML.
    if safe && text.contains(['/', '.']) && text.chars().all(plain) { text.into() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ResolvedJob, load, support};
    use std::path::Path;

    #[test]
    fn every_preset_parses_is_supported_and_settles() {
        for preset in Preset::ALL {
            for calibration in [None, Some("data/cal.npz")] {
                let text = yaml(preset, &Inputs { name: "digits", model: "digits.onnx", validation: "data/val.npz", calibration, output: "out/digits" });
                let jobs = load::parse(&text, Path::new("jobs/a.yaml")).unwrap_or_else(|e| panic!("{}: {e}\n{text}", preset.name()));
                assert_eq!(support::refusals(&jobs[0], &[]), []);
                let job = ResolvedJob::resolve(&jobs[0], Path::new("jobs/a.yaml")).unwrap();
                assert_eq!(job.source.path, Path::new("jobs/digits.onnx"));
                assert_eq!(job.validation.path, Path::new("jobs/data/val.npz"));
                assert_eq!(job.calibration.map(|c| c.path), calibration.map(|c| Path::new("jobs").join(c)));
                assert_eq!(job.output, Path::new("jobs/out/digits"));
            }
        }
    }

    #[test]
    fn the_commented_fields_are_valid_once_uncommented() {
        for preset in Preset::ALL {
            let text = yaml(preset, &Inputs { name: "digits", model: "m.onnx", validation: "v.npz", calibration: None, output: "out" });
            let field = |line: &&str| line.trim_start().starts_with("# ") && ["metric:", "calibration:", "uri:", "gates:", "min:", "- metric:"].iter().any(|f| line.trim_start()[2..].trim_start().starts_with(f));
            let open: String = text.lines().map(|line| if field(&line) { line.replacen("# ", "", 1) } else { line.to_owned() } + "\n").collect();
            assert_ne!(open, text);
            load::parse(&open, Path::new("a.yaml")).unwrap_or_else(|e| panic!("{e}\n{open}"));
        }
    }

    #[test]
    fn odd_names_and_paths_survive() {
        for (name, model, expected) in [
            ("My Model_v2.onnx", "a b: c.onnx", "my-model-v2-onnx"),
            ("---", "true", "model"),
            ("Ünïcode", "models/ü\"quote\\.onnx", "n-code"),
            (&"x".repeat(80), "#.onnx", &"x".repeat(52)),
        ] {
            let text = yaml(Preset::Production, &Inputs { name, model, validation: "v.npz", calibration: None, output: "out" });
            let jobs = load::parse(&text, Path::new("a.yaml")).unwrap_or_else(|e| panic!("{e}\n{text}"));
            assert_eq!(jobs[0].metadata.name.as_deref(), Some(expected));
            assert_eq!(jobs[0].spec.source.uri, model);
        }
    }
}
