//! The gates: what was asked, what was observed, and a drawing of one against the other.

use super::markup::{Node, el, text};
use super::plot::{Scale, circle, drawing, extent, line, padded, rect};
use super::table::{
    Column::{Number, Plot, Words},
    Table,
};
use super::text::{bounds, count, in_unit};
use crate::api::bakejob::Verdict;
use crate::bake::Report;
use crate::quality::{GateReason, GateResult};

/// The section of the gates.
pub(super) fn section(report: &Report) -> Node {
    let lead = "A gate passes when the whole 95 % interval keeps the bound, fails when the whole interval breaks it, and is inconclusive in between. \
        Missing data is never a pass.";
    let columns = [
        Words("Gate"),
        Words("Verdict"),
        Number("Asked for"),
        Number("Observed"),
        Number("95 % interval"),
        Number("n"),
        Plot("Interval against bound"),
        Words("Why"),
    ];
    let table = report.gates.iter().fold(Table::new(&columns), |table, gate| {
        let (class, _, _) = verdict(gate.verdict);
        table.marked_row(class, row(gate))
    });
    let body = if table.is_empty() {
        text("p", "No gates were decided, so nothing passed.").class("absent")
    } else {
        table.node()
    };
    super::section("gates", "Gates").push(text("p", lead).class("lead")).push(body)
}

/// Class, mark and word of a gate's verdict.
pub(super) fn verdict(verdict: Verdict) -> (&'static str, &'static str, &'static str) {
    match verdict {
        Verdict::Pass => ("pass", "✓", "Pass"),
        Verdict::Fail => ("fail", "✗", "Fail"),
        Verdict::Inconclusive => ("warn", "?", "Inconclusive"),
    }
}

fn row(gate: &GateResult) -> [super::table::Cell; 8] {
    let unit = gate.metric.unit();
    let show = |v: f64| in_unit(unit, v);
    let (class, mark, word) = verdict(gate.verdict);
    let badge = el("span")
        .class(&format!("badge {class}"))
        .push(text("span", mark).attr("aria-hidden", "true"))
        .text(&format!(" {word}"));
    let asked = match (gate.min, gate.max) {
        (Some(min), None) => format!("≥ {}", show(min)),
        (None, Some(max)) => format!("≤ {}", show(max)),
        (Some(min), Some(max)) => format!("{} to {}", show(min), show(max)),
        (None, None) => "nothing".to_owned(),
    };
    let interval = match &gate.interval {
        Some(i) if i.lower == i.upper && !gate.metric.is_quality() => "counted".to_owned(),
        Some(i) => bounds(i.lower, i.upper, show),
        None => "none".to_owned(),
    };
    // What a kept bound says in words stands in the columns already.
    let mut why = if gate.reason == GateReason::BoundKept {
        "The whole interval keeps the bound.".to_owned()
    } else {
        gate.message.clone()
    };
    if let Some(needed) = gate.samples_needed {
        why = format!("{why} About {} samples would decide.", count(needed));
    }
    [
        gate.metric.to_string().into(),
        badge.into(),
        asked.into(),
        gate.observed.map_or_else(|| "no data".to_owned(), show).into(),
        interval.into(),
        count(gate.n as u64).into(),
        bar(gate).into(),
        why.into(),
    ]
}

/// The bound as a line with the passing side shaded, the interval as a whisker, the estimate as a dot. Each gate has a scale of its own.
fn bar(gate: &GateResult) -> Node {
    let (width, height) = (150.0, 22.0);
    let middle = height / 2.0;
    let show = |v: f64| in_unit(gate.metric.unit(), v);
    let ends = gate.interval.as_ref().map(|i| [i.lower, i.upper]);
    let values = [gate.min, gate.max, gate.observed].into_iter().flatten().chain(ends.into_iter().flatten());
    let (Some(observed), Some(domain)) = (gate.observed, extent(values)) else {
        return text("span", "nothing to draw").class("absent");
    };
    let title = format!(
        "{}: observed {}, {}, bound {}",
        gate.metric,
        show(observed),
        ends.map_or_else(|| "no interval".to_owned(), |[l, u]| bounds(l, u, show)),
        gate.min.or(gate.max).map_or_else(|| "none".to_owned(), show)
    );
    let x = Scale::linear(padded(domain, 0.15), [4.0, width - 4.0]);
    let (low, high) = (gate.min.map_or(0.0, |m| x.at(m)), gate.max.map_or(width, |m| x.at(m)));
    let mut plot = drawing(width, height, &title).class("gatebar").num("width", width).num("height", height);
    plot = plot.push(rect("room", [low, high], [2.0, height - 2.0]));
    for bound in [gate.min, gate.max].into_iter().flatten() {
        plot = plot.push(line("bound", [x.at(bound), 0.0], [x.at(bound), height]));
    }
    let (class, _, _) = verdict(gate.verdict);
    if let Some([lower, upper]) = ends {
        plot = plot.push(line(&format!("whisker {class}"), [x.at(lower), middle], [x.at(upper), middle]));
        for end in [lower, upper] {
            plot = plot.push(line(&format!("whisker {class}"), [x.at(end), middle - 4.0], [x.at(end), middle + 4.0]));
        }
    }
    plot.push(circle(&format!("dot {class}"), [x.at(observed), middle], 4.0))
}
