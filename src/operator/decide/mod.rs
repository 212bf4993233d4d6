//! What to do about one job, as a function of what is asked for, what is seen, and the time. No client, no clock, no randomness.
//!
//! The state that ends a run is read from the status first and never from the Job again: a Job that deletes itself changes nothing.

mod conditions;
mod deletion;
mod draft;
mod ended;
mod failure;
mod pods;
mod promotion;
mod refused;
mod result;
mod run;
mod start;

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::facts::Observed;
use super::validate::{Validated, ended_at};
use crate::api::bakejob::BakeJobStatus;
use crate::api::state::State;
use crate::hardware::place::Placement;

pub use promotion::REASONS as PROMOTION_REASONS;
pub use refused::{Refusal, refused, unwritable};

/// One attempt to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// The run, from 1.
    pub run: u32,
    /// Its number in the run, from 1.
    pub number: u32,
    /// Failures of the run before it.
    pub failures: u32,
    /// Whether it takes the low-memory plan.
    pub low_memory: bool,
    /// Where it goes.
    pub placement: Placement,
}

/// Something to do in the cluster.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Create the Job of an attempt, unless it is there already.
    CreateJob(Box<Attempt>),
    /// Create the Job that deletes the output, unless it is there already.
    CreateCleanup,
    /// Create the Job that promotes the artifact, unless it is there already.
    CreatePromotion,
    /// Change the fields of a Job that may change.
    Adjust {
        /// The Job.
        job: String,
        /// Suspend or resume it.
        suspend: Option<bool>,
        /// Set its own deadline, or none.
        deadline: Option<Option<i64>>,
    },
    /// Let a finished Job delete itself later.
    Expire {
        /// The Job.
        job: String,
    },
    /// Stop and delete a Job, its pods first.
    DeleteJob {
        /// The Job.
        job: String,
        /// Its UID, so that no other of the name goes.
        uid: String,
    },
    /// Put our finalizer on the `BakeJob`.
    AddFinalizer,
    /// Take our finalizer off.
    RemoveFinalizer,
    /// Delete the `BakeJob`: its time to live is over.
    DeleteSelf,
}

/// Why an event is written: the state that was reached, or one of a few things that are no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventReason {
    /// A state was reached.
    State(State),
    /// The device was waited for in vain.
    DeviceFallback,
    /// The output is deleted, as `onDelete` asks.
    OutputDeleted,
    /// The output could not be deleted.
    OutputNotDeleted,
    /// The artifact was promoted.
    Promoted,
    /// It could not be.
    PromotionFailed,
    /// The time to live is over.
    TimeToLiveOver,
}

impl EventReason {
    /// As the event carries it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::State(state) => state.as_str(),
            Self::DeviceFallback => "DeviceFallback",
            Self::OutputDeleted => "OutputDeleted",
            Self::OutputNotDeleted => "OutputNotDeleted",
            Self::Promoted => "Promoted",
            Self::PromotionFailed => "PromotionFailed",
            Self::TimeToLiveOver => "TimeToLiveOver",
        }
    }
}

/// An event to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSpec {
    /// Whether a person should look at it.
    pub warning: bool,
    /// Why it is written.
    pub reason: EventReason,
    /// In words.
    pub note: String,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// The status to publish when it differs from the one that is there.
    pub status: BakeJobStatus,
    /// Look again after this time at the latest; `None` waits for a change.
    pub requeue: Option<Duration>,
    /// Events to write once the status is published.
    pub events: Vec<EventSpec>,
}

impl Plan {
    /// The state that the status tells of.
    pub fn state(&self) -> Option<State> {
        conditions::state(&self.status)
    }
}

/// Decides what to do about a job.
pub fn decide(job: &Validated, seen: &Observed, now: Timestamp) -> Plan {
    // Kubernetes keeps seconds; a status with fractions would differ from itself after a round trip.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    if job.deleting {
        deletion::decide(job, seen)
    } else if has_ended(job) {
        ended::decide(job, seen, now)
    } else {
        run::decide(job, seen, now)
    }
}

/// Status and event of an object whose spec no type can read: a later version of the CRD, or fields that the schema passes through.
pub fn unreadable(error: &str, generation: i64, now: Timestamp) -> (BakeJobStatus, Vec<EventSpec>) {
    let note = format!("The object cannot be read: {error}. {}", State::InvalidJob.advice());
    let conditions = conditions::all(&[], State::InvalidJob, &note, &promotion::Promotion::NotBaked, generation, now);
    let status = BakeJobStatus { observed_generation: Some(generation), conditions, ..BakeJobStatus::default() };
    (status, vec![EventSpec { warning: true, reason: EventReason::State(State::InvalidJob), note }])
}

/// The status for a refused plan: that of its run, without the attempt that did not come about.
fn run_status(job: &Validated, plan: &Plan) -> BakeJobStatus {
    if job.status.runs == plan.status.runs {
        return job.status.clone();
    }
    BakeJobStatus { attempt: None, job_ref: None, start_time: None, hardware: None, ..plan.status.clone() }
}

/// Whether the status tells of the end of a run of this very spec.
pub fn has_ended(job: &Validated) -> bool {
    ended_at(&job.status).is_some() && job.status.spec_digest.as_ref() == Some(&job.spec_digest)
}

/// The name of the Job that promotes the artifact of a job.
pub fn promotion_job(job: &Validated) -> String {
    promotion::job_name(job, &job.status)
}

/// The state that a status tells of; `None` before the first visit.
pub fn state(status: &BakeJobStatus) -> Option<State> {
    conditions::state(status)
}

#[cfg(test)]
mod kstatus;
#[cfg(test)]
mod promotions;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod troubles;
#[cfg(test)]
mod world;
