//! Where the finished stages of a run lie until its result is published: `<output>/runs/<uid>-<run>/`, beside the result, in a folder or in
//! a bucket.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::clean::reason;
use crate::api::ResolvedJob;
use crate::api::wire::{Assignment, Outcome};
use crate::bake::{Checkpoints, run_of_hidden};

/// Name of the folder in the output.
const RUNS: &str = "runs";

/// The place of an assignment's run. What earlier runs of the job left goes: they ended without a result, and nobody goes on with them.
pub(super) fn of(assignment: &Assignment, job: &ResolvedJob) -> Option<Box<dyn Checkpoints>> {
    let output = &job.output;
    let run = format!("{}-{}", assignment.uid, assignment.run);
    if !run.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        tracing::warn!(run, "finished stages are not kept: this is no name for a folder");
        return None;
    }
    #[cfg(feature = "store")]
    if crate::store::named(output).is_some() {
        return bucket::of(assignment, job, run);
    }
    if let Err(error) = forget(output, &assignment.uid, |run| run < assignment.run) {
        tracing::warn!(%error, "what earlier runs left cannot be deleted");
    }
    Some(Box::new(Folder { path: output.join(RUNS).join(&run), run }))
}

/// Deletes everything that runs of a job left in its output beside a result; the outcome when that fails.
pub(super) fn clean(assignment: &Assignment, job: &ResolvedJob) -> Option<Outcome> {
    #[cfg(feature = "store")]
    if crate::store::named(&job.output).is_some() {
        return bucket::clean(assignment, job);
    }
    clean_folder(&job.output, &assignment.uid)
}

fn clean_folder(output: &Path, uid: &str) -> Option<Outcome> {
    let Err(error) = forget(output, uid, |_| true) else {
        // Where nothing was published, nothing else takes the folder away.
        let _ = std::fs::remove_dir(output);
        return None;
    };
    Some(Outcome::bare(reason(&error), format!("cannot delete the finished stages in {}: {error}", output.display())))
}

/// Deletes kept stages and hidden folders of those runs of a job that `which` picks by their number.
fn forget(output: &Path, uid: &str, which: impl Fn(u32) -> bool) -> io::Result<()> {
    let number = |run: &str| run.strip_prefix(uid)?.strip_prefix('-')?.parse::<u32>().ok();
    let picked = |run: Option<&str>| run.and_then(number).is_some_and(&which);
    let runs = output.join(RUNS);
    for (path, name) in entries(&runs)? {
        if picked(Some(&name)) {
            remove(&path)?;
        }
    }
    // Another job's stages may lie beside.
    let _ = std::fs::remove_dir(&runs);
    for (path, name) in entries(output)? {
        if picked(run_of_hidden(&name)) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// What lies in a folder; nothing where there is none.
fn entries(folder: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let found = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        found => found?,
    };
    found.map(|entry| entry.map(|e| (e.path(), e.file_name().to_string_lossy().into_owned()))).collect()
}

fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A folder of the run.
struct Folder {
    path: PathBuf,
    run: String,
}

impl Checkpoints for Folder {
    fn run(&self) -> &str {
        &self.run
    }

    fn load(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.path.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    fn save(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        std::fs::create_dir_all(&self.path)?;
        let part = self.path.join(format!(".{name}.part"));
        let mut file = std::fs::File::create(&part)?;
        file.write_all(bytes)?;
        // On the disk before its name is: a node may go down as well.
        file.sync_all()?;
        std::fs::rename(&part, self.path.join(name))
    }

    fn clear(&self) -> io::Result<()> {
        remove(&self.path)?;
        if let Some(runs) = self.path.parent() {
            // Another job's stages may lie beside.
            let _ = std::fs::remove_dir(runs);
        }
        Ok(())
    }
}

/// The same in a bucket. It is not listed, because a writer need not have that right: the names are known.
#[cfg(feature = "store")]
mod bucket {
    use std::io;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::RUNS;
    use crate::api::ResolvedJob;
    use crate::api::wire::{Assignment, Outcome};
    use crate::bake::{CHECKPOINT_NAMES, Checkpoints};
    use crate::store::{Location, Store, StoreError, named};
    use crate::worker::stored::OUTPUT;

    struct Bucket {
        /// It works with one thread, and checkpoints may be told of by any.
        store: Mutex<Store>,
        folder: Location,
        run: String,
    }

    impl Bucket {
        fn open(job: &ResolvedJob, run: String) -> Result<Self, StoreError> {
            let output = Location::folder(OUTPUT, named(&job.output).unwrap_or_default())?;
            let folder = output.join(&format!("{RUNS}/{run}"));
            Ok(Self { store: Mutex::new(Store::new(job.storage.as_ref())?), folder, run })
        }

        fn store(&self) -> MutexGuard<'_, Store> {
            self.store.lock().unwrap_or_else(PoisonError::into_inner)
        }

        fn forget(&self) -> Result<(), StoreError> {
            self.store().delete(OUTPUT, &self.folder, &CHECKPOINT_NAMES.map(str::to_owned))
        }
    }

    impl Checkpoints for Bucket {
        fn run(&self) -> &str {
            &self.run
        }

        fn load(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
            let found = self.store().read(OUTPUT, &self.folder, name).map_err(io::Error::other)?;
            Ok(found.map(|bytes| bytes.to_vec()))
        }

        fn save(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
            self.store().write(OUTPUT, &self.folder, name, bytes).map_err(io::Error::other)
        }

        fn clear(&self) -> io::Result<()> {
            self.forget().map_err(io::Error::other)
        }
    }

    pub(super) fn of(assignment: &Assignment, job: &ResolvedJob, run: String) -> Option<Box<dyn Checkpoints>> {
        let last = format!("{}-{}", assignment.uid, assignment.run.saturating_sub(1));
        let opened = Bucket::open(job, run).and_then(|bucket| {
            if assignment.run > 1 && assignment.attempt == 1 {
                Bucket::open(job, last)?.forget()?;
            }
            Ok(bucket)
        });
        match opened {
            Ok(bucket) => Some(Box::new(bucket)),
            Err(error) => {
                // The bake itself says what is wrong with the bucket, if anything is.
                tracing::warn!(%error, "finished stages are not kept");
                None
            }
        }
    }

    pub(super) fn clean(assignment: &Assignment, job: &ResolvedJob) -> Option<Outcome> {
        let run = format!("{}-{}", assignment.uid, assignment.run);
        let error = Bucket::open(job, run).and_then(|bucket| bucket.forget()).err()?;
        Some(Outcome::bare(error.reason(), error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(output: &Path, run: &str) -> Folder {
        Folder { path: output.join(RUNS).join(run), run: run.to_owned() }
    }

    #[test]
    fn a_blob_is_found_again_by_name_and_nothing_is_left_when_all_are_forgotten() {
        let output = tempfile::tempdir().unwrap();
        let place = folder(output.path(), "u-1");
        assert_eq!(place.load("a.json").unwrap(), None);
        place.clear().unwrap();
        place.save("a.json", b"1").unwrap();
        place.save("a.json", b"2").unwrap();
        assert_eq!(place.load("a.json").unwrap().unwrap(), b"2");
        assert_eq!(std::fs::read_dir(&place.path).unwrap().count(), 1);
        place.clear().unwrap();
        assert_eq!(std::fs::read_dir(output.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_runs_of_the_job_that_are_picked_are_forgotten() {
        let output = tempfile::tempdir().unwrap();
        let all = ["runs/u-1", "runs/u-2", "runs/u-1-1", "runs/v-1", ".bake-u-1.x", ".bake-u-2.x", ".bake-other"];
        all.iter().for_each(|name| std::fs::create_dir_all(output.path().join(name)).unwrap());
        let left = || all.into_iter().filter(|name| output.path().join(name).exists()).collect::<Vec<_>>();
        forget(output.path(), "u", |run| run < 2).unwrap();
        assert_eq!(left(), ["runs/u-2", "runs/u-1-1", "runs/v-1", ".bake-u-2.x", ".bake-other"]);
        assert_eq!(clean_folder(output.path(), "u"), None);
        assert_eq!(left(), ["runs/u-1-1", "runs/v-1", ".bake-other"]);
        assert_eq!(clean_folder(&output.path().join("never written"), "u"), None);
    }
}
