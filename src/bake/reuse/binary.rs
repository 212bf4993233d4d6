//! Which build a program or library is, told without reading all of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::api::digest::{hex, sha256_hex_of};

/// Type of a program header that points to notes, and of the note that holds the build id (System V ABI; GNU binutils `NT_GNU_BUILD_ID`).
const PT_NOTE: u32 = 4;
const BUILD_ID: u32 = 3;

/// Notes are small. What is larger is none of ours.
const MOST_NOTES: u64 = 1 << 16;

/// The build id that the linker wrote into an ELF file, a digest of what it linked, which survives copying and stripping; of any other file, the digest
/// of all its bytes. Two builds never share it.
pub(super) fn id(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    match build_id(&file) {
        Some(id) => Ok(format!("build-id:{}", hex(&id))),
        None => Ok(format!("sha256:{}", sha256_hex_of(file)?)),
    }
}

/// The build id of a 64-bit little-endian ELF file.
fn build_id(file: &File) -> Option<Vec<u8>> {
    let head = read(file, 0, 64)?;
    if head[..6] != *b"\x7fELF\x02\x01" {
        return None;
    }
    let (at, each, count) = (u64_at(&head, 32)?, u16_at(&head, 54)?, u16_at(&head, 56)?);
    (0..u64::from(count)).find_map(|n| {
        let header = read(file, at.checked_add(n * u64::from(each))?, 56)?;
        let (offset, bytes, align) = (u64_at(&header, 8)?, u64_at(&header, 32)?, u64_at(&header, 48)?);
        if u32_at(&header, 0)? != PT_NOTE || bytes > MOST_NOTES {
            return None;
        }
        in_notes(&read(file, offset, bytes as usize)?, if align == 8 { 8 } else { 4 })
    })
}

/// Walks over notes: sizes of name and content, type, then both, each padded.
fn in_notes(mut notes: &[u8], align: usize) -> Option<Vec<u8>> {
    loop {
        let (name_bytes, bytes, kind) = (u32_at(notes, 0)? as usize, u32_at(notes, 4)? as usize, u32_at(notes, 8)?);
        let content = (12 + name_bytes).next_multiple_of(align);
        let end = content.checked_add(bytes)?;
        let (name, id) = (notes.get(12..12 + name_bytes)?, notes.get(content..end)?);
        if kind == BUILD_ID && name == b"GNU\0" && !id.is_empty() {
            return Some(id.to_vec());
        }
        notes = notes.get(end.next_multiple_of(align)..)?;
    }
}

fn read(file: &File, at: u64, bytes: usize) -> Option<Vec<u8>> {
    let mut buffer = vec![0; bytes];
    file.read_exact_at(&mut buffer, at).ok()?;
    Some(buffer)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::digest::sha256_hex;

    /// A note as a linker writes it.
    fn note(kind: u32, name: &[u8], content: &[u8], align: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [name.len() as u32, content.len() as u32, kind] {
            bytes.extend(number.to_le_bytes());
        }
        for part in [name, content] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(align), 0);
        }
        bytes
    }

    /// An ELF file of a header, one program header of notes, and these.
    fn elf(notes: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 120];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32] = 64; // the program headers
        file[54] = 56; // bytes of one
        file[56] = 1; // how many
        file[64] = 4; // notes
        file[72] = 120; // where
        file[96..104].copy_from_slice(&(notes.len() as u64).to_le_bytes());
        file[112] = 4; // alignment
        file.extend(notes);
        file
    }

    fn of(bytes: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        id(file.path()).unwrap()
    }

    #[test]
    fn the_build_id_is_found_behind_other_notes_and_does_not_change_with_the_rest_of_the_file() {
        let notes =
            [note(1, b"GNU\0", b"abi!", 4), note(3, b"Go\0", b"x", 4), note(3, b"GNU\0", b"\x01\xab", 4)].concat();
        assert_eq!(of(&elf(&notes)), "build-id:01ab");
        assert_eq!(of(&[elf(&notes), b"symbols".to_vec()].concat()), "build-id:01ab");
        assert_ne!(of(&elf(&note(3, b"GNU\0", b"\x02", 4))), of(&elf(&note(3, b"GNU\0", b"\x01", 4))));
    }

    #[test]
    fn what_has_no_build_id_is_known_by_all_its_bytes() {
        let without = elf(&note(1, b"GNU\0", b"abi!", 4));
        let cut = &elf(&note(3, b"GNU\0", b"\x01\xab\x02\x03", 4))[..130];
        for bytes in [&b"#!/bin/sh"[..], b"", &without, cut, b"\x7fELF\x02\x01"] {
            assert_eq!(of(bytes), format!("sha256:{}", sha256_hex(bytes)));
        }
        assert!(id(Path::new("/nowhere/program")).is_err());
    }

    #[test]
    fn this_very_program_has_one() {
        let found = id(&std::env::current_exe().unwrap()).unwrap();
        assert!(found.starts_with("build-id:") || found.starts_with("sha256:"), "{found}");
        assert!(found.len() > 20, "{found}");
    }
}
