//! What becomes of an artifact that passed its gates: it is promoted at once, when a person approved its digest, or not at all. The Job that does
//! it is named after what it promotes and where to, so a changed wish is another Job, and the same wish is never carried out twice.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::draft::Draft;
use super::{Action, EventReason, failure};
use crate::api::bakejob::{BakeJobStatus, PromotionPolicy, PromotionStatus};
use crate::api::conditions::PROMOTED;
use crate::api::digest::sha256_hex;
use crate::api::state::{State, Truth};
use crate::api::wire::{Outcome, Task};
use crate::operator::facts::{JobEnd, JobFacts, Observed, PodState};
use crate::operator::names;
use crate::operator::validate::Validated;

/// How often a promotion under way is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Where the promotion of a job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Promotion {
    /// `policy: Never`.
    NotRequested,
    /// The run has not ended.
    NotBaked,
    /// It ended without passing its gates.
    NotPassed,
    /// A person has yet to approve this artifact.
    Awaiting(String),
    /// A Job copies it.
    Under(String),
    /// It is where it was to go.
    Done(String),
    /// It could not be promoted.
    Failed(String),
}

impl Promotion {
    /// What condition Promoted says.
    pub(super) fn condition(&self) -> (Truth, &'static str, &str) {
        match self {
            Self::NotRequested => (Truth::False, "NotRequested", "spec.promotion.policy is Never."),
            Self::NotBaked => (Truth::False, "NotBaked", "Nothing is promoted before the bake has ended."),
            Self::NotPassed => (Truth::False, "GatesNotPassed", "Only an artifact that passed its gates is promoted."),
            Self::Awaiting(message) => (Truth::False, "AwaitingApproval", message),
            Self::Under(message) => (Truth::Unknown, "Promoting", message),
            Self::Done(message) => (Truth::True, "Promoted", message),
            Self::Failed(message) => (Truth::False, FAILED, message),
        }
    }
}

const FAILED: &str = "PromotionFailed";

/// Every reason of condition Promoted.
pub const REASONS: [&str; 7] =
    ["NotRequested", "NotBaked", "GatesNotPassed", "AwaitingApproval", "Promoting", "Promoted", FAILED];

/// Where a job's promotion is as far as its spec and status tell, without a look at its Jobs.
pub(super) fn outlook(job: &Validated, status: &BakeJobStatus, state: State) -> Promotion {
    let wish = &job.spec.promotion;
    if wish.policy == PromotionPolicy::Never {
        return Promotion::NotRequested;
    }
    if !state.terminal() {
        return Promotion::NotBaked;
    }
    if state.meaning().gate_passed != Truth::True {
        return Promotion::NotPassed;
    }
    let (Some(artifact), Some(to)) = (status.artifacts.first(), &wish.uri) else {
        return Promotion::Failed("The status names no artifact, or the spec no place to promote it to.".to_owned());
    };
    if let Some(done) =
        status.promotion.as_ref().filter(|done| done.sha256 == artifact.sha256 && lies_in(&done.uri, to))
    {
        return Promotion::Done(format!("{} lies at {}", done.sha256, done.uri));
    }
    if wish.policy == PromotionPolicy::Manual && wish.approved_digest.as_ref() != Some(&artifact.sha256) {
        let how = format!("To promote it, set spec.promotion.approvedDigest to {}.", artifact.sha256);
        return Promotion::Awaiting(match &wish.approved_digest {
            Some(other) => format!("{other} was approved, which is another artifact. {how}"),
            None => how,
        });
    }
    Promotion::Under(format!("{} is to be copied to {to}", artifact.sha256))
}

/// Whether a URI lies in a folder.
fn lies_in(uri: &str, folder: &str) -> bool {
    uri.strip_prefix(folder.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'))
}

/// The name of the Job that promotes the artifact of a status.
pub(super) fn job_name(job: &Validated, status: &BakeJobStatus) -> String {
    let artifact = status.artifacts.first().map_or("", |artifact| &artifact.sha256);
    let to = job.spec.promotion.uri.as_deref().unwrap_or_default();
    // A wish that failed is tried again once somebody touches the spec.
    let wish = format!("{artifact} {to} {}", job.generation);
    names::promotion(&job.name, &sha256_hex(wish.as_bytes())[..8])
}

/// Takes the promotion of an ended run one step further.
pub(super) fn advance(draft: &mut Draft<'_>, seen: &Observed, state: State) -> Promotion {
    let outlook = match (outlook(draft.job, &draft.status, state), failed_before(draft.job)) {
        (Promotion::Under(_), Some(message)) => Promotion::Failed(message),
        (outlook, _) => outlook,
    };
    let promotes = |j: &&JobFacts| j.task == Task::Promote && !j.deleting;
    if !matches!(outlook, Promotion::Under(_)) {
        seen.jobs.iter().filter(promotes).for_each(|left| draft.tidy(left));
        return outlook;
    }
    let name = job_name(draft.job, &draft.status);
    for other in seen.jobs.iter().filter(promotes).filter(|j| j.name != name && j.end.is_none()) {
        draft.act(Action::DeleteJob { job: other.name.clone(), uid: other.uid.clone() });
    }
    draft.wake_in(LOOK_EVERY);
    match seen.jobs.iter().find(|j| j.name == name) {
        None => {
            draft.act(Action::CreatePromotion);
            outlook
        }
        Some(current) => match &current.end {
            None => outlook,
            Some(JobEnd::Complete { at }) => complete(draft, seen, current, *at).unwrap_or(outlook),
            Some(JobEnd::Failed { message, .. }) => {
                failed(draft, said(seen, current).map_or(message.clone(), |o| o.message))
            }
        },
    }
}

/// What an earlier look found out about this very spec: a promotion that failed is not tried again by itself.
fn failed_before(job: &Validated) -> Option<String> {
    let condition = job.status.conditions.iter().find(|c| c.type_ == PROMOTED && c.reason == FAILED)?;
    (condition.observed_generation == Some(job.generation)).then(|| condition.message.clone())
}

/// What the pod of an ended Job said.
fn said(seen: &Observed, job: &JobFacts) -> Option<Outcome> {
    seen.pods_of(&job.name).into_iter().rev().find_map(|pod| match &pod.state {
        PodState::Succeeded { message, .. } => message.as_deref().and_then(Outcome::parse),
        PodState::Failed(end) => end.message.as_deref().and_then(Outcome::parse),
        _ => None,
    })
}

/// The promotion of a Job that ended well; `None` while its pod has not been seen.
fn complete(draft: &mut Draft<'_>, seen: &Observed, job: &JobFacts, at: Timestamp) -> Option<Promotion> {
    match said(seen, job) {
        Some(Outcome { promoted: Some(promoted), .. }) => {
            let message = format!("{} lies at {}", promoted.sha256, promoted.uri);
            draft.event(false, EventReason::Promoted, message.clone());
            draft.status.promotion =
                Some(PromotionStatus { uri: promoted.uri, sha256: promoted.sha256, time: Some(Time(at)) });
            Some(Promotion::Done(message))
        }
        Some(outcome) => Some(failed(draft, outcome.message)),
        None if failure::within_grace(draft.now, at) => None,
        None => Some(failed(
            draft,
            format!("Job {} ended well, but its pod was deleted before its result was read", job.name),
        )),
    }
}

fn failed(draft: &mut Draft<'_>, message: String) -> Promotion {
    draft.event(true, EventReason::PromotionFailed, message.clone());
    Promotion::Failed(message)
}

/// What the promotion makes of a condition of the state: what was asked for includes it.
pub(super) fn over(kind: &str, state: State, promotion: &Promotion) -> Option<Truth> {
    use crate::api::conditions::{READY, RECONCILING, STALLED};
    if state.meaning().ready != Truth::True {
        return None;
    }
    match (kind, promotion) {
        (READY, Promotion::Awaiting(_) | Promotion::Under(_) | Promotion::Failed(_)) => Some(Truth::False),
        (RECONCILING, Promotion::Under(_)) | (STALLED, Promotion::Failed(_)) => Some(Truth::True),
        _ => None,
    }
}
