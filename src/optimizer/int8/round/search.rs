//! Which weights of a choice of passes gain by other codes than the nearest, measured on real activations.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use rayon::prelude::*;

use super::super::linear::{Linear, Operator, linear, root};
use super::super::{DynamicInt8, Encoding, Int4Blocks, Range, StaticInt8, WeightInt8};
use super::RoundWeights;
use super::grid::Grid;
use super::rows::{Rounding, Source, groups};
use super::solve::{Columns, DAMPINGS, Moments};
use super::table::Table;
use super::trial::{Outcome, Trial};
use crate::engine::{EngineError, Feed, LoadOptions, SharedEngine};
use crate::model::edit::{Index, is_op};
use crate::model::{Facts, Model, Pass, Tensor, mapped};

/// Rows that a weight's moments and errors come from, over all feeds, and the most that one feed gives.
const ROWS: usize = 4096;
const ROWS_OF_A_FEED: usize = 128;

/// So many rows per column do, where it takes more feeds to have all of them.
const ROWS_PER_COLUMN: usize = 2;

/// One feed in so many (or one row, where there are fewer feeds) is kept for judging.
const HELD_OUT: usize = 4;

/// Deeper products (than a 3 x 3 kernel over 256 channels) are left alone: their moments take the square of it in memory, and its cube in time.
const MOST_DEPTH: usize = 2304;

/// Products of more than this are searched one after the other.
const DEEP: usize = 1024;

/// Bytes of rows that are held at a time; the model runs once for as many weights as fit.
const MOST_BYTES: usize = 32 << 20;

/// A product as the model has it.
struct Product {
    output: String,
    root: String,
    /// Axis of the root that counts output channels.
    axis: usize,
    groups: usize,
    depth: usize,
    /// Its rows, not rounded.
    source: Source,
}

/// A weight on the grid that it will be quantised on, and what it multiplies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted {
    pub(super) root: String,
    pub(super) axis: usize,
    pub(super) grid: Grid,
    pub(super) groups: usize,
    pub(super) depth: usize,
    sources: Vec<Source>,
}

impl Wanted {
    fn width(&self) -> usize {
        self.depth * self.groups
    }
}

/// Rounds the weights of one model. What was found for a weight is kept, so that many choices of passes cost little more than one.
pub struct Rounder {
    engine: SharedEngine,
    model: Model,
    products: Vec<Product>,
    /// Roots that something else reads too, which would see their moves.
    shared: BTreeSet<String>,
    feeds: Vec<Feed>,
    known: RefCell<BTreeMap<Wanted, Outcome>>,
}

impl Rounder {
    /// A rounder of `model`, which is not run before it is asked.
    pub fn new(engine: &SharedEngine, model: &Model, facts: &Facts, feeds: &[Feed]) -> Self {
        let index = Index::new(model.graph());
        let products: Vec<Product> = products(model, &index, facts);
        let outputs: BTreeSet<&str> = products.iter().map(|p| p.output.as_str()).collect();
        let roots: BTreeSet<&String> = products.iter().map(|p| &p.root).collect();
        let shared = roots.into_iter().filter(|root| !is_read_by_alone(model, &index, root, &outputs, 0));
        let shared = shared.cloned().collect();
        let (engine, model, feeds) = (engine.clone(), model.clone(), feeds.to_vec());
        Self { engine, model, products, shared, feeds, known: RefCell::default() }
    }

    /// The codes for what these passes quantise: those weights whose products gain.
    ///
    /// # Errors
    /// What the engine says of the model with the activations as outputs.
    pub fn round(&self, passes: &[Box<dyn Pass>]) -> Result<RoundWeights, EngineError> {
        let mut made = RoundWeights::default();
        let mut wanted = Vec::new();
        for found in self.wanted(passes) {
            match found {
                Ok(found) => wanted.push(found),
                Err(why) => made.left.push(why),
            }
        }
        self.find(&wanted)?;
        let known = self.known.borrow();
        for found in &wanted {
            match known.get(found) {
                Some(Ok(weight)) => made.weights.push(weight.clone()),
                Some(Err(why)) => made.left.push(format!("'{}': {why}", found.root)),
                None => {}
            }
        }
        Ok(made)
    }

    /// Every weight that the passes quantise, or a sentence on why its codes are not searched.
    fn wanted(&self, passes: &[Box<dyn Pass>]) -> Vec<Result<Wanted, String>> {
        let mut chosen: BTreeMap<&str, Vec<(&Product, Grid, Rounding)>> = BTreeMap::new();
        for pass in passes {
            for (product, grid, rounding) in self.quantised(pass.as_ref()) {
                chosen.entry(&product.root).or_default().push((product, grid, rounding));
            }
        }
        let whole = |root: &str| self.products.iter().filter(|p| p.root == root).count();
        let weight = |(root, all): (&str, Vec<(&Product, Grid, Rounding)>)| {
            let (first, grid, _) = all[0];
            let alike = all.iter().all(|(p, g, _)| (p.axis, p.groups, *g) == (first.axis, first.groups, grid));
            let read: BTreeSet<&str> = all.iter().map(|(product, ..)| product.output.as_str()).collect();
            if self.shared.contains(root) || !alike || read.len() < whole(root) {
                return Err(format!("'{root}' is read in other ways too"));
            }
            if first.depth > MOST_DEPTH {
                return Err(format!("'{root}' sums {} products, more than {MOST_DEPTH}", first.depth));
            }
            let sources: BTreeSet<Source> = all.iter().map(|(p, _, rounding)| p.source.rounded(*rounding)).collect();
            let (axis, groups, depth) = (first.axis, first.groups, first.depth);
            Ok(Wanted { root: root.to_owned(), axis, grid, groups, depth, sources: sources.into_iter().collect() })
        };
        chosen.into_iter().map(weight).collect()
    }

    /// The products that one pass quantises by largest magnitudes, and how.
    fn quantised(&self, pass: &dyn Pass) -> Vec<(&Product, Grid, Rounding)> {
        let by_output: HashMap<&str, &Product> = self.products.iter().map(|p| (p.output.as_str(), p)).collect();
        let parameters = pass.parameters();
        let read = |name: &str| (pass.name() == name).then(|| parameters.clone());
        let mut found = Vec::new();
        if let Some(plan) = read(StaticInt8::NAME).and_then(|v| serde_json::from_value::<StaticInt8>(v).ok()) {
            for node in plan.nodes.iter().filter(|n| n.range == Range::MaxAbs) {
                let Some(product) = by_output.get(node.output.as_str()) else { continue };
                let activation = plan.activations.iter().find(|a| a.tensor == product.source.activation);
                let rounding = activation.map_or(Rounding::None, |a| Rounding::Fixed {
                    scale: (a.scale as f32).to_bits(),
                    zero_point: a.zero_point,
                });
                found.push((*product, Grid::Channels { limit: node.weights.limit() }, rounding));
            }
        }
        if let Some(plan) = read(DynamicInt8::NAME).and_then(|v| serde_json::from_value::<DynamicInt8>(v).ok()) {
            for node in plan.nodes.iter().filter(|n| n.range == Range::MaxAbs && !plan.one_scale) {
                let Some(product) = by_output.get(node.output.as_str()) else { continue };
                // A balanced weight is quantised in another form than it is stored in.
                if plan.balances.iter().all(|b| b.activation != product.source.activation) {
                    found.push((*product, Grid::Channels { limit: node.weights.limit() }, Rounding::PerRun));
                }
            }
        }
        if let Some(plan) = read(WeightInt8::NAME).and_then(|v| serde_json::from_value::<WeightInt8>(v).ok()) {
            let eight = |p: &&super::super::TensorPlan| p.range == Range::MaxAbs && p.encoding != Encoding::Half;
            for tensor in plan.tensors.iter().filter(eight) {
                let reads = |p: &&Product| p.root == tensor.tensor && tensor.axes == [p.axis];
                let grid = Grid::Channels { limit: 127 };
                found.extend(self.products.iter().filter(reads).map(|p| (p, grid, Rounding::None)));
            }
        }
        if let Some(plan) = read(Int4Blocks::NAME).and_then(|v| serde_json::from_value::<Int4Blocks>(v).ok()) {
            for node in &plan.nodes {
                let product = by_output.get(node.output.as_str());
                found.extend(product.map(|p| (*p, Grid::Blocks { size: node.size }, Rounding::None)));
            }
        }
        found
    }

    /// Finds what is not known yet, as many weights at a time as there is room for their rows.
    fn find(&self, wanted: &[Wanted]) -> Result<(), EngineError> {
        let mut open: Vec<&Wanted> = wanted.iter().filter(|w| !self.known.borrow().contains_key(w)).collect();
        // Weights of the same rows come together, so that their moments are summed once.
        let rows = |w: &&Wanted| (w.groups, w.depth);
        open.sort_by(|a, b| a.sources.cmp(&b.sources).then(rows(a).cmp(&rows(b))));
        let mut rest: &[&Wanted] = &open;
        while !rest.is_empty() {
            let mut sources: BTreeMap<&Source, Extent> = BTreeMap::new();
            let (mut taken, mut held) = (0, 0);
            for wanted in rest {
                let extent = Extent { width: wanted.width(), depth: wanted.depth };
                let new = wanted.sources.iter().filter(|s| !sources.contains_key(s));
                let more: usize = new.map(|source| source.bytes() * extent.width * most_rows(source, extent)).sum();
                if taken > 0 && held + more > MOST_BYTES {
                    break;
                }
                held += more;
                for source in &wanted.sources {
                    // A product in groups may multiply what one without does.
                    let known = sources.entry(source).or_insert(extent);
                    known.depth = known.depth.max(extent.depth);
                }
                taken += 1;
            }
            let (model, seen) = (&self.model, self.rows(&sources)?);
            // The session that gave them is gone, and moments need its room.
            mapped::release();
            let alike: Vec<&[&Wanted]> =
                rest[..taken].chunk_by(|a, b| a.sources == b.sources && rows(a) == rows(b)).collect();
            // The moments of deep products take so much memory that one core alone has them; their codes are searched on all cores.
            let (deep, shallow): (Vec<&[&Wanted]>, Vec<_>) = alike.into_iter().partition(|a| a[0].depth > DEEP);
            let of = |alike: &[&Wanted]| outcomes(model, alike, &seen);
            let mut outcomes: Vec<(Wanted, Outcome)> = shallow.into_par_iter().flat_map_iter(of).collect();
            outcomes.extend(deep.into_iter().flat_map(of));
            self.known.borrow_mut().extend(outcomes);
            rest = &rest[taken..];
        }
        Ok(())
    }

    /// Rows of every source, from one run of each feed, until there are enough.
    fn rows<'s>(&self, sources: &BTreeMap<&'s Source, Extent>) -> Result<BTreeMap<&'s Source, Rows>, EngineError> {
        let names: BTreeSet<&String> = sources.keys().map(|s| &s.activation).collect();
        let taps: Vec<String> = names.into_iter().cloned().collect();
        let options =
            LoadOptions { threads: rayon::current_num_threads(), taps: taps.clone(), ..LoadOptions::default() };
        let mut session = self.engine.load(&self.model, &options)?;
        let outputs = self.model.graph().output.len();
        let mut seen: BTreeMap<&Source, Rows> = sources.iter().map(|(&s, e)| (s, Rows::of(e.width))).collect();
        let enough = |source: &Source, rows: &Rows, feeds: usize| {
            let columns = ROWS_PER_COLUMN * sources[source].depth;
            rows.broken
                || (feeds * ROWS_OF_A_FEED >= ROWS && rows.len() >= columns.min(most_rows(source, sources[source])))
        };
        for (at, feed) in self.feeds.iter().enumerate() {
            let tensors: HashMap<&str, Tensor> =
                taps.iter().map(String::as_str).zip(session.lend(feed)?.drain(outputs..)).collect();
            // Each source has rows of its own, so threads change nothing.
            seen.par_iter_mut().for_each(|(source, rows)| {
                // What is enough alone is enough beside others, so that what a weight becomes does not hang on which are looked at with it.
                if enough(source, rows, at) {
                    return;
                }
                let limit = most_rows(source, sources[source]);
                // From every feed its share, or the first few would fill it and leave none to judge by.
                let most = (limit - limit.min(rows.len())).min(limit.div_ceil(ROWS / ROWS_OF_A_FEED));
                let into = if at % HELD_OUT == HELD_OUT - 1 { &mut rows.held_out } else { &mut rows.fitted };
                let tensor = tensors.get(source.activation.as_str());
                rows.broken |= tensor.and_then(|t| source.add(t, sources[source].width, most, into)).is_none();
            });
            feed.put_down();
            if seen.iter().all(|(source, rows)| enough(source, rows, at + 1)) {
                break;
            }
        }
        if self.feeds.len() < HELD_OUT {
            seen.values_mut().for_each(Rows::split);
        }
        Ok(seen)
    }
}

/// What comes of weights that multiply the same rows.
fn outcomes(model: &Model, alike: &[&Wanted], seen: &BTreeMap<&Source, Rows>) -> Vec<(Wanted, Outcome)> {
    let first = alike[0];
    let mut rows = Cow::Borrowed(&seen[&first.sources[0]]);
    for source in &first.sources[1..] {
        rows.to_mut().add(&seen[source]);
    }
    let refuse = |why: &str| alike.iter().map(|w| ((*w).clone(), Err(why.to_owned()))).collect();
    if rows.broken || rows.fitted.len() == 0 || rows.held_out.len() == 0 {
        return refuse("its activation was not seen as it is multiplied");
    }
    let index = Index::new(model.graph());
    let mut trials: Vec<Result<Trial<'_>, String>> =
        alike.iter().map(|w| Trial::new(w, model.constant(&index, &w.root))).collect();
    for group in 0..first.groups {
        let columns = |rows| Columns { rows, first: group * first.depth, depth: first.depth };
        let (fitted, held_out) = (columns(&rows.fitted), columns(&rows.held_out));
        let moments = Moments::of(fitted);
        for trial in trials.iter_mut().flatten() {
            trial.begin(held_out, group);
        }
        let Some(mut moments) = moments else { continue };
        // What the last codes of each changed; `None` where more damping is not tried any more. Each goes by itself, whatever else multiplies the same rows.
        let mut last: Vec<Option<f64>> = trials.iter().map(|t| t.is_ok().then_some(f64::INFINITY)).collect();
        for damping in DAMPINGS {
            if last.iter().all(Option::is_none) {
                break;
            }
            let Some(feedback) = moments.feedback(damping) else { continue };
            for (trial, last) in trials.iter_mut().zip(&mut last) {
                let (Ok(trial), Some(before)) = (trial, *last) else { continue };
                let change = trial.attempt(&moments, &feedback, held_out, group);
                // More damping leads on to the nearest codes: what changes more than they do has still to fall. What changed less and grows has its least behind
                // it, as a rule.
                *last = (change < before || change > trial.of_nearest(group)).then_some(change);
            }
        }
    }
    let outcome = |trial: Result<Trial<'_>, String>| trial.and_then(Trial::outcome);
    alike.iter().map(|w| (*w).clone()).zip(trials.into_iter().map(outcome)).collect()
}

/// The most rows that a source has: of wide ones fewer, as long as there are enough for each column.
fn most_rows(source: &Source, extent: Extent) -> usize {
    let fitting = MOST_BYTES / (source.bytes() * extent.width).max(1);
    fitting.clamp(ROWS.min(ROWS_PER_COLUMN * extent.depth), ROWS)
}

/// How long the rows of a source are, and how many of their values one channel multiplies.
#[derive(Clone, Copy)]
struct Extent {
    width: usize,
    depth: usize,
}

/// Rows of one source.
#[derive(Clone)]
struct Rows {
    fitted: Table,
    held_out: Table,
    /// Whether some run's tensor was none that could be multiplied.
    broken: bool,
}

impl Rows {
    fn of(width: usize) -> Self {
        Self { fitted: Table::new(width), held_out: Table::new(width), broken: false }
    }

    fn len(&self) -> usize {
        self.fitted.len() + self.held_out.len()
    }

    /// Holds out some of the rows themselves.
    fn split(&mut self) {
        self.fitted.append(&self.held_out);
        [self.held_out, self.fitted] = self.fitted.divided(HELD_OUT);
    }

    fn add(&mut self, other: &Self) {
        self.fitted.append(&other.fitted);
        self.held_out.append(&other.held_out);
        self.broken |= other.broken;
    }
}

/// Every product of the main graph with a constant weight.
fn products(model: &Model, index: &Index, facts: &Facts) -> Vec<Product> {
    let product = |node| {
        let found: Linear = linear(model, index, facts, node).ok()?;
        let (root, flipped) = root(model, index, &node.input[1]);
        let conv = found.operator == Operator::Conv;
        let axis = usize::from(!conv && !(flipped ^ found.transposed));
        Some(Product {
            output: node.output[0].clone(),
            root: root.to_owned(),
            axis,
            groups: groups(node, &found),
            depth: found.depth(),
            source: Source::of(node, &found, Rounding::None)?,
        })
    };
    model.graph().node.iter().filter_map(product).collect()
}

/// Whether a tensor is read, directly or through views, as the weight of these products and by nobody else.
fn is_read_by_alone(model: &Model, index: &Index, tensor: &str, products: &BTreeSet<&str>, depth: usize) -> bool {
    let read_well = |&at: &usize| {
        let node = &model.graph().node[at];
        if ["Identity", "Transpose"].iter().any(|op| is_op(node, op)) {
            return depth < MOST_VIEWS
                && node.output.iter().all(|o| is_read_by_alone(model, index, o, products, depth + 1));
        }
        let as_weight = node.input.iter().enumerate().all(|(i, name)| (name == tensor) == (i == 1));
        as_weight && node.output.first().is_some_and(|o| products.contains(o.as_str()))
    };
    !index.is_output(tensor) && index.readers(tensor).iter().all(read_well)
}

/// Views that are looked through.
const MOST_VIEWS: usize = 8;
