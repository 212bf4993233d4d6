//! Deletes what a bake wrote, and nothing else: the files that its report names, the report, and the folder when nothing is left in it. Of a bucket, the
//! objects of those names.

use std::io::ErrorKind;
use std::path::Path;

use crate::api::wire::Outcome;
use crate::api::{Reason, ResolvedJob};
use crate::bake::Report;

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
    let inside =
        |file: &String| Path::new(file).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    Ok(report.artifacts.into_iter().map(|artifact| artifact.file).filter(inside).collect())
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
    let report = output.join("report.json");
    let text = match std::fs::read(&report) {
        Ok(text) => text,
        // Nothing was published, or it is deleted already.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let files = named_by(&text)
        .map_err(|error| std::io::Error::new(ErrorKind::InvalidData, format!("report.json: {error}")))?;
    let mut count = 0;
    // The report last: without it a second try would not know the files.
    for path in files.iter().map(|file| output.join(file)).chain([report]) {
        match std::fs::remove_file(&path) {
            Ok(()) => count += 1,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    // Somebody else's files may lie beside.
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
