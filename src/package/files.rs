//! Files of a package: inside its folder, of the stated size, with the stated digest.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::PackageError;
use super::manifest::PackagedFile;
use crate::api::digest::sha256_hex_of;

/// The longest path in a package; object storage takes no longer key.
const LONGEST_PATH: usize = 1024;

/// Why a path of a manifest is refused, if it is. Only plain relative paths stay: each part is a name, so that it means the same as a file and as a key.
pub(super) fn wrong_path(path: &str) -> Option<String> {
    if path.is_empty() || path.len() > LONGEST_PATH {
        return Some(format!("a path takes 1 to {LONGEST_PATH} bytes"));
    }
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Some(format!("'{path}' leaves the package. Name a file inside it, relative to its folder."));
    }
    let plain = |part: &str| !part.is_empty() && part != "." && !part.contains(['\\', '\0']);
    (!path.split('/').all(plain)).then(|| format!("'{path}' is no plain relative path. Write it as folder/file."))
}

/// Why something is no SHA-256, if it is none.
pub(super) fn wrong_digest(text: &str) -> Option<String> {
    let hexadecimal = text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (!hexadecimal).then(|| format!("'{text}' is no SHA-256: 64 hexadecimal digits in lower case"))
}

/// The folder of a package.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
    canonical: PathBuf,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, PackageError> {
        let canonical = path.canonicalize().map_err(|source| PackageError::Read { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), canonical })
    }

    /// A regular file inside the folder, links followed; `None` when there is nothing of this name.
    pub(super) fn find(&self, name: &str) -> Result<Option<PathBuf>, String> {
        let path = self.path.join(name);
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("'{name}' cannot be opened: {error}")),
        };
        if !real.starts_with(&self.canonical) {
            return Err(format!("'{name}' is a link that leaves the package. Put the file itself there."));
        }
        if !real.is_file() {
            return Err(format!("'{name}' is not a regular file"));
        }
        Ok(Some(path))
    }

    /// The file that a manifest names, once its size and its digest are what the manifest says.
    pub(super) fn checked(&self, file: &PackagedFile) -> Result<PathBuf, String> {
        let PackagedFile { path: name, sha256, bytes } = file;
        let path = self
            .find(name)?
            .ok_or_else(|| format!("'{name}' is not there. The package was copied in part; copy it again."))?;
        let (found, length) = measured(&path).map_err(|error| format!("'{name}' cannot be read: {error}"))?;
        if length != *bytes {
            return Err(format!(
                "'{name}' has {length} bytes, the manifest says {bytes}. It was changed or copied in part; copy the package again."
            ));
        }
        if found != *sha256 {
            return Err(format!(
                "'{name}' has sha256 {found}, the manifest says {sha256}. It was changed; copy the package again, or write it anew with `bakehouse package`."
            ));
        }
        Ok(path)
    }
}

/// SHA-256 and size of a file.
pub(super) fn measured(path: &Path) -> std::io::Result<(String, u64)> {
    let file = File::open(path)?;
    Ok((sha256_hex_of(&file)?, file.metadata()?.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::digest::sha256_hex;

    #[test]
    fn only_plain_relative_paths_stay() {
        for path in ["model.onnx", "data/validation.npz", "a b/ä..onnx", "..a", "a/...b"] {
            assert_eq!(wrong_path(path), None, "{path}");
        }
        for path in ["/etc/passwd", "..", "../x", "a/../../x", "a/.."] {
            assert!(wrong_path(path).unwrap().contains("leaves the package"), "{path}");
        }
        for path in ["", "a//b", "a/", "./a", "a\\b", "a\0", &"a".repeat(1025)] {
            assert!(wrong_path(path).is_some(), "{path}");
        }
    }

    #[test]
    fn a_digest_is_64_lower_case_digits() {
        assert_eq!(wrong_digest(&"0f".repeat(32)), None);
        for text in ["", "0f", &"0F".repeat(32), &"g".repeat(64), &format!("sha256:{}", "0".repeat(64))] {
            assert!(wrong_digest(text).is_some(), "{text}");
        }
    }

    #[test]
    fn a_file_is_the_one_that_is_named_or_refused_with_both_figures() {
        let root = tempfile::tempdir().unwrap();
        let inside = root.path().join("p");
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(root.path().join("secret"), b"secret").unwrap();
        std::fs::write(inside.join("a"), b"weights").unwrap();
        std::os::unix::fs::symlink("../secret", inside.join("link")).unwrap();
        std::os::unix::fs::symlink("a", inside.join("inner")).unwrap();
        let folder = Folder::open(&inside).unwrap();
        let file = |path: &str, bytes: u64| PackagedFile { path: path.into(), sha256: sha256_hex(b"weights"), bytes };
        assert_eq!(folder.checked(&file("a", 7)), Ok(inside.join("a")));
        assert_eq!(folder.checked(&file("inner", 7)), Ok(inside.join("inner")));
        for (file, said) in [
            (file("a", 8), "7 bytes, the manifest says 8"),
            (file("b", 7), "is not there"),
            (file("link", 6), "leaves the package"),
            (file("", 6), "not a regular file"),
            (PackagedFile { sha256: "0".repeat(64), ..file("a", 7) }, "the manifest says 0000"),
        ] {
            let error = folder.checked(&file).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
