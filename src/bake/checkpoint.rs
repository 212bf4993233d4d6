//! A bake that was killed goes on behind its last finished stage: what a stage ended with is kept until the result is published.
//!
//! Kept are figures and steps, never a model. A later process of the same run replays the steps, which involves no clock and gives the same bytes, and
//! holds them against the digest that was kept. What was kept for another job, other data, another build, engine or machine is discarded: figures of two
//! machines never stand in one report. So is whatever cannot be read. Neither that nor a place that cannot be written ever ends a bake.

mod key;
mod saved;
pub(crate) mod sealed;

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::intake::Loaded;
use super::progress::StageRecord;
use super::report::ModelFigures;
use super::{Options, Search};
use crate::api::ResolvedJob;
use crate::hardware::MachineFacts;
use key::Key;
use saved::Optimized;

/// Schema of what is kept.
const CHECKPOINT_VERSION: &str = "bakehouse.dev/checkpoint/v1";

const BASELINE: &str = "baseline.json";
const OPTIMIZE: &str = "optimize.json";

/// Every name that a blob may have, for places that cannot list theirs.
pub(crate) const NAMES: [&str; 2] = [BASELINE, OPTIMIZE];

/// Where one run keeps its finished stages: a few small blobs by name.
pub trait Checkpoints: Send + Sync {
    /// Name of the run: letters, digits and hyphens, the same in each of its processes and in no other run.
    fn run(&self) -> &str;

    /// The blob of this name, or `None` where there is none.
    ///
    /// # Errors
    /// Those of the place.
    fn load(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Keeps a blob in place of the last one of its name: whole or not at all.
    ///
    /// # Errors
    /// Those of the place.
    fn save(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Forgets every blob.
    ///
    /// # Errors
    /// Those of the place.
    fn clear(&self) -> io::Result<()>;
}

/// A stage's end, with the times of all stages until then.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept<B> {
    api_version: String,
    key: Key,
    stages: Vec<StageRecord>,
    body: B,
}

/// The input's figures.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Baseline {
    /// Batch sizes that were tried.
    pub(super) batches: Vec<usize>,
    pub(super) figures: ModelFigures,
}

/// The finished stages of this run: kept, and taken over by the next process. Without a place to keep them it does nothing.
pub(super) struct Finished<'a> {
    place: Option<&'a dyn Checkpoints>,
    key: Key,
}

impl<'a> Finished<'a> {
    pub(super) fn of(job: &ResolvedJob, options: &'a Options, loaded: &Loaded, machine: &MachineFacts) -> Self {
        Self { place: options.checkpoints.as_deref(), key: Key::of(job, options.low_memory, loaded, machine) }
    }

    /// The baseline of an earlier process, and the times of the stages until then. Without one, nothing else that lies there is of use.
    pub(super) fn baseline(&self) -> Option<(Baseline, Vec<StageRecord>)> {
        let found = self.load(BASELINE, Ok);
        if found.is_none() {
            self.clear();
        }
        found
    }

    /// What the search of an earlier process ended with, its models made again.
    pub(super) fn search(&self, job: &ResolvedJob, loaded: &Loaded) -> Option<(Search, Vec<StageRecord>)> {
        self.load(OPTIMIZE, |kept: Optimized| kept.replay(job, loaded))
    }

    pub(super) fn keep_baseline(&self, baseline: &Baseline, stages: &[StageRecord]) {
        self.save(BASELINE, stages, || baseline);
    }

    pub(super) fn keep_search(&self, search: &Search, stages: &[StageRecord]) {
        self.save(OPTIMIZE, stages, || Optimized::of(search));
    }

    fn clear(&self) {
        clear(self.place);
    }

    /// Reads a stage's end and makes of it what the bake goes on with. Whatever is wrong with it is said, and the stage is repeated.
    fn load<B: DeserializeOwned, T>(
        &self,
        name: &str,
        make: impl FnOnce(B) -> Result<T, String>,
    ) -> Option<(T, Vec<StageRecord>)> {
        let bytes = match self.place?.load(name) {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::warn!(%error, name, "a finished stage cannot be read; it is repeated");
                return None;
            }
        };
        let made = self.open(&bytes).and_then(|kept: Kept<B>| Ok((make(kept.body)?, kept.stages)));
        made.map_err(|why| tracing::warn!(why, name, "a finished stage is discarded and repeated")).ok()
    }

    fn open<B: DeserializeOwned>(&self, bytes: &[u8]) -> Result<Kept<B>, String> {
        let value: serde_json::Value =
            serde_json::from_str(sealed::open(bytes)?).map_err(|e| format!("it is no JSON: {e}"))?;
        match value["apiVersion"].as_str() {
            Some(CHECKPOINT_VERSION) => {}
            other => return Err(format!("it is of version '{}'", other.unwrap_or("none"))),
        }
        let key = Key::deserialize(&value["key"]).map_err(|e| format!("its key cannot be read: {e}"))?;
        match key.other(&self.key) {
            Some(what) => Err(format!("it was made {what}")),
            None => serde_json::from_value(value).map_err(|e| format!("it does not keep its own schema: {e}")),
        }
    }

    /// Keeps a stage's end. A place that cannot be written costs a repeated stage, never the bake.
    fn save<B: Serialize>(&self, name: &str, stages: &[StageRecord], body: impl FnOnce() -> B) {
        let Some(place) = self.place else { return };
        let kept = Kept {
            api_version: CHECKPOINT_VERSION.to_owned(),
            key: self.key.clone(),
            stages: stages.to_vec(),
            body: body(),
        };
        let saved = serde_json::to_string(&kept)
            .map_err(io::Error::other)
            .and_then(|text| place.save(name, sealed::seal(&text).as_bytes()));
        if let Err(error) = saved {
            tracing::warn!(%error, name, "a finished stage cannot be kept; a killed bake would repeat it");
        }
    }
}

/// Forgets what a run kept, as far as the place allows.
fn clear(place: Option<&dyn Checkpoints>) {
    if let Some(Err(error)) = place.map(Checkpoints::clear) {
        tracing::warn!(%error, "finished stages of this run cannot be deleted");
    }
}

/// Forgets what a run kept: its result lies where it belongs, or cannot come about. That is for the caller of a bake to know, who may still have to
/// upload it.
pub(crate) fn forget(options: &Options) {
    clear(options.checkpoints.as_deref());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;

    /// A place in memory, which may be full.
    #[derive(Default)]
    struct Memory {
        blobs: Mutex<BTreeMap<String, Vec<u8>>>,
        full: bool,
    }

    impl Checkpoints for Memory {
        fn run(&self) -> &'static str {
            "u-1"
        }

        fn load(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
            Ok(self.blobs.lock().unwrap().get(name).cloned())
        }

        fn save(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
            if self.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.blobs.lock().unwrap().insert(name.to_owned(), bytes.to_vec());
            Ok(())
        }

        fn clear(&self) -> io::Result<()> {
            self.blobs.lock().unwrap().clear();
            Ok(())
        }
    }

    fn finished(place: &Memory) -> Finished<'_> {
        Finished { place: Some(place), key: key::tests::key() }
    }

    fn kept(place: &Memory) -> Option<f64> {
        finished(place).load("x.json", |body: f64| Ok(body)).map(|(body, _)| body)
    }

    #[test]
    fn what_was_kept_is_found_again_to_the_last_digit() {
        let place = Memory::default();
        assert_eq!(kept(&place), None);
        let third = 0.1 + 0.2;
        finished(&place).save("x.json", &[], || third);
        assert_eq!(kept(&place), Some(third));
        finished(&place).clear();
        assert_eq!(kept(&place), None);
    }

    #[test]
    fn what_is_damaged_of_another_version_or_of_another_key_is_discarded() {
        let place = Memory::default();
        finished(&place).save("x.json", &[], || 7.25);
        let whole = place.load("x.json").unwrap().unwrap();
        let text = sealed::open(&whole).unwrap();
        let sealed_again = |from: &str, to: &str| {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            sealed::seal(&changed).into_bytes()
        };
        let table = [
            (Vec::new(), "nothing"),
            (whole[..whole.len() / 2].to_vec(), "half of it"),
            (b"{}".to_vec(), "no seal"),
            (String::from_utf8_lossy(&whole).replace("7.25", "7.26").into_bytes(), "another figure"),
            (sealed_again("checkpoint/v1", "checkpoint/v2"), "another version"),
            (sealed_again("7.25", "\"many\""), "another schema"),
            (sealed_again("\"key\":{", "\"key\":{\"more\":1,"), "a key with a part that this build does not know"),
            (sealed_again("EPYC", "Xeon"), "another processor"),
        ];
        for (bytes, what) in table {
            place.save("x.json", &bytes).unwrap();
            assert_eq!(kept(&place), None, "{what}");
        }
        place.save("x.json", &whole).unwrap();
        assert_eq!(kept(&place), Some(7.25));
    }

    #[test]
    fn a_place_that_is_full_ends_nothing() {
        let place = Memory { full: true, ..Memory::default() };
        finished(&place).save("x.json", &[], || 1.0);
        assert_eq!(kept(&place), None);
    }
}
