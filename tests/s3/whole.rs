//! What must be true of a bucket at every moment.

use std::path::Path;

use bakehouse::api::digest::sha256_hex;
use bakehouse::model::Model;
use serde_json::Value;

use super::server::objects;
use super::wide;

/// Each file is whole, and each report names only files that lie beside it with the digests that it names.
pub(crate) fn check(bucket: &Path) -> Result<(), String> {
    let objects = objects(bucket);
    for (key, bytes) in &objects {
        let (folder, name) = key.rsplit_once('/').unwrap_or(("", key));
        let whole = match name.rsplit_once('.').map(|(_, extension)| extension) {
            Some("json") => serde_json::from_slice::<Value>(bytes).is_ok(),
            Some("html") => bytes.trim_ascii_end().ends_with(b"</html>"),
            Some("bin") => bytes.len() == wide::WEIGHTS,
            Some("onnx") => Model::from_bytes(bytes.clone().into(), Path::new(key)).is_ok(),
            _ => true,
        };
        if !whole {
            return Err(format!("{key} is not whole ({} bytes)", bytes.len()));
        }
        if name != "report.json" {
            continue;
        }
        let report: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        for artifact in report["artifacts"].as_array().into_iter().flatten() {
            let file = artifact["file"].as_str().unwrap_or_default();
            let found = objects.get(&format!("{folder}/{file}")).map(|bytes| sha256_hex(bytes));
            if found.as_deref() != artifact["sha256"].as_str() {
                return Err(format!("{key} names {file} with {}, found {found:?}", artifact["sha256"]));
            }
        }
    }
    Ok(())
}
