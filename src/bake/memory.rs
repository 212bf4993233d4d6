//! Whether a bake fits the memory that this process may use, estimated before anything is read, so that a job is refused by name instead of being killed.

use super::BakeError;
use crate::api::ResolvedJob;
use crate::engine::dataset;
use crate::hardware::MachineFacts;
use crate::model::Model;
use crate::package::Package;
use crate::profiler::clock;

/// Environment variable that overrides the limit, in bytes: for tests, and for containers whose control group cannot be read.
pub const LIMIT_VARIABLE: &str = "BAKEHOUSE_MEMORY_LIMIT";

/// The program, an engine and its working memory.
const BASE_BYTES: u64 = 200_000_000;

/// Copies of the model that are alive at once: the input, the one that is changed, and a session of each.
const MODEL_COPIES: u64 = 4;

/// Refuses a job whose smallest plan does not fit.
///
/// # Errors
/// [`BakeError::Memory`] with both figures; [`BakeError::Job`] when the variable holds no number.
pub(super) fn check(job: &ResolvedJob, package: Option<&Package>, machine: &MachineFacts) -> Result<(), BakeError> {
    let limit = limit(std::env::var(LIMIT_VARIABLE).ok().as_deref(), machine)?;
    let splits = [Some(&job.validation.path), job.calibration.as_ref().map(|c| &c.path), job.training.as_ref()];
    // 0 for what cannot be read, which the load stage says better.
    let model = Model::stored_bytes(&job.source.path).or_else(|_| std::fs::metadata(&job.source.path).map(|m| m.len()));
    // Weights that lie apart take the place of the graph's own.
    let weights = package.and_then(|p| p.manifest.model.weights.as_ref()).map_or(0, |weights| weights.file.bytes);
    let model = model.unwrap_or(0).max(weights);
    let data = splits.into_iter().flatten().map(|path| dataset::unpacked_bytes(path).unwrap_or(0));
    let needed = estimate(model, data);
    // A limit of 0 is an unknown one.
    if limit > 0 && needed > limit { Err(BakeError::Memory { limit, needed }) } else { Ok(()) }
}

/// The power of two below the bytes that this process may use: machines of one class differ by less. `None` without a known limit.
///
/// # Errors
/// [`BakeError::Job`] when the variable holds no number.
pub(super) fn class(machine: &MachineFacts) -> Result<Option<u32>, BakeError> {
    Ok(limit(std::env::var(LIMIT_VARIABLE).ok().as_deref(), machine)?.checked_ilog2())
}

/// Bytes that passes may take now: what the limit leaves beside what this process holds. `None` without a known limit.
///
/// # Errors
/// [`BakeError::Job`] when the variable holds no number.
pub(super) fn room(machine: &MachineFacts) -> Result<Option<u64>, BakeError> {
    let limit = limit(std::env::var(LIMIT_VARIABLE).ok().as_deref(), machine)?;
    Ok((limit > 0).then(|| limit.saturating_sub(clock::rss_bytes().unwrap_or(0))))
}

/// Bytes that the smallest plan needs: the program, [`MODEL_COPIES`] of the model with its external data, every sample once as it is unpacked.
fn estimate(model: u64, splits: impl Iterator<Item = u64>) -> u64 {
    splits.fold(BASE_BYTES.saturating_add(model.saturating_mul(MODEL_COPIES)), u64::saturating_add)
}

fn limit(variable: Option<&str>, machine: &MachineFacts) -> Result<u64, BakeError> {
    let Some(text) = variable else { return Ok(machine.memory_limit()) };
    text.trim().parse().map_err(|_| BakeError::Job {
        field: LIMIT_VARIABLE.to_owned(),
        detail: format!("'{text}' is not a number of bytes. Write e.g. 2000000000, or unset it."),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::detect::detect;

    #[test]
    fn the_estimate_grows_with_model_and_data_and_never_wraps() {
        assert_eq!(estimate(1_000, [10, 5].into_iter()), BASE_BYTES + 4_000 + 15);
        assert_eq!(estimate(u64::MAX / 2, [u64::MAX].into_iter()), u64::MAX);
    }

    #[test]
    fn the_variable_overrides_the_machine_and_must_be_a_number() {
        let machine = detect();
        assert_eq!(limit(None, &machine).unwrap(), machine.memory_limit());
        assert_eq!(limit(Some(" 42 "), &machine).unwrap(), 42);
        assert!(limit(Some("4Gi"), &machine).unwrap_err().to_string().contains("BAKEHOUSE_MEMORY_LIMIT"));
    }
}
