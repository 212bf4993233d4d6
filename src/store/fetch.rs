//! From buckets to files.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStoreExt;
use sha2::{Digest, Sha256};

use super::error::{At, Failed, Fault, StoreError};
use super::{Location, Store};
use crate::api::digest::hex;

/// Objects that are fetched at once.
const AT_ONCE: usize = 4;

/// A download tells how far it is so many times.
const STEPS: u64 = 20;

/// One object and the file that it becomes.
#[derive(Debug, Clone)]
pub struct Fetch {
    /// The field that names it.
    pub field: String,
    /// The object.
    pub from: Location,
    /// The file, in a folder that is there.
    pub to: PathBuf,
    /// What it must hash to, as `sha256:` and hexadecimal digits, and the field that says so.
    pub digest: Option<(String, String)>,
}

impl Fetch {
    fn at(&self) -> At {
        At::new(&self.field, self.from.to_string())
    }
}

impl Store {
    /// Fetches objects into files, all of them or with the first error. `tell` hears now and then how far it is. What was written of a file whose
    /// fetch failed stays: the folder is the caller's to remove.
    pub fn fetch(&self, wanted: &[Fetch], tell: &mut dyn FnMut(&str)) -> Result<(), StoreError> {
        self.runtime.block_on(async {
            let sizes: Vec<u64> = stream::iter(wanted).map(|w| self.size(w)).buffered(AT_ONCE).try_collect().await?;
            let total = sizes.iter().sum();
            room(wanted, total)?;
            let done = RefCell::new(Done { bytes: 0, total, told: 0, tell });
            stream::iter(wanted)
                .map(|w| self.download(w, &done))
                .buffer_unordered(AT_ONCE)
                .try_for_each(|()| std::future::ready(Ok(())))
                .await
        })
    }

    /// Bytes of an object. An answer to HEAD has no text, so that of GET is asked for where a text tells more.
    async fn size(&self, wanted: &Fetch) -> Result<u64, StoreError> {
        let at = wanted.at();
        let (bucket, path) = (self.bucket(&at, &wanted.from).await?, wanted.from.path(&at)?);
        match bucket.head(&path).await.map_err(|error| at.failed(error)) {
            Ok(meta) => Ok(meta.size),
            Err(error) if error.is_mute() => bucket.get(&path).await.map(|got| got.meta.size).map_err(|e| at.failed(e)),
            Err(error) => Err(error),
        }
    }

    async fn download(&self, wanted: &Fetch, done: &RefCell<Done<'_>>) -> Result<(), StoreError> {
        let at = wanted.at();
        let here = |error: std::io::Error| at.fault(Fault::Here, format!("{}: {error}", wanted.to.display()));
        let get = async { Ok::<_, Failed>(self.bucket(&at, &wanted.from).await?.get(&wanted.from.path(&at)?).await?) };
        let object = get.await.map_err(|error| at.failed(error))?;
        let size = object.meta.size;
        let mut stream = object.into_stream();
        let mut file = File::create(&wanted.to).map_err(here)?;
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        while let Some(chunk) = stream.try_next().await.map_err(|error| at.failed(error))? {
            file.write_all(&chunk).map_err(here)?;
            hash.update(&chunk);
            bytes += chunk.len() as u64;
            done.borrow_mut().add(chunk.len() as u64);
        }
        if bytes != size {
            return Err(at.fault(Fault::Unreachable, format!("{bytes} of {size} bytes came")));
        }
        let found = hex(&hash.finalize());
        match &wanted.digest {
            Some((field, pinned)) if pinned.trim_start_matches("sha256:") != found => {
                let expected = pinned.trim_start_matches("sha256:").to_owned();
                Err(At::new(field, wanted.from.to_string()).fault(Fault::Digest(expected, found), ""))
            }
            _ => Ok(()),
        }
    }
}

/// How far all downloads are.
struct Done<'t> {
    bytes: u64,
    total: u64,
    told: u64,
    tell: &'t mut dyn FnMut(&str),
}

impl Done<'_> {
    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        let step = self.bytes * STEPS / self.total.max(1);
        if step > self.told {
            self.told = step;
            (self.tell)(&format!("fetched {} of {} MB", self.bytes / 1_000_000, self.total.div_ceil(1_000_000)));
        }
    }
}

/// Refuses what the disk cannot hold before anything is on it.
fn room(wanted: &[Fetch], needed: u64) -> Result<(), StoreError> {
    let Some(first) = wanted.first() else { return Ok(()) };
    let folder = first.to.parent().unwrap_or(Path::new("."));
    match free(folder) {
        Ok(free) if free < needed => {
            Err(At::new(&first.field, folder.display().to_string()).fault(Fault::Room(needed, free), ""))
        }
        // Where the file system does not tell, writing will.
        _ => Ok(()),
    }
}

#[allow(clippy::unnecessary_cast, reason = "the types of statvfs differ between systems")]
fn free(folder: &Path) -> nix::Result<u64> {
    let disk = nix::sys::statvfs::statvfs(folder)?;
    Ok((disk.blocks_available() as u64).saturating_mul(disk.fragment_size() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Reason;

    #[test]
    fn more_than_the_disk_holds_is_refused_with_both_figures() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = Fetch {
            field: "spec.source.uri".into(),
            from: Location::object("f", "s3://b/k").unwrap(),
            to: folder.path().join("k"),
            digest: None,
        };
        assert!(room(std::slice::from_ref(&wanted), 1).is_ok());
        let error = room(&[wanted], u64::MAX).unwrap_err();
        assert_eq!(error.reason(), Reason::OutputUnwritable);
        assert!(
            error.to_string().contains("18446744073709551615 bytes") && error.to_string().contains("free"),
            "{error}"
        );
    }
}
