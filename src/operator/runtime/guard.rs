//! An object that cannot be read stops no other: a watch brings it with its metadata and the reason instead.
//!
//! Kube's own guard keeps a second copy of every object for the case that it cannot be read. This one keeps the metadata only, and never reads
//! what nobody here reads.

use std::borrow::Cow;

use kube::Resource;
use kube::core::ObjectMeta;
use kube::core::error_boundary::InvalidObject;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error};

use super::unread;

/// An object, or why it cannot be read and what is known of it all the same.
#[derive(Debug, Clone)]
pub(super) struct Guard<K>(pub(super) Result<K, InvalidObject>);

impl<'de, K: DeserializeOwned> Deserialize<'de> for Guard<K> {
    /// # Errors
    /// Not even its metadata can be read.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = unread::read(deserializer)?;
        let metadata = object.get("metadata").cloned();
        let read = match serde_json::from_value(object) {
            Ok(object) => Ok(object),
            Err(error) => {
                let metadata: ObjectMeta =
                    serde_json::from_value(metadata.unwrap_or_default()).map_err(D::Error::custom)?;
                Err(InvalidObject { error: error.to_string(), metadata })
            }
        };
        Ok(Self(read))
    }
}

impl<K: Resource> Resource for Guard<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(kind: &K::DynamicType) -> Cow<'_, str> {
        K::kind(kind)
    }

    fn group(kind: &K::DynamicType) -> Cow<'_, str> {
        K::group(kind)
    }

    fn version(kind: &K::DynamicType) -> Cow<'_, str> {
        K::version(kind)
    }

    fn plural(kind: &K::DynamicType) -> Cow<'_, str> {
        K::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|invalid| &invalid.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|invalid| &mut invalid.metadata, K::meta_mut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use kube::ResourceExt;
    use serde_json::{Value, json};

    fn read(spec: &Value) -> Guard<Pod> {
        let metadata = json!({"name": "p", "namespace": "ml", "managedFields": [{"manager": "kubelet"}]});
        serde_json::from_str(&json!({"metadata": metadata, "spec": spec}).to_string()).unwrap()
    }

    #[test]
    fn what_can_be_read_is_read_without_what_nobody_reads() {
        let pod = read(&json!({"containers": "none", "nodeName": "n1"}));
        assert!(pod.managed_fields().is_empty());
        assert_eq!(pod.0.unwrap().spec.unwrap().node_name.as_deref(), Some("n1"));
    }

    #[test]
    fn what_cannot_be_read_is_known_by_its_metadata() {
        let pod = read(&json!({"nodeName": {}}));
        assert_eq!((pod.name_any(), pod.namespace()), ("p".to_owned(), Some("ml".to_owned())));
        assert!(pod.0.unwrap_err().error.contains("invalid type"));
        assert!(serde_json::from_str::<Guard<Pod>>(r#"{"metadata": 5}"#).is_err());
    }
}
