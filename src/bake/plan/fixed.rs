//! Static quantisation as variants of the search: ranges from one pass over the calibration data, which all of them share.

use std::collections::HashSet;

use crate::model::Pass;
use crate::optimizer::Repair;
use crate::optimizer::calibration::Policy;
use crate::optimizer::int8::linear::Operator;
use crate::optimizer::int8::qdq::measured::measured_ranges;
use crate::optimizer::int8::qdq::plan::Ranged;
use crate::optimizer::int8::qdq::region::Part;
use crate::optimizer::int8::{Equalise, StaticInt8, StaticSite, WeightScheme};
use crate::optimizer::search::SiteInfo;

/// Ranges that one policy chose, and what evens out channels before them.
#[derive(Clone)]
pub(super) struct Ranges {
    pub(super) policy: Policy,
    pub(super) ranged: Ranged,
    pub(super) equalise: Option<Equalise>,
}

/// Codes with ranges that were measured beforehand.
pub(super) struct Fixed {
    ranges: Ranges,
    /// What is open to choice.
    pub(super) sites: Vec<StaticSite>,
    /// Whether products are left to others.
    pub(super) only_convolutions: bool,
    /// How weights are stored.
    pub(super) scheme: WeightScheme,
}

impl Fixed {
    /// Everything on codes, and convolutions alone, each by all ranges. None where nothing can be.
    pub(super) fn all(ranges: &[Ranges], scheme: WeightScheme) -> Vec<Self> {
        let mut all = Vec::new();
        for only_convolutions in [false, true] {
            for ranges in ranges {
                let wanted = |s: &&StaticSite| match s.part {
                    Part::Linear(Operator::MatMul | Operator::Gemm) => !only_convolutions,
                    _ => true,
                };
                let sites: Vec<StaticSite> = ranges.ranged.choices().filter(wanted).cloned().collect();
                let computes = |s: &StaticSite| match s.part {
                    Part::Linear(operator) => !only_convolutions || operator == Operator::Conv,
                    Part::Between | Part::Mover => false,
                };
                if sites.iter().any(computes) {
                    all.push(Self { ranges: ranges.clone(), sites, only_convolutions, scheme });
                }
            }
        }
        all
    }

    /// Multiplications of what it computes.
    pub(super) fn work(&self) -> usize {
        self.sites.iter().filter(|site| matches!(site.part, Part::Linear(_))).map(|site| site.work).sum()
    }

    pub(super) fn name(&self) -> String {
        let convolutions = if self.only_convolutions { "-convolutions" } else { "" };
        let equalised = if self.is_equalised() { "-equalised" } else { "" };
        let unclipped = if self.ranges.policy == Policy::Unclipped { "-unclipped" } else { "" };
        format!("{}{convolutions}{equalised}{unclipped}", StaticInt8::NAME)
    }

    /// Whether channels are evened out before.
    pub(super) fn is_equalised(&self) -> bool {
        self.ranges.equalise.is_some()
    }

    /// Other ranges than by estimate, where the policy has any.
    pub(super) fn measured_ranges(&self) -> Option<Repair> {
        (self.ranges.policy == Policy::LeastHarm).then(|| measured_ranges(self.ranges.ranged.clone(), self.scheme))
    }

    pub(super) fn kind(&self) -> &'static str {
        if self.only_convolutions { "static-convolutions" } else { "static" }
    }

    pub(super) fn infos(&self) -> Vec<SiteInfo> {
        let info = |site: &StaticSite| SiteInfo {
            name: site.output.clone(),
            part: match site.part {
                Part::Linear(operator) => operator.name(),
                Part::Between | Part::Mover => "Between",
            },
            elements: site.work,
            error: self.ranges.ranged.harm(site),
            follows: site.part == Part::Between,
        };
        self.sites.iter().map(info).collect()
    }

    /// The passes for a choice of sites; none where nothing of it computes.
    pub(super) fn passes(&self, mask: &[bool]) -> Vec<Box<dyn Pass>> {
        let chosen: HashSet<&str> =
            self.sites.iter().zip(mask).filter(|(_, on)| **on).map(|(s, _)| s.output.as_str()).collect();
        let plan = self.ranges.ranged.plan(&chosen, self.scheme);
        if plan.nodes.is_empty() {
            return Vec::new();
        }
        let equalise = self.ranges.equalise.clone().map(|pass| Box::new(pass) as Box<dyn Pass>);
        equalise.into_iter().chain(std::iter::once(Box::new(plan) as Box<dyn Pass>)).collect()
    }
}
