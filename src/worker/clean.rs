//! Deletes what a bake wrote, and nothing else: the files that its report names, the report, and the folder when nothing is left in it. Of a bucket, the
//! objects of those names.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::api::wire::Outcome;
use crate::api::{Reason, ResolvedJob};
use crate::bake::report::Artifact;
use crate::bake::{REPORT, Report};

pub(super) fn clean(job: &ResolvedJob) -> Outcome {
    #[cfg(feature = "store")]
    if let Some(uri) = crate::store::named(&job.output) {
        return super::stored::clean(job, uri);
    }
    folder(&job.output)
}

/// The files of a bake that its report names; any that would lie outside its folder are left out.
pub(super) fn named_by(report: &[u8]) -> serde_json::Result<Vec<String>> {
    let report: Report = serde_json::from_slice(report)?;
    Ok(inside(&report.artifacts).map(|artifact| artifact.file.clone()).collect())
}

/// The artifacts that lie in their folder.
pub(super) fn inside(artifacts: &[Artifact]) -> impl Iterator<Item = &Artifact> {
    artifacts.iter().filter(|artifact| stays_inside(&artifact.file))
}

/// Whether a name is one of a file in the folder that it is looked for in.
pub(super) fn stays_inside(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

fn folder(output: &Path) -> Outcome {
    match delete(output) {
        Ok(count) => Outcome::bare(Reason::Baked, format!("Deleted {count} files of {}", output.display())),
        Err(error) => {
            Outcome::bare(reason(&error), format!("cannot delete the files of {}: {error}", output.display()))
        }
    }
}

/// What a failure to delete in a folder is called.
pub(super) fn reason(error: &std::io::Error) -> Reason {
    match error.kind() {
        ErrorKind::PermissionDenied => Reason::AccessDenied,
        _ => Reason::OutputUnwritable,
    }
}

fn delete(output: &Path) -> std::io::Result<usize> {
    let text = match std::fs::read(output.join(REPORT)) {
        Ok(text) => text,
        // Nothing was published, or it is deleted already.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut files = named_by(&text)
        .map_err(|error| std::io::Error::new(ErrorKind::InvalidData, format!("report.json: {error}")))?;
    // The report last: without it a second try would not know the files.
    files.push(REPORT.to_owned());
    delete_files(output, &files)
}

/// Deletes files by name, in their order, then the folders that they leave empty.
pub(super) fn delete_files(output: &Path, files: &[String]) -> std::io::Result<usize> {
    let mut count = 0;
    for path in files.iter().map(|file| output.join(file)) {
        match std::fs::remove_file(&path) {
            Ok(()) => count += 1,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    // Folders of a result, the deepest first. Somebody else's files may lie beside: what is not empty stays.
    let mut folders: Vec<PathBuf> =
        files.iter().flat_map(|file| Path::new(file).ancestors().skip(1)).map(|folder| output.join(folder)).collect();
    folders.sort_by_key(|folder| std::cmp::Reverse(folder.components().count()));
    for folder in folders {
        let _ = std::fs::remove_dir(folder);
    }
    let _ = std::fs::remove_dir(output);
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_was_never_written_is_clean() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(super::folder(&folder.path().join("none")).reason, Reason::Baked);
    }

    #[test]
    fn folders_of_a_result_go_with_their_files_and_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        let path = |name: &str| output.join(name);
        for name in ["phase7/manifest.json", "phase7/data/weights.bin", "mine/notes.txt"] {
            std::fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            std::fs::write(path(name), b"x").unwrap();
        }
        let named = ["phase7/manifest.json", "phase7/data/weights.bin", "gone"].map(str::to_owned);
        assert_eq!(delete_files(&output, &named).unwrap(), 2);
        assert!(!path("phase7").exists() && path("mine/notes.txt").exists());
    }

    #[test]
    fn files_without_a_report_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.onnx"), b"somebody's").unwrap();
        assert_eq!(super::folder(folder.path()).reason, Reason::Baked);
        assert!(folder.path().join("model.onnx").exists());
        std::fs::write(folder.path().join("report.json"), b"{}").unwrap();
        assert_eq!(super::folder(folder.path()).reason, Reason::OutputUnwritable);
        assert!(folder.path().join("model.onnx").exists());
    }
}
