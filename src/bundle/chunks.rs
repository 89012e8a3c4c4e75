//! Work on a parameter's elements, chunk by chunk on several threads.

use std::ops::Range;

use crate::error::Result;
use crate::kernel::share;
use crate::tensor::{BLOCK, Source, try_with_room, try_zeroed};

/// Elements that a thread takes at a time; whole blocks.
pub(super) const CHUNK: usize = 256 * BLOCK;

/// The ranges of the chunks of `numel` elements, in order.
pub(super) fn chunks(numel: usize) -> impl Iterator<Item = Range<usize>> {
    (0..numel).step_by(CHUNK).map(move |start| start..numel.min(start + CHUNK))
}

/// The results of `work` on every chunk of `numel` elements, in their order: sums over them have the same bits on any
/// number of threads.
///
/// # Errors
/// The first error of `work`.
pub(super) fn in_chunks<T: Send>(
    numel: usize,
    threads: usize,
    work: impl Fn(Range<usize>) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let count = numel.div_ceil(CHUNK);
    let mut results = try_with_room::<Option<T>>(count)?;
    results.resize_with(count, || None);
    let mut pieces = try_with_room(count)?;
    pieces.extend(chunks(numel).zip(&mut results));
    share(threads, pieces, |(range, result), (): &mut ()| {
        *result = Some(work(range)?);
        Ok(())
    })?;
    // After `share` has ended without an error, every chunk has its result.
    Ok(results.into_iter().flatten().collect())
}

/// The values of `source` in `range`.
pub(super) fn read(source: &Source, range: &Range<usize>) -> Result<Vec<f32>> {
    let mut values = try_zeroed::<f32>(range.len())?;
    source.read_f32(range.start, &mut values)?;
    Ok(values)
}
