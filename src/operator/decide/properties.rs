//! What holds for every job, whatever is seen of the cluster.

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::world::World;
use super::{Action, Plan, has_ended};
use crate::api::Reason;
use crate::api::conditions::ALL;
use crate::api::wire::{GivenDevice, Outcome, Task};
use crate::operator::facts::{JobEnd, JobFacts, Observed, PodEnd, PodFacts, PodState, Turn};

fn time() -> impl Strategy<Value = Timestamp> {
    // Around the world's clock, on both sides.
    (1_767_225_000i64..1_767_230_000).prop_map(|s| Timestamp::from_second(s).unwrap())
}

fn outcome() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        Just(None),
        Just(Some("not a result".to_owned())),
        prop::sample::select(&Reason::ALL[..]).prop_map(|r| Some(Outcome::bare(r, "said").to_message())),
    ]
}

fn pod_end() -> impl Strategy<Value = PodEnd> {
    let code = prop::option::of(prop::sample::select(vec![
        1, 2, 3, 4, 10, 11, 12, 13, 14, 20, 21, 22, 70, 101, 137, 139, 143,
    ]));
    (code, any::<bool>(), any::<bool>(), prop::option::of(Just("why".to_owned())), outcome()).prop_map(
        |(exit_code, oom, evicted, disrupted, message)| PodEnd {
            exit_code,
            oom,
            evicted,
            disrupted,
            message,
            detail: "detail".into(),
        },
    )
}

fn pod_state() -> impl Strategy<Value = PodState> {
    prop_oneof![
        Just(PodState::Pending),
        prop::option::of(time()).prop_map(|since| PodState::Unschedulable { since, message: "no node".into() }),
        Just(PodState::ImagePull { message: "no image".into() }),
        Just(PodState::Config { message: "no secret".into() }),
        any::<bool>().prop_map(|reachable| PodState::Running { reachable }),
        outcome().prop_map(|message| PodState::Succeeded { at: None, message }),
        pod_end().prop_map(PodState::Failed),
    ]
}

fn job_end() -> impl Strategy<Value = Option<JobEnd>> {
    let reasons = prop::sample::select(vec!["PodFailurePolicy", "BackoffLimitExceeded", "DeadlineExceeded", "Other"]);
    prop_oneof![
        2 => Just(None),
        1 => time().prop_map(|at| Some(JobEnd::Complete { at })),
        2 => (time(), reasons).prop_map(|(at, reason)| {
            Some(JobEnd::Failed { at, reason: reason.into(), message: "message".into() })
        }),
    ]
}

prop_compose! {
    fn job_facts()(
        run in 1..3u32, attempt in 1..4u32, failures in 0..3u32, failed in 0..3u32,
        flags in any::<[bool; 6]>(), end in job_end(), started in prop::option::of(time()),
        deadline in prop::option::of(Just(100i64)), pods in prop::collection::vec((pod_state(), any::<bool>(), time()), 0..4),
    ) -> (JobFacts, Vec<PodFacts>) {
        let [low_memory, cuda, kueue, suspended, deleting, same_digest] = flags;
        let name = format!("cnn-{run}-{attempt}");
        let job = JobFacts {
            name: name.clone(), uid: name.clone(), owner: "u-1".into(), task: Task::Bake, run, attempt, failures, low_memory,
            device: if cuda { GivenDevice::Cuda } else { GivenDevice::Cpu }, device_reason: "because".into(),
            spec_digest: if same_digest { "same".into() } else { "other".into() },
            kueue, created: started, started, suspended, deadline, ttl: None, failed, deleting, end,
        };
        let pods = pods.into_iter().enumerate().map(|(i, (state, deleting, created))| PodFacts {
            name: format!("{name}-{i}"), job: name.clone(), created: Some(created), node: Some("n1".into()), deleting, lost: false, state,
        }).collect();
        (job, pods)
    }
}

fn spec() -> impl Strategy<Value = Value> {
    let part = |field: &'static str, values: Vec<Value>| {
        prop::option::of(prop::sample::select(values)).prop_map(move |v| v.map(|v| (field.to_owned(), v)))
    };
    let parts = (
        part("suspend", vec![json!(true)]),
        part("activeDeadlineSeconds", vec![json!(100), json!(100_000)]),
        part("backoffLimit", vec![json!(0), json!(1)]),
        part("ttlSecondsAfterFinished", vec![json!(0), json!(1_000_000)]),
        part("hardware", vec![json!({"device": "CUDA"}), json!({"device": "CUDA", "fallback": "None"})]),
        part("promotion", vec![json!({"policy": "Automatic", "uri": "/p"})]),
        part("output", vec![json!({"uri": "/out", "onDelete": "Delete"})]),
    );
    parts.prop_map(|(a, b, c, d, e, f, g)| Value::Object([a, b, c, d, e, f, g].into_iter().flatten().collect()))
}

prop_compose! {
    fn world()(
        spec in spec(), kueue in prop::bool::weighted(0.2), now in time(), turn in (0..5u32, any::<bool>()),
        jobs in prop::collection::vec(job_facts(), 0..4), deleting in prop::bool::weighted(0.1),
    ) -> World {
        let mut world = World::new(&spec);
        if kueue {
            world = world.label("kueue.x-k8s.io/queue-name", "q");
        }
        if deleting {
            world.object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let digest = world.job().spec_digest;
        let mut names = BTreeSet::new();
        let mut seen = Observed { turn: Turn { ahead: turn.0, now: turn.1 }, ..Observed::default() };
        for (mut job, pods) in jobs {
            if names.insert(job.name.clone()) {
                if job.spec_digest == "same" {
                    job.spec_digest.clone_from(&digest);
                }
                // Only one Job of ours is ever unfinished: the world checks it of every plan.
                let unfinished = seen.jobs.iter().any(|j: &JobFacts| j.end.is_none());
                if unfinished && job.end.is_none() {
                    continue;
                }
                seen.jobs.push(job);
                seen.pods.extend(pods);
            }
        }
        world.seen = seen;
        world.now = now;
        world
    }
}

/// Applies a plan without the world's checks of what a sane cluster looks like before.
fn publish(world: &mut World, plan: &Plan) {
    world.object["status"] = serde_json::to_value(&plan.status).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_tells_one_state_with_all_conditions(world in world()) {
        let plan = world.plan();
        if world.job().deleting {
            return Ok(());
        }
        prop_assert!(plan.state().is_some());
        let kinds: Vec<&str> = plan.status.conditions.iter().map(|c| c.type_.as_str()).collect();
        prop_assert_eq!(kinds, ALL.to_vec());
        for condition in &plan.status.conditions {
            prop_assert!(!condition.reason.is_empty());
            prop_assert_eq!(condition.observed_generation, Some(world.job().generation));
        }
        prop_assert_eq!(plan.status.observed_generation, Some(1));
        let state = plan.state().unwrap();
        let meaning = state.meaning();
        prop_assert_eq!(plan.status.conditions[0].status.as_str(), meaning.succeeded.as_str());
        let ended = plan.status.completion_time.is_some();
        // Only a job that was refused before it started has an end without a time: it may yet become valid.
        prop_assert!(ended == state.terminal() || (!ended && world.job().refusal.is_some()), "{}", state);
    }

    #[test]
    fn the_same_sight_gives_the_same_plan(world in world()) {
        prop_assert_eq!(world.plan(), world.plan());
    }

    #[test]
    fn at_most_one_job_is_created_and_only_while_no_other_runs(world in world()) {
        let plan = world.plan();
        let created = plan.actions.iter().filter(|a| matches!(a, Action::CreateJob(_))).count();
        prop_assert!(created <= 1);
        if created == 1 {
            prop_assert!(world.seen.jobs.iter().all(|j| j.end.is_some()), "two workers would write to one output");
            prop_assert!(!world.job().spec.suspend);
        }
    }

    #[test]
    fn what_was_done_is_not_done_again_and_it_comes_to_rest(mut world in world()) {
        let mut done: Vec<Action> = Vec::new();
        // A stopped Job may end a run, and an ended run tidies up: a few steps, each with something new.
        for _ in 0..6 {
            for action in world.step().actions {
                prop_assert!(!done.contains(&action), "{:?} again, after {:?}", action, done);
                done.push(action);
            }
            if world.gone {
                return Ok(());
            }
        }
        let last = world.plan();
        prop_assert!(last.actions.is_empty() && last.events.is_empty(), "{:?} {:?}", last.actions, last.events);
        prop_assert_eq!(&world.object["status"], &serde_json::to_value(&last.status).unwrap());
    }

    #[test]
    fn the_end_of_a_run_is_never_taken_back(mut world in world(), later in world()) {
        world.step();
        let job = world.job();
        if job.deleting || !has_ended(&job) {
            return Ok(());
        }
        let before = world.object["status"].clone();
        // Whatever is seen afterwards, also of a Job that is not ours to judge any more.
        world.seen = later.seen;
        world.now = later.now;
        let plan = world.plan();
        publish(&mut world, &plan);
        prop_assert!(!plan.actions.iter().any(|a| matches!(a, Action::CreateJob(_))));
        for field in ["completionTime", "startTime", "artifacts", "gates", "baked", "runs", "history", "specDigest", "conditions"] {
            prop_assert_eq!(&world.object["status"][field], &before[field], "{}", field);
        }
    }

    #[test]
    fn a_pending_deadline_is_never_slept_through(world in world()) {
        let job = world.job();
        let plan = world.plan();
        if job.deleting {
            return Ok(());
        }
        if let (Some(start), None, Some(seconds)) = (&plan.status.start_time, &plan.status.completion_time, job.deadline()) {
            let running = world.seen.jobs.iter().any(|j| j.end.is_none() && j.deleting);
            let left = start.0.as_second() + seconds - world.now.as_second();
            if !running && left > 0 {
                let wake = plan.requeue.map(|r| r.as_secs() as i64);
                prop_assert!(wake.is_some_and(|wake| wake <= left.max(2)), "wakes in {:?}, deadline in {} s", wake, left);
            }
        }
        if let (Some(end), Some(ttl)) = (&plan.status.completion_time, job.spec.ttl_seconds_after_finished) {
            let over = end.0.as_second() + i64::from(ttl) <= world.now.as_second();
            prop_assert!(over || plan.requeue.is_some());
        }
    }
}
