//! The pass over the calibration data: sessions run samples while what they gave is taken in.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rayon::prelude::*;

use super::{Spread, Watch};
use crate::engine::{EngineError, Feed, LoadOptions, SharedEngine};
use crate::model::{DType, Model, Tensor};

/// Samples that are looked at. What more of them would add to a range is less than what rounding takes.
const MOST_FEEDS: usize = 128;

/// Models of fewer bytes are loaded once per core; of a larger one a second copy takes more memory than its time is worth.
const SMALL_MODEL_BYTES: usize = 16 << 20;

/// Where what is watched of one sample takes more bytes than this, a second session would take more memory than its time is worth.
const SMALL_RUN_BYTES: usize = 16 << 20;

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
    calibrate_on(sessions(model, feeds.len()), engine, model, watched, feeds)
}

/// How many sessions may share the samples.
fn sessions(model: &Model, feeds: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if model.encoded_len() < SMALL_MODEL_BYTES { cores.min(feeds / FEEDS_PER_SESSION).max(1) } else { 1 }
}

/// What one session reads and gives: numbers of samples, and the watched tensors of each.
struct Running {
    ask: SyncSender<usize>,
    take: Receiver<Result<Vec<Tensor>, EngineError>>,
}

fn calibrate_on(
    sessions: usize,
    engine: &SharedEngine,
    model: &Model,
    watched: &[Watch],
    feeds: &[Feed],
) -> Result<BTreeMap<String, Spread>, EngineError> {
    let mut spreads: Vec<Spread> = vec![Spread::default(); watched.len()];
    std::thread::scope(|scope| {
        let start = || {
            // As many as are ever asked of one session at a time, so that asking never waits.
            let (ask, asked) = sync_channel(2);
            // One run waits while the one before is taken in: no more of them are held, however many there are.
            let (give, take) = sync_channel(0);
            scope.spawn(move || run(engine, model, watched, feeds, &asked, &give));
            Running { ask, take }
        };
        let mut running = vec![start()];
        let mut asked = 0;
        // Samples are taken in one after the other, in their order, so that sessions and threads change nothing.
        for at in 0..feeds.len() {
            // Beside what is taken in next each session has one more to run, but the first sample goes alone: it tells how many sessions there are.
            let ahead = if at == 0 { 0 } else { at + running.len() };
            while asked < feeds.len() && asked <= ahead {
                // A session that has ended says why when its sample is taken.
                let _ = running[asked % running.len()].ask.send(asked);
                asked += 1;
            }
            let Ok(seen) = running[at % running.len()].take.recv() else {
                return Err(EngineError::Run {
                    engine: engine.id().to_string(),
                    detail: "its session ended".to_owned(),
                });
            };
            let seen = seen?;
            take_in(&mut spreads, watched, &seen);
            let held: usize = seen.iter().map(|tensor| tensor.bytes().len()).sum();
            if at == 0 && held < SMALL_RUN_BYTES {
                running.extend((1..sessions).map(|_| start()));
            }
        }
        Ok(())
    })?;
    let names = watched.iter().map(|w| w.tensor.clone());
    Ok(names.zip(spreads).filter(|(_, spread)| spread.count + spread.broken > 0).collect())
}

/// Runs one session over the samples it is asked for, until nobody asks for more.
fn run(
    engine: &SharedEngine,
    model: &Model,
    watched: &[Watch],
    feeds: &[Feed],
    asked: &Receiver<usize>,
    give: &SyncSender<Result<Vec<Tensor>, EngineError>>,
) {
    let taps = watched.iter().map(|w| w.tensor.clone()).collect();
    let mut session = match engine.load(model, &LoadOptions { taps, ..LoadOptions::default() }) {
        Ok(session) => session,
        Err(error) => return drop(give.send(Err(error))),
    };
    let outputs = model.graph().output.len();
    while let Ok(at) = asked.recv() {
        let seen = session.run(&feeds[at]).map(|mut all| all.split_off(outputs));
        if give.send(seen).is_err() {
            return;
        }
    }
}

fn take_in(spreads: &mut [Spread], watched: &[Watch], seen: &[Tensor]) {
    spreads.par_iter_mut().zip(watched).zip(seen).for_each(|((spread, watch), tensor)| {
        if tensor.dtype() == DType::F32 {
            spread.add(tensor, watch.channels.as_ref());
        }
    });
}

#[cfg(all(test, feature = "tract"))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::tract::TractEngine;
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
        let one = calibrate_on(1, &engine(), &model, &watched, &feeds).unwrap();
        assert_eq!(one["h"].count, 13 * 8);
        for sessions in [2, 3, 13] {
            assert_eq!(calibrate_on(sessions, &engine(), &model, &watched, &feeds).unwrap(), one, "{sessions}");
        }
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
        assert!(calibrate_on(2, &engine(), &model(), &watches(&["h"]), &feeds).is_err());
        let gone = watches(&["gone"]);
        let error = calibrate_on(2, &engine(), &model(), &gone, &feeds).unwrap_err().to_string();
        assert!(error.contains("gone"), "{error}");
    }
}
