//! Names, labels and annotations of what the controller makes.

/// The controller, in events, metrics and field managers.
pub const CONTROLLER: &str = "bakehouse-operator";

/// Field manager of the status.
pub const STATUS_MANAGER: &str = "bakehouse-status";

/// Keeps a `BakeJob` until its output is deleted. Only set with `output.onDelete: Delete`.
pub const FINALIZER: &str = "bakehouse.dev/output";

/// Label: the `BakeJob`'s name. What the watches of Jobs and Pods select by.
pub const LABEL_JOB: &str = "bakehouse.dev/bakejob";
/// Label: the run.
pub const LABEL_RUN: &str = "bakehouse.dev/run";
/// Label: the attempt.
pub const LABEL_ATTEMPT: &str = "bakehouse.dev/attempt";
/// Label: what the pod is for.
pub const LABEL_TASK: &str = "bakehouse.dev/task";

/// Annotation: the spec digest that the run bakes.
pub const NOTE_DIGEST: &str = "bakehouse.dev/spec-digest";
/// Annotation: failures of the run before this attempt.
pub const NOTE_FAILURES: &str = "bakehouse.dev/failures";
/// Annotation: whether the attempt takes the low-memory plan.
pub const NOTE_LOW_MEMORY: &str = "bakehouse.dev/low-memory";
/// Annotation: the device of the attempt.
pub const NOTE_DEVICE: &str = "bakehouse.dev/device";
/// Annotation: why that device.
pub const NOTE_DEVICE_REASON: &str = "bakehouse.dev/device-reason";

/// Annotation: the uid of the `BakeJob` whose output a Job deletes. It has no owner reference; see [`crate::operator::build::cleanup`].
pub const NOTE_OWNER: &str = "bakehouse.dev/owner-uid";

/// Labels of Kueue that go from a `BakeJob` to its Jobs.
pub const KUEUE_LABELS: [&str; 3] =
    ["kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class", "kueue.x-k8s.io/max-exec-time-seconds"];

/// The label that hands a Job to Kueue.
pub const KUEUE_QUEUE: &str = KUEUE_LABELS[0];

/// The label by which Kueue marks a Job's Workload.
pub const KUEUE_JOB_UID: &str = "kueue.x-k8s.io/job-uid";

/// The label by which the Job controller marks a Job's pods.
pub const POD_JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// The container that bakes.
pub const CONTAINER: &str = "worker";

/// The Job of an attempt: the same name whoever creates it, so it is never created twice.
pub fn job(name: &str, run: u32, attempt: u32) -> String {
    format!("{name}-{run}-{attempt}")
}

/// The Job that promotes an artifact; `wish` are eight characters of what and where to. A name of 52 characters leaves room for just that.
pub fn promotion(name: &str, wish: &str) -> String {
    format!("{name}-p-{wish}")
}

/// The Job that deletes the output.
pub fn cleanup(name: &str) -> String {
    format!("{name}-cleanup")
}
