//! Who runs next under the caps: by priority, then in turn between namespaces, then by age. With Kueue, Kueue decides instead.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::jiff::Timestamp;

use super::facts::Turn;

/// How many bakes may run at a time; `None` is no cap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    /// In all namespaces together.
    pub total: Option<u32>,
    /// In each namespace.
    pub per_namespace: Option<u32>,
}

/// One job, as the queue sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Of its priority class; higher goes first.
    pub priority: i32,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Whether it runs already.
    pub running: bool,
    /// Where it stands before priority and age are asked.
    pub standing: Standing,
}

/// Who goes before whom, whatever their priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It was told that its turn is now and has not been seen to run since: it may be starting at this moment. A turn is not taken back, or
    /// another would start beside the one that is on its way.
    Called,
    /// It waits.
    Waits,
    /// The API server did not take its Job, for want of quota or by a policy: a place that it cannot use is better given to others.
    Refused,
}

/// Gives each waiting job its turn. The order is that in which they would start if places became free one by one.
pub fn turns(entries: &[Entry], caps: Caps) -> HashMap<String, Turn> {
    let mut busy: BTreeMap<&str, u32> = BTreeMap::new();
    for entry in entries.iter().filter(|e| e.running) {
        *busy.entry(&entry.namespace).or_default() += 1;
    }
    let running: u32 = busy.values().sum();
    let mut free = caps.total.map_or(u32::MAX, |cap| cap.saturating_sub(running));
    let mut turns = HashMap::new();
    for (ahead, entry) in in_order(entries, &busy).into_iter().enumerate() {
        let here = busy.entry(&entry.namespace).or_default();
        let now = free > 0 && caps.per_namespace.is_none_or(|cap| *here < cap);
        if now {
            free -= 1;
            *here += 1;
        }
        turns.insert(entry.uid.clone(), Turn { ahead: u32::try_from(ahead).unwrap_or(u32::MAX), now });
    }
    turns
}

/// The waiting jobs in their order. Within one priority the namespace that has least running comes first, then the oldest job of it: a
/// tenant who asks for a thousand bakes does not keep another from one. Sorting by "how many this namespace has before this one" is that
/// order without simulating it step by step.
fn in_order<'e>(entries: &'e [Entry], busy: &BTreeMap<&str, u32>) -> Vec<&'e Entry> {
    let mut waiting: Vec<&Entry> = entries.iter().filter(|e| !e.running).collect();
    waiting.sort_by(|a, b| {
        a.standing
            .cmp(&b.standing)
            .then_with(|| b.priority.cmp(&a.priority))
            .then_with(|| a.created.cmp(&b.created))
            .then_with(|| a.uid.cmp(&b.uid))
    });
    let mut before: HashMap<(&str, i32), u32> = HashMap::new();
    let mut ranked: Vec<(u32, &Entry)> = waiting
        .into_iter()
        .map(|entry| {
            let count = before
                .entry((&entry.namespace, entry.priority))
                .or_insert_with(|| busy.get(entry.namespace.as_str()).copied().unwrap_or(0));
            let rank = *count;
            *count += 1;
            (rank, entry)
        })
        .collect();
    // Stable: age decides between equals.
    ranked.sort_by(|(rank_a, a), (rank_b, b)| {
        a.standing.cmp(&b.standing).then(b.priority.cmp(&a.priority)).then(rank_a.cmp(rank_b))
    });
    ranked.into_iter().map(|(_, entry)| entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(uid: &str, namespace: &str, priority: i32, age: i64, running: bool) -> Entry {
        Entry {
            uid: uid.into(),
            namespace: namespace.into(),
            priority,
            created: Some(Timestamp::from_second(1_000_000 - age).unwrap()),
            running,
            standing: Standing::Waits,
        }
    }

    fn order(entries: &[Entry], caps: Caps) -> Vec<(String, bool)> {
        let mut all: Vec<_> = turns(entries, caps).into_iter().collect();
        all.sort_by_key(|(_, turn)| turn.ahead);
        all.into_iter().map(|(uid, turn)| (uid, turn.now)).collect()
    }

    fn names(order: &[(String, bool)]) -> Vec<&str> {
        order.iter().map(|(uid, _)| uid.as_str()).collect()
    }

    #[test]
    fn without_caps_everyone_starts() {
        let all = [entry("a", "x", 0, 2, false), entry("b", "x", 0, 1, false)];
        assert!(order(&all, Caps::default()).iter().all(|(_, now)| *now));
    }

    #[test]
    fn priority_goes_before_age_and_age_before_the_name() {
        let all = [entry("young", "x", 0, 1, false), entry("old", "x", 0, 9, false), entry("urgent", "x", 5, 0, false)];
        assert_eq!(names(&order(&all, Caps::default())), ["urgent", "old", "young"]);
    }

    #[test]
    fn namespaces_take_turns() {
        let mut all: Vec<Entry> = (0..4).map(|i| entry(&format!("big-{i}"), "big", 0, 90 - i, false)).collect();
        all.push(entry("small-0", "small", 0, 1, false));
        assert_eq!(names(&order(&all, Caps::default())), ["big-0", "small-0", "big-1", "big-2", "big-3"]);
        all.push(entry("big-running", "big", 0, 100, true));
        assert_eq!(names(&order(&all, Caps::default()))[0], "small-0");
    }

    #[test]
    fn a_turn_is_not_taken_back() {
        let mut all = vec![entry("r", "x", 0, 9, true), entry("b", "x", 0, 5, false)];
        let caps = Caps { total: Some(2), per_namespace: None };
        assert_eq!(order(&all, caps), [("b".to_owned(), true)]);
        all[1].standing = Standing::Called;
        // Older and more urgent, but b may be starting.
        all.push(entry("a", "y", 7, 6, false));
        assert_eq!(order(&all, caps), [("b".to_owned(), true), ("a".to_owned(), false)]);
        all[1].standing = Standing::Refused;
        assert_eq!(order(&all, caps), [("a".to_owned(), true), ("b".to_owned(), false)], "it cannot use its place");
    }

    #[test]
    fn a_namespace_at_its_cap_does_not_hold_up_the_others() {
        let all = [entry("r", "x", 0, 9, true), entry("x1", "x", 9, 8, false), entry("y1", "y", 0, 1, false)];
        let caps = Caps { total: Some(2), per_namespace: Some(1) };
        assert_eq!(order(&all, caps), [("x1".to_owned(), false), ("y1".to_owned(), true)]);
    }

    proptest! {
        #[test]
        fn caps_are_never_exceeded_and_no_free_place_stays_empty(
            jobs in prop::collection::vec((0..4usize, -1..2i32, 0..50i64, any::<bool>()), 0..40),
            total in prop::option::of(0..10u32),
            per_namespace in prop::option::of(0..5u32),
        ) {
            let all: Vec<Entry> = jobs.iter().enumerate()
                .map(|(i, (ns, priority, age, running))| entry(&format!("j{i}"), &format!("ns{ns}"), *priority, *age, *running))
                .collect();
            let caps = Caps { total, per_namespace };
            let turns = turns(&all, caps);
            prop_assert_eq!(turns.len(), all.iter().filter(|e| !e.running).count());
            let holds = |e: &&Entry| e.running || turns[&e.uid].now;
            let running = all.iter().filter(|e| e.running).count();
            let after = all.iter().filter(holds).count();
            if let Some(total) = total {
                prop_assert!(after <= running.max(total as usize));
            }
            for ns in 0..4 {
                let of: Vec<&Entry> = all.iter().filter(|e| e.namespace == format!("ns{ns}")).collect();
                let ran = of.iter().filter(|e| e.running).count();
                let then = of.iter().filter(|e| holds(e)).count();
                if let Some(cap) = per_namespace {
                    prop_assert!(then <= ran.max(cap as usize));
                }
                let room = per_namespace.is_none_or(|cap| then < cap as usize) && total.is_none_or(|cap| after < cap as usize);
                if room {
                    prop_assert_eq!(then, of.len(), "a place is free, and someone waits");
                }
            }
        }
    }
}
