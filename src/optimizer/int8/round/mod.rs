//! Rounding weights with the others in mind: of a weight's nearest code and its neighbours that which makes up for what rounding did to the weights
//! before it, so that the products change least (Frantar et al. 2022, "GPTQ", equation 2; the step is that of Hassibi & Stork 1993, "Second order derivatives
//! for network pruning: Optimal Brain Surgeon", equation 5).
//!
//! | part | what it does |
//! |---|---|
//! | [`search`], [`trial`] | read what the products of a choice of passes multiply, and keep the weights whose products gain on rows that nothing was fitted to |
//! | [`solve`], [`cholesky`] | second moments, their Cholesky factor, and the codes |
//! | [`rows`] | rows of activations as a product sees them: rounded, and of a convolution one row per position |
//! | [`table`] | those rows in memory, as codes |
//! | [`grid`] | which codes a weight may have |
//!
//! [`RoundWeights`] does nothing but move codes: a weight that takes another code than the nearest becomes that code times its scale, all others keep their
//! bits. Those that set a scale never move and none moves to their code, so scales stay as they were, and whatever quantises on the same grid later finds
//! exactly these codes: [`super::StaticInt8`], [`super::DynamicInt8`], [`super::WeightInt8`] and [`super::Int4Blocks`] alike.
//!
//! A code moves by one at most, so that two bits per weight say all of it.

mod cholesky;
mod grid;
mod rows;
mod search;
mod solve;
mod table;
mod trial;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use grid::Grid;
pub use search::Rounder;

use crate::model::build::tensor_attribute;
use crate::model::edit::{Index, is_op};
use crate::model::{DType, Effect, Facts, Model, Pass, PassError, Tensor};

/// Where the codes of one weight are not the nearest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoundedWeight {
    /// Name of the constant of the main graph.
    pub tensor: String,
    /// Its axis that counts output channels: 0, or 1 of a matrix.
    pub axis: usize,
    /// How its codes share scales.
    pub grid: Grid,
    /// Code less nearest code of every weight, output channel by output channel: two bits each (0, 1, and 2 for -1), the first lowest in its byte; in base64.
    pub moves: String,
    /// Relative RMS error of the products with the nearest codes, on rows by which only the damping was chosen.
    pub nearest_error: f64,
    /// The same with these codes.
    pub error: f64,
}

/// Moves weights to the codes that were chosen for them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoundWeights {
    /// The weights.
    pub weights: Vec<RoundedWeight>,
    /// Sentences on the weights that keep their nearest codes. Nothing that has to be replayed.
    #[serde(skip)]
    pub left: Vec<String>,
}

impl RoundWeights {
    /// Name of the pass.
    pub const NAME: &str = "round-weights";

    /// Why nothing was moved.
    pub fn reason(&self) -> String {
        let (said, more) = self.left.split_at(self.left.len().min(MOST_REASONS));
        match (said, more.len()) {
            ([], _) => "no listed weight is a constant of the main graph".to_owned(),
            (said, 0) => said.join("; "),
            (said, more) => format!("{}; and {more} more", said.join("; ")),
        }
    }
}

/// Weights that are named where none gains.
const MOST_REASONS: usize = 3;

/// Two-bit fields in base64.
fn packed(moves: &[i8]) -> String {
    let field = |(at, &by): (usize, &i8)| (if by < 0 { 2_u8 } else { by as u8 }) << (2 * at);
    let bytes: Vec<u8> = moves.chunks(4).map(|four| four.iter().enumerate().map(field).sum()).collect();
    STANDARD.encode(bytes)
}

/// The moves of `count` weights; `None` where the text is not that of so many.
fn unpacked(text: &str, count: usize) -> Option<Vec<i8>> {
    let bytes = STANDARD.decode(text).ok().filter(|b| b.len() == count.div_ceil(4))?;
    let by = |at: usize| match bytes[at / 4] >> (2 * (at % 4)) & 3 {
        0 => Some(0),
        1 => Some(1),
        2 => Some(-1),
        _ => None,
    };
    (0..count).map(by).collect()
}

impl RoundedWeight {
    /// The weight with its moved codes; an error says in words what does not fit.
    fn applied(&self, tensor: &Tensor) -> Result<Tensor, String> {
        if tensor.dtype() != DType::F32 {
            return Err(format!("it is {}, not float32", tensor.dtype()));
        }
        if tensor.is_empty() || matches!(self.grid, Grid::Blocks { size: 0 }) {
            return Err("it has no weights, or its grid no blocks".to_owned());
        }
        let mut rows = grid::rows_of(tensor, self.axis).ok_or("it has no such axis of channels")?;
        let depth = rows.len() / tensor.shape()[self.axis].max(1);
        let nearest = self.grid.nearest(&rows, depth).ok_or("it holds an infinity or a NaN")?;
        let moves = unpacked(&self.moves, rows.len()).ok_or("its moves are not those of so many weights")?;
        for (at, by) in moves.into_iter().enumerate().filter(|(_, by)| *by != 0) {
            let code = nearest.codes[at].checked_add(by).filter(|code| nearest.choices(at).contains(code));
            let code = code.ok_or_else(|| format!("weight {at} may not move"))?;
            rows[at] = f32::from(code) * nearest.scale(at);
        }
        Ok(grid::tensor_of(&rows, tensor.shape(), self.axis))
    }
}

impl Pass for RoundWeights {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn parameters(&self) -> Value {
        serde_json::to_value(self).expect("plain data always becomes JSON")
    }

    /// A rewritten weight is held beside the file's.
    fn working_bytes(&self, _model: &Model) -> u64 {
        let elements = |w: &RoundedWeight| w.moves.len() as u64 * 3;
        self.weights.iter().map(|w| elements(w) * size_of::<f32>() as u64).sum()
    }

    fn apply(&self, model: &mut Model, _facts: &mut Facts) -> Result<Effect, PassError> {
        let index = Index::new(model.graph());
        let mut rewrites = 0;
        for weight in &self.weights {
            let wrong = |detail: String| PassError::Node {
                node: weight.tensor.clone(),
                detail: format!("{detail}. Bake again instead of editing the recipe."),
            };
            let Some(tensor) = model.constant(&index, &weight.tensor) else { continue };
            let moved = weight.applied(&tensor).map_err(wrong)?;
            if let Some(position) = index.initializer(&weight.tensor) {
                model.graph_mut().initializer[position] = moved.to_proto(&weight.tensor);
            } else if let Some(position) = index.producer(&weight.tensor) {
                let constant = &mut model.graph_mut().node[position];
                debug_assert!(is_op(constant, "Constant"));
                constant.attribute = vec![tensor_attribute("value", &moved)];
            }
            rewrites += 1;
        }
        Ok(Effect::rewrites(rewrites, &self.reason()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_take_two_bits_each_and_come_back() {
        for count in [0, 1, 3, 4, 5, 17] {
            let moves: Vec<i8> = (0..count).map(|i| [0, 1, -1][i % 3]).collect();
            let text = packed(&moves);
            assert_eq!(STANDARD.decode(&text).unwrap().len(), count.div_ceil(4));
            assert_eq!(unpacked(&text, count), Some(moves));
        }
    }

    #[test]
    fn moves_of_another_number_of_weights_or_of_no_meaning_are_refused() {
        let text = packed(&[1, 0, -1, 0, 1]);
        assert!(unpacked(&text, 4).is_none() && unpacked(&text, 9).is_none() && unpacked("?", 1).is_none());
        assert!(unpacked(&STANDARD.encode([3_u8]), 1).is_none(), "a field of 3 stands for nothing");
    }
}
