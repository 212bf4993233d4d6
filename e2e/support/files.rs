//! The examples' files, as ConfigMaps: they reach a pod in any cluster, without a server or a disk of the node.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Where the pods of the cases find them.
pub(crate) const SHELF: &str = "/shelf";

/// Model and data of an example.
pub(crate) fn config_map(example: &str) -> ConfigMap {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example);
    let files = ["model.onnx", "calibration.npz", "validation.npz"];
    let read = |file: &str| (file.to_owned(), ByteString(std::fs::read(folder.join(file)).unwrap()));
    let binary_data: BTreeMap<String, ByteString> = files.into_iter().map(read).collect();
    ConfigMap {
        metadata: ObjectMeta { name: Some(example.to_owned()), ..ObjectMeta::default() },
        binary_data: Some(binary_data),
        ..ConfigMap::default()
    }
}
