//! One leader at a time, by a Lease.
//!
//! Another's Lease counts as expired when it has not changed for its duration *by our own clock since we saw it*: clocks of two nodes are
//! never compared. A leader that cannot renew in time stops itself, well before another may take over. Every call has a timeout of its own,
//! because the client retries a throttled request for minutes.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

/// What to do about a Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Write our name into it: it is free, expired, or ours.
    Take,
    /// Another holds it; look again after so long.
    Wait(Duration),
}

/// What was last seen of another's Lease, and when by our clock.
#[derive(Debug, Clone, PartialEq)]
struct Sighting {
    spec: LeaseSpec,
    at: Instant,
}

/// Decides. A Lease in our own name is taken back at once: it is that of this pod's container before its restart.
fn evaluate(spec: &LeaseSpec, me: &str, seen: &Sighting, now: Instant, own: Duration) -> Step {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder.is_empty() || holder == me {
        return Step::Take;
    }
    let duration = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).map_or(own, Duration::from_secs);
    let left = (seen.at + duration).saturating_duration_since(now);
    if left.is_zero() { Step::Take } else { Step::Wait(left.min(own / 5)) }
}

/// The Lease after we took or renewed it.
fn taken(old: Option<&LeaseSpec>, me: &str, duration: Duration, now: Timestamp) -> LeaseSpec {
    let same = old.is_some_and(|old| old.holder_identity.as_deref() == Some(me));
    let transitions = old.and_then(|old| old.lease_transitions).unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(duration.as_secs()).ok(),
        acquire_time: if same { old.and_then(|old| old.acquire_time.clone()) } else { Some(MicroTime(now)) },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if same || old.is_none() { transitions } else { transitions + 1 }),
        ..LeaseSpec::default()
    }
}

/// A candidate for leadership.
pub(super) struct Elector {
    api: Api<Lease>,
    name: String,
    me: String,
    duration: Duration,
    seen: Option<Sighting>,
}

impl Elector {
    pub(super) fn new(client: Client, namespace: &str, name: &str, me: String, duration: Duration) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned(), me, duration, seen: None }
    }

    /// Returns when the Lease is ours.
    pub(super) async fn acquire(&mut self) {
        loop {
            let wait = match self.turn().await {
                Ok(Step::Take) => return,
                Ok(Step::Wait(left)) => left,
                Err(error) => {
                    tracing::warn!(%error, lease = self.name, "cannot get the Lease; trying again");
                    self.duration / 5
                }
            };
            tokio::time::sleep(wait.max(Duration::from_millis(100))).await;
        }
    }

    /// Returns when the Lease is lost, or may be: two thirds of its duration passed without a renewal.
    pub(super) async fn keep(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < self.duration * 2 / 3 {
            tokio::time::sleep(self.duration / 5).await;
            match self.turn().await {
                Ok(Step::Take) => renewed = Instant::now(),
                Ok(Step::Wait(_)) => {
                    tracing::error!(lease = self.name, "another replica has the Lease");
                    return;
                }
                Err(error) => tracing::warn!(%error, lease = self.name, "cannot renew the Lease"),
            }
        }
        tracing::error!(lease = self.name, "the Lease was not renewed in time");
    }

    /// Gives the Lease back, so that another replica need not wait.
    pub(super) async fn release(&mut self) {
        let released = self.timed(async |elector: &Self| {
            let Some(mut lease) = elector.api.get_opt(&elector.name).await? else { return Ok(()) };
            if lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(elector.me.as_str()) {
                lease.spec.get_or_insert_default().holder_identity = None;
                elector.api.replace(&elector.name, &PostParams::default(), &lease).await?;
            }
            Ok(())
        });
        if let Err(error) = released.await {
            tracing::warn!(%error, "the Lease was not given back; it expires by itself");
        }
    }

    /// Looks at the Lease, and takes or renews it where that is right. The resource version makes sure that nobody else did so meanwhile.
    async fn turn(&mut self) -> Result<Step, LeaseError> {
        let found = self.timed(async |elector: &Self| elector.api.get_opt(&elector.name).await).await?;
        let now = Instant::now();
        let Some(mut lease) = found else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(taken(None, &self.me, self.duration, Timestamp::now())),
            };
            self.timed(async |elector: &Self| elector.api.create(&PostParams::default(), &lease).await).await?;
            return Ok(Step::Take);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|seen| seen.spec != spec) {
            self.seen = Some(Sighting { spec: spec.clone(), at: now });
        }
        let seen = self.seen.clone().unwrap_or(Sighting { spec: spec.clone(), at: now });
        let step = evaluate(&spec, &self.me, &seen, now, self.duration);
        if step == Step::Take {
            lease.spec = Some(taken(Some(&spec), &self.me, self.duration, Timestamp::now()));
            let replaced =
                async |elector: &Self| elector.api.replace(&elector.name, &PostParams::default(), &lease).await;
            self.timed(replaced).await?;
        }
        Ok(step)
    }

    async fn timed<T>(&self, call: impl AsyncFn(&Self) -> Result<T, kube::Error>) -> Result<T, LeaseError> {
        let limit = self.duration / 5;
        tokio::time::timeout(limit, call(self)).await.map_err(|_| LeaseError::Timeout(limit))?.map_err(LeaseError::from)
    }
}

/// Why a call about the Lease failed.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Duration = Duration::from_secs(15);

    fn lease(holder: &str, seconds: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(seconds),
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_taken_when_free_ours_or_silent_for_its_duration() {
        let start = Instant::now();
        let at = |after: u64| start + Duration::from_secs(after);
        let step = |spec: &LeaseSpec, now| evaluate(spec, "me", &Sighting { spec: spec.clone(), at: start }, now, OWN);
        assert_eq!(step(&lease("", 15), at(0)), Step::Take);
        assert_eq!(step(&lease("me", 15), at(0)), Step::Take, "our container was restarted");
        assert_eq!(step(&lease("other", 15), at(1)), Step::Wait(Duration::from_secs(3)));
        assert_eq!(step(&lease("other", 15), at(14)), Step::Wait(Duration::from_secs(1)));
        assert_eq!(step(&lease("other", 15), at(15)), Step::Take);
        assert_eq!(step(&lease("other", 60), at(20)), Step::Wait(Duration::from_secs(3)), "its own duration counts");
    }

    #[test]
    fn transitions_count_changes_of_the_holder_only() {
        let now = Timestamp::now();
        assert_eq!(taken(Some(&lease("me", 15)), "me", OWN, now).lease_transitions, Some(3));
        assert_eq!(taken(Some(&lease("other", 15)), "me", OWN, now).lease_transitions, Some(4));
        assert_eq!(taken(None, "me", OWN, now).lease_transitions, Some(0));
    }
}
