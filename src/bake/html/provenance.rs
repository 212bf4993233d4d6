//! Where the figures come from and how to check them: machine, engines, timeline, files, commands.

use jiff::Timestamp;

use super::facts::{list, yes};
use super::markup::{Node, el, text};
use super::package;
use super::plot::{rect, stretched};
use super::table::{
    Cell,
    Column::{Number, Plot, Words},
    Table,
};
use super::text::{bytes, plural, seconds};
use crate::bake::{Report, StageRecord};

/// The section of provenance.
pub(super) fn section(report: &Report) -> Node {
    super::section("provenance", "Provenance")
        .push(artifacts(report))
        .maybe(package::block(report))
        .push(check(report))
        .push(timeline(&report.stages))
        .push(el("div").class("pair").push(machine(report)).push(job(report)))
        .push(backends(report))
}

fn artifacts(report: &Report) -> Node {
    if report.artifacts.is_empty() {
        return text("p", "No artifact was written.").class("absent");
    }
    Table::new(&[Words("File"), Words("Format"), Number("Size"), Words("SHA-256")])
        .caption("Artifacts")
        .rows(&report.artifacts, |a| {
            [
                text("code", &a.file).into(),
                a.format.as_str().into(),
                bytes(a.bytes as f64).into(),
                text("code", &a.sha256).class("digest").into(),
            ]
        })
        .node()
}

fn check(report: &Report) -> Node {
    let has_recipe = report.artifacts.iter().any(|a| a.file == "recipe.json");
    let verify = el("p")
        .text("Check digests, outputs, recipe and every claim again, in the folder of this page:")
        .push(text("pre", "bakehouse verify ."));
    let replay = el("p")
        .text("Make the same bytes again from the input, on any machine, with no clock and no search:")
        .push(text("pre", "bakehouse bake -f bakejob.yaml --recipe recipe.json --out again"));
    el("div").push(text("h3", "Check and replay")).push(verify).maybe(has_recipe.then_some(replay))
}

/// Each stage as a bar over the time of the whole bake.
fn timeline(stages: &[StageRecord]) -> Node {
    let block = el("div").push(text("h3", "Timeline"));
    let moment = |text: &str| text.parse::<Timestamp>().ok().map(|t| t.as_microsecond() as f64 / 1e6);
    let Some(began) = stages.iter().filter_map(|s| moment(&s.start_time)).min_by(f64::total_cmp) else {
        return block.push(text("p", "No stage was recorded.").class("absent"));
    };
    let ended = stages.iter().filter_map(|s| moment(&s.start_time).map(|at| at + s.seconds)).fold(began, f64::max);
    let whole = (ended - began).max(1e-9);
    let table = Table::new(&[Words("Stage"), Number("From"), Number("Took"), Plot("")]).rows(stages, |stage| {
        let from = moment(&stage.start_time).map(|at| at - began);
        let name = format!("{:?}", stage.name);
        let title = format!("{name}: {}", seconds(stage.seconds));
        let x = |t: f64| (100.0 * t / whole).clamp(0.0, 100.0);
        // A stage too short to be seen still gets a mark.
        let bar = from.map(|from| {
            rect("stage", [x(from).min(99.4), x(from + stage.seconds).max(x(from).min(99.4) + 0.6)], [1.0, 9.0])
        });
        [
            name.into(),
            from.map_or_else(|| "unknown".to_owned(), |f| format!("+{}", seconds(f))).into(),
            seconds(stage.seconds).into(),
            stretched("bar", &title).push(rect("kept", [0.0, 100.0], [1.0, 9.0])).maybe(bar).into(),
        ]
    });
    let words = format!(
        "Started {}, took {} to the end of its last stage.",
        stages.first().map_or("", |s| s.start_time.as_str()),
        seconds(whole)
    );
    block.push(table.node()).push(text("p", &words).class("note"))
}

fn machine(report: &Report) -> Node {
    let machine = &report.machine;
    let features: Vec<&str> = machine.features.iter().map(String::as_str).collect();
    let mut facts = vec![
        ("Processor", format!("{} ({})", machine.cpu, machine.arch)),
        ("Instruction sets", features.join(", ")),
        ("Cores", format!("{}, of which {} allowed", machine.logical_cores, machine.affinity_cores)),
        ("Memory", bytes(machine.physical_memory as f64)),
    ];
    facts.extend(machine.cpu_quota.map(|q| ("CPU quota", format!("{q}"))));
    facts.extend(machine.cgroup_memory.map(|m| ("Memory limit", bytes(m as f64))));
    facts.push(("System", format!("{}, kernel {}", machine.os, machine.kernel)));
    facts.push((
        "Load when read",
        machine.load_average.map_or_else(
            || "not readable here".to_owned(),
            |l| format!("{} (1 min), {} (5 min), {} (15 min)", l.one, l.five, l.fifteen),
        ),
    ));
    facts.push(("Measured on", format!("{}, {}", report.engine, plural(report.threads, "thread"))));
    facts.push(("Clock", report.clock.clone()));
    el("div").push(text("h3", "Machine")).push(list(&facts))
}

fn job(report: &Report) -> Node {
    let (job, baseline) = (&report.job, &report.baseline);
    let artifact = report.baked.as_ref().map_or_else(|| "the input".to_owned(), |b| b.sha256.clone());
    let facts = [
        ("Job", job.name.clone()),
        ("Spec digest", job.spec_digest.clone()),
        ("Level", job.level.clone()),
        ("Goal", job.goal.clone()),
        ("Seed", job.seed.to_string()),
        ("Candidate", report.outcome.candidate.clone()),
        ("Input, sha256", baseline.sha256.clone()),
        ("Artifact, sha256", artifact),
        ("Bakehouse", report.bakehouse.clone()),
        ("Report", report.api_version.clone()),
    ];
    el("div").push(text("h3", "Job")).push(list(&facts))
}

fn backends(report: &Report) -> Node {
    Table::new(&[Words("Backend"), Words("There"), Words("Version"), Words("Where, or why not")])
        .caption("Engines and backends")
        .rows(&report.backends, |b| -> [Cell; 4] {
            let there = yes(b.available);
            [
                b.name.as_str().into(),
                there.into(),
                b.version.as_deref().unwrap_or("none").into(),
                b.detail.as_str().into(),
            ]
        })
        .node()
}
