//! What the storage tests stand on.

pub(crate) mod gcs;
pub(crate) mod http;
pub(crate) mod pod;
pub(crate) mod proxy;
pub(crate) mod server;
pub(crate) mod stall;
pub(crate) mod tls;
pub(crate) mod tools;
pub(crate) mod whole;
pub(crate) mod wide;
