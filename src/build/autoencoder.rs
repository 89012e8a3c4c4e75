//! The Autoencoder's coefficients. `F(B, W) = tr((I − BW)ᵀ·G·(I − BW))` with column-softmax B and linear W.
//!
//! For a given B the best W is least squares, `W = (BᵀGB)⁻¹·BᵀG`, so B alone is looked for (variable projection, Golub
//! and Pereyra 1973): `∂F/∂B = −2·G·(I − BW)·Wᵀ`, and through the softmax of every column. F depends on the span of B
//! alone, and cannot be below the sum of the T − M smallest eigenvalues of G. That bound is attained where the span of
//! the M largest eigenvectors holds M independent positive vectors; a descent that comes near it is then finished by a
//! projection onto that span, and of all B within it a well-conditioned one is taken (`conditioning.rs`). Where it
//! holds none, the descent's best of several starts is.

use nalgebra::{DMatrix, DVector};
use rand_mt::Mt;

use super::conditioning::spread;
use super::gram::eigen;
use crate::descent::{Minimum, minimise};

/// Starts that are tried where the bound was not attained.
const MAX_STARTS: u32 = 12;
const MAX_ITERATIONS: usize = 2000;
/// The logits' standard deviation where the descent begins: that of the reference at its τ of 5.
const START_DEVIATION: f64 = 0.2;
/// No entry of B is below this share of the column's mean after the projection, so that every logit stays small.
const MIN_SHARE: f64 = 1e-3;
/// Eigenvalues of BᵀGB below this share of the largest are taken for rounding.
const RANK_TOLERANCE: f64 = 1e-13;

/// The columns that were found, and what that took.
pub(super) struct FoundColumns {
    pub(super) b: DMatrix<f64>,
    /// W, where it is not the best for B.
    pub(super) w: Option<DMatrix<f64>>,
    pub(super) iterations: usize,
}

/// Finds B, whose columns sum to 1.
pub(super) fn fit(gram: &DMatrix<f64>, vectors: usize, seed: u32) -> FoundColumns {
    let tasks = gram.nrows();
    let g = gram / gram.trace();
    let (values, eigenvectors) = eigen(g.clone());
    let bound: f64 = values[vectors..].iter().sum();
    let top = eigenvectors.columns(0, vectors).into_owned();

    let mut random = Mt::new_with_key([seed]);
    let mut best: Option<(f64, DMatrix<f64>)> = None;
    let mut iterations = 0;
    for _ in 0..MAX_STARTS {
        let start: Vec<f64> = (0..tasks * vectors).map(|_| START_DEVIATION * normal(&mut random)).collect();
        let objective = |z: &[f64]| value_and_gradient(&g, &DMatrix::from_column_slice(tasks, vectors, z));
        // A billionth of all energy above the bound is nothing that f32 vectors could show.
        let found = minimise(start, bound + 1e-9, MAX_ITERATIONS, objective);
        iterations += found.iterations;
        let descended = softmax(&DMatrix::from_column_slice(tasks, vectors, &found.at));
        let mut candidates = vec![descended];
        if let Some(b) = projected(&candidates[0], &top) {
            // A span of less than M dimensions has no M independent vectors.
            let full = values[vectors - 1] > RANK_TOLERANCE * values[0];
            candidates.push(if full { spread(&top, &values[..vectors], &b) } else { b });
        }
        for b in candidates {
            // The descent may be below the bound by rounding; what is as good is better where it is well-conditioned.
            let loss = loss(&g, &b).max(bound + 1e-12);
            if best.as_ref().is_none_or(|(least, _)| loss <= *least) {
                best = Some((loss, b));
            }
        }
        if best.as_ref().is_some_and(|(least, _)| *least <= bound + 1e-9) {
            break;
        }
    }
    let b = best.map_or_else(|| DMatrix::from_element(tasks, vectors, 1.0 / tasks as f64), |(_, b)| b);
    FoundColumns { b, w: None, iterations }
}

/// `(BᵀGB)⁻¹·BᵀG`; the shortest solution where B or G is short of rank.
pub(super) fn best_w(g: &DMatrix<f64>, b: &DMatrix<f64>) -> DMatrix<f64> {
    let bt_g = b.transpose() * g;
    pseudo_inverse(&bt_g * b) * bt_g
}

/// The pseudo-inverse of a symmetric matrix without negative eigenvalues.
pub(super) fn pseudo_inverse(matrix: DMatrix<f64>) -> DMatrix<f64> {
    let (values, vectors) = eigen(matrix);
    let least = RANK_TOLERANCE * values[0];
    let inverse = values.iter().map(|&value| if value > least { 1.0 / value } else { 0.0 });
    let inverse = DMatrix::from_diagonal(&DVector::from_iterator(values.len(), inverse));
    &vectors * inverse * vectors.transpose()
}

/// The least end of several descents from random logits, as many as `count`, and the iterations of all.
pub(super) fn least_of_starts(count: usize, seed: u32, objective: impl Fn(&[f64]) -> (f64, Vec<f64>)) -> Minimum {
    let mut random = Mt::new_with_key([seed]);
    let mut descend = || {
        let start = (0..count).map(|_| START_DEVIATION * normal(&mut random)).collect();
        minimise(start, f64::NEG_INFINITY, MAX_ITERATIONS, &objective)
    };
    let mut best = descend();
    for _ in 1..MAX_STARTS {
        let next = descend();
        let iterations = best.iterations + next.iterations;
        best = if next.value < best.value { next } else { best };
        best.iterations = iterations;
    }
    best
}

fn loss(g: &DMatrix<f64>, b: &DMatrix<f64>) -> f64 {
    let residual = DMatrix::identity(g.nrows(), g.nrows()) - b * best_w(g, b);
    (residual.transpose() * g * residual).trace()
}

/// F at B = softmax(z), and its gradient by z.
fn value_and_gradient(g: &DMatrix<f64>, z: &DMatrix<f64>) -> (f64, Vec<f64>) {
    let b = softmax(z);
    let w = best_w(g, &b);
    let ge = g * (DMatrix::identity(g.nrows(), g.nrows()) - &b * &w);
    // tr(EᵀGE) = tr(GE) for the best W, whose residual is orthogonal to what it explains; but not for a rank cut short.
    let value = (ge.transpose() * (DMatrix::identity(g.nrows(), g.nrows()) - &b * &w)).trace();
    let by_b = -2.0 * ge * w.transpose();
    (value, through_softmax(&by_b, &b).as_slice().to_vec())
}

/// The gradient by the logits, of that by their softmax `b`, column by column.
pub(super) fn through_softmax(by_b: &DMatrix<f64>, b: &DMatrix<f64>) -> DMatrix<f64> {
    let mut gradient = by_b.component_mul(b);
    for (mut column, b) in gradient.column_iter_mut().zip(b.column_iter()) {
        let mean = column.sum();
        column.axpy(-mean, &b, 1.0);
    }
    gradient
}

/// The softmax of every column.
pub(super) fn softmax(z: &DMatrix<f64>) -> DMatrix<f64> {
    let mut b = z.clone();
    for mut column in b.column_iter_mut() {
        let largest = column.max();
        column.apply(|value| *value = (*value - largest).exp());
        let sum = column.sum();
        column /= sum;
    }
    b
}

/// The logits whose softmax at temperature `tau` is B, with columns of mean 0.
pub(super) fn logits(b: &DMatrix<f64>, tau: f64) -> DMatrix<f64> {
    let mut a = b.map(|value| tau * value.max(f64::MIN_POSITIVE).ln());
    for mut column in a.column_iter_mut() {
        let mean = column.mean();
        column.add_scalar_mut(-mean);
    }
    a
}

/// B moved onto the span of `top`, where positive vectors of it are near: towards the projection of its columns' mean
/// as far as it takes to make every entry positive.
fn projected(b: &DMatrix<f64>, top: &DMatrix<f64>) -> Option<DMatrix<f64>> {
    let mut onto = top * (top.transpose() * b);
    let centre = onto.column_mean();
    let floor = MIN_SHARE * centre.mean();
    if centre.min() <= floor {
        return None;
    }
    for mut column in onto.column_iter_mut() {
        let away = &column - &centre;
        let far = away.iter().zip(centre.iter()).filter(|(away, _)| **away < 0.0);
        let reach = far.map(|(away, centre)| (floor - centre) / away).fold(1.0, f64::min);
        column.copy_from(&(&centre + away * reach));
        let sum = column.sum();
        column /= sum;
    }
    Some(onto)
}

/// A number of the standard normal distribution (Box and Muller 1958).
pub(super) fn normal(random: &mut Mt) -> f64 {
    // Within (0, 1), with 32 bits.
    let mut uniform = || (f64::from(random.next_u32()) + 0.5) / 4_294_967_296.0;
    (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()
}
