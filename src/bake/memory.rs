//! Whether a bake fits the memory that this process may use, estimated before any work is done, so that a job is refused by name instead of being killed.

use std::path::Path;

use super::{BakeError, Progress};
use crate::api::ResolvedJob;
use crate::api::bakejob::{Level, Runtime};
use crate::engine::{Engines, dataset};
use crate::hardware::MachineFacts;
use crate::model::Model;
use crate::package::Package;
use crate::profiler::clock;

/// Environment variable that overrides the limit, in bytes: for tests, and for containers whose control group cannot be read.
pub const LIMIT_VARIABLE: &str = "BAKEHOUSE_MEMORY_LIMIT";

/// The program, an engine and its working memory.
const BASE_BYTES: u64 = 200_000_000;

/// Hundredths of the model's bytes that a bake takes at its peak, beside [`BASE_BYTES`]: what was measured on products of 5 to 107 MB each, models of 156 MB to
/// 3.3 GB (peak resident set of the whole bake; `docs/big-models.md` has the figures), and a tenth or more on top.
const fn share(runtime: Runtime, level: Level) -> u64 {
    match (runtime, level) {
        (Runtime::OnnxRuntime, Level::Conservative) => 250,
        (Runtime::OnnxRuntime, _) => 450,
        (Runtime::Bakehouse, Level::Conservative) => 325,
        (Runtime::Bakehouse, _) => 400,
    }
}

/// What of a job decides how much memory it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    model: u64,
    data: u64,
}

impl Need {
    /// That of a model by itself: the data comes on top.
    ///
    /// # Errors
    /// Those of a model that cannot be read.
    pub fn of_model(path: &Path) -> Result<Self, crate::model::ModelError> {
        Ok(Self { model: Model::stored_bytes(path)?, data: 0 })
    }

    /// That of a job whose files lie on this machine. What cannot be read counts nothing: the load stage says it better.
    pub(super) fn of(job: &ResolvedJob, package: Option<&Package>) -> Self {
        let splits = [Some(&job.validation.path), job.calibration.as_ref().map(|c| &c.path), job.training.as_ref()];
        let model =
            Model::stored_bytes(&job.source.path).or_else(|_| std::fs::metadata(&job.source.path).map(|m| m.len()));
        // Weights that lie apart take the place of the graph's own.
        let weights = package.and_then(|p| p.manifest.model.weights.as_ref()).map_or(0, |weights| weights.file.bytes);
        let data = splits.into_iter().flatten().map(|path| dataset::unpacked_bytes(path).unwrap_or(0));
        Self { model: model.unwrap_or(0).max(weights), data: data.fold(0, u64::saturating_add) }
    }

    /// That of a job before anything is done; `None` where its model is not on this machine. Splits that it leaves to a package are not counted.
    pub fn foreseen(job: &ResolvedJob) -> Option<Self> {
        let package = job.source.path.is_dir().then(|| Package::open(&job.source.path).ok()).flatten();
        let mut job = job.clone();
        if let Some(package) = &package {
            job.source.path = package.graph();
        }
        Some(Self::of(&job, package.as_ref())).filter(|need| need.model > 0)
    }

    /// Bytes that a bake takes on an engine at a level: the program, the engine's copies of the model with its external data, every sample once as it is unpacked.
    pub fn on(self, runtime: Runtime, level: Level) -> u64 {
        let models = (u128::from(self.model) * u128::from(share(runtime, level)) / 100).try_into().unwrap_or(u64::MAX);
        BASE_BYTES.saturating_add(models).saturating_add(self.data)
    }
}

/// The engine that a job will most likely run on: that which it names, where it is there.
pub fn likely(wanted: Option<Runtime>, engines: &Engines) -> Runtime {
    let there = |runtime: &Runtime| engines.get(*runtime).is_ok();
    wanted.filter(there).unwrap_or_else(|| Some(Runtime::OnnxRuntime).filter(there).unwrap_or(Runtime::Bakehouse))
}

/// The bytes that this process may use.
fn limit_here(machine: &MachineFacts) -> Result<u64, BakeError> {
    limit(std::env::var(LIMIT_VARIABLE).ok().as_deref(), machine)
}

/// Refuses a job whose smallest plan does not fit, and tells what it will take otherwise.
///
/// # Errors
/// [`BakeError::Memory`] with both figures; [`BakeError::Job`] when the variable holds no number.
pub(super) fn check(
    job: &ResolvedJob,
    package: Option<&Package>,
    machine: &MachineFacts,
    engines: &Engines,
    progress: &mut dyn Progress,
) -> Result<(), BakeError> {
    let limit = limit_here(machine)?;
    let runtime = likely(job.runtime, engines);
    let needed = Need::of(job, package).on(runtime, job.level);
    tracing::info!(estimate = needed, limit, engine = ?runtime, "memory");
    progress.memory(needed);
    // A limit of 0 is an unknown one.
    if limit > 0 && needed > limit { Err(BakeError::Memory { limit, needed }) } else { Ok(()) }
}

/// The power of two below the bytes that this process may use: machines of one class differ by less. `None` without a known limit.
///
/// # Errors
/// [`BakeError::Job`] when the variable holds no number.
pub(super) fn class(machine: &MachineFacts) -> Result<Option<u32>, BakeError> {
    Ok(limit_here(machine)?.checked_ilog2())
}

/// Bytes as the smallest quantity of a container's limit that holds them.
pub fn quantity(bytes: u64) -> String {
    format!("{}Mi", bytes.div_ceil(1 << 20))
}

/// Bytes that passes may take now: what the limit leaves beside what this process holds. `None` without a known limit.
///
/// # Errors
/// [`BakeError::Job`] when the variable holds no number.
pub(super) fn room(machine: &MachineFacts) -> Result<Option<u64>, BakeError> {
    let limit = limit_here(machine)?;
    Ok((limit > 0).then(|| limit.saturating_sub(clock::rss_bytes().unwrap_or(0))))
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
        for runtime in [Runtime::OnnxRuntime, Runtime::Bakehouse] {
            let need = Need { model: 1_000, data: 15 };
            let [lossless, lossy] = [Level::Conservative, Level::Light].map(|level| need.on(runtime, level));
            assert_eq!(lossless, BASE_BYTES + 10 * share(runtime, Level::Conservative) + 15);
            assert!(lossless <= lossy);
            assert_eq!(Need { model: u64::MAX / 2, data: u64::MAX }.on(runtime, Level::Light), u64::MAX);
        }
    }

    #[test]
    fn a_limit_is_written_as_kubernetes_reads_it_and_never_too_small() {
        assert_eq!([1, 1 << 20, (1 << 20) + 1].map(quantity), ["1Mi", "1Mi", "2Mi"]);
    }

    #[test]
    fn the_variable_overrides_the_machine_and_must_be_a_number() {
        let machine = detect();
        assert_eq!(limit(None, &machine).unwrap(), machine.memory_limit());
        assert_eq!(limit(Some(" 42 "), &machine).unwrap(), 42);
        assert!(limit(Some("4Gi"), &machine).unwrap_err().to_string().contains("BAKEHOUSE_MEMORY_LIMIT"));
    }
}
