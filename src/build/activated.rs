//! The Autoencoder with other activations than a softmax for B and none for W: the reference's `encoder=linear` and
//! `w_activation=softmax`. The loss is the same, `F(B, W) = tr((I − BW)ᵀ·G·(I − BW))`.
//!
//! With both linear, B is the M largest eigenvectors of G and W its transpose: the spectral lower bound itself. With
//! W's columns softmaxes and B linear, `B = Wᵀ(WWᵀ)⁻¹` is the best for a W, whatever G, and W alone is looked for. With
//! both softmaxes, both are. These two have local minima, and no bound that they reach: the best of all starts is
//! taken.

use nalgebra::DMatrix;

use super::autoencoder::{FoundColumns, least_of_starts, pseudo_inverse, softmax, through_softmax};
use super::gram::eigen;

/// What the numbers of a matrix of the Autoencoder go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Each column is a softmax: positive, and of sum 1.
    Softmax,
    /// None.
    Linear,
}

impl Activation {
    /// The reference's name for it: `softmax` or `linear`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Softmax => "softmax",
            Self::Linear => "linear",
        }
    }
}

/// The activations of the Autoencoder's two matrices; by default the published ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoencoderForm {
    /// Of B, whose columns make basis vectors of tasks.
    pub encoder: Activation,
    /// Of W, whose columns make tasks of basis vectors.
    pub w: Activation,
}

impl Default for AutoencoderForm {
    fn default() -> Self {
        Self { encoder: Activation::Softmax, w: Activation::Linear }
    }
}

/// Finds B and W of a form that is not the default.
pub(super) fn fit(gram: &DMatrix<f64>, vectors: usize, seed: u32, form: AutoencoderForm) -> FoundColumns {
    let g = gram / gram.trace();
    if form.w == Activation::Linear {
        let mut b = eigen(g).1.columns(0, vectors).into_owned();
        // The plain sum of the basis vectors is to point where the tasks do, not away from them.
        for mut column in b.column_iter_mut() {
            let sign = if column.sum() < 0.0 { -1.0 } else { 1.0 };
            column *= sign;
        }
        return FoundColumns { b, w: None, iterations: 0 };
    }
    let (of_b, of_w) = (g.nrows() * vectors, vectors * g.nrows());
    // Softmaxes of equal vectors have no gradient: W begins as far from even as B.
    let count = if form.encoder == Activation::Softmax { of_b + of_w } else { of_w };
    let found = least_of_starts(count, seed, |z: &[f64]| value_and_gradient(&g, vectors, z));
    let (b, w) = matrices(g.nrows(), vectors, &found.at);
    FoundColumns { b, w: Some(w), iterations: found.iterations }
}

/// B and W of their logits, those of W last; without logits of its own B is the best for W.
fn matrices(tasks: usize, vectors: usize, z: &[f64]) -> (DMatrix<f64>, DMatrix<f64>) {
    let (of_b, of_w) = z.split_at(z.len() - vectors * tasks);
    let w = softmax(&DMatrix::from_column_slice(vectors, tasks, of_w));
    let b = match of_b {
        [] => best_b(&w),
        _ => softmax(&DMatrix::from_column_slice(tasks, vectors, of_b)),
    };
    (b, w)
}

/// `Wᵀ(WWᵀ)⁺`.
fn best_b(w: &DMatrix<f64>) -> DMatrix<f64> {
    w.transpose() * pseudo_inverse(w * w.transpose())
}

/// F at these logits, and its gradient by them.
fn value_and_gradient(g: &DMatrix<f64>, vectors: usize, z: &[f64]) -> (f64, Vec<f64>) {
    let (b, w) = matrices(g.nrows(), vectors, z);
    let e = DMatrix::identity(g.nrows(), g.nrows()) - &b * &w;
    let ge = g * &e;
    let value = (e.transpose() * &ge).trace();
    let mut gradient = Vec::with_capacity(z.len());
    if z.len() > vectors * g.nrows() {
        gradient.extend_from_slice(through_softmax(&(-2.0 * &ge * w.transpose()), &b).as_slice());
    }
    // At the best B, what B does as W changes counts for nothing.
    gradient.extend_from_slice(through_softmax(&(-2.0 * b.transpose() * &ge), &w).as_slice());
    (value, gradient)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradients_are_the_slopes() {
        let g = DMatrix::from_fn(4, 4, |i, j| if i == j { 1.0 + i as f64 } else { 0.3 + 0.05 * (i + j) as f64 });
        for count in [8, 16] {
            let z: Vec<f64> = (0..count).map(|i| (i as f64 * 1.7).sin()).collect();
            let (_, gradient) = value_and_gradient(&g, 2, &z);
            for i in 0..count {
                let at = |step: f64| {
                    let mut z = z.clone();
                    z[i] += step;
                    value_and_gradient(&g, 2, &z).0
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((slope - gradient[i]).abs() < 1e-7, "{count}, {i}: {slope}, {}", gradient[i]);
            }
        }
    }
}
