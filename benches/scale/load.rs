//! The `BakeJob`s.

use std::collections::HashMap;
use std::time::Duration;

use bakehouse::api::BakeJob;
use futures::{StreamExt, stream};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::Options;

/// Namespaces of the benchmark; nobody else's are touched.
pub(crate) fn namespace(i: u32) -> String {
    format!("scale-{i}")
}

pub(crate) async fn prepare(client: &Client, namespaces: u32) {
    clear(client, namespaces).await;
    let api: Api<Namespace> = Api::all(client.clone());
    for i in 0..namespaces {
        let namespace = json!({"metadata": {"name": namespace(i)}});
        api.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await.unwrap();
    }
}

/// Deletes everything again, and waits until it is gone.
pub(crate) async fn clear(client: &Client, namespaces: u32) {
    let api: Api<Namespace> = Api::all(client.clone());
    for i in 0..namespaces {
        let _ = api.delete(&namespace(i), &DeleteParams::background()).await;
    }
    for i in 0..namespaces {
        while api.get_opt(&namespace(i)).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

pub(crate) async fn create(client: &Client, options: &Options) {
    let started = tokio::time::Instant::now();
    stream::iter(0..options.jobs)
        .for_each_concurrent(options.clients, |i| {
            let api: Api<BakeJob> = Api::namespaced(client.clone(), &namespace(i % options.namespaces));
            let due = options.rate.map(|rate| started + Duration::from_secs_f64(f64::from(i) / rate));
            let job = json!({
                "apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob",
                "metadata": {"name": format!("job-{i}")},
                "spec": {
                    "source": {"uri": format!("s3://models/{i}.onnx")},
                    "data": {"validation": {"uri": "s3://models/validation.npz"}},
                    "output": {"uri": format!("s3://models/baked/{i}/")},
                    "worker": {
                        "nodeSelector": {"type": "kwok"},
                        "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
                        "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
                    },
                },
            });
            async move {
                if let Some(due) = due {
                    tokio::time::sleep_until(due).await;
                }
                api.create(&PostParams::default(), &serde_json::from_value(job).unwrap()).await.unwrap();
            }
        })
        .await;
}

/// How many `BakeJob`s have more than one Job.
pub(crate) async fn doubled(client: &Client) -> usize {
    let jobs: Api<Job> = Api::all(client.clone());
    let mut of: HashMap<(String, String), u32> = HashMap::new();
    let mut page = ListParams::default().labels("bakehouse.dev/bakejob").limit(1000);
    loop {
        let list = jobs.list_metadata(&page).await.unwrap();
        for job in &list.items {
            let name = job.labels().get("bakehouse.dev/bakejob").cloned().unwrap_or_default();
            *of.entry((job.namespace().unwrap_or_default(), name)).or_default() += 1;
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    of.values().filter(|count| **count > 1).count()
}
