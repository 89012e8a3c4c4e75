//! How well the vectors of a bundle give a task back.

use super::measure::{Gram, ratio};
use crate::basis::plausibility;

/// The fit of the vectors to a task, and how good it is.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TaskFit {
    /// The task.
    pub task: String,
    /// The coefficients of the vectors, one per vector.
    pub coefficients: Vec<f64>,
    /// The number of independent vectors.
    pub rank: usize,
    /// ‖τ‖, the task vector over the image tower: fine-tuned minus the bundle's base.
    pub norm: f64,
    /// ‖W‖, the image tower of the bundle's base.
    pub base_norm: f64,
    /// ‖τ − τ̂‖ / ‖τ‖ with the vectors alone.
    pub lacking: f64,
    /// ‖τ − τ̂‖ / ‖τ‖ with the residual as it is stored; `None` where none is.
    pub lacking_with_residual: Option<f64>,
    /// Parameters of the image tower that the fine-tuned checkpoint does not hold, because training left them alone.
    pub unchanged: Vec<String>,
}

impl TaskFit {
    /// A reason to doubt that this is a fine-tune of the bundle's base: a task vector about as long as its weights.
    pub fn doubt(&self) -> Option<String> {
        plausibility::long(std::iter::once((self.task.as_str(), ratio(self.norm, self.base_norm))))
    }
}

/// The sums that least squares needs of a task, over all parameters.
pub(crate) struct Span {
    /// The products of the vectors and, behind them, the target.
    pub(crate) gram: Gram,
    /// ‖τ‖².
    pub(crate) norm: f64,
    /// ‖W‖² of the base.
    pub(crate) base_norm: f64,
    /// The parameters that the fine-tuned checkpoint does not hold.
    pub(crate) unchanged: Vec<String>,
}

impl Span {
    /// The fit with these coefficients of the vectors, `rank` of which are independent.
    pub(super) fn fit(self, task: &str, coefficients: Vec<f64>, rank: usize) -> TaskFit {
        let mut a = coefficients.clone();
        a.push(-1.0);
        TaskFit {
            task: task.to_owned(),
            coefficients,
            rank,
            norm: self.norm.sqrt(),
            base_norm: self.base_norm.sqrt(),
            lacking: ratio(self.gram.quadratic(&a), self.norm).sqrt(),
            lacking_with_residual: None,
            unchanged: self.unchanged,
        }
    }
}
