//! Which earlier results go: a decision over names, times and digests alone.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::api::job::Keep;
use crate::bake::Name;

/// A promotion, by the SHA-256 of what was promoted.
#[derive(Debug, Clone)]
pub(super) struct Promoted {
    pub(super) model: String,
    /// Its evidence, where the history names it.
    pub(super) report: Option<String>,
}

/// Those that are too many or too old, oldest first. `earlier` does not hold the newest result of all, which lies at the top and always stays.
pub(super) fn due(earlier: &[Name], keep: &Keep, now: Timestamp) -> Vec<Name> {
    let mut newest_first = earlier.to_vec();
    newest_first.sort_by(|a, b| b.cmp(a));
    let oldest = SignedDuration::from_hours(24 * i64::from(keep.days));
    let older: Vec<Name> = newest_first
        .into_iter()
        .enumerate()
        .filter(|(before, name)| before + 2 > keep.runs || now.duration_since(name.time) > oldest)
        .map(|(_, name)| name)
        .collect();
    older.into_iter().rev().collect()
}

/// Whether a result stands in a history of promotions. Bakes of one model may end in the same artifact: then it is the one whose report was promoted with
/// it, as long as that is among `all`, and else each of them.
pub(super) fn is_promoted(name: &Name, model: Option<&str>, all: &[Name], promoted: &[Promoted]) -> bool {
    promoted.iter().any(|promoted| match &promoted.report {
        Some(report) if all.iter().any(|name| name.is_of(report)) => name.is_of(report),
        _ => model == Some(promoted.model.as_str()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(day: u32, digest: char) -> Name {
        Name::parse(&format!("202603{day:02}T120000.000Z-{}", digest.to_string().repeat(12))).unwrap()
    }

    fn keep(runs: usize, days: u32) -> Keep {
        Keep { runs, days, promoted: None }
    }

    #[test]
    fn the_newest_stay_by_count_and_the_young_by_age() {
        let earlier = [name(3, 'c'), name(1, 'a'), name(4, 'd'), name(2, 'b')];
        let now: Timestamp = "2026-03-05T12:00:00Z".parse().unwrap();
        let due = |runs, days| {
            due(&earlier, &keep(runs, days), now)
                .iter()
                .map(|name| name.to_string()[6..8].to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(due(5, 90), [""; 0]);
        assert_eq!(due(4, 90), ["01"]);
        assert_eq!(due(3, 90), ["01", "02"]);
        assert_eq!(due(1, 90), ["01", "02", "03", "04"]);
        // Exactly as old as it may be is not too old.
        assert_eq!(due(100, 3), ["01"]);
        assert_eq!(due(100, 4), [""; 0]);
        assert_eq!(due(3, 1), ["01", "02", "03"]);
    }

    #[test]
    fn a_clock_that_went_back_makes_nothing_old() {
        let now: Timestamp = "2020-01-01T00:00:00Z".parse().unwrap();
        assert!(due(&[name(1, 'a')], &keep(2, 1), now).is_empty());
    }

    #[test]
    fn of_equal_artifacts_the_one_whose_report_was_promoted_stays() {
        let (a, b, c) = (name(1, 'a'), name(2, 'b'), name(3, 'c'));
        let all = [a.clone(), b.clone(), c.clone()];
        let promoted = |report: Option<&str>| [Promoted { model: "m".into(), report: report.map(Into::into) }];
        let of_a = promoted(Some(&"a".repeat(64)));
        assert!(is_promoted(&a, Some("m"), &all, &of_a));
        assert!(!is_promoted(&b, Some("m"), &all, &of_a));
        // That one is gone: nobody can tell which of them is meant.
        assert!(is_promoted(&b, Some("m"), &[b.clone(), c.clone()], &of_a));
        assert!(is_promoted(&b, Some("m"), &all, &promoted(None)));
        assert!(!is_promoted(&c, Some("another"), &all, &promoted(None)));
        assert!(!is_promoted(&c, None, &all, &promoted(None)));
    }
}
