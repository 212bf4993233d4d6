//! The artifact's files on their way into the output: moved or copied, never held in memory.

use std::path::{Path, PathBuf};

use super::publish::Staging;
use super::report::Artifact;
use super::{BakeError, MODEL_FILE};
use crate::api::digest::sha256_hex_of;
use crate::model::{Source, mapped};

/// Where the artifact's files are.
pub(super) enum Files {
    /// A candidate, in the folder where it was measured.
    Made(PathBuf),
    /// The input's own files, as they were when it was loaded.
    Input(Source),
}

impl Files {
    /// Puts them under their final names in the staging folder and lists them, the model first.
    pub(super) fn stage(&self, staging: &mut Staging) -> Result<Vec<Artifact>, BakeError> {
        let mut names = vec![MODEL_FILE.to_owned()];
        match self {
            Self::Made(folder) => {
                let failed = |source| BakeError::Output { path: folder.clone(), source };
                for entry in std::fs::read_dir(folder).map_err(failed)? {
                    let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
                    if name != MODEL_FILE {
                        names.push(name);
                    }
                }
                names[1..].sort();
                for name in &names {
                    std::fs::rename(folder.join(name), staging.path(name)).map_err(failed)?;
                    staging.adopt(name);
                }
            }
            Self::Input(source) => {
                staging.write_with(MODEL_FILE, |out| mapped::pour(&source.file, out))?;
                for (name, bytes) in &source.beside {
                    staging.write_with(name, |out| mapped::pour(bytes, out))?;
                    names.push(name.clone());
                }
            }
        }
        let format = |i: usize| if i == 0 { "ONNX" } else { "ONNXData" };
        names.iter().enumerate().map(|(i, name)| listed(format(i), name, &staging.path(name))).collect()
    }
}

/// A written file as the report lists it.
pub(super) fn listed(format: &str, name: &str, path: &Path) -> Result<Artifact, BakeError> {
    let failed = |source| BakeError::Output { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    Ok(Artifact {
        format: format.to_owned(),
        file: name.to_owned(),
        sha256: sha256_hex_of(file).map_err(failed)?,
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::digest::sha256_hex;

    #[test]
    fn a_candidate_is_moved_and_the_input_is_written_as_it_was_loaded() {
        let root = tempfile::tempdir().unwrap();
        let mut staging = Staging::new(root.path(), None).unwrap();
        let folder = staging.candidate(1).unwrap();
        std::fs::write(folder.join("model.onnx.data"), b"weights").unwrap();
        std::fs::write(folder.join(MODEL_FILE), b"graph").unwrap();
        let listed = Files::Made(folder.clone()).stage(&mut staging).unwrap();
        let expected = [("ONNX", MODEL_FILE, "graph"), ("ONNXData", "model.onnx.data", "weights")];
        for (artifact, (format, name, text)) in listed.iter().zip(expected) {
            assert_eq!((artifact.format.as_str(), artifact.file.as_str()), (format, name));
            assert_eq!((artifact.sha256.as_str(), artifact.bytes), (&*sha256_hex(text.as_bytes()), text.len() as u64));
            assert!(staging.path(name).exists() && !folder.join(name).exists());
        }

        let source = Source { file: "g".into(), beside: vec![("a/w.bin".into(), "w".into())] };
        let mut staging = Staging::new(root.path(), None).unwrap();
        let listed = Files::Input(source).stage(&mut staging).unwrap();
        assert_eq!(listed.iter().map(|a| a.file.as_str()).collect::<Vec<_>>(), [MODEL_FILE, "a/w.bin"]);
        staging.publish().unwrap();
        assert_eq!(std::fs::read(root.path().join("a/w.bin")).unwrap(), b"w");
    }
}
