//! Task vectors, a tile at a time: what both passes over the checkpoints read.

use std::ops::Range;
use std::sync::OnceLock;

use ndarray::{Array2, ArrayView2, Axis};

use crate::error::{Error, Result};
use crate::tensor::{Tensor, try_zeroed};

/// Elements of a tile: T rows of them in f64 stay in the second-level cache for the T of published families.
pub(super) const TILE: usize = 4096;

/// A parameter of the model in every checkpoint.
#[derive(Debug)]
pub(super) struct TunedParameter {
    pub(super) name: String,
    pub(super) base: Tensor,
    /// One tensor per task.
    pub(super) tuned: Vec<Tensor>,
    /// Whether any task changes it: known once the Gram matrix is.
    pub(super) changed: OnceLock<bool>,
}

impl TunedParameter {
    pub(super) fn shape(&self) -> &[usize] {
        self.base.shape()
    }

    pub(super) fn numel(&self) -> usize {
        self.base.numel()
    }

    /// Whether any task changes it, or it is not known yet that none does.
    pub(super) fn is_changed(&self) -> bool {
        self.changed.get() != Some(&false)
    }

    /// The bytes that reading it in all checkpoints reads.
    pub(super) fn bytes(&self) -> u64 {
        self.tuned.iter().chain([&self.base]).map(|tensor| tensor.nbytes() as u64).sum()
    }
}

/// The room of one thread for a tile.
#[derive(Default)]
pub(super) struct Tiles {
    /// `[T, TILE]`: the task vectors.
    vectors: Array2<f64>,
    base: Vec<f32>,
    tuned: Vec<f32>,
}

impl Tiles {
    /// The elements `range` of every task's vector of `parameter`, `[T, range.len()]`, and whether any is not 0.
    ///
    /// Differences are taken in f32, as the reference takes them; the sums that come after are f64.
    pub(super) fn read(
        &mut self,
        parameter: &TunedParameter,
        range: Range<usize>,
    ) -> Result<(ArrayView2<'_, f64>, bool)> {
        let count = range.len();
        if self.vectors.nrows() != parameter.tuned.len() {
            self.vectors = matrix(parameter.tuned.len(), TILE)?;
            self.base = try_zeroed(TILE)?;
            self.tuned = try_zeroed(TILE)?;
        }
        let base = match parameter.base.as_f32() {
            Some(all) => &all[range.clone()],
            None => {
                parameter.base.read_f32(range.start, &mut self.base[..count])?;
                &self.base[..count]
            }
        };
        let mut changed = false;
        for (tensor, mut row) in parameter.tuned.iter().zip(self.vectors.rows_mut()) {
            let tuned = match tensor.as_f32() {
                Some(all) => &all[range.clone()],
                None => {
                    tensor.read_f32(range.start, &mut self.tuned[..count])?;
                    &self.tuned[..count]
                }
            };
            let row = row.as_slice_mut().ok_or_else(|| Error::new(crate::ErrorKind::Internal, "a tile has gaps"))?;
            let mut differs = false;
            for ((out, tuned), base) in row.iter_mut().zip(tuned).zip(base) {
                let difference = tuned - base;
                differs |= difference != 0.0;
                *out = f64::from(difference);
            }
            changed |= differs;
        }
        Ok((self.vectors.slice_axis(Axis(1), (..count).into()), changed))
    }
}

/// The room of one thread for a piece of one task's vector.
#[derive(Default)]
pub(super) struct Piece {
    base: Vec<f32>,
    tuned: Vec<f32>,
}

impl Piece {
    /// The elements `range` of the vector of task `t`, in f32 as [`Tiles::read`] takes differences.
    pub(super) fn read(&mut self, parameter: &TunedParameter, t: usize, range: Range<usize>) -> Result<&[f32]> {
        if self.tuned.len() < range.len() {
            self.base = try_zeroed(range.len())?;
            self.tuned = try_zeroed(range.len())?;
        }
        let (base, tuned) = (&mut self.base[..range.len()], &mut self.tuned[..range.len()]);
        parameter.base.read_f32(range.start, base)?;
        parameter.tuned[t].read_f32(range.start, tuned)?;
        tuned.iter_mut().zip(base).for_each(|(tuned, base)| *tuned -= *base);
        Ok(tuned)
    }
}

/// A matrix of zeros.
///
/// # Errors
/// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
pub(super) fn matrix(rows: usize, columns: usize) -> Result<Array2<f64>> {
    let values = try_zeroed(rows.saturating_mul(columns))?;
    Array2::from_shape_vec((rows, columns), values).map_err(|_| Error::out_of_memory(usize::MAX))
}

/// The parts of `range` of at most `length`, in order.
pub(super) fn split(range: Range<usize>, length: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(length).map(move |start| start..end.min(start + length))
}
