//! What the storage tests stand on.

pub mod pod;
pub mod server;
pub mod stall;
