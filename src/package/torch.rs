//! Reading what `torch.save` writes: a zip archive with a pickle and one file of raw numbers for each storage. The pickle is read by [`super::pickle`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use bytes::Bytes;
use npyz::npz::NpzArchive;
use serde_json::{Map, Number, Value as Json};

use super::pickle::{self, Storage, TensorRef, Value};
use crate::model::tensor::{element_count, gathered};
use crate::model::{DType, Tensor};

/// The largest pickle that is read: names and shapes, no numbers.
const MOST_PICKLE: u64 = 64 << 20;

/// The key of the weights in the trainer's checkpoint.
const STATE: &str = "model_state_dict";

/// The element type of a storage class of torch.
pub(super) fn storage_type(class: &str) -> Option<DType> {
    Some(match class {
        "FloatStorage" => DType::F32,
        "DoubleStorage" => DType::F64,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        "CharStorage" => DType::I8,
        "ShortStorage" => DType::I16,
        "IntStorage" => DType::I32,
        "LongStorage" => DType::I64,
        "ByteStorage" => DType::U8,
        "BoolStorage" => DType::Bool,
        _ => return None,
    })
}

/// A checkpoint whose pickle was read; its numbers still lie in the file.
pub(super) struct Checkpoint<R: Read + Seek> {
    archive: NpzArchive<R>,
    /// The folder inside the archive that everything lies in.
    prefix: String,
    /// Bytes of the whole file.
    length: u64,
    state: Vec<(String, TensorRef)>,
    others: Vec<(String, Value)>,
}

impl Checkpoint<BufReader<File>> {
    /// Opens a file.
    ///
    /// # Errors
    /// A sentence to be put behind the file's name.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let file = File::open(path)
            .map_err(|error| format!("cannot be read: {error}. Check the path and its permissions."))?;
        Self::read(BufReader::new(file))
    }
}

impl<R: Read + Seek> Checkpoint<R> {
    fn read(mut file: R) -> Result<Self, String> {
        let length = recognised(&mut file)?;
        let damaged = |e: String| format!("is not a readable archive of torch.save ({e}). Save it again.");
        let mut archive = NpzArchive::new(file).map_err(|e| damaged(e.to_string()))?;
        let prefix = prefix(archive.zip_archive().file_names())?;
        if let Some(order) = entry(&mut archive, &format!("{prefix}/byteorder"), 16)?
            && order != b"little"
        {
            return Err("was saved on a big-endian machine. Save it again on a little-endian one, or as .safetensors."
                .to_owned());
        }
        let pickled = entry(&mut archive, &format!("{prefix}/data.pkl"), MOST_PICKLE)?.unwrap_or_default();
        let root = pickle::read(&pickled).map_err(|said| format!("cannot be read without running it: {said}."))?;
        let (state, others) = divided(root)?;
        Ok(Self { archive, prefix, length, state, others })
    }

    /// What lies beside the weights under this key, as JSON; empty when there is nothing, or no dictionary.
    pub(super) fn object(&self, key: &str) -> Map<String, Json> {
        match self.others.iter().find(|(name, _)| name == key).map(|(_, value)| json(value)) {
            Some(Json::Object(object)) => object,
            _ => Map::new(),
        }
    }

    /// The tensors of the state dictionary by name, row-major.
    pub(super) fn tensors(&mut self) -> Result<BTreeMap<String, Tensor>, String> {
        let mut storages: BTreeMap<String, Bytes> = BTreeMap::new();
        // Views that are not contiguous are copied. Many of one storage must not unfold to more than the file holds.
        let mut copied = 0_u64;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in self.state.clone() {
            let of_tensor = |said: String| format!("tensor '{name}' {said}");
            let key = &tensor.storage.key;
            if !storages.contains_key(key) {
                let bytes = self.storage(&tensor.storage).map_err(of_tensor)?;
                storages.insert(key.clone(), bytes);
            }
            let Some(bytes) = storages.get(key) else { continue };
            let (made, own) = viewed(&tensor, bytes).map_err(of_tensor)?;
            copied += own;
            if copied > self.length {
                return Err(
                    "holds more views of its storages than numbers. Save contiguous tensors: tensor.contiguous()."
                        .to_owned(),
                );
            }
            tensors.insert(name, made);
        }
        Ok(tensors)
    }

    fn storage(&mut self, storage: &Storage) -> Result<Bytes, String> {
        let name = format!("{}/data/{}", self.prefix, storage.key);
        let wanted = storage.elements.checked_mul(storage.dtype.size() as u64).filter(|&bytes| bytes <= self.length);
        let wanted = wanted.ok_or_else(|| {
            format!("claims {} elements, more than the file holds. It is truncated; save it again.", storage.elements)
        })?;
        let bytes = entry(&mut self.archive, &name, wanted)?
            .ok_or_else(|| format!("lies in '{name}', which is not in the archive. Save it again."))?;
        if (bytes.len() as u64) < wanted {
            return Err(format!(
                "needs {wanted} bytes of '{name}', which has {}. It is truncated; save it again.",
                bytes.len()
            ));
        }
        Ok(bytes.into())
    }
}

/// Length of a file that begins as `torch.save` writes it now.
fn recognised(file: &mut (impl Read + Seek)) -> Result<u64, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}.");
    let mut start = Vec::new();
    file.by_ref().take(16).read_to_end(&mut start).map_err(unreadable)?;
    let length = file.seek(SeekFrom::End(0)).map_err(unreadable)?;
    file.rewind().map_err(unreadable)?;
    if start.starts_with(b"PK\x03\x04") {
        return Ok(length);
    }
    Err(if start.starts_with(b"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19") || start.starts_with(b"\x80") {
        "is in the format that torch.save wrote before version 1.6, or a bare pickle. Load it where it was made and save it again: torch.save(torch.load(path), path)."
            .to_owned()
    } else if start.is_empty() {
        "is empty. Save it again.".to_owned()
    } else {
        "is not what torch.save writes. Give a .pt file that holds a state_dict, or a .safetensors file.".to_owned()
    })
}

/// The one folder of the archive that holds the pickle.
fn prefix<'n>(names: impl Iterator<Item = &'n str>) -> Result<String, String> {
    let (mut found, mut script) = (Vec::new(), false);
    for name in names {
        match name.split_once('/') {
            Some((folder, "data.pkl")) => found.push(folder.to_owned()),
            Some((_, "constants.pkl")) => script = true,
            Some((_, inner)) if inner.starts_with("code/") => script = true,
            _ => {}
        }
    }
    if script {
        return Err(
            "is a TorchScript archive, which is code. Save the weights alone: torch.save(model.state_dict(), path)."
                .to_owned(),
        );
    }
    match <[String; 1]>::try_from(found) {
        Ok([folder]) => Ok(folder),
        Err(found) if found.is_empty() => Err(
            "is an archive without data.pkl, so torch.save did not write it. Give a .pt file that holds a state_dict."
                .to_owned(),
        ),
        Err(_) => Err("is an archive with more than one data.pkl. Save it again.".to_owned()),
    }
}

/// The bytes of an entry, at most `most` of them; `None` when there is none of this name. The archive's own checksum is compared on the way.
fn entry<R: Read + Seek>(archive: &mut NpzArchive<R>, name: &str, most: u64) -> Result<Option<Vec<u8>>, String> {
    let zip = archive.zip_archive();
    if !zip.file_names().any(|n| n == name) {
        return Ok(None);
    }
    let damaged = |e: String| format!("has a damaged entry '{name}' ({e}). Save it again.");
    let mut entry = zip.by_name(name).map_err(|e| damaged(e.to_string()))?;
    let (size, packed) = (entry.size(), entry.compressed_size());
    if size != packed {
        return Err(format!(
            "has the compressed entry '{name}', which torch.save does not write. Save it again, or as .safetensors."
        ));
    }
    if size > most {
        return Err(format!(
            "has the entry '{name}' of {size} bytes, where {most} are expected. It is damaged; save it again."
        ));
    }
    let mut bytes = Vec::new();
    entry.by_ref().take(size).read_to_end(&mut bytes).map_err(|e| damaged(e.to_string()))?;
    // One more read, so that the checksum is compared.
    if bytes.len() as u64 != size || entry.read(&mut [0]).map_err(|e| damaged(e.to_string()))? != 0 {
        return Err(damaged(format!("{size} bytes are stated, {} came", bytes.len())));
    }
    Ok(Some(bytes))
}

/// The state dictionary, and what lies beside it: in the trainer's checkpoint under keys of its own, in a bare state dictionary nothing.
fn divided(root: Value) -> Result<(Vec<(String, TensorRef)>, Vec<(String, Value)>), String> {
    let Value::Dict(pairs) = root else {
        return Err("holds no dictionary at its top. Save model.state_dict(), or a dictionary with model_state_dict."
            .to_owned());
    };
    let mut named = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let Value::Text(key) = key else {
            return Err("holds a dictionary with keys that are no texts. Save model.state_dict(), or a dictionary with model_state_dict.".to_owned());
        };
        named.push((key, value));
    }
    let (tensors, others) = match named.iter().position(|(key, _)| key == STATE) {
        Some(at) => match named.swap_remove(at).1 {
            Value::Dict(pairs) => (pairs, named),
            _ => return Err(format!("holds a {STATE} that is no dictionary. Save model.state_dict() under it.")),
        },
        None => (named.into_iter().map(|(key, value)| (Value::Text(key), value)).collect(), Vec::new()),
    };
    let mut state = Vec::with_capacity(tensors.len());
    for pair in tensors {
        match pair {
            (Value::Text(name), Value::Tensor(tensor)) => state.push((name, tensor)),
            (Value::Text(name), _) => {
                return Err(format!(
                    "holds '{name}', which is no tensor, among its weights. Save model.state_dict(), or a dictionary with {STATE}."
                ));
            }
            _ => {
                return Err(format!(
                    "holds a tensor without a name. Save model.state_dict(), or a dictionary with {STATE}."
                ));
            }
        }
    }
    if state.is_empty() {
        return Err("holds no tensor. Save model.state_dict() after the training.".to_owned());
    }
    Ok((state, others))
}

/// The tensor that a view of a storage is, and how many bytes had to be copied for it.
fn viewed(tensor: &TensorRef, storage: &Bytes) -> Result<(Tensor, u64), String> {
    let TensorRef { storage: Storage { dtype, elements, .. }, offset, shape, strides } = tensor;
    let broken = || {
        format!(
            "reaches beyond its storage of {elements} elements (offset {offset}, shape {shape:?}, strides {strides:?}). The file is damaged; save it again."
        )
    };
    let dims = shape.iter().map(|&d| usize::try_from(d)).collect::<Result<Vec<usize>, _>>().map_err(|_| broken())?;
    let count = element_count(&dims).ok_or_else(broken)?;
    let size = dtype.size();
    if count == 0 {
        return Tensor::from_bytes(*dtype, dims, Bytes::new()).map(|tensor| (tensor, 0)).map_err(|e| e.to_string());
    }
    // The last element is the farthest: strides of a saved tensor are never negative.
    let reach = dims
        .iter()
        .zip(strides)
        .try_fold(*offset, |at, (&d, &stride)| at.checked_add((d as u64 - 1).checked_mul(stride)?));
    if reach.is_none_or(|last| last >= *elements) || count as u64 > *elements {
        return Err(broken());
    }
    let start = *offset as usize * size;
    let (data, own) = if contiguous(&dims, strides) {
        (storage.slice(start..start + count * size), 0)
    } else {
        (gathered(&dims, strides, &storage[start..], size).into(), (count * size) as u64)
    };
    Tensor::from_bytes(*dtype, dims, data).map(|tensor| (tensor, own)).map_err(|e| e.to_string())
}

/// Whether elements lie row-major without gaps. The stride of an axis of one element does not count.
fn contiguous(shape: &[usize], strides: &[u64]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(&d, &stride)| {
        let fits = d == 1 || stride == expected;
        expected *= d as u64;
        fits
    })
}

/// A value as JSON. What JSON cannot say becomes a text.
fn json(value: &Value) -> Json {
    match value {
        Value::None => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Number::from_i128(*value).map_or_else(|| Json::String(value.to_string()), Json::Number),
        Value::Float(value) => Number::from_f64(*value).map_or_else(|| Json::String(value.to_string()), Json::Number),
        Value::Text(text) => Json::String(text.clone()),
        Value::List(items) => Json::Array(items.iter().map(json).collect()),
        Value::Dict(pairs) => Json::Object(pairs.iter().map(|(key, value)| (key_text(key), json(value))).collect()),
        Value::Tensor(tensor) => Json::String(format!("tensor {} {:?}", tensor.storage.dtype, tensor.shape)),
    }
}

fn key_text(key: &Value) -> String {
    match json(key) {
        Json::String(text) => text,
        other => other.to_string(),
    }
}

#[cfg(test)]
#[path = "../../tests/phase5/checkpoint.rs"]
mod made;

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use serde_json::json;

    use super::made::{Raw, archive, dict, none, number, ordered, real, stored, tensor, tensor_view, text};
    use super::*;

    fn read(bytes: Vec<u8>) -> Result<BTreeMap<String, Tensor>, String> {
        Checkpoint::read(Cursor::new(bytes))?.tensors()
    }

    fn floats(values: &[f32]) -> Raw {
        Raw {
            class: "FloatStorage",
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            elements: values.len(),
        }
    }

    #[test]
    fn a_bare_state_dictionary_gives_its_tensors() {
        let values = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        let longs = Raw { class: "LongStorage", bytes: 7_i64.to_le_bytes().to_vec(), elements: 1 };
        let root =
            ordered(&[("w", tensor("0", "FloatStorage", 6, &[2, 3])), ("count", tensor("1", "LongStorage", 1, &[]))]);
        let tensors = read(archive(&root, &[floats(&values), longs])).unwrap();
        assert_eq!(tensors["w"], Tensor::new(&[2, 3], &values));
        assert_eq!(tensors["count"], Tensor::scalar(7_i64));
    }

    #[test]
    fn views_are_put_in_order_and_shared_storages_are_not_copied() {
        let values = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        let root = ordered(&[
            ("transposed", tensor_view("0", 6, 0, &[3, 2], &[1, 3])),
            ("row", tensor_view("0", 6, 3, &[3], &[1])),
            ("all", tensor_view("0", 6, 0, &[1, 6], &[99, 1])),
        ]);
        let tensors = read(archive(&root, &[floats(&values)])).unwrap();
        assert_eq!(tensors["transposed"], Tensor::new(&[3, 2], &[1.0_f32, 4.0, 2.0, 5.0, 3.0, 6.0]));
        assert_eq!(tensors["row"], Tensor::new(&[3], &[4.0_f32, 5.0, 6.0]));
        assert_eq!(tensors["row"].bytes().as_ptr() as usize - tensors["all"].bytes().as_ptr() as usize, 12);
    }

    #[test]
    fn the_trainers_checkpoint_gives_what_lies_beside_the_weights() {
        let root = dict(&[
            ("model_state_dict", ordered(&[("w", tensor("0", "FloatStorage", 1, &[1]))])),
            ("config", dict(&[("epochs", number(3)), ("lr", real(0.1)), ("note", none()), ("nan", real(f64::NAN))])),
            ("training_results", dict(&[("final_accuracy", real(0.97))])),
        ]);
        let mut checkpoint = Checkpoint::read(Cursor::new(archive(&root, &[floats(&[5.0])]))).unwrap();
        assert_eq!(
            Json::Object(checkpoint.object("config")),
            json!({"epochs": 3, "lr": 0.1, "note": null, "nan": "NaN"})
        );
        assert_eq!(Json::Object(checkpoint.object("training_results")), json!({"final_accuracy": 0.97}));
        assert!(checkpoint.object("phase5_metadata").is_empty());
        assert_eq!(checkpoint.tensors().unwrap()["w"], Tensor::new(&[1], &[5.0_f32]));
    }

    #[test]
    fn a_tensor_that_reaches_beyond_its_storage_is_refused_by_name() {
        let one = floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        for (shape, strides, offset) in [
            (&[7][..], &[1][..], 0),
            (&[6], &[1], 1),
            (&[2, 3], &[4, 1], 0),
            (&[1 << 40, 1 << 40], &[0, 0], 0),
            (&[7, 1], &[0, 0], 0),
            (&[2], &[u64::MAX], 0),
        ] {
            let root = ordered(&[("fc.weight", tensor_view("0", 6, offset, shape, strides))]);
            let said = read(archive(&root, std::slice::from_ref(&one))).unwrap_err();
            assert!(said.contains("tensor 'fc.weight' reaches beyond its storage of 6 elements"), "{said}");
        }
        let more = ordered(&[("w", tensor("0", "FloatStorage", 7, &[7]))]);
        let said = read(archive(&more, std::slice::from_ref(&one))).unwrap_err();
        assert!(said.contains("needs 28 bytes of 'archive/data/0', which has 24"), "{said}");
        let huge = ordered(&[("w", tensor("0", "FloatStorage", 1 << 40, &[1 << 40]))]);
        assert!(read(archive(&huge, std::slice::from_ref(&one))).unwrap_err().contains("more than the file holds"));
        let absent = ordered(&[("w", tensor("1", "FloatStorage", 6, &[6]))]);
        assert!(read(archive(&absent, &[one])).unwrap_err().contains("'archive/data/1', which is not in the archive"));
    }

    #[test]
    fn views_do_not_unfold_to_more_than_the_file_holds() {
        let many: Vec<(String, Vec<u8>)> =
            (0..400).map(|i| (format!("t{i}"), tensor_view("0", 400, 0, &[20, 20], &[1, 20]))).collect();
        let many: Vec<(&str, Vec<u8>)> = many.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
        let said = read(archive(&ordered(&many), &[floats(&[0.5; 400])])).unwrap_err();
        assert!(said.contains("more views of its storages"), "{said}");
    }

    #[test]
    fn what_is_no_checkpoint_is_refused_with_what_to_do() {
        let good = ordered(&[("w", tensor("0", "FloatStorage", 1, &[1]))]);
        let whole = archive(&good, &[floats(&[1.0])]);
        let entry = |name: &'static str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
        let table = [
            (Vec::new(), "is empty"),
            (b"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec(), "before version 1.6"),
            (b"\x80\x04}.".to_vec(), "a bare pickle"),
            (b"\x89PNG".to_vec(), "is not what torch.save writes"),
            (whole[..whole.len() - 30].to_vec(), "is not a readable archive"),
            (whole[..whole.len() / 2].to_vec(), "is not a readable archive"),
            (stored(&[entry("a/readme", b"x")]), "without data.pkl"),
            (stored(&[entry("a/data.pkl", b"x"), entry("b/data.pkl", b"x")]), "more than one data.pkl"),
            (stored(&[entry("a/data.pkl", b"x"), entry("a/code/m.py", b"x")]), "TorchScript"),
            (stored(&[entry("a/data.pkl", b"x"), entry("a/byteorder", b"big")]), "big-endian"),
            (stored(&[entry("a/data.pkl", b"\x80\x02K\x01.")]), "no dictionary at its top"),
            (archive(&dict(&[]), &[]), "holds no tensor"),
            (archive(&dict(&[("epochs", number(3))]), &[]), "holds 'epochs', which is no tensor"),
            (archive(&dict(&[("model_state_dict", text("x"))]), &[]), "model_state_dict that is no dictionary"),
        ];
        for (bytes, expected) in table {
            let said = read(bytes).unwrap_err();
            assert!(said.contains(expected), "{expected}: {said}");
        }
    }

    #[test]
    fn no_byte_however_wrong_takes_the_reader_down() {
        let root = dict(&[
            ("model_state_dict", ordered(&[("w", tensor("0", "FloatStorage", 4, &[2, 2]))])),
            ("config", dict(&[("epochs", number(3)), ("lr", real(0.1))])),
        ]);
        let whole = archive(&root, &[floats(&[1.0, 2.0, 3.0, 4.0])]);
        for at in 0..whole.len() {
            for value in [0, 1, b'.', b'R', 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = read(bytes);
            }
            let _ = read(whole[..at].to_vec());
        }
        // The archive's checksum keeps most of that from the pickle; here it sees all of it.
        for at in 0..root.len() {
            for value in [0, 1, b'.', b'R', b'(', b't', b'u', b'h', 0x7f, 0xff] {
                let mut bytes = root.clone();
                bytes[at] = value;
                let _ = read(archive(&bytes, &[floats(&[1.0, 2.0, 3.0, 4.0])]));
            }
        }
    }

    #[test]
    fn a_changed_byte_is_found_by_the_checksum_of_the_archive() {
        let root = ordered(&[("w", tensor("0", "FloatStorage", 2, &[2]))]);
        let mut bytes = archive(&root, &[floats(&[1.5, 2.5])]);
        let at = bytes.windows(8).position(|w| w == [1.5_f32.to_le_bytes(), 2.5_f32.to_le_bytes()].concat()).unwrap();
        bytes[at] ^= 1;
        let said = read(bytes).unwrap_err();
        assert!(said.contains("damaged entry 'archive/data/0'"), "{said}");
    }
}
