//! Other projects in the cluster, Kueue and Argo CD: their scripts, and their objects, whose types nobody here needs.

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::Value;

use super::{MANAGER, shell};

/// What `e2e/cluster/components.sh` ends with when a project's source cannot be had here.
const UNAVAILABLE: i32 = 75;

/// Runs the script that brings a project, and returns what it printed; `None`, with a word about it, where it cannot be had.
pub(crate) fn bring(script: &str, arguments: &[&str]) -> Option<String> {
    let output = shell::output(&shell::script(script).display().to_string(), arguments);
    if output.status.code() == Some(UNAVAILABLE) {
        println!("skipped: its source cannot be had here ({script} ended with code {UNAVAILABLE})");
        return None;
    }
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} {}: {}\n{error}", arguments.join(" "), output.status);
    Some(String::from_utf8(output.stdout).unwrap())
}

/// A kind of object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind(pub(crate) &'static str, pub(crate) &'static str, pub(crate) &'static str);

impl Kind {
    /// Its API; of a namespace's objects, or of the cluster's.
    pub(crate) fn api(self, client: &Client, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(self.0, self.1, self.2));
        match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        }
    }

    /// Applies an object of this kind: its metadata, and the rest beside it.
    pub(crate) async fn apply(self, client: &Client, object: &Value) -> DynamicObject {
        let mut whole = serde_json::json!({"apiVersion": format!("{}/{}", self.0, self.1), "kind": self.2});
        whole.as_object_mut().unwrap().extend(object.as_object().unwrap().clone());
        let metadata = &object["metadata"];
        let name = metadata["name"].as_str().unwrap();
        let parameters = PatchParams { force: true, ..PatchParams::apply(MANAGER) };
        self.api(client, metadata["namespace"].as_str()).patch(name, &parameters, &Patch::Apply(&whole)).await.unwrap()
    }
}
