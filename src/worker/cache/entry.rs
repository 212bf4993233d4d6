//! The manifest of a kept result. It is written last and deleted first: files that none names are nothing.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::Reason;
use crate::bake::{REPORT, sealed};
use crate::worker::place::Item;
use crate::worker::{Failed, clean};

/// Its file.
pub(super) const ENTRY: &str = "entry.json";

/// Schema of [`Entry`].
const VERSION: &str = "bakehouse.dev/cache-entry/v1";

/// A result that is kept, as its manifest says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    api_version: String,
    /// SHA-256 of its inputs.
    pub(crate) key: String,
    /// The inputs.
    pub(super) inputs: Value,
    /// Folder of the files beside this one: that of the process that wrote them.
    pub(super) attempt: String,
    /// Name of the job that it was baked for.
    pub(crate) job: String,
    /// Spec digest of that job.
    pub(super) spec_digest: String,
    /// When its last stage ended.
    pub(crate) baked_at: String,
    /// How it ended.
    pub(crate) reason: Reason,
    /// The processor that it was measured on.
    pub(crate) cpu: String,
    /// The engine that it was measured on.
    pub(crate) engine: String,
    files: Vec<KeptFile>,
}

/// A file of the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeptFile {
    /// Its name.
    pub(super) file: String,
    /// Its SHA-256, in hexadecimal.
    pub(super) sha256: String,
    pub(super) bytes: u64,
}

/// What a manifest is made of beside its version.
pub(super) struct Parts {
    pub(super) key: String,
    pub(super) inputs: Value,
    pub(super) attempt: String,
    pub(super) job: String,
    pub(super) spec_digest: String,
    pub(super) baked_at: String,
    pub(super) reason: Reason,
    pub(super) cpu: String,
    pub(super) engine: String,
    pub(super) files: Vec<KeptFile>,
}

impl From<Parts> for Entry {
    fn from(parts: Parts) -> Self {
        let Parts { key, inputs, attempt, job, spec_digest, baked_at, reason, cpu, engine, files } = parts;
        let api_version = VERSION.to_owned();
        Self { api_version, key, inputs, attempt, job, spec_digest, baked_at, reason, cpu, engine, files }
    }
}

impl Entry {
    /// The text of the manifest, with its own digest in front.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, Failed> {
        let text = serde_json::to_string(self)
            .map_err(|error| Failed { reason: Reason::Internal, message: error.to_string() })?;
        Ok(sealed::seal(&text).into_bytes())
    }

    /// Reads a manifest that lies in the folder of `key`; why it is none otherwise.
    pub(super) fn read(bytes: &[u8], key: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(sealed::open(bytes)?).map_err(|e| format!("it is no JSON: {e}"))?;
        match value["apiVersion"].as_str() {
            Some(VERSION) => {}
            other => return Err(format!("it is of version '{}'", other.unwrap_or("none"))),
        }
        let entry: Self = serde_json::from_value(value).map_err(|e| format!("it does not keep its own schema: {e}"))?;
        if entry.key != key {
            return Err("it is that of another bake".to_owned());
        }
        let inside = |name: &str| clean::stays_inside(name);
        if !is_attempt(&entry.attempt) || !entry.files.iter().all(|file| inside(&file.file)) {
            return Err("it names a file outside its folder".to_owned());
        }
        if !entry.files.iter().any(|file| file.file == REPORT) {
            return Err(format!("it names no {REPORT}"));
        }
        Ok(entry)
    }

    /// The version of a manifest that is whole, and not one of this version.
    pub(super) fn other_version(bytes: &[u8]) -> Option<String> {
        let value: Value = serde_json::from_str(sealed::open(bytes).ok()?).ok()?;
        value["apiVersion"].as_str().filter(|version| *version != VERSION).map(str::to_owned)
    }

    /// Its files.
    pub(super) fn files(&self) -> &[KeptFile] {
        &self.files
    }

    /// Its files, as they are copied.
    pub(super) fn items(&self) -> Vec<Item> {
        let items = self.files.iter().map(|file| Item { name: file.file.clone(), sha256: file.sha256.clone() });
        items.collect()
    }
}

/// Name for the files of one process, which no other one takes: milliseconds of the time, and a random number.
pub(super) fn new_attempt() -> String {
    use std::hash::{BuildHasher, Hasher};
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("{:013}-{random:016x}", jiff::Timestamp::now().as_millisecond())
}

/// Whether a folder's name is one of these.
pub(super) fn is_attempt(name: &str) -> bool {
    let all = |text: &str, length, is: fn(&u8) -> bool| text.len() == length && text.as_bytes().iter().all(is);
    name.split_once('-')
        .is_some_and(|(time, random)| all(time, 13, u8::is_ascii_digit) && all(random, 16, u8::is_ascii_hexdigit))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::worker::cache) fn entry(key: &str, attempt: &str) -> Entry {
        Entry::from(Parts {
            key: key.to_owned(),
            inputs: serde_json::json!({"seed": 0}),
            attempt: attempt.to_owned(),
            job: "cnn".to_owned(),
            spec_digest: "sha256:0".to_owned(),
            baked_at: "2026-01-02T03:04:05Z".to_owned(),
            reason: Reason::Baked,
            cpu: "AMD EPYC 9B14".to_owned(),
            engine: "tract 0.23.9".to_owned(),
            files: vec![
                KeptFile { file: "phase7/model.onnx".to_owned(), sha256: "1".to_owned(), bytes: 10 },
                KeptFile { file: REPORT.to_owned(), sha256: "2".to_owned(), bytes: 20 },
            ],
        })
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written_and_with_any_bit_changed_it_is_none() {
        let entry = entry("k", &new_attempt());
        let bytes = entry.to_bytes().unwrap();
        assert_eq!(Entry::read(&bytes, "k").unwrap(), entry);
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(Entry::read(&flipped, "k").is_err(), "a bit of byte {at}");
            assert!(Entry::read(&bytes[..at], "k").is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_manifest_under_a_good_seal_is_still_held_to_its_place() {
        let attempt = new_attempt();
        let table: [(fn(&mut Entry), &str); 5] = [
            (|e| e.api_version = "bakehouse.dev/cache-entry/v2".into(), "version"),
            (|e| e.key = "other".into(), "another bake"),
            (|e| e.attempt = "..".into(), "outside"),
            (|e| e.files[0].file = "../../secret".into(), "outside"),
            (|e| drop(e.files.pop()), "names no report.json"),
        ];
        for (change, said) in table {
            let mut changed = entry("k", &attempt);
            change(&mut changed);
            let why = Entry::read(&changed.to_bytes().unwrap(), "k").unwrap_err();
            assert!(why.contains(said), "{why}");
        }
    }

    #[test]
    fn attempts_have_names_of_their_own() {
        let (a, b) = (new_attempt(), new_attempt());
        assert!(is_attempt(&a) && is_attempt(&b) && a != b, "{a} {b}");
        for name in ["", "..", "1-2", "entry.json", "0000000000000-000000000000000g", "x000000000000-0000000000000000"]
        {
            assert!(!is_attempt(name), "{name}");
        }
    }
}
