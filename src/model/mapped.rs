//! Files as memory maps, so that weights are paged in on use and never copied. What was read through a map counts as memory of this process until its pages
//! are given back, which [`release`] and [`pour`] do.
#![allow(unsafe_code)] // mapping a file and giving memory back are unsafe by nature; this is the one place that does it

use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use memmap2::{Mmap, UncheckedAdvice};

use crate::signals::HeldFolder;

/// Bytes that are poured at once. Less than this is not worth giving back.
const CHUNK: usize = 4 << 20;

/// A file as it was when it was mapped.
struct Mapped {
    map: Mmap,
    path: PathBuf,
    file: (u64, u64),
    /// Where the file lies in a folder of its own; dropped after the map.
    _folder: Option<HeldFolder>,
}

/// What the bytes of a map hold.
struct Owner(Arc<Mapped>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0.map
    }
}

/// The maps of this process.
static MAPS: Mutex<Vec<Weak<Mapped>>> = Mutex::new(Vec::new());

fn maps() -> MutexGuard<'static, Vec<Weak<Mapped>>> {
    MAPS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Maps a regular file read-only. An empty file gives empty bytes, for which no map exists.
pub(super) fn map(path: &Path) -> io::Result<Bytes> {
    map_open(&File::open(path)?, path)
}

/// The same of a file that is open already; `path` is where it was found.
pub(crate) fn map_open(file: &File, path: &Path) -> io::Result<Bytes> {
    map_held(file, path, None)
}

/// The same of a file that is gone with the last of its bytes: it lies in this folder.
pub(super) fn map_held(file: &File, path: &Path, folder: Option<HeldFolder>) -> io::Result<Bytes> {
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
    }
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    if metadata.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the map is private and read-only. Its bytes change only if another process writes into the file in place; Bakehouse itself replaces
    // files by renaming, which leaves a map of the old file intact, and every value read through it is checked after the read, not trusted before.
    let map = unsafe { memmap2::MmapOptions::new().map_copy_read_only(file)? };
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mapped = Arc::new(Mapped { map, path, file: identity(&metadata), _folder: folder });
    let mut maps = maps();
    maps.retain(|map| map.strong_count() > 0);
    maps.push(Arc::downgrade(&mapped));
    Ok(Bytes::from_owner(Owner(mapped)))
}

impl Mapped {
    fn give_back(&self, offset: usize, length: usize) {
        // SAFETY: nobody can have written to a private, read-only map, so a page that is dropped comes back from the file as it was.
        let given = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, length) };
        if let Err(error) = given {
            tracing::debug!(%error, path = %self.path.display(), "pages of a map cannot be given back");
        }
    }
}

/// Every map there is. They are not looked at under the lock: whoever drops the last of one may have a folder to remove.
fn alive() -> Vec<Arc<Mapped>> {
    maps().iter().filter_map(Weak::upgrade).collect()
}

/// Whether bytes lie in a map.
pub(crate) fn is_mapped(bytes: &[u8]) -> bool {
    holder(bytes).is_some()
}

/// The map that bytes lie in, and where in it.
fn holder(bytes: &[u8]) -> Option<(Arc<Mapped>, usize)> {
    alive().into_iter().find_map(|mapped| {
        let offset = bytes.as_ptr().addr().checked_sub(mapped.map.as_ptr().addr())?;
        (offset.checked_add(bytes.len())? <= mapped.map.len()).then_some((mapped, offset))
    })
}

/// Gives back memory that is not in use: the pages of every map (what is touched again is read from its file again), and what the allocator keeps of what
/// was freed, which after a big model can be as much as the model.
pub fn release() {
    for mapped in alive() {
        mapped.give_back(0, mapped.map.len());
    }
    trim();
}

/// Larger blocks of the allocator are maps of their own, which go back to the system when they are freed.
#[cfg(target_env = "gnu")]
const OWN_MAP: i32 = 1 << 20;

/// Makes the allocator give back large blocks when they are freed; for the start of a process. Left alone, glibc takes the largest block that was freed so far (up to
/// 32 MiB) as the size below which blocks lie in its heaps, one per thread or so: models and activations that come and go then leave holes between what stays, and a
/// bake took up to half as much memory again.
#[cfg(target_env = "gnu")]
pub fn give_back_large_blocks() {
    // SAFETY: it takes two numbers and sets one of the allocator's own, under the allocator's own locks.
    unsafe { nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, OWN_MAP) };
}

/// Makes the allocator give back large blocks when they are freed: this one needs no telling.
#[cfg(not(target_env = "gnu"))]
pub fn give_back_large_blocks() {}

/// Gives back the pages of bytes that lie in a map, as far as nothing else lies in them; they are read from the file again when they are touched.
pub fn put_down(bytes: &[u8]) {
    if let Some((mapped, offset)) = holder(bytes) {
        mapped.give_back(offset, bytes.len());
    }
}

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: it takes a number, and touches free memory of the allocator alone, under the allocator's own locks.
    unsafe { nix::libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

/// Writes bytes, however many, in memory that does not grow with them: of a map, what was written is given back at once.
///
/// # Errors
/// Those of `out`.
pub fn pour(bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
    if bytes.len() < CHUNK {
        return out.write_all(bytes);
    }
    let holder = holder(bytes);
    let mut offset = holder.as_ref().map_or(0, |(_, offset)| *offset);
    for chunk in bytes.chunks(CHUNK) {
        out.write_all(chunk)?;
        if let Some((mapped, _)) = &holder {
            mapped.give_back(offset, chunk.len());
        }
        offset += chunk.len();
    }
    Ok(())
}

/// A second name, in `folder`, for the file that these bytes are mapped from, and where they begin in it. `None` where they are not mapped, where the file
/// is another one by now, and where it cannot have a second name there: on another file system, or when it is somebody else's.
pub fn link(bytes: &[u8], folder: &Path) -> Option<(String, u64)> {
    let (mapped, offset) = holder(bytes)?;
    let (device, number) = mapped.file;
    let name = format!("{device:x}-{number:x}.bin");
    let path = folder.join(&name);
    if !path.exists() {
        std::fs::hard_link(&mapped.path, &path).ok()?;
    }
    if std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_file() && identity(&found) == mapped.file) {
        return Some((name, offset as u64));
    }
    let _ = std::fs::remove_file(&path);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(folder: &Path, bytes: &[u8]) -> (PathBuf, Bytes) {
        let path = folder.join("a");
        std::fs::write(&path, bytes).unwrap();
        let bytes = map(&path).unwrap();
        (path, bytes)
    }

    #[test]
    fn a_map_outlives_the_file_name_it_came_from() {
        let dir = tempfile::tempdir().unwrap();
        let (path, bytes) = mapped(dir.path(), b"weights");
        std::fs::remove_file(&path).unwrap();
        release();
        assert_eq!(&bytes[..], b"weights");
    }

    #[test]
    fn a_folder_is_not_a_file() {
        assert_eq!(map(Path::new("/")).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn what_is_poured_is_all_there_whether_it_is_mapped_or_not_and_stays_readable() {
        let dir = tempfile::tempdir().unwrap();
        let whole: Vec<u8> = (0..CHUNK * 2 + 77).map(|i| (i / 3) as u8).collect();
        let (_, bytes) = mapped(dir.path(), &whole);
        for source in [&bytes[..], &bytes[5..], &whole[..], b"few"] {
            let mut out = Vec::new();
            pour(source, &mut out).unwrap();
            assert!(out == source);
        }
        assert!(bytes[..] == whole[..], "a page that was given back comes from the file");
    }

    #[test]
    fn a_link_is_the_very_file_of_the_map_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("links");
        std::fs::create_dir(&folder).unwrap();
        let (path, bytes) = mapped(dir.path(), b"0123456789");
        let (name, offset) = link(&bytes[4..6], &folder).unwrap();
        assert_eq!((std::fs::read(folder.join(&name)).unwrap().as_slice(), offset), (&b"0123456789"[..], 4));
        assert_eq!(link(&bytes, &folder), Some((name.clone(), 0)), "the name is there already");
        std::fs::remove_file(folder.join(&name)).unwrap();
        let other = dir.path().join("b");
        std::fs::write(&other, b"another file").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(link(&bytes, &folder), None, "another file took its name");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        assert_eq!(link(b"in memory", &folder), None);
    }
}
