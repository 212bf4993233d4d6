//! Asks for objects to be looked at.
//!
//! `BakeJob`s that nobody has looked at yet wait apart, and no more of them are let in at a time than leave places for the others: when a
//! commit brings a thousand, each of which needs slow requests, what has ended meanwhile is not told a thousand requests later.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use kube::runtime::reflector::ObjectRef;

use super::children::Key;
use super::context::Guarded;

/// Asks for objects to be looked at. Before this replica leads, nobody listens.
pub(super) struct Triggers {
    open: Mutex<Option<Open>>,
    /// The most newcomers that are let in at a time.
    most: usize,
}

struct Open {
    sender: UnboundedSender<ObjectRef<Guarded>>,
    newcomers: HashMap<Key, Newcomer>,
    /// Those that wait, longest first.
    line: VecDeque<Key>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Newcomer {
    Waits,
    LetIn,
}

impl Open {
    fn send(&self, (namespace, name): &Key) -> bool {
        self.sender.unbounded_send(ObjectRef::new(name).within(namespace)).is_ok()
    }
}

impl Triggers {
    /// Triggers for so many looks side by side.
    pub(super) fn new(concurrency: u16) -> Self {
        Self { open: Mutex::default(), most: usize::from(concurrency / 2).max(1) }
    }

    /// Begins to listen.
    pub(super) fn open(&self) -> UnboundedReceiver<ObjectRef<Guarded>> {
        let (sender, receiver) = unbounded();
        *self.locked() = Some(Open { sender, newcomers: HashMap::new(), line: VecDeque::new() });
        receiver
    }

    /// Ends the stream: what is in progress is finished, nothing new begins.
    pub(super) fn close(&self) {
        *self.locked() = None;
    }

    /// Asks for an object, and says whether anybody listens: a closed stream means that this replica is stopping.
    pub(super) fn ask(&self, key: &Key, newcomer: bool) -> bool {
        let mut open = self.locked();
        let Some(open) = open.as_mut() else { return false };
        if !newcomer {
            return open.send(key);
        }
        match open.newcomers.get(key) {
            Some(Newcomer::Waits) => true,
            Some(Newcomer::LetIn) => open.send(key),
            None if open.newcomers.len() - open.line.len() < self.most => {
                open.newcomers.insert(key.clone(), Newcomer::LetIn);
                open.send(key)
            }
            None => {
                open.newcomers.insert(key.clone(), Newcomer::Waits);
                open.line.push_back(key.clone());
                true
            }
        }
    }

    /// An object was looked at, or is gone. If it was a newcomer, the next is let in.
    pub(super) fn looked(&self, key: &Key) {
        let mut open = self.locked();
        let Some(open) = open.as_mut() else { return };
        if open.newcomers.get(key) != Some(&Newcomer::LetIn) {
            return;
        }
        open.newcomers.remove(key);
        if let Some(next) = open.line.pop_front() {
            open.send(&next);
            open.newcomers.insert(next, Newcomer::LetIn);
        }
    }

    fn locked(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        ("ml".into(), name.into())
    }

    fn heard(receiver: &mut UnboundedReceiver<ObjectRef<Guarded>>) -> Vec<String> {
        std::iter::from_fn(|| receiver.try_recv().ok()).map(|object| object.name).collect()
    }

    #[test]
    fn newcomers_leave_places_for_the_others_and_none_is_forgotten() {
        let triggers = Triggers::new(4);
        assert!(!triggers.ask(&key("early"), true), "nobody listens yet");
        let mut receiver = triggers.open();
        for name in ["a", "b", "c", "c", "d"] {
            assert!(triggers.ask(&key(name), true));
        }
        triggers.ask(&key("ended"), false);
        assert_eq!(heard(&mut receiver), ["a", "b", "ended"]);
        triggers.looked(&key("ended"));
        assert!(heard(&mut receiver).is_empty(), "it took no place of theirs");
        triggers.ask(&key("a"), true);
        triggers.looked(&key("a"));
        triggers.looked(&key("a"));
        assert_eq!(heard(&mut receiver), ["a", "c"], "one place, one newcomer");
        for name in ["b", "c", "d"] {
            triggers.looked(&key(name));
        }
        assert_eq!(heard(&mut receiver), ["d"]);
        assert!(triggers.locked().as_ref().unwrap().newcomers.is_empty());
        triggers.close();
        assert!(!triggers.ask(&key("late"), false));
    }
}
