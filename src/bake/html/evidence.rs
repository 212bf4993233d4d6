//! Size, memory and determinism of both models, and the data that everything rests on.

use serde_json::Value;

use super::facts::{flat, list};
use super::markup::{Node, el, text};
use super::table::{
    Cell,
    Column::{Number, Words},
    Table,
};
use super::text::{bytes, count, plural};
use crate::bake::Report;
use crate::bake::report::ModelFigures;

/// The section of model figures and data.
pub(super) fn section(report: &Report) -> Node {
    super::section("models", "Models and data")
        .push(el("div").class("pair").push(memory(report)).push(determinism(report)))
        .push(statistics(report))
        .push(data(report))
        .push(intake(report))
}

fn baked(report: &Report, show: impl Fn(&ModelFigures) -> String) -> Cell {
    report.baked.as_ref().map_or_else(|| "the input".into(), |b| show(b).into())
}

fn memory(report: &Report) -> Node {
    let read = |value: Option<u64>| value.map_or_else(|| "not readable here".to_owned(), |b| bytes(b as f64));
    let row = |name: &str, show: &dyn Fn(&ModelFigures) -> String| [name.into(), show(&report.baseline).into(), baked(report, show)];
    let table = Table::new(&[Words("Fresh process"), Number("Input"), Number("Artifact")])
        .caption("Memory")
        .row(row("Peak resident", &|m| read(m.fresh_process.peak_rss_bytes)))
        .row(row("Before the model was loaded", &|m| read(m.fresh_process.idle_rss_bytes)))
        .row(row("What the model added", &|m| {
            let added = m.fresh_process.peak_rss_bytes.zip(m.fresh_process.idle_rss_bytes).map(|(peak, idle)| peak.saturating_sub(idle));
            read(added)
        }))
        .row(row("Samples run", &|m| count(m.fresh_process.samples as u64)));
    table.node()
}

fn determinism(report: &Report) -> Node {
    let say = |same: bool| if same { "bit-identical" } else { "differs" }.to_owned();
    let row = |name: &str, show: &dyn Fn(&ModelFigures) -> bool| [name.into(), say(show(&report.baseline)).into(), baked(report, |m| say(show(m)))];
    Table::new(&[Words("Outputs, compared"), Number("Input"), Number("Artifact")])
        .caption("Determinism")
        .row(row("between two runs", &|m| m.determinism.runs))
        .row(row("between one thread and two", &|m| m.determinism.threads))
        .row(row("between two processes", &|m| m.determinism.processes))
        .node()
}

/// Parameters, operators, multiplications and bytes of both models, side by side.
fn statistics(report: &Report) -> Node {
    let facts = |model: &ModelFigures| flat(&serde_json::to_value(&model.stats).unwrap_or(Value::Null));
    let (before, after) = (facts(&report.baseline), report.baked.as_ref().map(facts));
    let mut names: Vec<&String> = before.iter().map(|(name, _)| name).collect();
    names.extend(after.iter().flatten().map(|(name, _)| name).filter(|name| !before.iter().any(|(b, _)| b == *name)));
    let value = |facts: &[(String, String)], name: &str| facts.iter().find(|(n, _)| n == name).map_or_else(|| "none".to_owned(), |(_, v)| v.clone());
    let table = Table::new(&[Words("Of the graph"), Number("Input"), Number("Artifact")]).caption("Parameters, operators, multiplications");
    let file = ["Bytes of the file".into(), bytes(report.baseline.bytes as f64).into(), baked(report, |m| bytes(m.bytes as f64))];
    table
        .row(file)
        .rows(names, |name| -> [Cell; 3] {
            let of_artifact = after.as_ref().map_or_else(|| "the input".to_owned(), |facts| value(facts, name));
            [name.as_str().into(), value(&before, name).into(), of_artifact.into()]
        })
        .node()
}

fn data(report: &Report) -> Node {
    let data = &report.data;
    let table = Table::new(&[Words("Split"), Number("Samples"), Words("Served for")])
        .caption("Data")
        .row(["Calibration".into(), count(data.calibration_samples as u64).into(), "ranges, and the check after each pass".into()])
        .row(["Search, a part of the validation data".into(), count(data.search.len() as u64).into(), "choosing between candidates".into()])
        .row(["Verdict, the other part".into(), count(data.verdict.len() as u64).into(), "the gates, and nothing before them".into()]);
    let labels = if data.labelled { "with labels" } else { "without labels, so accuracy is agreement with the input" };
    let words = format!("Validation: {}, {labels}. Which sample fell into which part is listed in report.json.", plural(data.validation_samples, "sample"));
    el("div").push(table.node()).push(text("p", &words).class("note"))
}

fn intake(report: &Report) -> Node {
    let notes = flat(&serde_json::to_value(&report.intake).unwrap_or(Value::Null));
    let block = el("div").push(text("h3", "Intake and remarks"));
    let block = if notes.is_empty() { block.push(text("p", "The file was taken as it is.").class("note")) } else { block.push(list(&notes)) };
    block.maybe((!report.remarks.is_empty()).then(|| el("ul").extend(report.remarks.iter().map(|r| text("li", r)))))
}
