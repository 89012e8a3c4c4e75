//! Method Random: M orthonormal vectors that no task has a part in, `Q` of the QR factorisation of a [D, M] matrix of
//! normal numbers, and the tasks' projections on them, `P = Qᵀ·V`.
//!
//! The matrix is never held: it is drawn anew, from its seed, whenever it is passed over. With `R` from its Gram
//! matrix, `AᵀA = RᵀR`, `Q = A·R⁻¹` needs nothing but A's rows one by one, and the condition of a normal matrix is
//! near 1, so this loses nothing beside Householder's reflections. The signs are those that the reflections of LAPACK
//! give, by the reconstruction of Ballard and others (2014): the k-th is `−sgn` of the k-th pivot of Q's first M rows.

use std::ops::Range;

use nalgebra::{Cholesky, DMatrix};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};

use super::family::Family;
use super::tile::{TILE, Tiles, matrix, split};
use crate::error::{Error, Result};
use crate::kernel::threads;
use crate::random::{BLOCK, Drawn, TorchNormals};
use crate::tensor::try_zeroed;

/// Numbers that are drawn at a time.
const CHUNK: usize = 1 << 20;
/// A thread makes this many of them normal at a time.
const PIECE: usize = 1 << 14;

/// What the vectors are made of: the seed, and what A's rows are multiplied by to be Q's.
#[derive(Clone, Debug)]
pub(super) struct RandomVectors {
    seed: u32,
    /// D.
    total: usize,
    /// `R⁻¹` with the columns' signs, [M, M].
    inverse: DMatrix<f64>,
}

/// Rows of the [D, M] matrix of normal numbers, from the first to the last.
#[derive(Clone)]
struct Rows {
    normals: TorchNormals,
    vectors: usize,
    left: usize,
}

impl Rows {
    fn new(total: usize, vectors: usize, seed: u32) -> Self {
        Self { normals: TorchNormals::new(total * vectors, seed), vectors, left: total }
    }

    /// The next rows, [rows, M] row-major; none at the end.
    fn next(&mut self, threads: usize) -> Result<Vec<f32>> {
        // Rows by 16, so that the numbers are; and not fewer than 16 are left for the end.
        let rows = (CHUNK / self.vectors).max(BLOCK) / BLOCK * BLOCK;
        let rows = if rows + BLOCK > self.left { self.left } else { rows };
        self.left -= rows;
        let drawn = self.normals.draw(rows * self.vectors);
        let mut all = try_zeroed(drawn.len())?;
        let pieces = drawn.pieces(PIECE).zip(all.chunks_mut(PIECE)).collect();
        let fill = |(piece, out): (Range<usize>, &mut [f32]), (): &mut ()| {
            Drawn::normals(&drawn, piece, out);
            Ok(())
        };
        threads::share(threads, pieces, fill)?;
        drawn.finish(&mut all);
        Ok(all)
    }
}

/// Elements of one parameter that a thread takes at a time, and the sum `[A V]ᵀ·A` over them.
struct WorkItem<'a> {
    parameter: usize,
    range: Range<usize>,
    /// A's rows, [range, M].
    rows: &'a [f32],
    sum: Array2<f64>,
}

#[derive(Default)]
struct Scratch {
    tiles: Tiles,
    rows: Array2<f64>,
}

/// Draws M random vectors, and sums up what makes them orthonormal and the tasks' projections on them: these [M, T], as
/// f32. The number of vectors is right; `progress` is told how many more parameters are done.
pub(super) fn project(
    family: &Family,
    vectors: usize,
    seed: u32,
    threads: usize,
    progress: &dyn Fn(u64),
) -> Result<(RandomVectors, DMatrix<f64>)> {
    let (tasks, total) = (family.tasks().len(), family.parameter_count());
    if total <= vectors || total * vectors < BLOCK {
        return Err(Error::invalid("too few parameters for random vectors").got(total));
    }
    let (mut squares, mut first) = (Array2::<f64>::zeros((vectors + tasks, vectors)), DMatrix::zeros(0, 0));
    let mut rows = Rows::new(total, vectors, seed);
    let mut elements = Elements { family, parameter: 0, start: 0 };
    while rows.left > 0 {
        let chunk = rows.next(threads)?;
        if first.is_empty() {
            first = DMatrix::from_fn(vectors, vectors, |i, j| f64::from(chunk[i * vectors + j]));
        }
        let mut items = elements.next(&chunk, vectors);
        let run = |item: &mut WorkItem<'_>, scratch: &mut Scratch| item.run(family, vectors, scratch);
        threads::share(threads, items.iter_mut().collect(), run)?;
        items.iter().for_each(|item| squares += &item.sum);
        progress((chunk.len() / vectors) as u64);
    }
    let gram = DMatrix::from_fn(vectors, vectors, |i, j| squares[[i, j]]);
    let dependent = || Error::new(crate::ErrorKind::Internal, "the random vectors are not independent");
    let r = Cholesky::new(gram).ok_or_else(dependent)?.l().transpose();
    let mut inverse = r.try_inverse().ok_or_else(dependent)?;
    for (m, sign) in signs(&first * &inverse).into_iter().enumerate() {
        inverse.column_mut(m).scale_mut(sign);
    }
    let projected = DMatrix::from_fn(vectors, tasks, |m, t| squares[[vectors + t, m]]);
    let recover = (inverse.transpose() * projected).map(|value| f64::from(value as f32));
    Ok((RandomVectors { seed, total, inverse }, recover))
}

/// The signs that reflections give the columns of Q, of its first M rows.
fn signs(mut first: DMatrix<f64>) -> Vec<f64> {
    let m = first.nrows();
    let mut signs = Vec::with_capacity(m);
    for k in 0..m {
        let sign = if first[(k, k)] >= 0.0 { -1.0 } else { 1.0 };
        signs.push(sign);
        let pivot = first[(k, k)] - sign;
        for i in k + 1..m {
            let factor = first[(i, k)] / pivot;
            for j in k + 1..m {
                let above = first[(k, j)];
                first[(i, j)] -= factor * above;
            }
        }
    }
    signs
}

/// The elements of a family's parameters, one after the other.
struct Elements<'f> {
    family: &'f Family,
    parameter: usize,
    start: usize,
}

impl Elements<'_> {
    /// The work items of the next elements, as many as there are rows.
    fn next<'a>(&mut self, rows: &'a [f32], vectors: usize) -> Vec<WorkItem<'a>> {
        let (mut items, mut rest) = (Vec::new(), rows);
        while !rest.is_empty() {
            let numel = self.family.parameters[self.parameter].numel();
            let end = numel.min(self.start + rest.len() / vectors);
            for range in split(self.start..end, 16 * TILE) {
                let (rows, behind) = rest.split_at(range.len() * vectors);
                items.push(WorkItem { parameter: self.parameter, range, rows, sum: Array2::zeros((0, 0)) });
                rest = behind;
            }
            (self.parameter, self.start) = if end == numel { (self.parameter + 1, 0) } else { (self.parameter, end) };
        }
        items
    }
}

impl WorkItem<'_> {
    fn run(&mut self, family: &Family, vectors: usize, scratch: &mut Scratch) -> Result<()> {
        let parameter = &family.parameters[self.parameter];
        let tasks = parameter.tuned.len();
        self.sum = matrix(vectors + tasks, vectors)?;
        if scratch.rows.ncols() != vectors {
            scratch.rows = matrix(TILE, vectors)?;
        }
        for range in split(self.range.clone(), TILE) {
            let from = (range.start - self.range.start) * vectors;
            let mut rows = scratch.rows.slice_axis_mut(Axis(0), (..range.len()).into());
            rows.iter_mut().zip(&self.rows[from..]).for_each(|(row, normal)| *row = f64::from(*normal));
            let (own, mut of_tasks) = self.sum.view_mut().split_at(Axis(0), vectors);
            add_product(rows.t(), rows.view(), own);
            if parameter.is_changed() {
                let (differences, _) = scratch.tiles.read(parameter, range)?;
                general_mat_mul(1.0, &differences, &rows, 1.0, &mut of_tasks);
            }
        }
        Ok(())
    }
}

fn add_product(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>, mut to: ArrayViewMut2<'_, f64>) {
    general_mat_mul(1.0, &a, &b, 1.0, &mut to);
}

/// Q's columns, read from the first row to the last.
#[derive(Clone)]
pub(super) struct RandomColumns {
    rows: Rows,
    inverse: DMatrix<f64>,
    threads: usize,
    /// Rows that were drawn, and how many of them are done.
    chunk: Vec<f32>,
    done: usize,
}

impl RandomVectors {
    /// Elements of each vector.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    pub(super) fn columns(&self, threads: usize) -> RandomColumns {
        let vectors = self.inverse.nrows();
        let rows = Rows::new(self.total, vectors, self.seed);
        RandomColumns { rows, inverse: self.inverse.clone(), threads, chunk: Vec::new(), done: 0 }
    }
}

impl RandomColumns {
    /// The next `count` elements of these vectors.
    pub(super) fn next(&mut self, count: usize, vectors: Range<usize>) -> Result<Vec<Vec<f32>>> {
        let mut all = vectors.clone().map(|_| try_zeroed(count)).collect::<Result<Vec<Vec<f32>>>>()?;
        let m = self.inverse.nrows();
        let mut at = 0;
        while at < count {
            if self.done * m == self.chunk.len() {
                (self.chunk, self.done) = (self.rows.next(self.threads)?, 0);
            }
            let take = (count - at).min(self.chunk.len() / m - self.done);
            let rows = &self.chunk[self.done * m..(self.done + take) * m];
            let mut outs: Vec<_> = all.iter_mut().map(|out| out[at..at + take].chunks_mut(PIECE)).collect();
            let pieces = rows
                .chunks(PIECE * m)
                .map(|rows| (rows, outs.iter_mut().filter_map(Iterator::next).collect::<Vec<&mut [f32]>>()))
                .collect();
            let inverse = &self.inverse;
            let multiply = |(rows, mut outs): (&[f32], Vec<&mut [f32]>), (): &mut ()| {
                for (out, column) in outs.iter_mut().zip(vectors.clone()) {
                    // The inverse is upper triangular.
                    let factors = inverse.column(column);
                    let factors = &factors.as_slice()[..=column];
                    for (out, row) in out.iter_mut().zip(rows.chunks_exact(m)) {
                        *out = row.iter().zip(factors).map(|(a, f)| f64::from(*a) * f).sum::<f64>() as f32;
                    }
                }
                Ok(())
            };
            threads::share(self.threads, pieces, multiply)?;
            (self.done, at) = (self.done + take, at + take);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signs_are_those_of_reflections() {
        // numpy.sign(numpy.diag(numpy.linalg.qr(a)[1]))
        let a = DMatrix::from_row_slice(3, 2, &[1.0, 2.0, 3.0, -4.0, 5.0, 6.0]);
        for (a, expected) in [(a.clone(), [-1.0, 1.0]), (-a, [1.0, -1.0])] {
            let r = Cholesky::new(a.transpose() * &a).unwrap().l().transpose();
            let q = a * r.try_inverse().unwrap();
            assert_eq!(signs(q.rows(0, 2).into_owned()), expected);
        }
    }

    #[test]
    fn rows_come_in_chunks_and_columns_in_any_pieces() {
        // Several chunks, and a rest that PyTorch draws anew.
        let (total, vectors) = (400_003, 3);
        let mut all = TorchNormals::new(total * vectors, 5);
        let drawn = all.draw(total * vectors);
        let mut expected = vec![0.0; drawn.len()];
        drawn.normals(0..drawn.len(), &mut expected);
        drawn.finish(&mut expected);
        let (mut rows, mut found) = (Rows::new(total, vectors, 5), Vec::new());
        while rows.left > 0 {
            found.extend(rows.next(2).unwrap());
        }
        assert!(found == expected, "the same numbers in chunks");

        let inverse = DMatrix::from_row_slice(3, 3, &[2.0, -1.0, 0.5, 0.0, 1.0, 4.0, 0.0, 0.0, -3.0]);
        let of = RandomVectors { seed: 5, total, inverse };
        let whole = of.columns(1).next(total, 0..3).unwrap();
        let at = |d: usize| [0, 1, 2].map(|m| f64::from(expected[d * 3 + m]));
        for d in [0, 349_500, 349_600, total - 1] {
            let [a, b, c] = at(d);
            let product = [2.0 * a, b - a, 0.5 * a + 4.0 * b - 3.0 * c].map(|value| value as f32);
            assert_eq!([whole[0][d], whole[1][d], whole[2][d]], product, "row {d}");
        }
        let mut columns = of.columns(2);
        assert_eq!(columns.next(7, 0..3).unwrap()[1], whole[1][..7]);
        for (m, whole) in whole.iter().enumerate() {
            let mut ahead = columns.clone();
            let mut one: Vec<f32> = Vec::new();
            for range in split(7..total, 150_001) {
                one.extend(&ahead.next(range.len(), m..m + 1).unwrap()[0]);
            }
            assert!(one == whole[7..], "vector {m} alone");
        }
    }
}
