//! `bakehouse bake`: one job in this process, or a batch of processes.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use comfy_table::{Table, presets};

use super::args::BakeArgs;
use super::jobs::{Planned, planned};
use super::watch::Terminal;
use super::{Failure, batch, json, print, promote, text};
use crate::api::bakejob::{Cache, Export, Level, Runtime};
use crate::api::{Reason, ResolvedJob};
use crate::bake::memory::Need;
use crate::bake::summary::Interval;
use crate::bake::{self, Options, Summary};
use crate::engine::Engines;
use crate::package::phase7;
use crate::worker;

pub(super) fn run(args: &BakeArgs) -> Result<u8, Failure> {
    let jobs = planned(args)?;
    if args.dry_run {
        return dry_run(args, &jobs);
    }
    match <[Planned; 1]>::try_from(jobs) {
        Ok([only]) => single(args, only),
        Err(jobs) => many(args, &jobs),
    }
}

fn single(args: &BakeArgs, planned: Planned) -> Result<u8, Failure> {
    let started = Instant::now();
    let ended = planned.job.and_then(|job| {
        let cache = cache(args, &job)?;
        let options = Options { spreads: worker::cache::spreads(cache.as_deref()), ..options(args)? };
        let mut progress = Terminal::new(&job.name, args.quiet || args.json);
        Ok((worker::bake(&job, &options, cache.as_deref(), &mut progress)?.summary, job))
    });
    match ended {
        Err(failure) => {
            if args.json {
                let summary = Summary::failed(
                    &planned.name,
                    failure.reason,
                    failure.message.clone(),
                    started.elapsed().as_secs_f64(),
                );
                print(&json(&summary)?)?;
            }
            Err(failure)
        }
        Ok((summary, job)) => {
            print(&if args.json { json(&summary)? } else { result(&summary, &job) })?;
            promote_at_once(&summary, &job)?;
            Ok(summary.reason.exit_code())
        }
    }
}

fn options(args: &BakeArgs) -> Result<Options, Failure> {
    Ok(Options {
        engines: Engines::discover(args.ort_lib.as_deref()),
        ort_lib: args.ort_lib.clone(),
        program: std::env::current_exe()
            .map_err(|e| Failure::new(Reason::Internal, format!("cannot find this program again: {e}")))?,
        low_memory: args.low_memory,
        checkpoints: None,
        spreads: None,
    })
}

/// Where results are kept, for a job that wants to know.
fn cache(args: &BakeArgs, job: &ResolvedJob) -> Result<Option<PathBuf>, Failure> {
    if job.cache == Cache::Off { Ok(None) } else { super::cache::place(args.cache.as_deref()) }
}

/// Promotes a result as its job asks; where a person is to approve it, says how.
fn promote_at_once(summary: &Summary, job: &ResolvedJob) -> Result<(), Failure> {
    let Some(wish) = &job.promotion else { return Ok(()) };
    if !matches!(summary.reason, Reason::Baked | Reason::NoImprovement) {
        eprintln!("Not promoted: only what passed its gates is.");
    } else if wish.at_once {
        eprintln!("{}", worker::promote::said(&promote::promoted(job, wish, None)?));
    } else {
        eprintln!("To promote it: bakehouse promote -f BAKEJOB --approve sha256:… with the digest of model.onnx.");
    }
    Ok(())
}

fn many(args: &BakeArgs, jobs: &[Planned]) -> Result<u8, Failure> {
    let tasks: Vec<batch::Task> = jobs
        .iter()
        .map(|p| batch::Task {
            name: p.name.clone(),
            file: p.file.clone(),
            document: p.document,
            refused: p.job.as_ref().err().map(|f| (f.reason, f.message.clone())),
        })
        .collect();
    let summaries = batch::run(&tasks, usize::from(args.jobs), &passed_on(args), args.quiet || args.json);
    if args.json {
        print(&json(&summaries)?)?
    } else {
        print(&batch::table(&summaries))?
    };
    Ok(batch::exit_code(&summaries))
}

/// The flags that each bake of a batch gets too.
fn passed_on(args: &BakeArgs) -> Vec<String> {
    let mut flags = Vec::new();
    let mut option =
        |name: &str, value: Option<String>| flags.extend(value.map(|v| [name.to_owned(), v]).into_iter().flatten());
    option("--level", args.level.clone());
    option("--goal", args.goal.clone());
    option("--runtime", args.runtime.clone());
    option("--max-drop", args.max_drop.map(|d| format!("{}%", d * 100.0)));
    option("--ort-lib", args.ort_lib.as_ref().map(|p| p.display().to_string()));
    option("--cache", args.cache.clone());
    option("--cache-policy", args.cache_policy.clone());
    for glob in &args.exclude {
        option("--exclude", Some(glob.clone()));
    }
    if args.low_memory {
        flags.push("--low-memory".to_owned());
    }
    flags
}

fn dry_run(args: &BakeArgs, jobs: &[Planned]) -> Result<u8, Failure> {
    let mut out = String::new();
    let mut worst = 0;
    for planned in jobs {
        match &planned.job {
            Err(failure) => {
                let _ = writeln!(out, "{}: refused: {}", planned.name, failure.message);
                worst = failure.reason.exit_code();
            }
            Ok(job) => {
                out.push_str(&intention(job));
                if job.cache == Cache::Off {
                    continue;
                }
                let prospect = worker::cache::prospect(job, &options(args)?, cache(args, job)?.as_deref());
                let _ = writeln!(out, "  {:<12} {prospect}", "cache");
            }
        }
    }
    print(&out)?;
    Ok(worst)
}

/// What a bake would do, in words.
fn intention(job: &ResolvedJob) -> String {
    let mut out = format!("{}\n", job.name);
    let mut line = |what: &str, text: String| {
        let _ = writeln!(out, "  {what:<12} {text}");
    };
    line("model", job.source.path.display().to_string());
    let named = job.validation.is_named();
    line(
        "validation",
        if named { job.validation.path.display().to_string() } else { "that of the package".to_owned() },
    );
    line(
        "calibration",
        job.calibration.as_ref().map_or_else(
            || {
                if named {
                    "a third of the validation data"
                } else {
                    "that of the package, or a third of the validation data"
                }
                .to_owned()
            },
            |c| c.path.display().to_string(),
        ),
    );
    line("plan", format!("level {:?}, goal {:?}", job.level, job.goal));
    line("passes", job.passes.as_ref().map_or_else(|| bake::passes::names_by_default().join(", "), |p| p.join(", ")));
    for gate in &job.gates {
        line("gate", gate.to_string());
    }
    if let Some(need) = Need::foreseen(job) {
        line("memory", memory_text(need, job.level));
    }
    line("output", job.output.display().to_string());
    out
}

/// What a bake at a level takes on each engine.
pub(super) fn memory_text(need: Need, level: Level) -> String {
    let on = |runtime| text::bytes(need.on(runtime, level));
    format!("about {} on ONNX Runtime, {} on the embedded engine", on(Runtime::OnnxRuntime), on(Runtime::Bakehouse))
}

/// The result table.
fn result(summary: &Summary, job: &ResolvedJob) -> String {
    let Some(figures) = &summary.result else { return summary.message.clone() };
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(["", "input", "artifact", "change [95 %]"]);
    let interval = |i: Option<Interval>, show: &dyn Fn(f64) -> String| {
        i.map_or_else(
            || "-".to_owned(),
            |i| format!("{} [{}, {}] n={}", show(i.estimate), show(i.lower), show(i.upper), i.n),
        )
    };
    let [before, after] = figures.bytes;
    table.add_row(["size".to_owned(), text::bytes(before), text::size_change([before, after]), String::new()]);
    table.add_row(["nodes".to_owned(), figures.nodes[0].to_string(), figures.nodes[1].to_string(), String::new()]);
    table.add_row([
        "speedup".to_owned(),
        String::new(),
        String::new(),
        interval(figures.speedup, &|v| format!("{v:.2}x")),
    ]);
    let mut gates = Table::new();
    gates.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(["gate", "asked for", "measured [95 %]", "verdict"]);
    for gate in &figures.gates {
        gates.add_row([&gate.metric, &gate.threshold, &gate.observed, &gate.verdict]);
    }
    let package = if job.exports.contains(&Export::Phase7) {
        format!("\npackage   {}", figures.folder.join(phase7::FOLDER).display())
    } else {
        String::new()
    };
    format!(
        "{}: {} ({}, {}, {:.1} s)\n{}\n{table}\n{gates}\nartifact  {}\nreport    {}{package}",
        job.name,
        summary.reason,
        figures.plan,
        figures.engine,
        summary.seconds,
        summary.message,
        figures.folder.join("model.onnx").display(),
        figures.report.display()
    )
}
