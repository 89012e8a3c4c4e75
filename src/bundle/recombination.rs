//! Other vectors for a bundle, as sums of those that it has and of a new task vector.

use crate::checkpoint::Checkpoint;

/// What takes the place of a bundle's vectors.
#[derive(Debug)]
#[cfg_attr(not(feature = "build"), allow(dead_code))] // Made by `build` alone.
pub(crate) struct Recombination<'a> {
    /// The new task's weights.
    pub(crate) finetuned: &'a Checkpoint,
    /// What each new vector is, and behind them the new mean where the method has one, of the bundle's M vectors, of
    /// its mean where it has one, and of the new task vector.
    pub(crate) rows: Vec<Vec<f64>>,
    /// M′, the number of new vectors.
    pub(crate) vectors: usize,
}
