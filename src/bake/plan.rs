//! What the search may try: per level and goal, the lossy passes with everything that is theirs to decide left open site by site.

mod equalised;
mod fixed;
mod rounded;

use std::collections::HashMap;
use std::rc::Rc;

use super::calibrated::Calibrated;
use super::intake::Loaded;
use super::passes::allows;
use crate::api::ResolvedJob;
use crate::api::bakejob::{Goal, Level};
use crate::hardware::advise::Advice;
use crate::model::Pass;
use crate::optimizer::Repair;
use crate::optimizer::Work;
use crate::optimizer::int8::correction;
use crate::optimizer::int8::int4::INTEGER_ACCURACY;
use crate::optimizer::int8::linear::Operator;
use crate::optimizer::int8::{
    self, Balance, BiasCorrection, BlockPlan, BlockSite, DynamicInt8, DynamicSite, EmbeddingInt8, EmbeddingSite,
    Encoding, Equalise, Exclude, Int4Blocks, NodePlan, Range, RoundWeights, Rounder, TablePlan, TensorPlan, WeightInt8,
    WeightScheme, WeightSite, block_sites, dynamic_sites, embedding_sites, quantizable_weights,
};
use crate::optimizer::search::{SiteInfo, Variant};
use equalised::Equalised;
use fixed::{Fixed, Ranges};
use rounded::rounding;

/// Weights of fewer elements are not worth the nodes that restore them.
const MIN_ELEMENTS: usize = 256;

/// The variants of a job's level, most promising first; those of the level before it first of all. What 8 bits cost in quality is read off real activations of
/// the calibration data; `calibrated` has the ranges for static quantisation, where the job may use it.
pub(super) fn variants(
    job: &ResolvedJob,
    work: &Work,
    loaded: &Loaded,
    advice: &Advice,
    exclude: &Exclude,
    calibrated: Option<&Calibrated>,
) -> Vec<Variant> {
    let allowed = |pass: &str| allows(job, pass);
    // Eight bits are exact where the CPU adds products in 32 bits; elsewhere pairs may saturate, which seven bits never do.
    let schemes = if advice.u8s8_saturates {
        vec![WeightScheme::Int8Reduced, WeightScheme::Int8]
    } else {
        vec![WeightScheme::Int8]
    };
    let integer = if allowed(DynamicInt8::NAME) && job.goal != Goal::Size {
        dynamic_sites(&work.model, &work.facts, exclude)
    } else {
        Vec::new()
    };
    let (convolutions, dynamic) = integer.into_iter().partition(|s| s.operator == Operator::Conv);
    let mut sites = Sites {
        dynamic,
        convolutions,
        balances: Vec::new(),
        tables: if allowed(EmbeddingInt8::NAME) {
            embedding_sites(&work.model, exclude, MIN_ELEMENTS)
        } else {
            Vec::new()
        },
        weights: if allowed(WeightInt8::NAME) {
            quantizable_weights(&work.model, exclude, MIN_ELEMENTS)
        } else {
            Vec::new()
        },
    };
    let (engine, feeds) = (&loaded.engine.engine, &loaded.calibration.feeds);
    // An engine that cannot hand out these activations leaves the errors of the weights as the estimate, and nothing balanced.
    sites.balances = int8::balance(engine, &work.model, &work.facts, &mut sites.dynamic, feeds, schemes[0].limit())
        .unwrap_or_default();
    // Other codes than the nearest cost time to find and none to run. From level Medium on; a job that names the pass may have them before.
    let rounds = allowed(RoundWeights::NAME) && (job.level >= Level::Medium || job.passes.is_some());
    let rounder = |work: &Work| rounds.then(|| Rc::new(Rounder::new(engine, &work.model, &work.facts, feeds)));
    let plain = rounder(work);
    let round = |rounder: &Option<Rc<Rounder>>| rounder.iter().cloned().map(rounding).collect::<Vec<Repair>>();
    let rounded = |variant: Variant| Variant { repairs: round(&plain), ..variant };
    let mut variants = Vec::new();
    for balanced in [false, true] {
        variants.extend(schemes.iter().filter_map(|&scheme| sites.products(scheme, balanced)).map(rounded));
    }
    variants.extend(sites.of_one_scale(schemes[0]));
    variants.extend(sites.with_convolutions(schemes[0]));
    variants.push(rounded(sites.stored()));
    if allowed(Int4Blocks::NAME) {
        variants.extend(sites.blocks(&block_sites(&work.model, &work.facts, exclude)).map(rounded));
    }
    // Last, so that measuring sites one by one never takes the time of what the level before tries.
    if let Some(calibrated) = calibrated {
        let equalised =
            allowed(Equalise::NAME).then(|| Equalised::of(engine, work, feeds, exclude, schemes[0])).flatten();
        let of_equalised = equalised.as_ref().and_then(|equalised| rounder(&equalised.begun.work));
        let seen = calibrated.ranged.iter().cloned();
        let mut ranges: Vec<Ranges> = seen.map(|(policy, ranged)| Ranges { policy, ranged, equalise: None }).collect();
        ranges.extend(equalised.iter().flat_map(|e| e.ranges(engine, feeds, exclude)));
        for fixed in Fixed::all(&ranges, schemes[0]) {
            let mut repairs: Vec<Repair> = fixed.measured_ranges().into_iter().collect();
            repairs.extend(round(if fixed.is_equalised() { &of_equalised } else { &plain }));
            repairs.extend(allowed(BiasCorrection::NAME).then(|| correction::repair(engine, feeds)));
            let products = equalised.as_ref().filter(|_| fixed.is_equalised() && !sites.dynamic.is_empty());
            let products = products.map_or(&sites.dynamic, |equalised| &equalised.products);
            let begun = equalised.as_ref().filter(|_| fixed.is_equalised()).map(|equalised| equalised.begun.clone());
            variants.extend(sites.fixed(fixed, products).map(|variant| Variant { repairs, begun, ..variant }));
        }
    }
    variants
}

struct Sites {
    /// Products with a constant weight.
    dynamic: Vec<DynamicSite>,
    convolutions: Vec<DynamicSite>,
    balances: Vec<Balance>,
    tables: Vec<EmbeddingSite>,
    weights: Vec<WeightSite>,
}

impl Sites {
    /// Integer products where they can be. `None` where that is no variant of its own.
    fn products(&self, scheme: WeightScheme, balanced: bool) -> Option<Variant> {
        if self.dynamic.is_empty() || (balanced && self.balances.is_empty()) {
            return None;
        }
        let name = if balanced { "balanced-int8" } else { "dynamic-int8" };
        let reduced = if scheme == WeightScheme::Int8Reduced { "-reduced" } else { "" };
        let balances = if balanced { self.balances.clone() } else { Vec::new() };
        let computed = Computed { dynamic: self.dynamic.clone(), scheme, balances, ..Computed::default() };
        Some(self.computed_and_stored(format!("{name}{reduced}"), "products", computed))
    }

    /// The same with one scale for each weight, which is quicker and coarser. `None` where that is no variant of its own.
    fn of_one_scale(&self, scheme: WeightScheme) -> Option<Variant> {
        let plain = self.products(scheme, false)?;
        let computed = Computed { dynamic: self.dynamic.clone(), scheme, one_scale: true, ..Computed::default() };
        let name = format!("{}-one-scale", plain.name);
        Some(Variant { only_whole: true, ..self.computed_and_stored(name, "products of one scale", computed) })
    }

    /// Codes from node to node where ranges are known; of convolutions alone, integer products beside them. `None` where that is no variant of its own.
    fn fixed(&self, fixed: Fixed, products: &[DynamicSite]) -> Option<Variant> {
        let dynamic = if fixed.only_convolutions { products.to_vec() } else { Vec::new() };
        if fixed.only_convolutions && !worth_their_own(&dynamic, fixed.work()) {
            return None;
        }
        let (name, kind, scheme) = (fixed.name(), fixed.kind(), fixed.scheme);
        let computed = Computed { fixed: Some(fixed), dynamic, scheme, ..Computed::default() };
        Some(Variant { measured: true, ..self.computed_and_stored(name, kind, computed) })
    }

    /// Weights of products in 4-bit blocks; those that harm too much in 8 bits like the others. `None` where that is no variant of its own.
    fn blocks(&self, blocks: &[BlockSite]) -> Option<Variant> {
        if blocks.is_empty() {
            return None;
        }
        let computed = Computed { blocks: blocks.to_vec(), ..Computed::default() };
        let variant = self.computed_and_stored(Int4Blocks::NAME.to_owned(), "blocks", computed);
        Some(Variant { measured: true, smallest: true, ..variant })
    }

    /// Integer convolutions beside the products. ONNX Runtime does not fuse `ConvInteger`, and it was slower wherever it was measured; so the one with most
    /// work is timed alone first.
    fn with_convolutions(&self, scheme: WeightScheme) -> Option<Variant> {
        let work = |s: &DynamicSite| s.elements() * s.rows.unwrap_or(1);
        let (most, _) = self.convolutions.iter().enumerate().max_by_key(|(_, s)| work(s))?;
        let dynamic = self.convolutions.iter().chain(&self.dynamic).cloned().collect();
        let computed = Computed { dynamic, scheme, ..Computed::default() };
        let name = "dynamic-int8-convolutions".to_owned();
        Some(Variant { probe: Some(most), ..self.computed_and_stored(name, "convolutions", computed) })
    }

    /// Integer arithmetic where `computed` says, 8-bit tables, and every other weight stored in 8 bits.
    fn computed_and_stored(&self, name: String, kind: &'static str, computed: Computed) -> Variant {
        let weights = self.weights.iter().filter(|w| !self.is_table(w)).cloned();
        let (of_products, others): (Vec<WeightSite>, Vec<WeightSite>) =
            weights.partition(|w| computed.weights().any(|name| *name == w.tensor));
        let mut sites = computed.infos();
        let tunable = sites.len();
        sites.extend(self.tables.iter().map(table_info));
        sites.extend(others.iter().map(weight_info));
        let tables = self.tables.clone();
        Variant {
            name,
            kind,
            probe: None,
            tunable,
            measured: false,
            smallest: false,
            only_whole: false,
            repairs: Vec::new(),
            begun: None,
            sites,
            build: Box::new(move |mask| {
                let (of_computed, rest) = mask.split_at(tunable);
                let (of_tables, of_others) = rest.split_at(tables.len());
                let (mut made, float) = computed.passes(of_computed);
                // A product that stays in float still has its weight stored in fewer bits: in 8, or in half precision where they may be what harms.
                let mut stored: Vec<TensorPlan> = of_products
                    .iter()
                    .filter_map(|w| {
                        Some(if *float.get(&w.tensor)? { w.half() } else { w.plan(Encoding::CastMul, Range::MaxAbs) })
                    })
                    .chain(eight_or_half(&others, of_others))
                    .collect();
                stored.sort_by(|a, b| a.tensor.cmp(&b.tensor));
                made.extend(storing(table_plans(&tables, of_tables), stored));
                made
            }),
        }
    }

    /// Every weight stored in 8 bits, restored to float when the model loads; in half precision where 8 bits harm.
    fn stored(&self) -> Variant {
        let tables = self.tables.clone();
        let weights: Vec<WeightSite> = self.weights.iter().filter(|w| !self.is_table(w)).cloned().collect();
        let of_tables: Vec<WeightSite> = self.weights.iter().filter(|w| self.is_table(w)).cloned().collect();
        Variant {
            name: "stored-int8".to_owned(),
            kind: "stored",
            probe: None,
            tunable: 0,
            measured: false,
            smallest: false,
            only_whole: false,
            repairs: Vec::new(),
            begun: None,
            sites: tables.iter().map(table_info).chain(weights.iter().map(weight_info)).collect(),
            build: Box::new(move |mask| {
                let (table_mask, weight_mask) = mask.split_at(tables.len());
                let plans = table_plans(&tables, table_mask);
                let halves = of_tables.iter().filter(|w| !plans.iter().any(|p| p.tensor == w.tensor));
                let stored = halves.map(WeightSite::half).chain(eight_or_half(&weights, weight_mask)).collect();
                storing(plans, stored)
            }),
        }
    }

    fn is_table(&self, weight: &WeightSite) -> bool {
        self.tables.iter().any(|t| t.tensor == weight.tensor)
    }
}

/// A smaller share of a model's multiplications takes no time worth another variant.
const LEAST_PRODUCTS: f64 = 0.02;

/// Whether products have so much work beside the convolutions that it matters how they compute; so it is where their work is not known.
fn worth_their_own(products: &[DynamicSite], of_convolutions: usize) -> bool {
    let of_products: Option<usize> = products.iter().map(|site| Some(site.elements() * site.rows?)).sum();
    of_products.is_none_or(|work| work as f64 > LEAST_PRODUCTS * of_convolutions as f64)
}

/// Where a variant computes in integers.
#[derive(Default)]
struct Computed {
    fixed: Option<Fixed>,
    /// Products on 4-bit weights.
    blocks: Vec<BlockSite>,
    dynamic: Vec<DynamicSite>,
    /// How dynamic products store their weights.
    scheme: WeightScheme,
    /// Whether each of those weights has a single scale.
    one_scale: bool,
    balances: Vec<Balance>,
}

impl Computed {
    /// Names of the weights.
    fn weights(&self) -> impl Iterator<Item = &String> {
        let fixed = self.fixed.iter().flat_map(|f| &f.sites).filter_map(|s| s.weight.as_ref());
        fixed.chain(self.blocks.iter().map(|b| &b.weight)).chain(self.dynamic.iter().map(|d| &d.weight))
    }

    fn infos(&self) -> Vec<SiteInfo> {
        let mut infos: Vec<SiteInfo> = self.fixed.iter().flat_map(Fixed::infos).collect();
        infos.extend(self.blocks.iter().map(|b| SiteInfo {
            name: b.output.clone(),
            part: "Blocks",
            elements: b.elements,
            error: b.error,
            follows: false,
        }));
        let dynamic = self.dynamic.iter();
        infos.extend(dynamic.map(|d| SiteInfo {
            name: d.output.clone(),
            part: d.operator.name(),
            elements: d.elements(),
            error: d.error,
            follows: false,
        }));
        infos
    }

    /// The passes for a choice, and the names of the weights of what stays in float: whether 8 bits of the weights themselves may be why.
    fn passes(&self, mask: &[bool]) -> (Vec<Box<dyn Pass>>, HashMap<String, bool>) {
        let (of_fixed, rest) = mask.split_at(self.fixed.as_ref().map_or(0, |f| f.sites.len()));
        let (of_blocks, of_dynamic) = rest.split_at(self.blocks.len());
        let mut passes: Vec<Box<dyn Pass>> = Vec::new();
        let mut float = HashMap::new();
        if let Some(fixed) = &self.fixed {
            passes.extend(fixed.passes(of_fixed));
            float.extend(left(&fixed.sites, of_fixed).filter_map(|s| Some((s.weight.clone()?, true))));
        }
        let plan = |b: &BlockSite| BlockPlan { output: b.output.clone(), size: b.size };
        let nodes: Vec<BlockPlan> = chosen(&self.blocks, of_blocks).map(plan).collect();
        if !nodes.is_empty() {
            passes.push(Box::new(Int4Blocks { nodes, accuracy_level: INTEGER_ACCURACY }));
        }
        float.extend(left(&self.blocks, of_blocks).map(|b| (b.weight.clone(), false)));
        let plan = |d: &DynamicSite| NodePlan { output: d.output.clone(), weights: self.scheme, range: Range::MaxAbs };
        let nodes: Vec<NodePlan> = chosen(&self.dynamic, of_dynamic).map(plan).collect();
        if !nodes.is_empty() {
            passes.push(Box::new(DynamicInt8 { nodes, balances: self.balances.clone(), one_scale: self.one_scale }));
        }
        float.extend(left(&self.dynamic, of_dynamic).map(|d| (d.weight.clone(), false)));
        (passes, float)
    }
}

fn storing(tables: Vec<TablePlan>, tensors: Vec<TensorPlan>) -> Vec<Box<dyn Pass>> {
    let mut passes: Vec<Box<dyn Pass>> = Vec::new();
    if !tables.is_empty() {
        passes.push(Box::new(EmbeddingInt8 { tables }));
    }
    if !tensors.is_empty() {
        passes.push(Box::new(WeightInt8 { tensors, min_elements: MIN_ELEMENTS }));
    }
    passes
}

/// Plans that store what is chosen in 8 bits and the rest in half precision.
fn eight_or_half(weights: &[WeightSite], mask: &[bool]) -> impl Iterator<Item = TensorPlan> {
    let plan =
        |(w, eight): (&WeightSite, &bool)| if *eight { w.plan(Encoding::CastMul, Range::MaxAbs) } else { w.half() };
    weights.iter().zip(mask).map(plan)
}

fn chosen<'a, T>(all: &'a [T], mask: &'a [bool]) -> impl Iterator<Item = &'a T> {
    all.iter().zip(mask).filter(|(_, on)| **on).map(|(site, _)| site)
}

fn left<'a, T>(all: &'a [T], mask: &'a [bool]) -> impl Iterator<Item = &'a T> {
    all.iter().zip(mask).filter(|(_, on)| !**on).map(|(site, _)| site)
}

fn table_plans(tables: &[EmbeddingSite], mask: &[bool]) -> Vec<TablePlan> {
    chosen(tables, mask).map(|t| TablePlan { tensor: t.tensor.clone(), range: Range::MaxAbs }).collect()
}

fn table_info(table: &EmbeddingSite) -> SiteInfo {
    SiteInfo {
        name: table.tensor.clone(),
        part: "Table",
        elements: table.rows * table.width,
        error: table.error,
        follows: false,
    }
}

fn weight_info(weight: &WeightSite) -> SiteInfo {
    SiteInfo {
        name: weight.tensor.clone(),
        part: "Weight",
        elements: weight.elements,
        error: weight.error,
        follows: false,
    }
}
