//! Mixed precision: which sites of a variant stay in float, so that the rest keeps the budget.
//!
//! Where the variant asks for it, the harm of each site is measured. Then those are left out one after the other whose absence helps the rest most, as it then
//! is: errors add to each other and cancel each other, so what a site does alone says too little of it. Where a few do not suffice, sites are ordered by their
//! harm for what they save, the number that may stay is bisected, and what was left out is tried again one by one.

use std::time::{Duration, Instant};

use super::driver::Work;
use super::repair::Mended;
use super::search::{Candidate, Judge, Limits, attempt, first_part, make};
use super::sensitivity::Scan;

/// Sites that are left out one after the other before bisecting, and how many are looked at for each.
const MOST_DESCENTS: usize = 8;
const SHORTLIST: usize = 4;

/// Sites that are tried again after the bisection.
const MOST_RETURNS: usize = 8;

/// What came of leaving sites out.
pub(super) struct Mixed {
    /// A candidate that is sure to keep the budget, and which sites it has.
    pub(super) found: Option<(Candidate, Vec<bool>)>,
    /// One with more sites that may keep it.
    pub(super) hopeful: Option<Candidate>,
    /// The harm of the sites, where it was measured.
    pub(super) scan: Option<Scan>,
}

/// Leaves out the most harmful sites until the budget is kept. Where there are sites that compute, those are what is left out.
pub(super) fn mix(base: &Work, variant: &Mended<'_>, limits: &Limits, judge: &mut dyn Judge) -> Mixed {
    let (harms, scan) = if variant.measured {
        let (harms, scan) = scan(base, variant, limits, judge, first_part(limits.deadline, 2));
        (harms, Some(scan))
    } else {
        (variant.sites.iter().map(|site| site.error.powi(2)).collect(), None)
    };
    let mut mixed = Mixed { found: None, hopeful: None, scan };
    if variant.measured {
        descend(base, variant, &harms, limits, judge, &mut mixed);
    }
    if mixed.found.is_none() {
        divide(base, variant, &harms, limits, judge, &mut mixed);
    }
    mixed
}

/// Orders sites by their harm for what they save, bisects how many may stay, and tries once more what was left out.
fn divide(base: &Work, variant: &Mended<'_>, harms: &[f64], limits: &Limits, judge: &mut dyn Judge, mixed: &mut Mixed) {
    let count = variant.sites.len();
    let suspects = if variant.tunable > 0 { variant.tunable } else { count };
    // A site that is left out costs its size, so the large ones stay in as long as they can.
    let harm = |site: usize| harms[site] / variant.sites[site].elements.max(1) as f64;
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|&a, &b| (a < suspects).cmp(&(b < suspects)).then(harm(a).total_cmp(&harm(b))).then(a.cmp(&b)));
    // Where nothing was found yet that may keep the budget, that comes first: what is sure to has fewer sites.
    let hoping = variant.measured && mixed.hopeful.is_none();
    let enough = if hoping { Candidate::may_keep } else { Candidate::keeps };
    let mut found = bisect(base, variant, &order, order.len(), enough, limits, judge);
    if let Some((kept, (hopeful, _))) = found.take_if(|(_, (candidate, _))| !candidate.keeps()) {
        mixed.hopeful = Some(hopeful);
        found = bisect(base, variant, &order, kept, Candidate::keeps, limits, judge);
    }
    let returning = if variant.measured { MOST_RETURNS } else { 0 };
    mixed.found = found.map(|(kept, best)| give_back(base, variant, &order[kept..], best, returning, limits, judge));
}

/// Leaves out one site after the other until the budget is kept: each time that one of the most harmful whose absence leaves least harm.
fn descend(
    base: &Work,
    variant: &Mended<'_>,
    harms: &[f64],
    limits: &Limits,
    judge: &mut dyn Judge,
    mixed: &mut Mixed,
) {
    let until = first_part(limits.deadline, 2);
    let mut mask = vec![true; variant.sites.len()];
    let mut order: Vec<usize> = (0..variant.tunable).collect();
    order.sort_by(|&a, &b| harms[b].total_cmp(&harms[a]).then(a.cmp(&b)));
    for _ in 0..MOST_DESCENTS.min(variant.tunable.saturating_sub(1)) {
        let mut best: Option<(f64, usize)> = None;
        for &site in order.iter().take(SHORTLIST).filter(|_| Instant::now() < until) {
            mask[site] = false;
            if let Some(harm) = harm_of(base, variant, &mask, limits, judge)
                && best.is_none_or(|(least, _)| harm < least)
            {
                best = Some((harm, site));
            }
            mask[site] = true;
        }
        let Some((_, site)) = best else { return };
        mask[site] = false;
        order.retain(|&other| other != site);
        let candidate = attempt(base, variant, &mask, limits, judge);
        if candidate.keeps() {
            mixed.found = Some((candidate, mask));
            return;
        }
        if mixed.hopeful.is_none() && candidate.is_hopeful() {
            mixed.hopeful = Some(candidate);
        }
    }
}

/// The harm of a choice of sites; `None` where it does not run.
fn harm_of(base: &Work, variant: &Mended<'_>, mask: &[bool], limits: &Limits, judge: &mut dyn Judge) -> Option<f64> {
    let candidate = make(base, variant, mask, limits);
    // A choice that changes nothing harms nothing.
    if candidate.refused.is_some() { Some(0.0) } else { judge.harm(&candidate.work.model).ok() }
}

/// The most sites of `order`, from the first on, whose candidate is good enough, and that. At least one, and fewer than `most`: those were tried before.
fn bisect(
    base: &Work,
    variant: &Mended<'_>,
    order: &[usize],
    most: usize,
    enough: fn(&Candidate) -> bool,
    limits: &Limits,
    judge: &mut dyn Judge,
) -> Option<(usize, (Candidate, Vec<bool>))> {
    let (mut low, mut high) = (0, most);
    let mut best = None;
    while low + 1 < high && Instant::now() < limits.deadline {
        let middle = usize::midpoint(low, high);
        let mut mask = vec![false; order.len()];
        order[..middle].iter().for_each(|&site| mask[site] = true);
        let candidate = attempt(base, variant, &mask, limits, judge);
        if enough(&candidate) {
            (low, best) = (middle, Some((candidate, mask)));
        } else {
            high = middle;
        }
    }
    best.map(|best| (low, best))
}

/// Tries the sites that were left out once more, each by itself, the least harmful first: one bad one among them had condemned all behind it.
fn give_back(
    base: &Work,
    variant: &Mended<'_>,
    left_out: &[usize],
    mut best: (Candidate, Vec<bool>),
    most: usize,
    limits: &Limits,
    judge: &mut dyn Judge,
) -> (Candidate, Vec<bool>) {
    // The first is the one that the bisection failed at.
    for &site in left_out.iter().skip(1).take(most) {
        if Instant::now() >= limits.deadline {
            break;
        }
        let mut mask = best.1.clone();
        mask[site] = true;
        let candidate = attempt(base, variant, &mask, limits, judge);
        if candidate.keeps() {
            best = (candidate, mask);
        }
    }
    best
}

/// The measured harm of each site that computes: of it alone, or of one that follows its neighbours, what is gained by leaving it out. What there is no time
/// for, and the other sites, have their estimates in the same unit. The same for the report.
fn scan(base: &Work, variant: &Mended<'_>, limits: &Limits, judge: &mut dyn Judge, until: Instant) -> (Vec<f64>, Scan) {
    let count = variant.sites.len();
    let mut harm_of = |mask: &[bool]| harm_of(base, variant, mask, limits, judge);
    let (mut none, mut all) = (vec![false; count], vec![true; count]);
    let ends = [harm_of(&none), harm_of(&all)];
    let (harm_of_none, harm_of_all) = (ends[0].unwrap_or(0.0), ends[1].unwrap_or(1.0));
    let mut measured: Vec<Option<f64>> = vec![None; count];
    // The largest first: they decide most, and time may run out.
    let mut order: Vec<usize> = (0..variant.tunable).collect();
    order.sort_by_key(|&site| (std::cmp::Reverse(variant.sites[site].elements), site));
    let began = Instant::now();
    for (done, site) in order.into_iter().enumerate() {
        let each = if done == 0 { Duration::ZERO } else { began.elapsed() / done as u32 };
        if Instant::now() + each >= until {
            break;
        }
        let harm = if variant.sites[site].follows {
            all[site] = false;
            let harm = harm_of(&all).map(|harm| harm_of_all - harm);
            all[site] = true;
            harm
        } else {
            none[site] = true;
            let harm = harm_of(&none).map(|harm| harm - harm_of_none);
            none[site] = false;
            harm
        };
        // A model that fails to run with it is as harmed as can be.
        measured[site] = Some(harm.unwrap_or(f64::INFINITY).max(0.0));
    }
    let estimate = |site: usize| variant.sites[site].error.powi(2);
    let known =
        || measured.iter().enumerate().filter_map(|(site, m)| Some((site, (*m)?))).filter(|(_, m)| m.is_finite());
    let (seen, guessed) = known().fold((0.0, 0.0), |(a, b), (site, m)| (a + m, b + estimate(site)));
    let unit = if guessed > 0.0 && seen > 0.0 { seen / guessed } else { 1.0 };
    let harms: Vec<f64> =
        measured.iter().enumerate().map(|(site, m)| m.unwrap_or_else(|| estimate(site) * unit)).collect();
    let scan = Scan::measured(variant, ends, &measured, &harms);
    (harms, scan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::bakejob::Goal;
    use crate::engine::EngineError;
    use crate::model::build::Builder;
    use crate::model::edit::{is_op, node};
    use crate::model::{DType, Effect, Facts, Model, Pass, PassError};
    use crate::optimizer::repair::{Measure, Repair, mend};
    use crate::optimizer::search::{Quality, Score, SiteInfo, Speed, Variant, search};
    use crate::optimizer::sensitivity::How;

    /// Marks the model with the sites that are on, each as a node of its own.
    struct Mark(Vec<usize>);

    impl Pass for Mark {
        fn name(&self) -> &'static str {
            "mark"
        }

        fn apply(&self, model: &mut Model, _: &mut Facts) -> Result<Effect, PassError> {
            for site in &self.0 {
                model.graph_mut().node.push(node("Relu", "", &["x"], &[&format!("site{site}")], vec![]));
            }
            Ok(Effect::rewrites(self.0.len(), "nothing is on"))
        }
    }

    /// Halves the harm of whatever is on.
    struct Mend;

    impl Pass for Mend {
        fn name(&self) -> &'static str {
            "mend"
        }

        fn apply(&self, model: &mut Model, _: &mut Facts) -> Result<Effect, PassError> {
            model.graph_mut().node.push(node("Relu", "", &["x"], &["mended"], vec![]));
            Ok(Effect::rewrites(1, ""))
        }
    }

    /// Sites of known harm, which adds up; the budget is 1.
    struct Known {
        harms: Vec<f64>,
        measured: usize,
    }

    impl Known {
        fn sum(&self, model: &Model) -> f64 {
            let marked = || model.graph().node.iter().filter(|n| is_op(n, "Relu"));
            let harm = |output: &str| self.harms.get(output.strip_prefix("site")?.parse::<usize>().ok()?);
            let sum: f64 = marked().filter_map(|n| harm(&n.output[0])).sum();
            if marked().any(|n| n.output[0] == "mended") { sum / 2.0 } else { sum }
        }
    }

    impl Judge for Known {
        fn quality(&mut self, candidate: &Model) -> Result<Quality, EngineError> {
            let deviation = self.sum(candidate);
            let score =
                Score { metric: "m".into(), estimate: 1.0 - deviation / 2.0, threshold: 0.5, least: 0.0, needed: 0.0 };
            Ok(Quality { scores: vec![score], deviation })
        }

        fn speed(&mut self, _: &Model) -> Result<Speed, EngineError> {
            Ok(Speed { ratio: 2.0, lower: 1.9, upper: 2.1, n: 9 })
        }

        fn harm(&mut self, candidate: &Model) -> Result<f64, EngineError> {
            self.measured += 1;
            Ok(self.sum(candidate))
        }

        fn trying(&mut self, _: &str) {}
    }

    fn base() -> Work {
        let model = Builder::new(17)
            .input("x", DType::F32, &["N"])
            .node("Abs", &["x"], "y", vec![])
            .output("y", DType::F32, &["N"])
            .build();
        Work { model, facts: Facts::default(), steps: Vec::new() }
    }

    fn variant(harms: &[f64], follows: &[usize], measured: bool) -> Variant {
        let site = |at: usize| SiteInfo {
            name: format!("site{at}"),
            part: "Conv",
            elements: 10,
            // The estimates say the opposite of the truth.
            error: 1.0 / (1.0 + harms[at]),
            follows: follows.contains(&at),
        };
        Variant {
            name: "v".into(),
            kind: "k",
            sites: (0..harms.len()).map(site).collect(),
            build: Box::new(|mask| {
                let on = mask.iter().enumerate().filter(|(_, on)| **on).map(|(at, _)| at).collect();
                vec![Box::new(Mark(on)) as Box<dyn Pass>]
            }),
            probe: None,
            tunable: harms.len(),
            measured,
            smallest: false,
            only_whole: false,
            repairs: Vec::new(),
            begun: None,
        }
    }

    fn limits() -> Limits {
        let deadline = Instant::now() + Duration::from_mins(1);
        Limits { goal: Goal::Latency, input_bytes: 1, deadline, measuring: Duration::ZERO, room: None }
    }

    fn mixed(harms: &[f64], follows: &[usize], measured: bool) -> (Vec<bool>, usize) {
        let mut judge = Known { harms: harms.to_vec(), measured: 0 };
        let variant = variant(harms, follows, measured);
        let mixed = mix(&base(), &Mended::plain(&variant), &limits(), &mut judge);
        assert_eq!(mixed.scan.is_some(), measured);
        (mixed.found.unwrap().1, judge.measured)
    }

    #[test]
    fn what_is_no_faster_as_a_whole_is_not_measured_site_by_site() {
        let harms = [0.1, 9.0];
        let mut judge = Known { harms: harms.to_vec(), measured: 0 };
        // This judge finds every model as fast as the one without any of it.
        let candidates = search(&base(), &[variant(&harms, &[], true)], &limits(), &mut judge);
        let refused = candidates.iter().find(|c| c.name == "v").unwrap().refused.clone().unwrap();
        assert!(refused.starts_with("no faster even as a whole: 2.00x"), "{refused}");
        assert_eq!(judge.measured, 0);
    }

    #[test]
    fn the_one_site_that_ruins_the_model_is_found_by_measuring_and_left_out_alone() {
        for bad in 0..7 {
            let mut harms = vec![0.05; 7];
            harms[bad] = 9.0;
            let (mask, measured) = mixed(&harms, &[bad], true);
            let expected: Vec<bool> = (0..7).map(|at| at != bad).collect();
            assert_eq!(mask, expected, "site {bad}");
            assert_eq!(measured, 1 + 7 + SHORTLIST, "all, each once (none changes nothing), and the worst once more");
        }
    }

    #[test]
    fn what_was_measured_goes_into_the_candidate_whether_it_keeps_the_budget_or_not() {
        /// As [`Known`], but faster with each site.
        struct Faster(Known);
        impl Judge for Faster {
            fn quality(&mut self, candidate: &Model) -> Result<Quality, EngineError> {
                self.0.quality(candidate)
            }
            fn speed(&mut self, candidate: &Model) -> Result<Speed, EngineError> {
                let sites = candidate.graph().node.iter().filter(|n| is_op(n, "Relu")).count() as f64;
                Ok(Speed { ratio: 2.0 + sites, lower: 1.9 + sites, upper: 2.1 + sites, n: 9 })
            }
            fn harm(&mut self, candidate: &Model) -> Result<f64, EngineError> {
                self.0.harm(candidate)
            }
            fn trying(&mut self, _: &str) {}
        }
        for (harms, kept) in [([0.2, 9.0, 0.1], true), ([9.0, 8.0, 7.0], false)] {
            let mut judge = Faster(Known { harms: harms.to_vec(), measured: 0 });
            let candidates = search(&base(), &[variant(&harms, &[1], true)], &limits(), &mut judge);
            let candidate = candidates.iter().find(|c| c.name == "v").unwrap();
            assert_eq!((candidate.refused.is_none(), candidate.missed.is_none()), (kept, kept), "{candidate:?}");
            let scan = candidate.scan.clone().unwrap();
            assert_eq!(scan.together.map(|h| (h * 10.0).round()), Some((harms.iter().sum::<f64>() * 10.0).round()));
            let mut sites: Vec<_> = scan.sites.iter().map(|s| (s.site.as_str(), s.harm.unwrap(), s.how)).collect();
            sites.sort_by(|a, b| a.0.cmp(b.0));
            for (at, (_, harm, how)) in sites.iter().enumerate() {
                assert!((harm - harms[at]).abs() < 1e-9, "{sites:?}");
                assert_eq!(*how, if at == 1 { How::LeftOut } else { How::Alone });
            }
        }
    }

    #[test]
    fn as_many_stay_as_the_budget_bears_the_least_harmful_first() {
        let (mask, _) = mixed(&[0.1, 0.9, 0.2, 0.6, 0.3], &[], true);
        assert_eq!(mask, [true, false, true, false, true], "0.1 + 0.2 + 0.3 fits, 0.6 more does not");
    }

    #[test]
    fn one_with_more_sites_that_may_be_good_enough_comes_beside_the_one_that_is_sure_to_be() {
        /// As [`Known`], but what it measures is only sure to a half.
        struct Unsure(Known);
        impl Judge for Unsure {
            fn quality(&mut self, candidate: &Model) -> Result<Quality, EngineError> {
                let mut quality = self.0.quality(candidate)?;
                quality.scores[0].needed = 0.5;
                Ok(quality)
            }
            fn speed(&mut self, candidate: &Model) -> Result<Speed, EngineError> {
                self.0.speed(candidate)
            }
            fn harm(&mut self, candidate: &Model) -> Result<f64, EngineError> {
                self.0.harm(candidate)
            }
            fn trying(&mut self, _: &str) {}
        }
        for measured in [true, false] {
            let mut harms = vec![0.02; 40];
            harms[..12].fill(0.3);
            let mut judge = Unsure(Known { harms: harms.clone(), measured: 0 });
            let variant = variant(&harms, &[], measured);
            let mixed = mix(&base(), &Mended::plain(&variant), &limits(), &mut judge);
            let (sure, mask) = mixed.found.unwrap();
            assert!(sure.keeps() && !sure.is_hopeful());
            let sites = |candidate: &Candidate| 40 - candidate.left_out.len();
            assert_eq!(mask.iter().filter(|on| **on).count(), sites(&sure));
            if measured {
                let hopeful = mixed.hopeful.unwrap();
                assert!(hopeful.is_hopeful() && sites(&hopeful) > sites(&sure), "{:?}", hopeful.left_out);
            } else {
                assert!(mixed.hopeful.is_none(), "estimates are no reason to hope");
            }
        }
    }

    #[test]
    fn without_measuring_the_estimates_decide() {
        let (mask, measured) = mixed(&[0.1, 0.9, 0.2, 0.6, 0.3], &[], false);
        assert_eq!((mask, measured), (vec![false, true, false, false, false], 0));
    }

    #[test]
    fn what_repairs_help_the_whole_are_part_of_every_choice_of_sites() {
        let harms = [0.6, 0.7, 0.9];
        let mut mended = variant(&harms, &[], true);
        let find = |_: &Work, passes: &mut Vec<Box<dyn Pass>>, _: Instant, _: Option<Measure<'_>>| {
            passes.insert(0, Box::new(Mend));
            Ok(())
        };
        for (repairs, expected) in [(false, [true, false, false]), (true, [true, true, false])] {
            mended.repairs =
                Vec::from_iter(repairs.then(|| Repair { name: "mend", pass: "mend", find: Box::new(find) }));
            let mut judge = Known { harms: harms.to_vec(), measured: 0 };
            let all = attempt(&base(), &Mended::plain(&mended), &[true; 3], &limits(), &mut judge);
            let (whole, by) = mend(&base(), &mended, all, &limits(), &mut judge);
            assert!(!whole.keeps());
            let (candidate, mask) = mix(&base(), &by, &limits(), &mut judge).found.unwrap();
            assert_eq!(mask, expected);
            let named: Vec<&str> = candidate.work.steps.iter().map(|step| step.pass.as_str()).collect();
            assert_eq!(named, if repairs { vec!["mend", "mark"] } else { vec!["mark"] });
            assert!(candidate.keeps());
        }
    }
}
