//! Promotion: an artifact that passed its gates is copied to where phase 7 looks for it, with its evidence.
//!
//! ```text
//! <promotion.uri>/<name>/versions/<digest>/…      model, report and whatever else the bake wrote
//!                       /history/000001.json …    who was promoted when; each is written once
//!                       /current.json             a copy of the newest of these
//! ```
//!
//! The gates are read again from the report, whose digest the status holds. Files are copied first and checked where they then lie; the entry that
//! names them comes last, so nobody is ever pointed at less than a whole version. Doing it again changes nothing. A registry (`oci://`) keeps the same as
//! one artifact and its tags: see `registry.rs`.

mod ledger;
pub(in crate::worker) mod mark;
#[cfg(feature = "store")]
mod registry;

use std::path::Path;

use k8s_openapi::jiff::Timestamp;

use super::place::{Item, Place, changed};
use super::{Failed, clean, outcome, scratch};
use crate::api::bakejob::{FileRef, GateSpec, GateStatus, Storage, Verdict};
use crate::api::digest::sha256_hex;
use crate::api::wire::{Assignment, Outcome};
use crate::api::{Reason, ResolvedJob, floor};
use crate::bake::{REPORT, Report};
use crate::model::stats::Stats;
#[cfg(feature = "store")]
use crate::store::in_registry;
pub(crate) use ledger::{Act, CURRENT, Entry, Origin, parsed};
use ledger::{Listed, VERSION};

/// Who asks for a promotion, and of what.
pub(crate) struct Order<'a> {
    /// The folder that was baked into.
    pub(crate) output: &'a Path,
    /// The place of promoted artifacts.
    pub(crate) to: &'a Path,
    pub(crate) storage: Option<&'a Storage>,
    pub(crate) origin: Origin,
    /// Digest of the artifact that was approved; without it, whichever the report names.
    pub(crate) approved: Option<&'a str>,
    /// Digest of the report that the status speaks of.
    pub(crate) report: Option<&'a str>,
    /// Bounds of the platform, checked once more.
    pub(crate) floors: &'a [GateSpec],
}

/// The task of a pod.
pub(super) fn assigned(assignment: &Assignment, job: &ResolvedJob) -> Outcome {
    let wish = &assignment.spec.promotion;
    let (Some(uri), Some(promotion)) = (&wish.uri, &job.promotion) else {
        return Outcome::bare(
            Reason::InvalidJob,
            "spec.promotion.uri: is not set, so there is no place to promote to.",
        );
    };
    let order = Order {
        output: &job.output,
        to: &promotion.to,
        storage: job.storage.as_ref(),
        origin: Origin {
            namespace: assignment.namespace.clone(),
            name: assignment.name.clone(),
            uid: assignment.uid.clone(),
            run: assignment.run,
        },
        approved: assignment.candidate.as_ref().map(|candidate| candidate.artifact.as_str()),
        report: assignment.candidate.as_ref().map(|candidate| candidate.report.as_str()),
        floors: &assignment.gate_floors,
    };
    match promote(&order) {
        Ok(entry) => {
            let uri = uri_of(uri, &assignment.name, &entry);
            let promoted = Some(FileRef { uri, sha256: entry.sha256.clone() });
            Outcome { promoted, ..Outcome::bare(Reason::Baked, said(&entry)) }
        }
        Err(failed) => Outcome::bare(failed.reason, failed.message),
    }
}

/// How a promoted version is called in full.
fn uri_of(uri: &str, name: &str, entry: &Entry) -> String {
    #[cfg(feature = "store")]
    if in_registry(Path::new(uri)).is_some() {
        return registry::uri_of(uri, entry);
    }
    format!("{}/{name}/{}", uri.trim_end_matches('/'), entry.version)
}

/// An entry in words.
pub(crate) fn said(entry: &Entry) -> String {
    format!("{} is promoted as number {} of {}", entry.sha256, entry.sequence, entry.bakejob.name)
}

/// Promotes what was baked, and returns the entry that says so: a new one, or the newest when it says so already.
pub(crate) fn promote(order: &Order) -> Result<Entry, Failed> {
    #[cfg(feature = "store")]
    if let Some(uri) = in_registry(order.to) {
        return registry::promote(order, uri);
    }
    let from = Place::of("spec.output.uri", order.output, order.storage)?;
    let report = passed(&from, order)?;
    let root = root(order.to, &order.origin.name, order.storage)?;
    let version = format!("versions/{}", report.model);
    let to = root.join(&version);

    // Two bakes of one model differ in their reports. Entries name the files of the first by digest, so these stay as long as they are whole, and no
    // other format was asked for.
    let has = |entry: &Entry, file: &Item| entry.files.iter().any(|listed| listed.file == file.name);
    let standing = of_version(&root, &version)?
        .filter(|entry| report.files.iter().all(|file| has(entry, file)) && verify(&to, &items(entry), &to).is_ok());
    let mut put = Vec::new();
    if standing.is_none()
        && let Err(failed) = copy(&from, &to, &report.files, &mut put)
    {
        if of_version(&root, &version)?.is_none() {
            to.forget(&put);
        }
        return Err(failed);
    }
    let listed = |item: &Item| Listed { file: item.name.clone(), sha256: item.sha256.clone() };
    let files = standing.map_or_else(|| report.files.iter().map(listed).collect(), |entry| entry.files);
    let sha256 = format!("sha256:{}", report.model);
    let entry = ledger::append(&root, |newest| {
        let promoted = newest.is_some_and(|newest| newest.sha256 == sha256 && newest.files == files);
        Ok((!promoted).then(|| Entry {
            api_version: VERSION.to_owned(),
            sequence: 0,
            act: Act::Promote,
            sha256: sha256.clone(),
            version: version.clone(),
            files: files.clone(),
            bakejob: order.origin.clone(),
            time: Timestamp::now().to_string(),
        }))
    })?;
    let evidence = report.files.iter().find(|item| item.name == REPORT);
    if let Some(item) = evidence.filter(|item| entry.files.iter().any(|file| file.sha256 == item.sha256)) {
        mark::set(&from, &item.sha256, &entry);
    }
    Ok(entry)
}

/// Promotes the version before the one that is promoted now.
pub(crate) fn rollback(to: &Path, name: &str, storage: Option<&Storage>) -> Result<Entry, Failed> {
    #[cfg(feature = "store")]
    if let Some(uri) = in_registry(to) {
        return registry::rollback(uri, name, storage);
    }
    let root = root(to, name, storage)?;
    let refuse = |why: &str| Failed { reason: Reason::InvalidJob, message: format!("{root}: {why}") };
    let now = ledger::newest(&root)?.ok_or_else(|| refuse("nothing was ever promoted here."))?;
    let mut before = None;
    for sequence in (1..now.sequence).rev() {
        before = ledger::entry(&root, sequence)?.filter(|entry| entry.sha256 != now.sha256);
        if before.is_some() {
            break;
        }
    }
    let before = before.ok_or_else(|| refuse("there is no other version to go back to."))?;
    // Somebody may have tidied up: what is not there whole is not promoted.
    let version = root.join(&before.version);
    verify(&version, &items(&before), &version)?;
    ledger::append(&root, |newest| {
        if newest.is_none_or(|newest| newest.sequence != now.sequence) {
            return Err(refuse("somebody promoted meanwhile; look at the history and decide again."));
        }
        Ok(Some(Entry { act: Act::Rollback, time: Timestamp::now().to_string(), ..before.clone() }))
    })
}

/// Every entry, oldest first.
pub(crate) fn history(to: &Path, name: &str, storage: Option<&Storage>) -> Result<Vec<Entry>, Failed> {
    #[cfg(feature = "store")]
    if let Some(uri) = in_registry(to) {
        return registry::history(uri, name, storage);
    }
    let root = root(to, name, storage)?;
    let mut all = Vec::new();
    while let Some(entry) = ledger::entry(&root, all.len() as u64 + 1)? {
        all.push(entry);
    }
    Ok(all)
}

fn root(to: &Path, name: &str, storage: Option<&Storage>) -> Result<Place, Failed> {
    Ok(Place::of("spec.promotion.uri", to, storage)?.join(name))
}

/// A report whose gates passed.
struct Passed {
    /// Digest of the model, in hexadecimal.
    model: String,
    /// What it names, and itself.
    files: Vec<Item>,
    /// What can be counted on the model.
    #[cfg_attr(not(feature = "store"), allow(dead_code))]
    stats: Stats,
}

/// Reads the report of a bake again; an error unless it is the one that was asked for and all of its gates passed.
fn passed(from: &Place, order: &Order) -> Result<Passed, Failed> {
    let invalid = |message: String| Failed { reason: Reason::InvalidData, message };
    let bytes = from.read(REPORT)?.ok_or_else(|| {
        invalid(format!("{from}/{REPORT} is not there: nothing was baked, or it was deleted. Bake again."))
    })?;
    let found = sha256_hex(&bytes);
    if let Some(known) = order.report
        && known != format!("sha256:{found}")
    {
        return Err(invalid(format!(
            "{from}/{REPORT} has sha256 {found}, and the status says {known}. It was replaced after the bake: bake again."
        )));
    }
    let report: Report =
        serde_json::from_slice(&bytes).map_err(|error| invalid(format!("{from}/{REPORT}: {error}")))?;
    let gates: Vec<GateStatus> = report.gates.iter().map(outcome::gate).collect();
    let refused = |message: String| Failed { reason: Reason::GateFailed, message };
    if !matches!(report.outcome.reason, Reason::Baked | Reason::NoImprovement) || gates.is_empty() {
        let Report { outcome, .. } = &report;
        return Err(refused(format!("the bake ended as {}: {} Nothing is promoted.", outcome.reason, outcome.message)));
    }
    if let Some(gate) = gates.iter().find(|gate| gate.verdict != Verdict::Pass) {
        return Err(refused(format!("the gate {} {} did not pass. Nothing is promoted.", gate.metric, gate.threshold)));
    }
    if let Some(floor) = floor::unkept(&gates, order.floors) {
        return Err(refused(format!("the platform's floor for {} is not kept. Nothing is promoted.", floor.metric)));
    }
    let mut files: Vec<Item> = clean::inside(&report.artifacts)
        .map(|artifact| Item { name: artifact.file.clone(), sha256: artifact.sha256.clone() })
        .collect();
    let model = outcome::models(&report.artifacts).next().map(|artifact| artifact.sha256.clone());
    let model = model.ok_or_else(|| invalid(format!("{from}/{REPORT} names no model")))?;
    if let Some(approved) = order.approved
        && approved != format!("sha256:{model}")
    {
        return Err(invalid(format!("{from} holds the artifact sha256:{model}, and {approved} was approved.")));
    }
    files.push(Item { name: REPORT.to_owned(), sha256: found });
    let stats = report.baked.unwrap_or(report.baseline).stats;
    Ok(Passed { model, files, stats })
}

/// Copies what does not lie there yet as it is said to be, then looks at that where it lies now. `put` tells what was written, whatever happens.
fn copy(from: &Place, to: &Place, files: &[Item], put: &mut Vec<Item>) -> Result<(), Failed> {
    let mut missing = Vec::new();
    for item in files {
        if to.sha256(&item.name)?.as_deref() != Some(&item.sha256) {
            missing.push(item.clone());
        }
    }
    let scratch = scratch()?;
    let local = from.local(&missing, scratch.path())?;
    verify(&Place::Folder(local.clone()), &missing, from)?;
    for item in &missing {
        tracing::info!(file = item.name, %to, "copying");
        put.push(item.clone());
        to.put(&local, item)?;
    }
    // The others were looked at when it was asked what is missing.
    verify(to, &missing, to)
}

/// Makes sure that every file lies there as it is said to be; messages call the place `called`.
fn verify(place: &Place, files: &[Item], called: &Place) -> Result<(), Failed> {
    for item in files {
        let path = format!("{called}/{}", item.name);
        match place.sha256(&item.name)? {
            Some(found) if found == item.sha256 => {}
            Some(found) => return Err(changed(&path, item, &found)),
            None => {
                return Err(Failed { reason: Reason::InvalidData, message: format!("{path} is not there any more.") });
            }
        }
    }
    Ok(())
}

/// The newest entry that names this version.
fn of_version(root: &Place, version: &str) -> Result<Option<Entry>, Failed> {
    let newest = ledger::newest(root)?.map_or(0, |entry| entry.sequence);
    for sequence in (1..=newest).rev() {
        let named = ledger::entry(root, sequence)?.filter(|entry| entry.version == version);
        if named.is_some() {
            return Ok(named);
        }
    }
    Ok(None)
}

/// The files of an entry.
fn items(entry: &Entry) -> Vec<Item> {
    entry.files.iter().map(|f| Item { name: f.file.clone(), sha256: f.sha256.clone() }).collect()
}
