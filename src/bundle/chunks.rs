//! Work on a parameter's elements, chunk by chunk on several threads.

use std::ops::Range;

use super::quantise::VectorFormat;
use crate::error::Result;
use crate::kernel::share;
use crate::tensor::{BLOCK, DType, Source, Tensor, try_with_room, try_zeroed};

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

/// A row as `format` stores it, filled to its stride, of values that are given chunk by chunk; and the squared error
/// that storing makes.
///
/// # Errors
/// The first error of `values`, and for a value that does not fit the format.
pub(super) fn encoded_row(
    numel: usize,
    threads: usize,
    format: VectorFormat,
    values: impl Fn(&Range<usize>) -> Result<Vec<f32>> + Sync,
) -> Result<(Vec<u8>, f64)> {
    let chunks = in_chunks(numel, threads, |range| {
        let values = values(&range)?;
        let encoded = format.encode(&values)?;
        let error =
            encoded.values.iter().zip(&values).map(|(back, value)| f64::from(back - value).powi(2)).sum::<f64>();
        Ok((encoded.bytes, error))
    })?;
    let (mut row, mut total) = (Vec::new(), 0.0);
    for (bytes, error) in chunks {
        row.extend(bytes);
        total += error;
    }
    row.resize(format.stored_bytes(numel)?, 0);
    Ok((row, total))
}

/// Whether two tensors hold the same values, once `tensor` is rounded to the base's type.
pub(super) fn is_same(tensor: &Tensor, base: &Tensor) -> Result<bool> {
    let format = match base.dtype() {
        DType::F16 => VectorFormat::F16,
        DType::BF16 => VectorFormat::BF16,
        _ => VectorFormat::F32,
    };
    for range in chunks(base.numel()) {
        let mut of_base = try_zeroed::<f32>(range.len())?;
        base.read_f32(range.start, &mut of_base)?;
        let mut tuned = try_zeroed::<f32>(range.len())?;
        tensor.read_f32(range.start, &mut tuned)?;
        if format.encode(&tuned)?.values != of_base {
            return Ok(false);
        }
    }
    Ok(true)
}
