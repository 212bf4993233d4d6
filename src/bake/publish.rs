//! Writing the results: everything into a hidden folder first, then renamed into place, the report last. Nothing half-written is ever seen under a final name.
//! The result that lay there before is set aside first.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{BakeError, earlier};
use crate::signals::{HeldFolder, undivided};

/// How the name of a hidden folder begins.
const HIDDEN: &str = ".bake-";

/// How it begins for the processes of one run.
fn hidden_prefix(run: &str) -> String {
    format!("{HIDDEN}{run}.")
}

/// The run whose hidden folder has this name.
pub(crate) fn run_of_hidden(name: &str) -> Option<&str> {
    name.strip_prefix(HIDDEN)?.split_once('.').map(|(run, _)| run)
}

/// Removes the folders in `target` whose names begin with `prefix`.
fn remove_hidden(target: &Path, prefix: &str) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(target) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// An output folder in preparation. Dropped before [`Staging::publish`], or ended by a signal, it leaves nothing behind: no hidden folder, and no output
/// folder that was made for it.
#[derive(Debug)]
pub(super) struct Staging {
    folder: HeldFolder,
    target: PathBuf,
    files: Vec<PathBuf>,
}

impl Staging {
    /// Prepares to write into `target`, which is made when missing. Fails early, before any work, when it cannot be written. A process of `run` that was
    /// killed could not take its hidden folder away; that is done here.
    pub(super) fn new(target: &Path, run: Option<&str>) -> Result<Self, BakeError> {
        let failed = |source| BakeError::Output { path: target.to_owned(), source };
        let prefix = run.map_or_else(|| HIDDEN.to_owned(), hidden_prefix);
        if run.is_some() {
            remove_hidden(target, &prefix).map_err(failed)?;
        }
        earlier::check(target).map_err(|source| BakeError::Output { path: target.join(earlier::EARLIER), source })?;
        let folder = HeldFolder::inside(target, &prefix).map_err(failed)?;
        Ok(Self { folder, target: target.to_owned(), files: Vec::new() })
    }

    /// Where a file lies until it is published.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder in which a candidate lies while it is measured, by its number.
    pub(super) fn candidate(&self, number: usize) -> Result<PathBuf, BakeError> {
        let folder = self.path(&format!("candidate-{number}"));
        std::fs::create_dir_all(&folder).map_err(|source| BakeError::Output { path: folder.clone(), source })?;
        Ok(folder)
    }

    /// Adds a file with these bytes. `name` may hold folders.
    pub(super) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), BakeError> {
        self.write_with(name, |out| out.write_all(bytes))
    }

    /// Adds a file with what `fill` writes.
    pub(super) fn write_with(
        &mut self,
        name: &str,
        fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<(), BakeError> {
        let path = self.path(name);
        let write = || {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            let mut file = std::fs::File::create(&path)?;
            fill(&mut file)?;
            file.sync_all()
        };
        write().map_err(|source| BakeError::Output { path: self.target.join(name), source })?;
        self.files.push(PathBuf::from(name));
        Ok(())
    }

    /// Adds a folder that is published as one: a rename puts it into place whole, and in place of an earlier one of its kind. The caller fills it.
    pub(super) fn folder(&mut self, name: &str) -> Result<PathBuf, BakeError> {
        let path = self.path(name);
        std::fs::create_dir_all(&path).map_err(|source| BakeError::Output { path: self.target.join(name), source })?;
        self.files.push(PathBuf::from(name));
        Ok(path)
    }

    /// Adds a file that the caller wrote where [`Staging::path`] says.
    pub(super) fn adopt(&mut self, name: &str) {
        self.files.push(PathBuf::from(name));
    }

    /// Sets aside what lay there, then renames every file into place, in the order they were written. A signal ends the process before the first or
    /// after the last. Returns a sentence where something that lay there could not be kept.
    pub(super) fn publish(self) -> Result<Option<String>, BakeError> {
        let _alone = alone(&self.target);
        undivided(|| {
            let said = earlier::set_aside(&self.target, self.folder.path())?;
            self.files.iter().try_for_each(|name| self.rename(name))?;
            Ok(said)
        })
    }

    fn rename(&self, name: &Path) -> Result<(), BakeError> {
        let (from, to) = (self.folder.path().join(name), self.target.join(name));
        let rename = || {
            if let Some(parent) = to.parent() {
                std::fs::create_dir_all(parent)?;
            }
            if from.is_dir() && to.is_dir() {
                // It goes with the hidden folder.
                std::fs::rename(&to, from.with_added_extension("before"))?;
            }
            std::fs::rename(&from, &to)
        };
        rename().map_err(|source| BakeError::Output { path: to.clone(), source })
    }
}

/// Waits until no other process publishes into a folder, and keeps them waiting for as long as this is held. Where a file system knows no locks, each job
/// has a folder of its own.
fn alone(folder: &Path) -> Option<File> {
    let held = File::open(folder).ok()?;
    held.lock().ok().map(|()| held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_an_output_that_was_not_published() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let mut staging = Staging::new(&target, None).unwrap();
        staging.write("model.onnx", b"half").unwrap();
        assert!(!target.join("model.onnx").exists());
        drop(staging);
        assert!(!target.exists());
    }

    #[test]
    fn published_files_are_all_there_and_the_hidden_folder_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let mut staging = Staging::new(root.path(), None).unwrap();
        staging.write("a/b.json", b"{}").unwrap();
        staging.write("model.onnx", b"m").unwrap();
        staging.publish().unwrap();
        let mut names: Vec<_> =
            std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["a", "model.onnx"]);
    }

    #[test]
    fn a_folder_takes_the_place_of_the_one_before_as_a_whole() {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in [("old", "1"), ("new", "2")] {
            let mut staging = Staging::new(root.path(), None).unwrap();
            let folder = staging.folder("package").unwrap();
            std::fs::write(folder.join(file), text).unwrap();
            staging.write("report.json", text.as_bytes()).unwrap();
            staging.publish().unwrap();
        }
        let names = |at: &Path| {
            let mut names: Vec<_> =
                std::fs::read_dir(at).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&root.path().join("package")), ["new"]);
        assert_eq!(names(root.path()), ["package", "report.json"]);
    }

    #[test]
    fn what_names_the_others_is_gone_before_the_first_of_them_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let publish = |text: &[u8]| {
            let mut staging = Staging::new(root.path(), None).unwrap();
            for name in ["a.onnx", "b.onnx", "report.json"] {
                staging.write(name, text).unwrap();
            }
            staging.publish()
        };
        publish(b"1").unwrap();
        // The second rename fails, as if the process had ended before it.
        std::fs::remove_file(root.path().join("b.onnx")).unwrap();
        std::fs::create_dir_all(root.path().join("b.onnx/mine")).unwrap();
        assert!(publish(b"2").is_err());
        assert_eq!(std::fs::read(root.path().join("a.onnx")).unwrap(), b"2");
        assert!(!root.path().join("report.json").exists());
    }

    #[test]
    fn what_a_killed_process_of_the_run_left_goes_and_nothing_else() {
        assert_eq!(run_of_hidden(&format!("{}x1", hidden_prefix("u-1"))), Some("u-1"));
        assert_eq!((run_of_hidden(".bake-x1"), run_of_hidden("u-1.x")), (None, None));
        let root = tempfile::tempdir().unwrap();
        for folder in [".bake-u-1.killed/candidate", ".bake-u-12.other", ".bake-somebody", "runs/u-1"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let staging = Staging::new(root.path(), Some("u-1")).unwrap();
        assert!(staging.path("").starts_with(root.path()) && staging.path("").exists());
        drop(staging);
        let mut names: Vec<_> =
            std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, [".bake-somebody", ".bake-u-12.other", "runs"]);
    }

    #[test]
    fn an_output_below_a_file_is_refused_with_its_path() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("file"), b"").unwrap();
        let error = Staging::new(&root.path().join("file/out"), None).unwrap_err();
        assert!(error.to_string().contains("file/out"), "{error}");
        assert_eq!(error.reason(), crate::api::Reason::OutputUnwritable);
    }
}
