//! Files as memory maps, so that weights are paged in on use and never copied.
#![allow(unsafe_code)] // mapping a file is unsafe by nature; this is the one place that does it

use std::fs::File;
use std::io;
use std::path::Path;

use bytes::Bytes;

/// Maps a regular file read-only. An empty file gives empty bytes, for which no map exists.
pub(super) fn map(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
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
    let map = unsafe { memmap2::MmapOptions::new().map_copy_read_only(&file)? };
    Ok(Bytes::from_owner(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_outlives_the_file_name_it_came_from() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, b"weights").unwrap();
        let bytes = map(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(&bytes[..], b"weights");
    }

    #[test]
    fn a_folder_is_not_a_file() {
        assert_eq!(map(Path::new("/")).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }
}
