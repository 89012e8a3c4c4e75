//! A merge of a family, computed parameter by parameter.

use super::options::Merge;
use super::rule::Rule;
use super::{dare, iso, magmax, masks, stock, ties, tsv, wudi};
use crate::build::family::Family;
use crate::build::gram::Gram;
use crate::build::tile::TunedParameter;
use crate::bundle::VectorSource;
use crate::error::{Error, Result};

/// A merge of a family, ready to be computed parameter by parameter.
pub struct MergedVector<'a> {
    pub(super) family: &'a Family,
    merge: Merge,
    rule: Box<dyn Rule + 'a>,
    threads: usize,
}

impl std::fmt::Debug for MergedVector<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MergedVector").field("merge", &self.merge).finish_non_exhaustive()
    }
}

impl Family {
    /// Prepares a merge on up to `threads` threads (0: one per processor); `gram` is this family's
    /// ([`Family::gram`]). What needs all of a task vector at once, such as TIES' thresholds, is found here.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for the Gram matrix of another family;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a merge that needs more tasks;
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for one that names an unknown task.
    pub fn merge<'a>(&'a self, gram: &Gram, merge: &Merge, threads: usize) -> Result<MergedVector<'a>> {
        let is_of_this = self.tasks().eq(gram.tasks().iter().map(String::as_str));
        if !is_of_this || self.parameters.iter().any(|parameter| parameter.changed.get().is_none()) {
            return Err(Error::mismatch("the Gram matrix is not this family's"));
        }
        merge.check(&self.tasks().collect::<Vec<_>>())?;
        let rule: Box<dyn Rule> = match merge {
            Merge::MagMax => Box::new(magmax::MagMax),
            Merge::Ties(ties) => Box::new(ties::Trimmed::new(self, *ties, None, threads)?),
            Merge::Dare(dare, None) => Box::new(dare::Dropped::new(self, *dare)),
            Merge::Dare(dare, Some(ties)) => Box::new(ties::Trimmed::new(self, *ties, Some(*dare), threads)?),
            Merge::Stock => Box::new(stock::Stock::new(gram)),
            Merge::Tall { task, lambda } => {
                let of_task = self.tasks().position(|known| known == task).unwrap_or_default();
                Box::new(masks::Tall { task: of_task, lambda: *lambda })
            }
            Merge::Consensus { lambda, agree } => Box::new(masks::Consensus { lambda: *lambda, agree: *agree }),
            Merge::Tsv => Box::new(tsv::Tsv),
            Merge::IsoC => Box::new(iso::IsoC),
            Merge::IsoCts { common } => Box::new(iso::IsoCts { common: *common }),
            Merge::Wudi { steps, rate } => Box::new(wudi::Wudi { steps: *steps, rate: *rate }),
        };
        Ok(MergedVector { family: self, merge: merge.clone(), rule, threads })
    }
}

impl MergedVector<'_> {
    /// The rule, with its options.
    pub fn merge(&self) -> &Merge {
        &self.merge
    }

    fn parameter(&self, name: &str) -> Option<&TunedParameter> {
        self.family.parameters.iter().find(|parameter| parameter.name == name)
    }
}

impl VectorSource for MergedVector<'_> {
    fn changes(&self, parameter: &str) -> bool {
        self.parameter(parameter).is_some_and(TunedParameter::is_changed)
    }

    fn values(&self, parameter: &str) -> Result<Vec<f32>> {
        let found = self.parameter(parameter).filter(|_| self.changes(parameter));
        let found = found.ok_or_else(|| Error::not_found("no task changes such a parameter").tensor(parameter))?;
        let values = self.rule.merge(found, self.threads).map_err(|e| e.tensor(parameter))?;
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(at) => Err(Error::format("the merged vector is beyond what f32 can hold")
                .tensor(parameter)
                .got(format_args!("{} at element {at}", values[at]))
                .hint("Are the checkpoints fine-tuned from this base?")),
        }
    }
}
