//! Lossless graph work: folding, dead code, common subexpressions, fusion, layout. Passes only; running and checking them is the driver's.
/// x
pub const PASS_NAMES: &[&str] = &[];
/// x
pub fn conservative_passes() -> Vec<Box<dyn crate::model::Pass>> { vec![] }
/// x
pub fn by_name(_: &str) -> Option<Box<dyn crate::model::Pass>> { None }
