//! Equalisation: an activation whose channels differ much in size leaves the small ones few codes. As in [`super::balance()`] each channel is divided by a power of two
//! and the weights that meet it are multiplied by the same; but here the division goes into what makes the activation, so that it costs nothing at run time.
//!
//! ```text
//!  Conv ─ Relu ─ x ─ Conv          rows of the first weight and its bias / s, columns of the second x s
//!  LayerNormalization ─ x ─┬─ MatMul      scale and bias / s, rows of every weight that reads x multiplied by s
//!                          └─ MatMul
//! ```
//! The first is cross-layer equalisation (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1), the second
//! SmoothQuant (Xiao et al. 2022, equation 4 and section 4, "Migrate the Quantization Difficulty"). One rule of factors serves both, for the geometric mean of the former
//! is the latter's at a strength of one half.
//!
//! Powers of two leave the float model the same to the bit, as long as no value leaves the range of float32. Ranges have to be seen anew behind it.
//!
//! [`seam`] reads off the graph where that can be, [`factors`] finds the factors by the error to expect.

pub mod factors;
pub mod seam;
mod spectrum;
mod walk;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::balance::Balance;
use super::glob::Exclude;
use crate::engine::{EngineError, Feed, SharedEngine};
use crate::model::edit::Index;
use crate::model::{Effect, Facts, Model, Pass, PassError};
use factors::Stream;
use seam::Seam;

/// Divides the channels of activations of the main graph by powers of two, within the weights that make them and those that read them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Equalise {
    /// The activations, with one exponent per channel.
    pub activations: Vec<Balance>,
}

impl Equalise {
    /// Name of the pass.
    pub const NAME: &str = "equalise";
}

impl Pass for Equalise {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn parameters(&self) -> Value {
        serde_json::to_value(self).expect("plain data always becomes JSON")
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        let (mut rewrites, mut refused) = (0, Vec::new());
        for balance in &self.activations {
            let index = Index::new(model.graph());
            let seam = Seam::of(model, &index, facts, &balance.activation);
            match seam.and_then(|seam| seam.fold(model, &index, facts, &balance.exponents)) {
                Ok(()) => rewrites += 1,
                Err(reason) => refused.push(format!("'{}': {reason}", balance.activation)),
            }
        }
        let reason = if refused.is_empty() { "no activation is listed".to_owned() } else { refused.join("; ") };
        Ok(Effect::rewrites(rewrites, &reason))
    }
}

/// The pass for every activation of `model` where factors can be folded away and are expected to help; `None` where there is none. `limit` is the largest code of
/// a weight; `exclude` matches nodes that stay as they are.
///
/// # Errors
/// What the engine says of the model with these activations as outputs.
pub fn equalise(
    engine: &SharedEngine,
    model: &Model,
    facts: &Facts,
    exclude: &Exclude,
    feeds: &[Feed],
    limit: u8,
) -> Result<Option<Equalise>, EngineError> {
    let index = Index::new(model.graph());
    let seams = seam::all(model, &index, facts, exclude);
    let seen = factors::seen(engine, model, &seams, feeds)?;
    let activations = seams.par_iter().zip(seen).filter_map(|(seam, seen)| {
        let stream = Stream::new(seam, seen, seam.readers(model, &index, facts));
        Some(Balance { activation: seam.activation.clone(), exponents: stream.exponents(limit)? })
    });
    let pass = Equalise { activations: activations.collect() };
    Ok((!pass.activations.is_empty()).then_some(pass))
}
