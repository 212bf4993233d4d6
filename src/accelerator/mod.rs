//! Lossless graph work: folding, dead code, common subexpressions, fusion, layout. Passes only; running and checking them is the driver's.

mod evaluate;
pub mod fold;
mod net;
mod shapes;
