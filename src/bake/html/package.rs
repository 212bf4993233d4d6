//! What the input's trainer said of it, and what of that came out here too.

use serde_json::{Map, Value};

use super::facts::list;
use super::markup::{Node, el, text};
use super::table::{
    Cell,
    Column::{Number, Words},
    Table,
};
use super::text::count;
use crate::bake::Report;
use crate::bake::report::{PackageFigures, Reproduced};
use crate::package::Layout;

/// The most settings of a training that a page lists; report.json holds all.
const MOST_SETTINGS: usize = 40;

/// The package that the input came in; nothing for a bare model.
pub(super) fn block(report: &Report) -> Option<Node> {
    let package = report.package.as_ref()?;
    let block = el("div").push(text("h3", "Package")).push(identity(package));
    Some(block.maybe(figures(package)).maybe(settings(package)))
}

fn identity(package: &PackageFigures) -> Node {
    let manifest = &package.manifest;
    let mut facts = vec![("Name", manifest.identity.name.clone())];
    let mut fact = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
    fact("Version", manifest.identity.version.clone());
    fact("Run", manifest.identity.run.clone());
    fact("Made", manifest.identity.created.clone());
    fact(
        "Framework",
        manifest
            .framework
            .as_ref()
            .map(|f| format!("{} {}", f.name, f.version.as_deref().unwrap_or("")).trim().to_owned()),
    );
    fact("Sparsity", manifest.sparsity.as_ref().map(|s| format!("{:.1} % of the weights are zero", s.share * 100.0)));
    fact("Quantisation", manifest.quantization.as_ref().map(|q| q.scheme.clone()));
    fact(
        "Layout",
        Some(match package.layout {
            Layout::Phase5 => manifest.api_version.clone(),
            Layout::Trainer => "the trainer's own, without digests".to_owned(),
        }),
    );
    fact("Folder", Some(package.path.display().to_string()));
    fact("Manifest, sha256", package.manifest_sha256.clone());
    list(&facts)
}

/// The trainer's figures beside what was measured here.
fn figures(package: &PackageFigures) -> Option<Node> {
    let metrics = &package.manifest.metrics;
    if metrics.is_empty() {
        return None;
    }
    let again = |name: &str, value: f64| package.baseline.iter().find(|r| r.metric == name && r.claimed == value);
    let table = Table::new(&[
        Words("Figure"),
        Words("Split"),
        Number("Package says"),
        Number("Here"),
        Number("Samples"),
        Words("Outcome"),
    ])
    .caption("Figures of the trainer")
    .rows(metrics, |metric| -> [Cell; 6] {
        let again = again(&metric.name, metric.value);
        let measured = again.and_then(|r| r.measured);
        let samples = again.and_then(|r| r.samples);
        [
            metric.name.as_str().into(),
            metric.split.as_deref().unwrap_or("validation").into(),
            format!("{:.4}", metric.value).into(),
            measured.map_or_else(|| "not measured".to_owned(), |v| format!("{v:.4}")).into(),
            samples.map_or_else(String::new, |n| count(n as u64)).into(),
            verdict(again).into(),
        ]
    });
    let doubts = package.baseline.iter().filter(|r| r.holds != Some(true)).map(|r| text("p", &r.message).class("note"));
    Some(el("div").push(table.node()).extend(doubts))
}

fn verdict(again: Option<&Reproduced>) -> &'static str {
    match again.map(|r| r.holds) {
        None => "carried along",
        Some(None) => "not measured again",
        Some(Some(true)) => "reproduced",
        Some(Some(false)) => "not reproduced",
    }
}

/// Hyper-parameters, then configuration: what is a single value.
fn settings(package: &PackageFigures) -> Option<Node> {
    let training = &package.manifest.training;
    let plain = |object: &Map<String, Value>| -> Vec<(String, String)> {
        let shown = |value: &Value| match value {
            Value::Array(_) | Value::Object(_) | Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        object.iter().filter_map(|(name, value)| Some((name.clone(), shown(value)?))).collect()
    };
    let mut all = plain(&training.hyper_parameters);
    all.extend(plain(&training.config));
    all.truncate(MOST_SETTINGS);
    (!all.is_empty()).then(|| el("div").push(text("h3", "Training")).push(list(&all)))
}
