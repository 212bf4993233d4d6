//! Results that are kept for later bakes of the same inputs. The place knows them by a digest of all that decides them, so a result is found
//! again by another job, in another namespace, on another node of the same kind, and never by a bake that could end differently.
//!
//! A cache speeds things up and decides nothing: what is taken is checked against its digests first, and whatever is wrong with the cache or in it is said
//! and leads to an ordinary bake.

mod entry;
mod gc;
mod place;
mod shelf;
mod slot;

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::api::ResolvedJob;
use crate::api::bakejob::{Cache, Storage};
use crate::api::job::local_path;
use crate::bake::{self, BakeError, Options, Progress, Summary, reuse};
use crate::worker::Failed;
use crate::worker::place::Place;
pub(crate) use gc::{Limits, doomed};
pub(crate) use shelf::{Held, Shelf, State};
use slot::Slot;

/// The variable that says where the cache lies.
pub(crate) const VARIABLE: &str = "BAKEHOUSE_CACHE";

/// What messages call the place.
const FIELD: &str = "cache";

/// What is said where none is named.
pub(crate) const NO_PLACE: &str =
    "nothing says where it lies. Set cache.uri of the chart (--cache of the operator), or BAKEHOUSE_CACHE";

/// The place that a URI names.
pub(crate) fn located(uri: &str) -> Result<PathBuf, String> {
    let here = std::env::current_dir().unwrap_or_default();
    local_path(uri, &here).map_err(|why| format!("the cache {uri}: {why}"))
}

/// The place that the environment names, and for a person's own use a folder of theirs; `None` where there is no home.
pub(crate) fn usual() -> Result<Option<PathBuf>, String> {
    match named()? {
        None => {
            let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
            let caches = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
            Ok(caches.map(|caches| caches.join("bakehouse/bakes")))
        }
        named => Ok(named),
    }
}

/// The place that the environment names.
pub(crate) fn named() -> Result<Option<PathBuf>, String> {
    std::env::var(VARIABLE).ok().filter(|uri| !uri.is_empty()).map(|uri| located(&uri)).transpose()
}

/// Where a bake keeps what its calibration saw: a folder beside the results. In a bucket, nothing is kept: fetching it would take as long as running the samples.
pub(crate) fn spreads(cache: Option<&Path>) -> Option<PathBuf> {
    #[cfg(feature = "store")]
    let cache = cache.filter(|path| crate::store::named(path).is_none());
    cache.map(|folder| folder.join("spreads"))
}

fn open(cache: &Path, storage: Option<&Storage>) -> Result<Place, Failed> {
    Place::of(FIELD, cache, storage)
}

/// Bakes a job whose files lie on this machine, or publishes what is kept of an earlier bake of the same inputs.
pub(super) fn bake(
    job: &ResolvedJob,
    options: &Options,
    cache: Option<&Path>,
    progress: &mut dyn Progress,
) -> Result<Summary, BakeError> {
    if job.cache == Cache::Off {
        return bake::bake(job, options, progress);
    }
    let begun = Instant::now();
    let slot = cache.ok_or_else(|| format!("{NO_PLACE}.")).and_then(|cache| Slot::of(job, options, cache));
    let taken = slot.and_then(|slot| match job.cache {
        Cache::Use => slot.take(progress).map(|taken| (slot, taken)),
        _ => Ok((slot, None)),
    });
    match taken {
        Ok((_, Some(summary))) => Ok(Summary { seconds: begun.elapsed().as_secs_f64(), ..summary }),
        Ok((slot, None)) => {
            let summary = bake::bake(job, options, progress)?;
            slot.keep(&summary);
            Ok(summary)
        }
        Err(why) => {
            let summary = bake::bake(job, options, progress)?;
            tracing::warn!("the cache was not used: {why}");
            Ok(Summary { message: format!("{} The cache was not used: {why}", summary.message), ..summary })
        }
    }
}

/// What a bake of this job would take from the cache, in words. Nothing is fetched for that.
pub(crate) fn prospect(job: &ResolvedJob, options: &Options, cache: Option<&Path>) -> String {
    match job.cache {
        Cache::Off => return "off".to_owned(),
        Cache::Refresh => return "baked anew, in place of what is kept".to_owned(),
        Cache::Use => {}
    }
    let Some(cache) = cache else { return format!("not used: {NO_PLACE}") };
    #[cfg(feature = "store")]
    if super::stored::fetches(job) {
        return format!("{}: known once the job's files are fetched", cache.display());
    }
    let entry = Slot::of(job, options, cache).and_then(|slot| slot.entry().map_err(|failed| failed.to_string()));
    match entry {
        Ok(Some((_, Ok(entry)))) => format!(
            "a hit in {}: baked at {} for {}; it is taken when its files are whole",
            cache.display(),
            reuse::to_the_second(&entry.baked_at),
            entry.job
        ),
        Ok(Some((_, Err(why)))) => format!("no hit in {}: what is kept is damaged ({why})", cache.display()),
        Ok(None) => format!("no hit in {}: it would be baked, and kept", cache.display()),
        Err(why) => format!("not used: {why}"),
    }
}
