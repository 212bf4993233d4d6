//! Lossy passes (8-bit weights, dynamic and static quantisation) and their repairs, calibration, the transactional driver that runs every pass, the search and the recipe it ends in.

pub mod calibration;
pub mod driver;
mod explore;
mod held;
pub mod int8;
mod mixed;
pub mod rank;
pub mod recipe;
pub mod repair;
mod room;
pub mod search;
pub mod sensitivity;

pub use driver::{Driver, Outcome, PassRecord, Work};
pub use recipe::{Recipe, Step};
pub use repair::Repair;
pub use search::{Candidate, Judge, Limits, Missed, Quality, Score, SiteInfo, Speed, Variant, search};
pub use sensitivity::{How, Scan, SiteHarm};
