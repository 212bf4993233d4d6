//! What the schema allows and this version cannot do yet. Such a job is refused by name, never run as a lesser one.

use serde_json::Value;

use super::bakejob::BakeJob;
use super::suggest;

/// A refused field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The field, as `spec.optimization.level`.
    pub field: String,
    /// Why, and what to write instead.
    pub message: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// What a row of the table matches.
enum What {
    /// The field, or an item of the list, has this value.
    Is(&'static str),
    /// The field is set at all.
    Set,
    /// A URI field starts with this.
    Scheme(&'static str),
}
use What::{Is, Scheme, Set};

/// Fields, what in them is not built, and what to write instead. Whoever builds one removes its line.
const NOT_BUILT: &[(&str, What, &str)] = &[
    ("spec.optimization.level", Is("Aggressive"), "use Conservative, Light or Medium"),
    ("spec.optimization.level", Is("Maximum"), "use Conservative, Light or Medium"),
    ("spec.hardware.device", Is("CUDA"), "use CPU or Auto"),
    ("spec.hardware.gpu", Set, "leave it out"),
    ("*", Scheme("oci://"), "use a path, file://, s3://, gs:// or az://; promotion alone goes to a registry"),
    ("*", Scheme("pvc://"), "use a path, file://, s3://, gs:// or az://; claims are mounted in a cluster only"),
];

/// A field that a scheme is built for, while the others are not.
const BUILT: (&str, &str) = ("spec.promotion.uri", "oci://");

/// Every field that holds a URI.
const URIS: [&str; 7] = [
    "spec.source.uri",
    "spec.data.calibration.uri",
    "spec.data.training.uri",
    "spec.data.validation.uri",
    "spec.optimization.recipe.uri",
    "spec.output.uri",
    "spec.promotion.uri",
];

/// Everything in `job` that is not built yet, in the order of the table; empty when it can be baked. `passes` are the names of the passes
/// there are: any other name in `spec.optimization.passes` is refused.
///
/// # Panics
/// Never: every `BakeJob` serializes to JSON.
#[must_use]
pub fn refusals(job: &BakeJob, passes: &[&str]) -> Vec<Refusal> {
    let json = serde_json::to_value(job).expect("a BakeJob serializes to JSON");
    let mut refusals: Vec<Refusal> = NOT_BUILT.iter().flat_map(|row| matches(&json, row)).collect();
    for (i, pass) in
        job.spec.optimization.passes.iter().flatten().enumerate().filter(|(_, pass)| !passes.contains(&pass.as_str()))
    {
        let hint = suggest::nearest(pass, passes.iter().copied())
            .map_or_else(|| format!("use some of {}", passes.join(", ")), |meant| format!("did you mean {meant}?"));
        let message = format!("there is no pass {pass}; {hint}{}", if hint.ends_with('?') { "" } else { "." });
        refusals.push(Refusal { field: format!("spec.optimization.passes[{i}]"), message });
    }
    refusals
}

fn matches(job: &Value, (field, what, instead): &(&'static str, What, &'static str)) -> Vec<Refusal> {
    let refusal = |field: &str, what: &str| Refusal {
        field: field.to_owned(),
        message: format!("{what} is not built yet; {instead}."),
    };
    match what {
        Is(value) => match at(job, field) {
            Value::Array(items) => items
                .iter()
                .enumerate()
                .filter(|(_, item)| *item == value)
                .map(|(i, _)| refusal(&format!("{field}[{i}]"), value))
                .collect(),
            single if single == value => vec![refusal(field, value)],
            _ => Vec::new(),
        },
        Set if at(job, field).is_null() => Vec::new(),
        Set => vec![refusal(field, field.rsplit('.').next().unwrap_or(field))],
        Scheme(scheme) => URIS
            .iter()
            .filter(|uri| (**uri, *scheme) != BUILT)
            .filter(|uri| at(job, uri).as_str().is_some_and(|uri| uri.starts_with(scheme)))
            .map(|uri| refusal(uri, scheme))
            .collect(),
    }
}

fn at<'a>(job: &'a Value, field: &str) -> &'a Value {
    field.split('.').fold(job, |value, name| &value[name])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::bakejob::{BakeJobSpec, Level};

    const PASSES: [&str; 3] = ["fold-constants", "fold-batchnorm", "weights-int8"];

    fn said(change: impl Fn(&mut BakeJobSpec)) -> Vec<String> {
        let mut spec = BakeJobSpec::new("model.onnx", "val.npz", "out");
        change(&mut spec);
        refusals(&BakeJob::new("m", spec), &PASSES).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_default_job_is_not_refused() {
        assert_eq!(said(|_| {}), Vec::<String>::new());
        assert_eq!(said(|s| s.source.uri = "file:///models/a.onnx".into()), Vec::<String>::new());
        for level in [Level::Conservative, Level::Light, Level::Medium] {
            assert_eq!(said(|s| s.optimization.level = level), Vec::<String>::new());
        }
    }

    #[test]
    fn each_row_refuses_by_name() {
        use crate::api::bakejob::{Cache, Device, Export, Gpu};
        assert_eq!(
            said(|s| s.optimization.level = Level::Aggressive),
            ["spec.optimization.level: Aggressive is not built yet; use Conservative, Light or Medium."]
        );
        let exports = [Export::Phase7, Export::SafeTensors, Export::OnnxStandard, Export::Nnef, Export::Oci];
        assert_eq!(said(|s| s.exports.extend(exports)), Vec::<String>::new());
        assert_eq!(
            said(|s| s.hardware.device = Device::Cuda),
            ["spec.hardware.device: CUDA is not built yet; use CPU or Auto."]
        );
        for built in [Cache::Use, Cache::Refresh, Cache::Off] {
            assert_eq!(said(|s| s.cache = Some(built)), Vec::<String>::new());
        }
        assert_eq!(
            said(|s| s.output.uri = "oci://registry/baked".into()),
            [
                "spec.output.uri: oci:// is not built yet; use a path, file://, s3://, gs:// or az://; promotion alone goes to a registry."
            ]
        );
        assert_eq!(said(|s| s.promotion.uri = Some("oci://registry/models".into())), Vec::<String>::new());
        for built in ["s3://bucket/baked", "gs://bucket/baked", "az://container/baked"] {
            assert_eq!(said(|s| s.output.uri = built.into()), Vec::<String>::new());
        }
        assert_eq!(said(|s| s.source.uri = "https://host/m.onnx".into()), Vec::<String>::new());
        let gpu =
            Gpu { count: 1, min_memory: None, min_compute_capability: None, resource_name: "nvidia.com/gpu".into() };
        assert_eq!(
            said(|s| s.hardware.gpu = Some(gpu.clone())),
            ["spec.hardware.gpu: gpu is not built yet; leave it out."]
        );
    }

    #[test]
    fn unknown_passes_are_refused_with_the_one_that_was_meant() {
        let passes =
            |names: &[&str]| said(|s| s.optimization.passes = Some(names.iter().map(|n| (*n).to_owned()).collect()));
        assert_eq!(passes(&["weights-int8", "fold-constants"]), Vec::<String>::new());
        assert_eq!(
            passes(&["fold-constant"]),
            ["spec.optimization.passes[0]: there is no pass fold-constant; did you mean fold-constants?"]
        );
        assert_eq!(
            passes(&["weights-int8", "magic"]),
            [
                "spec.optimization.passes[1]: there is no pass magic; use some of fold-constants, fold-batchnorm, weights-int8."
            ]
        );
    }

    #[test]
    fn every_row_of_the_table_names_a_field_and_value_of_the_schema() {
        for (field, what, _) in NOT_BUILT {
            let schema =
                |field: &str| field.split('.').fold(crate::api::crd::schema(), |s, name| &s["properties"][name]);
            match what {
                Is(value) => {
                    let schema = schema(field);
                    let schema = if schema["items"].is_null() { schema } else { &schema["items"] };
                    assert!(schema["enum"].as_array().unwrap().iter().any(|v| v == value), "{field} {value}");
                }
                Set => assert!(!schema(field).is_null(), "{field}"),
                Scheme(_) => URIS.iter().for_each(|uri| assert_eq!(schema(uri)["type"], "string", "{uri}")),
            }
        }
    }
}
