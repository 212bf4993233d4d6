//! Reading named arrays from `.npz` and `.safetensors` files. Every size is checked before memory is taken for it; pickled arrays are never opened.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use bytes::Bytes;

use super::Limits;
use crate::api::digest::sha256_hex_of;
use crate::engine::EngineError;
use crate::model::tensor::{element_count, gathered};
use crate::model::{DType, Tensor, mapped, safetensors, stream};

/// Arrays of a file by name.
pub(super) type Arrays = BTreeMap<String, Tensor>;

/// A numpy header is a line of text; numpy itself refuses more than this.
const MAX_HEADER: usize = 10_000;

/// What an archive calls a member that is not compressed.
const STORED: &str = "Stored";

/// Reads every array of `path`, by its extension. With them, the SHA-256 of the file that was read: one handle serves both, so that a file which is put in
/// its place meanwhile changes neither. What lies in the file as it is in memory is mapped and not copied.
pub(super) fn read(path: &Path, limits: Limits) -> Result<(Arrays, String), EngineError> {
    let failed = |detail: String| EngineError::Data(format!("{}: {detail}", path.display()));
    let unreadable = |e: std::io::Error| failed(format!("cannot be read: {e}. Check the path and its permissions."));
    let mut file = File::open(path).map_err(unreadable)?;
    match extension(path).as_str() {
        "npz" => {
            let sha256 = sha256_hex_of(&file).map_err(unreadable)?;
            file.rewind().map_err(unreadable)?;
            let map = mapped::map_open(&file, path).map_err(unreadable)?;
            Ok((npz(BufReader::new(file), &map, limits).map_err(failed)?, sha256))
        }
        "safetensors" => {
            check_limit(file.metadata().map_or(0, |m| m.len()), limits).map_err(failed)?;
            let bytes = mapped::map_open(&file, path).map_err(unreadable)?;
            Ok((safetensors::read(&bytes).map_err(failed)?, stream::sha256(&bytes)))
        }
        _ => {
            Err(failed("is neither .npz nor .safetensors. Save the split with numpy.savez or safetensors.".to_owned()))
        }
    }
}

fn extension(path: &Path) -> String {
    path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase()
}

/// Bytes that the arrays of a file take in memory, as its directory states them: nothing is unpacked. `None` for what cannot be read.
pub(super) fn unpacked_bytes(path: &Path) -> Option<u64> {
    let file = File::open(path).ok()?;
    if extension(path) != "npz" {
        return Some(file.metadata().ok()?.len());
    }
    let mut archive = npyz::npz::NpzArchive::new(BufReader::new(file)).ok()?;
    let zip = archive.zip_archive();
    let sizes = (0..zip.len()).map(|index| zip.by_index_raw(index).map_or(0, |entry| entry.size()));
    Some(sizes.fold(0, u64::saturating_add))
}

fn check_limit(bytes: u64, limits: Limits) -> Result<(), String> {
    if bytes > limits.bytes {
        return Err(format!(
            "holds {bytes} bytes of data, more than the {} that may be used. Give fewer samples.",
            limits.bytes
        ));
    }
    Ok(())
}

/// Reads the arrays of an archive. `map` holds its bytes: arrays that are stored in it as they are in memory are slices of it.
fn npz(file: impl Read + Seek, map: &Bytes, limits: Limits) -> Result<Arrays, String> {
    let damaged = |e: String| format!("is not a readable .npz archive ({e}). Save it again with numpy.savez.");
    let mut archive = npyz::npz::NpzArchive::new(file).map_err(|e| damaged(e.to_string()))?;
    let zip = archive.zip_archive();
    let mut arrays = Arrays::new();
    let mut budget = limits.bytes;
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).map_err(|e| damaged(e.to_string()))?;
        let Some(name) = npyz::npz::array_name_from_file_name(entry.name()).map(str::to_owned) else {
            continue;
        };
        let (declared, of_array) = (entry.size(), |e: String| format!("array '{name}' {e}"));
        let start = entry.data_start() as usize;
        let stored = entry.compression().to_string() == STORED;
        let stored =
            stored.then(|| map.get(start..start.saturating_add(declared as usize))).flatten().map(|s| map.slice_ref(s));
        let tensor = npy(&mut entry, declared, stored.as_ref(), Limits { bytes: budget }).map_err(of_array)?;
        budget -= tensor.bytes().len() as u64;
        if arrays.insert(name.clone(), tensor).is_some() {
            return Err(format!("array '{name}' is there twice. Save the file again."));
        }
    }
    Ok(arrays)
}

/// Reads one `.npy` stream of at most `size` bytes (format: numpy's NEP 1). Where `stored` has the bytes of the stream and the array lies in them as it is in
/// memory, it is a slice of them; it is read all the same, by which an archive finds out that it is damaged.
fn npy(reader: &mut impl Read, size: u64, stored: Option<&Bytes>, limits: Limits) -> Result<Tensor, String> {
    let damaged = |e: std::io::Error| format!("is truncated or damaged ({e}). Save the file again.");
    let not_npy = || "is not in numpy's format. Save the file again with numpy.savez.".to_owned();
    let mut start = [0_u8; 8];
    reader.read_exact(&mut start).map_err(damaged)?;
    if &start[..6] != b"\x93NUMPY" {
        return Err(not_npy());
    }
    let (mut length, width) = ([0_u8; 4], if start[6] == 1 { 2 } else { 4 });
    reader.read_exact(&mut length[..width]).map_err(damaged)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER {
        return Err(not_npy());
    }
    let mut header = vec![0_u8; length];
    reader.read_exact(&mut header).map_err(damaged)?;
    let header = NpyHeader::parse(&String::from_utf8_lossy(&header))?;

    let elements = element_count(&header.shape).and_then(|n| n.checked_mul(header.dtype.size()));
    let expected = elements.ok_or_else(|| format!("claims the shape {:?}, which no memory holds.", header.shape))?;
    check_limit(expected as u64, limits)?;
    if expected as u64 > size.saturating_sub((8 + width + length) as u64) {
        return Err(format!("claims {expected} bytes of data but holds fewer. The file is truncated; save it again."));
    }
    let as_it_is = !header.big_endian && !header.fortran && header.dtype != DType::Bool;
    if let Some(stored) = stored.filter(|_| as_it_is) {
        std::io::copy(reader, &mut std::io::sink()).map_err(damaged)?;
        let start = 8 + width + length;
        let data = stored.slice(start..start + expected);
        return Tensor::from_bytes(header.dtype, header.shape, data).map_err(|e| e.to_string());
    }
    let mut data = vec![0_u8; expected];
    reader.read_exact(&mut data).map_err(damaged)?;
    if header.big_endian {
        data.chunks_exact_mut(header.dtype.size()).for_each(<[u8]>::reverse);
    }
    if header.fortran {
        data = to_row_major(&data, &header.shape, header.dtype.size());
    }
    if header.dtype == DType::Bool {
        for byte in &mut data {
            *byte = u8::from(*byte != 0);
        }
    }
    Tensor::from_bytes(header.dtype, header.shape, data.into()).map_err(|e| e.to_string())
}

/// The dictionary at the head of a `.npy` file.
#[derive(Debug, PartialEq, Eq)]
struct NpyHeader {
    dtype: DType,
    big_endian: bool,
    fortran: bool,
    shape: Vec<usize>,
}

impl NpyHeader {
    fn parse(text: &str) -> Result<Self, String> {
        let broken = || "has a header that is not numpy's. Save the file again with numpy.savez.".to_owned();
        let after = |key: &str| Some(text.split_once(key)?.1.split_once(':')?.1.trim_start());
        let descr = after("'descr'").ok_or_else(broken)?;
        let Some(descr) = descr.strip_prefix('\'').and_then(|d| d.split_once('\'')).map(|(d, _)| d) else {
            return Err("has a structured type; only plain numbers are read. Save one array per input.".to_owned());
        };
        let (dtype, big_endian) = dtype_of(descr)?;
        let fortran = after("'fortran_order'").ok_or_else(broken)?.starts_with("True");
        let shape =
            after("'shape'").and_then(|s| s.strip_prefix('(')).and_then(|s| s.split_once(')')).ok_or_else(broken)?.0;
        let shape = shape.split(',').map(str::trim).filter(|d| !d.is_empty());
        let shape =
            shape.map(|d| d.trim_end_matches('L').parse()).collect::<Result<Vec<usize>, _>>().map_err(|_| broken())?;
        Ok(Self { dtype, big_endian, fortran, shape })
    }
}

/// Element type and whether it is big-endian, of a numpy type string such as `<f4`.
fn dtype_of(descr: &str) -> Result<(DType, bool), String> {
    let dtype = match descr.trim_start_matches(['<', '>', '|', '=']) {
        "f4" => DType::F32,
        "f8" => DType::F64,
        "f2" => DType::F16,
        "i1" => DType::I8,
        "i2" => DType::I16,
        "i4" => DType::I32,
        "i8" => DType::I64,
        "u1" => DType::U8,
        "u2" => DType::U16,
        "u4" => DType::U32,
        "u8" => DType::U64,
        "b1" | "?" => DType::Bool,
        o if o.starts_with('O') => {
            return Err(
                "holds Python objects (pickle), which are never opened because they can run code. Save it as numbers: array.astype('float32').".to_owned()
            );
        }
        other => return Err(format!("has the type '{other}', which is not a number. Save it as numbers.")),
    };
    Ok((dtype, descr.starts_with('>')))
}

/// Reorders column-major (Fortran) elements of `size` bytes to row-major.
fn to_row_major(data: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut strides = vec![1_u64; shape.len()];
    for axis in 1..shape.len() {
        strides[axis] = strides[axis - 1] * shape[axis - 1] as u64;
    }
    gathered(shape, &strides, data, size)
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use super::*;
    use crate::api::digest::sha256_hex;

    /// A `.npy` stream with this header dictionary and data.
    pub(in crate::engine::dataset) fn npy_bytes(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    /// The zip crate is npyz's own; its options type is reached by inference.
    fn zip_options<T: Default>() -> T {
        T::default()
    }

    fn read_npy(header: &str, data: &[u8]) -> Result<Tensor, String> {
        let bytes = npy_bytes(header, data);
        npy(&mut &bytes[..], bytes.len() as u64, None, Limits { bytes: 1 << 20 })
    }

    #[test]
    fn every_layout_that_numpy_writes_is_read_as_row_major_little_endian() {
        let values = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        let (le, be): (Vec<u8>, Vec<u8>) = (
            values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            values.iter().flat_map(|v| v.to_be_bytes()).collect(),
        );
        let c = read_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", &le).unwrap();
        assert_eq!(c, Tensor::new(&[2, 3], &values));
        assert_eq!(read_npy("{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3), }", &be).unwrap(), c);
        let f = read_npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", &le).unwrap();
        assert_eq!(f, Tensor::new(&[2, 3], &[1.0_f32, 3.0, 5.0, 2.0, 4.0, 6.0]));
        assert_eq!(
            read_npy("{'descr': '|b1', 'fortran_order': False, 'shape': (), }", &[2]).unwrap(),
            Tensor::from_bools(&[], &[true])
        );
    }

    #[test]
    fn what_cannot_be_numbers_is_refused_with_what_to_do() {
        for (header, data, expected) in [
            ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", &[0_u8; 8][..], "pickle"),
            ("{'descr': '<U5', 'fortran_order': False, 'shape': (1,), }", &[0; 20], "not a number"),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", &[0; 4], "structured"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", &[0; 4], "truncated"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 9999999999), }", &[0; 4], "no memory"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999,), }", &[0; 4], "Give fewer samples"),
            ("{'descr': '<f4', 'shape': (1,), }", &[0; 4], "header"),
            ("", &[], "header"),
        ] {
            let message = read_npy(header, data).unwrap_err();
            assert!(message.contains(expected), "{header}: {message}");
        }
        assert!(npy(&mut &b"not numpy"[..], 9, None, Limits::default()).unwrap_err().contains("numpy's format"));
    }

    #[test]
    fn an_archive_gives_its_arrays_by_name_whatever_the_name_holds() {
        let mut cursor = Cursor::new(Vec::new());
        let mut writer = npyz::npz::NpzWriter::new(&mut cursor);
        let zip = writer.zip_writer();
        for name in ["input:0.npy", "a/b.npy", "notes.txt"] {
            zip.start_file(name, zip_options()).unwrap();
            let bytes = npy_bytes("{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }", &7_i64.to_le_bytes());
            zip.write_all(&bytes).unwrap();
        }
        drop(writer);
        let arrays = npz(Cursor::new(cursor.get_ref().clone()), &Bytes::new(), Limits::default()).unwrap();
        assert_eq!(arrays.keys().collect::<Vec<_>>(), ["a/b", "input:0"]);
        let error = npz(cursor, &Bytes::new(), Limits { bytes: 8 }).unwrap_err();
        assert!(error.contains("Give fewer samples"), "{error}");
    }

    #[test]
    fn a_compressed_archive_is_as_large_as_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zeros.npz");
        let mut writer = npyz::npz::NpzWriter::create(&path).unwrap();
        let zeros = npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (250000,), }", &vec![0; 1_000_000]);
        for name in ["a.npy", "b.npy"] {
            writer.zip_writer().start_file(name, zip_options()).unwrap();
            writer.zip_writer().write_all(&zeros).unwrap();
        }
        drop(writer);
        let (packed, unpacked) = (path.metadata().unwrap().len(), unpacked_bytes(&path).unwrap());
        assert!(packed < 10_000 && unpacked == 2 * zeros.len() as u64, "{packed} {unpacked}");
        let (arrays, sha256) = read(&path, Limits::default()).unwrap();
        assert_eq!((arrays.len(), sha256), (2, sha256_hex(&std::fs::read(&path).unwrap())));

        let plain = folder.path().join("plain.safetensors");
        std::fs::write(&plain, [0; 77]).unwrap();
        assert_eq!(unpacked_bytes(&plain), Some(77));
        assert_eq!(unpacked_bytes(&folder.path().join("gone.npz")), None);
        std::fs::write(&path, b"no archive").unwrap();
        assert_eq!(unpacked_bytes(&path), None);
    }

    #[test]
    fn what_is_stored_as_it_is_in_memory_is_mapped_and_a_damaged_one_is_found_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plain.npz");
        let values: Vec<f32> = (0..4096).map(|v| v as f32).collect();
        let mut writer = npyz::npz::NpzWriter::create(&path).unwrap();
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (4096,), }";
        let options =
            zip_options::<npyz::zip::write::FileOptions>().compression_method(npyz::zip::CompressionMethod::Stored);
        writer.zip_writer().start_file("a.npy", options).unwrap();
        writer.zip_writer().write_all(&npy_bytes(header, bytemuck::cast_slice(&values))).unwrap();
        drop(writer);
        let (arrays, _) = read(&path, Limits::default()).unwrap();
        assert_eq!(arrays["a"], Tensor::new(&[4096], &values));
        assert!(mapped::link(arrays["a"].bytes(), folder.path()).is_some(), "its bytes lie in a map of the file");

        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let damaged = folder.path().join("damaged.npz");
        std::fs::write(&damaged, bytes).unwrap();
        let error = read(&damaged, Limits::default()).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
    }

    #[test]
    fn an_archive_that_is_none_is_refused() {
        assert!(
            npz(Cursor::new(b"PK\x03\x04 nothing".to_vec()), &Bytes::new(), Limits::default())
                .unwrap_err()
                .contains("not a readable .npz")
        );
    }
}
