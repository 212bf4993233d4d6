//! Measuring: latency, paired A/B, memory. Every figure keeps its raw samples; none is given with too few of them.

pub mod clock;
pub mod exclusive;
pub mod latency;
pub mod paired;

pub use exclusive::TimingTurn;
pub use latency::{Latency, Samples};
pub use paired::Paired;
