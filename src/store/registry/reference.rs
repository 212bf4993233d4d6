//! `oci://host[:port]/repository[:tag|@sha256:…]`.

use std::path::Path;

use crate::api::job::REGISTRY;
use crate::store::StoreError;
use crate::store::error::{At, Fault};

/// The URI that stands where a path could, when it is one of a registry.
pub fn in_registry(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| text.starts_with(REGISTRY))
}

/// A place in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Host, and port where it is not the usual one.
    pub host: String,
    /// The repository.
    pub repository: String,
    /// The tag, where one is named.
    pub tag: Option<String>,
    /// The digest of a manifest, where one is named.
    pub digest: Option<String>,
}

impl Reference {
    /// Reads a URI. `field` is where it stands.
    pub fn parse(field: &str, uri: &str) -> Result<Self, StoreError> {
        let wrong = |what: &str| At::new(field, uri).fault(Fault::Malformed, what);
        let rest = uri.strip_prefix(REGISTRY).ok_or_else(|| wrong("it does not start with oci://"))?;
        let (host, rest) = rest.split_once('/').ok_or_else(|| wrong("it names no repository"))?;
        if !is_host(host) {
            return Err(wrong("a host takes letters, digits, dots and dashes, and a port behind a colon"));
        }
        let (rest, digest) = rest.split_once('@').map_or((rest, None), |(rest, digest)| (rest, Some(digest)));
        let (repository, tag) = rest.split_once(':').map_or((rest, None), |(name, tag)| (name, Some(tag)));
        if !is_repository(repository) {
            return Err(wrong(
                "a repository takes small letters and digits, with single dots, dashes and slashes between",
            ));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong("a tag takes up to 128 letters, digits, dots, dashes and underscores"));
        }
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(wrong("a digest is sha256: and 64 hexadecimal digits"));
        }
        Ok(Self {
            host: host.to_owned(),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// Whether it is this machine: its traffic leaves no host.
    pub(super) fn is_loopback(&self) -> bool {
        let name = match self.host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or(rest),
            None => self.host.split(':').next().unwrap_or(&self.host),
        };
        name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Where its API answers.
    pub(super) fn address(&self) -> &str {
        if self.host == "docker.io" { "registry-1.docker.io" } else { &self.host }
    }

    /// What it is without tag and digest.
    pub fn place(&self) -> String {
        format!("{REGISTRY}{}/{}", self.host, self.repository)
    }
}

/// Whether a text may be a tag.
pub fn is_tag(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    text.len() <= 128 && text.bytes().all(plain) && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
}

fn is_digest(text: &str) -> bool {
    let digits = text.strip_prefix("sha256:").unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
        _ => text.find(':').map_or((text, ""), |at| text.split_at(at)),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-".contains(&b);
    let port_is_one = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.bytes().all(plain) && port_is_one
}

fn is_repository(text: &str) -> bool {
    let part = |part: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        edge(part.chars().next()) && edge(part.chars().next_back()) && part.bytes().all(plain) && !part.contains("..")
    };
    text.len() <= 255 && text.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Reason;

    #[test]
    fn a_uri_is_host_repository_and_tag_or_digest() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (uri, host, repository, tag, loopback) in [
            ("oci://ghcr.io/team/models", "ghcr.io", "team/models", None, false),
            ("oci://localhost:5000/m:v1.0", "localhost:5000", "m", Some("v1.0"), true),
            ("oci://127.0.0.1:5000/a/b-c/d_e:x", "127.0.0.1:5000", "a/b-c/d_e", Some("x"), true),
            ("oci://[::1]:5000/m", "[::1]:5000", "m", None, true),
            ("oci://localhost.example/m", "localhost.example", "m", None, false),
        ] {
            let found = Reference::parse("f", uri).unwrap();
            assert_eq!((found.host.as_str(), found.repository.as_str(), found.tag.as_deref()), (host, repository, tag));
            assert_eq!(found.is_loopback(), loopback, "{uri}");
        }
        let pinned = Reference::parse("f", &format!("oci://h/m:t@{digest}")).unwrap();
        assert_eq!((pinned.tag.as_deref(), pinned.digest.as_deref()), (Some("t"), Some(digest.as_str())));
    }

    #[test]
    fn what_is_no_reference_is_refused_by_field_and_uri() {
        for uri in [
            "oci://",
            "oci://host",
            "oci://host/",
            "oci:///m",
            "oci://me@host/m",
            "oci://host:port/m",
            "oci://host:99999/m",
            "oci://host/M",
            "oci://host/a//b",
            "oci://host/../b",
            "oci://host/m:",
            "oci://host/m:a:b",
            "oci://host/m:-a",
            "oci://host/m@sha256:0a",
            "oci://host/m?x",
        ] {
            let error = Reference::parse("spec.promotion.uri", uri).unwrap_err();
            assert_eq!(error.reason(), Reason::InvalidJob, "{uri}");
            assert!(error.to_string().starts_with(&format!("spec.promotion.uri: {uri} is no")), "{error}");
        }
    }
}
