//! Whether calibration data is like the data that a model will see: what was seen of a tensor on both, compared.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Spread, counted_of_each, looked_at};
use crate::engine::Feed;
use crate::model::DType;

/// A tensor whose values are others than those it was calibrated on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Shift {
    /// Its name.
    pub tensor: String,
    /// Whether it is an input of the model.
    pub input: bool,
    /// Smallest and largest value of the calibration data.
    pub calibrated: [f32; 2],
    /// Smallest and largest value of the search split.
    pub seen: [f32; 2],
    /// Share of the search split's values that lie beyond the calibrated ones.
    pub beyond: f64,
    /// How far the means lie apart, in standard deviations of the calibrated values.
    pub mean: f64,
    /// Standard deviation on the search split / on the calibration data.
    pub width: f64,
}

/// Standard errors that a difference has to be above what chance gives. Values of one sample may hang together, so samples count, not values.
const ERRORS: f64 = 4.0;

/// Means that lie nearer, in standard deviations, harm no range.
const LEAST_MEAN: f64 = 1.0;

/// Widths that differ by less cost no two bits.
const LEAST_WIDTH: f64 = 4.0;

impl Shift {
    /// How far it is off, to order by: the share beyond counts most, for that is what is clipped.
    pub fn extent(&self) -> f64 {
        self.beyond * 10.0 + self.mean + self.width.max(1.0 / self.width.max(1e-9)).ln()
    }
}

/// The shift of a tensor that was seen on `samples` calibration samples and on samples of the search split; `None` where the two are alike, or where either
/// has no range.
pub fn shift(
    tensor: &str,
    input: bool,
    (calibrated, samples): (&Spread, usize),
    (seen, of_search): (&Spread, usize),
) -> Option<Shift> {
    if !calibrated.is_usable() || seen.broken > 0 || seen.count == 0 {
        return None;
    }
    let ((mean, deviation), (other_mean, other_deviation)) = (calibrated.moments(), seen.moments());
    let found = Shift {
        tensor: tensor.to_owned(),
        input,
        calibrated: [calibrated.min, calibrated.max],
        seen: [seen.min, seen.max],
        beyond: beyond(calibrated, seen),
        mean: (other_mean - mean).abs() / deviation.max(f64::MIN_POSITIVE),
        width: other_deviation / deviation.max(f64::MIN_POSITIVE),
    };
    let (n, m) = (samples.max(1) as f64, of_search.max(1) as f64);
    // A new value of the same distribution is the largest or smallest of n + 1 with this chance.
    let chance = 2.0 / (n + 1.0);
    let most_beyond = chance + ERRORS * (chance * (1.0 - chance) / m).max(0.0).sqrt();
    let most_mean = (ERRORS * (1.0 / n + 1.0 / m).sqrt()).max(LEAST_MEAN);
    let off = found.beyond > most_beyond
        || found.mean > most_mean
        || !(1.0 / LEAST_WIDTH..=LEAST_WIDTH).contains(&found.width);
    off.then_some(found)
}

/// Share of the values of `seen` that lie beyond the ends of `calibrated`. Every range holds 0.
fn beyond(calibrated: &Spread, seen: &Spread) -> f64 {
    let (low, high) = (f64::from(calibrated.min).min(0.0), f64::from(calibrated.max).max(0.0));
    let Some(histogram) = &seen.histogram else { return 0.0 };
    let (mut all, mut out) = (seen.zeros, 0);
    for bin in histogram.bins() {
        all += bin.count;
        out += if bin.value < low || bin.value > high { bin.count } else { 0 };
    }
    out as f64 / all.max(1) as f64
}

/// What samples give to each float32 input of a model, without a run.
pub fn of_inputs(feeds: &[Feed]) -> BTreeMap<String, Spread> {
    let mut spreads: BTreeMap<String, Spread> = BTreeMap::new();
    let feeds = looked_at(feeds);
    for feed in feeds {
        for (name, tensor) in feed.iter().filter(|(_, tensor)| tensor.dtype() == DType::F32) {
            spreads.entry(name.to_owned()).or_default().merge(Spread::of(
                tensor.shape(),
                &tensor.to_f32(),
                None,
                counted_of_each(feeds.len()),
            ));
        }
    }
    spreads
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Tensor;

    /// Samples without a pattern, from -1 to 1, times and plus something.
    fn feeds(n: usize, seed: u32, scale: f32, offset: f32) -> Vec<Feed> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut sample = || (0..3).map(|_| next() * scale + offset).collect::<Vec<f32>>();
        (0..n).map(|_| Feed::new(vec![("x".into(), Tensor::new(&[1, 3], &sample()))])).collect()
    }

    fn found(calibrated: &[Feed], seen: &[Feed]) -> Option<Shift> {
        let (a, b) = (of_inputs(calibrated), of_inputs(seen));
        shift("x", true, (&a["x"], calibrated.len()), (&b["x"], seen.len()))
    }

    #[test]
    fn samples_of_one_distribution_are_alike_however_few_there_are() {
        for seed in 0..200 {
            for (n, m) in [(64, 32), (16, 8), (4, 32), (128, 4)] {
                let shift = found(&feeds(n, seed, 1.0, 0.0), &feeds(m, seed + 1_000_003, 1.0, 0.0));
                assert_eq!(shift, None, "seed {seed}, {n} and {m} samples");
            }
        }
    }

    #[test]
    fn pixels_that_were_not_scaled_and_offsets_and_widths_are_found_both_ways() {
        let plain = feeds(64, 1, 0.5, 0.5);
        for (scale, offset, what) in [(127.5, 127.5, "0 to 255"), (0.5, 2.0, "moved"), (0.05, 0.5, "narrow")] {
            let other = feeds(32, 7, scale, offset);
            assert!(found(&plain, &other).is_some(), "{what}");
            assert!(found(&feeds(64, 3, scale, offset), &feeds(32, 9, 0.5, 0.5)).is_some(), "{what}, the other way");
        }
        let shift = found(&plain, &feeds(32, 7, 127.5, 127.5)).unwrap();
        assert!(shift.beyond > 0.95 && shift.width > 200.0 && shift.seen[1] > 200.0, "{shift:?}");
    }

    #[test]
    fn what_is_constant_or_broken_is_told_elsewhere() {
        let zeros = feeds(8, 1, 0.0, 0.0);
        assert_eq!(found(&zeros, &feeds(8, 2, 1.0, 0.0)), None);
        let broken = feeds(8, 1, f32::INFINITY, 0.0);
        assert_eq!(found(&feeds(8, 2, 1.0, 0.0), &broken), None);
    }
}
