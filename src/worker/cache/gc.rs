//! What of a cache goes.

use std::time::Duration;

use jiff::Timestamp;

use super::shelf::{Held, State};

/// What an interrupted write left may still be under way for so long.
const UNDER_WAY: Duration = Duration::from_hours(24);

/// What may stay.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// Results that were not used for longer go.
    pub(crate) max_age: Option<Duration>,
    /// Beyond so many bytes, those that were not used for longest go.
    pub(crate) max_bytes: Option<u64>,
}

/// What goes, and why: what is damaged, what is left of writes that cannot be under way any more, and what the limits leave no room for.
pub(crate) fn doomed(held: Vec<Held>, limits: Limits, now: Timestamp) -> Vec<(Held, String)> {
    let age = |held: &Held| Duration::try_from(now.duration_since(held.since)).unwrap_or_default();
    let mut doomed = Vec::new();
    let mut kept = Vec::new();
    for held in held {
        let old = limits.max_age.is_some_and(|most| age(&held) > most);
        match &held.state {
            State::Damaged { why } => {
                let why = format!("damaged: {why}");
                doomed.push((held, why));
            }
            State::Leftover if age(&held) > UNDER_WAY => doomed.push((held, "left of an interrupted write".to_owned())),
            State::Kept { .. } | State::Unknown { .. } if old => {
                doomed.push((held, "not used for longer than --max-age".to_owned()));
            }
            State::Leftover => {}
            State::Kept { .. } | State::Unknown { .. } => kept.push(held),
        }
    }
    if let Some(most) = limits.max_bytes {
        // The newest first, and the same ones in the same order for whoever runs it.
        kept.sort_by(|a, b| b.since.cmp(&a.since).then_with(|| a.key.cmp(&b.key)));
        let mut total = 0_u64;
        let mut full = false;
        for held in kept {
            full |= total.saturating_add(held.bytes) > most;
            if full {
                doomed.push((held, "used least recently, beyond --max-bytes".to_owned()));
            } else {
                total += held.bytes;
            }
        }
    }
    doomed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::cache::place::Listed;

    const HOUR: Duration = Duration::from_hours(1);

    fn now() -> Timestamp {
        "2026-02-03T04:05:06Z".parse().unwrap()
    }

    fn thing(name: &str, state: State, bytes: u64, age: Duration) -> Held {
        let modified = now() - jiff::SignedDuration::try_from(age).unwrap();
        Held::of(name, state, None, vec![Listed { name: name.to_owned(), bytes, modified }])
    }

    fn kept() -> State {
        State::Kept { job: String::new(), baked_at: String::new(), engine: String::new(), cpu: String::new() }
    }

    fn gone(held: &[Held], limits: Limits) -> Vec<String> {
        let mut gone: Vec<_> = doomed(held.to_vec(), limits, now()).into_iter().map(|(held, _)| held.key).collect();
        gone.sort();
        gone
    }

    #[test]
    fn what_is_old_goes_by_age_and_what_is_too_much_by_last_use() {
        let held = [
            thing("a", kept(), 10, HOUR * 30),
            thing("b", kept(), 10, HOUR),
            thing("c", kept(), 10, HOUR * 2),
            thing("d", State::Leftover, 10, HOUR * 30),
            thing("e", State::Leftover, 10, HOUR * 23),
            thing("f", State::Damaged { why: "x".into() }, 10, HOUR),
        ];
        let with = |max_age, max_bytes| gone(&held, Limits { max_age, max_bytes });
        assert_eq!(with(None, None), ["d", "f"]);
        assert_eq!(with(Some(HOUR * 29), None), ["a", "d", "f"]);
        assert_eq!(with(Some(HOUR * 31), Some(30)), ["d", "f"]);
        assert_eq!(with(None, Some(29)), ["a", "d", "f"]);
        assert_eq!(with(None, Some(10)), ["a", "c", "d", "f"]);
        assert_eq!(with(None, Some(0)), ["a", "b", "c", "d", "f"]);
        assert_eq!(with(Some(HOUR), Some(100)), ["a", "c", "d", "f"]);
    }

    #[test]
    fn nothing_older_stays_when_something_newer_had_no_room() {
        let held = [thing("a", kept(), 1, HOUR * 2), thing("b", kept(), 100, HOUR)];
        assert_eq!(gone(&held, Limits { max_age: None, max_bytes: Some(50) }), ["a", "b"]);
    }
}
