//! The cost of quantising: the error of every recovered task vector, exactly, from sums over the vectors.
//!
//! A task vector is linear in the vectors, τ̂_t = Σ_k a_k·s_k, and so is its error Σ_k a_k·(s'_k − s_k). With the Gram
//! matrices G of the vectors and E of their errors, ‖τ̂_t‖² = aᵀGa and ‖τ̂'_t − τ̂_t‖² = aᵀEa for every task, whatever
//! their number, and one pass over the vectors gives both.

use std::sync::Arc;

use super::chunks::{in_chunks, read};
use super::low_rank::Directions;
use super::quantise::{Encoded, StoredFormat, VectorFormat};
use crate::basis::{Basis, Recovery};
use crate::error::{Error, Result};
use crate::kernel::share;
use crate::mmap::Mapping;
use crate::tensor::{LowRankFormat, Source, try_zeroed};

/// Sums of products of all pairs of vectors, f64.
#[derive(Clone, Debug)]
pub(crate) struct Gram {
    size: usize,
    /// Row-major; below the diagonal zero.
    sums: Vec<f64>,
}

impl Gram {
    pub(crate) fn new(size: usize) -> Self {
        Self { size, sums: vec![0.0; size * size] }
    }

    /// The products of these rows, one per vector.
    pub(crate) fn of(rows: &[Vec<f32>]) -> Self {
        let mut gram = Self::new(rows.len());
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate().skip(i) {
                gram.sums[i * gram.size + j] = dot(a, b);
            }
        }
        gram
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, other)| *sum += other);
    }

    pub(crate) fn get(&self, i: usize, j: usize) -> f64 {
        self.sums[i.min(j) * self.size + i.max(j)]
    }

    /// The products of what is read from these, whole, on up to `threads` threads (0: one per processor); they have the
    /// same bits on any number of them.
    pub(crate) fn of_sources(sources: &[Source], threads: usize) -> Result<Self> {
        let numel = sources.first().map_or(0, Source::numel);
        let parts = in_chunks(numel, threads, |range| {
            let rows = sources.iter().map(|source| read(source, &range)).collect::<Result<Vec<_>>>()?;
            Ok(Self::of(&rows))
        })?;
        let mut gram = Self::new(sources.len());
        parts.iter().for_each(|part| gram.add(part));
        Ok(gram)
    }

    /// aᵀGb.
    pub(crate) fn bilinear(&self, a: &[f64], b: &[f64]) -> f64 {
        let row = |i: usize| b.iter().enumerate().map(|(j, b)| b * self.get(i, j)).sum::<f64>();
        a.iter().enumerate().filter(|(_, a)| **a != 0.0).map(|(i, a)| a * row(i)).sum()
    }

    pub(crate) fn is_finite(&self) -> bool {
        self.sums.iter().all(|sum| sum.is_finite())
    }

    /// aᵀGa.
    pub(crate) fn quadratic(&self, a: &[f64]) -> f64 {
        let pairs = (0..self.size).flat_map(|i| (i..self.size).map(move |j| (i, j)));
        pairs.map(|(i, j)| if i == j { 1.0 } else { 2.0 } * a[i] * a[j] * self.get(i, j)).sum::<f64>().max(0.0)
    }
}

/// Σ a·b in f64, in eight running sums.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0f64; 8];
    for (a, b) in a.iter().zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += f64::from(*a) * f64::from(*b);
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
}

/// The cosine of the angle between two rows, at most 1; −1 where one of them is zero or not finite and the other is
/// another.
pub(super) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    if a == b {
        1.0
    } else if cosine.is_finite() {
        cosine.min(1.0)
    } else {
        -1.0
    }
}

/// The vectors of one parameter in one format, all of it or a chunk.
pub(super) struct EncodedVectors {
    /// The stored bytes of every vector; those of a whole parameter are filled to the stride of a row.
    pub(super) rows: Vec<Vec<u8>>,
    /// The products of the vectors.
    pub(super) vectors: Gram,
    /// The products of what encoding changed.
    pub(super) errors: Gram,
}

impl EncodedVectors {
    /// What a bundle that held these rows would hold.
    pub(super) fn sources(self, format: StoredFormat, shape: &[usize]) -> Result<Vec<Source>> {
        let bytes = format.value_bytes(shape).ok_or_else(|| Error::out_of_memory(usize::MAX))?;
        let source = |row: Vec<u8>| {
            let mapping = Arc::new(Mapping::from_vec(row, "a vector in memory"));
            format.source(&mapping, 0..bytes, shape)
        };
        self.rows.into_iter().map(source).collect()
    }
}

/// Encodes one parameter of every vector, on several threads. The bytes and sums do not depend on their number.
pub(super) fn encode(sources: &[Source], format: StoredFormat, threads: usize) -> Result<EncodedVectors> {
    match format {
        StoredFormat::Values(format) => encode_values(sources, format, threads),
        StoredFormat::LowRank(format) => {
            encode_low_rank(sources, &directions(sources, format.rank(), threads)?, format, threads)
        }
    }
}

/// The first `most` directions of each of the matrices.
pub(super) fn directions(sources: &[Source], most: usize, threads: usize) -> Result<Vec<Directions>> {
    let mut found: Vec<Option<Directions>> = sources.iter().map(|_| None).collect();
    share(threads, sources.iter().zip(&mut found).collect(), |(source, found): (&Source, &mut _), (): &mut ()| {
        *found = Some(Directions::of(&source.to_f32()?, source.shape(), most)?);
        Ok(())
    })?;
    // After `share` has ended without an error, every matrix has its own.
    Ok(found.into_iter().flatten().collect())
}

/// Encodes matrices whose directions are known: as many as the format wants, or all there are.
pub(super) fn encode_low_rank(
    sources: &[Source],
    directions: &[Directions],
    format: LowRankFormat,
    threads: usize,
) -> Result<EncodedVectors> {
    let matrices = directions.iter().map(|directions| directions.matrix_of(format)).collect::<Result<Vec<_>>>()?;
    let numel = sources.first().map_or(0, Source::numel);
    let chunks = in_chunks(numel, threads, |range| {
        let (mut vectors, mut errors) = (Vec::new(), Vec::new());
        for (source, matrix) in sources.iter().zip(&matrices) {
            let values = read(source, &range)?;
            let mut error = try_zeroed::<f32>(range.len())?;
            matrix.read_f32(range.start, &mut error)?;
            error.iter_mut().zip(&values).for_each(|(back, value)| *back -= value);
            vectors.push(values);
            errors.push(error);
        }
        Ok((Gram::of(&vectors), Gram::of(&errors)))
    })?;
    let mut whole =
        EncodedVectors { rows: Vec::new(), vectors: Gram::new(sources.len()), errors: Gram::new(sources.len()) };
    for (vectors, errors) in chunks {
        whole.vectors.add(&vectors);
        whole.errors.add(&errors);
    }
    for matrix in matrices {
        let mut row = matrix.mapping()[matrix.range()].to_vec();
        row.resize(StoredFormat::LowRank(format).stored_bytes(matrix.shape())?, 0);
        whole.rows.push(row);
    }
    Ok(whole)
}

fn encode_values(sources: &[Source], format: VectorFormat, threads: usize) -> Result<EncodedVectors> {
    let numel = sources.first().map_or(0, Source::numel);
    let chunks = in_chunks(numel, threads, |range| {
        let (mut rows, mut vectors, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for source in sources {
            let values = read(source, &range)?;
            let Encoded { bytes, values: mut error } = format.encode(&values)?;
            // Exact: the two are close to each other, or the difference is small beside both.
            error.iter_mut().zip(&values).for_each(|(back, value)| *back -= value);
            rows.push(bytes);
            vectors.push(values);
            errors.push(error);
        }
        Ok(EncodedVectors { rows, vectors: Gram::of(&vectors), errors: Gram::of(&errors) })
    })?;
    let stride = StoredFormat::from(format).stored_bytes(sources.first().map_or(&[], Source::shape))?;
    let count = sources.len();
    let mut whole =
        EncodedVectors { rows: Vec::with_capacity(count), vectors: Gram::new(count), errors: Gram::new(count) };
    for _ in 0..count {
        let mut row = Vec::new();
        row.try_reserve_exact(stride).map_err(|_| crate::Error::out_of_memory(stride))?;
        whole.rows.push(row);
    }
    for chunk in chunks {
        whole.rows.iter_mut().zip(chunk.rows).for_each(|(row, bytes)| row.extend(bytes));
        whole.vectors.add(&chunk.vectors);
        whole.errors.add(&chunk.errors);
    }
    whole.rows.iter_mut().for_each(|row| row.resize(stride, 0));
    Ok(whole)
}

/// The tasks that can be recovered, each with what multiplies the vectors (and the mean) at λ = 1.
pub(super) fn task_factors(basis: &Basis) -> Vec<(String, Vec<f64>)> {
    let recovery: &Recovery = basis.recovery();
    let recoverable = basis.tasks().iter().enumerate().filter(|(t, _)| recovery.is_recoverable(*t));
    recoverable
        .map(|(t, task)| {
            let column = (0..basis.vectors()).filter_map(|m| recovery.get(m, t));
            (task.clone(), column.chain(basis.has_mean().then_some(1.0)).collect())
        })
        .collect()
}

/// The products of the vectors and of their errors, over all parameters.
pub(super) struct Sums {
    pub(super) vectors: Gram,
    pub(super) errors: Gram,
}

impl Sums {
    pub(super) fn new(basis: &Basis) -> Self {
        let gram = Gram::new(basis.vectors() + usize::from(basis.has_mean()));
        Self { vectors: gram.clone(), errors: gram }
    }
}

/// The errors of recovered task vectors, against those of the basis that was packed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RecoveryErrors {
    /// Every task that can be recovered.
    pub tasks: Vec<TaskRecoveryError>,
    /// The plain sum of the vectors, the paper's addition.
    pub merged: f64,
}

/// The error of one recovered task vector.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TaskRecoveryError {
    /// The task.
    pub task: String,
    /// ‖τ̂' − τ̂‖ / ‖τ̂‖, over the parameters of the image tower.
    pub relative: f64,
    /// ‖τ̂‖.
    pub norm: f64,
}

impl RecoveryErrors {
    pub(super) fn of(basis: &Basis, vectors: &Gram, errors: &Gram) -> Self {
        let relative = |a: &[f64]| ratio(errors.quadratic(a), vectors.quadratic(a)).sqrt();
        let tasks = task_factors(basis)
            .into_iter()
            .map(|(task, a)| TaskRecoveryError { task, relative: relative(&a), norm: vectors.quadratic(&a).sqrt() })
            .collect();
        let mut sum = vec![1.0; basis.vectors()];
        sum.extend(basis.has_mean().then_some(0.0));
        Self { tasks, merged: relative(&sum) }
    }

    /// The largest relative error of a task.
    pub fn largest(&self) -> f64 {
        self.tasks.iter().map(|task| task.relative).fold(0.0, f64::max)
    }
}

/// `part` as a share of `whole`; 0 of nothing is 0.
pub(super) fn ratio(part: f64, whole: f64) -> f64 {
    if part == 0.0 { 0.0 } else { part / whole }
}

#[cfg(test)]
mod tests {
    use super::super::chunks::CHUNK;
    use super::*;
    use crate::tensor::{BlockFormat, Tensor};

    #[test]
    fn the_gram_matrices_give_the_error_itself() {
        let numel = CHUNK + 1000;
        let vector = |seed: usize| -> Vec<f32> {
            (0..numel).map(|i| (((i * 7919 + seed * 104_729) % 1009) as f32 - 504.0) * 1e-5).collect()
        };
        let values: Vec<Vec<f32>> = (0..3).map(vector).collect();
        let sources: Vec<Source> =
            values.iter().map(|v| Tensor::from_f32(v, &[numel], "test").unwrap().into()).collect();
        let format = VectorFormat::Blocks(BlockFormat::Q3);
        let one = encode(&sources, format.into(), 1).unwrap();
        let many = encode(&sources, format.into(), 3).unwrap();
        assert!(one.rows == many.rows && one.errors.sums == many.errors.sums, "threads change nothing");

        let a = [0.5, -1.25, 2.0];
        let sum =
            |rows: &[Vec<f32>], i: usize| -> f64 { a.iter().zip(rows).map(|(a, row)| a * f64::from(row[i])).sum() };
        let back: Vec<Vec<f32>> = values.iter().map(|v| format.encode(v).unwrap().values).collect();
        let norm: f64 = (0..numel).map(|i| sum(&values, i).powi(2)).sum();
        let error: f64 = (0..numel).map(|i| (sum(&back, i) - sum(&values, i)).powi(2)).sum();
        assert!((one.vectors.quadratic(&a) / norm - 1.0).abs() < 1e-12);
        assert!((one.errors.quadratic(&a) / error - 1.0).abs() < 1e-9);
    }
}
