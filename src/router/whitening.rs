//! One linear map for all tasks, after which what varies within tasks varies alike in every direction.
//!
//! Of each task's features the covariance is taken as Ledoit and Wolf shrink it (2004, J. Multivariate Anal. 88): of n
//! features in d dimensions, S = Σ c·cᵀ/n of what is off their mean, m = tr S/d, and
//!
//! ```text
//! δ² = ‖S − m·I‖²,    β² = min(δ², (Σ ‖c‖⁴/n − ‖S‖²)/n),    C = (1 − β²/δ²)·S + β²/δ²·m·I
//! ```
//!
//! The tasks' mean of C is L·Lᵀ, and the map is f ↦ L⁻¹·f.

#[cfg(feature = "build")]
use nalgebra::{DMatrix, DMatrixView};

use crate::error::{Error, Result};

/// The name of the map among a file's tensors.
pub(super) const NAME: &str = "whitening";
/// Added to every variance, as features are of length 1 and f32's.
#[cfg(feature = "build")]
const MIN_VARIANCE: f64 = 1e-9;

/// L⁻¹, a lower triangle.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Whitening {
    /// Row after row up to the diagonal, `[d·(d + 1)/2]`.
    triangle: Vec<f32>,
}

/// The numbers of a triangle of `extent` rows.
pub(super) fn values(extent: usize) -> Option<usize> {
    extent.checked_add(1)?.checked_mul(extent).map(|twice| twice / 2)
}

impl Whitening {
    /// Checks that these are such a map's numbers, whatever file they come from.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format).
    pub(super) fn new(triangle: Vec<f32>) -> Result<Self> {
        let wrong = |what: &str| Error::format(what.to_owned()).tensor(NAME);
        if let Some(at) = triangle.iter().position(|value| !value.is_finite()) {
            return Err(wrong("a value is not finite").got(format_args!("{} at element {at}", triangle[at])));
        }
        let mut left = &*triangle;
        let mut row = 0;
        while !left.is_empty() {
            let Some((values, rest)) = left.split_at_checked(row + 1) else {
                return Err(wrong("the last row of the triangle is cut short"));
            };
            if values[row] <= 0.0 {
                let error = wrong("a value of the diagonal is not positive");
                return Err(error.got(format_args!("{} in row {row}", values[row])));
            }
            (left, row) = (rest, row + 1);
        }
        Ok(Self { triangle })
    }

    /// The numbers.
    pub(super) fn triangle(&self) -> &[f32] {
        &self.triangle
    }

    /// Writes L⁻¹·`feature` to it.
    pub(super) fn apply(&self, feature: &mut [f64]) {
        let mut end = self.triangle.len();
        // From the last on, so that no row reads what another has written.
        for i in (0..feature.len()).rev() {
            let row = &self.triangle[end - (i + 1)..end];
            end -= i + 1;
            feature[i] = feature.iter().zip(row).map(|(value, &factor)| value * f64::from(factor)).sum();
        }
    }
}

#[cfg(feature = "build")]
impl Whitening {
    /// Of the features of every task, `[n, d]` each.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where they are too large or too alike to be whitened.
    pub(super) fn of(tasks: &[Vec<f64>], d: usize) -> Result<Self> {
        let mut mean = DMatrix::<f64>::identity(d, d) * MIN_VARIANCE;
        for rows in tasks {
            mean += covariance(rows, d) / tasks.len() as f64;
        }
        let lower = mean.cholesky().map(|factor| factor.l());
        let inverse = lower.and_then(|lower| lower.solve_lower_triangular(&DMatrix::identity(d, d)));
        let Some(inverse) = inverse else {
            return Err(Error::invalid("the features vary in too few directions to be whitened"));
        };
        let triangle = (0..d).flat_map(|i| (0..=i).map(move |j| (i, j))).map(|at| inverse[at] as f32);
        Self::new(triangle.collect())
    }
}

/// C of one task's features.
#[cfg(feature = "build")]
fn covariance(rows: &[f64], d: usize) -> DMatrix<f64> {
    let n = rows.len() / d;
    let x = DMatrixView::from_slice(rows, d, n); // A column per feature.
    let mean = x.column_mean();
    let centred = DMatrix::from_fn(d, n, |i, j| x[(i, j)] - mean[i]);
    let count = n as f64;
    let s = &centred * centred.transpose() / count;
    let m = s.trace() / d as f64;
    let spread = (s.norm_squared() - d as f64 * m * m).max(0.0);
    let fourth = centred.column_iter().map(|c| c.norm_squared().powi(2)).sum::<f64>() / count;
    let noise = ((fourth - s.norm_squared()) / count).clamp(0.0, spread);
    let share = if spread > 0.0 { noise / spread } else { 1.0 };
    s * (1.0 - share) + DMatrix::identity(d, d) * (share * m)
}

#[cfg(all(test, feature = "build"))]
mod tests {
    use super::*;

    /// Covariances by hand: two tasks whose mean covariance is known become as wide as one in every direction.
    #[test]
    fn what_varies_within_tasks_varies_alike_afterwards() {
        // Along (3, 4)/5 by ±2 and across by ±1, around two points; n is large, so next to nothing is shrunk.
        let points = [(2.0, 1.0), (-2.0, 1.0), (2.0, -1.0), (-2.0, -1.0)];
        let task = |at: [f64; 2]| -> Vec<f64> {
            let all = points.iter().flat_map(|&(a, b)| [at[0] + 0.6 * a - 0.8 * b, at[1] + 0.8 * a + 0.6 * b]);
            all.collect::<Vec<_>>().repeat(1000)
        };
        let tasks = [task([0.0, 0.0]), task([5.0, -3.0])];
        let whitening = Whitening::of(&tasks, 2).unwrap();
        let mut sums = [0.0; 3];
        for row in tasks[0].chunks_exact(2) {
            let mut row = [row[0], row[1]];
            whitening.apply(&mut row);
            sums[0] += row[0] * row[0] / 4000.0;
            sums[1] += row[1] * row[1] / 4000.0;
            sums[2] += row[0] * row[1] / 4000.0;
        }
        assert!((sums[0] - 1.0).abs() < 2e-3 && (sums[1] - 1.0).abs() < 2e-3 && sums[2].abs() < 2e-3, "{sums:?}");
    }

    /// By the formula written out, of three features in two dimensions: S = diag(2/3·4, 0), m = 4/3.
    #[test]
    fn covariances_of_few_features_are_shrunk() {
        let found = covariance(&[2.0, 0.0, -2.0, 0.0, 0.0, 0.0], 2);
        let (s, m, n) = (8.0 / 3.0, 4.0 / 3.0, 3.0);
        let spread = 2.0 * m * m;
        let noise: f64 = (32.0 / n - s * s) / n;
        let share = noise.min(spread) / spread;
        assert!((found[(0, 0)] - ((1.0 - share) * s + share * m)).abs() < 1e-12);
        assert!((found[(1, 1)] - share * m).abs() < 1e-12 && found[(0, 1)] == 0.0);
        // Without any variance there is nothing to shrink, and whitening is defined all the same.
        assert_eq!(covariance(&[1.0, 2.0, 1.0, 2.0], 2), DMatrix::zeros(2, 2));
        let mut same = [1.0, 2.0];
        Whitening::of(&[vec![1.0, 2.0, 1.0, 2.0]], 2).unwrap().apply(&mut same);
        assert!(same.iter().all(|value| value.is_finite() && *value > 0.0), "{same:?}");
    }

    #[test]
    fn what_is_no_triangle_is_refused() {
        let said = |values: &[f32]| Whitening::new(values.to_vec()).unwrap_err().to_string();
        Whitening::new(vec![1.0, -5.0, 2.0]).unwrap();
        assert!(said(&[1.0, 0.0]).contains("`whitening`: the last row of the triangle is cut short"));
        assert!(said(&[1.0, 0.0, 0.0]).contains("the diagonal is not positive: got 0 in row 1"));
        assert!(said(&[1.0, f32::NAN, 1.0]).contains("not finite: got NaN at element 1"));
        assert_eq!((values(3), values(usize::MAX)), (Some(6), None));
    }
}
