//! From the object as it came to a job that can be decided on. Parsed once; nothing behind this looks at the raw object again.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;

use super::names;
use crate::api::bakejob::{BakeJobStatus, GateSpec, OnDelete};
use crate::api::digest::spec_digest;
use crate::api::{BakeJob, BakeJobSpec};

/// What the platform sets for every job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// The worker's image when a job names none.
    pub image: String,
    /// How long a pod waits for a device before the fallback.
    pub fallback_after: Duration,
    /// How long a finished Job is kept, for its log.
    pub keep_jobs: Duration,
    /// Bounds that no job's gates may undercut.
    pub gate_floors: Vec<GateSpec>,
    /// Where workers keep results for later bakes of the same inputs.
    pub cache: Option<String>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            image: "bakehouse-worker".to_owned(),
            fallback_after: Duration::from_mins(5),
            keep_jobs: Duration::from_hours(24),
            gate_floors: Vec::new(),
            cache: None,
        }
    }
}

/// A job, ready to be decided on.
#[derive(Debug, Clone, PartialEq)]
pub struct Validated {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// The generation of the spec.
    pub generation: i64,
    /// What is asked for.
    pub spec: BakeJobSpec,
    /// What the controller said last.
    pub status: BakeJobStatus,
    /// Digest of what decides artifact and verdict.
    pub spec_digest: String,
    /// The labels for Kueue; empty when the controller decides itself who runs.
    pub kueue: BTreeMap<String, String>,
    /// Set when it is being deleted.
    pub deleting: bool,
    /// Whether our finalizer is on it.
    pub finalizer: bool,
    /// Why it cannot be baked as it is; for a person, field by field.
    pub refusal: Option<String>,
    /// The platform's defaults.
    pub defaults: Defaults,
}

/// Why an object cannot even be looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValidateError {
    /// The API server sets these fields on every object.
    #[error("the object has no metadata.{0}: it does not come from an API server")]
    Missing(&'static str),
}

/// Reads a job.
///
/// # Errors
/// [`ValidateError`] for an object that no API server gave out.
pub fn validate(job: &BakeJob, defaults: &Defaults) -> Result<Validated, ValidateError> {
    let meta = &job.metadata;
    let spec = job.spec.clone();
    let queued = meta.labels.as_ref().is_some_and(|labels| labels.contains_key(names::KUEUE_QUEUE));
    let kueue = meta.labels.iter().flatten().filter(|(name, _)| queued && names::KUEUE_LABELS.contains(&name.as_str()));
    Ok(Validated {
        name: meta.name.clone().ok_or(ValidateError::Missing("name"))?,
        namespace: meta.namespace.clone().ok_or(ValidateError::Missing("namespace"))?,
        uid: meta.uid.clone().ok_or(ValidateError::Missing("uid"))?,
        generation: meta.generation.unwrap_or(0),
        status: job.status.clone().unwrap_or_default(),
        spec_digest: spec_digest(&spec),
        kueue: kueue.map(|(name, value)| (name.clone(), value.clone())).collect(),
        deleting: meta.deletion_timestamp.is_some(),
        finalizer: meta.finalizers.iter().flatten().any(|f| f == names::FINALIZER),
        refusal: refusal(&spec),
        defaults: defaults.clone(),
        spec,
    })
}

/// What only a cluster cannot do. Everything else the worker checks, with the same words as on a laptop.
fn refusal(spec: &BakeJobSpec) -> Option<String> {
    let mut lines = Vec::new();
    for (field, uri) in spec.inputs().chain(spec.outputs()) {
        if !uri.contains("://") && !uri.starts_with('/') {
            lines.push(format!(
                "{field}: {uri} is relative to a job file, which a cluster does not have; write an absolute path on a mounted volume, or a URI."
            ));
        }
        if let Some(rest) = uri.strip_prefix("pvc://")
            && (claim(uri).is_none() || rest.split('/').any(|part| part == ".."))
        {
            lines.push(format!(
                "{field}: {uri} must be pvc://claim/path, with the name of a PersistentVolumeClaim and no `..`."
            ));
        }
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// The claim that a `pvc://` URI names.
pub(super) fn claim(uri: &str) -> Option<&str> {
    let (claim, path) = uri.strip_prefix("pvc://")?.split_once('/')?;
    let name = claim.len() <= 253
        && claim.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && claim.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'));
    (name && !path.is_empty()).then_some(claim)
}

impl Validated {
    /// Whether Kueue decides when it runs.
    pub fn by_kueue(&self) -> bool {
        !self.kueue.is_empty()
    }

    /// Whether its output goes with it.
    pub fn cleans(&self) -> bool {
        self.spec.output.on_delete == OnDelete::Delete
    }

    /// The reference that its Jobs carry.
    pub fn owner_reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: BakeJob::api_version(&()).into_owned(),
            kind: BakeJob::kind(&()).into_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    /// Seconds that the current run may take at most.
    pub fn deadline(&self) -> Option<i64> {
        self.spec.active_deadline_seconds.map(i64::from)
    }
}

/// Whether a status says that a run holds a place under the caps.
pub fn holds_a_place(status: &BakeJobStatus) -> bool {
    status.start_time.is_some() && status.completion_time.is_none()
}

/// When the run of a status ended.
pub(super) fn ended_at(status: &BakeJobStatus) -> Option<Timestamp> {
    status.completion_time.as_ref().map(|time| time.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(change: impl Fn(&mut BakeJobSpec)) -> Option<String> {
        let mut spec = BakeJobSpec::new("s3://m/a.onnx", "/data/v.npz", "pvc://out/a");
        change(&mut spec);
        refusal(&spec)
    }

    #[test]
    fn a_job_that_a_cluster_can_reach_is_taken() {
        assert_eq!(refused(|_| {}), None);
    }

    #[test]
    fn what_a_cluster_cannot_do_is_refused_by_field() {
        let relative = refused(|s| s.source.uri = "models/a.onnx".into()).unwrap();
        assert!(relative.starts_with("spec.source.uri: models/a.onnx is relative"), "{relative}");
        let promotion = refused(|s| s.promotion.uri = Some("promoted".into())).unwrap();
        assert!(promotion.starts_with("spec.promotion.uri: promoted is relative"), "{promotion}");
        for uri in ["pvc://out", "pvc://Out/a", "pvc:///a", "pvc://out/../b"] {
            assert!(refused(|s| s.output.uri = uri.into()).is_some(), "{uri}");
        }
    }

    #[test]
    fn the_labels_of_kueue_are_taken_only_with_a_queue() {
        let read = |labels: serde_json::Value| {
            let mut job = BakeJob::new("cnn", BakeJobSpec::new("/m", "/v", "/o"));
            job.metadata =
                serde_json::from_value(json!({"name": "cnn", "namespace": "ml", "uid": "u", "labels": labels}))
                    .unwrap();
            validate(&job, &Defaults::default()).unwrap().kueue
        };
        assert_eq!(read(json!({"kueue.x-k8s.io/priority-class": "high"})).len(), 0);
        assert_eq!(
            read(json!({"kueue.x-k8s.io/priority-class": "high", "kueue.x-k8s.io/queue-name": "q", "team": "a"})).len(),
            2
        );
    }
}
