//! Where the error sits: per block, per output, per channel.

use super::markup::{Node, el, text};
use super::plot::{line, rect, stretched};
use super::table::{
    Cell,
    Column::{Number, Plot, Words},
    Table,
};
use super::text::{count, interval, percent, plural, scientific, share, significant};
use crate::api::Metric;
use crate::bake::Report;
use crate::quality::{Figure, QualityReport, TapSimilarity};

/// The section of quality.
pub(super) fn section(report: &Report) -> Node {
    let section = super::section("quality", "Quality, layer by layer");
    let Some(quality) = &report.quality else {
        return section.push(text("p", "Quality was not measured.").class("absent"));
    };
    let of =
        if report.baked.is_none() { "The artifact is the input, so this compares the input with itself. " } else { "" };
    let lead = format!(
        "{of}Both models ran on the same {} that neither calibration nor search saw.",
        plural(quality.samples, "held-out sample")
    );
    section
        .push(text("p", &lead).class("lead"))
        .push(accuracy(quality))
        .push(taps(report, quality))
        .push(outputs(quality))
        .push(distribution(quality))
        .push(channels(quality))
}

/// A figure as a cell: estimate, then interval, then what there is to say.
fn figure(figure: &Figure) -> Node {
    let Some(estimate) = figure.estimate else {
        return text(
            "span",
            &format!("no data: {}", figure.concern.as_ref().map_or("it could not be computed", |c| c.detail())),
        );
    };
    let range = if figure.identical { "bit-identical".to_owned() } else { interval(figure, share) };
    let node = text("span", &share(estimate))
        .push(text("small", &format!("{range}, n = {}", figure.n)).attr("title", &figure.method));
    node.maybe(figure.concern.as_ref().map(|c| text("small", c.detail())))
        .extend(figure.notes.iter().map(|n| text("small", n)))
}

fn optional(value: Option<f64>, show: impl Fn(f64) -> String) -> Cell {
    value.map_or_else(|| "not defined".into(), |v| show(v).into())
}

fn accuracy(quality: &QualityReport) -> Node {
    let details = &quality.retention;
    let truth = if details.labelled { "true labels" } else { "no labels: agreement with the input" };
    let table = Table::new(&[
        Words("Output judged"),
        Words("Metric"),
        Words("Why this one"),
        Words("Against"),
        Number("Input"),
        Number("Artifact"),
        Number("A constant answer"),
        Number("Retention"),
    ])
    .caption("Accuracy")
    .row([
        details.output.as_str().into(),
        details.metric.to_string().into(),
        details.why.as_str().into(),
        truth.into(),
        optional(details.baseline, share),
        optional(details.baked, share),
        optional(details.chance, share),
        figure(&quality.accuracy_retention).into(),
    ]);
    if details.outputs.is_empty() {
        return table.node();
    }
    let agreement =
        Table::new(&[Words("Output"), Words("Metric"), Words("Why this one"), Number("Agreement with the input")])
            .caption("Agreement of each output")
            .rows(&details.outputs, |o| {
                [o.output.as_str().into(), o.metric.to_string().into(), o.why.as_str().into(), figure(&o.figure).into()]
            });
    el("div").push(table.node()).push(agreement.node())
}

/// What each block lost of its features. A bar as wide as its cell has lost all that the gate allows.
fn taps(report: &Report, quality: &QualityReport) -> Node {
    let block = el("div").push(text("h3", "Features of each block (CKA)"));
    if quality.taps.is_empty() {
        return block.push(
            text("p", "No internal tensor could be compared, so feature preservation has no data.").class("absent"),
        );
    }
    let allowed = report
        .gates
        .iter()
        .find(|g| g.metric == Metric::FeaturePreservation)
        .and_then(|g| g.min)
        .map(|min| 1.0 - min)
        .filter(|a| *a > 0.0);
    let lost = |tap: &TapSimilarity| tap.figure.estimate.map(|e| (1.0 - e).max(0.0));
    let most = quality.taps.iter().filter_map(lost).chain(allowed).fold(0.0, f64::max);
    let scale = if most > 0.0 { 100.0 / most } else { 0.0 };
    let words = match allowed {
        Some(a) => format!(
            "The mean over blocks is what the gate reads: {}. Bars show 1 − CKA, what was lost; the line marks the {} that the gate allows.",
            estimate(&quality.feature_preservation),
            percent(a)
        ),
        None => format!(
            "The mean over blocks is {}. Bars show 1 − CKA, what was lost, against the largest loss.",
            estimate(&quality.feature_preservation)
        ),
    };
    let table = Table::new(&[Words("Block"), Number("CKA"), Plot("Lost: 1 − CKA"), Number("Numbers per sample")]).rows(
        &quality.taps,
        |tap| {
            let title = format!("{}: CKA {}", tap.tap, estimate(&tap.figure));
            let bar = lost(tap).map(|l| rect("gone", [0.0, l * scale], [1.0, 9.0]));
            let bound = allowed.map(|a| line("bound", [(a * scale).min(99.5), 0.0], [(a * scale).min(99.5), 10.0]));
            let [before, after] = tap.widths;
            let widths = if before == after {
                count(before as u64)
            } else {
                format!("{} → {}", count(before as u64), count(after as u64))
            };
            [
                tap.tap.as_str().into(),
                figure(&tap.figure).into(),
                stretched("bar", &title).push(rect("kept", [0.0, 100.0], [1.0, 9.0])).maybe(bar).maybe(bound).into(),
                widths.into(),
            ]
        },
    );
    block.push(text("p", &words)).push(table.node())
}

fn estimate(figure: &Figure) -> String {
    figure.estimate.map_or_else(|| "no data".to_owned(), share)
}

fn outputs(quality: &QualityReport) -> Node {
    let columns = [
        Words("Output"),
        Words("Measure"),
        Number("Consistency"),
        Number("Relative RMS error"),
        Number("Cosine, centred"),
        Number("Same argmax"),
        Number("On logits"),
        Number("Samples of another shape"),
    ];
    Table::new(&columns)
        .caption("Consistency of each output")
        .rows(&quality.consistency, |output| {
            let gated = if output.gated { "" } else { "not gated" };
            [
                text("span", &output.output).push(text("small", gated)).into(),
                output.measure.as_str().into(),
                figure(&output.figure).into(),
                optional(output.relative_rms_error, scientific),
                optional(output.cosine, share),
                optional(output.argmax_agreement, percent),
                optional(output.logits, share),
                count(output.other_shape as u64).into(),
            ]
        })
        .node()
}

fn distribution(quality: &QualityReport) -> Node {
    Table::new(&[
        Words("Output"),
        Number("Similarity"),
        Number("Channels"),
        Number("Jensen-Shannon, mean (bits)"),
        Number("Kolmogorov-Smirnov, mean"),
    ])
    .caption("Distribution of each output")
    .rows(&quality.distribution, |output| {
        let gated = if output.gated { "" } else { "not gated" };
        [
            text("span", &output.output).push(text("small", gated)).into(),
            figure(&output.figure).into(),
            count(output.channels as u64).into(),
            scientific(output.jensen_shannon).into(),
            scientific(output.kolmogorov_smirnov).into(),
        ]
    })
    .node()
}

/// The channels that moved furthest for their spread, over all outputs.
fn channels(quality: &QualityReport) -> Node {
    let moved: Vec<_> = quality
        .distribution
        .iter()
        .flat_map(|o| o.worst.iter().map(move |c| (o.output.as_str(), c)))
        .filter(|(_, c)| c.distance > 0.0)
        .collect();
    if moved.is_empty() {
        return text("p", "No channel of an output moved.").class("note");
    }
    Table::new(&[
        Words("Output"),
        Number("Channel"),
        Number("Moved by (W1)"),
        Number("Its spread"),
        Number("Of its spread"),
        Number("Jensen-Shannon (bits)"),
        Number("Kolmogorov-Smirnov"),
    ])
    .caption("The channels that moved furthest")
    .rows(moved, |(output, channel)| {
        let of_spread =
            if channel.spread > 0.0 { percent(channel.distance / channel.spread) } else { "no spread".to_owned() };
        [
            output.into(),
            channel.channel.to_string().into(),
            significant(channel.distance).into(),
            significant(channel.spread).into(),
            of_spread.into(),
            scientific(channel.jensen_shannon).into(),
            scientific(channel.kolmogorov_smirnov).into(),
        ]
    })
    .node()
}
