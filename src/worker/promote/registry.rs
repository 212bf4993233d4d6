//! Promotion to an OCI registry: what the bake wrote becomes one artifact, each file a layer.
//!
//! ```text
//! oci://host/repository:<name>                       what is promoted now
//!                      :<name>_000001-<digest> …     who was promoted when: the number, and the first digits of the model's digest
//! ```
//!
//! A registry has no condition on writing a tag, so no tag may be fought for: each entry has one of its own, by number and digest, and the greatest is
//! the newest. Of two promotions at once both find out which that is, and let `<name>` point to it. An entry's manifest says in an annotation what the
//! ledger of a folder would.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use super::ledger::{Act, Entry, Listed, VERSION};
use super::{Order, Passed, REPORT, mark, passed, verify};
use crate::api::Reason;
use crate::api::bakejob::Storage;
use crate::package::oci::{self, Facts, File, Manifest};
use crate::store::{Blob, Reference, Registry, is_tag};
use crate::worker::place::{Item, Place};
use crate::worker::{Failed, scratch};

const FIELD: &str = "spec.promotion.uri";

/// Annotation of a manifest: the entry of the ledger, as JSON.
const ENTRY_KEY: &str = "dev.bakehouse.promotion";

/// Annotation of a manifest: when it was made.
const CREATED_KEY: &str = "org.opencontainers.image.created";

/// Digits of the model's digest in a tag.
const DIGITS: usize = 12;

/// Attempts to be the newest entry, or to say which one is.
const ATTEMPTS: u32 = 100;

/// Where promotions of one name lie.
struct Shelf {
    registry: Registry,
    /// The tag of what is promoted now.
    current: String,
}

/// An entry as it is stored.
struct Stored {
    entry: Entry,
    manifest: Manifest,
    bytes: Vec<u8>,
}

/// Promotes what was baked, and returns the entry that says so: a new one, or the newest when it says so already.
pub(super) fn promote(order: &Order, uri: &str) -> Result<Entry, Failed> {
    let from = Place::of("spec.output.uri", order.output, order.storage)?;
    let Passed { model, files, stats } = passed(&from, order)?;
    let shelf = Shelf::open(uri, &order.origin.name, order.storage)?;
    // The layout of an export holds the same files once more.
    let files: Vec<Item> = files.into_iter().filter(|item| !item.name.starts_with(LAYOUT)).collect();
    let held = scratch()?;
    let local = from.local(&files, held.path())?;
    verify(&Place::Folder(local.clone()), &files, &from)?;
    let mut listed = Vec::with_capacity(files.len());
    for item in &files {
        let path = local.join(&item.name);
        let bytes = std::fs::metadata(&path).map_err(|error| unread(&path, &error))?.len();
        listed.push(File { path: item.name.clone(), sha256: item.sha256.clone(), bytes });
    }
    let sha256 = format!("sha256:{model}");
    let facts = Facts::of(&order.origin.name, &model, &stats);
    let build = |entry: &Entry| Ok(Manifest::build(&facts, &listed, annotations(entry)?));
    let blank = Entry {
        api_version: VERSION.to_owned(),
        sequence: 0,
        act: Act::Promote,
        sha256: sha256.clone(),
        version: String::new(),
        files: Vec::new(),
        bakejob: order.origin.clone(),
        time: Timestamp::now().to_string(),
    };
    for file in &listed {
        let blob = Blob { sha256: file.sha256.clone(), bytes: file.bytes, file: local.join(&file.path) };
        tracing::info!(file = file.path, to = %shelf, "copying");
        if !shelf.registry.put_blob(&blob)? {
            shelf.registry.check_blob(&blob.sha256, blob.bytes)?;
        }
    }
    let config = build(&blank)?.config;
    let path = held.path().join("oci-config.json");
    std::fs::write(&path, &config).map_err(|error| unread(&path, &error))?;
    let sha = crate::api::digest::sha256_hex(&config);
    shelf.registry.put_blob(&Blob { sha256: sha, bytes: config.len() as u64, file: path })?;
    let entry = shelf.append(
        |newest| {
            let promoted = newest.is_some_and(|newest| newest.entry.sha256 == sha256);
            Ok((!promoted).then(|| blank.clone()))
        },
        |entry| build(entry).map(|built| built.bytes),
    )?;
    if let Some(report) = files.iter().find(|item| item.name == REPORT) {
        mark::set(&from, &report.sha256, &entry);
    }
    Ok(entry)
}

/// Promotes the version before the one that is promoted now.
pub(super) fn rollback(uri: &str, name: &str, storage: Option<&Storage>) -> Result<Entry, Failed> {
    let shelf = Shelf::open(uri, name, storage)?;
    let refuse = |why: &str| Failed { reason: Reason::InvalidJob, message: format!("{shelf}: {why}") };
    let mut tags = shelf.tags()?;
    let now = tags.pop().ok_or_else(|| refuse("nothing was ever promoted here."))?;
    let now = shelf.read(&now.1)?;
    let mut before = None;
    while let (None, Some((_, tag))) = (&before, tags.pop()) {
        before = Some(shelf.read(&tag)?).filter(|stored| stored.entry.sha256 != now.entry.sha256);
    }
    let before = before.ok_or_else(|| refuse("there is no other version to go back to."))?;
    // Somebody may have tidied up: what is not there whole is not promoted.
    for blob in before.manifest.layers.iter().chain([&before.manifest.config]) {
        shelf.registry.check_blob(blob.sha256(), blob.size)?;
    }
    shelf.append(
        |newest| {
            if newest.is_none_or(|newest| newest.entry.version != now.entry.version) {
                return Err(refuse("somebody promoted meanwhile; look at the history and decide again."));
            }
            let files = Vec::new();
            Ok(Some(Entry { act: Act::Rollback, time: Timestamp::now().to_string(), files, ..before.entry.clone() }))
        },
        |entry| {
            let manifest = Manifest { annotations: annotations(entry)?, ..before.manifest.clone() };
            serde_json::to_vec(&manifest).map_err(|error| internal(&error))
        },
    )
}

/// Every entry, oldest first.
pub(super) fn history(uri: &str, name: &str, storage: Option<&Storage>) -> Result<Vec<Entry>, Failed> {
    let shelf = Shelf::open(uri, name, storage)?;
    let tags = shelf.tags()?;
    tags.iter().map(|(_, tag)| Ok(shelf.read(tag)?.entry)).collect()
}

/// How a promoted version is called in full.
pub(super) fn uri_of(uri: &str, entry: &Entry) -> String {
    let place = Reference::parse(FIELD, uri).map_or_else(|_| uri.to_owned(), |reference| reference.place());
    format!("{place}:{}", entry.version)
}

/// How the names of the files of an exported layout begin.
const LAYOUT: &str = "oci/";
const _: () = assert!(LAYOUT.len() == oci::FOLDER.len() + 1);

impl std::fmt::Display for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.registry.reference().place(), self.current)
    }
}

impl Shelf {
    fn open(uri: &str, name: &str, storage: Option<&Storage>) -> Result<Self, Failed> {
        let reference = Reference::parse(FIELD, uri)?;
        let refuse = |why: String| Failed { reason: Reason::InvalidJob, message: format!("{FIELD}: {uri} {why}") };
        if reference.digest.is_some() {
            return Err(refuse(
                "names a digest, which nothing can be promoted to. Leave it out, or name a tag.".to_owned(),
            ));
        }
        let current = reference.tag.clone().unwrap_or_else(|| name.to_owned());
        if !is_tag(&tag(&current, 1, &"0".repeat(DIGITS))) {
            let why = format!(
                "gives its versions tags that begin with {current}, which is too long. Name a shorter tag: oci://host/repository:tag."
            );
            return Err(refuse(why));
        }
        Ok(Self { registry: Registry::new(FIELD, reference, storage)?, current })
    }

    /// Numbers and tags of the entries, oldest first.
    fn tags(&self) -> Result<Vec<(u64, String)>, Failed> {
        let tags = self.registry.tags()?;
        let mut tags: Vec<(u64, String)> =
            tags.into_iter().filter_map(|tag| Some((number(&self.current, &tag)?, tag))).collect();
        tags.sort();
        Ok(tags)
    }

    fn read(&self, tag: &str) -> Result<Stored, Failed> {
        let wrong = |why: &str| Failed {
            reason: Reason::InvalidData,
            message: format!(
                "{}:{tag} is no promotion record: {why}. Remove the tag, or promote to another place.",
                self.registry.reference().place()
            ),
        };
        let bytes =
            self.registry.manifest(tag, oci::MANIFEST_TYPE)?.ok_or_else(|| wrong("it is not there any more"))?;
        let manifest = Manifest::parse(&bytes).map_err(|why| wrong(&why))?;
        let text = manifest.annotations.get(ENTRY_KEY).ok_or_else(|| wrong(&format!("it has no {ENTRY_KEY}")))?;
        let mut entry: Entry = serde_json::from_str(text).map_err(|error| wrong(&error.to_string()))?;
        if entry.api_version != VERSION {
            return Err(wrong(&format!("its apiVersion is {}", entry.api_version)));
        }
        let files = manifest.files().map_err(|why| wrong(&why))?;
        entry.files = files.into_iter().map(|file| Listed { file: file.path, sha256: file.sha256 }).collect();
        tag.clone_into(&mut entry.version);
        Ok(Stored { entry, manifest, bytes })
    }

    fn newest(&self) -> Result<Option<Stored>, Failed> {
        self.tags()?.pop().map(|(_, tag)| self.read(&tag)).transpose()
    }

    /// Adds the entry that `next` makes of the newest one, or nothing when it makes none; `manifest` makes what is stored of it.
    fn append(
        &self,
        next: impl Fn(Option<&Stored>) -> Result<Option<Entry>, Failed>,
        manifest: impl Fn(&Entry) -> Result<Vec<u8>, Failed>,
    ) -> Result<Entry, Failed> {
        let newest = self.newest()?;
        let Some(mut entry) = next(newest.as_ref())? else {
            let newest = newest.ok_or_else(|| internal(&"there is no entry"))?;
            self.tell()?;
            return Ok(newest.entry);
        };
        entry.sequence = newest.map_or(1, |newest| newest.entry.sequence + 1);
        let digest = entry.sha256.trim_start_matches("sha256:");
        entry.version = tag(&self.current, entry.sequence, digest);
        // Whoever takes this tag at the same time promotes the same model at the same place: either record tells the truth.
        self.registry.put_manifest(&entry.version, oci::MANIFEST_TYPE, &manifest(&entry)?)?;
        self.tell()?;
        Ok(self.read(&entry.version)?.entry)
    }

    /// Lets the tag of what is promoted now point to the newest entry. Of two that do so at once, the one that was too early finds out and does it again.
    fn tell(&self) -> Result<(), Failed> {
        for _ in 0..ATTEMPTS {
            let Some(newest) = self.newest()? else { return Ok(()) };
            let current = self.registry.manifest(&self.current, oci::MANIFEST_TYPE)?;
            if current.as_deref() != Some(&newest.bytes) {
                self.registry.put_manifest(&self.current, oci::MANIFEST_TYPE, &newest.bytes)?;
                continue;
            }
            return Ok(());
        }
        Err(Failed {
            reason: Reason::StorageUnreachable,
            message: format!("{self}: others promoted {ATTEMPTS} times while this promotion tried to; try again."),
        })
    }
}

fn tag(current: &str, sequence: u64, digest: &str) -> String {
    format!("{current}_{sequence:06}-{}", digest.get(..DIGITS).unwrap_or(digest))
}

/// The number of an entry, when a tag is that of one.
fn number(current: &str, tag: &str) -> Option<u64> {
    let (sequence, digest) = tag.strip_prefix(current)?.strip_prefix('_')?.split_once('-')?;
    let plain = sequence.len() >= 6 && sequence.bytes().all(|b| b.is_ascii_digit());
    let plain = plain && digest.len() == DIGITS && digest.bytes().all(|b| b.is_ascii_hexdigit());
    sequence.parse().ok().filter(|_| plain)
}

/// What a manifest says of its promotion.
fn annotations(entry: &Entry) -> Result<BTreeMap<String, String>, Failed> {
    // The layers name the files.
    let text =
        serde_json::to_string(&Entry { files: Vec::new(), ..entry.clone() }).map_err(|error| internal(&error))?;
    Ok(BTreeMap::from([(CREATED_KEY.to_owned(), entry.time.clone()), (ENTRY_KEY.to_owned(), text)]))
}

fn internal(error: &dyn std::fmt::Display) -> Failed {
    Failed { reason: Reason::Internal, message: format!("a promotion record: {error}") }
}

fn unread(path: &std::path::Path, error: &std::io::Error) -> Failed {
    Failed { reason: Reason::OutputUnwritable, message: format!("{}: {error}", path.display()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_an_entry_of_its_name_alone() {
        let digest = "0123456789abcdef".repeat(4);
        let made = tag("digits", 7, &digest);
        assert_eq!((made.as_str(), number("digits", &made)), ("digits_000007-0123456789ab", Some(7)));
        assert_eq!(number("digits", &tag("digits", 12_345_678, &digest)), Some(12_345_678));
        for other in
            ["digits", "digits_7-0123456789ab", "digits_000007", "digits_000007-x", "digits_+00007-0123456789ab"]
        {
            assert_eq!(number("digits", other), None, "{other}");
        }
        assert_eq!(number("digit", &made), None);
        assert_eq!(number("digits-cnn", &made), None);
    }

    #[test]
    fn an_entry_is_annotated_without_its_files_and_is_called_by_its_tag() {
        let entry = Entry {
            api_version: VERSION.to_owned(),
            sequence: 1,
            act: Act::Promote,
            sha256: "sha256:0".to_owned(),
            version: "m_000001-0".to_owned(),
            files: vec![Listed { file: "model.onnx".to_owned(), sha256: "0".to_owned() }],
            bakejob: super::super::Origin { namespace: "ml".into(), name: "m".into(), uid: "u".into(), run: 1 },
            time: "2026-01-01T00:00:00Z".to_owned(),
        };
        let said = annotations(&entry).unwrap();
        assert_eq!(said[CREATED_KEY], entry.time);
        let back: Entry = serde_json::from_str(&said[ENTRY_KEY]).unwrap();
        assert_eq!(back, Entry { files: Vec::new(), ..entry.clone() });
        assert_eq!(uri_of("oci://h:5000/team/models:m", &entry), "oci://h:5000/team/models:m_000001-0");
    }
}
