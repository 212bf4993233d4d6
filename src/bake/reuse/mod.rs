//! The result of an earlier bake in place of a new one: what has to be the same for that, and how its files become those of this job.
//!
//! Nothing here knows where results are kept. Artifacts are published to the byte as they were baked. The report and its page are written anew: they name
//! this job and its files, and say where everything else comes from.

mod binary;
mod inputs;
pub(in crate::bake) mod spreads;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::intake::of_package;
use super::publish::Staging;
use super::report::{FromCache, Report};
use super::source::{Role, SourceFile};
use super::{BakeError, Options, PAGE_FORMAT, Progress, REPORT, Stage, Summary, handoff, told};
use crate::api::bakejob::Verdict;
use crate::api::digest::sha256_hex_of;
use crate::api::{Reason, ResolvedJob};
use crate::hardware::detect;
use crate::model::external;
use crate::package::{self, Settled, phase7};
use inputs::Inputs;

/// What a bake is, before it is done.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// SHA-256 of everything that decides the result, in hexadecimal.
    pub(crate) key: String,
    /// The same, for a person.
    pub(crate) inputs: serde_json::Value,
    files: Vec<SourceFile>,
    package: Option<PathBuf>,
    recipe: Option<(PathBuf, String)>,
}

/// Why an earlier result was not taken.
#[derive(Debug)]
pub(crate) enum NotTaken {
    /// It is not, or not whole, what was baked.
    Damaged(String),
    /// Something else went wrong.
    Failed(String),
}

impl From<BakeError> for NotTaken {
    fn from(error: BakeError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Identity {
    /// That of a job whose files lie on this machine. They are read once, to hash them.
    ///
    /// # Errors
    /// Whatever keeps the job from being told apart: a bake says it better.
    pub(crate) fn of(job: &ResolvedJob, options: &Options) -> Result<Self, BakeError> {
        let Settled { job, package } = package::settle(job)?;
        let mut files = of_package(&job, package.as_ref());
        let mut add = |role, path: &Path| {
            let file = SourceFile::new(role, path, digest(path)?, &job.origins);
            files.push(file);
            Ok::<_, BakeError>(())
        };
        if package.as_ref().is_none_or(|package| package.manifest.model.weights.is_none()) {
            add(Role::Model, &job.source.path)?;
            for location in external::locations(&job.source.path)? {
                add(Role::ModelData, &job.source.path.with_file_name(location))?;
            }
        }
        add(Role::Validation, &job.validation.path)?;
        if let Some(calibration) = &job.calibration {
            add(Role::Calibration, &calibration.path)?;
        }
        if let Some(training) = &job.training {
            add(Role::Training, training)?;
        }
        let recipe = job.recipe.as_ref().map(|recipe| Ok::<_, BakeError>((recipe.path.clone(), digest(&recipe.path)?)));
        let recipe = recipe.transpose()?;
        let model = files.iter().find(|file| file.role == Role::Model).map(|file| &file.sha256);
        let of_recipe = recipe.as_ref().map(|(_, sha256)| sha256);
        let pinned_recipe = job.recipe.as_ref().and_then(|recipe| recipe.digest.as_deref());
        for (pinned, found) in [(job.source.digest.as_deref(), model), (pinned_recipe, of_recipe)] {
            if let (Some(pinned), Some(found)) = (pinned, found)
                && pinned.trim_start_matches("sha256:") != found
            {
                return Err(BakeError::Data(format!("a file has sha256 {found}, and the job pins {pinned}")));
            }
        }
        let digest = recipe.as_ref().map(|(_, sha256)| sha256.clone());
        let inputs = Inputs::of(&job, options, &detect::detect(), &files, digest)?;
        let key = inputs.key()?;
        let inputs = serde_json::to_value(&inputs).map_err(|error| BakeError::Internal(error.to_string()))?;
        Ok(Self { key, inputs, files, package: package.map(|package| package.folder), recipe })
    }

    /// Whether a finished bake read the very files that this was told by: they may have been replaced meanwhile.
    pub(crate) fn is_of(&self, report: &Report) -> bool {
        let same_recipe =
            self.recipe.as_ref().is_none_or(|(path, sha256)| digest(path).is_ok_and(|now| now == *sha256));
        same_recipe && by_role(&self.files) == by_role(&report.data.files)
    }
}

/// Files by what they are for and what they hold.
fn by_role(files: &[SourceFile]) -> Vec<(String, &str)> {
    let mut all: Vec<_> = files.iter().map(|file| (format!("{:?}", file.role), file.sha256.as_str())).collect();
    all.sort_unstable();
    all
}

fn digest(path: &Path) -> Result<String, BakeError> {
    File::open(path)
        .and_then(sha256_hex_of)
        .map_err(|error| BakeError::Data(format!("{} cannot be read: {error}", path.display())))
}

/// Whether a result is one to take again: all of its gates passed.
pub(crate) fn worth_keeping(report: &Report) -> bool {
    matches!(report.outcome.reason, Reason::Baked | Reason::NoImprovement)
        && !report.gates.is_empty()
        && report.gates.iter().all(|gate| gate.verdict == Verdict::Pass)
}

/// Publishes an earlier result as that of this job. `fill` puts its files, which are `files` by name and digest, into a folder.
///
/// # Errors
/// [`NotTaken`]; then nothing was published.
pub(crate) fn publish(
    job: &ResolvedJob,
    options: &Options,
    identity: &Identity,
    origin: FromCache,
    files: &[(&str, &str)],
    progress: &mut dyn Progress,
    fill: impl FnOnce(&Path) -> Result<(), NotTaken>,
) -> Result<Summary, NotTaken> {
    let started = Instant::now();
    progress.stage(Stage::Load);
    handoff::check_output(job)?;
    let mut staging = Staging::new(&job.output, options.checkpoints.as_ref().map(|c| c.run()))?;
    fill(&staging.path(""))?;
    progress.stage(Stage::Export);
    let damaged = |why: String| NotTaken::Damaged(format!("{REPORT}: {why}"));
    let text = std::fs::read(staging.path(REPORT)).map_err(|error| damaged(error.to_string()))?;
    let report: Report = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    coherent(&report, identity, files).map_err(damaged)?;
    let report = retold(report, job, identity, origin);
    let summary = written(&mut staging, report, job, started)?;
    Ok(super::published(staging, summary)?)
}

/// Refuses a result that is not one of these inputs, did not pass, or does not name the files that were kept of it.
fn coherent(report: &Report, identity: &Identity, files: &[(&str, &str)]) -> Result<(), String> {
    if by_role(&report.data.files) != by_role(&identity.files) {
        return Err("it is that of other files".to_owned());
    }
    if !worth_keeping(report) {
        return Err("its gates did not pass".to_owned());
    }
    let named: BTreeSet<(&str, &str)> =
        report.artifacts.iter().map(|artifact| (artifact.file.as_str(), artifact.sha256.as_str())).collect();
    let kept: BTreeSet<(&str, &str)> = files.iter().copied().filter(|(name, _)| *name != REPORT).collect();
    if named == kept { Ok(()) } else { Err("it names other files than were kept".to_owned()) }
}

/// The same report, as that of this job.
fn retold(mut report: Report, job: &ResolvedJob, identity: &Identity, origin: FromCache) -> Report {
    let said = format!(
        "Taken from the cache: baked at {} for {}, on {}; every figure was measured then.",
        to_the_second(&origin.baked_at),
        origin.job,
        report.machine.cpu
    );
    report.outcome.message = format!("{} {said}", report.outcome.message);
    report.remarks.insert(0, said);
    report.job.name.clone_from(&job.name);
    report.job.spec_digest.clone_from(&job.spec_digest);
    report.data.files.clone_from(&identity.files);
    if let (Some(package), Some(folder)) = (&mut report.package, &identity.package) {
        package.path = super::lay(job, folder);
    }
    report.cache = Some(origin);
    report
}

/// A time without the parts of its second.
pub(crate) fn to_the_second(time: &str) -> String {
    time.split_once('.').map_or_else(|| time.to_owned(), |(whole, _)| format!("{whole}Z"))
}

/// Lists the files that lie in the staging folder, and writes page and report behind them.
fn written(
    staging: &mut Staging,
    mut report: Report,
    job: &ResolvedJob,
    started: Instant,
) -> Result<Summary, BakeError> {
    report.artifacts.retain(|artifact| artifact.format != PAGE_FORMAT);
    let mut packaged = false;
    for artifact in &report.artifacts {
        // A package goes into its place whole.
        if Path::new(&artifact.file).starts_with(phase7::FOLDER) {
            if !std::mem::replace(&mut packaged, true) {
                staging.adopt(phase7::FOLDER);
            }
        } else {
            staging.adopt(&artifact.file);
        }
    }
    told(staging, report, job, started)
}
