//! What quantising costs: the error of every recovered task vector, exactly, from sums over the vectors.
//!
//! A task vector is linear in the vectors, τ̂_t = Σ_k a_k·s_k, and so is its error Σ_k a_k·(s'_k − s_k). With the Gram
//! matrices G of the vectors and E of their errors, ‖τ̂_t‖² = aᵀGa and ‖τ̂'_t − τ̂_t‖² = aᵀEa for every task, whatever
//! their number, and one pass over the vectors gives both.

use super::quantise::{Encoded, VectorFormat};
use crate::basis::{Basis, Recovery};
use crate::error::Result;
use crate::kernel::share;
use crate::tensor::{BLOCK, Source, try_zeroed};

/// Elements that a thread takes at a time; whole blocks.
const PIECE: usize = 256 * BLOCK;

/// Sums of products of all pairs of vectors, f64.
#[derive(Clone, Debug)]
pub(super) struct Gram {
    size: usize,
    /// Row-major; below the diagonal zero.
    sums: Vec<f64>,
}

impl Gram {
    pub(super) fn new(size: usize) -> Self {
        Self { size, sums: vec![0.0; size * size] }
    }

    /// Adds the products of these stretches of the vectors.
    pub(super) fn accumulate(&mut self, rows: &[Vec<f32>]) {
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate().skip(i) {
                self.sums[i * self.size + j] += dot(a, b);
            }
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, other)| *sum += other);
    }

    pub(super) fn get(&self, i: usize, j: usize) -> f64 {
        self.sums[i.min(j) * self.size + i.max(j)]
    }

    /// aᵀGa.
    pub(super) fn quadratic(&self, a: &[f64]) -> f64 {
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

/// One parameter's vectors in one format.
pub(super) struct EncodedParameter {
    /// The stored bytes of every vector, filled to the stride of a row.
    pub(super) rows: Vec<Vec<u8>>,
    /// Of the vectors.
    pub(super) vectors: Gram,
    /// Of what encoding changed.
    pub(super) errors: Gram,
}

/// Encodes every vector's piece of a parameter, on several threads. The bytes and sums do not depend on their number.
pub(super) fn encode(sources: &[Source], format: VectorFormat, threads: usize) -> Result<EncodedParameter> {
    struct Piece {
        start: usize,
        length: usize,
        rows: Vec<Vec<u8>>,
        vectors: Gram,
        errors: Gram,
    }
    let count = sources.len();
    let numel = sources.first().map_or(0, Source::numel);
    let mut pieces: Vec<Piece> = (0..numel)
        .step_by(PIECE)
        .map(|start| Piece {
            start,
            length: PIECE.min(numel - start),
            rows: Vec::new(),
            vectors: Gram::new(count),
            errors: Gram::new(count),
        })
        .collect();
    share(threads, pieces.iter_mut().collect(), |piece, (): &mut ()| {
        let (mut vectors, mut errors) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for source in sources {
            let mut values = try_zeroed::<f32>(piece.length)?;
            source.read_f32(piece.start, &mut values)?;
            let Encoded { bytes, values: mut error } = format.encode(&values)?;
            // Exact: the two are close to each other, or the difference is small beside both.
            error.iter_mut().zip(&values).for_each(|(back, value)| *back -= value);
            piece.rows.push(bytes);
            vectors.push(values);
            errors.push(error);
        }
        piece.vectors.accumulate(&vectors);
        piece.errors.accumulate(&errors);
        Ok(())
    })?;
    let stride = format.stored_bytes(numel)?;
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        let mut row = Vec::new();
        row.try_reserve_exact(stride).map_err(|_| crate::Error::out_of_memory(stride))?;
        rows.push(row);
    }
    let (mut vectors, mut errors) = (Gram::new(count), Gram::new(count));
    // In their order, so that rounding is always the same.
    for mut piece in pieces {
        rows.iter_mut().zip(piece.rows.drain(..)).for_each(|(row, bytes)| row.extend(bytes));
        vectors.add(&piece.vectors);
        errors.add(&piece.errors);
    }
    rows.iter_mut().for_each(|row| row.resize(stride, 0));
    Ok(EncodedParameter { rows, vectors, errors })
}

/// What multiplies the vectors (and the mean) for each task that can be recovered, λ = 1.
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

/// How far recovered task vectors are from those of the basis that was packed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Errors {
    /// Every task that can be recovered.
    pub tasks: Vec<TaskError>,
    /// The plain sum of the vectors, the paper's addition.
    pub merged: f64,
}

/// The error of one task vector.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TaskError {
    /// Whose.
    pub task: String,
    /// ‖τ̂' − τ̂‖ / ‖τ̂‖, over the parameters of the image tower.
    pub relative: f64,
    /// ‖τ̂‖.
    pub norm: f64,
}

impl Errors {
    pub(super) fn of(basis: &Basis, vectors: &Gram, errors: &Gram) -> Self {
        let relative = |a: &[f64]| ratio(errors.quadratic(a), vectors.quadratic(a)).sqrt();
        let tasks = task_factors(basis)
            .into_iter()
            .map(|(task, a)| TaskError { task, relative: relative(&a), norm: vectors.quadratic(&a).sqrt() })
            .collect();
        let mut sum = vec![1.0; basis.vectors()];
        sum.extend(basis.has_mean().then_some(0.0));
        Self { tasks, merged: relative(&sum) }
    }

    /// The largest of the tasks.
    pub fn largest(&self) -> f64 {
        self.tasks.iter().map(|task| task.relative).fold(0.0, f64::max)
    }
}

/// A share of something that may be nothing.
pub(super) fn ratio(part: f64, whole: f64) -> f64 {
    if part == 0.0 { 0.0 } else { part / whole }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{BlockFormat, Tensor};

    #[test]
    fn the_gram_matrices_give_the_error_itself() {
        let numel = PIECE + 1000;
        let vector = |seed: usize| -> Vec<f32> {
            (0..numel).map(|i| (((i * 7919 + seed * 104_729) % 1009) as f32 - 504.0) * 1e-5).collect()
        };
        let values: Vec<Vec<f32>> = (0..3).map(vector).collect();
        let sources: Vec<Source> =
            values.iter().map(|v| Tensor::from_f32(v, &[numel], "test").unwrap().into()).collect();
        let format = VectorFormat::Blocks(BlockFormat::Q3);
        let one = encode(&sources, format, 1).unwrap();
        let many = encode(&sources, format, 3).unwrap();
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
