//! How long results stay in an output, as `spec.output` says.
//!
//! ```text
//! <output>/…                          the newest result
//!         /earlier/<time>-<digest>/…  the ones before it, each whole, with its report
//!         /earlier/promoted/…         a mark for each of these that was promoted
//! ```
//!
//! After a bake was published, those beyond `keepRuns` or `keepDays` go, but for what is marked or stands in the history of promotions; where that cannot
//! be read, nothing goes. Only files that the report of a result lists are ever deleted. The report itself goes first, under another name: a process that is
//! killed leaves no result that is not whole, and the next one knows what is left to delete.

#[cfg(feature = "store")]
pub(super) mod aside;
mod plan;

use k8s_openapi::jiff::Timestamp;

use super::place::Place;
use super::promote::mark;
use super::{Failed, outcome, promote};
use crate::api::wire::Outcome;
use crate::api::{Reason, ResolvedJob};
use crate::bake::{EARLIER, Listing, Name, REPORT};
use plan::{Promoted, due, is_promoted};

const OUTPUT: &str = "spec.output.uri";

/// The report of a result that is being deleted.
const LEAVING: &str = "leaving.json";

/// Results before the newest that are looked at for files which a killed process left at the top.
const LOOKED_AT: usize = 2;

/// Tidies an output after a bake was published. That never fails the bake; what could not be done is said in a sentence.
pub(super) fn tidy(job: &ResolvedJob) -> Option<String> {
    let said = tidied(job).unwrap_or_else(|failed| Some(format!("Earlier results stay as they are: {failed}")));
    if let Some(said) = &said {
        tracing::warn!("{said}");
    }
    said
}

fn tidied(job: &ResolvedJob) -> Result<Option<String>, Failed> {
    let output = Place::of(OUTPUT, &job.output, job.storage.as_ref())?;
    let earlier = output.join(EARLIER);
    let mut names = names(&earlier)?;
    if names.is_empty() {
        return Ok(None);
    }
    // Somebody else's result may lie there by now; it is the newest all the same.
    let Some(newest) = listing_of(&output, REPORT)? else { return Ok(None) };
    names.retain(|name| *name != newest.name);
    take_leftovers(&output, &newest, &names)?;

    let due = due(&names, &job.keep, Timestamp::now());
    if due.is_empty() {
        return Ok(None);
    }
    let all: Vec<Name> = names.iter().cloned().chain([newest.name]).collect();
    match unpromoted(job, &output, &due, &all) {
        Ok(going) => {
            for (place, listing) in going {
                remove(&place, &listing)?;
                tracing::info!(result = %place, "deleted, as keepRuns and keepDays say");
            }
            earlier.delete(&[])?;
            Ok(None)
        }
        Err(failed) => Ok(Some(format!(
            "Results in {earlier} are to go by keepRuns and keepDays, but whether they are promoted cannot be learned, so nothing was deleted: {failed}"
        ))),
    }
}

/// Those of the results that are due which nobody promoted. An error means that this is not known of all of them.
fn unpromoted(job: &ResolvedJob, output: &Place, due: &[Name], all: &[Name]) -> Result<Vec<(Place, Listing)>, Failed> {
    let (mut going, mut open) = (Vec::new(), Vec::new());
    for name in due {
        // Marks first: a history may be long.
        if mark::is_set(output, name)? {
            continue;
        }
        let place = output.join(EARLIER).join(&name.to_string());
        match lying(&place)? {
            Some(Lying { listing, leaving: true }) => going.push((place, listing)),
            Some(Lying { listing, leaving: false }) => open.push((name, place, listing)),
            None => {}
        }
    }
    let promoted = if open.is_empty() { Vec::new() } else { promoted(job)? };
    for (name, place, listing) in open {
        let model = outcome::models(&listing.files).next().map(|artifact| artifact.sha256.as_str());
        if !is_promoted(name, model, all, &promoted) {
            going.push((place, listing));
        }
    }
    Ok(going)
}

/// Deletes all earlier results; the outcome when that fails.
pub(super) fn clear(job: &ResolvedJob) -> Option<Outcome> {
    match cleared(job) {
        Ok(()) => None,
        // Who may not list has the newest result deleted at least.
        Err(failed) if failed.reason == Reason::AccessDenied => {
            tracing::warn!(%failed, "earlier results stay");
            None
        }
        Err(failed) => Some(Outcome::bare(failed.reason, failed.message)),
    }
}

fn cleared(job: &ResolvedJob) -> Result<(), Failed> {
    let output = Place::of(OUTPUT, &job.output, job.storage.as_ref())?;
    let earlier = output.join(EARLIER);
    for name in names(&earlier)? {
        let place = earlier.join(&name.to_string());
        let found = match lying(&place)? {
            Some(lying) => Some(lying.listing),
            // A process was killed on its way to set the newest one aside.
            None => listing_of(&output, REPORT)?.filter(|newest| newest.name == name),
        };
        if let Some(listing) = found {
            remove(&place, &listing)?;
        }
        mark::take(&output, &name)?;
    }
    if let Some(newest) = listing_of(&output, REPORT)? {
        mark::take(&output, &newest.name)?;
    }
    earlier.delete(&[])
}

/// The results there; what has another name is somebody else's.
fn names(earlier: &Place) -> Result<Vec<Name>, Failed> {
    let mut names: Vec<Name> = earlier.folders()?.iter().filter_map(|name| Name::parse(name)).collect();
    names.sort();
    Ok(names)
}

/// A result that lies in a folder.
struct Lying {
    listing: Listing,
    /// It is being deleted.
    leaving: bool,
}

fn lying(place: &Place) -> Result<Option<Lying>, Failed> {
    if let Some(listing) = listing_of(place, REPORT)? {
        return Ok(Some(Lying { listing, leaving: false }));
    }
    Ok(listing_of(place, LEAVING)?.map(|listing| Lying { listing, leaving: true }))
}

/// What a report lists. What cannot be read as one is somebody else's.
fn listing_of(place: &Place, report: &str) -> Result<Option<Listing>, Failed> {
    Ok(place.read(report)?.and_then(|text| Listing::of(&text).ok()))
}

/// Deletes what earlier results left at the top and the newest one has not: formats that the job no longer asks for.
fn take_leftovers(output: &Place, newest: &Listing, names: &[Name]) -> Result<(), Failed> {
    let mut left = Vec::new();
    for name in names.iter().rev().take(LOOKED_AT) {
        let Some(lying) = lying(&output.join(EARLIER).join(&name.to_string()))? else { continue };
        for artifact in lying.listing.files {
            let stays = newest.files.iter().any(|kept| kept.file == artifact.file) || left.contains(&artifact.file);
            // A file of that name may be somebody else's by now.
            if !stays && output.sha256(&artifact.file)?.as_deref() == Some(&artifact.sha256) {
                left.push(artifact.file);
            }
        }
    }
    if left.is_empty() { Ok(()) } else { output.delete(&left) }
}

/// Deletes a result: first nothing claims to be one any more.
fn remove(place: &Place, listing: &Listing) -> Result<(), Failed> {
    if let Some(text) = place.read(REPORT)? {
        place.replace(LEAVING, &text)?;
        place.delete(&[REPORT.to_owned()])?;
    }
    let files = listing.files.iter().map(|artifact| artifact.file.clone());
    place.delete(&files.chain([LEAVING.to_owned()]).collect::<Vec<_>>())
}

/// Everything that was ever promoted: a rollback may make any of it current again.
fn promoted(job: &ResolvedJob) -> Result<Vec<Promoted>, Failed> {
    let Some(to) = &job.keep.promoted else { return Ok(Vec::new()) };
    let entries = promote::history(to, &job.name, job.storage.as_ref())?;
    let hexadecimal = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
    let promoted = entries.iter().map(|entry| Promoted {
        model: hexadecimal(&entry.sha256),
        report: entry.files.iter().find(|file| file.file == REPORT).map(|file| hexadecimal(&file.sha256)),
    });
    Ok(promoted.collect())
}
