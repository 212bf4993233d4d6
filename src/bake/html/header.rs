//! What is seen first: the job, the verdict, one sentence, four figures.

use super::markup::{Node, el, text};
use super::text::{bounds, bytes, percent, plural, share, times};
use crate::api::Reason;
use crate::bake::Report;
use crate::quality::Figure;

/// Class, mark and words of a verdict. The mark and the words say what the colour says.
pub(super) fn verdict(reason: Reason) -> (&'static str, &'static str, &'static str) {
    match reason {
        Reason::Baked => ("pass", "✓", "Baked: every gate passed"),
        Reason::NoImprovement => ("info", "=", "No improvement: the input is returned unchanged"),
        Reason::GateFailed => ("fail", "✗", "Gate failed"),
        Reason::GateInconclusive => ("warn", "?", "Inconclusive: the samples at hand do not decide"),
        _ => ("fail", "✗", "Not baked"),
    }
}

/// The head of the page.
pub(super) fn header(report: &Report) -> Node {
    let (class, mark, words) = verdict(report.outcome.reason);
    let job = &report.job;
    let kicker =
        format!("Bakehouse {} · level {} · goal {} · {}", report.bakehouse, job.level, job.goal, report.engine);
    let badge = el("p")
        .class(&format!("badge {class}"))
        .push(text("span", mark).attr("aria-hidden", "true"))
        .text(&format!(" {words}"))
        .push(text("code", &report.outcome.reason.to_string()));
    el("header")
        .class(&format!("top {class}"))
        .push(text("p", &kicker).class("kicker"))
        .push(text("h1", &job.name))
        .push(badge)
        .push(text("p", &report.outcome.message).class("lede"))
        .push(figures(report))
}

fn figures(report: &Report) -> Node {
    el("div")
        .class("figures")
        .push(speedup(report))
        .push(size(report))
        .push(retention(report))
        .push(consistency(report))
}

/// One figure: its name, the value or why there is none, the interval, what it rests on.
fn card(name: &str, value: Result<&str, &str>, interval: &str, basis: &str) -> Node {
    let value = match value {
        Ok(value) => text("p", value).class("value"),
        Err(why) => text("p", why).class("absent"),
    };
    let interval = (!interval.is_empty()).then(|| text("p", interval).class("interval"));
    el("div").class("card").push(text("h2", name)).push(value).maybe(interval).push(text("p", basis).class("basis"))
}

fn speedup(report: &Report) -> Node {
    let measured_on = format!("{}, {}", report.engine, plural(report.threads, "thread"));
    let Some(first) = report.speedup.first() else {
        let why = if report.baked.is_none() { "Not claimed: the artifact is the input" } else { "Not measured" };
        return card("Speedup", Err(why), "", &measured_on);
    };
    let paired = &first.paired;
    card(
        "Speedup",
        Ok(&times(paired.ratio)),
        &bounds(paired.lower, paired.upper, times),
        &format!("n = {} paired rounds, batch {}, {measured_on}", paired.ratios.len(), first.batch),
    )
}

fn size(report: &Report) -> Node {
    let before = report.baseline.bytes;
    let Some(baked) = &report.baked else {
        return card(
            "Size",
            Err("Unchanged: the artifact is the input"),
            "",
            &format!("{}, counted", bytes(before as f64)),
        );
    };
    if before == 0 {
        return card("Size", Err("The input has no bytes"), "", "counted");
    }
    let change = baked.bytes as f64 / before as f64 - 1.0;
    let shown = format!("{}{}", if change < 0.0 { "−" } else { "+" }, percent(change.abs()));
    card(
        "Size",
        Ok(&shown),
        &format!("{} → {}", bytes(before as f64), bytes(baked.bytes as f64)),
        "bytes of the file, counted (n = 1)",
    )
}

fn retention(report: &Report) -> Node {
    let Some(quality) = &report.quality else {
        return card("Accuracy retention", Err("No data: quality was not measured"), "", "");
    };
    let details = &quality.retention;
    let against = if details.labelled { "labels" } else { "the input's answers (no labels)" };
    let basis = match (details.baseline, details.baked) {
        (Some(before), Some(after)) if details.labelled => {
            format!("{} {} → {} against {against}", details.metric, share(before), share(after))
        }
        _ => format!("{} against {against}", details.metric),
    };
    quality_card("Accuracy retention", &quality.accuracy_retention, &basis)
}

fn consistency(report: &Report) -> Node {
    let Some(quality) = &report.quality else {
        return card("Output consistency", Err("No data: quality was not measured"), "", "");
    };
    let outputs = quality.consistency.iter().filter(|o| o.gated).count();
    let of = if outputs > 1 {
        format!("the lowest of {outputs} outputs")
    } else {
        "outputs of both models, sample by sample".to_owned()
    };
    quality_card("Output consistency", &quality.output_consistency, &of)
}

fn quality_card(name: &str, figure: &Figure, basis: &str) -> Node {
    let n = plural(figure.n, "held-out sample");
    let concern = figure.concern.as_ref().map(crate::quality::figure::Concern::detail);
    let basis = match concern {
        Some(concern) if figure.estimate.is_some() => format!("n = {n}; {basis}. {concern}"),
        _ => format!("n = {n}; {basis}"),
    };
    let Some(estimate) = figure.estimate else {
        return card(name, Err(&format!("No data: {}", concern.unwrap_or("it could not be computed"))), "", &basis);
    };
    let interval = match figure.interval() {
        _ if figure.identical => "bit-identical".to_owned(),
        Some(i) => bounds(i.lower, i.upper, percent),
        None => "no interval".to_owned(),
    };
    card(name, Ok(&percent(estimate)), &interval, &basis)
}
