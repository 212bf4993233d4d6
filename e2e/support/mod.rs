//! What every case stands on.

mod describe;
pub(crate) mod dumps;
mod files;
pub(crate) mod git;
pub(crate) mod operator;
pub(crate) mod others;
pub(crate) mod shell;

use std::time::{Duration, Instant};

use bakehouse::api::BakeJob;
use bakehouse::api::state::State;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(crate) use files::{SHELF, config_map};
use operator::Settings;

/// Who the cases are towards the API server.
const MANAGER: &str = "e2e";

/// How long a bake of the small examples may take on a machine that runs the whole cluster as well.
pub(crate) const BAKE: Duration = Duration::from_mins(4);

/// How long the controller may take for what needs no pod.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The worker with moods; see `e2e/cluster/images.sh`.
pub(crate) const MOODY: &str = "bakehouse.dev/moody:e2e";

/// Fields of a spec whose worker sleeps before it bakes.
pub(crate) fn slow(seconds: u32) -> Value {
    json!({"worker": {"image": MOODY, "env": [{"name": "MOOD_SLEEP", "value": seconds.to_string()}]}})
}

/// Held for reading by cases that share the cluster, for writing by those that disturb it.
static CLUSTER: RwLock<()> = RwLock::const_new(());

/// One case, in its own namespace.
pub(crate) struct Case {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    // In this order they are let go: the settings of before are back when the place is free.
    settings: Option<Settings>,
    place: Place,
}

/// Beside others, or alone. Held, never read.
#[allow(dead_code)]
enum Place {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

impl Case {
    /// A case that others may run beside.
    pub(crate) async fn shared(name: &str) -> Self {
        Self::new(name, Place::Shared(CLUSTER.read().await)).await
    }

    /// A case that disturbs the operator or a node.
    pub(crate) async fn alone(name: &str) -> Self {
        Self::new(name, Place::Alone(CLUSTER.write().await)).await
    }

    async fn new(name: &str, place: Place) -> Self {
        let client = Client::try_default().await.expect("no cluster: run `make e2e`, or set KUBECONFIG");
        let case = Self { client, namespace: format!("e2e-{name}"), settings: None, place };
        let namespaces: Api<Namespace> = Api::all(case.client.clone());
        // Left behind by a run that failed.
        if namespaces.get_opt(&case.namespace).await.unwrap().is_some() {
            let _ = namespaces.delete(&case.namespace, &DeleteParams::default()).await;
            eventually("the namespace of an earlier run is gone", Duration::from_mins(1), async || {
                namespaces.get_opt(&case.namespace).await.unwrap().is_none().then_some(())
            })
            .await;
        }
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let namespace = json!({"metadata": {"name": case.namespace, "labels": labels}});
        namespaces.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await.unwrap();
        case.create(config_map("mlp")).await;
        case
    }

    /// Ends the case: its namespace goes, unwaited for. A case that failed keeps it for a person to look at.
    pub(crate) async fn done(self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let _ = namespaces.delete(&self.namespace, &DeleteParams::background()).await;
    }

    /// Installs the operator with these values of the chart for as long as the case goes on. Only for one that is alone.
    pub(crate) fn operator_with(&mut self, values: &[&str]) {
        assert!(matches!(self.place, Place::Alone(_)), "other cases go on beside this one");
        let before = self.settings.replace(Settings::with(values));
        // These have taken their place already.
        std::mem::forget(before);
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates an object of the namespace.
    pub(crate) async fn create<K>(&self, object: K) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + serde::Serialize
            + Clone
            + std::fmt::Debug,
    {
        self.api::<K>().create(&PostParams::default(), &object).await.unwrap()
    }

    /// The `BakeJob` that bakes the perceptron of the examples, with these fields of its spec over the plain ones.
    pub(crate) fn mlp(&self, name: &str, spec: &Value) -> Value {
        let mut whole = json!({
            "source": {"uri": format!("{SHELF}/model.onnx")},
            "data": {
                "calibration": {"uri": format!("{SHELF}/calibration.npz")},
                "validation": {"uri": format!("{SHELF}/validation.npz"), "metric": "Top1"},
            },
            "optimization": {"level": "Conservative"},
            "output": {"uri": "/tmp/out"},
            "worker": {
                "volumes": [{"name": "shelf", "configMap": {"name": "mlp"}}],
                "volumeMounts": [{"name": "shelf", "mountPath": SHELF, "readOnly": true}],
            },
        });
        merge(&mut whole, spec);
        self.bakejob(name, &whole)
    }

    /// A `BakeJob` of the namespace.
    pub(crate) fn bakejob(&self, name: &str, spec: &Value) -> Value {
        json!({
            "apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        })
    }

    /// Applies a `BakeJob`, as `kubectl apply --server-side` does.
    pub(crate) async fn apply(&self, object: &Value) -> Result<BakeJob, kube::Error> {
        let name = object["metadata"]["name"].as_str().unwrap();
        let parameters = PatchParams { force: true, ..PatchParams::apply(MANAGER) };
        self.api::<BakeJob>().patch(name, &parameters, &Patch::Apply(object)).await
    }

    /// Changes fields of a spec.
    pub(crate) async fn change(&self, name: &str, spec: &Value) -> BakeJob {
        let patch = json!({"spec": spec});
        self.api::<BakeJob>().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap()
    }

    /// Waits until a `BakeJob` is as the test wants it.
    pub(crate) async fn until(
        &self,
        name: &str,
        what: &str,
        within: Duration,
        test: impl Fn(&BakeJob) -> bool,
    ) -> BakeJob {
        let api = self.api::<BakeJob>();
        let started = Instant::now();
        loop {
            let found = api.get_opt(name).await.unwrap();
            if let Some(job) = found.filter(|job| test(job)) {
                return job;
            }
            let late = started.elapsed() > within;
            assert!(!late, "{name}: not {what} within {within:?}\n{}", describe::everything(self, name).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until a `BakeJob` is in a state.
    pub(crate) async fn reaches(&self, name: &str, expected: State, within: Duration) -> BakeJob {
        self.until(name, expected.as_str(), within, |job| state(job) == Some(expected)).await
    }

    /// Waits until the run of the current spec has ended in this state; another end fails at once.
    pub(crate) async fn ends(&self, name: &str, expected: State, within: Duration) -> BakeJob {
        let job = self.until(name, "at its end", within, ended).await;
        assert_eq!(state(&job), Some(expected), "{}", describe::everything(self, name).await);
        job
    }

    /// Waits until a bake has ended well. The perceptron takes microseconds, so whether it became faster is noise on a busy machine: an
    /// artifact that is no better than its input is as good an end here.
    pub(crate) async fn bakes(&self, name: &str, within: Duration) -> BakeJob {
        let job = self.until(name, "at its end", within, ended).await;
        let well = matches!(state(&job), Some(State::Baked | State::NoImprovement));
        assert!(well, "{}", describe::everything(self, name).await);
        job
    }

    /// The Jobs of a `BakeJob`, oldest first.
    pub(crate) async fn jobs(&self, name: &str) -> Vec<Job> {
        let mut jobs = self.api::<Job>().list(&labelled(name)).await.unwrap().items;
        jobs.sort_by_key(|job| job.metadata.creation_timestamp.clone());
        jobs
    }

    /// The pods of a `BakeJob`, oldest first.
    pub(crate) async fn pods(&self, name: &str) -> Vec<Pod> {
        let mut pods = self.api::<Pod>().list(&labelled(name)).await.unwrap().items;
        pods.sort_by_key(|pod| pod.metadata.creation_timestamp.clone());
        pods
    }
}

fn labelled(name: &str) -> ListParams {
    ListParams::default().labels(&format!("bakehouse.dev/bakejob={name}"))
}

/// The state that a `BakeJob`'s status tells of, once the controller has seen its spec.
pub(crate) fn state(job: &BakeJob) -> Option<State> {
    let status = job.status.as_ref()?;
    if status.observed_generation != job.metadata.generation {
        return None;
    }
    State::named(&condition(job, "Succeeded")?.1)
}

/// Whether the run of the current spec is over.
pub(crate) fn ended(job: &BakeJob) -> bool {
    state(job).is_some_and(State::terminal)
}

/// Status and reason of a condition.
pub(crate) fn condition(job: &BakeJob, kind: &str) -> Option<(String, String)> {
    let condition = job.status.as_ref()?.conditions.iter().find(|c| c.type_ == kind)?;
    Some((condition.status.clone(), condition.reason.clone()))
}

/// The message of condition Succeeded.
pub(crate) fn message(job: &BakeJob) -> String {
    let conditions = job.status.iter().flat_map(|status| &status.conditions);
    conditions.filter(|c| c.type_ == "Succeeded").map(|c| c.message.clone()).collect()
}

/// The phase of a pod; empty before it has one.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Waits for a value.
pub(crate) async fn eventually<T>(what: &str, within: Duration, mut test: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = test().await {
            return value;
        }
        assert!(started.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Lays `over` over a value: objects field by field, anything else as a whole.
fn merge(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (field, value) in over {
                merge(under.entry(field.clone()).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}
