//! Work on a parameter's elements, chunk by chunk on several threads.

use std::ops::Range;

use super::low_rank::Directions;
use super::quantise::{StoredFormat, VectorFormat};
use crate::error::Result;
use crate::kernel::share;
use crate::tensor::{BLOCK, DType, Source, Tensor, f32_bytes, try_collected, try_with_room, try_zeroed};

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
    shape: &[usize],
    threads: usize,
    format: StoredFormat,
    values: impl Fn(&Range<usize>) -> Result<Vec<f32>> + Sync,
) -> Result<(Vec<u8>, f64)> {
    let chunks = in_chunks(shape.iter().product(), threads, |range| chunk_of_row(format, &values(&range)?))?;
    let (mut row, mut total) = (Vec::new(), 0.0);
    for (bytes, error) in chunks {
        row.extend(bytes);
        total += error;
    }
    let (row, error) = whole_row(format, shape, row)?;
    Ok((row, total + error))
}

/// A chunk's part of a row that [`whole_row`] takes, and the squared error that was made already: a matrix of low rank
/// waits for its other values, as f32.
pub(super) fn chunk_of_row(format: StoredFormat, values: &[f32]) -> Result<(Vec<u8>, f64)> {
    match format {
        StoredFormat::Values(format) => {
            let encoded = format.encode(values)?;
            Ok((encoded.bytes, square_error(&encoded.values, values)))
        }
        StoredFormat::LowRank(_) => Ok((try_collected(f32_bytes(values).iter().copied())?, 0.0)),
    }
}

/// The row of a parameter of this shape as it is stored, filled to its stride, of the chunks' parts; and the squared
/// error that is made here.
pub(super) fn whole_row(format: StoredFormat, shape: &[usize], parts: Vec<u8>) -> Result<(Vec<u8>, f64)> {
    let (mut row, error) = match format {
        StoredFormat::Values(_) => (parts, 0.0),
        StoredFormat::LowRank(format) => {
            let values = parts.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            let values: Vec<f32> = try_collected(values)?;
            let encoded = Directions::of(&values, shape, format.rank())?.encode(format)?;
            (encoded.bytes, square_error(&encoded.values, &values))
        }
    };
    row.resize(format.stored_bytes(shape)?, 0);
    Ok((row, error))
}

fn square_error(back: &[f32], values: &[f32]) -> f64 {
    back.iter().zip(values).map(|(back, value)| f64::from(back - value).powi(2)).sum()
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
