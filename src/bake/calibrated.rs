//! Calibration: what the activations of the model are on the calibration data, once for all candidates, and what is to be said of that data.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Options;
use super::intake::Loaded;
use super::passes::allows;
use super::reuse::spreads::{Shelf, Spreads};
use crate::api::ResolvedJob;
use crate::api::bakejob::{Cache, Goal, Level};
use crate::engine::EngineError;
use crate::optimizer::Work;
use crate::optimizer::calibration::{self, Method, Policy, Shift, Spread, calibrate, looked_at, of_inputs, shift};
use crate::optimizer::int8::qdq::plan::Ranged;
use crate::optimizer::int8::qdq::region::Part;
use crate::optimizer::int8::{Exclude, Region, StaticInt8};

/// Samples of the search split that calibration data is compared with.
const COMPARED: usize = 32;

/// Shifts that are listed, the furthest off first.
const LISTED: usize = 24;

/// A share of tensors that may be off by chance, and their number.
const BY_CHANCE: f64 = 0.05;
const FEW: usize = 2;

/// Names in a sentence.
const NAMED: usize = 3;

/// The region of a model that can compute on codes, with ranges by each policy.
pub(super) struct Calibrated {
    pub(super) ranged: Vec<(Policy, Ranged)>,
    pub(super) figures: CalibrationFigures,
}

/// What calibration saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CalibrationFigures {
    /// Where the samples come from: `spec.data.calibration`, or `the search's third of spec.data.validation`.
    pub source: String,
    /// Samples that were run.
    pub samples: usize,
    /// Tensors that were looked at.
    pub tensors: usize,
    /// Seconds of the pass over the samples and of the choice of ranges, by every policy; where the spreads were kept of an earlier bake, of reading them instead of
    /// the pass.
    pub seconds: f64,
    /// Bytes that the spreads hold in memory, however many samples there are.
    pub held_bytes: usize,
    /// SHA-256 of what decides the spreads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Whether they were read from the cache instead of running the samples.
    pub from_cache: bool,
    /// Tensors by the method that was chosen for their range.
    pub methods: BTreeMap<String, usize>,
    /// Tensors without a range, and what stays in float for that.
    pub left_out: Vec<Unranged>,
    /// Samples of the search split that the calibration data was compared with; 0 where it comes from there.
    pub compared_with: usize,
    /// Tensors that were compared, inputs of the model included.
    pub compared: usize,
    /// How many of them are off by more than chance gives.
    pub off: usize,
    /// Those furthest off.
    pub shifts: Vec<Shift>,
}

/// A tensor that no range can be made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unranged {
    /// Its name.
    pub tensor: String,
    /// Why, in words.
    pub reason: String,
    /// First outputs of the nodes that stay in float for it.
    pub sites: Vec<String>,
}

/// Calibrates where the job's level may use it. Beside the result, sentences for the report.
pub(super) fn calibrated(
    job: &ResolvedJob,
    options: &Options,
    loaded: &Loaded,
    work: &Work,
    exclude: &Exclude,
) -> (Option<Calibrated>, Vec<String>) {
    if job.level < Level::Medium || job.goal == Goal::Size || !allows(job, StaticInt8::NAME) || job.recipe.is_some() {
        return (None, Vec::new());
    }
    let region = Region::of(&work.model, &work.facts, exclude);
    if region.watches().is_empty() {
        return (None, Vec::new());
    }
    let mut remarks = Vec::new();
    let seen = match Seen::of(job, options, loaded, work, &region, &mut remarks) {
        Ok(seen) => seen,
        Err(error) => {
            remarks.push(format!("Nothing was calibrated, so static quantisation was not tried: {error}"));
            return (None, remarks);
        }
    };
    let began = Instant::now();
    let ranged: Vec<(Policy, Ranged)> = Policy::ALL.map(|policy| (policy, region.ranged(&seen.spreads, policy))).into();
    let of_ranges = began.elapsed().as_secs_f64();
    let feeds = looked_at(&loaded.calibration.feeds);
    let mut figures = CalibrationFigures {
        source: if job.calibration.is_some() {
            "spec.data.calibration"
        } else {
            "the search's third of spec.data.validation"
        }
        .to_owned(),
        samples: feeds.len(),
        tensors: region.watches().len(),
        seconds: seen.seconds + of_ranges,
        held_bytes: seen.spreads.values().map(Spread::held_bytes).sum(),
        key: seen.key,
        from_cache: seen.from_cache,
        methods: methods(&region, &ranged[0].1),
        left_out: left_out(&region, &seen.spreads, &ranged[0].1),
        compared_with: 0,
        compared: 0,
        off: 0,
        shifts: Vec::new(),
    };
    remarks.extend(without_range(&figures.left_out));
    if job.calibration.is_some()
        && let Err(error) = compare(loaded, work, &region, &seen.spreads, &mut figures)
    {
        remarks.push(format!("Calibration data and validation data were not compared: {error}"));
    }
    remarks.extend(of_another_distribution(&figures));
    (Some(Calibrated { ranged, figures }), remarks)
}

/// Spreads, and how they came about.
struct Seen {
    spreads: Spreads,
    seconds: f64,
    key: Option<String>,
    from_cache: bool,
}

impl Seen {
    /// From the cache where it has them and the job lets it, else from a pass over the samples, which are kept then.
    fn of(
        job: &ResolvedJob,
        options: &Options,
        loaded: &Loaded,
        work: &Work,
        region: &Region,
        remarks: &mut Vec<String>,
    ) -> Result<Self, EngineError> {
        let (engine, feeds) = (&loaded.engine.engine, &loaded.calibration.feeds);
        let shelf = options.spreads.as_deref().filter(|_| job.cache != Cache::Off).map(Shelf::new);
        let key = shelf.map(|_| calibration::key(engine.id(), &work.model, region.watches(), feeds));
        let kept = shelf.zip(key.as_deref());
        let started = Instant::now();
        if let Some((shelf, key)) = kept.filter(|_| job.cache == Cache::Use) {
            match shelf.take(key) {
                Ok(Some(spreads)) => {
                    let seconds = started.elapsed().as_secs_f64();
                    return Ok(Self { spreads, seconds, key: Some(key.to_owned()), from_cache: true });
                }
                Ok(None) => {}
                Err(why) => {
                    tracing::warn!("{why}");
                    remarks.push(format!("What an earlier calibration saw: {why}"));
                }
            }
        }
        let started = Instant::now();
        let spreads = calibrate(engine, &work.model, region.watches(), feeds)?;
        let seconds = started.elapsed().as_secs_f64();
        if let Some((shelf, key)) = kept
            && let Err(error) = shelf.keep(key, &spreads)
        {
            tracing::warn!(%error, "what calibration saw cannot be kept; the next bake runs the samples again");
        }
        Ok(Self { spreads, seconds, key, from_cache: false })
    }
}

fn methods(region: &Region, ranged: &Ranged) -> BTreeMap<String, usize> {
    let mut counts: BTreeMap<String, usize> = Method::ALL.map(|method| (format!("{method:?}"), 0)).into();
    for range in region.watches().iter().filter_map(|watch| ranged.range(&watch.tensor)) {
        *counts.entry(format!("{:?}", range.method)).or_default() += 1;
    }
    counts
}

/// The tensors without a range that something stays in float for.
fn left_out(region: &Region, spreads: &Spreads, ranged: &Ranged) -> Vec<Unranged> {
    let kept: HashSet<&str> = ranged.choices().map(|s| s.output.as_str()).collect();
    // Movers are no choice: they follow.
    let lost = || region.sites.iter().filter(|s| s.part != Part::Mover && !kept.contains(s.output.as_str()));
    let unranged = region.watches().iter().filter(|watch| ranged.range(&watch.tensor).is_none()).map(|watch| {
        let tensor = &watch.tensor;
        let reason = match spreads.get(tensor) {
            Some(spread) => spread.defect().map_or_else(|| "it has no width".to_owned(), |defect| defect.to_string()),
            None => "it gave no float32 numbers".to_owned(),
        };
        let sites = lost().filter(|s| s.inputs.contains(tensor) || s.end == *tensor).map(|s| s.output.clone());
        Unranged { tensor: tensor.clone(), reason, sites: sites.collect() }
    });
    unranged.filter(|unranged| !unranged.sites.is_empty()).collect()
}

fn without_range(left_out: &[Unranged]) -> Option<String> {
    let named = left_out.iter().take(NAMED).map(|u| format!("'{}': {}", u.tensor, u.reason));
    let named = named.collect::<Vec<_>>().join("; ");
    let sites: HashSet<&String> = left_out.iter().flat_map(|u| &u.sites).collect();
    (!left_out.is_empty()).then(|| {
        format!(
            "{} in float because the calibration data gives no range for what {} ({named}{}).",
            counted(sites.len(), "node stays", "nodes stay"),
            if sites.len() == 1 { "it reads or gives" } else { "they read or give" },
            more(left_out.len())
        )
    })
}

/// Compares what was calibrated with the search split: the inputs as they are, tensors inside by a few runs.
fn compare(
    loaded: &Loaded,
    work: &Work,
    region: &Region,
    spreads: &Spreads,
    figures: &mut CalibrationFigures,
) -> Result<(), EngineError> {
    let search = loaded.search(COMPARED).feeds;
    let (samples, others) = (figures.samples, search.len());
    let inside = calibrate(&loaded.engine.engine, &work.model, region.watches(), &search)?;
    let (of_calibration, of_search) = (of_inputs(&loaded.calibration.feeds), of_inputs(&search));
    let inputs: HashSet<&str> = work.model.input_names().into_iter().collect();
    let mut compared = 0;
    let mut shifts = Vec::new();
    let mut pair = |name: &String, input: bool, a: &Spread, b: Option<&Spread>| {
        if let Some(b) = b {
            compared += 1;
            shifts.extend(shift(name, input, (a, samples), (b, others)));
        }
    };
    of_calibration.iter().for_each(|(name, spread)| pair(name, true, spread, of_search.get(name)));
    let tensors = spreads.iter().filter(|(name, _)| !inputs.contains(name.as_str()));
    tensors.for_each(|(name, spread)| pair(name, false, spread, inside.get(name)));
    // Inputs first: they are what a person can do something about.
    shifts.sort_by(|a, b| b.input.cmp(&a.input).then(b.extent().total_cmp(&a.extent())));
    (figures.compared_with, figures.compared, figures.off) = (others, compared, shifts.len());
    shifts.truncate(LISTED);
    figures.shifts = shifts;
    Ok(())
}

/// A warning where inputs are off, or more tensors than chance would have.
fn of_another_distribution(figures: &CalibrationFigures) -> Option<String> {
    let of_inputs = figures.shifts.iter().any(|s| s.input);
    let many = figures.off > FEW && figures.off as f64 > BY_CHANCE * figures.compared as f64;
    let named = figures.shifts.iter().take(NAMED).map(told).collect::<Vec<_>>().join("; ");
    (of_inputs || many).then(|| {
        format!(
            "The calibration data is of another distribution than the validation data: {named}{}. {} of {} tensors are off, on {} calibration samples and {} of the \
             search split. Ranges clip or waste codes by that; candidates are judged on validation data all the same. Calibrate on samples like those that \
             the model will see.",
            more(figures.off),
            figures.off,
            figures.compared,
            figures.samples,
            figures.compared_with
        )
    })
}

fn told(shift: &Shift) -> String {
    let Shift { tensor, input, calibrated: [low, high], seen: [least, most], beyond, mean, width } = shift;
    format!(
        "{}'{tensor}' was calibrated on {low} to {high} and takes {least} to {most} ({:.1} % beyond, means {mean:.1} standard \
         deviations apart, {width:.2} times as wide)",
        if *input { "input " } else { "" },
        beyond * 100.0
    )
}

fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

fn more(all: usize) -> String {
    match all.saturating_sub(NAMED) {
        0 => String::new(),
        n => format!("; and {n} more"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::bake) fn figures() -> CalibrationFigures {
        CalibrationFigures {
            source: "spec.data.calibration".into(),
            samples: 64,
            tensors: 12,
            seconds: 0.25,
            held_bytes: 400_000,
            key: None,
            from_cache: false,
            methods: BTreeMap::from([("MinMax".into(), 3), ("Mse".into(), 9)]),
            left_out: Vec::new(),
            compared_with: 32,
            compared: 13,
            off: 0,
            shifts: Vec::new(),
        }
    }

    fn off(tensor: &str, input: bool) -> Shift {
        Shift {
            tensor: tensor.into(),
            input,
            calibrated: [0.0, 1.0],
            seen: [0.0, 255.0],
            beyond: 0.985,
            mean: 441.2,
            width: 254.0,
        }
    }

    #[test]
    fn an_input_that_is_off_is_named_with_its_numbers_and_so_are_many_tensors_but_not_a_few() {
        let of = |shifts: Vec<Shift>| CalibrationFigures { off: shifts.len(), shifts, ..figures() };
        assert_eq!(of_another_distribution(&figures()), None);
        let said = of_another_distribution(&of(vec![off("image", true)])).unwrap();
        for words in [
            "input 'image' was calibrated on 0 to 1 and takes 0 to 255",
            "98.5 % beyond",
            "1 of 13 tensors",
            "64",
            "32",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert_eq!(of_another_distribution(&of(vec![off("a", false), off("b", false)])), None);
        let said = of_another_distribution(&of(["a", "b", "c", "d", "e"].map(|n| off(n, false)).into())).unwrap();
        assert!(said.contains("'c'") && !said.contains("'d'") && said.contains("; and 2 more"), "{said}");
    }

    #[test]
    fn what_has_no_range_is_named_with_its_reason() {
        let unranged = |tensor: &str, reason: &str, sites: &[&str]| Unranged {
            tensor: tensor.into(),
            reason: reason.into(),
            sites: sites.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(without_range(&[]), None);
        let zero = unranged("h", "it was zero throughout", &["c1", "c2"]);
        assert_eq!(
            without_range(std::slice::from_ref(&zero)).unwrap(),
            "2 nodes stay in float because the calibration data gives no range for what they read or give ('h': it was zero throughout)."
        );
        let others = unranged("g", "3 of its 9 values were infinite or no number", &["c1"]);
        assert!(without_range(&[zero, others]).unwrap().starts_with("2 nodes stay in float"));
    }
}
