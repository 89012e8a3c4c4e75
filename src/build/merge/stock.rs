//! Model stock (Jang et al. 2024, arXiv 2403.19522): per parameter the mean of the N fine-tuned models, drawn towards
//! the base as far as their directions differ: `t·mean_t(τ_t)` with `t = N·cosθ / (1 + (N − 1)·cosθ)`. θ is the angle
//! between two task vectors within the parameter, or the mean of the angles of all pairs where there are more than two,
//! as in the authors' program. A task that leaves the parameter alone is at a right angle to the others. Where θ is a
//! right angle or wider, the models have no direction in common, and the base stays: the formula, which holds for
//! angles below it, would go away from all of them.

use std::collections::HashMap;

use nalgebra::DMatrix;

use super::elementwise;
use super::rule::Rule;
use crate::build::gram::Gram;
use crate::build::tile::TunedParameter;
use crate::error::Result;

pub(super) struct Stock {
    /// t/N by the names of the parameters that any task changes.
    factors: HashMap<String, f64>,
}

impl Stock {
    /// Of two tasks or more.
    pub(super) fn new(gram: &Gram) -> Self {
        let factor = |values: &DMatrix<f64>| ratio(values) / gram.tasks().len() as f64;
        Self { factors: gram.parts.iter().map(|(name, values)| (name.clone(), factor(values))).collect() }
    }
}

/// t of task vectors with these products.
fn ratio(products: &DMatrix<f64>) -> f64 {
    let n = products.nrows();
    let angle = |i: usize, j: usize| {
        let lengths = products[(i, i)].sqrt() * products[(j, j)].sqrt();
        if lengths > 0.0 { (products[(i, j)] / lengths).clamp(-1.0, 1.0).acos() } else { std::f64::consts::FRAC_PI_2 }
    };
    let pairs = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j)));
    let sum: f64 = pairs.map(|(i, j)| angle(i, j)).sum();
    let cosine = (sum / (n * (n - 1) / 2) as f64).cos();
    // A right angle's cosine is 6e-17 in f64.
    if cosine <= 1e-15 { 0.0 } else { n as f64 * cosine / (1.0 + (n as f64 - 1.0) * cosine) }
}

impl Rule for Stock {
    fn merge(&self, parameter: &TunedParameter, threads: usize) -> Result<Vec<f32>> {
        let factor = self.factors.get(&parameter.name).copied().unwrap_or(0.0);
        elementwise::scaled_sum(parameter, factor, threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_the_paper_s() {
        let of = |n, values: &[f64]| ratio(&DMatrix::from_row_slice(n, n, values));
        // 60° between two: 2·½ / (1 + ½); three pairs of 60°: 3·½ / (1 + 2·½).
        assert!((of(2, &[1.0, 1.0, 1.0, 4.0]) - 2.0 / 3.0).abs() < 1e-12);
        assert!((of(3, &[1.0, 0.5, 0.5, 0.5, 1.0, 0.5, 0.5, 0.5, 1.0]) - 0.75).abs() < 1e-12);
        // Angles of 60°, 90° and 90° have a mean of 80°.
        let cosine = 80f64.to_radians().cos();
        let mixed = of(3, &[1.0, 0.5, 0.0, 0.5, 1.0, 0.0, 0.0, 0.0, 1.0]);
        assert!((mixed - 3.0 * cosine / (1.0 + 2.0 * cosine)).abs() < 1e-12);
        assert_eq!(of(2, &[1.0, 1.0, 1.0, 1.0]), 1.0);
        assert_eq!(of(2, &[1.0, 0.0, 0.0, 1.0]), 0.0);
        assert_eq!(of(2, &[1.0, -0.5, -0.5, 1.0]), 0.0);
        assert_eq!(of(2, &[1.0, 0.0, 0.0, 0.0]), 0.0);
    }
}
