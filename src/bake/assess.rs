//! The quality of any model beside a job's own, on the samples that a bake's verdict would rest on.

use super::{BakeError, Options, figures, intake};
use crate::api::ResolvedJob;
use crate::model::Model;
use crate::quality::{self, QualityReport};

/// Judges `other` as if it were the artifact of `job`: same engine, same split, same taps, same metrics as the verdict of a bake.
///
/// # Errors
/// What loading the job says, or what the engine says of `other`.
pub fn assess(job: &ResolvedJob, options: &Options, other: &Model) -> Result<QualityReport, BakeError> {
    let loaded = intake::load(job, None, options)?;
    let bench = super::judge::Bench::for_verdict(
        loaded.engine.engine.clone(),
        super::cores(),
        &loaded.model,
        loaded.verdict(),
        &loaded.taps,
    )?;
    let pairs = bench.pairs(other)?;
    Ok(quality::evaluate(&figures::evaluation(job, &loaded, pairs, bench.split.labels.as_ref()))?)
}
