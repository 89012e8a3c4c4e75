//! MagMax (Marczak et al. 2024, arXiv 2407.06322): of each element the value of the task that changes it most,
//! `τ[i] = τ_t[i]` with `t = argmax_t |τ_t[i]|`. Of equal magnitudes the later task's counts, as in its authors'
//! program.

use super::elementwise;
use super::rule::Rule;
use crate::build::tile::TunedParameter;
use crate::error::Result;

pub(super) struct MagMax;

impl Rule for MagMax {
    fn merge(&self, parameter: &TunedParameter, threads: usize) -> Result<Vec<f32>> {
        elementwise::merge(parameter, threads, |vectors, _, out| {
            for (out, column) in out.iter_mut().zip(vectors.columns()) {
                let larger = |most: f64, value: &f64| if value.abs() >= most.abs() { *value } else { most };
                *out = column.iter().fold(0.0, larger) as f32;
            }
        })
    }
}
