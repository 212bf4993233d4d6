//! Running a model over a split and keeping what the metrics need of it.

use crate::engine::{EngineError, Feed, LoadOptions, SharedEngine};
use crate::model::{Model, Tensor};
use crate::quality::{OutputPair, Rows, TapPair};

/// Features of one tap and sample. Of a larger tap, positions are sampled evenly, the same for every model: CKA compares similarities between samples, which
/// so many positions give as well as all, in bounded time and memory.
const MOST_FEATURES: usize = 512;

/// Outputs of a model, `[output][sample]`.
pub(super) type Outputs = Vec<Vec<Tensor>>;

/// What a model gave on a split.
pub(super) struct Seen {
    pub(super) outputs: Outputs,
    /// Features of the taps, in their order.
    pub(super) features: Vec<Rows>,
}

/// Models of fewer bytes are loaded once per thread, each session on one thread: small runs scale over samples and not inside one.
pub(super) const SMALL_MODEL_BYTES: usize = 16 << 20;

/// Fewer feeds per session are not worth loading it.
const FEEDS_PER_SESSION: usize = 32;

/// Runs every feed; each output of the model as one column over the samples.
pub(super) fn outputs(
    engine: &SharedEngine,
    model: &Model,
    feeds: &[Feed],
    threads: usize,
) -> Result<Outputs, EngineError> {
    Ok(Reading { engine, model, taps: &[], keep_outputs: true }.run(feeds, threads)?.outputs)
}

/// Runs every feed and keeps the features of the taps.
pub(super) fn features(
    engine: &SharedEngine,
    model: &Model,
    taps: &[String],
    feeds: &[Feed],
    threads: usize,
) -> Result<Vec<Rows>, EngineError> {
    if taps.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Reading { engine, model, taps, keep_outputs: false }.run(feeds, threads)?.features)
}

/// Outputs and features from the same runs: half the work of asking for them one by one, but the taps keep the engine from fusing across them, so the outputs
/// may differ from those of a deployed model by rounding.
pub(super) fn together(
    engine: &SharedEngine,
    model: &Model,
    taps: &[String],
    feeds: &[Feed],
    threads: usize,
) -> Result<Seen, EngineError> {
    Reading { engine, model, taps, keep_outputs: true }.run(feeds, threads)
}

/// An output as if it were a tap: all that can be seen of a model whose layers lie in the branches of an `If`.
pub(super) fn as_features(output: &OutputPair) -> TapPair {
    let rows = |samples: &[Tensor]| Rows::from_tensors(samples, MOST_FEATURES);
    TapPair { name: output.name.clone(), baseline: rows(&output.baseline), baked: rows(&output.baked) }
}

/// How many sessions share the feeds, each on one thread where there are several.
pub(super) fn sessions(model: &Model, feeds: &[Feed], threads: usize) -> usize {
    let small = prost::Message::encoded_len(model.proto()) < SMALL_MODEL_BYTES;
    if small { threads.clamp(1, (feeds.len() / FEEDS_PER_SESSION).max(1)) } else { 1 }
}

/// What to read of a model.
struct Reading<'a> {
    engine: &'a SharedEngine,
    model: &'a Model,
    taps: &'a [String],
    keep_outputs: bool,
}

impl Reading<'_> {
    fn run(&self, feeds: &[Feed], threads: usize) -> Result<Seen, EngineError> {
        let sessions = sessions(self.model, feeds, threads);
        let mut columns =
            if sessions == 1 { self.columns(feeds, threads)? } else { self.side_by_side(feeds, sessions)? };
        let tapped = columns.split_off(if self.keep_outputs { self.model.graph().output.len() } else { 0 });
        let features = tapped.iter().map(|samples| Rows::from_tensors(samples, MOST_FEATURES)).collect();
        Ok(Seen { outputs: columns, features })
    }

    /// A share of the feeds on each of several sessions of one thread.
    fn side_by_side(&self, feeds: &[Feed], sessions: usize) -> Result<Vec<Vec<Tensor>>, EngineError> {
        let parts: Vec<Vec<Vec<Tensor>>> = std::thread::scope(|scope| {
            let chunks = feeds.chunks(feeds.len().div_ceil(sessions));
            let running: Vec<_> = chunks.map(|chunk| scope.spawn(|| self.columns(chunk, 1))).collect();
            running
                .into_iter()
                .map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Result<_, _>>()
        })?;
        let mut parts = parts.into_iter();
        let mut all = parts.next().unwrap_or_default();
        for part in parts {
            all.iter_mut().zip(part).for_each(|(column, more)| column.extend(more));
        }
        Ok(all)
    }

    /// Outputs (where kept), then taps, each over all feeds.
    fn columns(&self, feeds: &[Feed], threads: usize) -> Result<Vec<Vec<Tensor>>, EngineError> {
        let options = LoadOptions { threads, taps: self.taps.to_vec(), ..LoadOptions::default() };
        let mut session = self.engine.load(self.model, &options)?;
        let outputs = self.model.graph().output.len();
        let kept = if self.keep_outputs { 0 } else { outputs };
        let mut columns: Vec<Vec<Tensor>> =
            (kept..outputs + self.taps.len()).map(|_| Vec::with_capacity(feeds.len())).collect();
        for feed in feeds {
            for (i, tensor) in session.run(feed)?.drain(kept..).enumerate() {
                let large_tap = kept + i >= outputs && tensor.len() > MOST_FEATURES;
                columns[i].push(if large_tap { sampled(&tensor, MOST_FEATURES) } else { tensor });
            }
            feed.put_down();
        }
        Ok(columns)
    }
}

/// `room` of the elements, evenly spaced.
fn sampled(tensor: &Tensor, room: usize) -> Tensor {
    let values = tensor.to_f32();
    let kept: Vec<f32> = (0..room).map(|i| values[i * values.len() / room]).collect();
    Tensor::new(&[room], &kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_spreads_over_the_whole_tap() {
        let tap = Tensor::new(&[2, 3], &[0.0_f32, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(&*sampled(&tap, 3).to_f32(), [0.0, 2.0, 4.0]);
    }
}
