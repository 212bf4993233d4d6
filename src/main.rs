//! The `bakehouse` binary.
fn main() {}
