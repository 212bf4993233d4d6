//! One weight while its codes are searched: what its products lose with the nearest codes, and with the best that were tried.

use super::grid::{Nearest, rows_of};
use super::search::Wanted;
use super::solve::{Columns, Feedback, Moments, change};
use super::{RoundedWeight, packed};
use crate::model::{Tensor, mapped};

/// What came of a weight; an error says in words why it keeps its nearest codes.
pub(super) type Outcome = Result<RoundedWeight, String>;

/// One weight while its codes are searched.
pub(super) struct Trial<'w> {
    wanted: &'w Wanted,
    rows: Vec<f32>,
    nearest: Nearest,
    /// The best codes so far.
    codes: Vec<i8>,
    /// Squared changes of the products on the held-out rows: with the nearest codes, with the best ones, and their own energy. The first two per group.
    before: Vec<f64>,
    after: Vec<f64>,
    energy: f64,
}

impl<'w> Trial<'w> {
    pub(super) fn new(wanted: &'w Wanted, tensor: Option<Tensor>) -> Result<Self, String> {
        let tensor = tensor.ok_or("it is no constant of the main graph")?;
        let rows = rows_of(&tensor, wanted.axis).ok_or("it has no such axis of channels")?;
        // They are a copy, and moments need much room.
        mapped::put_down(tensor.bytes());
        if rows.len() % (wanted.depth * wanted.groups) != 0 {
            return Err("its channels do not fall into its groups".to_owned());
        }
        let nearest = wanted.grid.nearest(&rows, wanted.depth).ok_or("it holds an infinity or a NaN")?;
        let codes = nearest.codes.clone();
        Ok(Self { wanted, rows, nearest, codes, before: Vec::new(), after: Vec::new(), energy: 0.0 })
    }

    /// The weights of a group, and the number of its first channel.
    fn span(&self, group: usize) -> (std::ops::Range<usize>, usize) {
        let length = self.rows.len() / self.wanted.groups;
        (group * length..(group + 1) * length, group * length / self.wanted.depth)
    }

    pub(super) fn begin(&mut self, held_out: Columns<'_>, group: usize) {
        let (span, first) = self.span(group);
        let rows = &self.rows[span.clone()];
        let before = change(held_out, rows, &self.nearest.codes[span.clone()], &self.nearest, first);
        self.energy += held_out.energy(rows);
        self.before.push(before);
        self.after.push(before);
    }

    /// What the nearest codes change of a group's products on the held-out rows.
    pub(super) fn of_nearest(&self, group: usize) -> f64 {
        self.before[group]
    }

    /// Rounds a group by these factors, and keeps its codes where they are the best so far. Returns what they change of its products on the held-out rows.
    pub(super) fn attempt(
        &mut self,
        moments: &Moments,
        feedback: &Feedback,
        held_out: Columns<'_>,
        group: usize,
    ) -> f64 {
        let (span, first) = self.span(group);
        let rows = &self.rows[span.clone()];
        let codes = moments.codes(feedback, rows, &self.nearest, first);
        let after = change(held_out, rows, &codes, &self.nearest, first);
        if after < self.after[group] {
            self.after[group] = after;
            self.codes[span].copy_from_slice(&codes);
        }
        after
    }

    pub(super) fn outcome(self) -> Outcome {
        let (before, after) = (self.before.iter().sum::<f64>(), self.after.iter().sum::<f64>());
        if !(after < before && self.energy > 0.0) {
            return Err("its products are nearest with the nearest codes".to_owned());
        }
        let moves: Vec<i8> = self.codes.iter().zip(&self.nearest.codes).map(|(code, nearest)| code - nearest).collect();
        Ok(RoundedWeight {
            tensor: self.wanted.root.clone(),
            axis: self.wanted.axis,
            grid: self.wanted.grid,
            moves: packed(&moves),
            nearest_error: (before / self.energy).sqrt(),
            error: (after / self.energy).sqrt(),
        })
    }
}
