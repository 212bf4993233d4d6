//! The types of the conditions in a `BakeJob`'s status.
//!
//! Execution and verdict stay apart: a bake that ran but missed a gate is `Succeeded=True, GatePassed=False`. The last three are what
//! kstatus, and with it Flux and Helm, read.

/// The run came to its end. Unknown while it is queued or active.
pub const SUCCEEDED: &str = "Succeeded";
/// Every gate passed. False when one failed, Unknown when none failed but one could not be decided.
pub const GATE_PASSED: &str = "GatePassed";
/// The artifact of this run was promoted.
pub const PROMOTED: &str = "Promoted";
/// `spec.suspend` holds the run.
pub const SUSPENDED: &str = "Suspended";
/// The artifact is there and passed its gates.
pub const READY: &str = "Ready";
/// A run is queued or active; abnormal-true.
pub const RECONCILING: &str = "Reconciling";
/// Nothing more will happen until a person changes the spec; abnormal-true.
pub const STALLED: &str = "Stalled";

/// Every type, in the order they are written. All are set on the first visit, because an absent condition reads as Unknown.
pub const ALL: [&str; 7] = [SUCCEEDED, GATE_PASSED, PROMOTED, SUSPENDED, READY, RECONCILING, STALLED];
