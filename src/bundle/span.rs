//! The fit of a bundle's vectors to a task: sums over both, in one pass.

use super::add_tasks::{BundleUpdate, TaskFit};
use super::chunks::{in_chunks, read};
use super::measure::{Gram, ratio};
use super::same_model;
use crate::basis::plausibility;
use crate::checkpoint::{Checkpoint, lacking};
use crate::error::{Error, Result};

impl BundleUpdate<'_> {
    /// The sums that least squares need, in one pass over the vectors.
    pub(super) fn span(&self, finetuned: &Checkpoint) -> Result<Span> {
        let of_base = self.base.iter().filter(|(_, tensor)| tensor.dtype().is_float());
        let names: Vec<&str> = of_base.clone().map(|(name, _)| name.as_str()).collect();
        let unchanged = lacking::unchanged(&names, finetuned, self.bundle.path().display())?;
        let unchanged: Vec<String> = unchanged.into_iter().map(String::from).collect();
        let frozen = of_base.filter(|(name, _)| unchanged.contains(name));
        let frozen = frozen.map(|(name, tensor)| (name.as_str(), tensor.shape()));
        same_model::check(self.bundle, finetuned, frozen)?;
        let count = self.metadata.basis.vectors;
        let base_norm = plausibility::square(self.base_tensors())?;
        let mut total = Span { gram: Gram::new(count + 1), norm: 0.0, base_norm, unchanged };
        // One parameter at a time, so that the chunks' sums are few.
        for (parameter, shape) in self.parameters() {
            let tuned = self.tuned(finetuned, parameter)?;
            let sums = in_chunks(shape.iter().product(), self.threads, |range| {
                let (target, norm) = self.target(tuned, parameter, &range)?;
                if !norm.is_finite() {
                    return Err(Error::format("a value is not finite").at(finetuned.path()));
                }
                let mut rows =
                    self.vectors_of(parameter).iter().map(|vector| read(vector, &range)).collect::<Result<Vec<_>>>()?;
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

/// The sums that least squares needs of a task, over all parameters.
pub(super) struct Span {
    /// The products of the vectors and, behind them, the target.
    pub(super) gram: Gram,
    /// ‖τ‖².
    norm: f64,
    /// ‖W‖² of the base.
    base_norm: f64,
    /// The parameters that the fine-tuned checkpoint does not hold.
    unchanged: Vec<String>,
}

impl Span {
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
