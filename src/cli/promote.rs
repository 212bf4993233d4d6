//! `bakehouse promote`: what a cluster does after a bake, from a shell.

use comfy_table::{Table, presets};

use super::args::PromoteArgs;
use super::{Failure, jobs, json, print};
use crate::api::ResolvedJob;
use crate::api::job::Promotion;
use crate::worker::promote::{self, Act, Entry, Order, Origin};

pub(super) fn run(args: &PromoteArgs) -> Result<u8, Failure> {
    let job = jobs::one(&args.file)?;
    let wish = wish(&job)?;
    let storage = job.storage.as_ref();
    if args.history {
        let entries = promote::history(&wish.to, &job.name, storage)?;
        return print(&if args.json { json(&entries)? } else { table(&entries) });
    }
    let entry = if args.rollback {
        promote::rollback(&wish.to, &job.name, storage)?
    } else {
        let approved = args.approve.as_ref().or(wish.approved.as_ref());
        if !wish.at_once && approved.is_none() {
            return Err(Failure::usage(
                "spec.promotion.policy is Manual: name the artifact that you approve with --approve sha256:…, or in spec.promotion.approvedDigest.",
            ));
        }
        promoted(&job, wish, approved.map(String::as_str))?
    };
    print(&if args.json { json(&entry)? } else { promote::said(&entry) })
}

/// The promotion that a job wishes for.
fn wish(job: &ResolvedJob) -> Result<&Promotion, Failure> {
    let none = "spec.promotion.policy is Never: set Automatic or Manual, and spec.promotion.uri to where promoted artifacts go.";
    job.promotion.as_ref().ok_or_else(|| Failure::usage(none))
}

/// Promotes the result of a job that was baked from a shell.
pub(super) fn promoted(job: &ResolvedJob, wish: &Promotion, approved: Option<&str>) -> Result<Entry, Failure> {
    let order = Order {
        output: &job.output,
        to: &wish.to,
        storage: job.storage.as_ref(),
        origin: Origin { namespace: String::new(), name: job.name.clone(), uid: String::new(), run: 0 },
        approved,
        report: None,
        floors: &[],
    };
    Ok(promote::promote(&order)?)
}

fn table(entries: &[Entry]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(["number", "time", "", "artifact", "bakejob", "run"]);
    for entry in entries {
        let act = match entry.act {
            Act::Promote => "promoted",
            Act::Rollback => "rolled back to",
        };
        let from = [entry.bakejob.namespace.as_str(), entry.bakejob.name.as_str()];
        let from: Vec<&str> = from.into_iter().filter(|part| !part.is_empty()).collect();
        let run = if entry.bakejob.run == 0 { String::new() } else { entry.bakejob.run.to_string() };
        table.add_row([&entry.sequence.to_string(), &entry.time, act, &entry.sha256, &from.join("/"), &run]);
    }
    format!("{table}\n")
}
