//! `BakeJob`s that come from Git, by Argo CD with the health check of `deploy/argocd`.

use std::time::{Duration, Instant};

use bakehouse::api::BakeJob;
use bakehouse::api::state::State;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::support::git::Repository;
use crate::support::others::{Kind, bring};
use crate::support::{BAKE, Case, SOON, dumps, eventually, message, shell, slow};

const APPLICATION: Kind = Kind("argoproj.io", "v1alpha1", "Application");

/// Where Argo CD's own objects lie.
const NAMESPACE: &str = "argocd";

/// How long Argo CD may take to see a commit and apply it: it looks every five seconds.
const SYNC: Duration = Duration::from_mins(1);

/// An Application that follows a repository into the case's namespace.
struct Application {
    case: Case,
    repository: Repository,
}

impl Application {
    /// `None` where Argo CD cannot be had.
    async fn of(case: Case, first: &[Value], server_side: bool) -> Option<Self> {
        if !shell::own_cluster() {
            println!("skipped: Argo CD runs beside the cluster that is this machine's own");
            case.done().await;
            return None;
        }
        let Some(said) = bring("argocd.sh", &["start"]) else {
            case.done().await;
            return None;
        };
        let repository = Repository::new(&said, &case.namespace);
        repository.push("app", first);
        let annotations =
            if server_side { json!({"argocd.argoproj.io/compare-options": "ServerSideDiff=true"}) } else { json!({}) };
        let options = if server_side { json!(["ServerSideApply=true"]) } else { json!([]) };
        let application = json!({
            "metadata": {"name": case.namespace, "namespace": NAMESPACE, "annotations": annotations},
            "spec": {
                "project": "default",
                "source": {"repoURL": repository.url, "path": "app", "targetRevision": "main"},
                "destination": {"server": "https://kubernetes.default.svc", "namespace": case.namespace},
                // By default a sync that failed is tried five times more, and a hook is baked anew each time.
                "syncPolicy": {"automated": {"selfHeal": true, "prune": true}, "retry": {"limit": 0}, "syncOptions": options},
            },
        });
        // One of an earlier run would go on from where it stopped.
        let api = APPLICATION.api(&case.client, Some(NAMESPACE));
        let _ = api.delete(&case.namespace, &DeleteParams::default()).await;
        eventually("an earlier Application is gone", SOON, async || {
            api.get_opt(&case.namespace).await.unwrap().is_none().then_some(())
        })
        .await;
        APPLICATION.apply(&case.client, &application).await;
        Some(Self { case, repository })
    }

    fn api(&self) -> Api<kube::api::DynamicObject> {
        APPLICATION.api(&self.case.client, Some(NAMESPACE))
    }

    async fn status(&self) -> Value {
        self.api().get(&self.case.namespace).await.unwrap().data["status"].clone()
    }

    /// Pushes the next state, and waits until Argo CD has begun with it.
    async fn push(&self, manifests: &[Value]) {
        let commit = self.repository.push("app", manifests);
        let refresh = json!({"metadata": {"annotations": {"argocd.argoproj.io/refresh": "normal"}}});
        self.api().patch(&self.case.namespace, &PatchParams::default(), &Patch::Merge(&refresh)).await.unwrap();
        let begun = |status: &Value| status["operationState"]["operation"]["sync"]["revision"] == json!(commit);
        self.until("syncing to the commit", SYNC, begun).await;
    }

    async fn until(&self, what: &str, within: Duration, test: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let status = self.status().await;
            if test(&status) {
                return status;
            }
            if started.elapsed() > within {
                let bakes = self.case.api::<BakeJob>().list(&kube::api::ListParams::default()).await.unwrap().items;
                let bakes: Vec<Value> =
                    bakes.iter().map(|bake| json!([bake.name_any(), bake.metadata.generation, bake.status])).collect();
                panic!("the Application is not {what} within {within:?}: {status:#}\n{bakes:#?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until Argo CD shows the `BakeJob` in this health, with a message that begins so, and the Application with it.
    async fn shows(&self, health: &str, words: &str, within: Duration) -> Value {
        let shows = |status: &Value| {
            let shown = health_of_bake(status);
            shown["status"] == json!(health)
                && shown["message"].as_str().is_some_and(|message| message.starts_with(words))
                && status["health"]["status"] == json!(health)
        };
        let status = self.until(&format!("{health} with \"{words}…\""), within, shows).await;
        let shown = health_of_bake(&status);
        println!("{health}, {}: {}", status["sync"]["status"].as_str().unwrap(), shown["message"].as_str().unwrap());
        dumps::save(&self.case, "digits", health, shown["message"].as_str().unwrap());
        status
    }

    /// Argo CD sees no difference for a while, and writes nothing.
    async fn stays_synced(&self) {
        self.until("Synced", SYNC, |status| {
            status["sync"]["status"] == "Synced" && status["operationState"]["phase"] == "Succeeded"
        })
        .await;
        let syncs = self.status().await["history"].as_array().unwrap().len();
        let before = self.case.api::<BakeJob>().get("digits").await.unwrap().metadata.generation;
        for _ in 0..30 {
            let status = self.status().await;
            assert_eq!(status["sync"]["status"], "Synced", "{status:#}");
            assert_eq!(status["history"].as_array().unwrap().len(), syncs, "it synced again: {status:#}");
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        assert_eq!(self.case.api::<BakeJob>().get("digits").await.unwrap().metadata.generation, before);
    }

    async fn done(self) {
        let _ = self.api().delete(&self.case.namespace, &DeleteParams::default()).await;
        bring("argocd.sh", &["stop"]);
        self.case.done().await;
    }
}

/// What Argo CD found out about the `BakeJob`.
fn health_of_bake(status: &Value) -> Value {
    let resources = status["resources"].as_array().cloned().unwrap_or_default();
    resources
        .into_iter()
        .find(|resource| resource["kind"] == "BakeJob")
        .map_or(Value::Null, |bake| bake["health"].clone())
}

/// A bake as it lies in Git: what it leaves out, the API server fills in. For size it always ends as Baked, whatever the clock says.
fn digits(case: &Case, spec: &Value) -> Value {
    let mut whole = slow(12);
    whole["optimization"] = json!({"level": "Light", "goal": "Size"});
    whole["backoffLimit"] = json!(2);
    whole["output"] = json!({"uri": "/tmp/out", "onDelete": "Delete"});
    whole["worker"]["resources"] = json!({"limits": {"memory": "1Gi"}});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    case.mlp("digits", &whole)
}

fn release(case: &Case, of: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "release", "namespace": case.namespace},
        "data": {"of": of},
    })
}

async fn lives_from_git(name: &str, server_side: bool) {
    let case = Case::alone(name).await;
    let first = digits(&case, &json!({}));
    let Some(application) = Application::of(case, &[first], server_side).await else { return };
    let case = &application.case;
    let runs = async || case.api::<BakeJob>().get("digits").await.unwrap().status.unwrap().runs;

    application.shows("Progressing", "Running: ", BAKE).await;
    let status = application.shows("Healthy", "Baked: ", BAKE).await;
    assert_eq!(status["sync"]["status"], "Synced");
    // Defaults, status and finalizer are in the object by now, and none of them in Git.
    let job = case.api::<BakeJob>().get("digits").await.unwrap();
    assert_eq!(job.finalizers().len(), 1);
    application.stays_synced().await;
    assert_eq!(runs().await, Some(1));

    let gates = json!([{"metric": "FileSize", "max": "1"}]);
    application.push(&[digits(case, &json!({"gates": gates}))]).await;
    let status = application.shows("Degraded", "GateFailed: ", BAKE).await;
    assert!(health_of_bake(&status)["message"].as_str().unwrap().contains("FileSize"), "{status:#}");
    application.stays_synced().await;
    assert_eq!(runs().await, Some(2));

    let suspended = json!({"optimization": {"level": "Light", "goal": "Size", "seed": 3}, "suspend": true});
    application.push(&[digits(case, &suspended)]).await;
    application.shows("Suspended", "", SYNC).await;
    application.stays_synced().await;
    let resumed = json!({"optimization": {"level": "Light", "goal": "Size", "seed": 3}, "suspend": false});
    application.push(&[digits(case, &resumed)]).await;
    application.shows("Healthy", "Baked: ", BAKE).await;
    assert_eq!(runs().await, Some(3));

    // What a person changes is put back; it was no reason to bake again.
    case.change("digits", &json!({"backoffLimit": 7})).await;
    eventually("Argo CD has put it back", SYNC, async || {
        (case.api::<BakeJob>().get("digits").await.unwrap().spec.backoff_limit == 2).then_some(())
    })
    .await;
    application.until("Synced again", SYNC, |status| status["sync"]["status"] == "Synced").await;
    application.shows("Healthy", "Baked: ", SYNC).await;
    assert_eq!(runs().await, Some(3));

    let mut invalid = digits(case, &json!({}));
    invalid["spec"]["source"]["uri"] = json!("model.onnx");
    application.push(&[invalid]).await;
    application.shows("Degraded", "InvalidJob: spec.source.uri", SYNC).await;
    application.stays_synced().await;

    application.push(&[release(case, "nothing")]).await;
    eventually("the BakeJob that is no longer in Git is deleted", BAKE, async || {
        case.api::<BakeJob>().get_opt("digits").await.unwrap().is_none().then_some(())
    })
    .await;
    application.until("Synced", SYNC, |status| status["sync"]["status"] == "Synced").await;
    application.done().await;
}

#[tokio::test]
async fn argocd_shows_a_bake_from_git_as_it_is_and_finds_no_drift() {
    lives_from_git("argocd", false).await;
}

#[tokio::test]
async fn argocd_shows_the_same_when_the_server_compares() {
    lives_from_git("argocd-server", true).await;
}

#[tokio::test]
async fn argocd_lets_a_bake_gate_a_sync() {
    let case = Case::alone("argocd-hook").await;
    let hook = |case: &Case, spec: Value| {
        let mut bake = digits(case, &spec);
        bake["metadata"]["annotations"] = json!({
            "argocd.argoproj.io/hook": "PreSync",
            "argocd.argoproj.io/hook-delete-policy": "BeforeHookCreation",
        });
        bake
    };
    let gates = json!({"gates": [{"metric": "FileSize", "max": "1"}]});
    let first = [hook(&case, gates), release(&case, "a model that is too large")];
    let Some(application) = Application::of(case, &first, false).await else { return };
    let case = &application.case;
    let released =
        async || case.api::<ConfigMap>().get_opt("release").await.unwrap().map(|map| map.data.unwrap()["of"].clone());

    let status =
        application.until("at the end of its sync", BAKE, |s| s["operationState"]["finishedAt"].is_string()).await;
    let result = &status["operationState"]["syncResult"]["resources"];
    let bake = result.as_array().unwrap().iter().find(|resource| resource["kind"] == "BakeJob").unwrap();
    println!("{}: {}", status["operationState"]["phase"], bake["message"]);
    assert_eq!(
        (&status["operationState"]["phase"], &bake["hookPhase"]),
        (&json!("Failed"), &json!("Failed")),
        "{status:#}"
    );
    assert!(bake["message"].as_str().unwrap().starts_with("GateFailed: "), "{bake}");
    assert_eq!(released().await, None, "what comes after the gate was held back");
    let failed = case.api::<BakeJob>().get("digits").await.unwrap();

    application.push(&[hook(case, json!({})), release(case, "a model that is small enough")]).await;
    let another = case
        .until("digits", "baking anew", BAKE, |job| {
            job.uid() != failed.uid() && crate::support::state(job) == Some(State::Running)
        })
        .await;
    assert_eq!(released().await, None, "the gate is not decided yet");
    let status =
        application.until("at the end of its sync", BAKE, |s| s["operationState"]["phase"] == "Succeeded").await;
    assert_eq!(released().await.as_deref(), Some("a model that is small enough"), "{status:#}");
    let baked = case.bakes("digits", SOON).await;
    assert_eq!(baked.uid(), another.uid());
    println!("{}: {}", status["operationState"]["phase"], message(&baked));
    application.done().await;
}
