//! Rules that make each element of the same element of all task vectors.

use std::ops::Range;

use ndarray::ArrayView2;

use crate::build::tile::{TILE, Tiles, TunedParameter, split};
use crate::error::Result;
use crate::kernel::threads;
use crate::tensor::try_zeroed;

/// A thread takes this many elements at a time.
const WORK_ITEM: usize = 16 * TILE;

/// The values that `rule` gives, a tile at a time: of the task vectors `[T, range.len()]` and where in the parameter
/// they are it fills the merged values.
pub(super) fn merge(
    parameter: &TunedParameter,
    threads: usize,
    rule: impl Fn(&ArrayView2<'_, f64>, Range<usize>, &mut [f32]) + Sync,
) -> Result<Vec<f32>> {
    let mut values: Vec<f32> = try_zeroed(parameter.numel())?;
    let items = split(0..parameter.numel(), WORK_ITEM).zip(values.chunks_mut(WORK_ITEM)).collect();
    threads::share(threads, items, |(item, out): (Range<usize>, &mut [f32]), tiles: &mut Tiles| {
        for (tile, out) in split(item, TILE).zip(out.chunks_mut(TILE)) {
            let (vectors, _) = tiles.read(parameter, tile.clone())?;
            rule(&vectors, tile, out);
        }
        Ok(())
    })?;
    Ok(values)
}

/// `factor · Σ_t τ_t`.
pub(super) fn scaled_sum(parameter: &TunedParameter, factor: f64, threads: usize) -> Result<Vec<f32>> {
    merge(parameter, threads, |vectors, _, out| {
        for (out, column) in out.iter_mut().zip(vectors.columns()) {
            *out = (factor * column.sum()) as f32;
        }
    })
}

/// The mean of the task vectors.
pub(super) fn mean(parameter: &TunedParameter, threads: usize) -> Result<Vec<f32>> {
    scaled_sum(parameter, 1.0 / parameter.tuned.len() as f64, threads)
}
