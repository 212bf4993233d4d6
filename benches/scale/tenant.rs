//! A tenant who fills a namespace with objects that are none of the operator's business: what kills operators that watch everything.

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

const NAMESPACE: &str = "scale-tenant";

/// `ConfigMap`s of nearly the largest size, and pods.
const CONFIG_MAPS: usize = 700;
const CONFIG_MAP_BYTES: usize = 900_000;
const PODS: usize = 10_000;

/// Creates them.
pub(crate) async fn fill(client: &Client, clients: usize) -> String {
    let namespace = json!({"metadata": {"name": NAMESPACE}});
    let parameters = PostParams::default();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&parameters, &serde_json::from_value(namespace).unwrap()).await.unwrap();
    let account = json!({"metadata": {"name": "default"}});
    let accounts = Api::<k8s_openapi::api::core::v1::ServiceAccount>::namespaced(client.clone(), NAMESPACE);
    // Pods are refused until it is there; the controller that makes it may be slow.
    let _ = accounts.create(&parameters, &serde_json::from_value(account).unwrap()).await;

    let text = "x".repeat(CONFIG_MAP_BYTES);
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    stream::iter(0..CONFIG_MAPS)
        .for_each_concurrent(4, async |i| {
            let object = json!({"metadata": {"name": format!("large-{i}")}, "data": {"text": text}});
            config_maps.create(&parameters, &serde_json::from_value(object).unwrap()).await.unwrap();
        })
        .await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    stream::iter(0..PODS)
        .for_each_concurrent(clients, async |i| {
            let spec =
                json!({"schedulerName": "none", "containers": [{"name": "main", "image": "none.invalid/none:1"}]});
            let object = json!({"metadata": {"name": format!("foreign-{i}")}, "spec": spec});
            pods.create(&parameters, &serde_json::from_value(object).unwrap()).await.unwrap();
        })
        .await;
    format!("{CONFIG_MAPS} ConfigMaps of {} KB and {PODS} foreign pods", CONFIG_MAP_BYTES / 1000)
}

/// Deletes them, unwaited for: the cluster is not needed any more.
pub(crate) async fn leave(client: &Client) {
    let _ = Api::<Namespace>::all(client.clone()).delete(NAMESPACE, &DeleteParams::background()).await;
}
