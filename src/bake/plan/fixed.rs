//! Static quantisation as variants of the search: ranges from one pass over the calibration data, which all of them share.

use std::collections::HashSet;

use crate::optimizer::calibration::Policy;
use crate::optimizer::int8::linear::Operator;
use crate::optimizer::int8::qdq::plan::Ranged;
use crate::optimizer::int8::qdq::region::Part;
use crate::optimizer::int8::{StaticInt8, StaticSite, WeightScheme};
use crate::optimizer::search::SiteInfo;

/// Codes with ranges that were measured beforehand.
#[derive(Clone)]
pub(super) struct Fixed {
    ranged: Ranged,
    policy: Policy,
    /// What is open to choice.
    pub(super) sites: Vec<StaticSite>,
    /// Whether products are left to others.
    pub(super) only_convolutions: bool,
    /// How weights are stored.
    pub(super) scheme: WeightScheme,
}

impl Fixed {
    /// Everything on codes, and convolutions alone; the ranges of least harm before those that clip nothing. None where nothing can be.
    pub(super) fn all(ranged: &[(Policy, Ranged)], scheme: WeightScheme) -> Vec<Self> {
        let mut all = Vec::new();
        for only_convolutions in [false, true] {
            for (policy, ranged) in ranged {
                let wanted = |s: &&StaticSite| match s.part {
                    Part::Linear(Operator::MatMul | Operator::Gemm) => !only_convolutions,
                    _ => true,
                };
                let sites: Vec<StaticSite> = ranged.choices().filter(wanted).cloned().collect();
                let computes = |s: &StaticSite| match s.part {
                    Part::Linear(operator) => !only_convolutions || operator == Operator::Conv,
                    Part::Between | Part::Mover => false,
                };
                if sites.iter().any(computes) {
                    all.push(Self { ranged: ranged.clone(), policy: *policy, sites, only_convolutions, scheme });
                }
            }
        }
        all
    }

    pub(super) fn name(&self) -> &'static str {
        match (self.only_convolutions, self.policy) {
            (false, Policy::LeastHarm) => "static-int8",
            (false, Policy::Unclipped) => "static-int8-unclipped",
            (true, Policy::LeastHarm) => "static-int8-convolutions",
            (true, Policy::Unclipped) => "static-int8-convolutions-unclipped",
        }
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
            error: self.ranged.harm(site),
            follows: site.part == Part::Between,
        };
        self.sites.iter().map(info).collect()
    }

    /// The pass for a choice of sites.
    pub(super) fn pass(&self, mask: &[bool]) -> StaticInt8 {
        let chosen: HashSet<&str> =
            self.sites.iter().zip(mask).filter(|(_, on)| **on).map(|(s, _)| s.output.as_str()).collect();
        self.ranged.plan(&chosen, self.scheme)
    }
}
