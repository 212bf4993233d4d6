//! Measuring: latency, throughput, memory, determinism, paired A/B.
//!
//! Everything here times closures and reads counters; what is run, and what a figure decides, is the business of other rooms. Every figure carries n and a
//! distribution-free 95 % interval where n allows one; a figure that n does not allow is absent, never guessed. Raw samples are kept.
//!
//! Timing sections take a [`TimingTurn`] first, so that bakes on one machine never time against each other.

pub mod clock;
pub mod determinism;
pub mod error;
pub mod exclusive;
pub mod figures;
pub mod latency;
pub mod memory;
pub mod order;
pub mod paired;
pub mod throughput;

pub use clock::Clock;
pub use determinism::{Determinism, digest};
pub use error::ProfilerError;
pub use exclusive::TimingTurn;
pub use figures::{Estimate, Interval, LatencyFigure, MemoryFigure, PairedFigure, ThroughputFigure};
pub use latency::{Latencies, LatencyOptions, Summary, measure};
pub use paired::{Paired, PairedOptions, compare};
