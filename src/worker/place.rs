//! A folder that results, their promotions and the cache lie in: one of this machine, or one of a bucket.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
#[cfg(feature = "store")]
use std::rc::Rc;

use crate::api::Reason;
use crate::api::bakejob::Storage;
use crate::api::digest::sha256_hex_of;
use crate::worker::{Failed, clean};

#[cfg(feature = "store")]
use crate::store::{Fetch, Location, Store, Upload, named};

/// How files begin that have no name yet.
pub(super) const UNNAMED: &str = ".promote-";

/// A file by its name in the folder, with what it hashes to, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) name: String,
    pub(super) sha256: String,
}

/// The folder, and the field of the job that names it.
pub(super) enum Place {
    Folder(PathBuf),
    #[cfg(feature = "store")]
    Bucket {
        store: Rc<Store>,
        folder: Location,
        field: &'static str,
    },
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            #[cfg(feature = "store")]
            Self::Bucket { folder, .. } => folder.fmt(f),
        }
    }
}

impl Place {
    #[cfg_attr(not(feature = "store"), allow(unused_variables, clippy::unnecessary_wraps))]
    pub(super) fn of(field: &'static str, path: &Path, storage: Option<&Storage>) -> Result<Self, Failed> {
        #[cfg(feature = "store")]
        if let Some(uri) = named(path) {
            let folder = Location::folder(field, uri)?;
            return Ok(Self::Bucket { store: Rc::new(Store::new(storage)?), folder, field });
        }
        Ok(Self::Folder(path.to_owned()))
    }

    /// A folder in this one.
    pub(super) fn join(&self, name: &str) -> Self {
        match self {
            Self::Folder(path) => Self::Folder(path.join(name)),
            #[cfg(feature = "store")]
            Self::Bucket { store, folder, field } => {
                Self::Bucket { store: store.clone(), folder: folder.join(name), field }
            }
        }
    }

    /// The bytes of a small file; `None` when there is none.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Failed> {
        match self {
            Self::Folder(path) => match fs::read(path.join(name)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(here(&path.join(name), &error)),
            },
            #[cfg(feature = "store")]
            Self::Bucket { store, folder, field } => Ok(store.read(field, folder, name)?.map(|bytes| bytes.to_vec())),
        }
    }

    /// Writes a small file unless there is one of that name, and says whether it did. Nobody ever sees a part of it.
    pub(super) fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, Failed> {
        match self {
            Self::Folder(path) => {
                let to = path.join(name);
                let part = written(&to, |file| file.write_all(bytes)).map_err(|error| here(&to, &error))?;
                // A rename would replace what is there; a second name of the file is refused.
                match fs::hard_link(part.path(), &to) {
                    Ok(()) => Ok(true),
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
                    Err(error) => Err(here(&to, &error)),
                }
            }
            #[cfg(feature = "store")]
            Self::Bucket { store, folder, field } => Ok(store.create(field, folder, name, bytes)?),
        }
    }

    /// Writes a small file in place of the one that is there.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Failed> {
        match self {
            Self::Folder(path) => {
                let to = path.join(name);
                written(&to, |file| file.write_all(bytes))
                    .and_then(|part| part.persist(&to).map_err(|error| error.error))
                    .map(drop)
                    .map_err(|error| here(&to, &error))
            }
            #[cfg(feature = "store")]
            Self::Bucket { store, folder, field } => Ok(store.write(field, folder, name, bytes)?),
        }
    }

    /// What a file hashes to, in hexadecimal; `None` when there is none.
    pub(super) fn sha256(&self, name: &str) -> Result<Option<String>, Failed> {
        match self {
            Self::Folder(path) => match File::open(path.join(name)).and_then(sha256_hex_of) {
                Ok(found) => Ok(Some(found)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(here(&path.join(name), &error)),
            },
            #[cfg(feature = "store")]
            Self::Bucket { store, folder, field } => Ok(store.sha256(field, folder, name)?),
        }
    }

    /// A folder of this machine with these files in it, whatever is in them: itself, or `scratch` after they were fetched.
    #[cfg_attr(not(feature = "store"), allow(unused_variables, clippy::unnecessary_wraps))]
    pub(super) fn local(&self, items: &[Item], scratch: &Path) -> Result<PathBuf, Failed> {
        match self {
            Self::Folder(path) => Ok(path.clone()),
            #[cfg(feature = "store")]
            Self::Bucket { store, folder, field } => {
                let fetch = |item: &Item| Fetch {
                    field: (*field).to_owned(),
                    from: folder.join(&item.name),
                    to: scratch.join(&item.name),
                    digest: None,
                };
                let wanted: Vec<Fetch> = items.iter().map(fetch).collect();
                for parent in wanted.iter().filter_map(|fetch| fetch.to.parent()) {
                    fs::create_dir_all(parent).map_err(|error| here(parent, &error))?;
                }
                store.fetch(&wanted, &mut |_| {})?;
                Ok(scratch.to_owned())
            }
        }
    }

    /// Copies a file of a folder of this machine, whole and as it is said to be, or not at all.
    pub(super) fn put(&self, from: &Path, item: &Item) -> Result<(), Failed> {
        match self {
            Self::Folder(path) => {
                let (from, to) = (from.join(&item.name), path.join(&item.name));
                let mut source = File::open(&from).map_err(|error| here(&from, &error))?;
                let part =
                    written(&to, |file| io::copy(&mut source, file).map(drop)).map_err(|error| here(&to, &error))?;
                let found = File::open(part.path()).and_then(sha256_hex_of).map_err(|error| here(&to, &error))?;
                if found != item.sha256 {
                    return Err(changed(&from.display(), item, &found));
                }
                part.persist(&to).map(drop).map_err(|error| here(&to, &error.error))
            }
            #[cfg(feature = "store")]
            Self::Bucket { store, folder, field } => {
                let file = Upload { name: item.name.clone(), sha256: item.sha256.clone(), names_others: false };
                Ok(store.put(field, folder, from, &file)?)
            }
        }
    }

    /// The names of the folders in this one; none where it is not there. In a bucket this needs the right to list.
    pub(super) fn folders(&self) -> Result<Vec<String>, Failed> {
        match self {
            Self::Folder(path) => {
                let entries = match fs::read_dir(path) {
                    Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                        return Ok(Vec::new());
                    }
                    entries => entries.map_err(|error| here(path, &error))?,
                };
                let folders = entries.flatten().filter(|entry| entry.path().is_dir());
                Ok(folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
            }
            #[cfg(feature = "store")]
            Self::Bucket { store, folder, field } => Ok(store.folders(field, folder)?),
        }
    }

    /// Deletes files in their order, then the folders that are empty without them. One that is not there counts as deleted.
    pub(super) fn delete(&self, names: &[String]) -> Result<(), Failed> {
        match self {
            Self::Folder(path) => clean::delete_files(path, names).map(drop).map_err(|error| here(path, &error)),
            #[cfg(feature = "store")]
            Self::Bucket { store, folder, field } => Ok(store.delete(field, folder, names)?),
        }
    }

    /// Deletes files; what cannot be deleted stays.
    pub(super) fn forget(&self, items: &[Item]) {
        match self {
            Self::Folder(path) => {
                for item in items {
                    let _ = fs::remove_file(path.join(&item.name));
                }
                // Only where nothing else lies.
                let _ = fs::remove_dir(path);
            }
            #[cfg(feature = "store")]
            Self::Bucket { store, folder, field } => {
                let names: Vec<String> = items.iter().map(|item| item.name.clone()).collect();
                if let Err(error) = store.delete(field, folder, &names) {
                    tracing::warn!(%error, "what a refused promotion wrote stays");
                }
            }
        }
    }
}

/// A file that is not the one its digest says.
pub(super) fn changed(path: &impl std::fmt::Display, item: &Item, found: &str) -> Failed {
    let Item { name, sha256 } = item;
    Failed {
        reason: Reason::InvalidData,
        message: format!(
            "{path} has sha256 {found}, and the report says {sha256} of {name}. It was changed after the bake: bake again."
        ),
    }
}

/// A failure on this machine.
pub(super) fn here(path: &Path, error: &io::Error) -> Failed {
    Failed { reason: clean::reason(error), message: format!("{}: {error}", path.display()) }
}

/// A file beside `to`, written and on the disk, that has no name yet which anybody looks for.
fn written(to: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<tempfile::NamedTempFile> {
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut part = tempfile::Builder::new().prefix(UNNAMED).tempfile_in(folder)?;
    write(part.as_file_mut())?;
    part.as_file().sync_all()?;
    // Temporary files are their owner's alone; what is promoted is for others to read.
    part.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    Ok(part)
}
