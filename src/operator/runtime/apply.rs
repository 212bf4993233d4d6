//! Does what a plan says. Creating is safe to repeat: names are fixed, and a Job that is there already is ours or an error.

use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::Request;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use super::answer;
use crate::api::BakeJob;
use crate::operator::build;
use crate::operator::decide::{Action, Refusal};
use crate::operator::facts::JobFacts;
use crate::operator::names::{CONTROLLER, FINALIZER};
use crate::operator::validate::Validated;

/// Why a plan was not carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    #[error("the BakeJob has changed since the decision; deciding again")]
    Stale,
    #[error("the API server does not take this status: {0}")]
    Unfit(String),
    #[error("the Job was not taken: {0:?}")]
    Refused(Refusal),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// What a plan left behind.
pub(super) struct Applied {
    /// The version of the `BakeJob` to publish its status on.
    pub(super) version: Option<String>,
    /// Whether the `BakeJob` itself is deleted.
    pub(super) deleted: bool,
    /// The UID of the Job of an attempt, when this plan made it.
    pub(super) made: Option<String>,
}

pub(super) async fn apply(
    client: &Client,
    job: &Validated,
    object: &BakeJob,
    actions: &[Action],
) -> Result<Applied, ApplyError> {
    let jobs = Api::<Job>::namespaced(client.clone(), &job.namespace);
    let bakejobs = Api::<BakeJob>::namespaced(client.clone(), &job.namespace);
    let mut applied = Applied { version: object.resource_version(), deleted: false, made: None };
    for action in actions {
        tracing::info!(?action, "applying");
        match action {
            Action::CreateJob(attempt) => {
                fresh(&bakejobs, job, applied.version.as_deref()).await?;
                applied.made = create(client, job, &build::bake(job, attempt)).await?;
            }
            Action::CreateCleanup => match create(client, job, &build::cleanup(job)).await {
                // A namespace on its way out takes no Jobs; it takes the finalizer, or it would never go.
                Err(ApplyError::Refused(refusal)) => {
                    tracing::warn!(?refusal, "the output is not deleted");
                    applied.version = finalizers(&bakejobs, object, applied.version, false).await?;
                }
                other => drop(other?),
            },
            Action::CreatePromotion => drop(create(client, job, &build::promotion(job)).await?),
            Action::Adjust { job, suspend, deadline } => {
                let mut spec = serde_json::Map::new();
                spec.extend(suspend.map(|suspend| ("suspend".to_owned(), json!(suspend))));
                spec.extend(deadline.map(|deadline| ("activeDeadlineSeconds".to_owned(), json!(deadline))));
                merge(&jobs, job, &json!({"spec": spec})).await?;
            }
            Action::Expire { job: name } => {
                let keep = job.defaults.keep_jobs.as_secs();
                merge(&jobs, name, &json!({"spec": {"ttlSecondsAfterFinished": keep}})).await?;
            }
            Action::DeleteJob { job, uid } => delete(&jobs, job, uid, None, PropagationPolicy::Foreground).await?,
            Action::AddFinalizer => applied.version = finalizers(&bakejobs, object, applied.version, true).await?,
            Action::RemoveFinalizer => applied.version = finalizers(&bakejobs, object, applied.version, false).await?,
            Action::DeleteSelf => {
                delete(&bakejobs, &job.name, &job.uid, applied.version.clone(), PropagationPolicy::Background).await?;
                applied.deleted = true;
            }
        }
    }
    Ok(applied)
}

/// A decision to start rests on the newest version, or it is made again: a cache that lags must not start a second attempt.
async fn fresh(bakejobs: &Api<BakeJob>, job: &Validated, version: Option<&str>) -> Result<(), ApplyError> {
    let newest = bakejobs.get_metadata_opt(&job.name).await?.ok_or(ApplyError::Stale)?;
    let same = newest.metadata.uid.as_deref() == Some(job.uid.as_str())
        && newest.metadata.resource_version.as_deref() == version;
    if same { Ok(()) } else { Err(ApplyError::Stale) }
}

/// Creates a Job, or finds that it is there already; its UID.
async fn create(client: &Client, job: &Validated, built: &Job) -> Result<Option<String>, ApplyError> {
    let parameters = PostParams { field_manager: Some(CONTROLLER.to_owned()), ..PostParams::default() };
    let body = serde_json::to_vec(built).map_err(kube::Error::SerdeError)?;
    let request = Request::new(Job::url_path(&(), Some(&job.namespace))).create(&parameters, body);
    let error = match answer::write(client, request).await {
        Ok(made) => return Ok(made.uid),
        Err(error) => error,
    };
    let kube::Error::Api(status) = &error else { return Err(error.into()) };
    if status.is_already_exists() {
        let name = built.name_any();
        let jobs = Api::<Job>::namespaced(client.clone(), &job.namespace);
        let ours = jobs.get_opt(&name).await?.filter(|found| JobFacts::owner(found) == Some(&job.uid));
        let message = format!("Job {name} exists already and does not belong to this BakeJob; delete or rename it.");
        return ours.map(|job| job.metadata.uid).ok_or(ApplyError::Refused(Refusal::Object(message)));
    }
    if status.is_forbidden() && status.message.contains("exceeded quota") {
        return Err(ApplyError::Refused(Refusal::Quota(status.message.clone())));
    }
    if status.is_forbidden() || status.is_invalid() || status.code == 400 {
        return Err(ApplyError::Refused(Refusal::Object(status.message.clone())));
    }
    Err(error.into())
}

/// Changes fields of a Job; one that is gone needs no change.
async fn merge(jobs: &Api<Job>, name: &str, patch: &serde_json::Value) -> Result<(), ApplyError> {
    let parameters = PatchParams { field_manager: Some(CONTROLLER.to_owned()), ..PatchParams::default() };
    absent_is_fine(jobs.patch(name, &parameters, &Patch::Merge(patch)).await.map(drop))
}

async fn delete<K>(
    api: &Api<K>,
    name: &str,
    uid: &str,
    version: Option<String>,
    propagation: PropagationPolicy,
) -> Result<(), ApplyError>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let parameters = DeleteParams {
        propagation_policy: Some(propagation),
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: version }),
        ..DeleteParams::default()
    };
    absent_is_fine(api.delete(name, &parameters).await.map(drop))
}

fn absent_is_fine(result: Result<(), kube::Error>) -> Result<(), ApplyError> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(kube::Error::Api(status)) if status.is_conflict() => Err(ApplyError::Stale),
        other => other.map_err(ApplyError::from),
    }
}

/// Puts our finalizer on, or takes it off, and leaves those of others alone. Returns the version of the object after it.
async fn finalizers(
    bakejobs: &Api<BakeJob>,
    object: &BakeJob,
    version: Option<String>,
    on: bool,
) -> Result<Option<String>, ApplyError> {
    let mut all: Vec<&str> = object.finalizers().iter().map(String::as_str).filter(|f| *f != FINALIZER).collect();
    if on {
        all.push(FINALIZER);
    }
    let patch = json!({"metadata": {"finalizers": all, "resourceVersion": version}});
    let parameters = PatchParams { field_manager: Some(CONTROLLER.to_owned()), ..PatchParams::default() };
    match bakejobs.patch_metadata(&object.name_any(), &parameters, &Patch::Merge(&patch)).await {
        Ok(patched) => Ok(patched.metadata.resource_version),
        Err(kube::Error::Api(status)) if status.is_not_found() && !on => Ok(version),
        Err(kube::Error::Api(status)) if status.is_conflict() => Err(ApplyError::Stale),
        Err(error) => Err(error.into()),
    }
}
