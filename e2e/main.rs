//! The operator on a real cluster: pods run on kubelets, the status is what the controller found out. No case writes the status of a Job or
//! a Pod. `make e2e` brings the cluster, installs the operator with Helm and runs the cases; `e2e/README.md` says how to use another cluster.
//!
//! Each case has a namespace of its own, where the restricted Pod Security Standard is enforced. Cases that disturb the cluster or the
//! operator run alone ([`support::Case::alone`]), the others side by side.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::format_push_string, reason = "a description of what failed, not a hot loop")]

mod cases;
mod support;
