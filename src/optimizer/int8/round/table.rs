//! Rows of activations in memory: what is rounded is held as codes, a quarter of the bytes of the numbers, so that one run of the model serves more weights.

use ndarray::Array2;

use super::super::scheme::Codes;

/// Rows that are looked at together.
pub(super) const SPAN: usize = 256;

/// Rows of one width: those of codes, and behind them those of numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Table {
    width: usize,
    codes: Vec<u8>,
    /// What the codes of each row stand for.
    steps: Vec<Codes>,
    floats: Vec<f32>,
}

impl Table {
    /// No rows yet, of `width` numbers each.
    pub(super) fn new(width: usize) -> Self {
        Self { width: width.max(1), ..Self::default() }
    }

    /// Appends rows, rounded to codes where there are some. `None` where codes do not tell what they were.
    pub(super) fn extend(&mut self, rows: &[f32], codes: Option<Codes>) -> Option<()> {
        match codes {
            None => self.floats.extend(rows),
            Some(codes) if codes.scale.is_finite() && !rows.iter().any(|v| v.is_nan()) => {
                self.codes.extend(rows.iter().map(|v| (codes.centred(*v) + codes.zero) as u8));
                self.steps.resize(self.codes.len() / self.width, codes);
            }
            Some(_) => return None,
        }
        Some(())
    }

    /// Appends the rows of another table of this width.
    pub(super) fn append(&mut self, other: &Self) {
        self.codes.extend(&other.codes);
        self.steps.extend(&other.steps);
        self.floats.extend(&other.floats);
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.steps.len() + self.floats.len() / self.width
    }

    /// One row in `by`, and the others.
    pub(super) fn divided(&self, by: usize) -> [Self; 2] {
        let mut parts = [Self::new(self.width), Self::new(self.width)];
        let part = |at: usize| usize::from(at % by != by - 1);
        for (at, (row, step)) in self.codes.chunks(self.width).zip(&self.steps).enumerate() {
            parts[part(at)].codes.extend(row);
            parts[part(at)].steps.push(*step);
        }
        for (at, row) in self.floats.chunks(self.width).enumerate() {
            parts[part(self.steps.len() + at)].floats.extend(row);
        }
        parts
    }

    /// Columns `first..first + depth` of the rows from `SPAN * at` on, `SPAN` of them or as many as there are.
    pub(super) fn span(&self, at: usize, first: usize, depth: usize) -> Array2<f32> {
        let rows = at * SPAN..((at + 1) * SPAN).min(self.len());
        let mut numbers = Vec::with_capacity(rows.len() * depth);
        for row in rows {
            let columns = |row: usize| row * self.width + first..row * self.width + first + depth;
            match self.steps.get(row) {
                Some(step) => {
                    let codes = &self.codes[columns(row)];
                    numbers.extend(codes.iter().map(|code| (f32::from(*code) - step.zero) * step.scale));
                }
                None => numbers.extend(&self.floats[columns(row - self.steps.len())]),
            }
        }
        Array2::from_shape_vec((numbers.len() / depth.max(1), depth), numbers).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: Codes = Codes { scale: 0.1, zero: 20.0 };

    #[test]
    fn rows_come_back_as_their_codes_restore_them_and_others_bit_by_bit() {
        let rows = [0.0, 10.0, -5.1, 3.33, 0.02, 2.0, f32::INFINITY, 250.0, -0.3];
        let mut table = Table::new(3);
        table.extend(&rows[..6], None).unwrap();
        table.extend(&rows, Some(STEPS)).unwrap();
        assert_eq!(table.len(), 5);
        let all = table.span(0, 0, 3);
        let expected: Vec<f32> = rows.iter().map(|v| STEPS.restored(*v)).chain(rows[..6].iter().copied()).collect();
        assert_eq!(all.as_slice().unwrap(), expected);
        assert_eq!(table.span(0, 1, 2).row(4).to_vec(), expected[13..]);
    }

    #[test]
    fn spans_follow_each_other_and_one_row_in_so_many_goes_apart() {
        let rows: Vec<f32> = (0..SPAN + 9).map(|v| v as f32).collect();
        let mut table = Table::new(1);
        table.extend(&rows[..40], Some(Codes { scale: 1.0, zero: 0.0 })).unwrap();
        table.extend(&rows[40..], None).unwrap();
        let spans = [table.span(0, 0, 1), table.span(1, 0, 1)];
        assert_eq!([spans[0].nrows(), spans[1].nrows()], [SPAN, 9]);
        assert_eq!(spans.iter().flatten().copied().collect::<Vec<f32>>(), rows);
        let [taken, rest] = table.divided(4);
        assert_eq!(taken.span(0, 0, 1).iter().take(12).copied().collect::<Vec<f32>>()[8..], [35.0, 39.0, 43.0, 47.0]);
        assert_eq!((taken.len(), rest.len()), (rows.len() / 4, rows.len() - rows.len() / 4));
    }

    #[test]
    fn what_no_code_stands_for_is_refused() {
        assert_eq!(Table::new(1).extend(&[f32::NAN], Some(STEPS)), None);
        assert_eq!(Table::new(1).extend(&[1.0], Some(Codes { scale: f32::INFINITY, zero: 0.0 })), None);
    }
}
