//! The choice among many equally good B: the loss depends on the span of its columns alone, so any M independent
//! positive vectors of that span serve. What differs is how large W must be — nearly parallel vectors are told apart by
//! large numbers of both signs, which amplify whatever rounding or quantising does to the vectors — and how evenly the
//! tasks share in the vectors, and so in their plain sum.

use nalgebra::{DMatrix, DVector};

use crate::descent::minimise;

/// The weight of evenness beside independence. The extreme rays of the positive cone are the most independent, and
/// leave most tasks out of every vector.
const EVENNESS: f64 = 0.03;
const MAX_ITERATIONS: usize = 500;

/// Vectors of the span of `top` that are as independent, and their entries as even, as can be: a minimum of
/// `−log vol(s_1/‖s_1‖, …, s_M/‖s_M‖) − EVENNESS·Σ log(T·b[t,m])` over positive b that sum to 1.
///
/// `top` has the M largest eigenvectors of G as columns, `values` are their eigenvalues; `b` lies in their span, is
/// positive, and is where the search begins.
pub(super) fn spread(top: &DMatrix<f64>, values: &[f64], b: &DMatrix<f64>) -> DMatrix<f64> {
    let (tasks, vectors) = b.shape();
    let lambda = DVector::from_column_slice(values);
    let sums = DVector::from_iterator(vectors, top.row_sum().iter().copied());
    let objective = |x: &[f64]| {
        let x = DMatrix::from_column_slice(vectors, vectors, x);
        let b = top * &x;
        let infeasible = (f64::INFINITY, vec![0.0; vectors * vectors]);
        let (true, Some(inverse)) = (b.min() > 0.0, x.clone().try_inverse()) else { return infeasible };
        let mut value = -x.determinant().abs().ln();
        let mut gradient = -inverse.transpose();
        for m in 0..vectors {
            let weighted = lambda.component_mul(&x.column(m));
            let square = x.column(m).dot(&weighted);
            let sum = b.column(m).sum();
            value +=
                0.5 * square.ln() - EVENNESS * b.column(m).iter().map(|b| (tasks as f64 * b / sum).ln()).sum::<f64>();
            let by_b = top.transpose() * b.column(m).map(|b| 1.0 / b);
            let mut column = gradient.column_mut(m);
            column += weighted / square - EVENNESS * (by_b - &sums * (tasks as f64 / sum));
        }
        if value.is_finite() { (value, gradient.as_slice().to_vec()) } else { infeasible }
    };
    let start = (top.transpose() * b).as_slice().to_vec();
    let found = minimise(start, f64::NEG_INFINITY, MAX_ITERATIONS, objective);
    let mut b = top * DMatrix::from_column_slice(vectors, vectors, &found.at);
    for mut column in b.column_iter_mut() {
        let sum = column.sum();
        column /= sum;
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::gram::eigen;

    #[test]
    fn vectors_are_told_apart_and_stay_in_their_span() {
        // Four tasks, all alike to a degree, in two dimensions and a rest.
        let g = DMatrix::from_fn(4, 4, |i, j| {
            if i == j {
                1.0
            } else if i / 2 == j / 2 {
                0.8
            } else {
                0.3
            }
        });
        let (values, vectors) = eigen(g);
        let top = vectors.columns(0, 2).into_owned();
        let nearly_parallel = DMatrix::from_row_slice(4, 2, &[0.26, 0.24, 0.26, 0.24, 0.24, 0.26, 0.24, 0.26]);
        let b = spread(&top, &values[..2], &nearly_parallel);
        assert!((&top * (top.transpose() * &b) - &b).amax() < 1e-12, "{b}");
        assert!(b.min() > 0.0 && b.column_iter().all(|column| (column.sum() - 1.0).abs() < 1e-12));
        assert!(b[(0, 0)] > 0.4 && b[(2, 1)] > 0.4, "each stands for a pair: {b}");
    }
}
