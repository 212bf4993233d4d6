//! An API server for the tests: answers by a table, and remembers what it was asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use kube::runtime::reflector::store;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::children::Children;
use super::context::{Context, Guarded, Written};
use super::events::Events;
use super::kept::trim;
use super::metrics::Metrics;
use super::triggers::Triggers;
use crate::operator::validate::Defaults;

/// A request as it came.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) body: Value,
}

impl Asked {
    /// `POST jobs`, `PATCH bakejobs/cnn/status`.
    pub(super) fn short(&self) -> String {
        let path = self.path.split("/namespaces/ml/").nth(1).unwrap_or(&self.path);
        format!("{} {path}", self.method)
    }
}

/// How a request is answered: status and body.
type Answers = Box<dyn Fn(&Asked) -> Option<(u16, Value)> + Send>;

/// The server.
pub(super) struct Mock {
    pub(super) context: Arc<Context>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Mock {
    /// A server that answers by `answers`, and otherwise lets everything succeed; `object` is the `BakeJob` in the cache and on the server.
    pub(super) fn new(object: &Value, answers: impl Fn(&Asked) -> Option<(u16, Value)> + Send + 'static) -> Self {
        let (service, handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        tokio::spawn(serve(handle, asked.clone(), object.clone(), Box::new(answers)));
        let client = Client::new(service, "ml");
        let (reader, mut writer) = store::<Guarded>();
        let mut kept: Guarded = serde_json::from_value(object.clone()).unwrap();
        trim(&mut kept);
        writer.apply_watcher_event(&Event::Apply(kept));
        let context = Arc::new(Context {
            client: client.clone(),
            store: reader,
            jobs: Children::default(),
            pods: Children::default(),
            nodes: None,
            priorities: RwLock::default(),
            turns: RwLock::new(None),
            defaults: Defaults::default(),
            events: Events::new(client, "test"),
            metrics: Metrics::new(1),
            triggers: Triggers::new(1),
            asked: Mutex::default(),
            written: Written::default(),
            failures: Mutex::new(HashMap::new()),
            unreadable: tokio::sync::Mutex::default(),
            timeout: Duration::from_secs(5),
        });
        Self { context, asked }
    }

    /// What was asked, in order.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The same in short.
    pub(super) fn short(&self) -> Vec<String> {
        self.asked().iter().map(Asked::short).collect()
    }

    /// The reason of condition Succeeded in the status that was published last.
    pub(super) fn reason(&self) -> String {
        let asked = self.asked();
        let status = asked.iter().rev().find(|a| a.path.ends_with("/status")).expect("a status was published");
        status.body["status"]["conditions"][0]["reason"].as_str().unwrap().to_owned()
    }
}

type Handle = tower_test::mock::Handle<Request<Body>, Response<Body>>;

async fn serve(mut handle: Handle, asked: Arc<Mutex<Vec<Asked>>>, object: Value, answers: Answers) {
    while let Some((request, send)) = handle.next_request().await {
        let (parts, body) = request.into_parts();
        let bytes = body.collect_bytes().await.unwrap();
        let one = Asked {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        };
        let (code, body) = answers(&one).unwrap_or_else(|| default(&one, &object));
        asked.lock().unwrap().push(one);
        let response = Response::builder().status(code).header("content-type", "application/json");
        send.send_response(response.body(Body::from(serde_json::to_vec(&body).unwrap())).unwrap());
    }
}

fn default(asked: &Asked, object: &Value) -> (u16, Value) {
    match (asked.method.as_str(), asked.path.contains("/bakejobs/")) {
        ("GET", false) => status(404, "NotFound", "not found"),
        (_, true) => (200, object.clone()),
        (_, false) => (201, asked.body.clone()),
    }
}

/// An error as an API server words it.
pub(super) fn status(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message});
    (code, body)
}

/// A `BakeJob` as an API server gives it out.
pub(super) fn bakejob() -> Value {
    json!({
        "apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob",
        "metadata": {"name": "cnn", "namespace": "ml", "uid": "u-1", "generation": 1, "resourceVersion": "7"},
        "spec": {"source": {"uri": "/m/a.onnx"}, "data": {"validation": {"uri": "/m/v.npz"}}, "output": {"uri": "/out"}},
        "status": {"observedGeneration": -1},
    })
}
