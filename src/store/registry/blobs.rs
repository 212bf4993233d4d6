//! Blobs of a repository. A registry hashes what it is sent before it gives it its name; here it is read back and hashed once more.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use reqwest::Response;
use reqwest::header::{CONTENT_LENGTH, LOCATION};
use sha2::{Digest, Sha256};

use super::Registry;
use super::wire::{self, Body};
use crate::api::digest::hex;
use crate::store::StoreError;
use crate::store::error::{At, Fault};

/// Larger blobs go up in parts of this size: each has a time of its own, and no more than one is in memory.
const PART: usize = 8 << 20;

/// A blob, and where its bytes are.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// The file that holds it.
    pub file: PathBuf,
}

impl Blob {
    fn digest(&self) -> String {
        format!("sha256:{}", self.sha256)
    }
}

impl Registry {
    /// Whether the repository has a blob of this size.
    pub fn has_blob(&self, sha256: &str, bytes: u64) -> Result<bool, StoreError> {
        let digest = format!("sha256:{sha256}");
        let at = self.at(&digest);
        self.runtime.block_on(self.patiently(async || {
            let answer = self.ask(&at, "HEAD", &format!("blobs/{digest}"), &[], Body::None).await?;
            let Some(answer) = self.found(&at, answer).await? else { return Ok(false) };
            // A size that is not told is none that is wrong.
            Ok(size(&answer).is_none_or(|size| size == bytes))
        }))
    }

    /// Uploads a blob and reads it back; nothing when the repository has it. Says whether it was uploaded.
    pub fn put_blob(&self, blob: &Blob) -> Result<bool, StoreError> {
        if self.has_blob(&blob.sha256, blob.bytes)? {
            return Ok(false);
        }
        let at = self.at(&blob.digest());
        self.runtime.block_on(self.patiently(async || self.upload(&at, blob).await))?;
        self.check_blob(&blob.sha256, blob.bytes)?;
        Ok(true)
    }

    /// Reads a blob and makes sure that it is what its name says.
    pub fn check_blob(&self, sha256: &str, bytes: u64) -> Result<(), StoreError> {
        self.read_blob(sha256, bytes, &mut || Ok(std::io::sink()))
    }

    /// Reads a blob into a file, whole and as its name says.
    pub fn fetch_blob(&self, sha256: &str, bytes: u64, to: &Path) -> Result<(), StoreError> {
        self.read_blob(sha256, bytes, &mut || File::create(to))
    }

    fn read_blob<W: Write>(
        &self,
        sha256: &str,
        bytes: u64,
        open: &mut dyn FnMut() -> std::io::Result<W>,
    ) -> Result<(), StoreError> {
        let digest = format!("sha256:{sha256}");
        let at = self.at(&digest);
        let open = std::cell::RefCell::new(open);
        self.runtime.block_on(self.patiently(async || {
            let here = |error: std::io::Error| at.fault(Fault::Here, error);
            let answer = self.ask(&at, "GET", &format!("blobs/{digest}"), &[], Body::None).await?;
            let mut answer = self.done(&at, answer).await?;
            let mut to = (*open.borrow_mut())().map_err(here)?;
            let (mut hash, mut seen) = (Sha256::new(), 0);
            while let Some(chunk) = answer.chunk().await.map_err(|error| wire::failed(&at, &error))? {
                seen += chunk.len() as u64;
                if seen > bytes {
                    break;
                }
                hash.update(&chunk);
                to.write_all(&chunk).map_err(here)?;
            }
            to.flush().map_err(here)?;
            if seen != bytes || hex(&hash.finalize()) != sha256 {
                return Err(at.fault(Fault::Broken, "what came is not what its digest says"));
            }
            Ok(())
        }))
    }

    async fn upload(&self, at: &At, blob: &Blob) -> Result<(), StoreError> {
        let here = |error: std::io::Error| at.fault(Fault::Here, format!("{}: {error}", blob.file.display()));
        let mut file = File::open(&blob.file).map_err(here)?;
        let begun = self.ask(at, "POST", "blobs/uploads/", &[], Body::None).await?;
        let mut to = place(at, &self.done(at, begun).await?)?;
        let mut body = Body::None;
        let mut sent = 0;
        loop {
            let mut part = Vec::new();
            Read::by_ref(&mut file).take(PART as u64).read_to_end(&mut part).map_err(here)?;
            let (part, last) = (Bytes::from(part), blob.bytes - sent <= PART as u64);
            if last && sent == 0 {
                // All of it goes with the request that gives it its name.
                body = Body::Bytes(part);
                break;
            }
            if part.is_empty() {
                break;
            }
            let range = format!("{sent}-{}", sent + part.len() as u64 - 1);
            sent += part.len() as u64;
            let headers = [("content-range", range.as_str()), ("content-type", "application/octet-stream")];
            let answer = self.ask(at, "PATCH", &to, &headers, Body::Bytes(part)).await?;
            to = place(at, &self.done(at, answer).await?)?;
        }
        let between = if to.contains('?') { '&' } else { '?' };
        let named = format!("{to}{between}digest=sha256:{}", blob.sha256);
        let headers = [("content-type", "application/octet-stream")];
        let answer = self.ask(at, "PUT", &named, &headers, body).await?;
        self.done(at, answer).await.map(drop)
    }
}

/// Where an upload goes on.
fn place(at: &At, answer: &Response) -> Result<String, StoreError> {
    let to = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let to = to.ok_or_else(|| at.fault(Fault::Refused, "it does not say where an upload goes"))?;
    // It may be a path, whose host is the one that was asked.
    let whole = answer.url().join(to).map_err(|error| at.fault(Fault::Refused, error))?;
    Ok(whole.to_string())
}

/// The size of what an answer to HEAD speaks of.
fn size(answer: &Response) -> Option<u64> {
    answer.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
