//! The model with its channels evened out, and ranges that were seen on it.

use std::rc::Rc;

use super::fixed::Ranges;
use crate::engine::{Feed, SharedEngine};
use crate::model::laid::lay_down;
use crate::optimizer::calibration::{Policy, calibrate};
use crate::optimizer::int8::linear::Operator;
use crate::optimizer::int8::{DynamicSite, Equalise, Exclude, Region, WeightScheme, dynamic_sites, equalise};
use crate::optimizer::search::Begun;
use crate::optimizer::{Driver, Outcome, Work};

/// Samples that an equalised model is compared with the float one on.
const CHECKED: usize = 4;

/// A model that gives what the input gives, to what a lossless pass may differ.
pub(super) struct Equalised {
    pass: Equalise,
    pub(super) begun: Rc<Begun>,
    /// Its products: some have another name than in the input.
    pub(super) products: Vec<DynamicSite>,
}

impl Equalised {
    /// `None` where nothing can be evened out at no cost, or nothing is gained by it.
    pub(super) fn of(
        engine: &SharedEngine,
        base: &Work,
        feeds: &[Feed],
        exclude: &Exclude,
        scheme: WeightScheme,
    ) -> Option<Self> {
        let pass = equalise(engine, &base.model, &base.facts, exclude, feeds, scheme.limit()).ok()??;
        let few = feeds.iter().take(CHECKED).cloned().collect();
        let driver = Driver::new(engine.clone(), &base.model, few).ok()?;
        let mut work = base.clone();
        let record = driver.transaction(&mut work, &pass);
        if record.outcome != Outcome::Applied {
            return None;
        }
        // All its weights are others, and it is held until the search is over.
        lay_down(&mut work.model);
        let mut products = dynamic_sites(&work.model, &work.facts, exclude);
        products.retain(|site| site.operator != Operator::Conv);
        Some(Self { pass, begun: Rc::new(Begun { work, record }), products })
    }

    /// Ranges by each policy, from a pass over the calibration data: every channel has another size than before.
    pub(super) fn ranges(&self, engine: &SharedEngine, feeds: &[Feed], exclude: &Exclude) -> Vec<Ranges> {
        let region = Region::of(&self.begun.work.model, &self.begun.work.facts, exclude);
        let Ok(spreads) = calibrate(engine, &self.begun.work.model, region.watches(), feeds) else { return Vec::new() };
        let ranges =
            |policy| Ranges { policy, ranged: region.ranged(&spreads, policy), equalise: Some(self.pass.clone()) };
        Policy::ALL.map(ranges).into()
    }
}
