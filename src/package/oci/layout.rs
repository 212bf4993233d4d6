//! An OCI image layout: a folder that holds blobs by digest, and an index of what they make up.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::File;
use super::manifest::{Built, Descriptor, MANIFEST_TYPE, Manifest};
use crate::api::digest::{sha256_hex, sha256_hex_of};

/// The file that says that a folder is a layout, and what it holds.
const MARKER: (&str, &str) = ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);

const INDEX_FILE: &str = "index.json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: String,
    manifests: Vec<Descriptor>,
}

/// Where the bytes of a blob are.
#[derive(Debug, Clone)]
pub enum Content<'a> {
    /// Here.
    Bytes(&'a [u8]),
    /// In a file.
    File(PathBuf),
}

/// A layout that was read.
#[derive(Debug)]
pub struct Layout {
    /// Its only manifest.
    pub manifest: Manifest,
    /// What it holds; each file is there with this digest.
    pub files: Vec<File>,
}

/// Whether a folder is a layout.
pub fn is_layout(folder: &Path) -> bool {
    folder.join(MARKER.0).is_file()
}

fn blob(sha256: &str) -> String {
    format!("blobs/sha256/{sha256}")
}

/// Writes a layout of one manifest into an empty folder. `contents` are those of its layers, in their order. Returns the names of its files, the index last.
///
/// # Errors
/// What the disk says; `InvalidData` when the contents are not those that the manifest names.
pub fn write(folder: &Path, tag: &str, built: &Built, contents: &[Content]) -> io::Result<Vec<String>> {
    fs::create_dir_all(folder.join("blobs/sha256"))?;
    let mut names = vec![MARKER.0.to_owned()];
    put(&folder.join(MARKER.0), &Content::Bytes(MARKER.1.as_bytes()))?;
    let own = [
        (built.manifest.config.sha256().to_owned(), Content::Bytes(&built.config)),
        (built.sha256(), Content::Bytes(&built.bytes)),
    ];
    let layers = built.manifest.layers.iter().map(|layer| layer.sha256().to_owned()).zip(contents.iter().cloned());
    for (sha256, content) in layers.chain(own) {
        let name = blob(&sha256);
        // Two files may be the same one.
        if names.contains(&name) {
            continue;
        }
        let path = folder.join(&name);
        put(&path, &content)?;
        let found = sha256_hex_of(fs::File::open(&path)?)?;
        if found != sha256 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{found} was to be {sha256}")));
        }
        names.push(name);
    }
    let index = Index { schema_version: 2, media_type: INDEX_TYPE.to_owned(), manifests: vec![built.descriptor(tag)] };
    put(&folder.join(INDEX_FILE), &Content::Bytes(&serde_json::to_vec(&index)?))?;
    names.push(INDEX_FILE.to_owned());
    Ok(names)
}

fn put(path: &Path, content: &Content) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    match content {
        Content::Bytes(bytes) => file.write_all(bytes)?,
        Content::File(from) => drop(io::copy(&mut fs::File::open(from)?, &mut file)?),
    }
    file.sync_all()
}

/// Reads a layout of one manifest, and checks every blob that it names.
///
/// # Errors
/// A sentence on what is wrong with it.
pub fn open(folder: &Path) -> Result<Layout, String> {
    let read = |name: &str| fs::read(folder.join(name)).map_err(|error| format!("{name} cannot be read: {error}"));
    if read(MARKER.0)? != MARKER.1.as_bytes() {
        return Err(format!("{} is of a version that is not known", MARKER.0));
    }
    let index: Index =
        serde_json::from_slice(&read(INDEX_FILE)?).map_err(|error| format!("{INDEX_FILE} is no index: {error}"))?;
    let [entry] = index.manifests.as_slice() else {
        return Err(format!("{INDEX_FILE} names {} manifests, and not one", index.manifests.len()));
    };
    if entry.media_type != MANIFEST_TYPE {
        return Err(format!("{INDEX_FILE} names a {}", entry.media_type));
    }
    let bytes = read(&blob(entry.sha256()))?;
    if sha256_hex(&bytes) != entry.sha256() {
        return Err(format!("the manifest is not {}", entry.digest));
    }
    let manifest = Manifest::parse(&bytes)?;
    for layer in std::iter::once(&manifest.config).chain(&manifest.layers) {
        let path = folder.join(blob(layer.sha256()));
        let seen = fs::File::open(&path).and_then(|file| Ok((file.metadata()?.len(), sha256_hex_of(file)?)));
        let (size, sha256) = seen.map_err(|error| format!("the blob {} cannot be read: {error}", layer.digest))?;
        if size != layer.size || sha256 != layer.sha256() {
            return Err(format!("the blob {} has {size} bytes and sha256 {sha256}", layer.digest));
        }
    }
    let files = manifest.files()?;
    Ok(Layout { manifest, files })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::oci::Facts;

    fn written(root: &Path) -> Vec<String> {
        let (model, weights): (&[u8], &[u8]) = (b"model", b"weights");
        fs::write(root.join("w"), weights).unwrap();
        let file = |path: &str, bytes: &[u8]| File {
            path: path.to_owned(),
            sha256: sha256_hex(bytes),
            bytes: bytes.len() as u64,
        };
        // The same file twice is one blob.
        let files = [file("model.onnx", model), file("weights.bin", weights), file("phase7/model.onnx", model)];
        let facts = Facts { name: "m".into(), sha256: sha256_hex(model), parameters: 5, precision: Vec::new() };
        let built = Manifest::build(&facts, &files, std::collections::BTreeMap::new());
        let contents = [Content::Bytes(model), Content::File(root.join("w")), Content::Bytes(model)];
        write(&root.join("oci"), "m", &built, &contents).unwrap()
    }

    #[test]
    fn a_layout_is_the_same_each_time_and_reads_back() {
        let roots = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let names = roots.each_ref().map(|root| written(root.path()));
        assert_eq!(names[0], names[1]);
        assert_eq!(names[0].len(), 6, "marker, two files, config, manifest, index: {names:?}");
        for name in &names[0] {
            let [a, b] = roots.each_ref().map(|root| fs::read(root.path().join("oci").join(name)).unwrap());
            assert_eq!(a, b, "{name}");
        }
        let folder = roots[0].path().join("oci");
        assert!(is_layout(&folder));
        let paths: Vec<String> = open(&folder).unwrap().files.into_iter().map(|file| file.path).collect();
        assert_eq!(paths, ["model.onnx", "weights.bin", "phase7/model.onnx"]);
    }

    #[test]
    fn a_blob_that_was_changed_or_is_gone_is_named() {
        let root = tempfile::tempdir().unwrap();
        written(root.path());
        let folder = root.path().join("oci");
        let path = folder.join(blob(&sha256_hex(b"weights")));
        fs::write(&path, b"Weights").unwrap();
        let error = open(&folder).unwrap_err();
        assert!(error.contains(&sha256_hex(b"weights")) && error.contains(&sha256_hex(b"Weights")), "{error}");
        fs::remove_file(&path).unwrap();
        assert!(open(&folder).unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn contents_that_are_not_those_of_the_manifest_are_not_written() {
        let root = tempfile::tempdir().unwrap();
        let file = File { path: "model.onnx".into(), sha256: sha256_hex(b"a"), bytes: 1 };
        let facts = Facts { name: "m".into(), sha256: sha256_hex(b"a"), parameters: 0, precision: Vec::new() };
        let built = Manifest::build(&facts, &[file], std::collections::BTreeMap::new());
        let error = write(root.path(), "m", &built, &[Content::Bytes(b"b")]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(!root.path().join(INDEX_FILE).exists());
    }
}
