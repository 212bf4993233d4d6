//! A variant once more, its weights moved to codes that change products less than the nearest do.

use std::rc::Rc;

use crate::model::Pass;
use crate::optimizer::int8::{RoundWeights, Rounder};
use crate::optimizer::search::Variant;

/// `variant` with [`RoundWeights`] before its passes, another of its kind: it runs the same kernels. The codes found are kept only where they keep more.
pub(super) fn rounded(variant: Variant, rounder: &Rc<Rounder>) -> Variant {
    let (plain, rounder) = (variant.build, Rc::clone(rounder));
    let build = move |mask: &[bool]| -> Vec<Box<dyn Pass>> {
        let passes = plain(mask);
        let moves = rounder
            .round(&passes)
            .unwrap_or_else(|error| RoundWeights { weights: Vec::new(), left: vec![error.to_string()] });
        // Where no weight gains this is `variant` again, which the pass then says by itself; of a part of the sites it may well be.
        let nothing = moves.weights.is_empty();
        let moves = Box::new(moves) as Box<dyn Pass>;
        match (nothing, mask.iter().all(|on| *on)) {
            (true, true) => vec![moves],
            (true, false) => passes,
            (false, _) => std::iter::once(moves).chain(passes).collect(),
        }
    };
    Variant { name: format!("{}-rounded", variant.name), build: Box::new(build), ..variant }
}
