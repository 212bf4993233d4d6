//! One stream of events out of a watch per namespace, for an operator that may see some namespaces only.
//!
//! A cache takes a list as a whole, so the lists of all namespaces become one: it begins with the first and is done with the last. When one
//! watch has to list again, all do: that is rare, and a cache that is replaced as a whole cannot keep what was deleted meanwhile.

use std::collections::VecDeque;

use futures::stream::{BoxStream, SelectAll, select_all, unfold};
use futures::{Stream, StreamExt};
use kube::runtime::watcher::{self, Event};

/// Makes the watches anew.
type Make<K> = Box<dyn Fn() -> Vec<BoxStream<'static, watcher::Result<Event<K>>>> + Send>;

struct Merged<K> {
    make: Make<K>,
    watches: SelectAll<BoxStream<'static, watcher::Result<Event<K>>>>,
    /// Lists that are not done.
    listing: usize,
    /// Whether the cache knows that a list has begun.
    begun: bool,
    /// Deletions during the list: they follow it, because a list in progress takes none.
    deleted: VecDeque<K>,
}

/// The events of all watches that `make` starts, as those of one.
pub(super) fn merged<K: Send + 'static>(make: Make<K>) -> impl Stream<Item = watcher::Result<Event<K>>> + Send {
    let watches = make();
    let listing = watches.len();
    let merged = Merged { make, watches: select_all(watches), listing, begun: false, deleted: VecDeque::new() };
    unfold(merged, |mut merged| async move { merged.next().await.map(|event| (event, merged)) })
}

impl<K> Merged<K> {
    async fn next(&mut self) -> Option<watcher::Result<Event<K>>> {
        if self.listing == 0
            && let Some(object) = self.deleted.pop_front()
        {
            return Some(Ok(Event::Delete(object)));
        }
        loop {
            match self.watches.next().await? {
                Ok(Event::Init) if self.listing == 0 => {
                    let watches = (self.make)();
                    (self.listing, self.begun) = (watches.len(), true);
                    self.watches = select_all(watches);
                    return Some(Ok(Event::Init));
                }
                Ok(Event::Init) if self.begun => {}
                Ok(Event::Init) => {
                    self.begun = true;
                    return Some(Ok(Event::Init));
                }
                Ok(Event::InitDone) => {
                    self.listing = self.listing.saturating_sub(1);
                    if self.listing == 0 {
                        return Some(Ok(Event::InitDone));
                    }
                }
                // A watch whose own list is done, while others still list.
                Ok(Event::Apply(object)) if self.listing > 0 => return Some(Ok(Event::InitApply(object))),
                Ok(Event::Delete(object)) if self.listing > 0 => self.deleted.push_back(object),
                other => return Some(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    fn shown(event: &watcher::Result<Event<&'static str>>) -> String {
        match event {
            Ok(Event::Init) => "init".into(),
            Ok(Event::InitApply(name)) => format!("list {name}"),
            Ok(Event::InitDone) => "done".into(),
            Ok(Event::Apply(name)) => format!("apply {name}"),
            Ok(Event::Delete(name)) => format!("delete {name}"),
            Err(_) => "error".into(),
        }
    }

    async fn all(watches: fn() -> Vec<Vec<Event<&'static str>>>) -> Vec<String> {
        let make = move || {
            let streams = watches().into_iter().map(|events| stream::iter(events.into_iter().map(Ok)).boxed());
            streams.collect()
        };
        // A relist makes endless streams of the same events: the first twenty are enough to see.
        merged(Box::new(make)).take(20).map(|event| shown(&event)).collect().await
    }

    #[tokio::test]
    async fn lists_become_one_and_what_happens_meanwhile_is_kept() {
        let events = all(|| {
            vec![
                vec![Event::Init, Event::InitApply("a"), Event::InitDone, Event::Apply("b"), Event::Delete("a")],
                vec![
                    Event::Init,
                    Event::Init,
                    Event::InitApply("c"),
                    Event::InitApply("d"),
                    Event::InitApply("e"),
                    Event::InitDone,
                ],
            ]
        })
        .await;
        assert_eq!(events.iter().filter(|e| *e == "init").count(), 1);
        assert_eq!(events.iter().filter(|e| *e == "done").count(), 1);
        assert_eq!(events[0], "init");
        let done = events.iter().position(|e| e == "done").unwrap();
        let place = |event: &str| events.iter().position(|e| e == event).unwrap();
        assert!(place("list b") < done && place("list e") < done, "{events:?}");
        assert!(place("delete a") > done, "{events:?}");
    }

    #[tokio::test]
    async fn when_one_lists_again_all_do() {
        let events = all(|| vec![vec![Event::Init, Event::InitApply("a"), Event::InitDone, Event::Init]]).await;
        assert_eq!(events[..6], ["init", "list a", "done", "init", "list a", "done"]);
    }
}
