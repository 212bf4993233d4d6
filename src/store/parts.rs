//! What all uploads have in common.

use object_store::{Attribute, Attributes, MultipartUpload};

use super::error::At;

/// Larger files are uploaded in parts, and the least size of a part but the last.
pub(super) const PART: usize = 8 << 20;

/// S3 takes at most 10,000 parts.
pub(super) const MOST_PARTS: u64 = 9_000;

/// What browsers and tools take the file for.
pub(super) fn attributes(name: &str) -> Attributes {
    let content = match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    };
    Attributes::from_iter([(Attribute::ContentType, content)])
}

/// Parts of an upload that is never completed cost money until somebody removes them.
pub(super) async fn give_up(mut upload: Box<dyn MultipartUpload>, at: &At) {
    match upload.abort().await {
        // It was completed, or somebody else was quicker.
        Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => {
            let error = at.failed(error);
            tracing::warn!("an unfinished upload may be left; a lifecycle rule of the bucket removes such: {error}");
        }
    }
}
