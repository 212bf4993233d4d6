//! The answer to a write. Only the metadata of what was written is asked for: the rest is what was sent, may be large, and may be an object
//! that cannot be read.

use hyper::Request;
use hyper::header::{ACCEPT, HeaderValue};
use kube::Client;
use kube::core::request;
use serde::Deserialize;

const METADATA_ONLY: HeaderValue =
    HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");

/// What is read of an answer.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    /// The object's UID.
    pub(super) uid: Option<String>,
    /// Its version after the write.
    pub(super) resource_version: Option<String>,
}

/// Sends a write, as kube's request builder makes it.
pub(super) async fn write(
    client: &Client,
    built: Result<Request<Vec<u8>>, request::Error>,
) -> Result<Metadata, kube::Error> {
    #[derive(Deserialize)]
    struct Answer {
        metadata: Metadata,
    }
    let mut request = built.map_err(kube::Error::BuildRequest)?;
    request.headers_mut().insert(ACCEPT, METADATA_ONLY);
    client.request::<Answer>(request).await.map(|answer| answer.metadata)
}
