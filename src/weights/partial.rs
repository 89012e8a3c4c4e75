//! The weights of a task a part at a time: for runs that need only a few of them at once.

use std::sync::Arc;

use super::arena::BufferPool;
use super::model::TaskWeights;
use super::plan::{self, Scope};
use super::reconstruct::ReconstructOptions;
use super::values::Weights;
use crate::error::Result;

impl TaskWeights {
    /// The weights whose names `wanted` accepts, reconstructed now, past the cache, by `threads` threads, in memory of
    /// `pool`. Their bits are those that [`TaskWeights::get`] gives.
    ///
    /// # Errors
    /// As [`Weights::reconstruct`].
    pub(crate) fn part(
        &self,
        wanted: impl Fn(&str) -> bool,
        threads: usize,
        pool: &Arc<BufferPool>,
    ) -> Result<Weights> {
        let (model, scope) = (self.model(), Scope::of(self.model().base()));
        let plan = plan::of_model(model.base(), model.basis(), self.coefficients(), scope)?;
        let options = ReconstructOptions { scope, threads, kernel: Some(model.kernel()), cancel: None };
        let plan = plan.limited_to(wanted);
        let layout = plan.canonical();
        plan.run(&layout, &options, Some(pool))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Basis, Checkpoint, Model, ModelOptions, TaskExpr};

    #[test]
    fn parts_are_pieces_of_the_whole() {
        let digits = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/digits");
        let base = Checkpoint::open(digits.join("base/pickled_module.pt")).unwrap();
        let basis = Basis::open(digits.join("bases/ViT-D-8_AE_M4_8task")).unwrap();
        let model = Model::new(base, Some(basis), &ModelOptions::default()).unwrap();
        let pool = BufferPool::unlimited();
        for expr in [TaskExpr::task("MNIST"), TaskExpr::task("Parity")] {
            let task = model.weights(&expr).unwrap();
            let whole = task.get().unwrap();
            for layer in 0..2 {
                // The memory of the part before, with its values still in it.
                let prefix = format!("visual.transformer.resblocks.{layer}.");
                let part = task.part(|name| name.starts_with(&prefix), 1, &pool).unwrap();
                assert!(part.len() == 12 && part.nbytes() * 2 < whole.nbytes());
                for (name, shape, _) in part.iter() {
                    assert!(name.starts_with(&prefix) && whole.shape(name) == Some(shape));
                    let bits = |weights: &Weights| -> Vec<u32> {
                        weights.get(name).unwrap().iter().map(|value| value.to_bits()).collect()
                    };
                    assert_eq!(bits(&part), bits(&whole), "{name}");
                }
            }
        }
    }
}
