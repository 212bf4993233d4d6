//! What the storage tests stand on.

pub(crate) mod pod;
pub(crate) mod server;
pub(crate) mod stall;
