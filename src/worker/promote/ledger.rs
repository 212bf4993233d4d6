//! Who was promoted when: `history/000001.json` and so on, each written once and never changed. The newest entry says what is promoted now;
//! `current.json` is a copy of it under a fixed name. That an entry can be made only once is what settles two promotions at the same time.

use serde::{Deserialize, Serialize};

use crate::api::Reason;
use crate::worker::Failed;
use crate::worker::place::Place;

/// Schema of [`Entry`].
pub(crate) const VERSION: &str = "bakehouse.dev/promotion/v1";

/// Under which the newest entry is found.
pub(crate) const CURRENT: &str = "current.json";

/// Attempts to be the next entry. Each that fails is somebody else's that succeeded.
const ATTEMPTS: u32 = 100;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Act {
    /// An artifact was promoted.
    Promote,
    /// One that was promoted before is promoted again.
    Rollback,
}

/// The `BakeJob` that an artifact comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Origin {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) run: u32,
}

/// A file of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) file: String,
    pub(crate) sha256: String,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    pub(crate) api_version: String,
    /// From 1, without gaps.
    pub(crate) sequence: u64,
    pub(crate) act: Act,
    /// Digest of the model, `sha256:` and hexadecimal digits.
    pub(crate) sha256: String,
    /// The folder of its files, beside this history.
    pub(crate) version: String,
    pub(crate) files: Vec<Listed>,
    pub(crate) bakejob: Origin,
    pub(crate) time: String,
}

fn name(sequence: u64) -> String {
    format!("history/{sequence:06}.json")
}

fn parse(place: &Place, name: &str, bytes: &[u8]) -> Result<Entry, Failed> {
    let wrong = |why: String| Failed {
        reason: Reason::InvalidData,
        message: format!("{place}/{name} {why}. Move it away, or promote to another place."),
    };
    parsed(bytes).map_err(wrong)
}

/// The entry that a file holds; what is wrong with it where it holds none.
pub(crate) fn parsed(bytes: &[u8]) -> Result<Entry, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("is no promotion record: {why}");
    let entry: Entry = serde_json::from_slice(bytes).map_err(|error| wrong(&error))?;
    if entry.api_version == VERSION {
        Ok(entry)
    } else {
        Err(wrong(&format!("its apiVersion is {}", entry.api_version)))
    }
}

/// One entry of the history.
pub(crate) fn entry(place: &Place, sequence: u64) -> Result<Option<Entry>, Failed> {
    let name = name(sequence);
    place.read(&name)?.map(|bytes| parse(place, &name, &bytes)).transpose()
}

/// The newest entry. Nothing is listed: a promotion need not have that right, and the numbers have no gaps.
pub(crate) fn newest(place: &Place) -> Result<Option<Entry>, Failed> {
    let known = place.read(CURRENT)?.map(|bytes| parse(place, CURRENT, &bytes)).transpose()?;
    let mut newest = match known {
        Some(known) => entry(place, known.sequence)?,
        None => None,
    };
    while let Some(next) = entry(place, newest.as_ref().map_or(1, |entry| entry.sequence + 1))? {
        newest = Some(next);
    }
    Ok(newest)
}

/// Adds the entry that `next` makes of the newest one, or nothing when it makes none; and returns what is newest then.
pub(crate) fn append(
    place: &Place,
    next: impl Fn(Option<&Entry>) -> Result<Option<Entry>, Failed>,
) -> Result<Entry, Failed> {
    for _ in 0..ATTEMPTS {
        let newest = newest(place)?;
        let Some(mut entry) = next(newest.as_ref())? else {
            let newest = newest
                .ok_or_else(|| Failed { reason: Reason::Internal, message: format!("{place} has no history") })?;
            tell(place, &newest)?;
            return Ok(newest);
        };
        entry.sequence = newest.map_or(1, |newest| newest.sequence + 1);
        let name = name(entry.sequence);
        // An answer may be lost and the request sent again: then what is there is ours.
        if place.create(&name, &json(&entry)?)? || self::entry(place, entry.sequence)?.as_ref() == Some(&entry) {
            tell(place, &entry)?;
            return Ok(entry);
        }
    }
    Err(Failed {
        reason: Reason::StorageUnreachable,
        message: format!("{place}: others promoted {ATTEMPTS} times while this promotion tried to; try again."),
    })
}

/// Brings `current.json` up to date. Of two that do so at once, the one that overwrote a newer entry finds out and writes that.
fn tell(place: &Place, entry: &Entry) -> Result<(), Failed> {
    let mut entry = entry.clone();
    loop {
        let text = json(&entry)?;
        if place.read(CURRENT)?.as_deref() != Some(&text) {
            place.replace(CURRENT, &text)?;
        }
        match newest(place)? {
            Some(newest) if newest.sequence > entry.sequence => entry = newest,
            _ => return Ok(()),
        }
    }
}

fn json(entry: &Entry) -> Result<Vec<u8>, Failed> {
    let text = serde_json::to_vec_pretty(entry);
    text.map_err(|error| Failed { reason: Reason::Internal, message: format!("a promotion record: {error}") })
}
