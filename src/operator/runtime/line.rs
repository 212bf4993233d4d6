//! Keeps everyone's turn up to date, and asks for those to be looked at whose turn has come.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use kube::ResourceExt;
use tokio::sync::Notify;

use super::context::Context;
use crate::api::BakeJob;
use crate::api::bakejob::MANAGER;
use crate::api::digest::spec_digest;
use crate::api::state::State;
use crate::operator::decide;
use crate::operator::facts::Turn;
use crate::operator::names;
use crate::operator::queue::{Caps, Entry, Standing, turns};
use crate::operator::validate::holds_a_place;

/// Changes that come together are taken together.
const GATHER: Duration = Duration::from_millis(200);

/// Runs until it is dropped. `changed` is notified when a `BakeJob` or a priority class changed.
pub(super) async fn keep(context: Arc<Context>, caps: Caps, changed: Arc<Notify>) {
    if caps == Caps::default() {
        return std::future::pending().await;
    }
    loop {
        changed.notified().await;
        tokio::time::sleep(GATHER).await;
        for key in refresh(&context, caps) {
            context.ask(&key);
        }
    }
}

/// Computes all turns anew, and returns the jobs whose turn it has become.
pub(super) fn refresh(context: &Context, caps: Caps) -> Vec<(String, String)> {
    let priorities = context.priorities.read().unwrap_or_else(PoisonError::into_inner).clone();
    let before = context.turns.read().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default();
    let called = |uid: &str| before.get(uid).is_some_and(|turn| turn.now);
    let mut keys = HashMap::new();
    let mut entries = Vec::new();
    for object in context.store.state() {
        let Ok(job) = &object.0 else { continue };
        if let Some(mut entry) = entry(job, &priorities) {
            if entry.standing == Standing::Waits && called(&entry.uid) {
                entry.standing = Standing::Called;
            }
            keys.insert(entry.uid.clone(), (entry.namespace.clone(), job.name_any()));
            entries.push(entry);
        }
    }
    let fresh = turns(&entries, caps);
    let new = |(uid, turn): &(&String, &Turn)| turn.now && !called(uid);
    let asked = fresh.iter().filter(new).filter_map(|(uid, _)| keys.get(uid).cloned()).collect();
    *context.turns.write().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
    asked
}

/// A job as the queue sees it; `None` when it neither runs nor waits, or when Kueue or another controller decides about it.
fn entry(job: &BakeJob, priorities: &HashMap<String, i32>) -> Option<Entry> {
    if job.spec.managed_by != MANAGER {
        return None;
    }
    if job.labels().contains_key(names::KUEUE_QUEUE) || job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = job.status.clone().unwrap_or_default();
    let running = holds_a_place(&status);
    let current = status.observed_generation == job.metadata.generation
        || status.spec_digest.as_ref() == Some(&spec_digest(&job.spec));
    let state = decide::state(&status).filter(|_| current);
    let ended = state.is_some_and(State::terminal);
    if !running && (ended || job.spec.suspend) {
        return None;
    }
    let class = job.spec.worker.as_ref().and_then(|worker| worker.priority_class_name.as_ref());
    Some(Entry {
        uid: job.uid()?,
        namespace: job.namespace()?,
        priority: class.and_then(|class| priorities.get(class)).copied().unwrap_or(0),
        created: job.metadata.creation_timestamp.as_ref().map(|time| time.0),
        running,
        standing: match state {
            Some(State::QuotaExceeded | State::JobRefused) => Standing::Refused,
            _ => Standing::Waits,
        },
    })
}
