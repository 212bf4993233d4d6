//! `verify` wherever the result lies: in a folder, or in a bucket or a registry, from which it is fetched into a private folder first.

use std::path::Path;

use super::Failed;
use crate::api::Reason;
use crate::bake::Options;
use crate::bake::verify::{self, Verification};
use crate::package::phase7;

/// The file that a finished bake has and a package has not.
const REPORT: &str = "report.json";

/// Checks a finished bake, or a package of phase 7 by itself. `data` is the validation split of a package.
pub(crate) fn verify(target: &Path, data: Option<&Path>, options: &Options) -> Result<Verification, Failed> {
    #[cfg(feature = "store")]
    if crate::store::in_registry(target).is_some()
        || [Some(target), data].into_iter().flatten().any(|path| crate::store::named(path).is_some())
    {
        return remote::verify(target, data, options);
    }
    local(target, data, options)
}

fn local(folder: &Path, data: Option<&Path>, options: &Options) -> Result<Verification, Failed> {
    if phase7::is_package(folder) && !folder.join(REPORT).exists() {
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

#[cfg(feature = "store")]
mod remote {
    use std::path::{Path, PathBuf};

    use serde_json::Value;

    use super::{Failed, Options, REPORT, Reason, Verification, local};
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
            fetch_result(&store, uri, &folder)?;
            called.push((folder.clone(), uri.trim_end_matches('/').to_owned()));
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
            fetch(&store, from, &to)?;
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

    /// The manifest, or the report, and what it lists.
    fn fetch_result(store: &Store, uri: &str, to: &Path) -> Result<(), Failed> {
        let from = Location::folder(FIELD, uri)?;
        for (name, list, key) in [(MANIFEST_FILE, "files", "path"), (REPORT, "artifacts", "file")] {
            let Some(text) = store.read(FIELD, &from, name)? else { continue };
            make(to)?;
            std::fs::write(to.join(name), &text).map_err(|error| unwritable(&to.join(name), &error))?;
            // What cannot be read is said by whoever checks it.
            let value: Value = serde_json::from_slice(&text).unwrap_or_default();
            let named = value[list].as_array().into_iter().flatten().filter_map(|file| file[key].as_str());
            for name in named.filter(|name| stays_inside(name) && *name != MANIFEST_FILE) {
                fetch(store, from.join(name), &to.join(name))?;
            }
            return Ok(());
        }
        Err(Failed {
            reason: Reason::InvalidJob,
            message: format!(
                "{uri} holds neither {MANIFEST_FILE} nor {REPORT}. Give the folder of a package or of a finished bake."
            ),
        })
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

    /// One object; that it is missing is found where it is checked.
    fn fetch(store: &Store, from: Location, to: &Path) -> Result<(), Failed> {
        make(to.parent().unwrap_or(to))?;
        let wanted = Fetch { field: FIELD.to_owned(), from, to: to.to_owned(), digest: None };
        match store.fetch(&[wanted], &mut |text| tracing::info!("{text}")) {
            Err(error) if !error.is_missing() => Err(error.into()),
            _ => Ok(()),
        }
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
