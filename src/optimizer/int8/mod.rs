//! 8-bit weights, dynamic 8-bit arithmetic (level Light) and static 8-bit arithmetic (level Medium): the lossy passes.
//!
//! | pass | what the file holds | what runs |
//! |---|---|---|
//! | [`RoundWeights`] | float weights, some moved to another code than the nearest, for the passes behind it to find | as before |
//! | [`StaticInt8`] | int8 weights, int32 biases, ranges of activations | integer products and what lies between them; see [`qdq`] |
//! | [`DynamicInt8`] | int8 weights, activations quantised per run | integer products; ONNX Runtime fuses the chain into one kernel |
//! | [`Int4Blocks`] | 4-bit weights in blocks of one scale | `MatMulNBits` of ONNX Runtime; only where a job names it |
//! | [`EmbeddingInt8`] | int8 table and one scale per row | only the rows that are looked up become float |
//! | [`WeightInt8`] | int8 (or half-precision) weights and scales | the float weights again, restored when the model loads |
//!
//! They compose in this order: each leaves alone what an earlier one took. Three change float constants before the codes and cost nothing when they run: [`Equalise`]
//! evens out channels, [`RoundWeights`] moves weights to other codes, [`BiasCorrection`] takes back what rounding shifts. [`balance`] evens out the channels of what is quantised at run time, [`candidates`] says where
//! each could act, [`scheme`] holds the arithmetic.

mod already;
pub mod balance;
mod blocks;
pub mod candidates;
pub mod correction;
pub mod dynamic;
pub mod embedding;
pub mod equalise;
pub mod glob;
pub mod int4;
pub mod linear;
pub mod qdq;
mod rewrite;
mod roles;
pub mod round;
mod row;
pub mod scheme;
mod scope;
mod store;
pub mod weight;

pub use already::Already;
pub use balance::{Balance, balance};
pub use candidates::{DynamicSite, EmbeddingSite, WeightSite, dynamic_sites, embedding_sites, quantizable_weights};
pub use correction::{BiasCorrection, Correction};
pub use dynamic::{DynamicInt8, NodePlan, WeightScheme};
pub use embedding::{EmbeddingInt8, TablePlan};
pub use equalise::{Equalise, equalise};
pub use glob::Exclude;
pub use int4::{BlockPlan, BlockSite, Int4Blocks, block_sites};
pub use qdq::{Region, StaticInt8, StaticSite};
pub use roles::WeightKind;
pub use round::{Grid, RoundWeights, RoundedWeight, Rounder};
pub use scheme::{Range, weight_error};
pub use weight::{Encoding, TensorPlan, WeightInt8};

use crate::model::Pass;

/// The pass of this name with these parameters, as a recipe holds them; `None` when it is not one of this folder or the parameters are not its own.
pub fn from_parameters(pass: &str, parameters: &serde_json::Value) -> Option<Box<dyn Pass>> {
    fn read<P: Pass + serde::de::DeserializeOwned + 'static>(parameters: &serde_json::Value) -> Option<Box<dyn Pass>> {
        P::deserialize(parameters).ok().map(|pass| Box::new(pass) as Box<dyn Pass>)
    }
    match pass {
        RoundWeights::NAME => read::<RoundWeights>(parameters),
        Int4Blocks::NAME => read::<Int4Blocks>(parameters),
        Equalise::NAME => read::<Equalise>(parameters),
        BiasCorrection::NAME => read::<BiasCorrection>(parameters),
        StaticInt8::NAME => read::<StaticInt8>(parameters),
        DynamicInt8::NAME => read::<DynamicInt8>(parameters),
        EmbeddingInt8::NAME => read::<EmbeddingInt8>(parameters),
        WeightInt8::NAME => read::<WeightInt8>(parameters),
        _ => None,
    }
}
