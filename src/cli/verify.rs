//! `bakehouse verify`: a finished bake or a package, checked again.

use std::fmt::Write as _;

use comfy_table::{Table, presets};

use super::args::VerifyArgs;
use super::{Failure, json, print};
use crate::api::Reason;
use crate::bake::Options;
use crate::bake::verify::{Holds, Verification};
use crate::engine::Engines;
use crate::worker;

pub(super) fn run(args: &VerifyArgs) -> Result<u8, Failure> {
    let options = Options {
        engines: Engines::discover(args.ort_lib.as_deref()),
        ort_lib: args.ort_lib.clone(),
        program: std::env::current_exe()
            .map_err(|e| Failure::new(Reason::Internal, format!("cannot find this program again: {e}")))?,
        low_memory: false,
        checkpoints: None,
        spreads: None,
    };
    let found = worker::verify(&args.target, args.data.as_deref(), &options)?;
    print(&if args.json { json(&found)? } else { text(&found) })?;
    Ok(found.reason().exit_code())
}

fn text(found: &Verification) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(["claim", "claimed", "found", "holds"]);
    for check in &found.checks {
        let holds = match &check.holds {
            Holds::Yes => "yes".to_owned(),
            Holds::No(why) => format!("NO: {why}"),
            Holds::Unchecked(why) => format!("unchecked: {why}"),
        };
        table.add_row([check.claim.as_str(), &check.claimed, &check.measured, &holds]);
    }
    let mut out = format!("{}\n{table}\n", found.job);
    for remark in &found.remarks {
        let _ = writeln!(out, "{remark}");
    }
    for finding in &found.findings {
        let _ = writeln!(out, "{}: {}", finding.cheat, finding.detail);
    }
    let count = |wanted: fn(&Holds) -> bool| found.checks.iter().filter(|c| wanted(&c.holds)).count();
    let (no, open) = (count(|h| matches!(h, Holds::No(_))), count(|h| matches!(h, Holds::Unchecked(_))));
    let _ = match found.reason() {
        Reason::Baked => writeln!(out, "Every one of {} claims holds.", found.checks.len()),
        Reason::GateInconclusive => {
            writeln!(out, "No claim is refuted, but {open} of {} could not be checked.", found.checks.len())
        }
        _ => {
            writeln!(out, "{no} of {} claims do not hold. Do not deploy this artifact; bake again.", found.checks.len())
        }
    };
    out
}
