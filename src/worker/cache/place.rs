//! What a cache needs of its place beside what a promotion does: to see all that lies there, and to delete some of it.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use jiff::Timestamp;

use crate::worker::place::Place;
use crate::worker::{Failed, clean};

/// A file in a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// Its name, with slashes between folders.
    pub(super) name: String,
    pub(super) bytes: u64,
    /// When it was written.
    pub(super) modified: Timestamp,
}

/// Everything that lies there, in the order of the names.
pub(super) fn list(place: &Place) -> Result<Vec<Listed>, Failed> {
    let mut found = Vec::new();
    match place {
        Place::Folder(path) => walk(path, "", &mut found)?,
        #[cfg(feature = "store")]
        Place::Bucket { store, folder, field } => {
            let objects = store.list(field, folder)?.into_iter();
            found.extend(objects.map(|o| Listed { name: o.name, bytes: o.bytes, modified: o.modified }));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Files of a folder and of those in it. Links are not followed: what they lead to is not ours.
fn walk(folder: &Path, prefix: &str, found: &mut Vec<Listed>) -> Result<(), Failed> {
    let failed = |error: &std::io::Error| Failed {
        reason: clean::reason(error),
        message: format!("{} cannot be listed: {error}", folder.display()),
    };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| failed(&error))?,
    };
    for entry in entries {
        let entry = entry.map_err(|error| failed(&error))?;
        // A name that is no text is none of ours.
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let metadata = match entry.metadata() {
            // Somebody was quicker.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            metadata => metadata.map_err(|error| failed(&error))?,
        };
        if metadata.is_dir() {
            walk(&entry.path(), &name, found)?;
        } else if metadata.is_file() {
            let modified = metadata.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
            found.push(Listed { name, bytes: metadata.len(), modified: modified.unwrap_or_default() });
        }
    }
    Ok(())
}

/// Deletes files, in this order, then the folders that they leave empty. One that is not there counts as deleted.
pub(super) fn remove(place: &Place, names: &[String]) -> Result<(), Failed> {
    match place {
        Place::Folder(root) => {
            for name in names {
                let path = root.join(name);
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        let message = format!("{} cannot be deleted: {error}", path.display());
                        return Err(Failed { reason: clean::reason(&error), message });
                    }
                    _ => {}
                }
            }
            for name in names {
                // The deepest first. Where somebody else's files lie, it stays.
                let folders = Path::new(name).ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
                for folder in folders {
                    let _ = fs::remove_dir(root.join(folder));
                }
            }
            Ok(())
        }
        #[cfg(feature = "store")]
        Place::Bucket { store, folder, field } => Ok(store.delete(field, folder, names)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_listed_by_name_and_folders_go_with_their_last_file() {
        let root = tempfile::tempdir().unwrap();
        let place = Place::Folder(root.path().join("cache"));
        assert_eq!(list(&place).unwrap(), []);
        for name in ["a/b/model.onnx", "a/entry.json", "mine"] {
            let path = root.path().join("cache").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        std::os::unix::fs::symlink("/etc", root.path().join("cache/link")).unwrap();
        let names = || list(&place).unwrap().into_iter().map(|file| (file.name, file.bytes)).collect::<Vec<_>>();
        assert_eq!(names(), [("a/b/model.onnx".into(), 14), ("a/entry.json".into(), 12), ("mine".into(), 4)]);
        remove(&place, &["a/entry.json".into(), "a/b/model.onnx".into(), "a/gone".into()]).unwrap();
        assert_eq!(names(), [("mine".into(), 4)]);
        assert!(!root.path().join("cache/a").exists());
    }
}
