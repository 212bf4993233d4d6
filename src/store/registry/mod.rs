//! An OCI registry, by the distribution specification: blobs lie in a repository under their digests, manifests name blobs, tags name manifests. What is
//! pushed is seen by nobody before a tag names it, so the tag comes last; a blob that no manifest names is the registry's to collect.
//!
//! TLS always, but for this machine and for hosts that `BAKEHOUSE_OCI_PLAIN_HTTP` names. Logins come from Docker's file ([`login`]), and are sent to the
//! registry and to the server of tokens that it names, to nobody else.

mod base64;
mod blobs;
mod login;
mod reference;
mod token;
mod wire;

use std::cell::RefCell;

use tokio::runtime::{Builder, Runtime};

use super::client::{bundle, choose_tls};
use super::error::{At, Fault, StoreError};
use super::patience::Patience;
use crate::api::bakejob::Storage;
use crate::api::digest::sha256_hex;
pub use blobs::Blob;
pub use reference::{Reference, in_registry, is_tag};
use wire::Body;

/// The variable that names hosts to speak to without TLS, with commas between.
const PLAIN_HTTP: &str = "BAKEHOUSE_OCI_PLAIN_HTTP";

/// The largest manifest, as registries have it.
const MOST_MANIFEST: usize = 4 << 20;

/// The most pages of tags that are asked for.
const MOST_PAGES: usize = 1000;

/// A repository of a registry, as one job reaches it.
pub struct Registry {
    /// One thread: the work is waiting, and hashing what came.
    runtime: Runtime,
    client: reqwest::Client,
    patience: Patience,
    field: String,
    reference: Reference,
    /// `https://host` or `http://host`, once an answer told which.
    base: RefCell<Option<String>>,
    /// What is sent as `Authorization`, once it was asked for.
    proof: RefCell<Option<reqwest::header::HeaderValue>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("reference", &self.reference).finish_non_exhaustive()
    }
}

impl Registry {
    /// A repository that nothing was asked of yet. `field` is where its URI stands.
    pub fn new(field: &str, reference: Reference, storage: Option<&Storage>) -> Result<Self, StoreError> {
        choose_tls();
        let patience = Patience::of_environment()?;
        let at = At::new(field, reference.place());
        let here = |error: &dyn std::fmt::Display| at.fault(Fault::Here, error);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| here(&error))?;
        let mut certificates = Vec::new();
        if let Some((file, pem)) = bundle(storage)? {
            certificates =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| file.fault(Fault::Certificates, error))?;
            if certificates.is_empty() {
                return Err(file.fault(Fault::Certificates, "it holds no PEM certificate"));
            }
        }
        let client = reqwest::Client::builder()
            .user_agent(concat!("bakehouse/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(patience.connect())
            .read_timeout(patience.silence())
            .tls_certs_merge(certificates)
            .build()
            .map_err(|error| here(&error))?;
        let (base, proof) = (RefCell::default(), RefCell::default());
        Ok(Self { runtime, client, patience, field: field.to_owned(), reference, base, proof })
    }

    /// The place.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// How messages call a tag, a digest or the whole.
    fn at(&self, what: &str) -> At {
        let between = match what {
            "" => "",
            _ if what.starts_with("sha256:") => "@",
            _ => ":",
        };
        At::new(&self.field, format!("{}{between}{what}", self.reference.place()))
    }

    /// The manifest that a tag or a digest names, as it is stored; `None` when there is none.
    pub fn manifest(&self, name: &str, media_type: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let at = self.at(name);
        self.runtime.block_on(self.patiently(async || {
            let accept = [("accept", media_type)];
            let answer = self.ask(&at, "GET", &format!("manifests/{name}"), &accept, Body::None).await?;
            let Some(answer) = self.found(&at, answer).await? else { return Ok(None) };
            let bytes = wire::at_most(answer, MOST_MANIFEST).await.map_err(|error| error.told(&at))?;
            if name.starts_with("sha256:") && name != format!("sha256:{}", sha256_hex(&bytes)) {
                return Err(at.fault(Fault::Broken, "the manifest that came is another one"));
            }
            Ok(Some(bytes))
        }))
    }

    /// Stores a manifest under a tag, in place of what had it, and makes sure that it is what the tag then names; whether it is, for somebody else may
    /// have taken the tag meanwhile.
    pub fn put_manifest(&self, tag: &str, media_type: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        let at = self.at(tag);
        self.runtime.block_on(self.patiently(async || {
            let headers = [("content-type", media_type)];
            let body = Body::Bytes(bytes::Bytes::copy_from_slice(bytes));
            let answer = self.ask(&at, "PUT", &format!("manifests/{tag}"), &headers, body).await?;
            self.done(&at, answer).await.map(drop)
        }))?;
        Ok(self.manifest(tag, media_type)?.as_deref() == Some(bytes))
    }

    /// Every tag; none when there is no such repository yet.
    pub fn tags(&self) -> Result<Vec<String>, StoreError> {
        let at = self.at("");
        let (mut all, mut page) = (Vec::new(), Some("tags/list?n=1000".to_owned()));
        for _ in 0..MOST_PAGES {
            let Some(asked) = page.take() else { break };
            let got = self.runtime.block_on(self.patiently(async || {
                let answer = self.ask(&at, "GET", &asked, &[], Body::None).await?;
                let Some(answer) = self.found(&at, answer).await? else { return Ok(None) };
                let next = wire::next_page(answer.headers());
                let bytes = wire::at_most(answer, MOST_MANIFEST).await.map_err(|error| error.told(&at))?;
                Ok(Some((bytes, next)))
            }))?;
            let Some((bytes, next)) = got else { break };
            let list: serde_json::Value = serde_json::from_slice(&bytes)
                .map_err(|error| at.fault(Fault::Broken, format!("its list of tags is no JSON: {error}")))?;
            all.extend(list["tags"].as_array().into_iter().flatten().filter_map(|tag| Some(tag.as_str()?.to_owned())));
            page = next;
        }
        Ok(all)
    }
}

/// What a fault is called where a registry is meant.
pub(super) fn told(fault: &Fault, uri: &str) -> Option<String> {
    if !uri.starts_with(crate::api::job::REGISTRY) {
        return None;
    }
    Some(match fault {
        Fault::Denied => format!(
            "access to {uri} is denied. Check the login for it in Docker's config.json (DOCKER_CONFIG), and what it may do"
        ),
        Fault::NoCredentials => format!(
            "there is no login for {uri}. Put name and password into Docker's config.json (`docker login`, or a pull secret that is mounted), and name its folder in DOCKER_CONFIG"
        ),
        Fault::NoObject => format!("{uri} is not there. Correct the URI"),
        Fault::Unreachable => format!(
            "the registry does not answer for {uri}. Check the host and the network; it may be worth another try"
        ),
        Fault::Refused => format!("the registry refuses {uri}. Check the URI"),
        Fault::Malformed => format!("{uri} is no place in a registry"),
        _ => return None,
    })
}
