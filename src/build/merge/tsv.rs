//! TSV-M (Gargiulo et al. 2025, arXiv 2412.00081): of each of the T task vectors of a matrix [m, n] the first
//! ⌊min(m, n) / T⌋ singular vectors and values, side by side in U, S and V; then U and V are replaced by the orthogonal
//! matrices next to them, `U⊥ = U·(UᵀU)^(−1/2)`, so that the tasks do not disturb each other: `τ = U⊥·S·V⊥ᵀ`.
//!
//! Where there are more tasks than min(m, n), each has none, and the vector is zero there, as in the authors' program.
//! Directions without any weight, as of a task that leaves the matrix alone, take no part; an SVD would give them
//! arbitrary vectors.

use faer::{Mat, MatRef};

use super::elementwise;
use super::matrix::{Matrices, is_matrix};
use super::rule::Rule;
use crate::build::tile::{Piece, TunedParameter};
use crate::error::Result;
use crate::kernel::threads;
use crate::linalg;
use crate::tensor::try_zeroed;

pub(super) struct Tsv;

impl Rule for Tsv {
    fn merge(&self, parameter: &TunedParameter, threads: usize) -> Result<Vec<f32>> {
        if !is_matrix(parameter) {
            return elementwise::mean(parameter, threads);
        }
        let matrices = Matrices::new(parameter);
        let count = matrices.short / matrices.tasks();
        let mut found: Vec<Option<Directions>> = (0..matrices.tasks()).map(|_| None).collect();
        let items = found.iter_mut().enumerate().collect();
        threads::share(threads, items, |(t, found): (usize, &mut Option<Directions>), (): &mut ()| {
            let matrix = matrices.task(t)?;
            let gram = matrices.gram(&matrix, 1)?;
            *found = Some(matrices.directions(&matrix, &gram, count)?);
            Ok(())
        })?;
        let parts: Vec<Directions> = found.into_iter().flatten().collect();
        matrices.orthogonal(&parts, |value| value, threads)
    }
}

/// Some singular vectors of a matrix [L, S] and their values: [L, R], [S, R], R.
pub(super) struct Directions {
    u: Mat<f64>,
    v: Mat<f64>,
    pub(super) values: Vec<f64>,
}

impl Matrices<'_> {
    /// The matrix of a task, row-major [L, S].
    pub(super) fn task(&self, t: usize) -> Result<Vec<f64>> {
        let mut matrix: Vec<f64> = try_zeroed(self.long * self.short)?;
        let mut piece = Piece::default();
        for range in self.panels() {
            let panel = &mut matrix[range.start * self.short..range.end * self.short];
            self.add(t, range, panel, &mut piece)?;
        }
        Ok(matrix)
    }

    fn whole<'m>(&self, matrix: &'m [f64]) -> MatRef<'m, f64> {
        self.rows(matrix, &(0..self.long))
    }

    /// The first `count` directions of a row-major matrix, of which `gram` is the lower half of the Gram matrix; fewer
    /// where it has not as many.
    pub(super) fn directions(&self, matrix: &[f64], gram: &Mat<f64>, count: usize) -> Result<Directions> {
        let (squares, vectors) = linalg::eigen(gram)?;
        let count = count.min(squares.len());
        let values: Vec<f64> = squares[..count].iter().map(|square| square.sqrt()).collect();
        let v = vectors.subcols(0, count).to_owned();
        let scaled = Mat::from_fn(self.short, count, |i, j| v[(i, j)] / values[j]);
        Ok(Directions { u: self.whole(matrix) * &scaled, v, values })
    }

    /// Takes what lies in these directions' column space away: `A − U·Uᵀ·A`, U those of the parameter's rows, as the
    /// authors have it, whichever side is longer.
    pub(super) fn take_away(&self, matrix: &mut [f64], shared: &Directions) {
        let view = self.whole(matrix);
        let inside = if self.is_flipped() {
            (view * &shared.v) * shared.v.transpose()
        } else {
            &shared.u * (shared.u.transpose() * view)
        };
        for (i, row) in matrix.chunks_mut(self.short).enumerate() {
            row.iter_mut().enumerate().for_each(|(j, value)| *value -= inside[(i, j)]);
        }
    }

    /// `U⊥·diag(weigh(S))·V⊥ᵀ` of the directions of all parts.
    pub(super) fn orthogonal(
        &self,
        parts: &[Directions],
        weigh: impl Fn(f64) -> f64,
        threads: usize,
    ) -> Result<Vec<f32>> {
        let (u, v) = (beside(parts, self.long, |part| &part.u), beside(parts, self.short, |part| &part.v));
        let weights: Vec<f64> = parts.iter().flat_map(|part| &part.values).map(|value| weigh(*value)).collect();
        let mut roots = [Mat::zeros(0, 0), Mat::zeros(0, 0)];
        let items = [&u, &v].into_iter().zip(&mut roots).collect();
        threads::share(threads, items, |(side, root): (&Mat<f64>, &mut Mat<f64>), (): &mut ()| {
            let mut gram = Mat::zeros(side.ncols(), side.ncols());
            linalg::add_gram(&mut gram, side.as_ref());
            *root = linalg::inverse_root(&gram)?;
            Ok(())
        })?;
        let [of_u, of_v] = &roots;
        let right = of_v * v.transpose();
        let weighted = Mat::from_fn(weights.len(), self.short, |i, j| weights[i] * right[(i, j)]);
        let right = of_u * &weighted;
        self.values(threads, |range| linalg::product(u.subrows(range.start, range.len()), &right))
    }
}

/// The columns of all parts side by side.
fn beside<'p>(parts: &'p [Directions], rows: usize, side: impl Fn(&'p Directions) -> &'p Mat<f64>) -> Mat<f64> {
    let columns: Vec<_> = parts.iter().flat_map(|part| side(part).col_iter()).collect();
    Mat::from_fn(rows, columns.len(), |i, j| columns[j][i])
}
