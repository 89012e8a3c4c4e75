//! A parameter of two dimensions, as the rules of singular values see it: in every task a matrix with its longer side
//! first, [L, S], read a panel of whole rows at a time.

use std::ops::Range;

use faer::{Mat, MatRef};

use crate::build::tile::{Piece, TunedParameter};
use crate::error::Result;
use crate::kernel::threads;
use crate::linalg;
use crate::tensor::try_zeroed;

/// The rows of a panel at least.
const MIN_PANEL: usize = 256;
/// Panels of a matrix at most: each has a sum of its own.
const MAX_PANELS: usize = 16;

/// A parameter's matrices.
pub(super) struct Matrices<'a> {
    parameter: &'a TunedParameter,
    /// Whether the shorter side is the parameter's first.
    is_flipped: bool,
    pub(super) long: usize,
    pub(super) short: usize,
}

/// Whether the rules of singular values take a parameter for a matrix.
pub(super) fn is_matrix(parameter: &TunedParameter) -> bool {
    parameter.shape().len() == 2 && parameter.numel() > 0 && !parameter.name.contains("text_projection")
}

impl<'a> Matrices<'a> {
    /// The matrices of a parameter that [`is_matrix`].
    pub(super) fn new(parameter: &'a TunedParameter) -> Self {
        let (rows, columns) = (parameter.shape()[0], parameter.shape()[1]);
        Self { parameter, is_flipped: rows < columns, long: rows.max(columns), short: rows.min(columns) }
    }

    /// Whether the longer side is the parameter's second.
    pub(super) fn is_flipped(&self) -> bool {
        self.is_flipped
    }

    pub(super) fn tasks(&self) -> usize {
        self.parameter.tuned.len()
    }

    /// The panels' ranges of rows.
    pub(super) fn panels(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (long, length) = (self.long, MIN_PANEL.max(self.long.div_ceil(MAX_PANELS)));
        (0..long).step_by(length).map(move |start| start..long.min(start + length))
    }

    /// Adds the rows `range` of task `t` to `panel`, row-major [range.len(), S].
    pub(super) fn add(&self, t: usize, range: Range<usize>, panel: &mut [f64], piece: &mut Piece) -> Result<()> {
        if !self.is_flipped {
            let values = piece.read(self.parameter, t, range.start * self.short..range.end * self.short)?;
            panel.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(*value));
            return Ok(());
        }
        for column in 0..self.short {
            let start = column * self.long;
            let values = piece.read(self.parameter, t, start + range.start..start + range.end)?;
            let sums = panel[column..].iter_mut().step_by(self.short);
            sums.zip(values).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        Ok(())
    }

    /// The sum of all tasks, row-major [L, S].
    pub(super) fn sum(&self, threads: usize) -> Result<Vec<f64>> {
        let mut sum: Vec<f64> = try_zeroed(self.long * self.short)?;
        let length = self.panels().next().map_or(1, |range| range.len());
        let items = self.panels().zip(sum.chunks_mut(length * self.short)).collect();
        threads::share(threads, items, |(range, panel): (Range<usize>, &mut [f64]), piece: &mut Piece| {
            (0..self.tasks()).try_for_each(|t| self.add(t, range.clone(), panel, piece))
        })?;
        Ok(sum)
    }

    /// `AᵀA` of row-major A [L, S], its lower half.
    pub(super) fn gram(&self, matrix: &[f64], threads: usize) -> Result<Mat<f64>> {
        let mut sums: Vec<Mat<f64>> = self.panels().map(|_| Mat::zeros(0, 0)).collect();
        let items = self.panels().zip(&mut sums).collect();
        threads::share(threads, items, |(range, sum): (Range<usize>, &mut Mat<f64>), (): &mut ()| {
            *sum = Mat::zeros(self.short, self.short);
            linalg::add_gram(sum, self.rows(matrix, &range));
            Ok(())
        })?;
        let mut total = Mat::zeros(self.short, self.short);
        sums.iter().for_each(|sum| total += sum);
        Ok(total)
    }

    /// Rows of a row-major matrix [L, S].
    pub(super) fn rows<'m>(&self, matrix: &'m [f64], range: &Range<usize>) -> MatRef<'m, f64> {
        let values = &matrix[range.start * self.short..range.end * self.short];
        MatRef::from_row_major_slice(values, range.len(), self.short)
    }

    /// The parameter's values, which `compute` gives panel by panel, each row-major [range.len(), S].
    pub(super) fn values(
        &self,
        threads: usize,
        compute: impl Fn(&Range<usize>) -> Result<Vec<f64>> + Sync,
    ) -> Result<Vec<f32>> {
        let ranges: Vec<_> = self.panels().collect();
        let mut panels: Vec<Vec<f64>> = vec![Vec::new(); ranges.len()];
        let items = ranges.iter().zip(&mut panels).collect();
        threads::share(threads, items, |(range, panel): (&Range<usize>, &mut Vec<f64>), (): &mut ()| {
            *panel = compute(range)?;
            Ok(())
        })?;
        let mut values: Vec<f32> = try_zeroed(self.long * self.short)?;
        for (range, panel) in ranges.into_iter().zip(panels) {
            for (long, row) in range.zip(panel.chunks(self.short)) {
                for (short, &value) in row.iter().enumerate() {
                    let at = if self.is_flipped { short * self.long + long } else { long * self.short + short };
                    values[at] = value as f32;
                }
            }
        }
        Ok(values)
    }
}
