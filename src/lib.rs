//! Bakehouse bakes trained models before they are deployed: it makes them smaller and faster for their hardware, proves on
//! held-out data that they kept their quality, measures them, exports them, and only then lets them be promoted.
//!
//! ```text
//!  BakeJob ─▶ load ─▶ baseline ─▶ optimise ─▶ validate ─▶ profile ─▶ gate ─▶ export
//!             model    profiler    accelerator  quality     profiler   quality  store
//!                                  optimizer
//!                       └──────────── engine (tract, ONNX Runtime) ───────┘
//! ```
//!
//! Rooms depend one way: `api ← model ← engine ← {accelerator, optimizer, quality, profiler} ← bake ← worker ← cli`,
//! `api, model ← package ← {bake, worker, cli}`, and `api ← store ← worker`, `api ← hardware::place ← operator ← cli`: the controller knows no engine, and talks to the worker through `api::wire` alone. `tests/rooms.rs`
//! keeps it true.

pub mod api;
pub mod hardware;

#[cfg(feature = "operator")]
pub mod operator;

#[cfg(feature = "engine")]
pub mod accelerator;
#[cfg(feature = "engine")]
pub mod bake;
#[cfg(feature = "engine")]
pub mod cli;
#[cfg(feature = "engine")]
pub mod engine;
#[cfg(feature = "engine")]
pub mod model;
#[cfg(feature = "engine")]
pub mod optimizer;
#[cfg(feature = "engine")]
pub mod package;
#[cfg(feature = "engine")]
pub mod profiler;
#[cfg(feature = "engine")]
pub mod quality;
#[cfg(feature = "engine")]
mod signals;
#[cfg(feature = "store")]
pub mod store;
#[cfg(feature = "engine")]
pub mod worker;
