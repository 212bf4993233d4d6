//! Repairs: what gives a quantised candidate quality back at no cost in time, each as a transaction that is kept only where the search split says so.
//!
//! 8-bit arithmetic loses quality for five reasons, and each has its remedy. They are tried in this order:
//!
//! | what is lost | remedy | where |
//! |---|---|---|
//! | a range that clips what counts, or spreads its codes over what does not | the range that leaves least harm, tensor by tensor | [`super::int8::qdq::measured`] |
//! | channels that share a range differ in size, so the small ones have few codes | equalisation (Nagel et al. 2019, section 4.1; Xiao et al. 2022, equation 4) before ranges are seen, as a variant beside the plain ones: the one that keeps most goes on | [`super::int8::equalise`] |
//! | weights take the nearest code whatever the others do | rounding by second moments (Frantar et al. 2022) | [`super::int8::round`] |
//! | rounding and clipping shift the mean of an output channel | bias correction (Nagel et al. 2019, section 4.2) | [`super::int8::correction`] |
//! | a few sites do more harm than all others | they stay in float (mixed precision, by measured harm); this alone costs time, so it comes last | `mixed` |
//!
//! Which repairs help is found once, with all sites on codes. They are part of every choice of sites from then on, their numbers found anew for each: whatever is left out
//! changes what is rounded and shifted. Ranges are those of their tensors alone, and stay.
//!
//! The numbers that a repair finds are parameters of its pass, so a recipe repeats it without data, clock or engine. What did not help is in the candidate's records as rolled
//! back, with the figures.

use std::ops::Deref;
use std::time::Instant;

use super::driver::{Outcome, PassRecord, Work};
use super::search::{Candidate, Judge, Limits, Variant, make_by, score};
use crate::model::{Model, Pass};

/// What may repair a variant; which numbers it has is found for one choice of sites.
pub struct Repair {
    /// Its name.
    pub name: &'static str,
    /// Name of the pass that has its numbers.
    pub pass: &'static str,
    /// Puts what the passes of a choice of sites are missing among them, or says why there is nothing. Nothing is begun after the instant.
    pub find: Find,
}

/// See [`Repair::find`].
pub type Find = Box<dyn Fn(&Work, &mut Vec<Box<dyn Pass>>, Instant, Option<Measure<'_>>) -> Result<(), String>>;

/// The harm of a model; see [`Judge::harm`]. `None` where it does not run.
pub type Measure<'m> = &'m mut dyn FnMut(&Model) -> Option<f64>;

/// The least that counts as an improvement, as a share of how far the outputs are off: less is what other samples would undo.
const LEAST_GAIN: f64 = 0.02;

/// A variant with those of its repairs that helped it as a whole.
pub(super) struct Mended<'v> {
    variant: &'v Variant,
    kept: Vec<&'v Repair>,
}

impl Deref for Mended<'_> {
    type Target = Variant;

    fn deref(&self) -> &Variant {
        self.variant
    }
}

impl<'v> Mended<'v> {
    /// The variant as it is.
    pub(super) fn plain(variant: &'v Variant) -> Self {
        Self { variant, kept: Vec::new() }
    }

    /// The variant without its repairs.
    pub(super) fn variant(&self) -> &'v Variant {
        self.variant
    }

    /// The passes for a choice of sites. A repair that finds nothing to do for it is left out.
    pub(super) fn passes(&self, base: &Work, mask: &[bool], limits: &Limits) -> Vec<Box<dyn Pass>> {
        self.found(base, mask, limits, None).0
    }

    /// The passes for a choice of sites, and why repairs found nothing to do.
    fn found(
        &self,
        base: &Work,
        mask: &[bool],
        limits: &Limits,
        judge: Option<&mut dyn Judge>,
    ) -> (Vec<Box<dyn Pass>>, Vec<String>) {
        let mut passes = (self.variant.build)(mask);
        let mut nothing = Vec::new();
        let mut measure = judge.map(|judge| |model: &Model| judge.harm(model).ok());
        for repair in &self.kept {
            let measure = measure.as_mut().map(|measure| measure as Measure<'_>);
            if let Err(reason) = (repair.find)(base, &mut passes, limits.deadline, measure) {
                nothing.push(reason);
            }
        }
        (passes, nothing)
    }

    /// The whole with these repairs, where that keeps more than `before`; else the record of `new`, those of them that are new in it.
    fn tried(
        self,
        base: &Work,
        before: &Candidate,
        new: &[&'v Repair],
        limits: &Limits,
        judge: &mut dyn Judge,
    ) -> Result<(Candidate, Self), Box<PassRecord>> {
        let names: Vec<&str> = new.iter().map(|repair| repair.name).collect();
        let name = names.join(" and ");
        judge.trying(&format!("{} with {name}", before.name));
        let began = Instant::now();
        let mask = vec![true; self.variant.sites.len()];
        let (passes, nothing) = self.found(base, &mask, limits, Some(&mut *judge));
        let told = |outcome: Outcome, reason: String| {
            let seconds = began.elapsed().as_secs_f64();
            Box::new(PassRecord { outcome, seconds, ..PassRecord::skipped(&name, reason, &base.model) })
        };
        if !nothing.is_empty() {
            return Err(told(Outcome::Skipped, nothing.join("; ")));
        }
        let mut tried = make_by(base, self.variant, &mask, &passes, limits);
        score(&mut tried, judge);
        let said = tried.refused.clone().unwrap_or_else(|| change(before, &tried));
        if tried.refused.is_some() || !helps(before, &tried) {
            return Err(told(Outcome::RolledBack, format!("no gain: {said}")));
        }
        // Its time is what it took to find its numbers, which is nearly all that it costs.
        for record in &mut tried.records {
            if new.iter().any(|repair| repair.name == record.name) {
                (record.reason, record.seconds) = (Some(said.clone()), began.elapsed().as_secs_f64());
            } else if new.iter().any(|repair| repair.pass == record.name) {
                record.reason = Some(format!("{name}: {said}"));
            }
        }
        Ok((tried, self))
    }
}

/// The candidate of all sites of a variant with every repair that helps; what does not is told in its records.
///
/// Errors that cancel each other hide what one repair is worth: rounding shifts means one way, clipping the other. So where one of them does not help by itself, all are tried
/// together.
pub(super) fn mend<'v>(
    base: &Work,
    variant: &'v Variant,
    mut candidate: Candidate,
    limits: &Limits,
    judge: &mut dyn Judge,
) -> (Candidate, Mended<'v>) {
    let mut mended = Mended::plain(variant);
    let mut undone = Vec::new();
    let mut all = Vec::new();
    for repair in &variant.repairs {
        if Instant::now() >= limits.deadline {
            break;
        }
        let with: Vec<&Repair> = mended.kept.iter().copied().chain([repair]).collect();
        match (Mended { variant, kept: with }).tried(base, &candidate, &[repair], limits, judge) {
            Ok((better, by)) => (candidate, mended) = (better, by),
            Err(record) => undone.push(*record),
        }
        all.push(repair);
    }
    if mended.kept.len() < all.len() && all.len() > 1 && Instant::now() < limits.deadline {
        match (Mended { variant, kept: all.clone() }).tried(base, &candidate, &all, limits, judge) {
            Ok((better, by)) => (candidate, mended, undone) = (better, by, Vec::new()),
            Err(record) => undone.push(*record),
        }
    }
    candidate.records.extend(undone);
    (candidate, mended)
}

/// Whether a candidate is worth more than `before`: its outputs are nearer to the input's, and it keeps the budget where that did.
fn helps(before: &Candidate, after: &Candidate) -> bool {
    after.off() < (1.0 - LEAST_GAIN) * before.off() && (after.keeps() || !before.keeps())
}

/// What became of the outputs and of each metric, in words.
fn change(before: &Candidate, after: &Candidate) -> String {
    let pairs = before.quality.iter().filter_map(|b| Some((b, after.quality.iter().find(|a| a.metric == b.metric)?)));
    let words = pairs.map(|(b, a)| format!(", {} {:.4} -> {:.4}", b.metric, b.estimate, a.estimate));
    let words: String = words.collect();
    format!("deviation {:.2e} -> {:.2e}{words} on the search split", before.off(), after.off())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Facts;
    use crate::model::build::Builder;
    use crate::optimizer::search::Score;

    fn candidate(deviation: f64, estimate: f64) -> Candidate {
        let work = Work { model: Builder::new(17).build(), facts: Facts::default(), steps: Vec::new() };
        Candidate {
            quality: vec![Score { metric: "a".into(), estimate, threshold: 0.9, least: 0.1, needed: 0.1 }],
            deviation: Some(deviation).filter(|d| d.is_finite()),
            ..Candidate::new("v", work)
        }
    }

    #[test]
    fn outputs_have_to_be_nearer_and_a_budget_that_was_kept_stays_kept() {
        let (kept, missed) = (candidate(0.1, 0.95), candidate(0.1, 0.5));
        assert!(helps(&kept, &candidate(0.09, 0.94)) && helps(&missed, &candidate(0.09, 0.4)));
        assert!(!helps(&kept, &candidate(0.09, 0.9)), "on the gate itself");
        assert!(!helps(&kept, &candidate(0.0999, 0.99)), "no more than other samples would undo");
        assert_eq!(
            change(&kept, &candidate(0.05, 0.96)),
            "deviation 1.00e-1 -> 5.00e-2, a 0.9500 -> 0.9600 on the search split"
        );
    }

    #[test]
    fn what_became_no_number_is_no_gain_and_what_was_none_is() {
        let (good, none) = (candidate(0.1, 0.95), candidate(f64::INFINITY, f64::NAN));
        assert!(!helps(&good, &none) && !helps(&none, &none) && helps(&none, &good));
    }
}
