//! From a choice of nodes and what calibration saw to resolved numbers.

use std::collections::{BTreeMap, HashMap, HashSet};

use rayon::prelude::*;

use super::super::dynamic::{NodePlan, WeightScheme};
use super::super::scheme::Range;
use super::region::{Part, Region, StaticSite};
use super::{ActivationPlan, StaticInt8};
use crate::optimizer::calibration::{Chosen, Policy, Spread};

/// A region with a range for each of its tensors that can have one.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranged {
    sites: Vec<StaticSite>,
    /// The range of a tensor, and behind it those that were not chosen, the better first.
    ranges: BTreeMap<String, Vec<Chosen>>,
}

impl Region {
    /// The region with ranges chosen from what was seen. Sites that lack one are left out: their tensors were never finite, or always zero.
    pub fn ranged(&self, spreads: &BTreeMap<String, Spread>, policy: Policy) -> Ranged {
        let ranges = spreads.par_iter().map(|(name, spread)| (name.clone(), spread.ranges(policy)));
        let ranges: BTreeMap<String, Vec<Chosen>> = ranges.filter(|(_, ranges)| !ranges.is_empty()).collect();
        let has_ranges = |site: &&StaticSite| {
            let end = site.part != Part::Mover && site.gives_codes;
            site.inputs.iter().all(|i| ranges.contains_key(i)) && (!end || ranges.contains_key(&site.end))
        };
        Ranged { sites: self.sites.iter().filter(has_ranges).cloned().collect(), ranges }
    }
}

impl Ranged {
    /// The sites that are a choice. Movers are none: they follow.
    pub fn choices(&self) -> impl Iterator<Item = &StaticSite> {
        self.sites.iter().filter(|s| s.part != Part::Mover)
    }

    /// Expected harm of a site: the relative RMS error of its products from rounding what it reads and its weights; of a site without weights, of what it gives.
    pub fn harm(&self, site: &StaticSite) -> f64 {
        let error = |name: &String| self.range(name).map_or(0.0, |r| r.error);
        let read: f64 = site.inputs.iter().map(error).sum();
        match site.part {
            Part::Linear(_) => (read + site.weight_error * site.weight_error).sqrt(),
            Part::Between | Part::Mover => error(&site.end).sqrt(),
        }
    }

    /// The range of a tensor, where it has one.
    pub fn range(&self, tensor: &str) -> Option<&Chosen> {
        self.ranges.get(tensor)?.first()
    }

    /// Tensors whose range is open to choice, the most harmful by estimate first, each with its ranges: the chosen one, and the others.
    pub(super) fn open(&self) -> Vec<(&str, &[Chosen])> {
        let open = self.ranges.iter().filter(|(_, ranges)| ranges.len() > 1);
        let mut open: Vec<(&str, &[Chosen])> = open.map(|(name, ranges)| (name.as_str(), ranges.as_slice())).collect();
        open.sort_by(|a, b| b.1[0].error.total_cmp(&a.1[0].error));
        open
    }

    /// Chooses the `at`th range of a tensor, as [`Ranged::open`] has them.
    pub(super) fn choose(&mut self, tensor: &str, at: usize) {
        if let Some(ranges) = self.ranges.get_mut(tensor) {
            ranges.swap(0, at);
        }
    }

    /// The pass for those of [`Ranged::choices`] whose output is in `chosen`.
    ///
    /// What lies between takes part only where all it reads are codes and somebody wants codes of it: else it would cost a rounding and save nothing.
    pub fn plan(&self, chosen: &HashSet<&str>, weights: WeightScheme) -> StaticInt8 {
        let on = |site: &StaticSite| site.part == Part::Mover || chosen.contains(site.output.as_str());
        let linear = |site: &&StaticSite| matches!(site.part, Part::Linear(_)) && on(site);
        // Whose range a tensor of codes has: its own, or behind a mover that of what is moved.
        let mut coded: HashMap<&str, &str> = HashMap::new();
        for site in self.sites.iter().filter(linear) {
            coded.insert(&site.inputs[0], &site.inputs[0]);
            if site.gives_codes {
                coded.insert(&site.end, &site.end);
            }
        }
        let mut possible: Vec<&StaticSite> = Vec::new();
        for site in self.sites.iter().filter(|s| on(s) && !matches!(s.part, Part::Linear(_))) {
            let Some(sources) = site.inputs.iter().map(|i| coded.get(i.as_str()).copied()).collect::<Option<Vec<_>>>()
            else {
                continue;
            };
            coded.insert(&site.end, if site.part == Part::Mover { sources[0] } else { &site.end });
            possible.push(site);
        }
        let mut wanted: HashSet<&str> = self.sites.iter().filter(linear).map(|s| s.inputs[0].as_str()).collect();
        let mut kept: HashSet<&str> = self.sites.iter().filter(linear).map(|s| s.output.as_str()).collect();
        let mut between = Vec::new();
        for site in possible.into_iter().rev() {
            if wanted.contains(site.end.as_str()) {
                wanted.extend(site.inputs.iter().map(String::as_str));
                kept.insert(&site.output);
                between.push(site.output.clone());
            }
        }
        between.reverse();
        self.resolve(&kept, &coded, between, weights)
    }

    fn resolve(
        &self,
        kept: &HashSet<&str>,
        coded: &HashMap<&str, &str>,
        between: Vec<String>,
        weights: WeightScheme,
    ) -> StaticInt8 {
        let kept = || self.sites.iter().filter(move |s| kept.contains(s.output.as_str()));
        let read: HashSet<&str> = kept().flat_map(|s| s.inputs.iter().map(String::as_str)).collect();
        let mut through: BTreeMap<&str, bool> = read.iter().map(|&name| (name, false)).collect();
        for site in kept() {
            if site.gives_codes {
                through.insert(&site.end, true);
            } else if let Some(through) = through.get_mut(site.end.as_str()) {
                *through = self.is_read_by_codes_alone(site, &kept);
            }
        }
        let activation = |(&tensor, &through): (&&str, &bool)| {
            let range = self.range(coded.get(tensor).copied().unwrap_or(tensor))?;
            let (scale, zero_point) = range.codes();
            Some(ActivationPlan { tensor: tensor.to_owned(), scale: f64::from(scale), zero_point, through })
        };
        let nodes = kept().filter(|s| matches!(s.part, Part::Linear(_))).map(|s| NodePlan {
            output: s.output.clone(),
            weights,
            range: Range::MaxAbs,
        });
        StaticInt8 { activations: through.iter().filter_map(activation).collect(), nodes: nodes.collect(), between }
    }

    fn is_read_by_codes_alone<'s, I: Iterator<Item = &'s StaticSite>>(
        &self,
        site: &StaticSite,
        kept: &impl Fn() -> I,
    ) -> bool {
        let readers = self.sites.iter().filter(|s| s.inputs.contains(&site.end)).count();
        site.inward && kept().filter(|s| s.inputs.contains(&site.end)).count() == readers
    }
}
