//! TALL masks and Consensus (Wang et al. 2024, arXiv 2405.07813): which elements of the sum τ = Σ_t τ_t belong to a
//! task. Its mask holds those with `|τ_t| > λ·|τ − τ_t|`.
//!
//! TALL: the sum under the mask of one task, which is that task's weights again, nearly. Consensus: the sum without the
//! elements that fewer than `agree` masks hold, those that are one task's alone or no task's.
//!
//! The paper chooses λ per task from 0.2, 0.3, …, 0.6 by accuracy; the default is their middle.

use super::elementwise;
use super::rule::Rule;
use crate::build::tile::TunedParameter;
use crate::error::Result;

pub(super) struct Tall {
    pub(super) task: usize,
    pub(super) lambda: f64,
}

pub(super) struct Consensus {
    pub(super) lambda: f64,
    pub(super) agree: usize,
}

fn is_held(value: f64, sum: f64, lambda: f64) -> bool {
    value.abs() > lambda * (sum - value).abs()
}

impl Rule for Tall {
    fn merge(&self, parameter: &TunedParameter, threads: usize) -> Result<Vec<f32>> {
        elementwise::merge(parameter, threads, |vectors, _, out| {
            for (out, column) in out.iter_mut().zip(vectors.columns()) {
                let sum = column.sum();
                *out = if is_held(column[self.task], sum, self.lambda) { sum as f32 } else { 0.0 };
            }
        })
    }
}

impl Rule for Consensus {
    fn merge(&self, parameter: &TunedParameter, threads: usize) -> Result<Vec<f32>> {
        elementwise::merge(parameter, threads, |vectors, _, out| {
            for (out, column) in out.iter_mut().zip(vectors.columns()) {
                let sum = column.sum();
                let holders = column.iter().filter(|value| is_held(**value, sum, self.lambda)).count();
                *out = if holders >= self.agree { sum as f32 } else { 0.0 };
            }
        })
    }
}
