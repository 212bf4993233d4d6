//! What calibration saw, kept by the digest of what decides it: another bake of the same model and samples, with other gates or another goal, reads it
//! instead of running the samples.
//!
//! Files lie side by side in one folder of this machine, each under its key. Whoever reads one checks its digest and its key; what is damaged or somebody
//! else's is left alone, said and calibrated anew. What is used least goes when the folder grows beyond its bound.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::bake::checkpoint::sealed;
use crate::optimizer::calibration::Spread;

/// Schema of a file.
const VERSION: &str = "bakehouse.dev/spreads/v1";

/// A file of more bytes is not kept.
const MOST_OF_ONE: usize = 64 << 20;

/// Bytes of all files together.
const MOST_OF_ALL: u64 = 256 << 20;

const END: &str = ".json";

/// Spreads by the name of the tensor.
pub(in crate::bake) type Spreads = BTreeMap<String, Spread>;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Saved<S> {
    api_version: String,
    key: String,
    spreads: S,
}

/// The folder of one machine.
#[derive(Debug, Clone, Copy)]
pub(in crate::bake) struct Shelf<'a> {
    folder: &'a Path,
    most: u64,
}

impl<'a> Shelf<'a> {
    pub(in crate::bake) fn new(folder: &'a Path) -> Self {
        Self { folder, most: MOST_OF_ALL }
    }

    fn path(self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}{END}"))
    }

    /// What is kept under a key; `None` when nothing is. An error is a sentence on why what lies there is not used.
    pub(in crate::bake) fn take(self, key: &str) -> Result<Option<Spreads>, String> {
        let path = self.path(key);
        let not_used = |why: String| format!("{} is not used: {why}; the samples were run.", path.display());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(not_used(format!("it cannot be read: {error}"))),
        };
        let saved: Saved<Spreads> = sealed::open(&bytes)
            .and_then(|text| serde_json::from_str(text).map_err(|e| format!("it does not keep its own schema: {e}")))
            .map_err(not_used)?;
        if saved.api_version != VERSION || saved.key != key {
            return Err(not_used("it is that of another calibration".to_owned()));
        }
        // Who may only read it uses it all the same.
        let _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Ok(Some(saved.spreads))
    }

    /// Keeps spreads, whole or not at all, in place of what lies there.
    pub(in crate::bake) fn keep(self, key: &str, spreads: &Spreads) -> io::Result<()> {
        let saved = Saved { api_version: VERSION.to_owned(), key: key.to_owned(), spreads };
        let text = sealed::seal(&serde_json::to_string(&saved).map_err(io::Error::other)?);
        if text.len() > MOST_OF_ONE {
            return Ok(());
        }
        fs::create_dir_all(self.folder)?;
        let mut file = tempfile::NamedTempFile::new_in(self.folder)?;
        file.write_all(text.as_bytes())?;
        file.persist(self.path(key)).map_err(|error| error.error)?;
        self.tidy(key)
    }

    /// Deletes those not used for longest until the rest fits, but for the one just written.
    fn tidy(self, just_written: &str) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(key) = name.to_str().and_then(|name| name.strip_suffix(END)).filter(|key| is_key(key)) else {
                continue;
            };
            let metadata = entry.metadata()?;
            if key != just_written && metadata.is_file() {
                files.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        files.sort();
        let written = self.path(just_written).metadata()?.len();
        let mut all = written + files.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
        for (_, bytes, path) in files {
            if all <= self.most {
                break;
            }
            fs::remove_file(path)?;
            all -= bytes;
        }
        Ok(())
    }
}

/// Whether a name is a digest, which nobody gives a file of theirs by chance.
fn is_key(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spreads(seed: usize) -> Spreads {
        let values: Vec<f32> = (0..900).map(|i| ((i + seed) as f32 * 0.731).sin()).collect();
        let spread = Spread::of(&[900], &values, None, usize::MAX);
        BTreeMap::from([("a".to_owned(), spread), ("zeros".to_owned(), Spread::default())])
    }

    fn key(of: char) -> String {
        of.to_string().repeat(64)
    }

    #[test]
    fn what_was_kept_is_taken_to_the_bit_and_nothing_is_found_under_another_key() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("not made yet");
        let shelf = Shelf::new(&folder);
        assert_eq!(shelf.take(&key('a')), Ok(None));
        shelf.keep(&key('a'), &spreads(1)).unwrap();
        assert_eq!(shelf.take(&key('a')), Ok(Some(spreads(1))));
        assert_eq!(shelf.take(&key('b')), Ok(None));
        shelf.keep(&key('a'), &spreads(2)).unwrap();
        assert_eq!(shelf.take(&key('a')), Ok(Some(spreads(2))), "the last one counts");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn what_is_damaged_or_somebody_elses_is_not_used_and_that_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path());
        shelf.keep(&key('a'), &spreads(1)).unwrap();
        let path = shelf.path(&key('a'));
        let whole = fs::read(&path).unwrap();
        let of_another = fs::read(&path).unwrap();
        fs::write(shelf.path(&key('b')), of_another).unwrap();
        assert!(shelf.take(&key('b')).unwrap_err().contains("it is that of another calibration"));
        for (bytes, what) in [
            (whole[..whole.len() / 2].to_vec(), "it is damaged"),
            (b"PK\x03\x04".to_vec(), "it is damaged"),
            (Vec::new(), "it is damaged"),
            (sealed::seal("{\"apiVersion\":\"x\"}").into_bytes(), "its own schema"),
        ] {
            fs::write(&path, bytes).unwrap();
            let said = shelf.take(&key('a')).unwrap_err();
            assert!(said.contains(what) && said.contains(&key('a')), "{said}");
        }
        shelf.keep(&key('a'), &spreads(1)).unwrap();
        assert_eq!(shelf.take(&key('a')), Ok(Some(spreads(1))), "it is written over");
    }

    #[test]
    fn the_folder_stays_within_its_bound_and_what_was_used_last_stays() {
        let folder = tempfile::tempdir().unwrap();
        let plain = Shelf::new(folder.path());
        for of in ['a', 'b', 'c'] {
            plain.keep(&key(of), &spreads(1)).unwrap();
        }
        let one = plain.path(&key('a')).metadata().unwrap().len();
        for (of, hours) in [('a', 1), ('b', 3), ('c', 2)] {
            let file = File::options().append(true).open(plain.path(&key(of))).unwrap();
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(hours * 3600)).unwrap();
        }
        fs::write(folder.path().join("mine.json"), vec![0; 4096]).unwrap();
        let tight = Shelf { most: 3 * one, ..plain };
        assert!(tight.take(&key('b')).unwrap().is_some(), "which makes it the one used last");
        tight.keep(&key('d'), &spreads(1)).unwrap();
        let there = |of| plain.path(&key(of)).exists();
        assert_eq!(['a', 'b', 'c', 'd'].map(there), [true, true, false, true]);
        assert!(folder.path().join("mine.json").exists());
    }
}
