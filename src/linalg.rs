//! What singular values and vectors are found with: linear algebra by `faer`, each call on the caller's thread.
//!
//! Singular values and vectors come from the eigenvalues of the Gram matrix of the shorter side, in f64. Squaring costs
//! half of the digits: a direction of the singular value σ is off by about 1e-16·(σ₁/σ)². An SVD in f32, which the
//! authors' programs run, is off by about 6e-8·σ₁/σ, which is more for every σ above 2e-9·σ₁, and below 1e-6·σ₁ what
//! f32 holds of a direction is noise ([`NOISE`]).

use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatRef, Par, Side};

use crate::error::{Error, ErrorKind, Result};

/// Directions whose singular value is at most this share of the largest take no part.
const NOISE: f64 = 1e-6;

/// Adds `PᵀP` to the lower half of `sum`.
pub(crate) fn add_gram(sum: &mut Mat<f64>, panel: MatRef<'_, f64>) {
    let (lower, whole) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
    triangular::matmul(sum.as_mut(), lower, Accum::Add, panel.transpose(), whole, panel, whole, 1.0, Par::Seq);
}

/// Eigenvalues and eigenvectors (columns), the largest first, of the symmetric matrix whose lower half is given,
/// without those that are noise.
pub(crate) fn eigen(lower: &Mat<f64>) -> Result<(Vec<f64>, Mat<f64>)> {
    let n = lower.nrows();
    let found = lower.self_adjoint_eigen(Side::Lower);
    let found = found.map_err(|_| Error::new(ErrorKind::Internal, "the eigenvalues were not found"))?;
    let all: Vec<f64> = found.S().column_vector().iter().copied().collect();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| all[j].total_cmp(&all[i]));
    let least = order.first().map_or(0.0, |&i| all[i]) * NOISE * NOISE;
    order.retain(|&i| all[i] > least.max(0.0));
    let vectors = Mat::from_fn(n, order.len(), |i, j| found.U()[(i, order[j])]);
    Ok((order.iter().map(|&i| all[i]).collect(), vectors))
}

/// `(AᵀA)^(−1/2)` of the lower half of `AᵀA`: A times it has the same singular vectors and no other singular values
/// than 1. Where A lacks directions, zero there.
pub(crate) fn inverse_root(lower: &Mat<f64>) -> Result<Mat<f64>> {
    let (values, vectors) = eigen(lower)?;
    let scaled = Mat::from_fn(vectors.nrows(), values.len(), |i, j| vectors[(i, j)] / values[j].sqrt());
    Ok(&scaled * vectors.transpose())
}

/// `A·B`, row-major.
pub(crate) fn product(a: MatRef<'_, f64>, b: &Mat<f64>) -> Result<Vec<f64>> {
    let mut out: Vec<f64> = crate::tensor::try_zeroed(a.nrows() * b.ncols())?;
    let view = faer::MatMut::from_row_major_slice_mut(&mut out, a.nrows(), b.ncols());
    faer::linalg::matmul::matmul(view, Accum::Replace, a, b, 1.0, Par::Seq);
    Ok(out)
}
