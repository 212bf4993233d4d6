//! What this machine is and allows: instruction sets, cores, memory limit; and what that means for 8-bit arithmetic.

pub mod advise;
mod cgroup;
pub mod detect;

pub use advise::{Advice, IntegerPath, advise};
pub use detect::{LoadAverage, MachineFacts, detect};
