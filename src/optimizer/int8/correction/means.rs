//! How far rounding shifts the outputs of products: running means over samples, so memory does not grow with their number.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::super::linear::{Operator, linear};
use super::super::row::Row;
use super::{BiasCorrection, Correction};
use crate::engine::{EngineError, Feed, LoadOptions, SharedEngine};
use crate::model::edit::{Index, reads_of};
use crate::model::{Facts, Model, Pass, PassError, Tensor};
use crate::optimizer::calibration::looked_at;
use crate::optimizer::driver::Work;

/// Groups that products are corrected in, at most.
const MOST_GROUPS: usize = 8;

/// Samples that a mean is taken over at least, whatever time there is.
const FEWEST_FEEDS: usize = 8;

/// A product whose row can be corrected.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Product {
    pub(super) output: String,
    channels: usize,
    /// Whether channels lie on the last axis (of a matrix product) or on the second (of a convolution).
    last: bool,
    /// Products on the longest way from the inputs to it, itself among them.
    depth: usize,
}

/// The mean of every output channel of every product of a float model, and over how many samples.
#[derive(Debug, Clone)]
pub(super) struct Means {
    products: Vec<Product>,
    of: BTreeMap<String, Vec<f64>>,
    feeds: usize,
}

impl Means {
    /// Runs `float` over `feeds`, as many of them as half the time until `until` allows and calibration uses.
    ///
    /// # Errors
    /// What the engine says of the model with its products as outputs.
    pub(super) fn of(engine: &SharedEngine, float: &Work, feeds: &[Feed], until: Instant) -> Result<Self, EngineError> {
        let products = products(&float.model, &float.facts);
        let most = looked_at(feeds).len();
        // Each group runs about half the graph, once.
        let groups = groups(&products).len() as u32;
        let share = until.saturating_duration_since(Instant::now()) / 2 / (1 + groups.div_ceil(2));
        let wanted: Vec<&Product> = products.iter().collect();
        let (of, feeds) = means(engine, &float.model, &wanted, &feeds[..most], Some(share))?;
        Ok(Self { products, of, feeds })
    }

    /// The corrections that give the products of `float` their means back once `quantise` was applied to it. Groups that there is no time for before `until` stay as they
    /// are. `None` where no product is shifted.
    ///
    /// # Errors
    /// What the engine says of the quantised model, or why it could not be made.
    pub(super) fn correction(
        &self,
        engine: &SharedEngine,
        float: &Work,
        quantise: &[Box<dyn Pass>],
        feeds: &[Feed],
        until: Instant,
    ) -> Result<Option<BiasCorrection>, String> {
        let mut correction = BiasCorrection::default();
        for group in groups(&self.products) {
            if Instant::now() >= until {
                break;
            }
            let model = quantised(float, &correction, quantise).map_err(|e| e.to_string())?;
            let feeds = &feeds[..self.feeds.min(feeds.len())];
            let (seen, _) = means(engine, &model, &group, feeds, None).map_err(|e| e.to_string())?;
            let shifts = group.iter().filter_map(|product| {
                let (exact, seen) = (self.of.get(&product.output)?, seen.get(&product.output)?);
                let values: Vec<f32> = exact.iter().zip(seen).map(|(exact, seen)| (exact - seen) as f32).collect();
                let shifted = values.iter().all(|v| v.is_finite()) && values.iter().any(|v| *v != 0.0);
                shifted.then(|| Correction { output: product.output.clone(), values })
            });
            correction.corrections.extend(shifts);
        }
        Ok((!correction.corrections.is_empty()).then_some(correction))
    }
}

/// The model that `quantise` makes of a corrected one.
fn quantised(float: &Work, correction: &BiasCorrection, quantise: &[Box<dyn Pass>]) -> Result<Model, PassError> {
    let (mut model, mut facts) = (float.model.clone(), float.facts.clone());
    correction.apply(&mut model, &mut facts)?;
    for pass in quantise {
        pass.apply(&mut model, &mut facts)?;
        model.sort()?;
    }
    Ok(model)
}

/// Everything with a row, in graph order.
pub(super) fn products(model: &Model, facts: &Facts) -> Vec<Product> {
    let index = Index::new(model.graph());
    let mut depths: HashMap<String, usize> = HashMap::new();
    let mut products = Vec::new();
    for (at, node) in model.graph().node.iter().enumerate() {
        let before = reads_of(node).iter().filter_map(|read| depths.get(read)).max().copied().unwrap_or(0);
        let found = linear(model, &index, facts, node).ok();
        let depth = before + usize::from(found.is_some());
        depths.extend(node.output.iter().map(|output| (output.clone(), depth)));
        if let Some(found) = found.filter(|found| Row::of(model, &index, at, found).is_some()) {
            let last = found.operator != Operator::Conv;
            products.push(Product { output: node.output[0].clone(), channels: found.channels(), last, depth });
        }
    }
    products
}

/// Products of neighbouring depths together, from the inputs on.
fn groups(products: &[Product]) -> Vec<Vec<&Product>> {
    let mut depths: Vec<usize> = products.iter().map(|p| p.depth).collect();
    depths.sort_unstable();
    depths.dedup();
    let of_each = depths.len().div_ceil(MOST_GROUPS).max(1);
    let group = |depths: &[usize]| products.iter().filter(|p| depths.contains(&p.depth)).collect();
    depths.chunks(of_each).map(group).collect()
}

/// The mean of every channel of the products' outputs over samples, and over how many. Of a model that lost one of them, that one is missing.
fn means(
    engine: &SharedEngine,
    model: &Model,
    products: &[&Product],
    feeds: &[Feed],
    share: Option<Duration>,
) -> Result<(BTreeMap<String, Vec<f64>>, usize), EngineError> {
    let index = Index::new(model.graph());
    let products: Vec<&Product> = products.iter().copied().filter(|p| index.producer(&p.output).is_some()).collect();
    let taps: Vec<String> = products.iter().map(|p| p.output.clone()).collect();
    if taps.is_empty() {
        return Ok((BTreeMap::new(), 0));
    }
    let threads = rayon::current_num_threads();
    let options = LoadOptions { threads, taps: taps.clone(), ..LoadOptions::default() };
    let mut session = engine.load(&as_far_as(model, &taps), &options)?;
    let mut sums: Vec<Sum> = products.iter().map(|p| Sum { values: vec![0.0; p.channels], count: 0 }).collect();
    let (began, mut done) = (Instant::now(), 0);
    for feed in feeds {
        if share.is_some_and(|share| done >= FEWEST_FEEDS && began.elapsed() >= share) {
            break;
        }
        let seen = session.run(feed)?;
        // Each product is summed in the order of the samples, so that threads change nothing.
        sums.par_iter_mut().zip(&products).zip(&seen).for_each(|((sum, product), tensor)| sum.add(tensor, product));
        done += 1;
    }
    let means = taps.into_iter().zip(sums).filter(|(_, sum)| sum.count > 0);
    Ok((means.map(|(tap, sum)| (tap, sum.mean())).collect(), done))
}

/// The part of a graph that computes `tensors`, without outputs of its own.
fn as_far_as(model: &Model, tensors: &[String]) -> Model {
    let mut part = model.clone();
    let graph = part.graph_mut();
    graph.output.clear();
    let mut wanted: HashSet<String> = tensors.iter().cloned().collect();
    let mut kept: Vec<_> = std::mem::take(&mut graph.node).into_iter().rev().collect();
    kept.retain(|node| {
        let reached = node.output.iter().any(|output| wanted.contains(output));
        if reached {
            wanted.extend(reads_of(node));
        }
        reached
    });
    kept.reverse();
    graph.node = kept;
    graph.initializer.retain(|tensor| wanted.contains(tensor.name()));
    part
}

/// A running sum of every channel.
struct Sum {
    values: Vec<f64>,
    count: usize,
}

impl Sum {
    fn add(&mut self, tensor: &Tensor, product: &Product) {
        let shape = tensor.shape();
        let axis = if product.last { shape.len().checked_sub(1) } else { Some(1) };
        let Some(axis) = axis.filter(|&axis| shape.get(axis) == Some(&product.channels)) else { return };
        let inner = shape[axis + 1..].iter().product::<usize>();
        if inner == 0 {
            return;
        }
        let values = tensor.to_f32();
        for (at, run) in values.chunks_exact(inner).enumerate() {
            self.values[at % product.channels] += run.iter().map(|&v| f64::from(v)).sum::<f64>();
        }
        self.count += values.len() / product.channels.max(1);
    }

    fn mean(self) -> Vec<f64> {
        self.values.into_iter().map(|sum| sum / self.count as f64).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::DType;
    use crate::model::build::Builder;

    pub(in super::super) fn ones(shape: &[usize]) -> Tensor {
        Tensor::new(shape, &vec![1.0_f32; shape.iter().product()])
    }

    pub(in super::super) fn chain(n: usize) -> Model {
        let mut builder = Builder::new(17).input("x", DType::F32, &["N", "4"]).initializer("w", ones(&[4, 4]));
        for at in 0..n {
            let input = if at == 0 { "x".to_owned() } else { format!("h{}", at - 1) };
            builder = builder.node("Gemm", &[&input, "w"], &format!("h{at}"), vec![]);
        }
        builder.output(&format!("h{}", n - 1), DType::F32, &["N", "4"]).build()
    }

    #[test]
    fn products_are_corrected_from_the_inputs_on_in_at_most_eight_groups() {
        for (n, expected) in [(1, 1), (3, 3), (8, 8), (9, 5), (50, 8)] {
            let products = products(&chain(n), &Facts::default());
            let groups = groups(&products);
            assert_eq!(groups.len(), expected, "{n}");
            let order: Vec<&str> = groups.iter().flatten().map(|p| p.output.as_str()).collect();
            assert_eq!(order, (0..n).map(|at| format!("h{at}")).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_group_is_measured_on_no_more_of_the_graph_than_leads_to_it() {
        let part = as_far_as(&chain(6), &["h2".to_owned()]);
        let outputs: Vec<&str> = part.graph().node.iter().map(|n| n.output[0].as_str()).collect();
        assert_eq!(outputs, ["h0", "h1", "h2"]);
        assert!(part.graph().output.is_empty() && part.graph().initializer.len() == 1);
    }

    #[test]
    fn a_mean_is_that_of_each_channel_wherever_channels_lie() {
        let tensor = Tensor::new(&[1, 2, 2], &[1.0_f32, 3.0, 5.0, 9.0]);
        for (last, expected) in [(false, [2.0, 7.0]), (true, [3.0, 6.0])] {
            let product = Product { output: "y".into(), channels: 2, last, depth: 1 };
            let mut sum = Sum { values: vec![0.0; 2], count: 0 };
            sum.add(&tensor, &product);
            sum.add(&tensor, &product);
            assert_eq!(sum.mean(), expected, "{last}");
        }
    }
}
