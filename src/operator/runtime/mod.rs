//! The shell around the decisions: watches, the Lease, the server, the API. It has no `if` worth a unit test; what can be pure is pure.

mod answer;
mod apply;
mod children;
mod context;
mod events;
mod guard;
mod kept;
mod lease;
mod line;
mod metrics;
mod namespaces;
mod observe;
mod publish;
mod readiness;
mod reconcile;
mod requests;
mod run;
mod server;
mod triggers;
mod unread;
mod watches;
mod workqueue;

pub use run::{OperatorError, run};

#[cfg(test)]
mod mock;
#[cfg(test)]
mod scenarios;
