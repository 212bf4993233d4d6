//! `s3://bucket/key`.

use std::path::Path;

use super::error::{At, Fault, StoreError};

const SCHEME: &str = "s3://";

/// The URI that stands where a path could, when it is one of object storage.
pub fn named(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| text.starts_with(SCHEME))
}

/// An object, or a folder of objects: a prefix that ends where a `/` would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    bucket: String,
    key: String,
}

impl Location {
    /// The object that a URI names. `field` is where the URI stands.
    pub fn object(field: &str, uri: &str) -> Result<Self, StoreError> {
        let location = Self::parse(field, uri)?;
        if location.key.is_empty() || uri.ends_with('/') {
            let wrong = "it names a folder; name one object, as s3://bucket/folder/file";
            return Err(At::new(field, uri).fault(Fault::Malformed, wrong));
        }
        Ok(location)
    }

    /// The folder that a URI names, with or without a `/` at its end.
    pub fn folder(field: &str, uri: &str) -> Result<Self, StoreError> {
        Self::parse(field, uri)
    }

    fn parse(field: &str, uri: &str) -> Result<Self, StoreError> {
        let wrong = |what: &str| At::new(field, uri).fault(Fault::Malformed, what);
        let rest = uri.strip_prefix(SCHEME).ok_or_else(|| wrong("it does not start with s3://"))?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        // The name becomes part of a host or a path: nothing in it may mean something there.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if !bucket.starts_with(|c: char| c.is_ascii_alphanumeric()) || !bucket.chars().all(plain) {
            return Err(wrong("the name of the bucket takes letters, digits, dots and dashes"));
        }
        let key = key.strip_suffix('/').unwrap_or(key);
        // The client would take these away without a word, and ask for another object.
        if key.starts_with('/') || key.ends_with('/') {
            return Err(wrong("a part of its key is empty"));
        }
        let location = Self { bucket: bucket.to_owned(), key: key.to_owned() };
        location.path(&At::new(field, uri))?;
        Ok(location)
    }

    /// A file in this folder.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        let key = if self.key.is_empty() { name.to_owned() } else { format!("{}/{name}", self.key) };
        Self { bucket: self.bucket.clone(), key }
    }

    /// What lies beside this object under that name.
    #[must_use]
    pub fn beside(&self, name: &str) -> Self {
        let folder = self.key.rsplit_once('/').map_or("", |(folder, _)| folder);
        Self { bucket: self.bucket.clone(), key: folder.to_owned() }.join(name)
    }

    /// The last part of the key.
    pub fn file_name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or(&self.key)
    }

    pub(super) fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The key as it is, never escaped or unescaped: a key may hold a `%`.
    pub(super) fn path(&self, at: &At) -> Result<object_store::path::Path, StoreError> {
        object_store::path::Path::parse(&self.key).map_err(|error| at.fault(Fault::Malformed, error))
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.bucket, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Reason;

    #[test]
    fn a_uri_is_a_bucket_and_a_key_as_it_is() {
        for (uri, file, beside) in [
            ("s3://models/a.onnx", "a.onnx", "s3://models/w.bin"),
            ("s3://models/x/y z%20/ä.onnx", "ä.onnx", "s3://models/x/y z%20/w.bin"),
        ] {
            let object = Location::object("f", uri).unwrap();
            assert_eq!((object.to_string().as_str(), object.file_name()), (uri, file));
            assert_eq!(object.beside("w.bin").to_string(), beside);
        }
        for (uri, inside) in [
            ("s3://baked", "s3://baked/r"),
            ("s3://baked/", "s3://baked/r"),
            ("s3://baked/a/b/", "s3://baked/a/b/r"),
            ("s3://baked/a/b", "s3://baked/a/b/r"),
        ] {
            assert_eq!(Location::folder("f", uri).unwrap().join("r").to_string(), inside);
        }
    }

    #[test]
    fn what_is_no_object_is_refused_by_field_and_uri() {
        for uri in [
            "s3://",
            "s3://b",
            "s3://b/",
            "s3://b/x/",
            "s3://b//x",
            "s3://b/../x",
            "s3://../x",
            "s3://a@b/x",
            "s3:///x",
        ] {
            let error = Location::object("spec.source.uri", uri).unwrap_err();
            assert_eq!(error.reason(), Reason::InvalidJob);
            assert!(error.to_string().starts_with(&format!("spec.source.uri: {uri} is no")), "{error}");
        }
    }
}
