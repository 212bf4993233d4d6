//! Writes a status, when it differs from the one that is there.

use kube::api::{Patch, PatchParams};
use kube::core::Request;
use kube::{Client, Resource};
use serde_json::json;

use super::answer;
use super::apply::ApplyError;
use crate::api::BakeJob;
use crate::api::bakejob::BakeJobStatus;
use crate::operator::names::STATUS_MANAGER;

/// Where a status goes.
pub(super) struct Target<'t> {
    pub(super) namespace: &'t str,
    pub(super) name: &'t str,
    /// The version that was decided on: a status never overwrites one that it has not seen.
    pub(super) version: Option<&'t str>,
}

/// Publishes a status by server-side apply: fields that it no longer has go away. Returns the version of the object after it; `None` when it is gone.
pub(super) async fn publish(
    client: &Client,
    target: &Target<'_>,
    status: &BakeJobStatus,
) -> Result<Option<String>, ApplyError> {
    let patch = json!({
        "apiVersion": BakeJob::api_version(&()),
        "kind": BakeJob::kind(&()),
        "metadata": {"name": target.name, "namespace": target.namespace, "resourceVersion": target.version},
        "status": status,
    });
    let parameters = PatchParams::apply(STATUS_MANAGER).force();
    let bakejobs = Request::new(BakeJob::url_path(&(), Some(target.namespace)));
    let request = bakejobs.patch_subresource("status", target.name, &parameters, &Patch::Apply(&patch));
    match answer::write(client, request).await {
        Ok(written) => Ok(written.resource_version),
        Err(kube::Error::Api(status)) if status.is_conflict() => Err(ApplyError::Stale),
        // 422 is a field that does not fit the schema, 500 with these words one that no schema could say: a key of a list twice.
        Err(kube::Error::Api(status))
            if status.is_invalid() || status.message.contains("failed to create typed patch") =>
        {
            Err(ApplyError::Unfit(status.message.clone()))
        }
        // Deleted meanwhile.
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
