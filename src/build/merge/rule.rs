//! A rule of merging.

use crate::build::tile::TunedParameter;
use crate::error::Result;

/// What a rule makes of one parameter that some task changes.
pub(super) trait Rule: Send + Sync {
    /// The merged values, in the parameter's order.
    fn merge(&self, parameter: &TunedParameter, threads: usize) -> Result<Vec<f32>>;
}
