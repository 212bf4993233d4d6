//! What a package says of a model, measured: once when it is made, and again when it is checked.

use std::panic::resume_unwind;

use crate::api::Metric;
use crate::bake::figures::latency_figures;
use crate::bake::report::BatchLatency;
use crate::bake::timing::wall_latency;
use crate::bake::{BakeError, cores, observe};
use crate::engine::batch::BatchAxes;
use crate::engine::{EngineError, Feed, LoadOptions, Session, SharedEngine};
use crate::model::{Model, Tensor};
use crate::optimizer::driver::LOSSLESS_TOLERANCE;
use crate::package::phase7::{BatchFlexibility, BatchRows, Limit, ValueRange, contract};
use crate::profiler::latency;
use crate::quality::{Figure, Figures};

/// Runs for the tail of the batch size that the limits read: a 99th percentile has an interval from 368 on.
const RUNS: usize = 400;

/// The most seconds for them: so many runs at the limit of the contract.
const SECONDS: f64 = 20.0;

/// Runs for each of the other batch sizes, which no limit reads: a 99th percentile is a figure from 100 on.
const OTHER_RUNS: usize = 200;

/// The most seconds for each of them.
const OTHER_SECONDS: f64 = 1.0;

/// Outputs of every sample, `[sample][output]`.
pub(in crate::bake) type Outputs = Vec<Vec<Tensor>>;

/// Runs every feed.
pub(in crate::bake) fn run_all(session: &mut dyn Session, feeds: &[Feed]) -> Result<Outputs, EngineError> {
    feeds.iter().map(|feed| session.run(feed)).collect()
}

/// Largest difference of two outputs relative to max(1, max |a|); `None` when type or shape differ or a difference is no number.
pub(in crate::bake) fn difference(a: &Tensor, b: &Tensor) -> Option<f64> {
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        return None;
    }
    if a.bytes() == b.bytes() {
        return Some(0.0);
    }
    let (a, b) = (a.to_f64(), b.to_f64());
    let scale = a.iter().fold(1.0_f64, |most, v| most.max(v.abs()));
    let most = a.iter().zip(b.iter()).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() }).fold(Some(0.0), larger)?;
    Some(most / scale).filter(|d| d.is_finite())
}

/// The larger of two differences, where both are numbers.
fn larger(most: Option<f64>, next: f64) -> Option<f64> {
    most.filter(|_| !next.is_nan()).map(|most: f64| most.max(next))
}

/// Least and largest finite value of one input or output, and the samples in which they were.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::bake) struct Extreme {
    pub(in crate::bake) name: String,
    min: f64,
    max: f64,
    /// Samples of the least and of the largest value, the first of each.
    pub(in crate::bake) places: [usize; 2],
    non_finite: u64,
}

impl Extreme {
    pub(in crate::bake) fn new(name: &str) -> Self {
        let (min, max) = (f64::INFINITY, f64::NEG_INFINITY);
        Self { name: name.to_owned(), min, max, places: [0; 2], non_finite: 0 }
    }

    pub(in crate::bake) fn see(&mut self, place: usize, tensor: &Tensor) {
        for &value in tensor.to_f64().iter() {
            if !value.is_finite() {
                self.non_finite += 1;
                continue;
            }
            if value < self.min {
                (self.min, self.places[0]) = (value, place);
            }
            if value > self.max {
                (self.max, self.places[1]) = (value, place);
            }
        }
    }

    /// Adds what was seen of the samples from `offset` on. Of equals, the first sample stays.
    fn join(&mut self, later: &Self, offset: usize) {
        if later.min < self.min {
            (self.min, self.places[0]) = (later.min, offset + later.places[0]);
        }
        if later.max > self.max {
            (self.max, self.places[1]) = (later.max, offset + later.places[1]);
        }
        self.non_finite += later.non_finite;
    }

    /// The range; `None` without a finite value.
    pub(in crate::bake) fn range(&self) -> Option<ValueRange> {
        (self.min <= self.max).then_some(ValueRange { min: self.min, max: self.max, non_finite: self.non_finite })
    }
}

/// Ranges of the inputs and bounds of the outputs, in the model's order.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::bake) struct Ranges {
    pub(in crate::bake) inputs: Vec<Extreme>,
    pub(in crate::bake) outputs: Vec<Extreme>,
}

impl Ranges {
    /// Before anything was seen.
    fn of(model: &Model) -> Self {
        let all = |names: Vec<&str>| names.into_iter().map(Extreme::new).collect::<Vec<_>>();
        Self { inputs: all(model.input_names()), outputs: all(model.output_names()) }
    }
}

/// Runs every feed on one thread, several feeds side by side, and looks at each value. Outputs are not kept.
pub(in crate::bake) fn ranges(engine: &SharedEngine, model: &Model, feeds: &[Feed]) -> Result<Ranges, EngineError> {
    let share = feeds.len().div_ceil(observe::sessions(model, feeds, cores())).max(1);
    let parts = std::thread::scope(|scope| {
        let running: Vec<_> =
            feeds.chunks(share).map(|chunk| scope.spawn(move || ranges_of(engine, model, chunk))).collect();
        let joined = running.into_iter().map(|part| part.join().unwrap_or_else(|panic| resume_unwind(panic)));
        joined.collect::<Result<Vec<Ranges>, _>>()
    })?;
    let mut all = Ranges::of(model);
    for (i, part) in parts.iter().enumerate() {
        let pairs = all.inputs.iter_mut().zip(&part.inputs).chain(all.outputs.iter_mut().zip(&part.outputs));
        pairs.for_each(|(extreme, later)| extreme.join(later, i * share));
    }
    Ok(all)
}

fn ranges_of(engine: &SharedEngine, model: &Model, feeds: &[Feed]) -> Result<Ranges, EngineError> {
    let mut session = engine.load(model, &LoadOptions::default())?;
    let mut seen = Ranges::of(model);
    for (place, feed) in feeds.iter().enumerate() {
        for input in &mut seen.inputs {
            if let Some(tensor) = feed.get(&input.name) {
                input.see(place, tensor);
            }
        }
        for (output, tensor) in seen.outputs.iter_mut().zip(session.run(feed)?) {
            output.see(place, &tensor);
        }
    }
    Ok(seen)
}

/// Compares rows of batches of these sizes with single runs of the same rows, all on one thread.
pub(in crate::bake) fn batch_rows(
    engine: &SharedEngine,
    model: &Model,
    samples: &[Feed],
    sizes: &[usize],
) -> Result<BatchFlexibility, EngineError> {
    let mut result =
        BatchFlexibility { flexible: false, not_compared: None, tolerance: LOSSLESS_TOLERANCE, sizes: Vec::new() };
    let Some(axes) = BatchAxes::of(model) else {
        result.not_compared = Some("the model's batch size is fixed".to_owned());
        return Ok(result);
    };
    let most = sizes.iter().copied().max().unwrap_or(0);
    let one_by_one = |feed| (0..axes.rows(feed)).filter_map(|r| axes.slice(feed, r, r + 1)).collect::<Vec<_>>();
    let rows: Vec<Feed> = samples.iter().flat_map(one_by_one).take(most).collect();
    if rows.is_empty() {
        result.not_compared = Some("the samples have no row to make a batch of".to_owned());
        return Ok(result);
    }
    let mut session = engine.load(model, &LoadOptions::default())?;
    let single = run_all(session.as_mut(), &rows)?;
    for &batch in sizes {
        match compared(session.as_mut(), &axes, &rows, &single, batch) {
            Ok(size) => result.sizes.push(size),
            Err(why) => result.not_compared = Some(format!("batch {batch}: {why}")),
        }
    }
    result.flexible = result.not_compared.is_none() && result.sizes.iter().all(|s| s.within_tolerance);
    Ok(result)
}

/// One batch against single runs; why not, where it cannot be made.
fn compared(
    session: &mut dyn Session,
    axes: &BatchAxes,
    rows: &[Feed],
    single: &[Vec<Tensor>],
    batch: usize,
) -> Result<BatchRows, String> {
    // Rows are taken again from the first when there are too few.
    let parts: Vec<&Feed> = rows.iter().cycle().take(batch).collect();
    let feed = axes.concat(&parts).map_err(|e| e.to_string())?;
    let outputs = session.run(&feed).map_err(|e| e.to_string())?;
    let split = axes.split(&outputs, batch).ok_or("an output does not have the rows of the batch")?;
    let pairs = || split.iter().zip(single.iter().cycle()).flat_map(|(row, alone)| alone.iter().zip(row));
    let bit_equal = pairs().all(|(alone, row)| alone == row);
    let max_difference =
        pairs().map(|(alone, row)| difference(alone, row)).try_fold(0.0_f64, |m, d| d.map(|d| m.max(d)));
    let within_tolerance = max_difference.is_some_and(|d| d <= LOSSLESS_TOLERANCE);
    Ok(BatchRows { batch, bit_equal, max_difference, within_tolerance })
}

/// How long a batch size is measured; `first` is the one that the limits read.
pub(in crate::bake) fn wall_plan(first: bool) -> latency::Plan {
    let (iterations, max_seconds) = if first { (RUNS, SECONDS) } else { (OTHER_RUNS, OTHER_SECONDS) };
    latency::Plan { warmup: 5, iterations, max_seconds, cpu_time: false }
}

/// Latency at one batch size by the clock on the wall; `first` is the size that the limits read.
pub(in crate::bake) fn wall(
    session: &mut dyn Session,
    (batch, feed): (usize, &Feed),
    first: bool,
) -> Result<BatchLatency, BakeError> {
    let samples = wall_latency(session, feed, wall_plan(first))?;
    let summary = samples.summary().ok_or_else(|| BakeError::Internal("no latency sample was taken".to_owned()))?;
    Ok(BatchLatency { batch, throughput: batch as f64 / summary.p50, summary, samples })
}

/// The limits of the contract with what was measured.
pub(in crate::bake) fn limits(wall: Option<&BatchLatency>, peak_bytes: Option<u64>) -> Vec<Limit> {
    let mut figures = Figures::new();
    if let Some(wall) = wall {
        latency_figures(wall, &mut figures);
    }
    if let Some(peak) = peak_bytes {
        figures.insert(Metric::PeakMemory, Figure::exact(peak as f64));
    }
    let measured = |metric| {
        let p99 = || Some((wall?.summary.p99?, wall?.summary.p50));
        match metric {
            // There is a figure with fewer samples than an interval needs.
            Metric::LatencyP99 => p99().map(|(p99, _)| p99),
            Metric::Jitter => p99().map(|(p99, p50)| p99 - p50),
            Metric::Throughput => wall.map(|w| w.throughput),
            Metric::PeakMemory => peak_bytes.map(|b| b as f64),
            _ => None,
        }
    };
    contract()
        .map(|gate| {
            let value = measured(gate.metric);
            let interval = figures.get(&gate.metric).and_then(Figure::interval).map(|i| [i.lower, i.upper]);
            let n = match gate.metric {
                _ if value.is_none() => 0,
                Metric::PeakMemory => 1,
                _ => wall.map_or(0, |w| w.summary.n),
            };
            Limit::judged(gate, value, interval, n)
        })
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::phase7::LimitVerdict;
    use crate::profiler::Samples;

    #[test]
    fn a_difference_is_relative_and_absent_where_there_is_none() {
        let t = |values: &[f32]| Tensor::new(&[values.len()], values);
        assert_eq!(difference(&t(&[1.0, -4.0]), &t(&[1.0, -4.0])), Some(0.0));
        assert_eq!(difference(&t(&[1.0, -4.0]), &t(&[2.0, -4.0])), Some(0.25));
        assert_eq!(difference(&t(&[0.5]), &t(&[0.25])), Some(0.25));
        assert_eq!(difference(&t(&[f32::NAN]), &t(&[f32::NAN])), Some(0.0), "the same bytes");
        assert_eq!(difference(&t(&[f32::NAN]), &t(&[1.0])), None);
        assert_eq!(difference(&t(&[1.0]), &t(&[1.0, 1.0])), None);
    }

    #[test]
    fn ranges_remember_where_they_were_attained_and_count_what_is_no_number() {
        let mut extreme = Extreme::new("x");
        assert_eq!(extreme.range(), None);
        for (place, values) in [[1.0, f32::NAN], [3.0, -2.0], [3.0, f32::INFINITY]].iter().enumerate() {
            extreme.see(place, &Tensor::new(&[2], values));
        }
        assert_eq!(extreme.range(), Some(ValueRange { min: -2.0, max: 3.0, non_finite: 2 }));
        assert_eq!(extreme.places, [1, 1]);
    }

    #[test]
    fn ranges_of_parts_are_those_of_the_whole() {
        let samples = [[1.0, f32::NAN], [3.0, -2.0], [3.0, -2.0], [4.0, 0.0]];
        let seen = |samples: &[[f32; 2]]| {
            let mut extreme = Extreme::new("x");
            samples.iter().enumerate().for_each(|(place, s)| extreme.see(place, &Tensor::new(&[2], s)));
            extreme
        };
        for at in 0..=samples.len() {
            let mut all = Extreme::new("x");
            all.join(&seen(&samples[..at]), 0);
            all.join(&seen(&samples[at..]), at);
            assert_eq!(all, seen(&samples), "{at}");
        }
    }

    #[test]
    fn what_was_not_measured_is_no_figure_of_a_limit() {
        use LimitVerdict::{Met, NotMeasured, NotMet, Unproven};
        let verdicts = |limits: Vec<Limit>| limits.iter().map(|l| l.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts(limits(None, None)), [NotMeasured; 4]);
        let wall = |n: usize| {
            let samples = Samples { seconds: vec![0.001; n], runs_per_sample: 1 };
            BatchLatency { batch: 1, throughput: 1000.0, summary: samples.summary().unwrap(), samples }
        };
        assert_eq!(verdicts(limits(Some(&wall(400)), Some(90_000_000))), [Met, Met, Met, Met]);
        assert_eq!(verdicts(limits(Some(&wall(200)), Some(200_000_000))), [Unproven, Unproven, Met, NotMet]);
        assert_eq!(verdicts(limits(Some(&wall(50)), None)), [NotMeasured, NotMeasured, Met, NotMeasured]);
    }
}
