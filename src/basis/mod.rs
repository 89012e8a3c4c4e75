//! A task-vector basis: M mapped vectors and the coefficients that give T tasks back.
//!
//! Opening reads names, shapes and coefficients; the vectors themselves are mapped and read when weights are
//! reconstructed. The formats and formulas are those of *Task Vector Bases* (arXiv 2502.01015).

mod coefficients;
mod expr;
mod grouping;
mod logits;
mod matrix;
mod method;
mod place;
pub(crate) mod plausibility;
mod published;
mod recovery;
mod spelling;
mod vectors;

pub use coefficients::Coefficients;
pub use expr::{Scale, Selector, Target, TaskExpr};
pub use grouping::Grouping;
pub use matrix::CoefficientMatrix;
pub use method::Method;
pub use place::Kind;
pub use recovery::Recovery;
pub(crate) use recovery::no_mean;
pub(crate) use spelling::Number;
pub(crate) use vectors::BasisContents;
pub use vectors::{Basis, Parameter, ParameterCount};
