//! Running a model over a split and keeping what the metrics need of it.

use crate::engine::{EngineError, Feed, LoadOptions, SharedEngine};
use crate::model::{Model, Tensor};

/// Memory for the features of all taps of one model; with more, positions of each tap are sampled evenly, the same for every model.
const FEATURE_BUDGET_BYTES: usize = 256 << 20;

/// Outputs of a model, `[output][sample]`.
pub(super) type Outputs = Vec<Vec<Tensor>>;

/// Features of the taps, `[tap][sample][feature]`.
pub(super) type Features = Vec<Vec<Vec<f32>>>;

/// Runs every feed; each output of the model as one column over the samples.
pub(super) fn outputs(engine: &SharedEngine, model: &Model, feeds: &[Feed], threads: usize) -> Result<Outputs, EngineError> {
    let mut session = engine.load(model, &LoadOptions { threads, ..LoadOptions::default() })?;
    let mut columns: Outputs = model.graph().output.iter().map(|_| Vec::with_capacity(feeds.len())).collect();
    for feed in feeds {
        for (column, tensor) in columns.iter_mut().zip(session.run(feed)?) {
            column.push(tensor);
        }
    }
    Ok(columns)
}

/// Runs every feed and keeps the taps, flattened to one row of features per sample. A tap whose size differs between samples comes back empty.
pub(super) fn features(engine: &SharedEngine, model: &Model, taps: &[String], feeds: &[Feed], threads: usize) -> Result<Features, EngineError> {
    let mut rows: Features = taps.iter().map(|_| Vec::with_capacity(feeds.len())).collect();
    if taps.is_empty() {
        return Ok(rows);
    }
    let room = FEATURE_BUDGET_BYTES / size_of::<f32>() / taps.len() / feeds.len().max(1);
    let mut session = engine.load(model, &LoadOptions { threads, taps: taps.to_vec(), ..LoadOptions::default() })?;
    let outputs = model.graph().output.len();
    for feed in feeds {
        for (tap, tensor) in rows.iter_mut().zip(session.run(feed)?.drain(outputs..)) {
            tap.push(sampled(&tensor.to_f32(), room.max(1)));
        }
    }
    for tap in &mut rows {
        if tap.windows(2).any(|pair| pair[0].len() != pair[1].len()) {
            tap.clear();
        }
    }
    Ok(rows)
}

/// At most `room` of the values, evenly spaced.
fn sampled(values: &[f32], room: usize) -> Vec<f32> {
    if values.len() <= room {
        return values.to_vec();
    }
    (0..room).map(|i| values[i * values.len() / room]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_spreads_over_the_whole_tap() {
        assert_eq!(sampled(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 3), [0.0, 2.0, 4.0]);
        assert_eq!(sampled(&[7.0], 3), [7.0]);
    }
}
