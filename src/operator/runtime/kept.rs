//! What the cache keeps of a `BakeJob`. Thousands of finished ones lie in a namespace for months; of those, only what a decision reads is
//! kept, and what the figures of a bake say stays with the API server.

use std::mem::take;

use super::context::Guarded;
use crate::api::BakeJob;
use crate::api::bakejob::{BakeJobStatus, PromotionPolicy};

/// Drops what no decision reads.
pub(super) fn trim(object: &mut Guarded) {
    let Ok(job) = &mut object.0 else { return };
    if in_part(job)
        && let Some(status) = &mut job.status
    {
        let promotes = job.spec.promotion.policy != PromotionPolicy::Never;
        *status = essential(take(status), promotes);
    }
}

/// Whether the cache has only a part of the status: of an object whose run has ended and whose spec has been seen. A status must not be
/// written from it.
pub(super) fn in_part(job: &BakeJob) -> bool {
    let Some(status) = &job.status else { return false };
    status.completion_time.is_some()
        && status.observed_generation == job.metadata.generation
        && job.metadata.deletion_timestamp.is_none()
}

/// Without the figures and lists of the run. What was baked stays where it may be promoted.
fn essential(mut status: BakeJobStatus, promotes: bool) -> BakeJobStatus {
    if !promotes {
        status.artifacts = Vec::new();
        status.report = None;
    }
    BakeJobStatus {
        stages: Vec::new(),
        passes: Vec::new(),
        gates: Vec::new(),
        history: Vec::new(),
        hardware: None,
        baseline: None,
        baked: None,
        recipe: None,
        ..status
    }
}
