//! Checkpoints as `torch.save` writes them (PyTorch 2, zip format, pickle of protocol 2), made by hand: opcode by opcode, entry by entry. For tests alone.
#![allow(dead_code, unreachable_pub, reason = "unit tests and scenarios each use a part of it")]

/// A storage: its class in torch, its raw numbers and how many there are.
#[derive(Clone)]
pub struct Raw {
    pub class: &'static str,
    pub bytes: Vec<u8>,
    pub elements: usize,
}

/// A text.
pub fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// A whole number.
pub fn number(value: i64) -> Vec<u8> {
    match (u8::try_from(value), i32::try_from(value)) {
        (Ok(small), _) => vec![b'K', small],
        (_, Ok(medium)) => [b"J".as_slice(), &medium.to_le_bytes()].concat(),
        _ => [b"\x8a\x08".as_slice(), &value.to_le_bytes()].concat(),
    }
}

/// A real number.
pub fn real(value: f64) -> Vec<u8> {
    [b"G".as_slice(), &value.to_be_bytes()].concat()
}

/// `None`.
pub fn none() -> Vec<u8> {
    b"N".to_vec()
}

/// A function or class by its name.
pub fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

/// A tuple.
pub fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(".as_slice(), &items.concat(), b"t"].concat()
}

fn pairs(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    items.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect()
}

/// A dictionary.
pub fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    [b"}(".as_slice(), &pairs(items), b"u"].concat()
}

/// An ordered dictionary with the attribute that a state dictionary has.
pub fn ordered(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let empty = [global("collections", "OrderedDict"), b")R".to_vec()].concat();
    let attributes = dict(&[("_metadata", empty.clone())]);
    [empty, b"(".to_vec(), pairs(items), b"u".to_vec(), attributes, b"b".to_vec()].concat()
}

/// A tensor that is a whole storage, row-major.
pub fn tensor(key: &str, class: &str, elements: u64, shape: &[u64]) -> Vec<u8> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    view(key, class, elements, 0, shape, &strides)
}

/// A view of a storage of 32-bit floats.
pub fn tensor_view(key: &str, elements: u64, offset: u64, shape: &[u64], strides: &[u64]) -> Vec<u8> {
    view(key, "FloatStorage", elements, offset, shape, strides)
}

fn view(key: &str, class: &str, elements: u64, offset: u64, shape: &[u64], strides: &[u64]) -> Vec<u8> {
    let count = |value: u64| match i64::try_from(value) {
        Ok(value) => number(value),
        // One byte more, so that it is not negative.
        Err(_) => [b"\x8a\x09".as_slice(), &value.to_le_bytes(), b"\x00"].concat(),
    };
    let counts = |values: &[u64]| tuple(&values.iter().map(|&v| count(v)).collect::<Vec<_>>());
    let storage =
        [tuple(&[text("storage"), global("torch", class), text(key), text("cpu"), count(elements)]), b"Q".to_vec()]
            .concat();
    let hooks = [global("collections", "OrderedDict"), b")R".to_vec()].concat();
    let arguments = tuple(&[storage, count(offset), counts(shape), counts(strides), b"\x89".to_vec(), hooks]);
    [global("torch._utils", "_rebuild_tensor_v2"), arguments, b"R".to_vec()].concat()
}

/// The file: the pickle of `root` and a storage for each of `storages`, with the keys 0, 1, ...
pub fn archive(root: &[u8], storages: &[Raw]) -> Vec<u8> {
    let pickle = [b"\x80\x02".as_slice(), root, b"."].concat();
    let mut entries =
        vec![("archive/data.pkl".to_owned(), pickle), ("archive/byteorder".to_owned(), b"little".to_vec())];
    entries.extend(storages.iter().enumerate().map(|(i, raw)| (format!("archive/data/{i}"), raw.bytes.clone())));
    entries.push(("archive/version".to_owned(), b"3\n".to_vec()));
    stored(&entries)
}

/// A zip archive of entries that are stored as they are (APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16).
pub fn stored(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let offset = file.len() as u32;
        let common = [
            &20_u16.to_le_bytes()[..],
            &[0; 8],
            &crc32(bytes).to_le_bytes(),
            &(bytes.len() as u32).to_le_bytes(),
            &(bytes.len() as u32).to_le_bytes(),
            &(name.len() as u16).to_le_bytes(),
            &[0; 2],
        ]
        .concat();
        file.extend([b"PK\x03\x04".as_slice(), &common, name.as_bytes(), bytes].concat());
        directory.extend(
            [b"PK\x01\x02\x14\x00".as_slice(), &common, &[0; 10], &offset.to_le_bytes(), name.as_bytes()].concat(),
        );
    }
    let (count, size, start) = (entries.len() as u16, directory.len() as u32, file.len() as u32);
    file.extend(directory);
    let end =
        [&[0; 4][..], &count.to_le_bytes(), &count.to_le_bytes(), &size.to_le_bytes(), &start.to_le_bytes(), &[0; 2]];
    file.extend([b"PK\x05\x06".as_slice(), &end.concat()].concat());
    file
}

/// The checksum of zip (ISO 3309), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}
