//! What lies in a place, and how it goes.

use std::fs;
use std::io::ErrorKind;

use crate::worker::promote::place::{Place, here};
use crate::worker::{Failed, clean};

impl Place {
    /// The names of the folders in this one; none where it is not there. In a bucket this needs the right to list.
    pub(in crate::worker) fn folders(&self) -> Result<Vec<String>, Failed> {
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
    pub(in crate::worker) fn delete(&self, names: &[String]) -> Result<(), Failed> {
        match self {
            Self::Folder(path) => clean::delete_files(path, names).map(drop).map_err(|error| here(path, &error)),
            #[cfg(feature = "store")]
            Self::Bucket { store, folder, field } => Ok(store.delete(field, folder, names)?),
        }
    }
}
