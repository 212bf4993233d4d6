//! What was done to the graph: nodes and bytes after every pass that was kept, the reasons of the others, fusions of ours and of the engine apart.

use std::collections::BTreeMap;

use super::markup::{Node, el, text};
use super::plot::{rect, stretched};
use super::table::{
    Cell,
    Column::{Number, Plot, Words},
    Table,
};
use super::text::{bytes, change, count, plural, plural_of, scientific, seconds};
use crate::bake::Report;
use crate::optimizer::{Outcome, PassRecord};

/// The section of the passes.
pub(super) fn section(report: &Report) -> Node {
    let (applied, others): (Vec<&PassRecord>, Vec<&PassRecord>) =
        report.passes.iter().partition(|p| p.outcome == Outcome::Applied);
    let lead = "The passes that made the artifact, in order. Each ran as a transaction: applied to a copy, checked on real inputs, kept or rolled back.";
    let section = super::section("passes", "Passes").push(text("p", lead).class("lead"));
    let section = if applied.is_empty() {
        section.push(text("p", "No pass changed the graph.").class("absent"))
    } else {
        section.push(waterfall(&applied))
    };
    let section = if others.is_empty() { section } else { section.push(not_applied(&others)) };
    section.push(fusions(&applied)).push(engine(report))
}

fn waterfall(applied: &[&PassRecord]) -> Node {
    let most_nodes = applied.iter().flat_map(|p| p.nodes).max().unwrap_or(0);
    let most_bytes = applied.iter().flat_map(|p| p.bytes).max().unwrap_or(0);
    let columns = [
        Words("Pass"),
        Number("Rewrites"),
        Number("Nodes"),
        Plot("Nodes left, and taken away"),
        Number("Bytes"),
        Plot("Bytes left, and taken away"),
        Number("Largest difference"),
        Number("Time + check"),
    ];
    let table = Table::new(&columns).rows(applied, |pass| -> [Cell; 8] {
        let [nodes, after] = pass.nodes;
        let name = match &pass.reason {
            Some(remark) => text("span", &pass.name).push(text("small", remark)),
            None => text("span", &pass.name),
        };
        [
            name.into(),
            count(pass.rewrites as u64).into(),
            format!("{} ({})", count(after as u64), change(nodes, after)).into(),
            bar("nodes", pass.nodes, most_nodes, |n| count(n as u64)).into(),
            format!("{} ({})", bytes(pass.bytes[1] as f64), signed_bytes(pass.bytes)).into(),
            bar("bytes", pass.bytes, most_bytes, |b| bytes(b as f64)).into(),
            pass.max_difference.map_or_else(|| "judged by the gates".to_owned(), scientific).into(),
            format!("{} + {}", seconds(pass.seconds), seconds(pass.check_seconds)).into(),
        ]
    });
    let chained = applied.windows(2).all(|pair| pair[0].nodes[1] == pair[1].nodes[0]);
    let note = (!chained).then(|| text("p", "A pass that ran in several rounds is shown from before its first round to after its last, so its change holds that of passes in between.").class("note"));
    el("div").push(table.caption("Applied").node()).maybe(note)
}

fn signed_bytes([before, after]: [usize; 2]) -> String {
    let size = bytes(before.abs_diff(after) as f64);
    match after.cmp(&before) {
        std::cmp::Ordering::Less => format!("−{size}"),
        std::cmp::Ordering::Equal => "0".to_owned(),
        std::cmp::Ordering::Greater => format!("+{size}"),
    }
}

/// What is left, then what this pass took away or added.
fn bar(what: &str, [before, after]: [usize; 2], most: usize, show: impl Fn(usize) -> String) -> Node {
    let x = |v: usize| 100.0 * v as f64 / most.max(1) as f64;
    let title = format!("{what}: {} before, {} after", show(before), show(after));
    let moved = if after <= before { "gone" } else { "added" };
    stretched("bar", &title).push(rect("kept", [0.0, x(before.min(after))], [0.0, 10.0])).push(rect(
        moved,
        [x(after), x(before)],
        [0.0, 10.0],
    ))
}

/// What went wrong in full view, what had nothing to do folded away.
fn not_applied(others: &[&PassRecord]) -> Node {
    let (skipped, undone): (Vec<&PassRecord>, Vec<&PassRecord>) =
        others.iter().partition(|p| p.outcome == Outcome::Skipped);
    let skips = (!skipped.is_empty()).then(|| {
        let words = format!("{} skipped: nothing to do, or not at hand", plural_of(skipped.len(), "pass", "passes"));
        el("details").push(text("summary", &words)).push(reasons(&skipped).node())
    });
    let undone = (!undone.is_empty())
        .then(|| reasons(&undone).caption("Failed or rolled back; the model is as before them").node());
    el("div").maybe(undone).maybe(skips)
}

fn reasons(passes: &[&PassRecord]) -> Table {
    Table::new(&[Words("Pass"), Words("Outcome"), Words("Reason")]).rows(passes, |pass| {
        let (class, words) = match pass.outcome {
            Outcome::Failed => ("fail", "Failed"),
            Outcome::RolledBack => ("warn", "Rolled back"),
            Outcome::Applied | Outcome::Skipped => ("quiet", "Skipped"),
        };
        let difference = pass.max_difference.map(|d| text("small", &format!("largest difference {}", scientific(d))));
        let reason = text("span", pass.reason.as_deref().unwrap_or("no reason was recorded")).maybe(difference);
        [pass.name.as_str().into(), text("span", words).class(&format!("badge {class}")).into(), reason.into()]
    })
}

/// Fusions that the artifact holds, by pattern; names of nodes folded away.
fn fusions(applied: &[&PassRecord]) -> Node {
    let mut patterns: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for fused in applied.iter().flat_map(|p| &p.fused) {
        let (pattern, node) = fused.split_once(": ").unwrap_or((fused, ""));
        patterns.entry(pattern).or_default().push(node);
    }
    let block = el("div").push(text("h3", "Fusions in the artifact"));
    if patterns.is_empty() {
        return block.push(text("p", "None: no pass fused nodes.").class("absent"));
    }
    block.extend(patterns.into_iter().map(|(pattern, nodes)| {
        el("details")
            .push(text("summary", &format!("{pattern} × {}", count(nodes.len() as u64))))
            .push(el("ul").class("names").extend(nodes.into_iter().filter(|n| !n.is_empty()).map(|n| text("li", n))))
    }))
}

fn engine(report: &Report) -> Node {
    let block = el("div").push(text("h3", "Fused by the engine when it loads the artifact"));
    let Some(fusion) = &report.engine_fusion else {
        return block.push(
            text("p", &format!("Not read: {} was not asked for its own plan in this bake.", report.engine))
                .class("absent"),
        );
    };
    let [nodes, plan] = fusion.nodes;
    let words = format!(
        "{} makes {} of {}. These are the engine's own and are not in the file.",
        report.engine,
        plural(plan, "step"),
        plural(nodes, "node")
    );
    block
        .push(text("p", &words))
        .push(el("ul").class("names").extend(fusion.fused.iter().map(|(op, n)| text("li", &format!("{op} × {n}")))))
}
