//! The codes that a weight may have: those of the quantisers, seen as rows of one output channel each.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::super::blocks;
use super::super::linear::transpose;
use super::super::scheme::{Layout, Quantised, Range, quantise};
use crate::model::Tensor;

/// How codes share scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Grid {
    /// One scale per output channel, set by its largest magnitude; codes from `-limit` to `limit`.
    Channels {
        /// The largest code.
        limit: u8,
    },
    /// One scale per block of an output channel; codes from -8 to 7.
    Blocks {
        /// Weights of a block.
        size: usize,
    },
}

/// The nearest codes of a weight.
pub(super) struct Nearest {
    pub(super) codes: Vec<i8>,
    scales: Vec<f32>,
    /// Whether a scale was set by one of its weights; one of zeros has nothing to move.
    set: Vec<bool>,
    depth: usize,
    /// Weights that share a scale.
    run: usize,
    grid: Grid,
}

impl Grid {
    /// The nearest codes of `rows`, of `depth` weights each; `None` when one is infinite or no number.
    pub(super) fn nearest(self, rows: &[f32], depth: usize) -> Option<Nearest> {
        let (run, Quantised { codes, scales }) = match self {
            Self::Channels { limit } => {
                let layout = Layout::new(&[rows.len() / depth.max(1), depth], &[0])?;
                (depth, quantise(rows, layout, limit, Range::MaxAbs)?)
            }
            Self::Blocks { size } => (size, blocks::quantise(rows, depth, size)?),
        };
        let mut nearest = Nearest { codes, set: vec![false; scales.len()], scales, depth, run, grid: self };
        for at in 0..nearest.codes.len() {
            if nearest.sets(nearest.codes[at]) {
                let place = nearest.place(at);
                nearest.set[place] = true;
            }
        }
        Some(nearest)
    }

    /// The lowest and the highest code that no scale is set by.
    fn inner(self) -> (i8, i8) {
        match self {
            Self::Channels { limit } => {
                let most = limit.clamp(1, 127) as i8 - 1;
                (-most, most)
            }
            Self::Blocks { .. } => (blocks::LOWEST as i8 + 1, -(blocks::LOWEST as i8) - 1),
        }
    }
}

impl Nearest {
    fn sets(&self, code: i8) -> bool {
        match self.grid {
            Grid::Channels { limit } => code.unsigned_abs() == limit,
            Grid::Blocks { .. } => code == blocks::LOWEST as i8,
        }
    }

    fn place(&self, at: usize) -> usize {
        at / self.depth * self.depth.div_ceil(self.run) + at % self.depth / self.run
    }

    /// The scale of a weight.
    pub(super) fn scale(&self, at: usize) -> f32 {
        self.scales[self.place(at)]
    }

    /// The codes that a weight may have: the nearest and its neighbours, but for those that set the scale.
    pub(super) fn choices(&self, at: usize) -> RangeInclusive<i8> {
        let code = self.codes[at];
        if self.sets(code) || !self.set[self.place(at)] {
            return code..=code;
        }
        let (low, high) = self.grid.inner();
        (code - 1).max(low)..=(code + 1).min(high)
    }
}

/// The weights of a tensor, output channel by output channel; `None` where `axis` is neither its first nor the second of a matrix.
pub(super) fn rows_of(tensor: &Tensor, axis: usize) -> Option<Vec<f32>> {
    match (axis, tensor.shape().len()) {
        (0, 1..) => Some(tensor.to_f32().into_owned()),
        (1, 2) => Some(transpose(tensor).to_f32().into_owned()),
        _ => None,
    }
}

/// The tensor of such rows.
pub(super) fn tensor_of(rows: &[f32], shape: &[usize], axis: usize) -> Tensor {
    if axis == 0 { Tensor::new(shape, rows) } else { transpose(&Tensor::new(&[shape[1], shape[0]], rows)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sets_a_scale_stays_and_nothing_moves_to_its_code() {
        let rows = [1.0, -0.99, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0];
        let of_channels = Grid::Channels { limit: 127 }.nearest(&rows, 4).unwrap();
        assert_eq!(of_channels.codes[..3], [127, -126, 64]);
        assert_eq!([0, 1, 2].map(|at| of_channels.choices(at)), [127..=127, -126..=-125, 63..=65]);
        assert_eq!(of_channels.choices(5), 0..=0, "a channel of zeros has no scale to move by");
        let of_blocks = Grid::Blocks { size: 32 }.nearest(&rows, 4).unwrap();
        assert_eq!(of_blocks.codes[..3], [-8, 7, -4]);
        assert_eq!([0, 1, 2].map(|at| of_blocks.choices(at)), [-8..=-8, 6..=7, -5..=-3]);
    }

    #[test]
    fn rows_of_a_matrix_come_back_as_it_was() {
        let tensor = Tensor::new(&[2, 3], &[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        for (axis, expected) in [(0, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), (1, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0])] {
            let rows = rows_of(&tensor, axis).unwrap();
            assert_eq!(rows, expected);
            assert_eq!(tensor_of(&rows, tensor.shape(), axis), tensor);
        }
        assert_eq!(rows_of(&tensor, 2), None);
    }
}
