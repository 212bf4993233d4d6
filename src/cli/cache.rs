//! `bakehouse cache`: what is kept of earlier bakes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use super::{Failure, json, print, text};
use crate::worker::cache::{self, Held, Limits, NO_PLACE, Shelf, State};

#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    /// What to do.
    #[command(subcommand)]
    action: CacheAction,
}

#[derive(Debug, Subcommand)]
pub(super) enum CacheAction {
    /// Show everything that is kept: for which job, when it was baked and last taken, how many bytes.
    List(CacheListArgs),
    /// Delete what is damaged, what interrupted writes left, and with limits what was not used for longest.
    Gc(CacheGcArgs),
}

#[derive(Debug, Args)]
pub(super) struct CacheListArgs {
    /// The cache. Default: `BAKEHOUSE_CACHE`, then ~/.cache/bakehouse/bakes.
    #[arg(long, value_name = "URI")]
    cache: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct CacheGcArgs {
    /// Delete results that were neither written nor taken for so long: 30d, 12h, 90m or 45s.
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    max_age: Option<Duration>,
    /// Delete those that were not used for longest until the rest takes no more bytes than this: 10Gi, 500M or a number.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    max_bytes: Option<u64>,
    /// Say what would be deleted, and delete nothing.
    #[arg(long)]
    dry_run: bool,
    /// What to look at, and how to print it.
    #[command(flatten)]
    list: CacheListArgs,
}

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
            State::Unknown { version } => ("-", "-", format!("kept, as {version}")),
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

fn parse_age(text: &str) -> Result<Duration, String> {
    let wrong = || "give a number and its unit, e.g. 30d, 12h, 90m or 45s".to_owned();
    let each = match text.chars().last() {
        Some('d') => 86_400,
        Some('h') => 3_600,
        Some('m') => 60,
        Some('s') => 1,
        _ => return Err(wrong()),
    };
    let count = &text[..text.len() - 1];
    // A sign is taken by the parser of numbers.
    let plain = count.bytes().all(|b| b.is_ascii_digit());
    let seconds = count.parse::<u64>().ok().filter(|_| plain).and_then(|count| count.checked_mul(each));
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    crate::api::value::bytes(text).map(|bytes| bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_a_number_with_a_unit() {
        assert_eq!(parse_age("30d"), Ok(Duration::from_hours(30 * 24)));
        assert_eq!((parse_age("12h"), parse_age("0s")), (Ok(Duration::from_hours(12)), Ok(Duration::ZERO)));
        for text in
            ["", "d", "30", "-1d", "+1d", "1.5h", "30days", "1w", "99999999999999999999d", "18446744073709551615d"]
        {
            assert!(parse_age(text).is_err(), "{text}");
        }
        assert_eq!((parse_bytes("1Ki"), parse_bytes("10")), (Ok(1024), Ok(10)));
        assert!(parse_bytes("10GB").is_err());
    }
}
