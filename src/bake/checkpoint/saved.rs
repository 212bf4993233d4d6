//! What the search ended with, as it is kept: steps in place of models.

use serde::{Deserialize, Serialize};

use crate::api::ResolvedJob;
use crate::bake::calibrated::CalibrationFigures;
use crate::bake::intake::Loaded;
use crate::bake::report::SearchFigures;
use crate::bake::{Search, passes};
use crate::optimizer::{Candidate, Missed, PassRecord, Scan, Score, Speed, Step, Work};

/// The end of stage Optimize.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Optimized {
    lossless: Vec<PassRecord>,
    candidates: Vec<SavedCandidate>,
    ran: Option<SearchFigures>,
    calibration: Option<CalibrationFigures>,
    remarks: Vec<String>,
}

/// A candidate without its model.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SavedCandidate {
    name: String,
    /// All steps from the input on.
    steps: Vec<Step>,
    /// Digest of the model as one file. A refused candidate has none: nobody runs it again.
    sha256: Option<String>,
    records: Vec<PassRecord>,
    quality: Vec<Score>,
    deviation: Option<f64>,
    speed: Option<Speed>,
    bytes: usize,
    nodes: usize,
    left_out: Vec<String>,
    refused: Option<String>,
    missed: Option<Missed>,
    scan: Option<Scan>,
}

impl Optimized {
    pub(super) fn of(search: &Search) -> Self {
        Self {
            lossless: search.lossless.clone(),
            candidates: search.candidates.iter().map(SavedCandidate::of).collect(),
            ran: search.ran,
            calibration: search.calibration.clone(),
            remarks: search.remarks.clone(),
        }
    }

    /// Makes the models again. An error is a sentence that says why they are not those that were measured.
    pub(super) fn replay(self, job: &ResolvedJob, loaded: &Loaded) -> Result<Search, String> {
        let input = Work { model: loaded.model.clone(), facts: loaded.facts.clone(), steps: Vec::new() };
        // A recipe brings its own facts, and is checked as a whole.
        let begin = match &job.recipe {
            Some(pinned) => passes::replay(pinned, &loaded.model).map_err(|e| e.to_string())?,
            None => input.clone(),
        };
        // Most candidates begin with the same lossless passes.
        let shared = shared_steps(self.candidates.iter().filter(|c| c.refused.is_none()).map(|c| c.steps.as_slice()));
        let base = passes::go_on(&begin, shared)?;
        let candidates = self.candidates.iter().map(|c| c.replay(&input, &base)).collect::<Result<_, _>>()?;
        let Self { lossless, ran, calibration, remarks, .. } = self;
        Ok(Search { lossless, candidates, ran, calibration, remarks })
    }
}

impl SavedCandidate {
    fn of(candidate: &Candidate) -> Self {
        let Candidate { name, work, records, quality, deviation, speed, bytes, nodes, left_out, refused, missed, scan } =
            candidate;
        Self {
            name: name.clone(),
            steps: work.steps.clone(),
            sha256: refused.is_none().then(|| work.model.sha256()),
            records: records.clone(),
            quality: quality.clone(),
            deviation: *deviation,
            speed: *speed,
            bytes: *bytes,
            nodes: *nodes,
            left_out: left_out.clone(),
            refused: refused.clone(),
            missed: missed.clone(),
            scan: scan.clone(),
        }
    }

    fn replay(&self, input: &Work, base: &Work) -> Result<Candidate, String> {
        let work = if self.refused.is_some() {
            Work { steps: self.steps.clone(), ..input.clone() }
        } else {
            let work = passes::go_on(base, &self.steps)?;
            let given = work.model.sha256();
            if self.sha256.as_ref() != Some(&given) {
                return Err(format!("the steps of '{}' give other bytes than they gave", self.name));
            }
            work
        };
        Ok(Candidate {
            name: self.name.clone(),
            work,
            records: self.records.clone(),
            quality: self.quality.clone(),
            deviation: self.deviation,
            speed: self.speed,
            bytes: self.bytes,
            nodes: self.nodes,
            left_out: self.left_out.clone(),
            refused: self.refused.clone(),
            missed: self.missed.clone(),
            scan: self.scan.clone(),
        })
    }
}

/// The steps that all begin with.
fn shared_steps<'a>(all: impl Iterator<Item = &'a [Step]>) -> &'a [Step] {
    all.reduce(|a, b| &a[..a.iter().zip(b).take_while(|(a, b)| a == b).count()]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::Builder;
    use crate::model::{DType, Facts};
    use crate::optimizer::{How, SiteHarm};

    fn steps(names: &[&str]) -> Vec<Step> {
        names.iter().map(|name| Step { pass: (*name).to_owned(), parameters: serde_json::Value::Null }).collect()
    }

    fn input() -> Work {
        let model = Builder::new(17)
            .input("x", DType::F32, &["N"])
            .node("Relu", &["x"], "y", vec![])
            .output("y", DType::F32, &["N"])
            .build();
        Work { model, facts: Facts::default(), steps: Vec::new() }
    }

    fn candidate(refused: Option<&str>) -> Candidate {
        Candidate { refused: refused.map(str::to_owned), ..Candidate::new("c", input()) }
    }

    #[test]
    fn shared_steps_are_those_that_all_begin_with() {
        let (a, b, c) = (steps(&["fold", "bias", "int8"]), steps(&["fold", "bias"]), steps(&["fold", "half"]));
        assert_eq!(shared_steps([a.as_slice(), b.as_slice()].into_iter()), b);
        assert_eq!(shared_steps([a.as_slice(), b.as_slice(), c.as_slice()].into_iter()), &a[..1]);
        assert_eq!(shared_steps(std::iter::empty()), []);
    }

    #[test]
    fn a_candidate_that_gives_other_bytes_is_not_taken_over() {
        let saved = SavedCandidate::of(&candidate(None));
        assert_eq!(saved.replay(&input(), &input()).unwrap().work.model, input().model);
        let other = SavedCandidate { sha256: Some("0".into()), ..saved };
        assert!(other.replay(&input(), &input()).unwrap_err().contains("other bytes"));
        let unknown = SavedCandidate { steps: steps(&["no such pass"]), ..SavedCandidate::of(&candidate(None)) };
        assert!(unknown.replay(&input(), &input()).unwrap_err().contains("no such pass"));
    }

    #[test]
    fn what_the_search_measured_is_the_same_after_it_was_kept_and_read() {
        let harm = SiteHarm { site: "c".into(), part: "Conv".into(), work: 9, harm: Some(1.0 / 3.0), how: How::Alone };
        let scan = Scan { without: Some(0.0), together: Some(0.1 + 0.2), sites: vec![harm] };
        let missed = Missed {
            metric: "OutputConsistency".into(),
            estimate: 0.9,
            threshold: 0.95,
            at_least: true,
            needed: 0.975,
            on_verdict: false,
        };
        let refused = Candidate { scan: Some(scan), missed: Some(missed), ..candidate(Some("too near")) };
        let search = Search {
            lossless: Vec::new(),
            candidates: vec![refused],
            ran: Some(SearchFigures { seconds: 1.0 / 3.0, judged: 2, glanced: 3, timed: 1 }),
            calibration: Some(crate::bake::calibrated::tests::figures()),
            remarks: vec!["said".into()],
        };
        let text = serde_json::to_string(&Optimized::of(&search)).unwrap();
        let kept: Optimized = serde_json::from_str(&text).unwrap();
        assert_eq!((kept.ran, kept.calibration, kept.remarks), (search.ran, search.calibration, search.remarks));
        let again = kept.candidates[0].replay(&input(), &input()).unwrap();
        assert_eq!((&again.scan, &again.missed), (&search.candidates[0].scan, &search.candidates[0].missed));
    }

    #[test]
    fn a_refused_candidate_keeps_its_steps_and_its_reason_and_is_not_made_again() {
        let mut refused = candidate(Some("slower"));
        refused.work.steps = steps(&["no such pass"]);
        let again = SavedCandidate::of(&refused).replay(&input(), &input()).unwrap();
        assert_eq!((again.work.steps, again.refused.as_deref()), (refused.work.steps, Some("slower")));
    }
}
