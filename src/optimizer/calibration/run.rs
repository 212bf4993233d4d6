//! The pass over the calibration data: sessions run samples while what they gave is taken in.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::{Spread, Watch, counted_of_each};
use crate::engine::{EngineError, Feed, LoadOptions, SharedEngine};
use crate::model::{DType, Model, Tensor};

/// Samples that are looked at. What more of them would add to a range is less than what rounding takes.
const MOST_FEEDS: usize = 128;

/// Models of fewer bytes may be loaded once per core; of a larger one a second copy takes more memory than its time is worth.
const SMALL_MODEL_BYTES: usize = 32 << 20;

/// More than two sessions have to fit into these bytes, each with its copy of the model and what is watched of one sample. Two take no more than one that runs
/// a sample ahead of another that is taken in, but for the copy of a small model.
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
    let held: usize = first.tensors.iter().map(|tensor| tensor.bytes().len()).sum();
    let fitting = (SESSIONS_BYTES / (model_bytes + held).max(1)).max(2);
    let most = most.min(fitting);
    let left = first.running * (feeds - 1) as u32;
    if left.saturating_sub(left / most as u32) > first.loading { most } else { 1 }
}

/// What a session gave for a sample.
struct Given {
    session: usize,
    sample: usize,
    seen: Result<Seen, EngineError>,
}

/// The watched tensors of a sample, and how long it took.
struct Seen {
    tensors: Vec<Tensor>,
    /// To load the session.
    loading: Duration,
    /// To run it.
    running: Duration,
}

/// So many sessions, the first among them, are loaded at once, `ahead` of the first sample, which tells how many there are: one too many runs nothing.
fn calibrate_on(
    ahead: usize,
    sessions: impl FnOnce(&Seen) -> usize,
    engine: &SharedEngine,
    model: &Model,
    watched: &[Watch],
    feeds: &[Feed],
) -> Result<BTreeMap<String, Spread>, EngineError> {
    let mut spreads: Vec<Spread> = vec![Spread::default(); watched.len()];
    let pass = Pass { engine, model, watched, feeds, next: AtomicUsize::new(0) };
    std::thread::scope(|scope| {
        let (give, given) = channel();
        let start = |session| {
            let (allow, allowed) = channel();
            let (pass, give) = (&pass, give.clone());
            scope.spawn(move || pass.run(session, &allowed, &give));
            allow
        };
        // The first sample goes alone: it tells how many sessions there are. A second that is loaded meanwhile takes a core that nobody uses.
        let mut allow: Vec<Sender<()>> = (0..ahead).map(&start).collect();
        let mut sessions = Some(sessions);
        let go_on = |allow: &[Sender<()>], session: usize| {
            // A session that has ended has nothing left to run.
            let _ = allow[session].send(());
        };
        go_on(&allow, 0);
        let mut early = BTreeMap::new();
        // Samples are taken in one after the other, in their order, so that sessions and threads change nothing.
        for sample in 0..feeds.len() {
            let given = loop {
                if let Some(given) = early.remove(&sample) {
                    break given;
                }
                let given: Given = given.recv().map_err(|_| pass.ended())?;
                early.insert(given.sample, given);
            };
            let seen = given.seen?;
            take_in(&mut spreads, watched, &seen.tensors, counted_of_each(feeds.len()));
            if let Some(sessions) = sessions.take() {
                let sessions = sessions(&seen);
                allow.truncate(sessions);
                allow.extend((allow.len()..sessions).map(&start));
                // One alone runs a sample while another is taken in; of several, one does while that of another is. No more samples are held, however many there are.
                (1..allow.len().max(2)).for_each(|session| go_on(&allow, session % allow.len()));
            }
            // Lent memory goes back before it is asked for again.
            drop(seen);
            feeds[sample].put_down();
            go_on(&allow, given.session);
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
    watched: &'a [Watch],
    feeds: &'a [Feed],
    /// The first sample that no session has begun.
    next: AtomicUsize,
}

impl Pass<'_> {
    /// Runs one session: a sample each time it is allowed to, until there are none.
    fn run(&self, session: usize, allowed: &Receiver<()>, give: &Sender<Given>) {
        let began = Instant::now();
        let taps = self.watched.iter().map(|w| w.tensor.clone()).collect();
        // One thread each: how an engine divides its sums among several changes their last bits.
        let options = LoadOptions { taps, relayout: false, ..LoadOptions::default() };
        let loaded = self.caught(|| self.engine.load(self.model, &options));
        let loading = began.elapsed();
        let outputs = self.model.graph().output.len();
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
                    let seen = self.caught(|| loaded.lend(feed).map(|mut all| all.split_off(outputs)));
                    let running = began.elapsed();
                    if !gives(sample, seen.map(|tensors| Seen { tensors, loading, running })) {
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

fn take_in(spreads: &mut [Spread], watched: &[Watch], seen: &[Tensor], counted: usize) {
    spreads.par_iter_mut().zip(watched).zip(seen).for_each(|((spread, watch), tensor)| {
        if tensor.dtype() == DType::F32 {
            spread.add(tensor, watch.channels.as_ref(), counted);
        }
    });
}

#[cfg(all(test, feature = "tract"))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::tract::TractEngine;
    use crate::engine::{Engine, EngineId, Session};
    use crate::model::build::Builder;

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
            tensors: vec![Tensor::new(&[held], &vec![0_u8; held])],
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
