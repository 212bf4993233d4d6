//! Repairs: what gives a quantised candidate quality back at no cost in time, each as a transaction that is kept only where the search split says so.
//!
//! 8-bit arithmetic loses quality for four reasons, and each has its remedy. They are tried in this order:
//!
//! | what is lost | remedy | where |
//! |---|---|---|
//! | channels that share a range differ in size, so the small ones have few codes | equalisation (Nagel et al. 2019, section 4.1; Xiao et al. 2022, equation 4) before ranges are seen, as a variant beside the plain ones: the one that keeps most goes on | [`super::int8::equalise`] |
//! | weights take the nearest code whatever the others do | rounding by second moments (Frantar et al. 2022) | [`super::int8::round`] |
//! | rounding and clipping shift the mean of an output channel | bias correction (Nagel et al. 2019, section 4.2) | [`super::int8::correction`] |
//! | a few sites do more harm than all others | they stay in float (mixed precision, by measured harm); this alone costs time, so it comes last | `mixed` |
//!
//! Which repairs help is found once, with all sites on codes. They are part of every choice of sites from then on, their numbers found anew for each: whatever is left out
//! changes what is rounded and shifted.
//!
//! The numbers that a repair finds are parameters of its pass, so a recipe repeats it without data, clock or engine. What did not help is in the candidate's records as rolled
//! back, with the figures.

use std::ops::Deref;
use std::time::Instant;

use super::driver::{Outcome, PassRecord, Work};
use super::search::{Candidate, Judge, Limits, Score, Variant, make_by, score};
use crate::model::Pass;

/// A pass that may repair a variant; which numbers it has is found for one choice of sites.
pub struct Repair {
    /// Name of the pass.
    pub name: &'static str,
    /// What the base and the passes of a choice of sites are missing: the pass, and before which of them it goes; or in words why there is none. Nothing is begun after the
    /// instant.
    pub find: Find,
}

/// See [`Repair::find`].
pub type Find = Box<dyn Fn(&Work, &[Box<dyn Pass>], Instant) -> Result<(usize, Box<dyn Pass>), String>>;

/// The least that counts as an improvement, as a share of the room above the gate: less is what other samples would undo.
const LEAST_GAIN: f64 = 0.01;

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
        self.found(base, mask, limits).0
    }

    /// The passes for a choice of sites, and why repairs found nothing to do.
    fn found(&self, base: &Work, mask: &[bool], limits: &Limits) -> (Vec<Box<dyn Pass>>, Vec<String>) {
        let mut passes = (self.variant.build)(mask);
        let mut nothing = Vec::new();
        for repair in &self.kept {
            match (repair.find)(base, &passes, limits.deadline) {
                Ok((at, pass)) => passes.insert(at, pass),
                Err(reason) => nothing.push(reason),
            }
        }
        (passes, nothing)
    }

    /// The whole with these repairs, where that keeps more than `before`; else the record of `new`, those of them that are new in it.
    fn tried(
        self,
        base: &Work,
        before: &Candidate,
        new: &[&'static str],
        limits: &Limits,
        judge: &mut dyn Judge,
    ) -> Result<(Candidate, Self), Box<PassRecord>> {
        let name = new.join(" and ");
        judge.trying(&format!("{} with {name}", before.name));
        let began = Instant::now();
        let mask = vec![true; self.variant.sites.len()];
        let (passes, nothing) = self.found(base, &mask, limits);
        let told = |outcome: Outcome, reason: String| {
            let seconds = began.elapsed().as_secs_f64();
            Box::new(PassRecord { outcome, seconds, ..PassRecord::skipped(&name, reason, &base.model) })
        };
        if !nothing.is_empty() {
            return Err(told(Outcome::Skipped, nothing.join("; ")));
        }
        let mut tried = make_by(base, self.variant, &mask, &passes, limits);
        score(&mut tried, judge);
        let said = tried.refused.clone().unwrap_or_else(|| change(&before.quality, &tried.quality));
        if tried.refused.is_some() || gain(&before.quality, &tried.quality) < LEAST_GAIN {
            return Err(told(Outcome::RolledBack, format!("no gain: {said}")));
        }
        // Its time is what it took to find its numbers, which is nearly all that it costs.
        for record in tried.records.iter_mut().filter(|record| new.contains(&record.name.as_str())) {
            (record.reason, record.seconds) = (Some(said.clone()), began.elapsed().as_secs_f64());
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
        match (Mended { variant, kept: with }).tried(base, &candidate, &[repair.name], limits, judge) {
            Ok((better, by)) => (candidate, mended) = (better, by),
            Err(record) => undone.push(*record),
        }
        all.push(repair);
    }
    if mended.kept.len() < all.len() && all.len() > 1 && Instant::now() < limits.deadline {
        let names: Vec<&'static str> = all.iter().map(|repair| repair.name).collect();
        match (Mended { variant, kept: all }).tried(base, &candidate, &names, limits, judge) {
            Ok((better, by)) => (candidate, mended, undone) = (better, by, Vec::new()),
            Err(record) => undone.push(*record),
        }
    }
    candidate.records.extend(undone);
    (candidate, mended)
}

/// What is gained in the worst metric, as a share of the room above its gate. Both count by the slack that the first needs: how much a candidate needs is known closely only of
/// one that is good enough.
fn gain(before: &[Score], after: &[Score]) -> f64 {
    let worst = |scores: &[Score]| {
        let margin = |score: &Score| {
            let needed = before.iter().find(|b| b.metric == score.metric).map_or(score.needed, |b| b.needed);
            score.slack() - needed
        };
        scores.iter().map(margin).fold(f64::INFINITY, f64::min)
    };
    let gain = worst(after) - worst(before);
    if gain.is_nan() { f64::NEG_INFINITY } else { gain }
}

/// What became of each metric, in words.
fn change(before: &[Score], after: &[Score]) -> String {
    let pairs = before.iter().filter_map(|b| Some((b, after.iter().find(|a| a.metric == b.metric)?)));
    let words = pairs.map(|(b, a)| format!("{} {:.4} -> {:.4}", b.metric, b.estimate, a.estimate));
    let words: Vec<String> = words.collect();
    format!("{} on the search split", if words.is_empty() { "nothing to compare".to_owned() } else { words.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(metric: &str, estimate: f64, needed: f64) -> Score {
        Score { metric: metric.into(), estimate, threshold: 0.9, needed }
    }

    #[test]
    fn what_counts_is_the_worst_metric_by_what_the_first_candidate_needs() {
        let before = [score("a", 0.95, 0.5), score("b", 0.88, 0.1)];
        // Once every metric is good enough, what is needed is known more closely, and it may be more.
        let after = [score("a", 0.95, 0.7), score("b", 0.96, 0.1)];
        assert!((gain(&before, &after) - 0.3).abs() < 1e-9, "{}", gain(&before, &after));
        assert!(gain(&before, &before).abs() < 1e-12);
        assert_eq!(change(&before, &after), "a 0.9500 -> 0.9500, b 0.8800 -> 0.9600 on the search split");
    }

    #[test]
    fn what_became_no_number_is_no_gain_and_what_was_none_is() {
        let (good, none) = ([score("a", 0.95, 0.1)], [score("a", f64::NAN, 0.1)]);
        assert_eq!(gain(&good, &none), f64::NEG_INFINITY);
        assert_eq!(gain(&none, &none), f64::NEG_INFINITY);
        assert_eq!(gain(&none, &good), f64::INFINITY);
        assert_eq!(gain(&[], &[]), f64::NEG_INFINITY, "nothing was measured");
    }
}
