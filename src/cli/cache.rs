//! `bakehouse cache`: what is kept of earlier bakes.

use std::path::PathBuf;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use super::args::{CacheAction, CacheArgs, CacheGcArgs, CacheListArgs};
use super::{Failure, json, print, text};
use crate::worker::cache::{self, Held, Limits, NO_PLACE, Shelf, State};

pub(super) fn run(args: &CacheArgs) -> Result<u8, Failure> {
    match &args.action {
        CacheAction::List(args) => list(args),
        CacheAction::Gc(args) => gc(args),
    }
}

/// The place that was named, or the usual one; `None` where there is no home either.
pub(super) fn place(named: Option<&str>) -> Result<Option<PathBuf>, Failure> {
    named.map_or_else(cache::usual, |uri| cache::located(uri).map(Some)).map_err(Failure::usage)
}

fn needed(named: Option<&str>) -> Result<PathBuf, Failure> {
    place(named)?.ok_or_else(|| Failure::usage(format!("there is no cache: {NO_PLACE}, or give --cache.")))
}

fn list(args: &CacheListArgs) -> Result<u8, Failure> {
    let place = needed(args.cache.as_deref())?;
    let held = Shelf::open(&place)?.held()?;
    if args.json {
        return print(&json(&held)?);
    }
    let rows = held.iter().map(|held| (held, ""));
    let total: u64 = held.iter().map(|held| held.bytes).sum();
    print(&format!("{}\n{} in {}", table(rows, "State"), text::bytes(total), place.display()))
}

/// One thing that goes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Gone<'h> {
    #[serde(flatten)]
    held: &'h Held,
    /// Why.
    reason: &'h str,
    /// Whether it was deleted.
    deleted: bool,
}

fn gc(args: &CacheGcArgs) -> Result<u8, Failure> {
    let place = needed(args.list.cache.as_deref())?;
    let shelf = Shelf::open(&place)?;
    let limits = Limits { max_age: args.max_age, max_bytes: args.max_bytes };
    let doomed = cache::doomed(shelf.held()?, limits, jiff::Timestamp::now());
    let mut gone = Vec::new();
    for (held, reason) in &doomed {
        let deleted = !args.dry_run && shelf.delete(held)?;
        if deleted || args.dry_run {
            gone.push(Gone { held, reason, deleted });
        }
    }
    if args.list.json {
        return print(&json(&gone)?);
    }
    let total: u64 = gone.iter().map(|gone| gone.held.bytes).sum();
    let done = if args.dry_run { "would be deleted from" } else { "deleted from" };
    let said = format!("{} {done} {}", text::bytes(total), place.display());
    if gone.is_empty() {
        return print(&said);
    }
    print(&format!("{}\n{said}", table(gone.iter().map(|gone| (gone.held, gone.reason)), "Why")))
}

fn table<'h>(rows: impl Iterator<Item = (&'h Held, &'h str)>, last: &str) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(["Key", "Job", "Baked", "Last used", "Size", last]);
    for (held, why) in rows {
        let (job, baked, state) = match &held.state {
            State::Kept { job, baked_at, .. } => (job.as_str(), minute(baked_at), "kept".to_owned()),
            State::Damaged { why } => ("-", "-", format!("damaged: {why}")),
            State::Leftover => ("-", "-", "left of a write".to_owned()),
        };
        table.add_row([
            Cell::new(&held.key[..12]),
            Cell::new(job),
            Cell::new(baked),
            Cell::new(minute(&held.last_used)),
            Cell::new(text::bytes(held.bytes)).set_alignment(CellAlignment::Right),
            Cell::new(if why.is_empty() { state } else { why.to_owned() }),
        ]);
    }
    table
}

/// A time without its seconds.
fn minute(time: &str) -> &str {
    time.get(..16).unwrap_or(time)
}
