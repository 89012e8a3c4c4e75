//! Isotropic merging (Marczak et al. 2025, arXiv 2502.04959): the sum of the task vectors with all its singular values
//! made equal, so that no direction outweighs the others.
//!
//! Iso-C: with `Σ_t τ_t = U·S·Vᵀ` of a matrix [m, n], `mean(S)·U·Vᵀ`, the mean over all min(m, n) singular values.
//!
//! Iso-CTS: of the k = min(m, n) directions, the first c are the sum's and k − c are shared out to the tasks: the
//! largest of `τ_t − U_c·U_cᵀ·τ_t`, what the common directions leave of each task. Put together, U and V are made
//! orthogonal as TSV-M makes them, and all have the mean of their singular values. c is ⌊k·common⌋, made larger or
//! smaller so that each of the T tasks gets as many of the rest: `k − T·round((k − ⌊k·common⌋) / T)`.
//!
//! Directions whose singular value is less than a millionth of the largest are noise of f32: they are left zero, where
//! an SVD would give them arbitrary ones.

use faer::Mat;

use super::elementwise;
use super::matrix::{Matrices, is_matrix};
use super::rule::Rule;
use super::tsv::Directions;
use crate::build::tile::TunedParameter;
use crate::error::Result;
use crate::kernel::threads;
use crate::linalg;

pub(super) struct IsoC;

impl Rule for IsoC {
    fn merge(&self, parameter: &TunedParameter, threads: usize) -> Result<Vec<f32>> {
        if !is_matrix(parameter) {
            return elementwise::mean(parameter, threads);
        }
        let matrices = Matrices::new(parameter);
        let sum = matrices.sum(threads)?;
        let (squares, vectors) = linalg::eigen(&matrices.gram(&sum, threads)?)?;
        let mean = squares.iter().map(|square| square.sqrt()).sum::<f64>() / matrices.short as f64;
        let scaled = Mat::from_fn(matrices.short, squares.len(), |i, j| mean * vectors[(i, j)] / squares[j].sqrt());
        let isotropic = &scaled * vectors.transpose();
        matrices.values(threads, |range| linalg::product(matrices.rows(&sum, range), &isotropic))
    }
}

pub(super) struct IsoCts {
    pub(super) common: f64,
}

impl IsoCts {
    /// The directions of the sum, and those of each task, of `all`.
    fn shares(&self, all: usize, tasks: usize) -> (usize, usize) {
        let rest = all - (all as f64 * self.common) as usize;
        // To the even number of two equally near ones, as Python rounds.
        let mut own = (rest as f64 / tasks as f64).round_ties_even() as usize;
        if own * tasks > all {
            own = all / tasks;
        }
        (all - own * tasks, own)
    }
}

impl Rule for IsoCts {
    fn merge(&self, parameter: &TunedParameter, threads: usize) -> Result<Vec<f32>> {
        if !is_matrix(parameter) {
            return elementwise::mean(parameter, threads);
        }
        let matrices = Matrices::new(parameter);
        let (common, own) = self.shares(matrices.short, matrices.tasks());
        let sum = matrices.sum(threads)?;
        let gram = matrices.gram(&sum, threads)?;
        let shared = matrices.directions(&sum, &gram, common)?;
        drop(sum);
        let mut found: Vec<Option<Directions>> = (0..matrices.tasks()).map(|_| None).collect();
        let items = found.iter_mut().enumerate().collect();
        threads::share(threads, items, |(t, found): (usize, &mut Option<Directions>), (): &mut ()| {
            let mut rest = matrices.task(t)?;
            matrices.take_away(&mut rest, &shared);
            let gram = matrices.gram(&rest, 1)?;
            *found = Some(matrices.directions(&rest, &gram, own)?);
            Ok(())
        })?;
        let parts: Vec<Directions> = found.into_iter().flatten().chain([shared]).collect();
        let values = parts.iter().flat_map(|part| &part.values);
        let mean = values.sum::<f64>() / matrices.short as f64;
        matrices.orthogonal(&parts, |_| mean, threads)
    }
}
