//! Coefficients without data: of the lengths of the task vectors, which the Gram matrix of the vectors gives.

use std::str::FromStr;

use super::space::Space;
use crate::basis::{Basis, Grouping, TaskExpr};
use crate::bundle::VectorGram;
use crate::did_you_mean::unknown;
use crate::error::{Error, Result};

/// A formula for the λ of T tasks, ‖τ_t‖ being the length of a task's vector over the parameters of a group. They sum
/// to 1 in each group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedForm {
    /// λ_t = (1/‖τ_t‖) / Σ_k (1/‖τ_k‖): every task moves the weights as far as every other.
    InverseNorm,
    /// λ_t = ‖τ_t‖² / Σ_k ‖τ_k‖²: least average loss difference under local linearity and orthogonal task vectors
    /// (MetaGPT, arXiv 2406.11385). Tasks that went farther count for more.
    MetaGpt,
}

impl ClosedForm {
    /// The names that it is known by.
    pub const NAMES: [&'static str; 2] = ["inverse-norm", "metagpt"];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::InverseNorm => Self::NAMES[0],
            Self::MetaGpt => Self::NAMES[1],
        }
    }

    /// The λ of tasks whose vectors have these squared lengths. One of no length gets 0, and all get 0 where none has
    /// any: there is nothing to add.
    fn lambdas(self, squares: &[f64]) -> Vec<f64> {
        let weigh = |&square: &f64| match self {
            Self::InverseNorm if square > 0.0 => 1.0 / square.sqrt(),
            Self::InverseNorm => 0.0,
            Self::MetaGpt => square,
        };
        let weights: Vec<f64> = squares.iter().map(weigh).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|weight| if sum > 0.0 { weight / sum } else { 0.0 }).collect()
    }
}

impl FromStr for ClosedForm {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "inverse-norm" => Ok(Self::InverseNorm),
            "metagpt" => Ok(Self::MetaGpt),
            _ => Err(unknown("closed form", name, Self::NAMES.into_iter())),
        }
    }
}

/// The λ that a formula gives for each task and group, as an expression, rounded to four decimals. Reads every vector
/// once; what it sums up has the same bits on any number of threads (0: one per processor).
///
/// # Errors
/// As [`Basis::coefficients`] for a task that the basis does not have or cannot recover;
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for no task, one twice, or groups of another basis;
/// [`ErrorKind::Format`](crate::ErrorKind::Format) where the vectors hold what is not finite.
pub fn closed_form(
    basis: &Basis,
    tasks: &[String],
    grouping: &Grouping,
    form: ClosedForm,
    threads: usize,
) -> Result<TaskExpr> {
    let space = Space::new(basis, tasks, grouping, |_| true)?;
    let columns = space.columns();
    let mut squares = vec![vec![0.0; tasks.len()]; grouping.len()];
    for ((name, parameter), &group) in basis.parameters().zip(grouping.groups()) {
        if !parameter.is_changed() {
            continue;
        }
        let gram = VectorGram::of_sources(parameter.sources(), threads)?;
        for (square, column) in squares[group as usize].iter_mut().zip(&columns) {
            *square += gram.quadratic(column);
        }
        if let Some(t) = squares[group as usize].iter().position(|square| !square.is_finite()) {
            return Err(Error::format(format!("the vector of task `{}` is not finite", tasks[t]))
                .at(basis.path())
                .tensor(name));
        }
    }
    let lambdas: Vec<f64> = space.groups.iter().flat_map(|&group| form.lambdas(&squares[group])).collect();
    Ok(space.expr(&Space::rounded(&lambdas)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_by_hand() {
        // Lengths 1, 2 and 3.
        let squares = [1.0, 4.0, 9.0];
        let inverse = ClosedForm::InverseNorm.lambdas(&squares);
        // 1/1, 1/2, 1/3 over their sum 11/6.
        for (lambda, expected) in inverse.iter().zip([6.0 / 11.0, 3.0 / 11.0, 2.0 / 11.0]) {
            assert!((lambda - expected).abs() < 1e-15, "{inverse:?}");
        }
        assert_eq!(ClosedForm::MetaGpt.lambdas(&squares), [1.0 / 14.0, 4.0 / 14.0, 9.0 / 14.0]);
        assert_eq!(ClosedForm::InverseNorm.lambdas(&[0.0, 4.0]), [0.0, 1.0]);
        assert_eq!(ClosedForm::MetaGpt.lambdas(&[0.0, 0.0]), [0.0, 0.0]);
        assert_eq!("metagpt".parse::<ClosedForm>().unwrap(), ClosedForm::MetaGpt);
        assert!("metagtp".parse::<ClosedForm>().unwrap_err().to_string().contains("metagpt"));
    }
}
