//! The report as one page of HTML: for a look of thirty seconds, then for digging. Nothing is fetched and nothing is run: a strict policy in the page itself
//! forbids both, so that it can be opened from a mail or a bucket. Every number is computed from the [`Report`]; what is absent says why.

mod candidates;
mod evidence;
mod facts;
mod front;
mod gates;
mod header;
mod latency;
mod markup;
mod package;
mod passes;
mod plot;
mod provenance;
mod quality;
mod sensitivity;
mod table;
mod text;

use markup::{Node, el, text as words};

use super::report::Report;

/// Forbids everything but our own style sheet.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The sections in order, with the anchors that lead to them.
const SECTIONS: [(&str, &str); 8] = [
    ("#gates", "Gates"),
    ("#candidates", "Candidates"),
    ("#sensitivity", "Sensitivity"),
    ("#passes", "Passes"),
    ("#latency", "Latency"),
    ("#quality", "Quality"),
    ("#models", "Models and data"),
    ("#provenance", "Provenance"),
];

/// The whole page.
pub fn page(report: &Report) -> String {
    let (_, _, verdict) = header::verdict(report.outcome.reason);
    let head = el("head")
        .push(el("meta").attr("charset", "utf-8"))
        .push(el("meta").attr("http-equiv", "Content-Security-Policy").attr("content", POLICY))
        .push(el("meta").attr("name", "viewport").attr("content", "width=device-width, initial-scale=1"))
        .push(el("meta").attr("name", "color-scheme").attr("content", "light dark"))
        .push(words("title", &format!("{}: {verdict}", report.job.name)))
        .push(Node::style(include_str!("html/page.css")));
    let contents = el("nav")
        .attr("aria-label", "Contents")
        .extend(SECTIONS.map(|(anchor, name)| words("a", name).attr("href", anchor)));
    let main = el("main")
        .push(header::header(report))
        .push(contents)
        .push(gates::section(report))
        .push(candidates::section(report))
        .push(sensitivity::section(report))
        .push(passes::section(report))
        .push(latency::section(report))
        .push(quality::section(report))
        .push(evidence::section(report))
        .push(provenance::section(report));
    let footer = words(
        "footer",
        "Every figure on this page is computed from report.json beside it, which holds the raw samples.",
    );
    format!("<!DOCTYPE html>\n{}\n", el("html").attr("lang", "en").push(head).push(el("body").push(main).push(footer)))
}

/// A section under its heading.
fn section(anchor: &str, title: &str) -> Node {
    el("section").attr("id", anchor).push(words("h2", title))
}
