//! The controller: watches `BakeJob`s, gives each run a Job, and says in the status what became of it.
//!
//! ```text
//!  watches ─▶ facts ─▶ observe ─▶ validate ─▶ decide ─▶ build ─▶ apply ─▶ publish
//!             of Jobs, Pods,      parse once   pure: (what is asked for, what is seen, now) ─▶ actions, status, events
//!             Nodes: small
//! ```
//!
//! `facts`, `validate`, `decide`, `build` and `queue` know no client; `observe`, `apply` and `publish` decide nothing. Nothing here knows an
//! engine: the worker bakes, and the two talk through [`crate::api::wire`].

pub mod build;
pub mod command;
pub mod decide;
pub mod facts;
pub mod names;
pub mod queue;
mod runtime;
pub mod settings;
pub mod validate;

pub use decide::{Action, EventSpec, Plan, decide};
pub use facts::Observed;
pub use runtime::{OperatorError, run};
pub use settings::OperatorArgs;
pub use validate::{Defaults, Validated, validate};
