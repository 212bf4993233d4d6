//! Size, memory and determinism of both models, and the data that everything rests on.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::list;
use super::markup::{Node, el, text};
use super::table::{
    Cell,
    Column::{Number, Words},
    Table,
};
use super::text::{bytes, count, plural};
use crate::bake::Report;
use crate::bake::report::ModelFigures;
use crate::model::stats::Stats;

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
    let row = |name: &str, show: &dyn Fn(&ModelFigures) -> String| {
        [name.into(), show(&report.baseline).into(), baked(report, show)]
    };
    let table = Table::new(&[Words("Fresh process"), Number("Input"), Number("Artifact")])
        .caption("Memory")
        .compact()
        .row(row("Peak resident", &|m| read(m.fresh_process.peak_rss_bytes)))
        .row(row("Before the model was loaded", &|m| read(m.fresh_process.idle_rss_bytes)))
        .row(row("What the model added", &|m| {
            let added = m
                .fresh_process
                .peak_rss_bytes
                .zip(m.fresh_process.idle_rss_bytes)
                .map(|(peak, idle)| peak.saturating_sub(idle));
            read(added)
        }))
        .row(row("Samples run", &|m| count(m.fresh_process.samples as u64)));
    table.node()
}

fn determinism(report: &Report) -> Node {
    let say = |same: bool| if same { "bit-identical" } else { "differs" }.to_owned();
    let row = |name: &str, show: &dyn Fn(&ModelFigures) -> bool| {
        [name.into(), say(show(&report.baseline)).into(), baked(report, |m| say(show(m)))]
    };
    Table::new(&[Words("Outputs, compared"), Number("Input"), Number("Artifact")])
        .caption("Determinism")
        .compact()
        .row(row("between two runs", &|m| m.determinism.runs))
        .row(row("between one thread and two", &|m| m.determinism.threads))
        .row(row("between two processes", &|m| m.determinism.processes))
        .node()
}

/// Parameters, nodes and multiplications of both models, side by side; then bytes by type and nodes by operator.
fn statistics(report: &Report) -> Node {
    let row = |name: &str, show: &dyn Fn(&Stats) -> String| {
        [name.into(), show(&report.baseline.stats).into(), baked(report, |m| show(&m.stats))]
    };
    let number = |n: usize| count(n as u64);
    let macs = |stats: &Stats| match stats.macs.total() {
        Some(total) => count(total),
        None => format!(
            "at least {}; {} could not be counted",
            count(stats.macs.known),
            plural(stats.macs.unknown.len(), "node")
        ),
    };
    let totals = Table::new(&[Words("Of the graph"), Number("Input"), Number("Artifact")])
        .caption("Size and work")
        .compact()
        .row([
            "Bytes of the file".into(),
            bytes(report.baseline.bytes as f64).into(),
            baked(report, |m| bytes(m.bytes as f64)),
        ])
        .row(row("Bytes of weights", &|s| bytes(s.parameters.bytes as f64)))
        .row(row("Bytes of scales and zero points", &|s| bytes(s.quantization.bytes as f64)))
        .row(row("Bytes of other constants", &|s| bytes(s.other.bytes as f64)))
        .row(row("Parameters", &|s| number(s.parameters.all)))
        .row(row("Parameters that are not zero", &|s| number(s.parameters.non_zero)))
        .row(row("Nodes", &|s| number(s.nodes.all)))
        .row(row("Nodes without Constant, Identity, Dropout", &|s| number(s.nodes.computing)))
        .row(row("Multiply-accumulates of one inference", &macs));
    let by_type = by_name("Constants by element type", "Type", report, &|s| {
        s.by_dtype
            .iter()
            .map(|(name, c)| (name.clone(), format!("{} in {}", bytes(c.bytes as f64), plural(c.tensors, "tensor"))))
            .collect()
    });
    let by_operator = by_name("Nodes by operator", "Operator", report, &|s| {
        s.nodes.by_type.iter().map(|(name, n)| (name.clone(), number(*n))).collect()
    });
    el("div").push(totals.node()).push(el("div").class("pair").push(by_type).push(by_operator))
}

/// Every name that one of the models has, with what each has of it.
fn by_name(
    caption: &str,
    what: &'static str,
    report: &Report,
    of: &dyn Fn(&Stats) -> BTreeMap<String, String>,
) -> Node {
    let before = of(&report.baseline.stats);
    let after = report.baked.as_ref().map(|b| of(&b.stats));
    let names: BTreeSet<&String> = before.keys().chain(after.iter().flat_map(BTreeMap::keys)).collect();
    let value = |found: Option<&String>| found.map_or("none", String::as_str).to_owned();
    Table::new(&[Words(what), Number("Input"), Number("Artifact")])
        .caption(caption)
        .compact()
        .rows(names, |name| -> [Cell; 3] {
            [
                name.as_str().into(),
                value(before.get(name)).into(),
                after.as_ref().map_or_else(|| "the input".to_owned(), |a| value(a.get(name))).into(),
            ]
        })
        .node()
}

fn data(report: &Report) -> Node {
    let data = &report.data;
    let table = Table::new(&[Words("Split"), Number("Samples"), Words("Served for")])
        .caption("Data")
        .row([
            "Calibration".into(),
            count(data.calibration_samples as u64).into(),
            "ranges, and the check after each pass".into(),
        ])
        .row([
            "Search, a part of the validation data".into(),
            count(data.search.len() as u64).into(),
            "choosing between candidates".into(),
        ])
        .row([
            "Verdict, the other part".into(),
            count(data.verdict.len() as u64).into(),
            "the gates, and nothing before them".into(),
        ]);
    let labels = if data.labelled { "with labels" } else { "without labels, so accuracy is agreement with the input" };
    let words = format!(
        "Validation: {}, {labels}. Which sample fell into which part is listed in report.json.",
        plural(data.validation_samples, "sample")
    );
    el("div").push(table.node()).push(text("p", &words).class("note"))
}

fn intake(report: &Report) -> Node {
    let intake = &report.intake;
    let mut facts = vec![("Opset", intake.opset.to_string()), ("IR version", intake.ir_version.to_string())];
    let counts = [
        ("Function calls written out", intake.functions_inlined),
        ("Nodes quantised already", intake.quantized_nodes),
        ("Control-flow nodes, kept", intake.control_flow_nodes),
        ("Inputs made constant", intake.inputs_made_constant.len()),
        ("Weights that several nodes read", intake.tied_weights.len()),
    ];
    facts.extend(counts.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name, count(n as u64))));
    if intake.duplicate_bytes > 0 {
        facts.push(("Bytes that repeat another weight", bytes(intake.duplicate_bytes as f64)));
    }
    let sentences = intake.notes.iter().chain(&report.remarks).map(|note| text("li", note));
    el("div").push(text("h3", "Intake and remarks")).push(list(&facts)).push(el("ul").extend(sentences))
}
