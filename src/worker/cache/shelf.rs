//! A whole cache: what is kept in it, and what is left of interrupted writes.
//!
//! ```text
//! <cache>/<ab>/<key>/entry.json          the manifest: written last, once, and deleted first
//!                   /used                when it was last taken
//!                   /<attempt>/…         the files of one process; only those that the manifest names count
//! ```
//!
//! Whatever has another name lies here by mistake and is left alone.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use super::entry::{ENTRY, Entry, is_attempt};
use super::place::{Listed, list, remove};
use crate::worker::Failed;
use crate::worker::place::{Place, UNNAMED};

/// Its time of writing is when a result was last taken.
pub(super) const USED: &str = "used";

/// The folder of a key.
pub(super) fn folder_of(key: &str) -> String {
    format!("{}/{key}", &key[..2])
}

/// Something in a cache.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Held {
    /// SHA-256 of the inputs.
    pub(crate) key: String,
    /// What it is.
    #[serde(flatten)]
    pub(crate) state: State,
    /// Bytes of all of its files.
    pub(crate) bytes: u64,
    /// When it was written or last taken.
    pub(crate) last_used: String,
    #[serde(skip)]
    pub(super) since: Timestamp,
    /// The manifest as it was read.
    #[serde(skip)]
    manifest: Option<Vec<u8>>,
    /// Names in the cache, the manifest first.
    #[serde(skip)]
    names: Vec<String>,
}

/// What a thing in a cache is.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "state", rename_all = "camelCase")]
pub(crate) enum State {
    /// A result, its files there by name and size.
    Kept {
        /// The job that it was baked for.
        job: String,
        /// When.
        #[serde(rename = "bakedAt")]
        baked_at: String,
        /// On which engine.
        engine: String,
        /// On which processor.
        cpu: String,
    },
    /// A result that is not whole.
    Damaged {
        /// What is wrong with it.
        why: String,
    },
    /// Something that another version of Bakehouse keeps.
    Unknown {
        /// The version of its manifest.
        version: String,
    },
    /// Files that no manifest names.
    Leftover,
}

/// The files of one key, sorted out.
#[derive(Default)]
struct Files {
    manifest: Option<Listed>,
    used: Option<Listed>,
    attempts: BTreeMap<String, Vec<Listed>>,
    unnamed: Vec<Listed>,
}

/// A cache as a whole.
pub(crate) struct Shelf(Place);

impl Shelf {
    pub(crate) fn open(cache: &Path) -> Result<Self, Failed> {
        Ok(Self(super::open(cache, None)?))
    }

    /// Everything in it, by key.
    pub(crate) fn held(&self) -> Result<Vec<Held>, Failed> {
        let mut keys: BTreeMap<String, Files> = BTreeMap::new();
        for file in list(&self.0)? {
            if let Some((key, name)) = ours(&file.name) {
                let (key, name) = (key.to_owned(), name.to_owned());
                let files = keys.entry(key).or_default();
                match name.split_once('/') {
                    None if name == ENTRY => files.manifest = Some(file),
                    None if name == USED => files.used = Some(file),
                    Some((attempt, _)) => files.attempts.entry(attempt.to_owned()).or_default().push(file),
                    None => files.unnamed.push(file),
                }
            }
        }
        let mut held = Vec::new();
        for (key, files) in keys {
            of_key(&self.0, &key, files, &mut held)?;
        }
        Ok(held)
    }

    /// Deletes a thing, its manifest first, and says whether it did: somebody may have replaced it meanwhile.
    pub(crate) fn delete(&self, held: &Held) -> Result<bool, Failed> {
        if let Some(manifest) = &held.manifest
            && self.0.join(&folder_of(&held.key)).read(ENTRY)?.as_ref() != Some(manifest)
        {
            return Ok(false);
        }
        remove(&self.0, &held.names)?;
        Ok(true)
    }
}

/// Key and name of a file that a cache writes; `None` for any other.
fn ours(name: &str) -> Option<(&str, &str)> {
    let (short, rest) = name.split_once('/')?;
    let (key, name) = rest.split_once('/')?;
    let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let known = match name.split_once('/') {
        None => name == ENTRY || name == USED || name.starts_with(UNNAMED),
        Some((attempt, _)) => is_attempt(attempt),
    };
    (short.len() == 2 && key.len() == 64 && key.starts_with(short) && hex(key) && known).then_some((key, name))
}

/// What the files of a key are.
fn of_key(root: &Place, key: &str, mut files: Files, held: &mut Vec<Held>) -> Result<(), Failed> {
    let folder = root.join(&folder_of(key));
    // It may have gone since it was listed.
    let manifest = match &files.manifest {
        Some(_) => folder.read(ENTRY)?,
        None => None,
    };
    if let (Some(bytes), Some(listed)) = (manifest, files.manifest.take()) {
        let mut own = vec![listed];
        own.extend(files.used.take());
        let state = match (Entry::read(&bytes, key), Entry::other_version(&bytes)) {
            (Err(_), Some(version)) => {
                own.extend(std::mem::take(&mut files.attempts).into_values().flatten());
                State::Unknown { version }
            }
            (Err(why), None) => State::Damaged { why: format!("{ENTRY}: {why}") },
            (Ok(entry), _) => {
                let there = files.attempts.remove(&entry.attempt).unwrap_or_default();
                let state = whole(&folder, &entry, &there)?;
                own.extend(there);
                state
            }
        };
        held.push(Held::of(key, state, Some(bytes), own));
    }
    let left = files.attempts.into_values().chain([files.used.into_iter().chain(files.unnamed).collect()]);
    held.extend(left.filter(|files| !files.is_empty()).map(|files| Held::of(key, State::Leftover, None, files)));
    Ok(())
}

/// Whether the files of an entry are there. Digests are for whoever takes it.
fn whole(folder: &Place, entry: &Entry, there: &[Listed]) -> Result<State, Failed> {
    for file in entry.files() {
        let name = format!("{}/{}", entry.attempt, file.file);
        let listed = there.iter().find(|listed| listed.name.ends_with(&format!("/{name}")));
        let why = match listed {
            Some(listed) if listed.bytes == file.bytes => continue,
            Some(listed) => format!("{} has {} bytes, not {}", file.file, listed.bytes, file.bytes),
            // Or it was written after the list was made.
            None if folder.sha256(&name)?.is_some() => continue,
            None => format!("{} is missing", file.file),
        };
        return Ok(State::Damaged { why });
    }
    let Entry { job, baked_at, engine, cpu, .. } = entry.clone();
    Ok(State::Kept { job, baked_at, engine, cpu })
}

impl Held {
    pub(super) fn of(key: &str, state: State, manifest: Option<Vec<u8>>, files: Vec<Listed>) -> Self {
        // Of a result, when it was written or taken; of what is left, when the last of it was written.
        let since = files.iter().map(|file| file.modified).max().unwrap_or_default();
        Self {
            key: key.to_owned(),
            state,
            bytes: files.iter().map(|file| file.bytes).sum(),
            last_used: since.to_string(),
            since,
            manifest,
            names: files.into_iter().map(|file| file.name).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bake::sealed;
    use crate::worker::cache::entry::new_attempt;
    use crate::worker::cache::entry::tests::entry;

    #[test]
    fn only_files_that_a_cache_writes_are_its_own() {
        let key = format!("ab{}", "0".repeat(62));
        let attempt = new_attempt();
        for name in [ENTRY, USED, ".promote-x1", &format!("{attempt}/phase7/model.onnx")] {
            let whole = format!("ab/{key}/{name}");
            assert_eq!(ours(&whole), Some((key.as_str(), name)));
        }
        let other = format!("cd{}", "0".repeat(62));
        for name in [
            "readme.txt".to_owned(),
            format!("ab/{key}"),
            format!("ab/{key}/notes.txt"),
            format!("ab/{key}/notes/x"),
            format!("ab/{other}/{ENTRY}"),
            format!("ab/{}/{ENTRY}", &key[1..]),
            format!("AB/{}/{ENTRY}", key.to_uppercase()),
        ] {
            assert_eq!(ours(&name), None, "{name}");
        }
    }

    #[test]
    fn a_cache_is_seen_as_what_it_is_and_deleted_manifest_first() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(folder.path()).unwrap();
        let keys = ["ab", "cd", "ef", "fe"].map(|short| format!("{short}{}", "0".repeat(62)));
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        let attempt = new_attempt();
        for (key, report) in [(&keys[0], 20), (&keys[1], 19)] {
            let at = folder_of(key);
            write(&format!("{at}/{attempt}/phase7/model.onnx"), &[0; 10]);
            write(&format!("{at}/{attempt}/report.json"), &vec![0; report]);
            write(&format!("{at}/{ENTRY}"), &entry(key, &attempt).to_bytes().unwrap());
        }
        write(&format!("{}/{}/model.onnx", folder_of(&keys[0]), new_attempt()), b"half");
        write(&format!("{}/{ENTRY}", folder_of(&keys[2])), b"{}");
        let newer = sealed::seal("{\"apiVersion\":\"bakehouse.dev/cache-entry/v9\"}");
        write(&format!("{}/{ENTRY}", folder_of(&keys[3])), newer.as_bytes());
        write(&format!("{}/{attempt}/model", folder_of(&keys[3])), b"1");
        write("notes.txt", b"mine");

        let all = shelf.held().unwrap();
        let states: Vec<_> = all.iter().map(|held| (held.key[..2].to_owned(), &held.state)).collect();
        assert!(matches!(states[0], (ref key, State::Kept { .. }) if key == "ab"), "{states:?}");
        assert!(matches!(states[1], (ref key, State::Leftover) if key == "ab"), "{states:?}");
        let why = |state: &State| match state {
            State::Damaged { why } => why.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(why(states[2].1), "report.json has 19 bytes, not 20");
        assert_eq!(why(states[3].1), "entry.json: it is damaged");
        assert!(matches!(states[4].1, State::Unknown { version } if version.ends_with("v9")), "{states:?}");
        assert_eq!((states.len(), all[4].names.len()), (5, 2));
        assert!(all[0].names[0].ends_with(ENTRY));

        // What somebody replaced meanwhile stays.
        write(&format!("{}/{ENTRY}", folder_of(&keys[2])), b"{ }");
        assert!(!shelf.delete(&all[3]).unwrap());
        for held in all[..3].iter().chain([&all[4]]) {
            assert!(shelf.delete(held).unwrap());
        }
        let left: Vec<String> = list(&shelf.0).unwrap().into_iter().map(|file| file.name).collect();
        assert_eq!(left, [format!("{}/{ENTRY}", folder_of(&keys[2])), "notes.txt".to_owned()]);
    }
}
