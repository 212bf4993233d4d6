//! Running a model over a split and keeping what the metrics need of it.

use crate::engine::{EngineError, Feed, LoadOptions, SharedEngine};
use crate::model::{Model, Tensor};
use crate::quality::Rows;

/// Features of one tap and sample. Of a larger tap, positions are sampled evenly, the same for every model: CKA compares similarities between samples, which
/// so many positions give as well as all, in bounded time and memory.
const MOST_FEATURES: usize = 1_024;

/// Outputs of a model, `[output][sample]`.
pub(super) type Outputs = Vec<Vec<Tensor>>;

/// Runs every feed; each output of the model as one column over the samples.
pub(super) fn outputs(
    engine: &SharedEngine,
    model: &Model,
    feeds: &[Feed],
    threads: usize,
) -> Result<Outputs, EngineError> {
    let mut session = engine.load(model, &LoadOptions { threads, ..LoadOptions::default() })?;
    let mut columns: Outputs = model.graph().output.iter().map(|_| Vec::with_capacity(feeds.len())).collect();
    for feed in feeds {
        for (column, tensor) in columns.iter_mut().zip(session.run(feed)?) {
            column.push(tensor);
        }
    }
    Ok(columns)
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
    let mut tapped: Vec<Vec<Tensor>> = taps.iter().map(|_| Vec::with_capacity(feeds.len())).collect();
    let mut session = engine.load(model, &LoadOptions { threads, taps: taps.to_vec(), ..LoadOptions::default() })?;
    let outputs = model.graph().output.len();
    for feed in feeds {
        for (tap, tensor) in tapped.iter_mut().zip(session.run(feed)?.drain(outputs..)) {
            tap.push(if tensor.len() > MOST_FEATURES { sampled(&tensor, MOST_FEATURES) } else { tensor });
        }
    }
    Ok(tapped.iter().map(|samples| Rows::from_tensors(samples, MOST_FEATURES)).collect())
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
