//! From buckets to files.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::error::{At, Failed, Fault, StoreError};
use super::meter::Meter;
use super::{Location, Store};
use crate::api::digest::hex;

/// Objects that are fetched at once, and the ranges of one object.
const AT_ONCE: usize = 4;

/// Larger objects come in ranges of this size: each has tries of its own, and a wire that one connection does not fill is filled by several.
const RANGE: u64 = 8 << 20;

/// Ranges that are in memory at once, of all objects together.
const RANGES: usize = 6;

/// The first pause before an object is begun again. Each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(250);

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

    fn here(&self, error: &std::io::Error) -> StoreError {
        self.at().fault(Fault::Here, format!("{}: {error}", self.to.display()))
    }
}

/// What a store says of an object before it gives it out.
#[derive(Debug, Clone)]
struct Head {
    size: u64,
    /// The tag of this very content, where the store has one that can be asked for.
    tag: Option<String>,
}

impl Head {
    fn of(meta: object_store::ObjectMeta) -> Self {
        // A weak tag is never the same as another one, and an empty one is none.
        let strong = |tag: &String| !tag.starts_with("W/") && !tag.trim_matches('"').is_empty();
        Self { size: meta.size, tag: meta.e_tag.filter(strong) }
    }
}

impl Store {
    /// Fetches objects into files, all of them or with the first error. `tell` hears now and then how far it is. What was written of a file whose
    /// fetch failed stays: the folder is the caller's to remove.
    pub fn fetch(&self, wanted: &[Fetch], tell: &mut dyn FnMut(&str)) -> Result<(), StoreError> {
        self.runtime.block_on(async {
            let heads: Vec<Head> = stream::iter(wanted).map(|w| self.head(w)).buffered(AT_ONCE).try_collect().await?;
            let total = heads.iter().map(|head| head.size).sum();
            room(wanted, total)?;
            let meter = RefCell::new(Meter::new("fetched", total, tell));
            let lanes = Semaphore::new(RANGES);
            stream::iter(wanted.iter().zip(&heads))
                .map(|(wanted, head)| self.download(wanted, head, &lanes, &meter))
                .buffer_unordered(AT_ONCE)
                .try_for_each(|()| std::future::ready(Ok(())))
                .await
        })
    }

    /// An answer to HEAD has no text, so that of GET is asked for where a text tells more.
    async fn head(&self, wanted: &Fetch) -> Result<Head, StoreError> {
        let at = wanted.at();
        let (bucket, path) = (self.bucket(&at, &wanted.from).await?, wanted.from.path(&at)?);
        match bucket.head(&path).await.map_err(|error| at.failed(error)) {
            Ok(meta) => Ok(Head::of(meta)),
            Err(error) if error.is_mute() => {
                bucket.get(&path).await.map(|got| Head::of(got.meta)).map_err(|e| at.failed(e))
            }
            Err(error) => Err(error),
        }
    }

    async fn download(
        &self,
        wanted: &Fetch,
        head: &Head,
        lanes: &Semaphore,
        meter: &RefCell<Meter<'_>>,
    ) -> Result<(), StoreError> {
        let at = wanted.at();
        let (bucket, path) = (self.bucket(&at, &wanted.from).await?, wanted.from.path(&at)?);
        let mut file = Arriving::at(wanted, head.size, meter)?;
        let (begun, mut pause, mut head, mut ranged) = (Instant::now(), PAUSE, head.clone(), true);
        let found = loop {
            let came = if ranged && head.size > RANGE {
                in_ranges(&bucket, &path, &head, lanes, &mut file).await
            } else {
                whole(&bucket, &path, &head, &mut file).await
            };
            let error = match came {
                Ok(()) => break hex(&std::mem::take(&mut file.hash).finalize()),
                Err(Failed::Client(error)) if ranged && has_no_ranges(&error) => {
                    ranged = false;
                    file.again()?;
                    continue;
                }
                Err(error) => at.failed(error),
            };
            // The client itself has tried again whatever it could go on with; here it is begun anew, with what lies there now.
            if !error.passes() || begun.elapsed() + pause > self.patience.budget() {
                return Err(error);
            }
            tracing::info!(%error, "fetching it again");
            tokio::time::sleep(pause).await;
            pause *= 2;
            file.again()?;
            head = self.head(wanted).await?;
        };
        match &wanted.digest {
            Some((field, pinned)) if pinned.trim_start_matches("sha256:") != found => {
                let expected = pinned.trim_start_matches("sha256:").to_owned();
                Err(At::new(field, wanted.from.to_string()).fault(Fault::Digest(expected, found), ""))
            }
            _ => Ok(()),
        }
    }
}

/// A file that is being written, front to end, and hashed as it comes.
struct Arriving<'a, 't> {
    wanted: &'a Fetch,
    meter: &'a RefCell<Meter<'t>>,
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl<'a, 't> Arriving<'a, 't> {
    fn at(wanted: &'a Fetch, size: u64, meter: &'a RefCell<Meter<'t>>) -> Result<Self, StoreError> {
        let made = File::create(&wanted.to).and_then(|file| reserve(&file, size).map(|()| file));
        let file = made.map_err(|error| wanted.here(&error))?;
        Ok(Self { wanted, meter, file, hash: Sha256::new(), bytes: 0 })
    }

    fn add(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(chunk).map_err(|error| self.wanted.here(&error))?;
        self.hash.update(chunk);
        self.bytes += chunk.len() as u64;
        self.meter.borrow_mut().add(chunk.len() as u64);
        Ok(())
    }

    fn again(&mut self) -> Result<(), StoreError> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(|error| self.wanted.here(&error))?;
        self.meter.borrow_mut().take_back(self.bytes);
        (self.hash, self.bytes) = (Sha256::new(), 0);
        Ok(())
    }

    /// All of it came, and no more.
    fn complete(&self, size: u64) -> Result<(), Failed> {
        if self.bytes == size {
            return Ok(());
        }
        Err(self.wanted.at().fault(Fault::Broken, format!("{} of {size} bytes came", self.bytes)).into())
    }
}

/// In one stream.
async fn whole(
    bucket: &Arc<dyn ObjectStore>,
    path: &object_store::path::Path,
    head: &Head,
    file: &mut Arriving<'_, '_>,
) -> Result<(), Failed> {
    let mut stream = bucket.get(path).await?.into_stream();
    while let Some(chunk) = stream.try_next().await? {
        file.add(&chunk)?;
    }
    file.complete(head.size)
}

/// Several ranges at once, written in their order: the digest is that of the whole, and no more than the ranges under way are in memory.
async fn in_ranges(
    bucket: &Arc<dyn ObjectStore>,
    path: &object_store::path::Path,
    head: &Head,
    lanes: &Semaphore,
    file: &mut Arriving<'_, '_>,
) -> Result<(), Failed> {
    let wanted = file.wanted;
    let mut arriving = stream::iter(ranges(head.size))
        .map(move |range| async move {
            // Whoever is first in its object asked first as well, so nobody waits for a lane that waits for him.
            let lane = lanes.acquire().await;
            let options = GetOptions {
                range: Some(GetRange::Bounded(range)),
                if_match: head.tag.clone(),
                ..GetOptions::default()
            };
            let got = bucket.get_opts(path, options).await?;
            // A server that does not know `If-Match` sends its tag all the same.
            if (head.tag.is_some() && got.meta.e_tag != head.tag) || got.meta.size != head.size {
                return Err(Failed::from(wanted.at().fault(Fault::Replaced, "")));
            }
            Ok::<_, Failed>((got.bytes().await?, lane))
        })
        .buffered(AT_ONCE);
    while let Some((bytes, _lane)) = arriving.try_next().await? {
        file.add(&bytes)?;
    }
    file.complete(head.size)
}

fn ranges(size: u64) -> impl Iterator<Item = Range<u64>> {
    (0..size.div_ceil(RANGE)).map(move |i| i * RANGE..((i + 1) * RANGE).min(size))
}

/// A web server need not know ranges: it answers with the whole.
fn has_no_ranges(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotSupported { .. })
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

/// Takes the room of a file before its first byte, so that two downloads do not count on the same. Where a file system cannot, writing will tell.
#[cfg(target_os = "linux")]
fn reserve(file: &File, size: u64) -> std::io::Result<()> {
    use nix::errno::Errno;
    use nix::fcntl::{FallocateFlags, fallocate};

    match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, size as i64) {
        Err(error @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)) => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(_: &File, _: u64) -> std::io::Result<()> {
    Ok(())
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

    #[test]
    fn ranges_cover_an_object_once() {
        for size in [RANGE + 1, 2 * RANGE, 5 * RANGE - 1] {
            let all: Vec<_> = ranges(size).collect();
            assert_eq!((all[0].start, all[all.len() - 1].end), (0, size));
            assert!(all.windows(2).all(|pair| pair[0].end == pair[1].start), "{all:?}");
            assert!(all.iter().all(|range| !range.is_empty() && range.end - range.start <= RANGE), "{all:?}");
        }
    }
}
