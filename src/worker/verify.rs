//! `verify` wherever the result lies: in a folder, or in a bucket or a registry, from which it is fetched into a private folder first.

use std::fs::File;
use std::path::Path;

use super::Failed;
use super::clean::stays_inside;
use super::promote::{self, CURRENT, Entry};
use crate::api::Reason;
use crate::api::digest::sha256_hex_of;
use crate::bake::verify::{self, Check, Holds, Verification};
use crate::bake::{Options, REPORT};
use crate::package::phase7;

/// Checks a finished bake, a package of phase 7 by itself, or what is promoted under a name. `data` is the validation split of a package.
pub(crate) fn verify(target: &Path, data: Option<&Path>, options: &Options) -> Result<Verification, Failed> {
    #[cfg(feature = "store")]
    if crate::store::in_registry(target).is_some()
        || [Some(target), data].into_iter().flatten().any(|path| crate::store::named(path).is_some())
    {
        return remote::verify(target, data, options);
    }
    local(target, data, options)
}

fn local(target: &Path, data: Option<&Path>, options: &Options) -> Result<Verification, Failed> {
    // A promotion is named by its record or by the folder of that.
    let named = target.file_name().is_some_and(|name| name == CURRENT);
    let folder = if named { target.parent().unwrap_or(target) } else { target };
    if named || (!holds(folder, REPORT) && !phase7::is_package(folder) && holds(folder, CURRENT)) {
        return promoted(folder, data, options);
    }
    if phase7::is_package(folder) && !holds(folder, REPORT) {
        return Ok(verify::verify_package(folder, data, options)?);
    }
    if data.is_some() {
        let message = format!(
            "--data is for a package, and {} is none. A bake's report names its own data; leave --data out.",
            folder.display()
        );
        return Err(Failed { reason: Reason::InvalidJob, message });
    }
    Ok(verify::verify(folder, options)?)
}

fn holds(folder: &Path, name: &str) -> bool {
    folder.join(name).exists()
}

/// What the newest entry of a history names: every file by its digest, then the package among them, or the bake where there is none.
fn promoted(root: &Path, data: Option<&Path>, options: &Options) -> Result<Verification, Failed> {
    let path = root.join(CURRENT);
    let invalid = |why: String| Failed { reason: Reason::InvalidData, message: format!("{} {why}", path.display()) };
    let bytes = std::fs::read(&path).map_err(|error| invalid(format!("cannot be read: {error}")))?;
    let entry = promote::parsed(&bytes).map_err(invalid)?;
    if !stays_inside(&entry.version) {
        return Err(invalid(format!("names the version '{}', which leaves its folder", entry.version)));
    }
    let folder = root.join(&entry.version);
    let mut checks = digests(&folder, &entry);
    let whole = checks.iter().all(|check| check.holds == Holds::Yes);
    let package = folder.join(phase7::FOLDER);
    let listed = format!("{}/{}", phase7::FOLDER, phase7::MANIFEST_FILE);
    let mut found = match entry.files.iter().any(|file| file.file == listed) {
        // What is another file than the one that was promoted is not run.
        _ if !whole => Verification { job: entry.bakejob.name.clone(), ..Verification::default() },
        true => verify::verify_package(&package, data, options)?,
        false => local(&folder, data, options)?,
    };
    checks.append(&mut found.checks);
    found.checks = checks;
    found.remarks.push(format!("{}.", promote::said(&entry)));
    Ok(found)
}

/// The files of an entry as they lie there.
fn digests(folder: &Path, entry: &Entry) -> Vec<Check> {
    let short = |sha256: &str| sha256.chars().take(12).collect::<String>();
    let check = |file: &str, sha256: &str| {
        let no = |why: String| ("-".to_owned(), Holds::No(why));
        let (measured, holds) = if stays_inside(file) {
            match File::open(folder.join(file)).and_then(sha256_hex_of) {
                Ok(found) if found.eq_ignore_ascii_case(sha256) => (short(&found), Holds::Yes),
                Ok(found) => {
                    let why = "DigestMismatch: it is another file than the one that was promoted";
                    (short(&found), Holds::No(why.to_owned()))
                }
                Err(error) => no(format!("FileMissing: it cannot be read: {error}")),
            }
        } else {
            no("UnsafePath: it leaves the folder of its version".to_owned())
        };
        Check { claim: format!("promoted {file}"), claimed: short(sha256), measured, holds }
    };
    entry.files.iter().map(|listed| check(&listed.file, &listed.sha256)).collect()
}

#[cfg(feature = "store")]
mod remote {
    use std::path::{Path, PathBuf};

    use serde_json::Value;

    use super::{CURRENT, Failed, Options, REPORT, Reason, Verification, local};
    use crate::bake::verify::Holds;
    use crate::package::oci::{self, Manifest};
    use crate::package::phase7::{self, MANIFEST_FILE};
    use crate::store::{Fetch, Location, Reference, Registry, Store, in_registry, named};
    use crate::worker::clean::stays_inside;
    use crate::worker::scratch;

    /// What messages call the place.
    const FIELD: &str = "verify";

    pub(super) fn verify(target: &Path, data: Option<&Path>, options: &Options) -> Result<Verification, Failed> {
        let held = scratch()?;
        let store = Store::new(None)?;
        let mut called = Vec::new();
        let mut folder = target.to_owned();
        if let Some(uri) = named(target) {
            folder = held.path().join("result");
            let uri = uri.trim_end_matches('/');
            let root = uri.strip_suffix(CURRENT).filter(|root| root.ends_with('/')).unwrap_or(uri);
            fetch_result(&store, root, root.len() < uri.len(), &folder)?;
            called.push((folder.clone(), root.trim_end_matches('/').to_owned()));
        }
        if let Some(uri) = in_registry(target) {
            folder = held.path().join("result");
            let inside = fetch_artifact(uri, &folder)?;
            called.push((folder.clone(), uri.to_owned()));
            folder = folder.join(inside);
        }
        let mut split = data.map(Path::to_owned);
        if let Some(uri) = data.and_then(named) {
            let from = Location::object("--data", uri)?;
            let to = held.path().join("data").join(from.file_name());
            fetch(&store, vec![(from, to.clone())])?;
            called.push((to.clone(), uri.to_owned()));
            split = Some(to);
        }
        let ended = local(&folder, split.as_deref(), options);
        let mut found = ended.map_err(|failed| Failed { message: renamed(&failed.message, &called), ..failed })?;
        for check in &mut found.checks {
            check.measured = renamed(&check.measured, &called);
            if let Holds::No(why) | Holds::Unchecked(why) = &mut check.holds {
                *why = renamed(why, &called);
            }
        }
        found.remarks.iter_mut().for_each(|remark| *remark = renamed(remark, &called));
        if in_registry(target).is_some() {
            found
                .remarks
                .push("Every layer of the artifact was fetched and has the digest that its manifest names.".to_owned());
        }
        if named(target).is_some() {
            found.remarks.push(
                "Of the bucket, only what the manifest lists was fetched: other objects were not looked for."
                    .to_owned(),
            );
        }
        Ok(found)
    }

    /// The manifest, the report or the record of a promotion, and what it lists. `promotion`: it must be the last of these.
    fn fetch_result(store: &Store, uri: &str, promotion: bool, to: &Path) -> Result<(), Failed> {
        let from = Location::folder(FIELD, uri)?;
        let kinds = [(MANIFEST_FILE, "files", "path"), (REPORT, "artifacts", "file"), (CURRENT, "files", "file")];
        for (name, list, key) in kinds.into_iter().filter(|(name, ..)| !promotion || *name == CURRENT) {
            let Some(text) = store.read(FIELD, &from, name)? else { continue };
            make(to)?;
            std::fs::write(to.join(name), &text).map_err(|error| unwritable(&to.join(name), &error))?;
            // What cannot be read is said by whoever checks it.
            let value: Value = serde_json::from_slice(&text).unwrap_or_default();
            let version = value["version"].as_str().filter(|version| name == CURRENT && stays_inside(version));
            let place = |name: &str| version.map_or_else(|| name.to_owned(), |version| format!("{version}/{name}"));
            let listed = value[list].as_array().into_iter().flatten().filter_map(|file| file[key].as_str());
            let listed = listed.filter(|listed| stays_inside(listed) && *listed != name).map(place);
            return fetch(store, listed.map(|name| (from.join(&name), to.join(&name))).collect());
        }
        let message = if promotion {
            format!("{uri}{CURRENT} is not there: nothing was promoted under this name.")
        } else {
            format!(
                "{uri} holds neither {MANIFEST_FILE} nor {REPORT} nor {CURRENT}. Give the folder of a package, of a finished bake or of a promoted name."
            )
        };
        Err(Failed { reason: Reason::InvalidJob, message })
    }

    /// All files of an artifact. Returns the folder in it to check: that of the package, where there is one.
    fn fetch_artifact(uri: &str, to: &Path) -> Result<&'static str, Failed> {
        let reference = Reference::parse(FIELD, uri)?;
        let refuse = |reason, why: &str| Failed { reason, message: format!("{FIELD}: {uri} {why}") };
        let Some(name) = reference.digest.clone().or_else(|| reference.tag.clone()) else {
            return Err(refuse(Reason::InvalidJob, "names no tag. Name one, as oci://host/repository:tag."));
        };
        let registry = Registry::new(FIELD, reference, None)?;
        let bytes = registry
            .manifest(&name, oci::MANIFEST_TYPE)?
            .ok_or_else(|| refuse(Reason::InvalidJob, "is not there. Correct the URI."))?;
        let wrong = |why: String| refuse(Reason::InvalidData, &format!("cannot be checked: {why}."));
        let files = Manifest::parse(&bytes).and_then(|manifest| manifest.files()).map_err(wrong)?;
        make(to)?;
        for file in &files {
            let path = to.join(&file.path);
            make(path.parent().unwrap_or(to))?;
            tracing::info!(file = file.path, "fetching");
            registry.fetch_blob(&file.sha256, file.bytes, &path)?;
        }
        Ok(if phase7::is_package(&to.join(phase7::FOLDER)) { phase7::FOLDER } else { "" })
    }

    /// Objects and the files that they become, all at once; one after the other where one is missing: that is found where it is checked.
    fn fetch(store: &Store, objects: Vec<(Location, PathBuf)>) -> Result<(), Failed> {
        let mut wanted = Vec::new();
        for (from, to) in objects {
            make(to.parent().unwrap_or(&to))?;
            wanted.push(Fetch { field: FIELD.to_owned(), from, to, digest: None });
        }
        let get = |wanted: &[Fetch]| match store.fetch(wanted, &mut |text| tracing::info!("{text}")) {
            Err(error) if error.is_missing() => Ok(false),
            ended => ended.map(|()| true),
        };
        if !get(&wanted)? {
            for one in &wanted {
                get(std::slice::from_ref(one))?;
            }
        }
        Ok(())
    }

    fn make(folder: &Path) -> Result<(), Failed> {
        std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))
    }

    fn unwritable(path: &Path, error: &std::io::Error) -> Failed {
        let message =
            format!("cannot write {}: {error}. Free space there, or set TMPDIR to another folder.", path.display());
        Failed { reason: Reason::OutputUnwritable, message }
    }

    /// The same text, calling fetched files by their URIs.
    fn renamed(text: &str, called: &[(PathBuf, String)]) -> String {
        called.iter().fold(text.to_owned(), |text, (path, uri)| text.replace(&*path.to_string_lossy(), uri))
    }
}
