//! What candidates hold: weights that two of them have alike once, those of their own in a file and not in memory, and of a refused one no model at all.

use std::collections::HashMap;

use bytes::Bytes;

use super::driver::Work;
use super::search::Candidate;
use crate::model::laid::lay_down;
use crate::model::mapped;

/// Smaller weights are not worth looking for.
const LEAST_BYTES: usize = 1 << 12;

impl Candidate {
    /// Puts `base` in the place of its model, which nobody runs any more. Its steps make it again.
    pub(super) fn let_go(&mut self, base: &Work) {
        let steps = std::mem::take(&mut self.work.steps);
        self.work = Work { steps, ..base.clone() };
    }

    /// Lets go of its model where it is refused, and else holds what is the same in another candidate only once: a table that every choice of sites stores in the same
    /// codes takes its room once and not in each of them. What is left is laid down: between two looks at a candidate others are made and measured.
    pub(super) fn hold_less<'c>(&mut self, base: &Work, others: impl IntoIterator<Item = &'c Self>) {
        if self.refused.is_some() {
            return self.let_go(base);
        }
        let mut known: HashMap<&str, Vec<&Bytes>> = HashMap::new();
        for tensor in others.into_iter().flat_map(|other| &other.work.model.graph().initializer) {
            known.entry(tensor.name()).or_default().extend(tensor.raw_data.as_ref());
        }
        for tensor in &mut self.work.model.graph_mut().initializer {
            let Some(alike) = known.get(tensor.name()) else { continue };
            let Some(own) = tensor.raw_data.as_mut().filter(|own| own.len() >= LEAST_BYTES) else { continue };
            if alike.iter().all(|other| other.as_ptr() != own.as_ptr())
                && let Some(same) = alike.iter().find(|other| **other == own)
            {
                *own = Bytes::clone(same);
            }
            mapped::put_down(own);
        }
        lay_down(&mut self.work.model);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::Builder;
    use crate::model::{DType, Facts, Tensor};
    use crate::optimizer::Step;

    fn candidate(weights: &[(&str, f32)]) -> Candidate {
        let mut builder = Builder::new(17);
        for (name, value) in weights {
            builder = builder.initializer(name, Tensor::new(&[2000], &[*value; 2000]));
        }
        let model = builder.output(weights[0].0, DType::F32, &["2000"]).build();
        let steps = vec![Step { pass: "p".into(), parameters: serde_json::Value::Null }];
        Candidate::new("c", Work { model, facts: Facts::default(), steps })
    }

    fn place(candidate: &Candidate, at: usize) -> *const u8 {
        candidate.work.model.graph().initializer[at].raw_data.as_ref().unwrap().as_ptr()
    }

    #[test]
    fn what_is_the_same_under_the_same_name_is_held_once_and_nothing_else_changes() {
        let (one, two) = (candidate(&[("a", 1.0), ("b", 2.0)]), candidate(&[("b", 3.0), ("a", 1.0)]));
        let mut third = candidate(&[("a", 1.0), ("b", 3.0), ("c", 1.0)]);
        let before = third.work.model.clone();
        third.hold_less(&one.work, [&one, &two]);
        assert_eq!(third.work.model, before);
        assert_eq!((place(&third, 0), place(&third, 1)), (place(&one, 0), place(&two, 0)));
        assert!(![place(&one, 0), place(&two, 1)].contains(&place(&third, 2)), "another name is another weight");
    }

    #[test]
    fn a_refused_candidate_keeps_its_steps_and_not_its_model() {
        let base = candidate(&[("a", 1.0)]).work;
        let mut refused = candidate(&[("a", 5.0)]);
        refused.refused = Some("slower".into());
        refused.hold_less(&base, []);
        assert_eq!((refused.work.model, refused.work.steps.len()), (base.model, 1));
    }

    #[test]
    fn weights_of_its_own_lie_in_a_file_once_for_all_candidates() {
        let large = |values: f32| {
            let weights = Tensor::new(&[300_000], &vec![values; 300_000]);
            let model = Builder::new(17).initializer("a", weights).output("a", DType::F32, &["300000"]).build();
            Candidate::new("c", Work { model, facts: Facts::default(), steps: Vec::new() })
        };
        let (mut one, mut two) = (large(1.0), large(1.0));
        let before = one.work.model.clone();
        one.hold_less(&one.work.clone(), []);
        two.hold_less(&one.work.clone(), [&one]);
        assert_eq!((&one.work.model, &two.work.model), (&before, &before));
        assert_eq!(place(&one, 0), place(&two, 0));
        assert!(mapped::is_mapped(one.work.model.graph().initializer[0].raw_data.as_ref().unwrap()));
    }
}
