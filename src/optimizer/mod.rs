//! Lossy passes (8-bit weights, dynamic quantisation), the transactional driver that runs every pass, the search and the recipe it ends in.

pub mod driver;
pub mod int8;
pub mod recipe;
mod room;
pub mod search;

pub use driver::{Driver, Outcome, PassRecord, Work};
pub use recipe::{Recipe, Step};
pub use search::{Candidate, Judge, Limits, Score, SiteInfo, Speed, Variant, search};
