//! `s3://bucket/key`, `gs://bucket/key`, `az://container/key`, and `https://host/path` to read from.

use std::path::Path;

use super::error::{At, Fault, StoreError};

/// What a URI starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scheme {
    /// S3, or what speaks like it.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
    /// Any web server.
    Https,
}

impl Scheme {
    const ALL: [Self; 4] = [Self::S3, Self::Gs, Self::Az, Self::Https];

    fn prefix(self) -> &'static str {
        match self {
            Self::S3 => "s3://",
            Self::Gs => "gs://",
            Self::Az => "az://",
            Self::Https => "https://",
        }
    }

    /// The scheme of a URI, and what stands behind it.
    pub(super) fn split(uri: &str) -> Option<(Self, &str)> {
        Self::ALL.into_iter().find_map(|scheme| Some((scheme, uri.strip_prefix(scheme.prefix())?)))
    }
}

/// The URI that stands where a path could, when it is one of object storage.
pub fn named(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| Scheme::split(text).is_some())
}

/// An object, or a folder of objects: a prefix that ends where a `/` would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    scheme: Scheme,
    /// Of `https`, the host and its port.
    bucket: String,
    /// Of `https`, the path as it stands in the URI, escapes included.
    key: String,
    /// What stands behind the `?` of `https`. It may be a signature, so it is never shown.
    query: String,
}

impl Location {
    /// The object that a URI names. `field` is where the URI stands.
    pub fn object(field: &str, uri: &str) -> Result<Self, StoreError> {
        let location = Self::parse(field, uri)?;
        if location.key.is_empty() || location.key.ends_with('/') || uri.ends_with('/') {
            let wrong = "it names a folder; name one object, as s3://bucket/folder/file";
            return Err(At::new(field, shown(uri)).fault(Fault::Malformed, wrong));
        }
        Ok(location)
    }

    /// The folder that a URI names, with or without a `/` at its end. A web server has none that could be written to.
    pub fn folder(field: &str, uri: &str) -> Result<Self, StoreError> {
        let location = Self::parse(field, uri)?;
        if location.scheme == Scheme::Https {
            let wrong = "https:// can only be read; write to s3://, gs:// or az://";
            return Err(At::new(field, shown(uri)).fault(Fault::Malformed, wrong));
        }
        Ok(location)
    }

    fn parse(field: &str, uri: &str) -> Result<Self, StoreError> {
        let wrong = |what: &str| At::new(field, shown(uri)).fault(Fault::Malformed, what);
        let split = Scheme::split(uri);
        let (scheme, rest) = split.ok_or_else(|| wrong("it starts with none of s3://, gs://, az:// and https://"))?;
        if scheme == Scheme::Https {
            return Self::page(rest, wrong);
        }
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
        let location = Self { scheme, bucket: bucket.to_owned(), key: key.to_owned(), query: String::new() };
        location.path(&At::new(field, uri))?;
        Ok(location)
    }

    fn page(rest: &str, wrong: impl Fn(&str) -> StoreError) -> Result<Self, StoreError> {
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, key) = address.split_once('/').unwrap_or((address, ""));
        // A password in a URI would stand in every list of BakeJobs.
        if host.contains('@') {
            return Err(wrong("it names a user; leave that out, and sign the link if it must not be public"));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        if host.is_empty() || !host.chars().all(plain) {
            return Err(wrong("the name of the host takes letters, digits, dots and dashes"));
        }
        // What a URI holds is written with few signs; the rest comes escaped.
        if !rest.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'#')) {
            return Err(wrong("write what is no plain sign with % and two digits, and leave out what starts with #"));
        }
        // The client would resolve these, and ask for another page.
        if key.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(wrong("a part of its path is . or .."));
        }
        Ok(Self { scheme: Scheme::Https, bucket: host.to_owned(), key: key.to_owned(), query: query.to_owned() })
    }

    /// A file in this folder.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        let key = if self.key.is_empty() { name.to_owned() } else { format!("{}/{name}", self.key) };
        Self { key, ..self.clone() }
    }

    /// What lies beside this object under that name.
    #[must_use]
    pub fn beside(&self, name: &str) -> Self {
        let folder = self.key.rsplit_once('/').map_or("", |(folder, _)| folder);
        let name = if self.scheme == Scheme::Https { escaped(name) } else { name.to_owned() };
        Self { key: folder.to_owned(), ..self.clone() }.join(&name)
    }

    /// The last part of the key.
    pub fn file_name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or(&self.key)
    }

    pub(super) fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub(super) fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What a client is made for: a bucket, or one page with all that its address holds.
    pub(super) fn client(&self) -> String {
        let prefix = self.scheme.prefix();
        match self.scheme {
            Scheme::Https if self.query.is_empty() => format!("{prefix}{}/{}", self.bucket, self.key),
            Scheme::Https => format!("{prefix}{}/{}?{}", self.bucket, self.key, self.query),
            _ => format!("{prefix}{}", self.bucket),
        }
    }

    /// The key as it is, never escaped or unescaped: a key may hold a `%`. A page has none: its client knows its address.
    pub(super) fn path(&self, at: &At) -> Result<object_store::path::Path, StoreError> {
        if self.scheme == Scheme::Https {
            return Ok(object_store::path::Path::default());
        }
        object_store::path::Path::parse(&self.key).map_err(|error| at.fault(Fault::Malformed, error))
    }
}

/// A URI for a message. What stands behind the `?` of a link may be its signature.
fn shown(uri: &str) -> &str {
    if uri.starts_with(Scheme::Https.prefix()) { uri.split('?').next().unwrap_or(uri) } else { uri }
}

/// The name of a file as part of a URI.
fn escaped(name: &str) -> String {
    name.bytes().fold(String::new(), |text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text + &char::from(byte).to_string()
        } else {
            text + &format!("%{byte:02X}")
        }
    })
}

/// Without what stands behind a `?`.
impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}/{}", self.scheme.prefix(), self.bucket, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Reason;

    #[test]
    fn a_uri_is_a_bucket_and_a_key_as_it_is() {
        for (uri, file, beside) in [
            ("s3://models/a.onnx", "a.onnx", "s3://models/w b.bin"),
            ("s3://models/x/y z%20/ä.onnx", "ä.onnx", "s3://models/x/y z%20/w b.bin"),
            ("gs://models/x/a.onnx", "a.onnx", "gs://models/x/w b.bin"),
            ("az://models/x/a.onnx", "a.onnx", "az://models/x/w b.bin"),
            ("https://host:8443/x%20y/a.onnx", "a.onnx", "https://host:8443/x%20y/w%20b.bin"),
        ] {
            let object = Location::object("f", uri).unwrap();
            assert_eq!((object.to_string().as_str(), object.file_name()), (uri, file));
            assert_eq!(object.beside("w b.bin").to_string(), beside);
        }
        for (uri, inside) in [
            ("s3://baked", "s3://baked/r"),
            ("s3://baked/", "s3://baked/r"),
            ("gs://baked/a/b/", "gs://baked/a/b/r"),
            ("az://baked/a/b", "az://baked/a/b/r"),
        ] {
            assert_eq!(Location::folder("f", uri).unwrap().join("r").to_string(), inside);
        }
    }

    #[test]
    fn what_signs_a_link_is_sent_and_never_shown() {
        let page = Location::object("f", "https://host/a/m.onnx?sig=SECRET").unwrap();
        assert_eq!(page.client(), "https://host/a/m.onnx?sig=SECRET");
        assert_eq!(page.beside("w.bin").client(), "https://host/a/w.bin?sig=SECRET");
        assert_eq!((page.to_string().as_str(), page.file_name()), ("https://host/a/m.onnx", "m.onnx"));
        let error = Location::object("f", "https://host/a/?sig=SECRET").unwrap_err();
        assert!(!error.to_string().contains("SECRET"), "{error}");
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
            "gs://b",
            "az://",
            "https://",
            "https://host",
            "https://host/",
            "https://host/x/",
            "https://me@host/x",
            "https://host/a/../x",
            "https://host/a x",
            "https://host/x#part",
        ] {
            let error = Location::object("spec.source.uri", uri).unwrap_err();
            assert_eq!(error.reason(), Reason::InvalidJob);
            assert!(error.to_string().starts_with(&format!("spec.source.uri: {uri} is no")), "{error}");
        }
        let error = Location::folder("spec.output.uri", "https://host/x").unwrap_err();
        assert!(error.to_string().contains("can only be read"), "{error}");
    }
}
