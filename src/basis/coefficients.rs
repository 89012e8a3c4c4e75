//! The coefficients of basis vectors: M numbers, and what goes with them.

use super::spelling::Number;
use crate::error::{Error, Result};

/// The coefficients of the vectors of a basis: `Σ_m vectors[m]·s_m + mean·(PCA's mean vector)`, and in a bundle with
/// residuals `+ Σ_r residuals[r]·r_r`.
///
/// Everything linear in the tasks is linear in the basis, so an expression of any number of tasks comes to this.
#[derive(Clone, Debug, PartialEq)]
pub struct Coefficients {
    /// The coefficients of the basis vectors, in their order.
    pub vectors: Vec<f64>,
    /// The coefficient of PCA's mean vector; 0 for the other methods.
    pub mean: f64,
    /// The coefficients of the residuals, in the order of [`Basis::residuals`](super::Basis::residuals); empty is all
    /// zero.
    pub residuals: Vec<f64>,
}

impl Coefficients {
    /// All zero: the base.
    pub fn zero(vectors: usize) -> Self {
        Self { vectors: vec![0.0; vectors], mean: 0.0, residuals: Vec::new() }
    }

    /// The coefficients in the form that the kernel takes: f32, the vectors', then the mean's where the basis has a
    /// mean, then the `residuals` residuals'.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when there are not as many as `vectors` and
    /// `residuals`, the mean's is not 0 and there is no mean, or one is not finite or does not fit f32.
    pub fn to_kernel(&self, vectors: usize, has_mean: bool, residuals: usize) -> Result<Vec<f32>> {
        Self::check_count(self.vectors.len(), vectors)?;
        if !self.residuals.is_empty() && self.residuals.len() != residuals {
            return Err(Error::invalid("there must be one coefficient per residual, or none")
                .expected(residuals)
                .got(self.residuals.len()));
        }
        if self.mean != 0.0 && !has_mean {
            return Err(Error::invalid("a coefficient for the mean, and the basis has none"));
        }
        let mean = has_mean.then_some(self.mean);
        let left_out = if self.residuals.is_empty() { residuals } else { 0 };
        self.vectors
            .iter()
            .copied()
            .chain(mean)
            .chain(self.residuals.iter().copied())
            .chain(std::iter::repeat_n(0.0, left_out))
            .enumerate()
            .map(|(m, a)| match a as f32 {
                rounded if rounded.is_finite() => Ok(rounded),
                _ => Err(Error::invalid(format!("coefficient {m} must be a finite f32")).got(Number(a))),
            })
            .collect()
    }

    /// Checks that `given` coefficients are one per basis vector.
    pub(crate) fn check_count(given: usize, vectors: usize) -> Result<()> {
        if given == vectors {
            return Ok(());
        }
        Err(Error::invalid("there must be one coefficient per basis vector").expected(vectors).got(given))
    }
}
