//! Static quantisation as variants of the search: ranges from one pass over the calibration data, which all of them share; and what evens out channels before.

use std::collections::HashSet;

use crate::engine::{Feed, SharedEngine};
use crate::model::Pass;
use crate::optimizer::calibration::{Policy, calibrate};
use crate::optimizer::int8::linear::Operator;
use crate::optimizer::int8::qdq::plan::Ranged;
use crate::optimizer::int8::qdq::region::Part;
use crate::optimizer::int8::{Equalise, Exclude, Region, StaticInt8, StaticSite, WeightScheme, equalise};
use crate::optimizer::search::SiteInfo;
use crate::optimizer::{Driver, Outcome, Work};

/// Codes with ranges that were measured beforehand.
pub(super) struct Fixed {
    ranged: Ranged,
    policy: Policy,
    /// What evens out channels before, where that is part of it.
    equalise: Option<Equalise>,
    /// What is open to choice.
    pub(super) sites: Vec<StaticSite>,
    /// Whether products are left to others.
    pub(super) only_convolutions: bool,
    /// How weights are stored.
    pub(super) scheme: WeightScheme,
}

/// What static quantisation is planned on.
pub(super) struct Plans<'a> {
    pub(super) engine: &'a SharedEngine,
    pub(super) work: &'a Work,
    pub(super) feeds: &'a [Feed],
    pub(super) exclude: &'a Exclude,
    pub(super) scheme: WeightScheme,
    /// Whether channels may be evened out.
    pub(super) equalise: bool,
}

/// Samples that an equalised model is compared with the float one on.
const CHECKED: usize = 4;

impl Plans<'_> {
    /// Everything on codes, and convolutions alone; the ranges of least harm before those that clip nothing, and last those of the equalised model. None where nothing can be,
    /// or where no engine hands out what has to be looked at.
    pub(super) fn all(&self) -> Vec<Fixed> {
        let mut ranges = self.ranges(self.work, &[Policy::LeastHarm, Policy::Unclipped], None);
        if self.equalise
            && !ranges.is_empty()
            && let Some((pass, work)) = self.equalised()
        {
            ranges.extend(self.ranges(&work, &[Policy::LeastHarm], Some(&pass)));
        }
        let mut all = Vec::new();
        for only_convolutions in [false, true] {
            for (policy, ranged, equalise) in &ranges {
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
                    let (ranged, equalise) = (ranged.clone(), equalise.clone());
                    all.push(Fixed {
                        ranged,
                        policy: *policy,
                        equalise,
                        sites,
                        only_convolutions,
                        scheme: self.scheme,
                    });
                }
            }
        }
        all
    }

    /// The ranges that each policy chooses of what is seen on `work`.
    fn ranges(
        &self,
        work: &Work,
        policies: &[Policy],
        equalise: Option<&Equalise>,
    ) -> Vec<(Policy, Ranged, Option<Equalise>)> {
        let region = Region::of(&work.model, &work.facts, self.exclude);
        let Ok(spreads) = calibrate(self.engine, &work.model, region.watches(), self.feeds) else { return Vec::new() };
        policies.iter().map(|&policy| (policy, region.ranged(&spreads, policy), equalise.cloned())).collect()
    }

    /// The pass that evens out channels, and the model behind it: the same to what a lossless pass may differ, or none.
    fn equalised(&self) -> Option<(Equalise, Work)> {
        let Work { model, facts, .. } = self.work;
        let pass = equalise(self.engine, model, facts, self.exclude, self.feeds, self.scheme.limit()).ok()??;
        let few = self.feeds.iter().take(CHECKED).cloned().collect();
        let driver = Driver::new(self.engine.clone(), model, few).ok()?;
        let mut work = self.work.clone();
        let record = driver.transaction(&mut work, &pass);
        (record.outcome == Outcome::Applied).then_some((pass, work))
    }
}

impl Fixed {
    pub(super) fn name(&self) -> String {
        let convolutions = if self.only_convolutions { "-convolutions" } else { "" };
        let ranges = match (&self.equalise, self.policy) {
            (Some(_), _) => "-equalised",
            (None, Policy::LeastHarm) => "",
            (None, Policy::Unclipped) => "-unclipped",
        };
        format!("{}{convolutions}{ranges}", StaticInt8::NAME)
    }

    pub(super) fn kind(&self) -> &'static str {
        if self.only_convolutions { "static-convolutions" } else { "static" }
    }

    pub(super) fn infos(&self) -> Vec<SiteInfo> {
        let info = |site: &StaticSite| SiteInfo {
            name: site.output.clone(),
            elements: site.work,
            error: self.ranged.harm(site),
            follows: site.part == Part::Between,
        };
        self.sites.iter().map(info).collect()
    }

    /// The passes for a choice of sites; none where nothing of it computes.
    pub(super) fn passes(&self, mask: &[bool]) -> Vec<Box<dyn Pass>> {
        let chosen: HashSet<&str> =
            self.sites.iter().zip(mask).filter(|(_, on)| **on).map(|(s, _)| s.output.as_str()).collect();
        let plan = self.ranged.plan(&chosen, self.scheme);
        if plan.nodes.is_empty() {
            return Vec::new();
        }
        let equalise = self.equalise.clone().map(|pass| Box::new(pass) as Box<dyn Pass>);
        equalise.into_iter().chain(std::iter::once(Box::new(plan) as Box<dyn Pass>)).collect()
    }
}
