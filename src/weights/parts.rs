//! The weights of a task a part at a time: for whoever needs only a few of them at once.

use std::sync::Arc;

use super::arena::Spares;
use super::{ReconstructOptions, Scope, TaskWeights, Weights, plan};
use crate::error::Result;

/// Memory of parts that are gone, for the next ones of the same size: two at most.
#[derive(Debug)]
pub(crate) struct Ring(Arc<Spares>);

impl Default for Ring {
    fn default() -> Self {
        let spares = Arc::<Spares>::default();
        drop(spares.set_limit(usize::MAX));
        Self(spares)
    }
}

impl TaskWeights {
    /// Those of the weights whose names `wanted` accepts, reconstructed now, past the cache, by `threads` threads. The
    /// same bits as [`TaskWeights::get`] gives.
    ///
    /// # Errors
    /// As [`Weights::reconstruct`].
    pub(crate) fn part(&self, wanted: impl Fn(&str) -> bool, threads: usize, ring: &Ring) -> Result<Weights> {
        let (model, scope) = (self.model(), Scope::ImageTower);
        let plan = match model.basis() {
            Some(basis) => plan::with_base(model.base(), basis, self.coefficients(), scope)?,
            None => plan::base_alone(model.base(), scope),
        };
        let options = ReconstructOptions { scope, threads, kernel: Some(model.kernel()), cancel: None };
        plan.limited_to(wanted).run_in(&options, Some(&ring.0))
    }
}
