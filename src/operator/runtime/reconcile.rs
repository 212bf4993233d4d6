//! One look at one `BakeJob`: observe, decide, apply, publish, tell.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tracing::Instrument;

use super::apply::{ApplyError, apply};
use super::context::{Context, Guarded, key};
use super::kept;
use super::observe::observe;
use super::publish::{Target, publish};
use crate::api::BakeJob;
use crate::api::bakejob::{BakeJobStatus, MANAGER};
use crate::operator::decide::{self, Plan, refused, unwritable};
use crate::operator::validate::{ValidateError, Validated, validate};

/// When the watch should have brought a status that was written, at the latest. Until then there is nothing to decide on.
const WATCH_LAG: Duration = Duration::from_secs(5);

/// Why a look came to nothing. Each is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReconcileError {
    #[error(transparent)]
    Validate(#[from] ValidateError),
    #[error("cannot read from the API server: {0}")]
    Observe(#[source] kube::Error),
    #[error(transparent)]
    Apply(ApplyError),
    #[error("cannot publish the status: {0}")]
    Publish(#[source] ApplyError),
    #[error("not done within {0:?}")]
    Timeout(Duration),
    #[error("a fault of the operator: {0}. Please report it.")]
    Panicked(String),
}

impl ReconcileError {
    /// For metrics; a closed set.
    pub(super) fn category(&self) -> &'static str {
        match self {
            Self::Validate(_) => "Validate",
            Self::Observe(_) => "Observe",
            Self::Apply(ApplyError::Stale) | Self::Publish(ApplyError::Stale) => "Stale",
            Self::Apply(_) => "Apply",
            Self::Publish(_) => "Publish",
            Self::Timeout(_) => "Timeout",
            Self::Panicked(_) => "Panic",
        }
    }
}

/// Looks at an object in a task of its own: looks run side by side on all cores, and one that panics ends no other.
pub(super) async fn guarded(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let key = key(&*object);
    let looked = tokio::spawn(reconcile(object, context.clone())).await;
    context.triggers.looked(&key);
    looked.unwrap_or_else(|error| {
        context.metrics.panicked();
        Err(ReconcileError::Panicked(error.to_string()))
    })
}

/// Looks at an object, within the time that a look may take.
pub(super) async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let started = Instant::now();
    let _looking = context.metrics.queue.begins(key(&*object));
    let span = tracing::info_span!(
        "reconcile",
        namespace = object.namespace().unwrap_or_default(),
        name = object.name_any(),
        trace_id = format!("{:016x}", Timestamp::now().as_nanosecond() as u64 ^ rotated(&object)),
    );
    let looked = tokio::time::timeout(context.timeout, look(&object, &context).instrument(span));
    let result = looked.await.unwrap_or_else(|_| {
        context.metrics.timed_out();
        Err(ReconcileError::Timeout(context.timeout))
    });
    let outcome = match &result {
        Ok(action) if *action == Action::await_change() => "success",
        Ok(_) => "requeue_after",
        Err(_) => "error",
    };
    context.metrics.reconciled(outcome, started.elapsed());
    if result.is_ok() {
        let mut failures = context.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(&ObjectRef::from_obj(&*object));
    }
    result
}

/// A number from the object's UID, so that two looks in one nanosecond differ.
fn rotated(object: &Guarded) -> u64 {
    object.uid().unwrap_or_default().bytes().fold(0u64, |sum, byte| sum.rotate_left(7) ^ u64::from(byte))
}

/// What to do after a failed look: soon after a race, later and later otherwise.
pub(super) fn after_error(object: &Guarded, error: &ReconcileError, context: &Context) -> Action {
    context.metrics.failed(error.category());
    context.metrics.queue.retried();
    if error.category() == "Stale" {
        return Action::requeue(Duration::from_millis(250));
    }
    let mut failures = context.failures.lock().unwrap_or_else(PoisonError::into_inner);
    let count = failures.entry(ObjectRef::from_obj(object)).or_default();
    *count = count.saturating_add(1);
    let wait = Duration::from_millis(500).saturating_mul(1 << (*count).min(10)).min(Duration::from_mins(5));
    tracing::warn!(%error, name = object.name_any(), ?wait, "trying again");
    Action::requeue(wait)
}

async fn look(object: &Guarded, context: &Context) -> Result<Action, ReconcileError> {
    let object = match &object.0 {
        Ok(job) => job,
        Err(invalid) => return unreadable(invalid, context).await,
    };
    if object.spec.managed_by != MANAGER {
        return Ok(Action::await_change());
    }
    if context.written.outdates(object) {
        return Ok(Action::requeue(WATCH_LAG));
    }
    let looked = Box::pin(Looked::at(object, context)).await?;
    if !kept::in_part(object) || looked.plan.status == looked.job.status {
        return Box::pin(looked.carry_out(object, context)).await;
    }
    let api = Api::<BakeJob>::namespaced(context.client.clone(), &looked.job.namespace);
    let Some(whole) = api.get_opt(&looked.job.name).await.map_err(ReconcileError::Observe)?.map(Box::new) else {
        return Ok(Action::await_change());
    };
    let looked = Box::pin(Looked::at(&whole, context)).await?;
    Box::pin(looked.carry_out(&whole, context)).await
}

/// A job, and what is to be done about it.
struct Looked {
    job: Validated,
    plan: Plan,
    now: Timestamp,
}

impl Looked {
    async fn at(object: &BakeJob, context: &Context) -> Result<Self, ReconcileError> {
        let job = validate(object, &context.defaults)?;
        let seen = observe(context, &job).await.map_err(ReconcileError::Observe)?;
        let now = Timestamp::now();
        let plan = decide::decide(&job, &seen, now);
        Ok(Self { job, plan, now })
    }

    async fn carry_out(self, object: &BakeJob, context: &Context) -> Result<Action, ReconcileError> {
        let Self { job, plan, now } = self;
        if decide::has_ended(&job) {
            let bake = job.status.job_ref.as_ref().map_or("", |bake| &bake.name);
            context.pods.forget_messages(&(job.namespace.clone(), job.name.clone()), bake);
        }
        let (plan, version) = match apply(&context.client, &job, object, &plan.actions).await {
            Ok(applied) if applied.deleted => {
                context.events.tell(&object.metadata, &plan.events).await;
                return Ok(Action::await_change());
            }
            Ok(applied) => (with_uid(plan, applied.made), applied.version),
            Err(ApplyError::Refused(refusal)) => (refused(&job, &refusal, &plan, now), object.resource_version()),
            Err(error) => return Err(ReconcileError::Apply(error)),
        };
        let plan = match write(context, &job, &plan, version.as_deref(), object).await {
            Err(ReconcileError::Publish(ApplyError::Unfit(why))) => {
                let plan = unwritable(&job, &plan, &why, now);
                write(context, &job, &plan, version.as_deref(), object).await?;
                plan
            }
            Err(error) => return Err(error),
            Ok(()) => plan,
        };
        context.events.tell(&object.metadata, &plan.events).await;
        Ok(plan.requeue.map_or_else(Action::await_change, Action::requeue))
    }
}

/// The plan, with the UID of the Job that was made by it.
fn with_uid(mut plan: Plan, made: Option<String>) -> Plan {
    if let (Some(uid), Some(named)) = (made, &mut plan.status.job_ref) {
        named.uid = Some(uid);
    }
    plan
}

async fn write(
    context: &Context,
    job: &Validated,
    plan: &Plan,
    version: Option<&str>,
    object: &BakeJob,
) -> Result<(), ReconcileError> {
    if plan.status == job.status {
        return Ok(());
    }
    let target = Target { namespace: &job.namespace, name: &job.name, version };
    let fresh = publish(&context.client, &target, &plan.status).await.map_err(ReconcileError::Publish)?;
    context.written.note(object, fresh);
    let created = object.metadata.creation_timestamp.as_ref().map(|t| t.0.as_second());
    context.metrics.published(created, &job.status, &plan.status);
    Ok(())
}

/// An object that the types cannot read. Its metadata can be, so it gets a status like any other.
async fn unreadable(invalid: &InvalidObject, context: &Context) -> Result<Action, ReconcileError> {
    let meta = &invalid.metadata;
    tracing::error!(error = invalid.error, "this BakeJob cannot be read");
    let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { return Ok(Action::await_change()) };
    let (status, events) = decide::unreadable(&invalid.error, meta.generation.unwrap_or(0), Timestamp::now());
    let target = Target { namespace, name, version: meta.resource_version.as_deref() };
    publish_once(context, &target, &status).await?;
    context.events.tell(meta, &events).await;
    Ok(Action::await_change())
}

/// The status that is there cannot be read either, so what was written last is remembered by the version it was written on.
async fn publish_once(context: &Context, target: &Target<'_>, status: &BakeJobStatus) -> Result<(), ReconcileError> {
    let key = format!("{}/{}", target.namespace, target.name);
    let mut told = context.unreadable.lock().await;
    let generation = status.observed_generation.unwrap_or(0);
    if told.get(&key) == Some(&generation) {
        return Ok(());
    }
    publish(&context.client, target, status).await.map_err(ReconcileError::Publish)?;
    told.insert(key, generation);
    Ok(())
}
