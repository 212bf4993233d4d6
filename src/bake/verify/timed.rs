//! Latency and limits of a package, measured again: by the clock on the wall, as its limits are. Where that says less than the claim, CPU time decides: other
//! work on the machine shows on the wall alone, and refutes nothing.

use super::package::no;
use super::{Holds, Verification};
use crate::api::Metric;
use crate::bake::BakeError;
use crate::bake::handoff::{limits, wall, wall_plan};
use crate::bake::report::BatchLatency;
use crate::bake::timing::Timer;
use crate::engine::{Feed, Session, SharedEngine, batch};
use crate::model::Model;
use crate::package::phase7::{Clock, Defect, DeploymentConfig, Latency, LimitVerdict};

/// How often something timed is measured before CPU time is asked.
const TRIES: usize = 3;

/// A median may be so much above the claim, as a share of it: a machine that others use too is that much slower at times.
const ROOM: f64 = 1.0;

const BUSY: &str = "other work kept the machine busy: by CPU time the claim is kept";

/// A package whose model can be timed here.
pub(super) struct Timed<'a> {
    pub(super) config: &'a DeploymentConfig,
    pub(super) model: &'a Model,
    pub(super) engine: &'a SharedEngine,
    pub(super) samples: &'a [Feed],
    /// Why nothing is judged, where it is not.
    pub(super) elsewhere: Option<&'a String>,
}

/// How one batch size fared against its claims.
struct Fared {
    again: BatchLatency,
    slow: Pace,
    /// Limits that are missed here though they are said to be met.
    missed: Vec<(Metric, Pace)>,
}

/// How a timed claim fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Kept,
    /// Missed by the clock on the wall, kept by CPU time.
    Disturbed,
    Missed,
}

impl Pace {
    fn of(wall_missed: bool, cpu_missed: Option<bool>) -> Self {
        match (wall_missed, cpu_missed) {
            (false, _) => Self::Kept,
            (true, Some(false)) => Self::Disturbed,
            (true, _) => Self::Missed,
        }
    }
}

impl Timed<'_> {
    /// A row for each median and each limit that hangs on time.
    pub(super) fn check(&self, found: &mut Verification) -> Result<(), BakeError> {
        let timer = Timer::new(self.engine.clone(), self.config.runtime.threads.max(1));
        let mut session = timer.load(self.model)?;
        let mut first = None;
        for (at, figures) in self.config.batches.iter().enumerate() {
            let claim = format!("median at batch {}, wall", figures.batch);
            let by = |clock| figures.latency.iter().find(|l| l.clock == clock);
            let Some(claimed) = by(Clock::Wall) else { continue };
            let feed = match batch::of_rows(self.samples, self.model, figures.batch) {
                Ok(feed) => feed,
                Err(error) => {
                    found.unchecked(claim, micros(claimed.p50), error.to_string());
                    continue;
                }
            };
            let claims = [Some(claimed), by(Clock::ThreadCpu)];
            let fared = self.time(&timer, session.as_mut(), (figures.batch, &feed), claims, at == 0)?;
            let holds = self.holds(fared.slow, format!("the median is over {:.0} % above the claim", ROOM * 100.0));
            found.add(claim, micros(claimed.p50), micros(fared.again.summary.p50), holds);
            if at == 0 {
                first = Some(fared);
            }
        }
        let again = limits(first.as_ref().map(|f| &f.again), None);
        let missed = first.map(|f| f.missed).unwrap_or_default();
        for claimed in self.config.limits.iter().filter(|l| l.metric != Metric::PeakMemory) {
            let now = again.iter().find(|l| l.metric == claimed.metric).and_then(|l| l.measured);
            let pace =
                missed.iter().find(|(metric, _)| *metric == claimed.metric).map_or(Pace::Kept, |(_, pace)| *pace);
            let unit = |v: f64| if claimed.metric == Metric::Throughput { format!("{v:.0}/s") } else { micros(v) };
            let value = |v: Option<f64>| v.map_or_else(|| "not measured".to_owned(), unit);
            let said = format!("{} ({})", value(claimed.measured), claimed.verdict);
            let holds = self.holds(pace, "the limit is said to be met, and is missed here".to_owned());
            found.add(format!("{} here", claimed.metric), said, value(now), holds);
        }
        Ok(())
    }

    fn time(
        &self,
        timer: &Timer,
        session: &mut dyn Session,
        (rows, feed): (usize, &Feed),
        claims: [Option<&Latency>; 2],
        first: bool,
    ) -> Result<Fared, BakeError> {
        let slow = |latency: &BatchLatency, claim: Option<&Latency>| {
            claim.is_some_and(|claim| latency.summary.p50_interval[0] > claim.p50 * (1.0 + ROOM))
        };
        let missed = |latency: &BatchLatency| if first { self.missed(latency) } else { Vec::new() };
        let kept = |latency: &BatchLatency| !slow(latency, claims[0]) && missed(latency).is_empty();
        let mut again = wall(session, (rows, feed), first)?;
        for _ in 1..TRIES {
            if kept(&again) || self.elsewhere.is_some() {
                break;
            }
            again = wall(session, (rows, feed), first)?;
        }
        let cpu = if timer.cpu_time() && claims[1].is_some() && !kept(&again) && self.elsewhere.is_none() {
            let samples = timer.latency(session, feed, wall_plan(first))?;
            samples.summary().map(|summary| BatchLatency {
                batch: rows,
                throughput: rows as f64 / summary.p50,
                summary,
                samples,
            })
        } else {
            None
        };
        let cpu_missed = cpu.as_ref().map(|cpu| self.missed(cpu));
        Ok(Fared {
            slow: Pace::of(slow(&again, claims[0]), cpu.as_ref().map(|cpu| slow(cpu, claims[1]))),
            missed: missed(&again)
                .into_iter()
                .map(|metric| (metric, Pace::of(true, cpu_missed.as_ref().map(|all| all.contains(&metric)))))
                .collect(),
            again,
        })
    }

    /// Limits that are said to be met and that this measurement misses.
    fn missed(&self, latency: &BatchLatency) -> Vec<Metric> {
        let again = limits(Some(latency), None);
        let met = self.config.limits.iter().filter(|l| l.verdict == LimitVerdict::Met);
        met.filter(|l| again.iter().any(|a| a.metric == l.metric && a.verdict == LimitVerdict::NotMet))
            .map(|l| l.metric)
            .collect()
    }

    fn holds(&self, pace: Pace, detail: String) -> Holds {
        match (self.elsewhere, pace) {
            (Some(why), _) => Holds::Unchecked(why.clone()),
            (None, Pace::Kept) => Holds::Yes,
            (None, Pace::Disturbed) => Holds::Unchecked(BUSY.to_owned()),
            (None, Pace::Missed) => no(Defect::LatencyNotReproduced, detail),
        }
    }
}

fn micros(seconds: f64) -> String {
    if seconds < 1e-3 { format!("{:.1} us", seconds * 1e6) } else { format!("{:.3} ms", seconds * 1e3) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_work_on_the_machine_refutes_nothing() {
        assert_eq!(Pace::of(false, Some(true)), Pace::Kept);
        assert_eq!(Pace::of(true, Some(false)), Pace::Disturbed);
        assert_eq!(Pace::of(true, Some(true)), Pace::Missed);
        // With more threads there is no CPU time to ask.
        assert_eq!(Pace::of(true, None), Pace::Missed);
    }
}
