//! Kueue decides which bake runs; what it says stands in the status.

use std::time::Duration;

use bakehouse::api::BakeJob;
use bakehouse::api::state::State;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::support::others::{Kind, bring};
use crate::support::{BAKE, Case, SOON, condition, eventually, message, phase, slow, state};

/// How long Kueue's word may take into the status: the controller asks for it every fifteen seconds.
const TOLD: Duration = Duration::from_secs(45);

const fn kind(name: &'static str) -> Kind {
    Kind("kueue.x-k8s.io", "v1beta2", name)
}

/// Kueue, with room for one bake at a time.
struct Kueue {
    case: Case,
    queue: String,
    was_there: bool,
}

impl Kueue {
    /// `None` where it cannot be had.
    async fn with_room_for_one(case: Case) -> Option<Self> {
        let definitions: Api<CustomResourceDefinition> = Api::all(case.client.clone());
        let was_there = definitions.get_opt("clusterqueues.kueue.x-k8s.io").await.unwrap().is_some();
        if bring("kueue.sh", &["install"]).is_none() {
            case.done().await;
            return None;
        }
        let queue = case.namespace.clone();
        // The Kueue of the script looks after namespaces with this label only.
        let namespaces: Api<Namespace> = Api::all(case.client.clone());
        let labels = json!({"metadata": {"labels": {"bakehouse.dev/kueue": "managed"}}});
        namespaces.patch(&queue, &PatchParams::default(), &Patch::Merge(&labels)).await.unwrap();

        let quota = [("cpu", "150m"), ("memory", "16Gi"), ("ephemeral-storage", "64Gi")];
        let resources = quota.map(|(name, most)| json!({"name": name, "nominalQuota": most}));
        let flavor = json!({"name": queue, "resources": resources});
        let cluster_queue = json!({"metadata": {"name": queue}, "spec": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": queue}},
            "preemption": {"withinClusterQueue": "LowerPriority"},
            "resourceGroups": [{"coveredResources": quota.map(|(name, _)| name), "flavors": [flavor]}],
        }});
        let local_queue = json!({"metadata": {"name": "bakes", "namespace": queue}, "spec": {"clusterQueue": queue}});
        for (name, object) in [
            ("ResourceFlavor", json!({"metadata": {"name": queue}})),
            ("ClusterQueue", cluster_queue),
            ("LocalQueue", local_queue),
            ("WorkloadPriorityClass", json!({"metadata": {"name": "e2e-low"}, "value": 100})),
            ("WorkloadPriorityClass", json!({"metadata": {"name": "e2e-high"}, "value": 1000})),
        ] {
            kind(name).apply(&case.client, &object).await;
        }
        Some(Self { case, queue, was_there })
    }

    /// A bake that sleeps first, and asks for two thirds of the queue's room.
    async fn bake(&self, name: &str, priority: &str, seconds: u32) {
        let mut spec = slow(seconds);
        spec["worker"]["resources"] = json!({"requests": {"cpu": "100m"}});
        // An eviction that counted as a failure would end the run.
        spec["backoffLimit"] = json!(0);
        let mut object = self.case.mlp(name, &spec);
        object["metadata"]["labels"] =
            json!({"kueue.x-k8s.io/queue-name": "bakes", "kueue.x-k8s.io/priority-class": priority, "team": "vision"});
        self.case.apply(&object).await.unwrap();
    }

    /// Waits until a bake is queued with a message that holds these words.
    async fn told(&self, name: &str, words: &str) -> BakeJob {
        let tells = |job: &BakeJob| state(job) == Some(State::Queued) && message(job).contains(words);
        let job = self.case.until(name, &format!("queued with the words \"{words}\""), TOLD, tells).await;
        println!("{name}: {}", message(&job));
        job
    }

    async fn job_of(&self, name: &str) -> Job {
        let mut jobs = self.case.jobs(name).await;
        assert_eq!(jobs.len(), 1, "{name} has one Job");
        jobs.remove(0)
    }

    /// Takes away what is of the whole cluster, Kueue too when it was not there before.
    async fn done(self) {
        let client = self.case.client.clone();
        let bakes = self.case.api::<BakeJob>();
        bakes.delete_collection(&DeleteParams::foreground(), &ListParams::default()).await.unwrap();
        for (name, object, namespace) in [
            ("LocalQueue", "bakes", Some(self.queue.as_str())),
            ("ClusterQueue", &self.queue, None),
            ("ResourceFlavor", &self.queue, None),
            ("WorkloadPriorityClass", "e2e-low", None),
            ("WorkloadPriorityClass", "e2e-high", None),
        ] {
            kind(name).api(&client, namespace).delete(object, &DeleteParams::default()).await.unwrap();
        }
        // Before the case ends: the next one may begin with its own Kueue then.
        if !self.was_there {
            bring("kueue.sh", &["uninstall"]);
        }
        self.case.done().await;
    }
}

#[tokio::test]
async fn kueue_says_who_bakes_and_why_the_others_wait() {
    let Some(kueue) = Kueue::with_room_for_one(Case::alone("kueue").await).await else { return };
    let case = &kueue.case;

    kueue.bake("first", "e2e-low", 45).await;
    case.reaches("first", State::Running, BAKE).await;
    let job = kueue.job_of("first").await;
    let labels = job.labels();
    assert_eq!(
        (labels["kueue.x-k8s.io/queue-name"].as_str(), labels["kueue.x-k8s.io/priority-class"].as_str()),
        ("bakes", "e2e-low")
    );
    assert!(!labels.contains_key("team"), "only Kueue's labels go along");

    kueue.bake("second", "e2e-low", 0).await;
    let second = kueue.told("second", "insufficient unused quota for cpu").await;
    assert_eq!(condition(&second, "Reconciling").unwrap(), ("True".into(), "Queued".into()));
    assert_eq!(second.status.unwrap().start_time, None, "its deadline does not run yet");
    assert_eq!(kueue.job_of("second").await.spec.unwrap().suspend, Some(true));
    assert!(case.pods("second").await.is_empty());

    // A priority that is higher takes the place of the bake that runs.
    kueue.bake("high", "e2e-high", 5).await;
    let first = kueue.told("first", "Kueue took its place back (Preempted: ").await;
    let status = first.status.unwrap();
    let attempt = status.attempt.unwrap();
    assert_eq!((status.runs, attempt.number, attempt.failures), (Some(1), 1, 0), "an eviction is no failure");
    assert_eq!((status.start_time, status.completion_time), (None, None));
    eventually("the pod of the one that was evicted is gone", SOON, async || {
        case.pods("first").await.iter().all(|pod| phase(pod) == "Failed").then_some(())
    })
    .await;
    case.bakes("high", BAKE).await;

    // The same Job goes on: no attempt and no run was used up.
    let first = case.bakes("first", BAKE).await.status.unwrap();
    let attempt = first.attempt.unwrap();
    assert_eq!((first.runs, attempt.number, attempt.failures), (Some(1), 1, 0));
    assert_eq!(kueue.job_of("first").await.uid(), job.uid());
    let second = case.bakes("second", BAKE).await.status.unwrap();
    assert_eq!(second.runs, Some(1));
    kueue.done().await;
}

#[tokio::test]
async fn a_suspended_bake_gives_its_place_in_kueue_to_the_next() {
    let Some(kueue) = Kueue::with_room_for_one(Case::alone("kueue-suspend").await).await else { return };
    let case = &kueue.case;
    kueue.bake("first", "e2e-low", 45).await;
    case.reaches("first", State::Running, BAKE).await;
    kueue.bake("second", "e2e-low", 5).await;
    kueue.told("second", "insufficient unused quota for cpu").await;

    case.change("first", &json!({"suspend": true})).await;
    case.reaches("first", State::Suspended, SOON).await;
    case.bakes("second", BAKE).await;
    case.reaches("first", State::Suspended, SOON).await;

    case.change("first", &json!({"suspend": false})).await;
    let first = case.bakes("first", BAKE).await.status.unwrap();
    assert_eq!((first.runs, first.attempt.unwrap().failures), (Some(1), 0));
    kueue.done().await;
}

#[tokio::test]
async fn a_queue_that_does_not_exist_is_named() {
    let Some(kueue) = Kueue::with_room_for_one(Case::alone("kueue-none").await).await else { return };
    let case = &kueue.case;
    let mut object = case.mlp("lost", &json!({}));
    object["metadata"]["labels"] = json!({"kueue.x-k8s.io/queue-name": "none"});
    case.apply(&object).await.unwrap();
    kueue.told("lost", "none").await;
    assert!(case.pods("lost").await.is_empty());

    // Beside it, who names no queue is no business of Kueue's.
    case.apply(&case.mlp("free", &json!({}))).await.unwrap();
    case.bakes("free", BAKE).await;
    kueue.done().await;
}
