//! What `/readyz` rests on: each cache has been filled once. That of `BakeJob`s also proves that their CRD is established.

use std::sync::atomic::{AtomicBool, Ordering};

/// The caches, by name.
#[derive(Debug)]
pub(super) struct Readiness {
    caches: Vec<(&'static str, AtomicBool)>,
}

impl Readiness {
    pub(super) fn new(caches: &[&'static str]) -> Self {
        Self { caches: caches.iter().map(|name| (*name, AtomicBool::new(false))).collect() }
    }

    /// A cache has been filled.
    pub(super) fn filled(&self, cache: &str) {
        if let Some((_, flag)) = self.caches.iter().find(|(name, _)| *name == cache) {
            flag.store(true, Ordering::Release);
        }
    }

    /// Caches that are still empty.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        self.caches.iter().filter(|(_, flag)| !flag.load(Ordering::Acquire)).map(|(name, _)| *name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_when_every_cache_was_filled_once() {
        let readiness = Readiness::new(&["bakejobs", "pods"]);
        assert_eq!(readiness.missing(), ["bakejobs", "pods"]);
        readiness.filled("pods");
        readiness.filled("no such cache");
        assert_eq!(readiness.missing(), ["bakejobs"]);
        readiness.filled("bakejobs");
        assert!(readiness.missing().is_empty());
    }
}
