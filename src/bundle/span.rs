//! The sums that fitting a bundle's vectors to a task needs, in one pass over both.

use super::add_tasks::BundleUpdate;
use super::chunks::{in_chunks, read};
use super::measure::Gram;
use super::same_model;
use super::task_fit::Span;
use crate::basis::plausibility;
use crate::checkpoint::{Checkpoint, lacking};
use crate::error::{Error, Result};

impl BundleUpdate<'_> {
    /// The sums that least squares need, in one pass over the vectors. Where PCA's mean is `apart` it is a row behind
    /// them, and the target the task vector as it is.
    pub(super) fn span(&self, finetuned: &Checkpoint, apart: bool) -> Result<Span> {
        let of_base = self.base.iter().filter(|(_, tensor)| tensor.dtype().is_float());
        let names: Vec<&str> = of_base.clone().map(|(name, _)| name.as_str()).collect();
        let unchanged = lacking::unchanged(&names, finetuned, self.bundle.path().display())?;
        let unchanged: Vec<String> = unchanged.into_iter().map(String::from).collect();
        let frozen = of_base.filter(|(name, _)| unchanged.contains(name));
        let frozen = frozen.map(|(name, tensor)| (name.as_str(), tensor.shape()));
        same_model::check(self.bundle, finetuned, frozen)?;
        let basis = &self.bundle.metadata.basis;
        let count = basis.vectors + usize::from(apart && basis.mean);
        let base_norm = plausibility::square(self.base_tensors())?;
        let mut total = Span { gram: Gram::new(count + 1), norm: 0.0, base_norm, unchanged };
        // One parameter at a time, so that the chunks' sums are few.
        for (parameter, shape) in self.parameters() {
            let tuned = self.tuned(finetuned, parameter)?;
            let sums = in_chunks(shape.iter().product(), self.threads, |range| {
                let (target, norm) = self.target(tuned, parameter, &range, !apart)?;
                if !norm.is_finite() {
                    return Err(Error::format("a value is not finite").at(finetuned.path()));
                }
                let rows = self.sources_of(parameter, count).iter().map(|vector| read(vector, &range));
                let mut rows = rows.collect::<Result<Vec<_>>>()?;
                rows.resize_with(count, Vec::new);
                rows.push(target);
                Ok((Gram::of(&rows), norm))
            });
            for (gram, norm) in sums.map_err(|e| e.tensor(parameter))? {
                total.gram.add(&gram);
                total.norm += norm;
            }
        }
        Ok(total)
    }
}
