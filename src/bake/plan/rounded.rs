//! Rounding weights as a repair: other codes than the nearest, where products change less by them.

use std::rc::Rc;

use crate::model::Pass;
use crate::optimizer::Repair;
use crate::optimizer::int8::{Equalise, RoundWeights, Rounder};

/// The repair that moves the weights which a choice of passes quantises. `rounder` is of the model behind [`Equalise`], where the passes begin with it.
pub(super) fn rounding(rounder: Rc<Rounder>) -> Repair {
    let find = move |_: &_, passes: &[Box<dyn Pass>], _| {
        let moves = rounder.round(passes).map_err(|error| error.to_string())?;
        if moves.weights.is_empty() {
            return Err(moves.reason());
        }
        let at = usize::from(passes.first().is_some_and(|pass| pass.name() == Equalise::NAME));
        Ok((at, Box::new(moves) as Box<dyn Pass>))
    };
    Repair { name: RoundWeights::NAME, find: Box::new(find) }
}
