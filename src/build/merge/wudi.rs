//! WUDI (Cheng et al. 2025, arXiv 2503.08099): of a linear layer the vector τ that disturbs the tasks least. The rows
//! of a task vector stand for the layer's inputs in that task, so what τ adds beside τ_t to them is
//! `Σ_t ‖(τ − τ_t)·τ_tᵀ‖² / ‖τ_t‖²`, which Adam makes smaller (β 0.9 and 0.999, ε 1e-8, no decay), from the sum of the
//! task vectors on. Layers are the matrices of attention and MLPs (`…attn…weight`, `…mlp…weight`), as in the authors'
//! program.
//!
//! The gradient is `2·(τ·C − D)` with `C = Σ τ_tᵀτ_t/‖τ_t‖²` and `D = Σ τ_t·τ_tᵀτ_t/‖τ_t‖²`, computed once in f64: a
//! step costs one product, whatever T, and each row of τ descends by itself. The steps are f32, as the authors' are.

use std::ops::Range;

use faer::{Accum, Mat, MatMut, MatRef, Par};

use super::elementwise;
use super::rule::Rule;
use crate::build::tile::{Piece, TunedParameter};
use crate::error::Result;
use crate::kernel::threads;
use crate::tensor::try_zeroed;

/// Rows that a thread takes at a time.
const ROWS: usize = 192;

pub(super) struct Wudi {
    pub(super) steps: usize,
    pub(super) rate: f64,
}

fn is_layer(parameter: &TunedParameter) -> bool {
    let name = &parameter.name;
    parameter.shape().len() == 2
        && parameter.numel() > 0
        && name.ends_with("weight")
        && (name.contains("attn") || name.contains("mlp"))
}

/// The constant part of the gradient's two terms, and where the descent begins.
struct Sums {
    /// [n, n]
    c: Mat<f32>,
    /// [m, n], row-major
    d: Vec<f32>,
    /// [m, n], row-major
    sum: Vec<f32>,
}

impl Rule for Wudi {
    fn merge(&self, parameter: &TunedParameter, threads: usize) -> Result<Vec<f32>> {
        if !is_layer(parameter) {
            return elementwise::mean(parameter, threads);
        }
        let columns = parameter.shape()[1];
        let Sums { c, d, mut sum } = sums(parameter, threads)?;
        let items = sum.chunks_mut(ROWS * columns).zip(d.chunks(ROWS * columns)).collect();
        threads::share(threads, items, |(rows, d): (&mut [f32], &[f32]), (): &mut ()| self.descend(rows, &c, d))?;
        Ok(sum)
    }
}

impl Wudi {
    /// Adam on some rows, as PyTorch computes it.
    fn descend(&self, at: &mut [f32], c: &Mat<f32>, d: &[f32]) -> Result<()> {
        const BETA: (f32, f32) = (0.9, 0.999);
        const EPSILON: f32 = 1e-8;
        let (columns, count) = (c.ncols(), at.len());
        let room = || try_zeroed::<f32>(count);
        let (mut gradient, mut first, mut second) = (room()?, room()?, room()?);
        for step in 1..=self.steps {
            gradient.copy_from_slice(d);
            let view = MatMut::from_row_major_slice_mut(&mut gradient, count / columns, columns);
            let rows = MatRef::from_row_major_slice(at, count / columns, columns);
            // D − τ·C, the other way round below.
            faer::linalg::matmul::matmul(view, Accum::Add, rows, c, -1.0, Par::Seq);
            let power = |beta: f32| 1.0 - f64::from(beta).powi(step as i32);
            let size = (self.rate / power(BETA.0)) as f32;
            let root = power(BETA.1).sqrt() as f32;
            let state = first.iter_mut().zip(second.iter_mut());
            for ((at, gradient), (first, second)) in at.iter_mut().zip(&gradient).zip(state) {
                let gradient: f32 = -2.0 * gradient;
                *first += (1.0 - BETA.0) * (gradient - *first);
                *second = BETA.1 * *second + (1.0 - BETA.1) * gradient * gradient;
                *at -= size * *first / (second.sqrt() / root + EPSILON);
            }
        }
        Ok(())
    }
}

/// The sums over the tasks, one task in memory at a time.
fn sums(parameter: &TunedParameter, threads: usize) -> Result<Sums> {
    let (rows, columns) = (parameter.shape()[0], parameter.shape()[1]);
    let mut c: Vec<f64> = try_zeroed(columns * columns)?;
    let mut gram: Vec<f64> = try_zeroed(columns * columns)?;
    let mut d: Vec<f64> = try_zeroed(rows * columns)?;
    let mut sum: Vec<f64> = try_zeroed(rows * columns)?;
    let mut task: Vec<f64> = try_zeroed(rows * columns)?;
    let mut piece = Piece::default();
    for t in 0..parameter.tuned.len() {
        for row in 0..rows {
            let range = row * columns..(row + 1) * columns;
            let values = piece.read(parameter, t, range.clone())?;
            task[range].iter_mut().zip(values).for_each(|(out, value)| *out = f64::from(*value));
        }
        sum.iter_mut().zip(&task).for_each(|(sum, value)| *sum += value);
        let square: f64 = task.iter().map(|value| value * value).sum();
        if square == 0.0 {
            continue;
        }
        let whole = MatRef::from_row_major_slice(&task, rows, columns);
        let pieces = |count: usize| (0..count).step_by(ROWS).map(move |start| start..count.min(start + ROWS));
        let items = pieces(columns).zip(gram.chunks_mut(ROWS * columns).zip(c.chunks_mut(ROWS * columns))).collect();
        type Out<'o> = (&'o mut [f64], &'o mut [f64]);
        threads::share(threads, items, |(range, (gram, c)): (Range<usize>, Out<'_>), (): &mut ()| {
            let left = whole.subcols(range.start, range.len()).transpose();
            let view = MatMut::from_row_major_slice_mut(&mut *gram, range.len(), columns);
            faer::linalg::matmul::matmul(view, Accum::Replace, left, whole, 1.0 / square, Par::Seq);
            c.iter_mut().zip(gram).for_each(|(sum, value)| *sum += *value);
            Ok(())
        })?;
        let gram = MatRef::from_row_major_slice(&gram, columns, columns);
        let items = pieces(rows).zip(d.chunks_mut(ROWS * columns)).collect();
        threads::share(threads, items, |(range, d): (Range<usize>, &mut [f64]), (): &mut ()| {
            let view = MatMut::from_row_major_slice_mut(d, range.len(), columns);
            let left = whole.subrows(range.start, range.len());
            faer::linalg::matmul::matmul(view, Accum::Add, left, gram, 1.0, Par::Seq);
            Ok(())
        })?;
    }
    let rounded = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect::<Vec<f32>>();
    let c = rounded(c);
    Ok(Sums { c: Mat::from_fn(columns, columns, |i, j| c[i * columns + j]), d: rounded(d), sum: rounded(sum) })
}
