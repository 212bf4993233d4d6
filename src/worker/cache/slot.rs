//! The place of one bake in a cache: its manifest, and the files of whoever wrote it first.

use std::path::Path;

use jiff::Timestamp;

use super::entry::{ENTRY, Entry, KeptFile, Parts, new_attempt};
use super::place::remove;
use super::shelf::{USED, folder_of};
use crate::api::bakejob::Cache;
use crate::api::digest::sha256_hex;
#[cfg(feature = "store")]
use crate::api::digest::sha256_hex_of;
use crate::api::{Reason, ResolvedJob};
use crate::bake::report::FromCache;
use crate::bake::reuse::{self, Identity, NotTaken};
use crate::bake::{Options, Progress, REPORT, Report, Summary};
use crate::worker::Failed;
use crate::worker::place::{Item, Place};

pub(super) struct Slot<'a> {
    job: &'a ResolvedJob,
    options: &'a Options,
    identity: Identity,
    place: Place,
}

impl<'a> Slot<'a> {
    pub(super) fn of(job: &'a ResolvedJob, options: &'a Options, cache: &Path) -> Result<Self, String> {
        let identity = Identity::of(job, options).map_err(|error| error.to_string())?;
        let root = super::open(cache, job.storage.as_ref()).map_err(|error| error.to_string())?;
        let place = root.join(&folder_of(&identity.key));
        Ok(Self { job, options, identity, place })
    }

    /// The manifest that lies here, whole or not; `None` where none does.
    pub(super) fn entry(&self) -> Result<Option<(Vec<u8>, Result<Entry, String>)>, Failed> {
        let Some(bytes) = self.place.read(ENTRY)? else { return Ok(None) };
        let entry = Entry::read(&bytes, &self.identity.key);
        // Equal keys are equal inputs, unless somebody wrote what is not so.
        let entry = entry.and_then(|entry| {
            let same = entry.inputs == self.identity.inputs;
            if same { Ok(entry) } else { Err("it is that of other inputs".to_owned()) }
        });
        Ok(Some((bytes, entry)))
    }

    /// Publishes what is kept here as the result of the job; `None` when nothing is, or nothing that is whole. Then the job is baked.
    pub(super) fn take(&self, progress: &mut dyn Progress) -> Result<Option<Summary>, String> {
        let said = |failed: Failed| failed.to_string();
        // Once more when somebody replaced it while it was read.
        for _ in 0..2 {
            let Some((bytes, entry)) = self.entry().map_err(said)? else { return Ok(None) };
            let why = match &entry {
                Ok(entry) => match self.publish(entry, progress) {
                    Ok(summary) => {
                        self.mark_used();
                        return Ok(Some(summary));
                    }
                    Err(NotTaken::Failed(why)) => return Err(why),
                    Err(NotTaken::Damaged(why)) => why,
                },
                Err(why) => format!("{ENTRY}: {why}"),
            };
            match self.place.read(ENTRY).map_err(said)? {
                None => return Ok(None),
                Some(now) if now != bytes => {}
                Some(_) => {
                    tracing::warn!(
                        "{} is not what was baked: {why}. It is deleted from the cache, and the job is baked.",
                        self.place
                    );
                    self.forget(entry.ok().as_ref());
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    fn publish(&self, entry: &Entry, progress: &mut dyn Progress) -> Result<Summary, NotTaken> {
        let from = self.place.join(&entry.attempt);
        let origin = FromCache {
            key: entry.key.clone(),
            uri: self.place.to_string(),
            job: entry.job.clone(),
            spec_digest: entry.spec_digest.clone(),
            baked_at: entry.baked_at.clone(),
        };
        let items = entry.items();
        let files: Vec<(&str, &str)> = items.iter().map(|i| (i.name.as_str(), i.sha256.as_str())).collect();
        reuse::publish(self.job, self.options, &self.identity, origin, &files, progress, |to| copy(&from, &items, to))
    }

    /// For `gc`, which deletes first what was not used for longest. Who may only read a cache uses it all the same.
    fn mark_used(&self) {
        if let Err(error) = self.place.replace(USED, Timestamp::now().to_string().as_bytes()) {
            tracing::debug!(%error, "the use of a kept result cannot be marked");
        }
    }

    /// Deletes the manifest, then the files it names.
    fn forget(&self, entry: Option<&Entry>) {
        let mut names = vec![ENTRY.to_owned()];
        if let Some(entry) = entry {
            names.extend(entry.files().iter().map(|file| format!("{}/{}", entry.attempt, file.file)));
        }
        if let Err(error) = remove(&self.place, &names) {
            tracing::warn!(%error, "it cannot be deleted from the cache");
        }
    }

    /// Keeps what was baked, unless somebody did so meanwhile. A cache that cannot be written costs a later bake, never this one.
    pub(super) fn keep(&self, summary: &Summary) {
        match self.kept(summary) {
            Ok(Kept::Here) => tracing::info!("kept in the cache as {}", self.place),
            Ok(Kept::Another) => tracing::info!("{} was written by another bake meanwhile, and stays", self.place),
            Ok(Kept::Not(why)) => tracing::info!("not kept in the cache: {why}"),
            Err(why) => tracing::warn!("the result cannot be kept in the cache as {}: {why}", self.place),
        }
    }

    fn kept(&self, summary: &Summary) -> Result<Kept, String> {
        let refresh = self.job.cache == Cache::Refresh;
        let (report, files) = self.baked(summary)?;
        if !reuse::worth_keeping(&report) {
            if refresh && let Some((_, entry)) = self.entry().map_err(|failed| failed.to_string())? {
                // Whoever wants it anew does not trust it, and this bake did not confirm it.
                self.forget(entry.ok().as_ref());
            }
            return Ok(Kept::Not("not every gate passed".to_owned()));
        }
        if !self.identity.is_of(&report) {
            return Ok(Kept::Not("model, data or recipe were replaced while it was baked".to_owned()));
        }
        let attempt = new_attempt();
        let entry = Entry::from(Parts {
            key: self.identity.key.clone(),
            inputs: self.identity.inputs.clone(),
            attempt: attempt.clone(),
            job: self.job.name.clone(),
            spec_digest: self.job.spec_digest.clone(),
            baked_at: report.stages.last().map(|stage| stage.completion_time.clone()).unwrap_or_default(),
            reason: report.outcome.reason,
            cpu: report.machine.cpu.clone(),
            engine: report.engine.to_string(),
            files,
        });
        let to = self.place.join(&attempt);
        let written = self.write(&entry, &to, refresh);
        if !matches!(written, Ok(Kept::Here)) {
            to.forget(&entry.items());
        }
        written.map_err(|failed| failed.to_string())
    }

    /// The report of this bake and the files of its result. The output may be somebody else's by now: it has to be this very report.
    fn baked(&self, summary: &Summary) -> Result<(Report, Vec<KeptFile>), String> {
        let path = self.job.output.join(REPORT);
        let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let sha256 = sha256_hex(&text);
        if summary.result.as_ref().is_none_or(|figures| figures.report_sha256 != sha256) {
            return Err(format!("{} was replaced after the bake", path.display()));
        }
        let report: Report = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let named = report.artifacts.iter();
        let named = named.map(|a| KeptFile { file: a.file.clone(), sha256: a.sha256.clone(), bytes: a.bytes });
        let itself = KeptFile { file: REPORT.to_owned(), sha256, bytes: text.len() as u64 };
        let files = named.chain([itself]).collect();
        Ok((report, files))
    }

    /// Files first, the manifest last: once, or in place of the one that is there.
    fn write(&self, entry: &Entry, to: &Place, refresh: bool) -> Result<Kept, Failed> {
        for item in entry.items() {
            to.put(&self.job.output, &item)?;
        }
        let bytes = entry.to_bytes()?;
        if !refresh {
            return Ok(if self.place.create(ENTRY, &bytes)? { Kept::Here } else { Kept::Another });
        }
        let before = self.place.read(ENTRY)?.and_then(|bytes| Entry::read(&bytes, &self.identity.key).ok());
        self.place.replace(ENTRY, &bytes)?;
        if let Some(before) = before {
            self.place.join(&before.attempt).forget(&before.items());
        }
        Ok(Kept::Here)
    }
}

/// What became of a result.
enum Kept {
    /// It is kept.
    Here,
    /// Another one is there.
    Another,
    /// It is not one to be kept.
    Not(String),
}

/// Copies files into a folder of this machine, each checked against its digest as it arrives.
fn copy(from: &Place, items: &[Item], to: &Path) -> Result<(), NotTaken> {
    let here = Place::Folder(to.to_owned());
    let copied = match from {
        Place::Folder(path) => items.iter().try_for_each(|item| here.put(path, item)),
        #[cfg(feature = "store")]
        Place::Bucket { .. } => from.local(items, to).and_then(|_| {
            let other = items.iter().find(|i| sha256(&to.join(&i.name)).as_ref() != Some(&i.sha256));
            other.map_or(Ok(()), |item| {
                let message = format!("{} changed on its way", item.name);
                Err(Failed { reason: Reason::StorageUnreachable, message })
            })
        }),
    };
    let Err(failed) = copied else { return Ok(()) };
    // What it was: another file there, or something else on the way.
    for item in items {
        match from.sha256(&item.name) {
            Ok(Some(found)) if found == item.sha256 => {}
            Ok(Some(found)) => {
                return Err(NotTaken::Damaged(format!("{} has sha256 {found}, not {}", item.name, item.sha256)));
            }
            Ok(None) => return Err(NotTaken::Damaged(format!("{} is missing", item.name))),
            Err(failed) => return Err(NotTaken::Failed(failed.to_string())),
        }
    }
    Err(NotTaken::Failed(failed.to_string()))
}

#[cfg(feature = "store")]
fn sha256(path: &Path) -> Option<String> {
    std::fs::File::open(path).and_then(sha256_hex_of).ok()
}
