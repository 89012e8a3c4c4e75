//! TIES (Yadav et al. 2023, arXiv 2306.01708): trim, elect signs, merge those that agree.
//!
//! 1. Of each task vector the share `keep` of elements with the largest magnitudes stays. With d elements the
//!    threshold is the (d − ⌊d·keep⌋)-th smallest magnitude, and what is equal to it or above stays: as in the authors'
//!    program, one element more than ⌊d·keep⌋, and all that are tied with it. d counts the parameters that any task
//!    changes: a text tower that was not trained does not make the share of the image tower larger.
//! 2. An element's sign is that of the sum of what is left of all tasks; where that sum is 0, the sign that most
//!    elements were given.
//! 3. Of the values with that sign the mean, the sum or the largest is taken, over the tasks that have one.

use super::dare::Dare;
use super::rule::Rule;
use super::{elementwise, select};
use crate::build::family::Family;
use crate::build::tile::{TILE, Tiles, TunedParameter, split};
use crate::error::Result;
use crate::kernel::threads;

/// The options of TIES.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ties {
    /// The share of each task vector that is kept: above 0 and at most 1.
    pub keep: f64,
    /// What is taken of the values that agree.
    pub by: Reduce,
}

impl Default for Ties {
    /// The paper's: a fifth of the elements, and the mean.
    fn default() -> Self {
        Self { keep: 0.2, by: Reduce::Mean }
    }
}

/// What is taken of several values of one sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Their mean.
    Mean,
    /// Their sum.
    Sum,
    /// The one of the largest magnitude.
    Max,
}

/// TIES with the thresholds of a family.
pub(super) struct Trimmed {
    by: Reduce,
    dare: Option<Dare>,
    tasks: Vec<String>,
    /// Per task, the least magnitude that stays, before DARE's scale.
    thresholds: Vec<f64>,
    /// Whether more elements were given the sign + than −.
    is_mostly_positive: bool,
}

impl Trimmed {
    pub(super) fn new(family: &Family, ties: Ties, dare: Option<Dare>, threads: usize) -> Result<Self> {
        let changed = || family.parameters.iter().filter(|parameter| parameter.is_changed());
        let total: usize = changed().map(TunedParameter::numel).sum();
        let rank = total as u64 - (total as f64 * ties.keep) as u64;
        let thresholds = match rank {
            0 => vec![0.0; family.tasks().len()],
            rank => select::smallest(family, dare, rank, threads)?.into_iter().map(f64::from).collect(),
        };
        let tasks = family.tasks().map(str::to_owned).collect();
        let mut this = Self { by: ties.by, dare, tasks, thresholds, is_mostly_positive: true };
        this.is_mostly_positive = this.signs(changed(), threads)? > 0;
        Ok(this)
    }

    /// What stays of the values of element `i`.
    fn trim(&self, masks: Option<&super::dare::Masks>, i: usize, t: usize, value: f64) -> f64 {
        let stays = masks.is_none_or(|masks| masks.keeps(t, i)) && value.abs() >= self.thresholds[t];
        if stays { value } else { 0.0 }
    }

    /// The elements whose sum is above 0, less those whose sum is below.
    fn signs<'a>(&self, parameters: impl Iterator<Item = &'a TunedParameter>, threads: usize) -> Result<i64> {
        const WORK_ITEM: usize = 16 * TILE;
        let items: Vec<_> = parameters
            .flat_map(|parameter| split(0..parameter.numel(), WORK_ITEM).map(move |r| (parameter, r)))
            .collect();
        let mut counts = vec![0i64; items.len()];
        let items = items.into_iter().zip(&mut counts).collect();
        threads::share(
            threads,
            items,
            |((parameter, item), count): ((&TunedParameter, _), &mut i64), tiles: &mut Tiles| {
                let masks = self.dare.map(|dare| dare.masks(&self.tasks, &parameter.name));
                for tile in split(item, TILE) {
                    let (vectors, _) = tiles.read(parameter, tile.clone())?;
                    for (i, column) in tile.zip(vectors.columns()) {
                        let left = column.iter().enumerate().map(|(t, &value)| self.trim(masks.as_ref(), i, t, value));
                        let sum: f64 = left.sum();
                        *count += i64::from(sum > 0.0) - i64::from(sum < 0.0);
                    }
                }
                Ok(())
            },
        )?;
        Ok(counts.iter().sum())
    }
}

impl Rule for Trimmed {
    fn merge(&self, parameter: &TunedParameter, threads: usize) -> Result<Vec<f32>> {
        let masks = self.dare.map(|dare| dare.masks(&self.tasks, &parameter.name));
        let scale = masks.as_ref().map_or(1.0, |masks| masks.scale());
        elementwise::merge(parameter, threads, |vectors, range, out| {
            for ((i, out), column) in range.zip(out).zip(vectors.columns()) {
                let left = || column.iter().enumerate().map(|(t, &value)| self.trim(masks.as_ref(), i, t, value));
                let sum: f64 = left().sum();
                let is_positive = sum > 0.0 || (sum == 0.0 && self.is_mostly_positive);
                let agreeing = || left().filter(|&value| if is_positive { value > 0.0 } else { value < 0.0 });
                let merged = match self.by {
                    Reduce::Mean => agreeing().sum::<f64>() / agreeing().count().max(1) as f64,
                    Reduce::Sum => agreeing().sum(),
                    Reduce::Max => {
                        agreeing().fold(0.0, |most: f64, value| if value.abs() > most.abs() { value } else { most })
                    }
                };
                *out = (scale * merged) as f32;
            }
        })
    }
}
