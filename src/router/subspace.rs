//! Affine subspaces of features, one per task, and how far a feature is from each.
//!
//! Each is the model of probabilistic PCA (Tipping and Bishop, 1999): a normal distribution with mean μ, variances
//! λ_1 … λ_k along k orthonormal directions u_j, and one variance σ² in all other directions. With z_j = u_j·(f − μ)
//! and r² = ‖f − μ‖² − Σ z_j²,
//!
//! ```text
//! d² = Σ_j z_j²/λ_j + r²/σ²,    ln p(f) = −½·(d² + Σ_j ln λ_j + (e − k)·ln σ²) + constant
//! ```
//!
//! Hidden features are whitened first, with one map for all tasks.

use super::whitening::{self, Whitening};
use crate::error::{Error, Result};

/// By how much directions may be off orthonormal, as f32 they are off by rounding.
const TOLERANCE: f64 = 1e-3;

/// The subspaces of all tasks, in one array per kind of number.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Subspaces {
    /// μ, `[T, e]`.
    pub(super) means: Vec<f32>,
    /// u, `[T, k, e]`, orthonormal per task.
    pub(super) directions: Vec<f32>,
    /// λ_1 … λ_k and σ², `[T, k + 1]`.
    pub(super) variances: Vec<f32>,
    /// The largest d² of a task's own images that were held out, `[T]`.
    pub(super) limits: Vec<f32>,
    /// What features go through first, where they do.
    pub(super) whitening: Option<Whitening>,
}

/// How far a feature is from a task's subspace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Distance {
    /// d².
    pub(super) squared: f64,
    /// Σ ln λ_j + (e − k)·ln σ².
    log_volume: f64,
}

impl Distance {
    /// Of ‖f − μ‖², z_1² … z_k², and λ_1 … λ_k and σ², in e dimensions.
    pub(super) fn of_squares(all: f64, along: impl IntoIterator<Item = f64>, variances: &[f32], e: usize) -> Self {
        let k = variances.len() - 1;
        let (mut rest, mut squared, mut log_volume) = (all, 0.0, 0.0);
        for (square, &variance) in along.into_iter().zip(&variances[..k]) {
            rest -= square;
            squared += square / f64::from(variance);
            log_volume += f64::from(variance).ln();
        }
        let variance = f64::from(variances[k]);
        // Rounding may leave less than nothing.
        squared += rest.max(0.0) / variance;
        log_volume += (e - k) as f64 * variance.ln();
        Self { squared, log_volume }
    }

    /// ln p, up to what is the same for every task.
    pub(super) fn log_likelihood(self) -> f64 {
        -0.5 * (self.squared + self.log_volume)
    }
}

impl Subspaces {
    /// e.
    pub(super) fn embedding(&self) -> usize {
        self.means.len() / self.limits.len()
    }

    /// k.
    pub(super) fn components(&self) -> usize {
        self.variances.len() / self.limits.len() - 1
    }

    pub(super) fn values_per_task(&self) -> usize {
        let (e, k) = (self.embedding(), self.components());
        e + k * e + k + 2
    }

    /// The largest d² that one of the task's own images had.
    pub(super) fn limit(&self, task: usize) -> f64 {
        f64::from(self.limits[task])
    }

    /// Bytes of numbers that are there once for all tasks.
    pub(super) fn shared_bytes(&self) -> usize {
        self.whitening.as_ref().map_or(0, |whitening| size_of_val(whitening.triangle()))
    }

    /// Brings a normalised feature, e values, to where the subspaces are.
    pub(super) fn place(&self, feature: &mut [f64]) {
        if let Some(whitening) = &self.whitening {
            whitening.apply(feature);
        }
    }

    /// How far `feature`, e values that [`Subspaces::place`] has been at, is from the subspace of `task`.
    pub(super) fn distance(&self, task: usize, feature: &[f64]) -> Distance {
        let (e, k) = (self.embedding(), self.components());
        let mean = &self.means[task * e..][..e];
        let variances = &self.variances[task * (k + 1)..][..k + 1];
        let directions = &self.directions[task * k * e..][..k * e];
        distance(feature, mean, directions, variances)
    }

    /// Checks that these are subspaces of features, whatever file they come from.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format), naming the tensor.
    pub(super) fn check(&self) -> Result<()> {
        let (e, k) = (self.embedding(), self.components());
        for (name, values) in self.arrays() {
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                let error = Error::format("a value is not finite").tensor(name);
                return Err(error.got(format_args!("{} at element {at}", values[at])));
            }
        }
        for (name, values) in [("variances", &self.variances), ("limits", &self.limits)] {
            if let Some(at) = values.iter().position(|&value| value <= 0.0) {
                let error = Error::format("not positive").tensor(name);
                return Err(error.got(format_args!("{} at element {at}", values[at])));
            }
        }
        for (task, directions) in self.directions.chunks_exact((k * e).max(1)).enumerate() {
            for i in 0..k {
                for j in 0..=i {
                    let (a, b) = (&directions[i * e..][..e], &directions[j * e..][..e]);
                    let product: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                    if (product - if i == j { 1.0 } else { 0.0 }).abs() > TOLERANCE {
                        return Err(Error::format("the directions are not orthonormal")
                            .tensor("directions")
                            .got(format_args!("u{i}·u{j} = {product} of task {task}")));
                    }
                }
            }
        }
        Ok(())
    }

    /// All numbers, by the names that they have in files.
    pub(super) fn arrays(&self) -> Vec<(&'static str, &[f32])> {
        let mut arrays: Vec<(&'static str, &[f32])> = vec![
            ("means", &self.means),
            ("directions", &self.directions),
            ("variances", &self.variances),
            ("limits", &self.limits),
        ];
        arrays.extend(self.whitening.as_ref().map(|whitening| (whitening::NAME, whitening.triangle())));
        arrays
    }
}

/// [`Subspaces::distance`], of one subspace.
fn distance(feature: &[f64], mean: &[f32], directions: &[f32], variances: &[f32]) -> Distance {
    let off = |(&value, &mean): (&f64, &f32)| value - f64::from(mean);
    let all: f64 = feature.iter().zip(mean).map(|pair| off(pair).powi(2)).sum();
    let along = directions.chunks_exact(feature.len()).map(|direction| {
        let z: f64 = feature.iter().zip(mean).zip(direction).map(|(pair, &u)| off(pair) * f64::from(u)).sum();
        z * z
    });
    Distance::of_squares(all, along, variances, feature.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plane's axis in three dimensions, against the density of a normal distribution written out.
    #[test]
    fn the_distance_is_that_of_a_normal_distribution() {
        let (mean, direction, variances) = ([0.5f32, 0.0, -0.25], [0.0f32, 1.0, 0.0], [4.0f32, 0.25]);
        let found = distance(&[1.0, 3.0, -0.25], &mean, &direction, &variances);
        assert!((found.squared - (9.0 / 4.0 + 0.25 / 0.25)).abs() < 1e-12);
        let determinant: f64 = 4.0 * 0.25 * 0.25;
        assert!((found.log_likelihood() + 0.5 * (found.squared + determinant.ln())).abs() < 1e-12);
        // Without directions it is a sphere.
        let sphere = distance(&[1.0, 3.0, -0.25], &mean, &[], &variances[1..]);
        assert!((sphere.squared - (0.25 + 9.0) / 0.25).abs() < 1e-12);
    }

    #[test]
    fn what_is_no_subspace_is_refused() {
        let good = Subspaces {
            means: vec![0.0; 6],
            directions: vec![1.0, 0.0, 0.0, 0.0, 0.0, 1.0],
            variances: vec![1.0; 4],
            limits: vec![3.0; 2],
            whitening: None,
        };
        good.check().unwrap();
        assert_eq!((good.embedding(), good.components(), good.values_per_task()), (3, 1, 9));
        let refused = |change: &dyn Fn(&mut Subspaces), part: &str| {
            let mut wrong = good.clone();
            change(&mut wrong);
            let error = wrong.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        refused(&|s| s.means[4] = f32::NAN, "`means`: a value is not finite: got NaN at element 4");
        refused(&|s| s.variances[3] = 0.0, "`variances`: not positive: got 0 at element 3");
        refused(&|s| s.limits[0] = -1.0, "`limits`: not positive");
        refused(&|s| s.directions[5] = 0.5, "not orthonormal: got u0·u0 = 0.25 of task 1");
    }
}
