//! The weights of a task a part at a time: for runs that need only a few of them at once.

use std::sync::Arc;

use super::arena::Spares;
use super::model::TaskWeights;
use super::plan::{self, Scope};
use super::reconstruct::ReconstructOptions;
use super::values::Weights;
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

impl Ring {
    /// Gives the memory back.
    pub(crate) fn trim(&self) {
        drop(self.0.set_limit(0));
        drop(self.0.set_limit(usize::MAX));
    }
}

impl TaskWeights {
    /// The weights whose names `wanted` accepts, reconstructed now, past the cache, by `threads` threads. Their bits
    /// are those that [`TaskWeights::get`] gives.
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
        let plan = plan.limited_to(wanted);
        let layout = plan.canonical();
        plan.run(&layout, &options, Some(&ring.0))
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
        let ring = Ring::default();
        for expr in [TaskExpr::task("MNIST"), TaskExpr::task("Parity")] {
            let task = model.weights(&expr).unwrap();
            let whole = task.get().unwrap();
            for layer in 0..2 {
                // The memory of the part before, with its values still in it.
                let prefix = format!("visual.transformer.resblocks.{layer}.");
                let part = task.part(|name| name.starts_with(&prefix), 1, &ring).unwrap();
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
