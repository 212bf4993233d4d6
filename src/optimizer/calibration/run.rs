//! The pass over the calibration data: sessions run samples and look at them, and what they saw is taken in, in order.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Spread, Watch, counted_of_each};
use crate::engine::{EngineError, Feed, SharedEngine, Watcher};
use crate::model::Model;

/// Samples that are looked at. What more of them would add to a range is less than what rounding takes.
const MOST_FEEDS: usize = 128;

/// Models of fewer bytes may be loaded once per core; of a larger one a second copy takes more memory than its time is worth.
const SMALL_MODEL_BYTES: usize = 32 << 20;

/// More than two sessions have to fit into these bytes, each with its copy of the model and, at most, all that is watched of one sample.
const SESSIONS_BYTES: usize = 128 << 20;

/// Fewer feeds are not worth loading a model for.
const FEEDS_PER_SESSION: usize = 4;

/// The samples that [`calibrate`] looks at.
pub fn looked_at(feeds: &[Feed]) -> &[Feed] {
    &feeds[..feeds.len().min(MOST_FEEDS)]
}

/// Runs `model` over `feeds` once and returns what was seen of every watched tensor that holds float32 numbers. The same on any number of cores.
///
/// # Errors
/// What the engine says of the model with these tensors as outputs.
pub fn calibrate(
    engine: &SharedEngine,
    model: &Model,
    watched: &[Watch],
    feeds: &[Feed],
) -> Result<BTreeMap<String, Spread>, EngineError> {
    let feeds = looked_at(feeds);
    if watched.is_empty() || feeds.is_empty() {
        return Ok(BTreeMap::new());
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let most = most_sessions(cores, model.encoded_len(), feeds.len());
    let sessions = |seen: &Seen| sessions(most, model.encoded_len(), feeds.len(), seen);
    calibrate_on(most.min(2), sessions, engine, model, watched, feeds)
}

/// The most sessions that there may be.
fn most_sessions(cores: usize, model_bytes: usize, feeds: usize) -> usize {
    if model_bytes >= SMALL_MODEL_BYTES { 1 } else { cores.min(feeds / FEEDS_PER_SESSION).max(1) }
}

/// How many of them are worth it, by what the first sample took.
fn sessions(most: usize, model_bytes: usize, feeds: usize, first: &Seen) -> usize {
    let fitting = (SESSIONS_BYTES / (model_bytes + first.bytes()).max(1)).max(2);
    let most = most.min(fitting);
    let left = first.running * (feeds - 1) as u32;
    if left.saturating_sub(left / most as u32) > first.loading { most } else { 1 }
}

/// What a session saw of a sample.
struct Given {
    session: usize,
    sample: usize,
    seen: Result<Seen, EngineError>,
}

/// What one sample shows, and how long that took.
struct Seen {
    /// Of the watched tensors, in their order.
    spreads: Vec<Spread>,
    /// To load the session.
    loading: Duration,
    /// To run it.
    running: Duration,
}

impl Seen {
    /// Bytes of the watched tensors.
    fn bytes(&self) -> usize {
        self.spreads.iter().map(|spread| (spread.count + spread.broken) as usize * size_of::<f32>()).sum()
    }
}

/// Samples that a session may have begun and that are not taken in: while one is, it runs the next.
const AHEAD: usize = 2;

/// So many sessions are loaded and begin at once, `ahead` of the first sample, which tells how many go on.
fn calibrate_on(
    ahead: usize,
    sessions: impl FnOnce(&Seen) -> usize,
    engine: &SharedEngine,
    model: &Model,
    watched: &[Watch],
    feeds: &[Feed],
) -> Result<BTreeMap<String, Spread>, EngineError> {
    let mut spreads: Vec<Spread> = vec![Spread::default(); watched.len()];
    let pass = Pass { engine, model, watched: watched.into(), feeds, next: AtomicUsize::new(0) };
    std::thread::scope(|scope| {
        let (give, given) = channel();
        let start = |session| {
            let (allow, allowed) = channel();
            let (pass, give) = (&pass, give.clone());
            scope.spawn(move || pass.run(session, &allowed, &give));
            allow
        };
        let go_on = |allow: &Sender<()>| {
            // A session that has ended has nothing left to run.
            let _ = allow.send(());
        };
        let mut allow: Vec<Sender<()>> = (0..ahead).map(&start).collect();
        allow.iter().for_each(go_on);
        let mut sessions = Some(sessions);
        let mut early = BTreeMap::new();
        // Samples are taken in one after the other, in their order, so that sessions and threads change nothing.
        for (sample, feed) in feeds.iter().enumerate() {
            let given = loop {
                if let Some(given) = early.remove(&sample) {
                    break given;
                }
                let given: Given = given.recv().map_err(|_| pass.ended())?;
                early.insert(given.sample, given);
            };
            let seen = given.seen?;
            if let Some(sessions) = sessions.take() {
                let sessions = sessions(&seen);
                allow.truncate(sessions);
                let begun = allow.len();
                allow.extend((begun..sessions).map(&start));
                allow[begun..].iter().for_each(go_on);
                (1..AHEAD).for_each(|_| allow.iter().for_each(go_on));
            }
            spreads.iter_mut().zip(seen.spreads).for_each(|(all, one)| all.merge(one));
            feed.put_down();
            // One that was too many ends when it finds nobody to allow it more.
            allow.get(given.session).into_iter().for_each(go_on);
        }
        Ok(())
    })?;
    let names = watched.iter().map(|w| w.tensor.clone());
    Ok(names.zip(spreads).filter(|(_, spread)| spread.count + spread.broken > 0).collect())
}

/// What sessions have in common.
struct Pass<'a> {
    engine: &'a SharedEngine,
    model: &'a Model,
    watched: Arc<[Watch]>,
    feeds: &'a [Feed],
    /// The first sample that no session has begun.
    next: AtomicUsize,
}

impl Pass<'_> {
    /// Runs one session: a sample each time it is allowed to, until there are none.
    fn run(&self, session: usize, allowed: &Receiver<()>, give: &Sender<Given>) {
        let began = Instant::now();
        let shown = Shown::default();
        // One thread each: how an engine divides its sums among several changes their last bits.
        let loaded = self.caught(|| {
            let taps = self.watched.iter().map(|w| w.tensor.clone()).collect();
            self.engine.watch(self.model, taps, shown.watcher(&self.watched, counted_of_each(self.feeds.len())))
        });
        let loading = began.elapsed();
        let next = || {
            allowed.recv().ok()?;
            // Whoever is ready takes the next: nobody waits for a session that is still being loaded.
            let sample = self.next.fetch_add(1, Ordering::Relaxed);
            Some((sample, self.feeds.get(sample)?))
        };
        let gives = |sample, seen| give.send(Given { session, sample, seen }).is_ok();
        match loaded {
            Ok(mut loaded) => {
                while let Some((sample, feed)) = next() {
                    let began = Instant::now();
                    let ran = self.caught(|| loaded.run(feed));
                    let running = began.elapsed();
                    let seen = ran.map(|_| Seen { spreads: shown.take(self.watched.len()), loading, running });
                    if !gives(sample, seen) {
                        return;
                    }
                }
            }
            Err(error) => {
                next().map(|(sample, _)| gives(sample, Err(error)));
            }
        }
    }

    /// An engine that panics would leave its sample waited for.
    fn caught<T>(&self, call: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
        catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(self.ended()))
    }

    fn ended(&self) -> EngineError {
        EngineError::Run { engine: self.engine.id().to_string(), detail: "its session ended".to_owned() }
    }
}

/// What a session saw of the sample that it runs, by the number of the watched tensor.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<BTreeMap<usize, Spread>>>);

impl Shown {
    fn watcher(&self, watched: &Arc<[Watch]>, counted: usize) -> Watcher {
        let (shown, watched) = (self.clone(), watched.clone());
        Watcher::new(move |at, shape, values| {
            let spread = Spread::of(shape, values, watched[at].channels.as_ref(), counted);
            shown.lock().insert(at, spread);
        })
    }

    /// Of so many tensors; nothing of those that hold no float32 numbers.
    fn take(&self, tensors: usize) -> Vec<Spread> {
        let mut shown = std::mem::take(&mut *self.lock());
        (0..tensors).map(|at| shown.remove(&at).unwrap_or_default()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Spread>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, feature = "tract"))]
mod tests {
    use super::*;
    use crate::engine::tract::TractEngine;
    use crate::engine::{Engine, EngineId, LoadOptions, Session};
    use crate::model::build::Builder;
    use crate::model::{DType, Tensor};

    fn model() -> Model {
        let weight: Vec<f32> = (0..16).map(|i| (i as f32 * 0.7).sin()).collect();
        Builder::new(17)
            .input("x", DType::F32, &["2", "4"])
            .initializer("w", Tensor::new(&[4, 4], &weight))
            .node("MatMul", &["x", "w"], "h", vec![])
            .node("Relu", &["h"], "r", vec![])
            .node("Log", &["r"], "l", vec![])
            .node("Shape", &["x"], "s", vec![])
            .output("r", DType::F32, &["2", "4"])
            .output("l", DType::F32, &["2", "4"])
            .output("s", DType::I64, &["2"])
            .build()
    }

    fn feeds(n: usize) -> Vec<Feed> {
        let values = |at: usize| (0..8).map(|v| ((at * 8 + v) as f32 * 1.3).cos()).collect::<Vec<f32>>();
        (0..n).map(|at| Feed::new(vec![("x".into(), Tensor::new(&[2, 4], &values(at)))])).collect()
    }

    fn watches(names: &[&str]) -> Vec<Watch> {
        names.iter().map(|name| Watch { tensor: (*name).to_owned(), channels: None }).collect()
    }

    fn engine() -> SharedEngine {
        Arc::new(TractEngine::new())
    }

    #[test]
    fn the_number_of_sessions_changes_no_bit() {
        let (model, watched, feeds) = (model(), watches(&["x", "h", "r"]), feeds(13));
        let one = calibrate_on(1, |_| 1, &engine(), &model, &watched, &feeds).unwrap();
        assert_eq!(one["h"].count, 13 * 8);
        for (ahead, sessions) in [(1, 2), (2, 1), (2, 2), (2, 3), (1, 13)] {
            let other = calibrate_on(ahead, |_| sessions, &engine(), &model, &watched, &feeds).unwrap();
            assert_eq!(other, one, "{ahead} ahead of {sessions}");
        }
    }

    #[test]
    fn sessions_are_as_many_as_their_time_is_worth_and_memory_allows() {
        let first = |held: usize, loading, running| Seen {
            spreads: vec![Spread { count: held as u64 / 4, ..Spread::default() }],
            loading: Duration::from_millis(loading),
            running: Duration::from_millis(running),
        };
        let small = first(1 << 20, 20, 10);
        assert_eq!((most_sessions(4, 1 << 20, 64), sessions(4, 1 << 20, 64, &small)), (4, 4));
        assert_eq!(most_sessions(4, 1 << 20, 9), 2, "too few samples for more");
        assert_eq!(most_sessions(4, SMALL_MODEL_BYTES, 64), 1, "a copy of the model is too large");
        assert_eq!((most_sessions(1, 1 << 20, 64), most_sessions(8, 1 << 20, 1)), (1, 1));
        assert_eq!(sessions(64, 1 << 20, 128, &first(15 << 20, 20, 10)), 8, "more would take too much memory");
        assert_eq!(sessions(64, 1 << 20, 128, &first(SESSIONS_BYTES, 20, 10)), 2);
        assert_eq!(sessions(4, 1 << 20, 64, &first(1 << 20, 500, 10)), 1, "sooner done than loaded once more");
    }

    #[test]
    fn what_is_no_float_has_no_spread_and_what_breaks_is_counted() {
        let spreads = calibrate(&engine(), &model(), &watches(&["h", "l", "s"]), &feeds(4)).unwrap();
        assert_eq!(spreads.keys().collect::<Vec<_>>(), ["h", "l"]);
        assert!(spreads["h"].is_usable() && spreads["l"].broken > 0, "the logarithm of 0 is no number");
    }

    #[test]
    fn an_engine_that_fails_says_so_whichever_session_it_is() {
        let mut feeds = feeds(9);
        feeds[7] = Feed::new(vec![("x".into(), Tensor::new(&[2, 3], &[0.0_f32; 6]))]);
        assert!(calibrate_on(2, |_| 2, &engine(), &model(), &watches(&["h"]), &feeds).is_err());
        let gone = watches(&["gone"]);
        let error = calibrate_on(2, |_| 2, &engine(), &model(), &gone, &feeds).unwrap_err().to_string();
        assert!(error.contains("gone"), "{error}");
    }

    /// Fails in its third run, without a word.
    struct Panics(EngineId);

    impl Engine for Panics {
        fn id(&self) -> &EngineId {
            &self.0
        }

        fn load(&self, model: &Model, options: &LoadOptions) -> Result<Box<dyn Session>, EngineError> {
            Ok(Box::new(Twice(TractEngine::new().load(model, options)?, 0)))
        }
    }

    struct Twice(Box<dyn Session>, usize);

    impl Session for Twice {
        fn run(&mut self, feed: &Feed) -> Result<Vec<Tensor>, EngineError> {
            self.1 += 1;
            assert!(self.1 < 3, "on purpose");
            self.0.run(feed)
        }
    }

    #[test]
    fn a_session_that_panics_is_not_waited_for() {
        let engine: SharedEngine = Arc::new(Panics(EngineId { name: "panics".into(), version: "1".into() }));
        for sessions in [1, 2] {
            let error =
                calibrate_on(sessions, |_| sessions, &engine, &model(), &watches(&["h"]), &feeds(9)).unwrap_err();
            assert!(error.to_string().contains("its session ended"), "{error}");
        }
    }
}
