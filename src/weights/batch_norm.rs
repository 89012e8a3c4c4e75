//! Batch normalisations as exporters fold them into the layers before them: every row of the weight times a factor.
//!
//! Where nothing trains, `y = γ·(conv(x) + b − μ)/√(σ² + ε) + β` is another convolution (Ioffe and Szegedy 2015,
//! algorithm 2): its weight is `W·g` and its bias `β + (b − μ)·g`, with `g = γ/√(σ² + ε)` for each channel.

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};

/// The batch normalisation whose `γ/√(σ² + ε)` multiplies the rows of a parameter, one of its channels each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchNorm {
    /// The parameter γ; without one it is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// The parameter σ².
    pub variance: String,
    /// The number ε that is added to σ².
    pub epsilon: f32,
}

impl BatchNorm {
    /// The parameters that its factors are made of.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &str> {
        self.weight.iter().chain([&self.variance]).map(String::as_str)
    }

    /// Whether it has a factor for every row of a parameter of this shape.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming the parameter that does not fit;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for an epsilon below 0.
    pub(crate) fn check(&self, shape: &[usize], base: &Checkpoint) -> Result<()> {
        if !(self.epsilon.is_finite() && self.epsilon >= 0.0) {
            return Err(Error::invalid("an epsilon is no number from 0 on").got(self.epsilon));
        }
        for name in self.parameters() {
            let tensor = base.require(name)?;
            if !tensor.dtype().is_float() || shape.is_empty() || tensor.shape() != &shape[..1] {
                return Err(Error::mismatch("a batch normalisation of another width than the rows that it multiplies")
                    .tensor(name)
                    .expected(format_args!("floats {:?}", &shape[..shape.len().min(1)]))
                    .got(format_args!("{} {:?}", tensor.dtype(), tensor.shape())));
            }
        }
        Ok(())
    }

    /// `γ/√(σ² + ε)` for every channel.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where σ² + ε is not positive, as after
    /// subtracting tasks that change the statistics.
    pub(crate) fn factors(&self, weight: Option<&[f32]>, variance: &[f32]) -> Result<Vec<f64>> {
        let of = |(i, variance): (usize, &f32)| {
            let sum = f64::from(*variance) + f64::from(self.epsilon);
            // Not a number: finding it is left to those who look for such weights.
            if sum <= 0.0 {
                return Err(Error::invalid("a variance is below zero in these weights, and its root is needed")
                    .tensor(&self.variance)
                    .got(format_args!("{variance} of channel {i}"))
                    .hint("Do the tasks that are subtracted change the statistics? Then take less of them"));
            }
            Ok(weight.map_or(1.0, |weight| f64::from(weight[i])) / sum.sqrt())
        };
        variance.iter().enumerate().map(of).collect()
    }

    /// [`BatchNorm::factors`] of the base's own values.
    ///
    /// # Errors
    /// As there; when values cannot be read.
    pub(crate) fn factors_of(&self, base: &Checkpoint) -> Result<Vec<f64>> {
        let weight = self.weight.as_deref().map(|name| base.require(name)?.to_f32()).transpose()?;
        self.factors(weight.as_deref(), &base.require(&self.variance)?.to_f32()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_gamma_over_the_root() {
        let norm = BatchNorm { weight: None, variance: "v".into(), epsilon: 0.25 };
        assert_eq!(norm.factors(Some(&[3.0, -1.0]), &[2.0, 0.0]).unwrap(), [2.0, -2.0]);
        assert_eq!(norm.factors(None, &[3.75]).unwrap(), [0.5]);
        let error = norm.factors(None, &[1.0, -0.25]).unwrap_err();
        assert_eq!(error.tensor_name(), Some("v"));
        assert!(error.to_string().contains("-0.25 of channel 1"), "{error}");
    }
}
