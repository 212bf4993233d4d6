//! Rounding weights as a repair: other codes than the nearest, where products change less by them.

use std::rc::Rc;
use std::time::Instant;

use crate::model::Pass;
use crate::optimizer::Work;
use crate::optimizer::int8::{Equalise, RoundWeights, Rounder};
use crate::optimizer::repair::{Measure, Repair};

/// The repair that moves the weights which a choice of passes quantises. `rounder` is of the model behind [`Equalise`], where the passes begin with it.
pub(super) fn rounding(rounder: Rc<Rounder>) -> Repair {
    let find = move |_: &Work, passes: &mut Vec<Box<dyn Pass>>, _: Instant, _: Option<Measure<'_>>| {
        let moves = rounder.round(passes).map_err(|error| error.to_string())?;
        if moves.weights.is_empty() {
            return Err(moves.reason());
        }
        let at = usize::from(passes.first().is_some_and(|pass| pass.name() == Equalise::NAME));
        passes.insert(at, Box::new(moves));
        Ok(())
    };
    Repair { name: RoundWeights::NAME, pass: RoundWeights::NAME, find: Box::new(find) }
}
