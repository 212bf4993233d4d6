//! What a machine is and allows, seen from both sides: `place` chooses a node for a job from labels alone; `detect` and `advise` look at the
//! machine that a bake runs on.

#[cfg(feature = "engine")]
pub mod advise;
#[cfg(feature = "engine")]
mod cgroup;
#[cfg(feature = "engine")]
pub mod detect;
pub mod place;

#[cfg(feature = "engine")]
pub use advise::{Advice, IntegerPath, advise};
#[cfg(feature = "engine")]
pub use detect::{LoadAverage, MachineFacts, detect};
