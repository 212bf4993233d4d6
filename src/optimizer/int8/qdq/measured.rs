//! Ranges by what they do to the model: the estimate that chose them sees one tensor and what reads it, not where its errors go. So each range is tried on the model
//! itself, tensor by tensor, and the one that does least harm stays. It costs nothing at run time.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::time::Instant;

use super::super::store::Store;
use super::plan::Ranged;
use super::{PER_CHANNEL_OPSET, StaticInt8};
use crate::model::edit::{node, replace_reads};
use crate::model::{Model, Pass, Tensor};
use crate::optimizer::calibration::Chosen;
use crate::optimizer::driver::Work;
use crate::optimizer::int8::WeightScheme;
use crate::optimizer::repair::{Measure, Repair};
use crate::optimizer::search::first_part;

/// Name of the repair. What it finds is in the numbers of [`StaticInt8`].
pub const MEASURED_RANGES: &str = "measured-ranges";

/// The share of the harm that another range has to take away.
const LEAST_GAIN: f64 = 0.05;

/// A tensor that does less than the mean harm by this factor keeps its range: were all of them without any harm, a quarter of the sum would be gone at most.
const FAR_BELOW_MEAN: f64 = 4.0;

/// Of so many parts of the time that is left the first look may take one.
const PARTS_OF_TIME: u32 = 3;

/// The repair of variants that quantise by `ranged`. Ranges are found once; every choice of sites has them.
pub fn measured_ranges(ranged: Ranged, scheme: WeightScheme) -> Repair {
    let found: OnceCell<Result<Ranged, String>> = OnceCell::new();
    let find = move |base: &Work, passes: &mut Vec<Box<dyn Pass>>, until: Instant, measure: Option<Measure<'_>>| {
        let (at, plan) = StaticInt8::among(passes)?;
        if let (None, Some(measure)) = (found.get(), measure) {
            let mut float = base.behind(passes[..at].iter().map(Box::as_ref)).map_err(|e| e.to_string())?;
            float.model.raise(&float.facts, PER_CHANNEL_OPSET).map_err(|e| e.to_string())?;
            let until = first_part(until, PARTS_OF_TIME);
            let _ = found.set(least_harm(&ranged, &plan, &float.model, until, measure));
        }
        let better = found.get().ok_or("no range was measured yet")?.as_ref().map_err(Clone::clone)?;
        let chosen: HashSet<&str> =
            plan.nodes.iter().map(|node| &node.output).chain(&plan.between).map(String::as_str).collect();
        passes[at] = Box::new(better.plan(&chosen, scheme));
        Ok(())
    };
    Repair { name: MEASURED_RANGES, pass: StaticInt8::NAME, find: Box::new(find) }
}

/// Each tensor of the plan, the most harmful by estimate first, takes the range that does least harm where it alone is rounded: beside the errors of all others, which every
/// change throws anew, that of one would not be seen. Few tensors of a deep model do most of the harm, and the others are tried in no other range: as
/// the most harmful come first, the sum so far says early which those are.
fn least_harm(
    ranged: &Ranged,
    plan: &StaticInt8,
    float: &Model,
    until: Instant,
    measure: Measure<'_>,
) -> Result<Ranged, String> {
    let planned: HashSet<&str> = plan.activations.iter().map(|activation| activation.tensor.as_str()).collect();
    let mut best = ranged.clone();
    let open: Vec<_> = ranged.open().into_iter().filter(|(tensor, _)| planned.contains(tensor)).collect();
    let count = open.len() as f64;
    let mut sum = 0.0;
    for (tensor, ranges) in open {
        if Instant::now() >= until {
            break;
        }
        let mut harm = |range: &Chosen| measure(&rounded(float, tensor, range)?);
        let Some(mut least) = harm(&ranges[0]) else { continue };
        sum += if least.is_finite() { least } else { 0.0 };
        if least * FAR_BELOW_MEAN * count < sum {
            continue;
        }
        let mut kept = 0;
        for (at, range) in ranges.iter().enumerate().skip(1) {
            let Some(harm) = harm(range) else { continue };
            if harm < (1.0 - LEAST_GAIN) * least {
                (least, kept) = (harm, at);
            }
        }
        best.choose(tensor, kept);
    }
    if best == *ranged { Err("no other range does less harm".to_owned()) } else { Ok(best) }
}

/// The model with one tensor rounded to codes for everyone who reads it; `None` where it is not in the graph.
fn rounded(float: &Model, tensor: &str, range: &Chosen) -> Option<Model> {
    let mut model = float.clone();
    let mut taken = model.tensor_names();
    let mut fresh = |what: &str| Model::fresh_name(&mut taken, &format!("{tensor}/{what}"));
    let [scale, zero, codes, values] = ["scale", "zero", "codes", "values"].map(&mut fresh);
    let (step, point) = range.codes();
    let mut store = Store::new(model.proto().ir_version());
    store.add(&scale, &Tensor::scalar(step));
    store.add(&zero, &Tensor::scalar(point));
    let graph = model.graph_mut();
    replace_reads(graph, tensor, &values);
    graph.node.push(node("QuantizeLinear", "", &[tensor, &scale, &zero], &[&codes], vec![]));
    graph.node.push(node("DequantizeLinear", "", &[&codes, &scale, &zero], &[&values], vec![]));
    store.flush(graph);
    model.sort().ok()?;
    Some(model)
}
