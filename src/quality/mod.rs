//! The four quality metrics with their intervals, the gates and their three-valued verdicts, the cheat detector. Pure: values in, values out.

pub mod consistency;
pub mod distribution;
pub mod error;
pub mod features;
pub mod figure;
pub mod metric;
mod moments;
pub mod retention;
pub mod stats;
pub mod values;

pub use error::QualityError;
pub use figure::{Concern, Figure};
