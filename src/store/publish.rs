//! From files to buckets.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use object_store::{
    Attribute, Attributes, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, WriteMultipart,
};
use sha2::{Digest, Sha256};

use super::error::{At, Fault, StoreError};
use super::{Location, Store, entry};
use crate::api::digest::{hex, sha256_hex};

/// Larger files are uploaded in parts, and the least size of a part but the last.
const PART: usize = 8 << 20;

/// S3 takes at most 10,000 parts.
const MOST_PARTS: u64 = 9_000;

/// Parts that are under way at once. So many are in memory.
const AT_ONCE: usize = 4;

/// A file of a folder and what it hashes to.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Its name in the folder, here and there.
    pub name: String,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

impl Store {
    /// Makes sure that files of a folder may be written, without a trace: an upload is begun under this name and given up.
    pub fn check_writable(&self, field: &str, folder: &Location, name: &str) -> Result<(), StoreError> {
        let (object, at) = entry(field, folder, name);
        self.runtime.block_on(async {
            let (bucket, key) = (self.bucket(&at, &object).await?, object.path(&at)?);
            let upload = bucket.put_multipart(&key).await.map_err(|error| at.failed(error))?;
            give_up(WriteMultipart::new(upload), &at).await;
            Ok(())
        })
    }

    /// Writes a small file of a folder, whole or not at all.
    pub fn write(&self, field: &str, folder: &Location, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let (object, at) = entry(field, folder, name);
        self.runtime.block_on(async {
            let (bucket, key) = (self.bucket(&at, &object).await?, object.path(&at)?);
            let put = bucket.put(&key, PutPayload::from(bytes.to_vec()));
            put.await.map(|_| ()).map_err(|error| at.failed(error))
        })
    }

    /// Uploads files of a folder under the same names, one after the other: put the one that names the others last. `tell` hears each name.
    pub fn publish(
        &self,
        field: &str,
        to: &Location,
        from: &Path,
        files: &[Upload],
        tell: &mut dyn FnMut(&str),
    ) -> Result<(), StoreError> {
        self.runtime.block_on(async {
            for file in files {
                tell(&format!("uploading {}", file.name));
                let (object, at) = entry(field, to, &file.name);
                self.upload(&at, &object, &from.join(&file.name), file).await?;
            }
            Ok(())
        })
    }

    async fn upload(&self, at: &At, object: &Location, path: &Path, expected: &Upload) -> Result<(), StoreError> {
        let here = |error: std::io::Error| at.fault(Fault::Here, format!("{}: {error}", path.display()));
        let changed = |found: String| at.fault(Fault::Changed(expected.sha256.clone(), found), "");
        let (bucket, key) = (self.bucket(at, object).await?, object.path(at)?);
        let mut file = File::open(path).map_err(here)?;
        let size = file.metadata().map_err(here)?.len();
        let attributes = attributes(&expected.name);
        if size <= PART as u64 {
            let mut bytes = Vec::with_capacity(size as usize);
            file.read_to_end(&mut bytes).map_err(here)?;
            let found = sha256_hex(&bytes);
            if found != expected.sha256 {
                return Err(changed(found));
            }
            let options = PutOptions { attributes, ..PutOptions::default() };
            return bucket.put_opts(&key, PutPayload::from(bytes), options).await.map(|_| ()).map_err(|e| at.failed(e));
        }
        let part = PART.max(size.div_ceil(MOST_PARTS) as usize);
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let upload = bucket.put_multipart_opts(&key, options).await.map_err(|error| at.failed(error))?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, part);
        let sent = send(&mut file, &mut upload, part, at, here).await;
        match sent {
            Ok(found) if found == expected.sha256 => {
                upload.finish().await.map(|_| ()).map_err(|error| at.failed(error))
            }
            Ok(found) => {
                give_up(upload, at).await;
                Err(changed(found))
            }
            Err(error) => {
                give_up(upload, at).await;
                Err(error)
            }
        }
    }
}

/// Sends all of a file but the last part, and returns what all of it hashes to.
async fn send(
    file: &mut File,
    upload: &mut WriteMultipart,
    part: usize,
    at: &At,
    here: impl Fn(std::io::Error) -> StoreError,
) -> Result<String, StoreError> {
    let mut hash = Sha256::new();
    let mut bytes = vec![0; part.min(PART)];
    loop {
        let read = match file.read(&mut bytes) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(here(error)),
        };
        hash.update(&bytes[..read]);
        upload.wait_for_capacity(AT_ONCE).await.map_err(|error| at.failed(error))?;
        upload.write(&bytes[..read]);
    }
}

/// Parts of an upload that is never completed cost money until somebody removes them.
async fn give_up(upload: WriteMultipart, at: &At) {
    if let Err(error) = upload.abort().await {
        let error = at.failed(error);
        tracing::warn!("an unfinished upload is left; a lifecycle rule of the bucket may remove it: {error}");
    }
}

/// What browsers and tools take the file for.
fn attributes(name: &str) -> Attributes {
    let content = match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    };
    Attributes::from_iter([(Attribute::ContentType, content)])
}
