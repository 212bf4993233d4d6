//! The best form of variants of one kind: which of them, which repairs, and which sites pay.

use std::cmp::Ordering;
use std::time::Instant;

use super::driver::{Outcome, Work};
use super::mixed;
use super::repair::{Mended, mend};
use super::search::{Candidate, Judge, Limits, Speed, Variant, attempt, first_part, make};
use super::sensitivity::Scan;
use crate::api::bakejob::Goal;

/// Variants of one kind that are repaired, the best first, until one keeps the budget.
const MOST_MENDED: usize = 2;

/// The best form of variants of one kind: all sites, or as many as the budget bears, or those that pay in time.
/// `without` is the speed of the model without any of them; `earlier` are candidates of other kinds.
pub(super) fn explore(
    base: &Work,
    alike: &[Variant],
    without: f64,
    earlier: &[Candidate],
    limits: &Limits,
    judge: &mut dyn Judge,
) -> Vec<Candidate> {
    let mut tried: Vec<(Candidate, &Variant)> = Vec::new();
    // Where errors meet each other inside the model, which of them keeps most is worth the look at all: they cost the same to run.
    let compared = alike.iter().any(|variant| variant.measured);
    for variant in alike {
        judge.trying(&variant.name);
        if let Some(slow) = variant.probe.and_then(|site| slow_alone(base, variant, site, without, limits, judge)) {
            return vec![slow];
        }
        let mut candidate = attempt(base, &Mended::plain(variant), &vec![true; variant.sites.len()], limits, judge);
        candidate.scan = Scan::estimated(variant);
        candidate.hold_less(base, earlier.iter().chain(tried.iter().map(|(other, _)| other)));
        let enough = candidate.keeps();
        tried.push((candidate, variant));
        tried.sort_by(|a, b| by_quality(&a.0, &b.0));
        // No more of them are mended, so the others need no model any more.
        tried.iter_mut().skip(MOST_MENDED).for_each(|(other, _)| other.let_go(base));
        if enough && !compared {
            break;
        }
    }
    let mut found = Vec::new();
    let (mut candidate, variant) = tried.remove(0);
    let mut mended = Mended::plain(variant);
    let mut worth = candidate.refused.is_none() && (variant.measured || candidate.margin() < 0.0);
    if worth && variant.measured {
        // Leaving sites out makes it slower still, so what is slow as a whole is not worth repairing.
        time(&mut candidate, judge);
        let small = variant.smallest && limits.goal != Goal::Latency;
        let slow = slow_as_a_whole(candidate.speed, without).filter(|_| !small);
        worth = slow.is_none();
        if candidate.margin() < 0.0 {
            candidate.refused = candidate.refused.or(slow);
        }
    }
    if worth && candidate.refused.is_none() {
        (candidate, mended) = mend_best(base, (candidate, variant), &mut tried, limits, judge);
    }
    for (mut other, _) in tried {
        let why = || format!("{} runs the same kernels and keeps more quality", candidate.name);
        other.refused = other.refused.take().or_else(|| Some(why()));
        found.push(other);
    }
    let mut mask = vec![true; mended.sites.len()];
    let mut scan = None;
    if candidate.refused.is_none() && candidate.margin() < 0.0 && !mended.only_whole {
        let mixed = mixed::mix(base, &mended, limits, judge);
        scan = mixed.scan;
        let mut unsure: Vec<(Candidate, &str)> = mixed.hopeful.into_iter().map(|most| (most, "most")).collect();
        let sure = mixed.found.map(|(sure, kept)| {
            mask = kept;
            sure
        });
        if let Some(better) = sure.or_else(|| unsure.pop().map(|(most, _)| most)) {
            let whole = std::mem::replace(&mut candidate, better);
            let rolled_back = whole.records.iter().filter(|record| record.outcome == Outcome::RolledBack);
            candidate.records.extend(rolled_back.cloned());
            unsure.extend(Some((whole, "whole")).filter(|(whole, _)| whole.is_hopeful()));
        }
        // Which of them is good enough, more samples tell.
        for (mut other, of_its_sites) in unsure {
            other.name = format!("{}-{of_its_sites}", other.name);
            time(&mut other, judge);
            found.push(other);
        }
    }
    candidate.scan = scan.or_else(|| Scan::estimated(&mended));
    if candidate.may_keep() {
        time(&mut candidate, judge);
    }
    let sure = candidate.keeps();
    found.push(candidate);
    if !sure {
        return found;
    }
    if mended.tunable > 0 && limits.goal != Goal::Size {
        let fewer = without_small_sites(base, &mended, &mask, limits, judge);
        found.extend(fewer.into_iter().filter(|c| c.margin() >= 0.0));
    }
    found
}

/// The best variant repaired, and while that is not enough the next best; what is no better stays in `others`. Takes half of the time that is left at most: what repairs cannot
/// mend, leaving sites out has to.
fn mend_best<'v>(
    base: &Work,
    (candidate, variant): (Candidate, &'v Variant),
    others: &mut [(Candidate, &'v Variant)],
    limits: &Limits,
    judge: &mut dyn Judge,
) -> (Candidate, Mended<'v>) {
    let limits = &Limits { deadline: first_part(limits.deadline, 2), ..limits.clone() };
    let (mut best, mut mended) = mend(base, variant, candidate, limits, judge);
    for (other, variant) in others.iter_mut().take(MOST_MENDED - 1) {
        if best.keeps() || other.refused.is_some() || Instant::now() >= limits.deadline {
            break;
        }
        let (repaired, by) = mend(base, variant, other.clone(), limits, judge);
        if by_quality(&repaired, &best).is_lt() {
            *other = std::mem::replace(&mut best, repaired);
            *variant = std::mem::replace(&mut mended, by).variant();
        }
    }
    (best, mended)
}

/// What may keep the budget before what does not, then by how far the outputs are off: how sure a few samples are of it is chance.
fn by_quality(a: &Candidate, b: &Candidate) -> Ordering {
    let key = |c: &Candidate| (c.refused.is_some(), c.below().is_some());
    key(a).cmp(&key(b)).then(a.off().total_cmp(&b.off()))
}

/// The candidate of one site alone, refused, where it is no faster than the model without it.
fn slow_alone(
    base: &Work,
    variant: &Variant,
    site: usize,
    without: f64,
    limits: &Limits,
    judge: &mut dyn Judge,
) -> Option<Candidate> {
    let alone: Vec<bool> = (0..variant.sites.len()).map(|s| s == site).collect();
    let mut candidate = make(base, &Mended::plain(variant), &alone, limits);
    if candidate.refused.is_none() {
        time(&mut candidate, judge);
    }
    let slow = candidate.speed.filter(|speed| speed.lower <= without);
    candidate.refused = candidate.refused.or_else(|| {
        slow.map(|s| {
            let name = &variant.sites[site].name;
            format!(
                "'{name}' alone is no faster: {:.2}x [{:.2}, {:.2}], without it {without:.2}x",
                s.ratio, s.lower, s.upper
            )
        })
    });
    candidate.refused.is_some().then_some(candidate)
}

fn slow_as_a_whole(speed: Option<Speed>, without: f64) -> Option<String> {
    let slow = speed.filter(|speed| speed.lower <= without)?;
    Some(format!(
        "no faster even as a whole: {:.2}x [{:.2}, {:.2}], without it {without:.2}x",
        slow.ratio, slow.lower, slow.upper
    ))
}

fn time(candidate: &mut Candidate, judge: &mut dyn Judge) {
    match judge.speed(&candidate.work.model) {
        Ok(speed) => candidate.speed = Some(speed),
        Err(error) => candidate.refused = Some(error.to_string()),
    }
}

/// Small sites may cost more in quantising their input than they save: the variant once more with the larger half and the largest quarter alone.
fn without_small_sites(
    base: &Work,
    variant: &Mended<'_>,
    mask: &[bool],
    limits: &Limits,
    judge: &mut dyn Judge,
) -> Vec<Candidate> {
    let tunable = variant.sites[..variant.tunable].iter().zip(mask).filter(|(site, on)| **on && !site.follows);
    let mut sizes: Vec<usize> = tunable.map(|(site, _)| site.elements).collect();
    sizes.sort_unstable();
    let mut thresholds: Vec<usize> =
        [sizes.len() / 2, sizes.len() * 3 / 4].into_iter().filter_map(|i| sizes.get(i).copied()).collect();
    thresholds.dedup();
    let mut found = Vec::new();
    for threshold in thresholds.into_iter().filter(|&t| sizes.first().is_some_and(|&smallest| t > smallest)) {
        let larger: Vec<bool> = variant
            .sites
            .iter()
            .zip(mask)
            .enumerate()
            .map(|(i, (s, on))| *on && (i >= variant.tunable || s.follows || s.elements >= threshold))
            .collect();
        let mut candidate = attempt(base, variant, &larger, limits, judge);
        let unit = if variant.measured { "multiplications" } else { "weights" };
        candidate.name = format!("{} from {threshold} {unit}", variant.name);
        if candidate.refused.is_none() {
            time(&mut candidate, judge);
        }
        found.push(candidate);
    }
    found
}
