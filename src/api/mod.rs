//! The vocabulary of Bakehouse: the `BakeJob` resource, reasons, exit codes, metric names. No client and no IO, so every room may use it.

pub mod reason;

pub use reason::Reason;
