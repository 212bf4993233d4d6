//! The vocabulary of Bakehouse: the `BakeJob` resource, reasons, exit codes, metric names. No client and no IO, so every room may use it.
//!
//! A job is parsed once and never re-checked:
//!
//! ```text
//!  YAML ── load::parse ──▶ BakeJob ── support::refusals ──▶ job::ResolvedJob
//!          schema, CEL     as an API   what is not built    plain values, gates
//!                          server sees                      merged, paths joined
//! ```

pub mod bakejob;
pub mod conditions;
mod crd;
pub mod digest;
mod error;
pub mod floor;
pub mod job;
pub mod load;
pub mod metric;
pub mod presets;
pub mod reason;
mod schema;
pub mod state;
mod suggest;
pub mod support;
pub mod value;
pub mod wire;
mod yaml;

pub use bakejob::{BakeJob, BakeJobSpec, BakeJobStatus};
pub use crd::{crd, crd_yaml};
pub use error::{JobError, Problem};
pub use job::{Bound, Gate, ResolvedJob};
pub use metric::Metric;
pub use reason::Reason;
pub use state::State;
