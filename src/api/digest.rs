//! SHA-256 as hexadecimal text, the form in which reports, recipes and manifests hold it, and the spec digest: equal exactly when two specs decide the
//! same artifact and the same verdict.

use std::fmt::Write as _;
use std::io::Read;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::bakejob::BakeJobSpec;

/// `sha256:` and the digest of the canonical JSON (keys sorted, no spaces, defaults written out) of what decides the artifact and its
/// verdict: source, data, optimization, hardware, runtime, profile, gates, exports, the output's URI and the worker's image.
///
/// Outside are the control fields: `suspend`, `managedBy`, `promotion`, deadlines, retries, TTL, cache, storage access, retention of the output and the
/// rest of the worker. Changing those never bakes again. Gates, exports and CPU features are sets: their order does not count.
///
/// # Panics
/// Never: every spec serializes to JSON.
#[must_use]
pub fn spec_digest(spec: &BakeJobSpec) -> String {
    let whole = serde_json::to_value(spec).expect("a spec serializes to JSON");
    let mut decisive = Map::new();
    for field in ["source", "data", "optimization", "hardware", "runtime", "profile", "gates", "exports"] {
        if let Some(value) = whole.get(field) {
            decisive.insert(field.to_owned(), value.clone());
        }
    }
    for list in ["/gates", "/exports", "/hardware/cpu/features"] {
        if let Some(Value::Array(items)) = pointer(&mut decisive, list) {
            items.sort_by_key(ToString::to_string);
        }
    }
    decisive.insert("output".into(), json!({"uri": spec.output.uri}));
    if let Some(image) = spec.worker.as_ref().and_then(|w| w.image.as_ref()) {
        decisive.insert("worker".into(), json!({"image": image}));
    }
    let canonical = canonical(&Value::Object(decisive)).to_string();
    format!("sha256:{}", sha256_hex(canonical.as_bytes()))
}

/// SHA-256 of bytes, in hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of all that a reader gives, in hexadecimal, in memory that does not grow with it.
///
/// # Errors
/// Those of the reader.
pub fn sha256_hex_of(mut reader: impl Read) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 16];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(n) => hash.update(&buffer[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Bytes in hexadecimal, lower case.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn pointer<'a>(object: &'a mut Map<String, Value>, path: &str) -> Option<&'a mut Value> {
    let (first, rest) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    let value = object.get_mut(first)?;
    if rest.is_empty() { Some(value) } else { value.pointer_mut(&format!("/{rest}")) }
}

fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut keys: Vec<&String> = object.keys().collect();
            keys.sort_unstable();
            Value::Object(keys.into_iter().map(|key| (key.clone(), canonical(&object[key]))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::bakejob::{Cache, Export, GateSpec, Level, OnDelete, PromotionPolicy, Storage, Worker};
    use crate::api::metric::Metric;

    fn spec() -> BakeJobSpec {
        let mut spec = BakeJobSpec::new("model.onnx", "val.npz", "out");
        let gate = |metric, min: &str| GateSpec { metric, min: Some(min.into()), max: None };
        spec.gates = vec![gate(Metric::Speedup, "1.5"), gate(Metric::Throughput, "30")];
        spec.exports = vec![Export::Onnx, Export::Phase7];
        spec
    }

    #[test]
    fn the_digest_of_nothing_is_the_known_one_and_a_reader_gives_what_its_bytes_give() {
        assert_eq!(sha256_hex(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let bytes: Vec<u8> = (0..200_000_u32).map(|i| i as u8).collect();
        assert_eq!(sha256_hex_of(&bytes[..]).unwrap(), sha256_hex(&bytes));
    }

    #[test]
    fn control_fields_do_not_change_the_digest() {
        let control: [fn(&mut BakeJobSpec); 12] = [
            |s| s.managed_by = "kueue.x-k8s.io/multikueue".into(),
            |s| s.suspend = true,
            |s| s.promotion.policy = PromotionPolicy::Manual,
            |s| s.promotion.approved_digest = Some("sha256:0".into()),
            |s| s.ttl_seconds_after_finished = Some(60),
            |s| s.active_deadline_seconds = Some(60),
            |s| s.backoff_limit = 0,
            |s| s.cache = Some(Cache::Off),
            |s| s.output.on_delete = OnDelete::Delete,
            |s| s.output.keep_runs = 1,
            |s| {
                s.storage = Some(Storage {
                    endpoint: None,
                    region: Some("x".into()),
                    path_style: None,
                    ca_bundle: None,
                    credentials: None,
                });
            },
            |s| s.worker = Some(Worker { priority_class_name: Some("high".into()), ..Worker::default() }),
        ];
        let before = spec_digest(&spec());
        for (i, change) in control.into_iter().enumerate() {
            let mut changed = spec();
            change(&mut changed);
            assert_ne!(changed, spec(), "change {i} changes the spec");
            assert_eq!(spec_digest(&changed), before, "change {i}");
        }
    }

    #[test]
    fn deciding_fields_change_the_digest_each_to_another() {
        let deciding: [fn(&mut BakeJobSpec); 13] = [
            |s| s.source.uri = "other.onnx".into(),
            |s| s.source.digest = Some("sha256:0".into()),
            |s| s.data.validation = None,
            |s| s.optimization.level = Level::Conservative,
            |s| s.optimization.seed = 1,
            |s| s.optimization.exclude = vec!["/head/*".into()],
            |s| s.hardware.device = crate::api::bakejob::Device::Cpu,
            |s| s.runtime = Some(crate::api::bakejob::Runtime::Bakehouse),
            |s| s.profile.iterations = 50,
            |s| s.gates[0].min = Some("1.6".into()),
            |s| s.exports = vec![Export::Onnx],
            |s| s.output.uri = "elsewhere".into(),
            |s| s.worker = Some(Worker { image: Some("worker:2".into()), ..Worker::default() }),
        ];
        let mut seen = std::collections::BTreeSet::from([spec_digest(&spec())]);
        for (i, change) in deciding.into_iter().enumerate() {
            let mut changed = spec();
            change(&mut changed);
            assert!(seen.insert(spec_digest(&changed)), "change {i} gives a new digest");
        }
    }

    #[test]
    fn the_order_of_sets_does_not_count() {
        let mut turned = spec();
        turned.gates.reverse();
        turned.exports.reverse();
        assert_eq!(spec_digest(&turned), spec_digest(&spec()));
    }

    #[test]
    fn the_digest_is_the_same_on_every_machine_and_version() {
        assert_eq!(
            spec_digest(&BakeJobSpec::new("model.onnx", "val.npz", "out")),
            "sha256:df7116cfd8d0f0489f413f39fc65adbac8e8f60023eb5addf3cdbd3566dbd544"
        );
    }
}
