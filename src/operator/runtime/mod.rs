//! The shell around the decisions: watches, the Lease, the server, the API. It has no `if` worth a unit test; what can be pure is pure.

mod apply;
mod children;
mod context;
mod lease;
mod line;
mod metrics;
mod observe;
mod publish;
mod readiness;
mod reconcile;
mod run;
mod server;
mod watches;

pub use run::{OperatorError, run};

#[cfg(test)]
mod mock;
#[cfg(test)]
mod scenarios;
