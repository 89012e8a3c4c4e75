//! Columns for the Autoencoder where the best ones are nearly parallel: vectors that only large numbers of both signs
//! tell apart, so that what rounding or quantising does to them is multiplied by hundreds.
//!
//! What is minimised instead counts what rounding loses, at a share ρ of every vector's length:
//! `J(B) = min_W tr((I − BW)ᵀ·G·(I − BW)) + ρ²·Σ_m ‖s_m‖²·‖W_m‖²` with ‖s_m‖² = (BᵀGB)_mm and W_m the coefficients of
//! vector m. With K = BᵀGB and D its diagonal, `W = (K + ρ²D)⁻¹·BᵀG`, `J = tr(G) − tr(W·G·B)`, and
//! `∂J/∂B = 2·G·(B·(WWᵀ + ρ²·diag(WWᵀ)) − Wᵀ)`.

use nalgebra::DMatrix;

use super::autoencoder::{FoundColumns, best_w, least_of_starts, softmax, through_softmax};

/// What rounding may cost of the tasks' length. Families that were looked at multiply it by 1 to 2, which even q3 can
/// afford.
const MAX_COST: f64 = 0.4;

/// The columns that were found, or, where they would multiply rounding errors by too much, others. `rounding` is ρ, the
/// share of its length that a vector loses by being stored.
pub(super) fn damped(gram: &DMatrix<f64>, found: FoundColumns, seed: u32, rounding: f64) -> FoundColumns {
    let g = gram / gram.trace();
    let gain = gain(&g, &found.b, &best_w(&g, &found.b));
    if rounding * gain <= MAX_COST {
        return found;
    }
    let (tasks, vectors) = found.b.shape();
    let logits = |z: &[f64]| DMatrix::from_column_slice(tasks, vectors, z);
    let least = least_of_starts(tasks * vectors, seed, |z: &[f64]| value_and_gradient(&g, &logits(z), rounding));
    let (b, iterations) = (softmax(&logits(&least.at)), found.iterations + least.iterations);
    let w = damped_w(&g, &b, rounding);
    tracing::debug!(gain, damped = self::gain(&g, &b, &w), "nearly parallel vectors");
    FoundColumns { b, w: Some(w), iterations }
}

/// How many times longer, in the mean over the tasks, rounding errors of the vectors come back in them:
/// √(Σ_m ‖s_m‖²·‖W_m‖² / Σ_t ‖τ_t‖²).
fn gain(g: &DMatrix<f64>, b: &DMatrix<f64>, w: &DMatrix<f64>) -> f64 {
    let k = b.transpose() * g * b;
    let sum: f64 = (0..b.ncols()).map(|m| k[(m, m)] * w.row(m).norm_squared()).sum();
    (sum / g.trace()).sqrt()
}

/// K + ρ²D.
fn damped_products(g: &DMatrix<f64>, b: &DMatrix<f64>, rounding: f64) -> DMatrix<f64> {
    let mut k = b.transpose() * g * b;
    (0..k.nrows()).for_each(|m| k[(m, m)] *= 1.0 + rounding * rounding);
    k
}

/// The best W for what rounding leaves of the vectors.
fn damped_w(g: &DMatrix<f64>, b: &DMatrix<f64>, rounding: f64) -> DMatrix<f64> {
    let bt_g = b.transpose() * g;
    // Positive definite, but for a vector of length 0.
    damped_products(g, b, rounding).cholesky().map_or_else(|| best_w(g, b), |factors| factors.solve(&bt_g))
}

/// J at B = softmax(z), and its gradient by z.
fn value_and_gradient(g: &DMatrix<f64>, z: &DMatrix<f64>, rounding: f64) -> (f64, Vec<f64>) {
    let b = softmax(z);
    let w = damped_w(g, &b, rounding);
    let value = g.trace() - (&w * g * &b).trace();
    let mut products = &w * w.transpose();
    (0..products.nrows()).for_each(|m| products[(m, m)] *= 1.0 + rounding * rounding);
    let by_b = 2.0 * g * (&b * products - w.transpose());
    (value, through_softmax(&by_b, &b).as_slice().to_vec())
}

#[cfg(test)]
mod tests {
    use super::super::autoencoder;
    use super::*;

    /// Seven tasks in a space of five dimensions, as they come where the vectors of a bundle are made anew: the span of
    /// the four largest eigenvectors hardly knows the last one, and positive vectors in it are nearly parallel.
    const THIN: [f64; 49] = [
        0.53452, 0.14518, 0.27615, -0.04655, -0.1405, 0.02091, 0.00027, //
        0.14518, 0.04207, 0.08303, 0.00989, -0.00378, 0.01023, -0.0004, //
        0.27615, 0.08303, 0.16996, 0.011, 0.05472, 0.049, -0.00224, //
        -0.04655, 0.00989, 0.011, 0.66909, -0.03926, -0.01578, 0.00832, //
        -0.1405, -0.00378, 0.05472, -0.03926, 0.74541, 0.0146, -0.01526, //
        0.02091, 0.01023, 0.049, -0.01578, 0.0146, 0.8645, -0.00393, //
        0.00027, -0.0004, -0.00224, 0.00832, -0.01526, -0.00393, 0.26768,
    ];

    #[test]
    fn the_gradient_is_that_of_the_value() {
        let g = DMatrix::from_row_slice(7, 7, &THIN);
        let z = DMatrix::from_fn(7, 3, |i, j| ((i * 5 + j * 3) % 7) as f64 * 0.3 - 0.9);
        let (_, gradient) = value_and_gradient(&g, &z, 0.087);
        for at in [0, 4, 9, 13, 20] {
            let mut moved = z.clone();
            moved[at] += 1e-6;
            let above = value_and_gradient(&g, &moved, 0.087).0;
            moved[at] -= 2e-6;
            let slope = (above - value_and_gradient(&g, &moved, 0.087).0) / 2e-6;
            assert!((slope - gradient[at]).abs() < 1e-7, "{at}: {slope} beside {}", gradient[at]);
        }
    }

    #[test]
    fn rounding_errors_are_not_multiplied() {
        let g = DMatrix::from_row_slice(7, 7, &THIN);
        let found = autoencoder::fit(&g, 4, 0);
        let before = gain(&g, &found.b, &best_w(&g, &found.b));
        assert!(0.087 * before > 3.0 * MAX_COST, "{before}");
        let FoundColumns { b, w, .. } = damped(&g, found, 0, 0.087);
        let w = w.unwrap();
        assert!(0.087 * gain(&g, &b, &w) < MAX_COST);
        let lost = |w: &DMatrix<f64>| {
            let residual = DMatrix::identity(7, 7) - &b * w;
            (residual.transpose() * &g * residual).trace() / g.trace()
        };
        // No four vectors lose less than 8.1 % of the squares, and these lose little more.
        assert!(lost(&w) < 0.1, "{}", lost(&w));
        assert!(b.min() > 0.0 && b.column_iter().all(|column| (column.sum() - 1.0).abs() < 1e-12));
    }

    #[test]
    fn what_is_well_conditioned_stays() {
        let g = DMatrix::from_fn(6, 6, |i, j| if i == j { 1.0 } else { 0.2 });
        let found = autoencoder::fit(&g, 3, 0);
        let (b, iterations) = (found.b.clone(), found.iterations);
        let same = damped(&g, found, 0, 0.17);
        assert!(same.b == b && same.w.is_none() && same.iterations == iterations);
        // What is not rounded can be told apart by numbers of any size.
        let thin = DMatrix::from_row_slice(7, 7, &THIN);
        let found = autoencoder::fit(&thin, 4, 0);
        let b = found.b.clone();
        assert!(damped(&thin, found, 0, 0.0).b == b);
    }
}
