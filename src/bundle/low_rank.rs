//! Matrices of low rank: the directions in which one is largest, and their factors as they are stored.
//!
//! By Eckart, Young and Mirsky, the best approximation of a rank is the sum of the first products of singular vectors.
//! Each direction's singular value is shared by its two factors, so that both have values of one size.

use std::sync::Arc;

use super::quantise::Encoded;
use crate::error::Result;
use crate::mmap::Mapping;
use crate::tensor::{LowRank, LowRankFormat, Rounding, matrix_of, try_zeroed};

/// The directions of a matrix, the largest first.
pub(super) struct Directions {
    shape: Vec<usize>,
    rows: usize,
    columns: usize,
    /// [found, rows], where some are found: as many as were asked for, or as there are.
    left: Vec<f32>,
    /// [found, columns].
    right: Vec<f32>,
}

impl Directions {
    /// The first `most` directions of a tensor of this shape, as the matrix of its first dimension and all others. On
    /// the caller's thread; the bits do not depend on others.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) without the feature `build`.
    #[cfg(feature = "build")]
    pub(super) fn of(values: &[f32], shape: &[usize], most: usize) -> Result<Self> {
        use faer::{Mat, MatRef};

        use crate::linalg;

        let (rows, columns) = Self::matrix(shape)?;
        let mut wide = try_zeroed::<f64>(values.len())?;
        wide.iter_mut().zip(values).for_each(|(wide, &value)| *wide = value.into());
        let matrix = MatRef::from_row_major_slice(&wide, rows, columns);
        // The longer side first: the Gram matrix is that of the shorter one.
        let long = if rows < columns { matrix.transpose() } else { matrix };
        let short = rows.min(columns);
        let mut gram = Mat::zeros(short, short);
        linalg::add_gram(&mut gram, long);
        let (squares, vectors) = linalg::eigen(&gram)?;
        let found = squares.len().min(most);
        let roots: Vec<f64> = squares[..found].iter().map(|square| square.powf(0.25)).collect();
        let of_short = |i: usize, k: usize| vectors[(i, k)] * roots[k];
        let product = linalg::product(long, &Mat::from_fn(short, found, |i, k| vectors[(i, k)] / roots[k]))?;
        let of_long = |i: usize, k: usize| product[i * found + k];
        let factor = |length: usize, value: &dyn Fn(usize, usize) -> f64| -> Result<Vec<f32>> {
            let mut factor = try_zeroed::<f32>(found * length)?;
            for (k, row) in factor.chunks_exact_mut(length).enumerate() {
                row.iter_mut().enumerate().for_each(|(i, to)| *to = value(i, k) as f32);
            }
            Ok(factor)
        };
        let (left, right) = match rows < columns {
            true => (factor(rows, &of_short)?, factor(columns, &of_long)?),
            false => (factor(rows, &of_long)?, factor(columns, &of_short)?),
        };
        Ok(Self { shape: shape.to_vec(), rows, columns, left, right })
    }

    /// Refused: the feature `build` has the algebra of matrices.
    #[cfg(not(feature = "build"))]
    pub(super) fn of(_values: &[f32], shape: &[usize], _most: usize) -> Result<Self> {
        Self::matrix(shape)?;
        Err(crate::Error::unsupported(
            "matrices of low rank are found by the feature `build`, which this program lacks",
        ))
    }

    fn matrix(shape: &[usize]) -> Result<(usize, usize)> {
        matrix_of(shape).ok_or_else(|| {
            crate::Error::invalid("only what has two dimensions and more has a rank").got(format_args!("{shape:?}"))
        })
    }

    /// The matrix of the first directions, as it is stored. Directions that are not there are zero.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for values that are too large.
    pub(super) fn matrix_of(&self, format: LowRankFormat) -> Result<LowRank> {
        let mut bytes = Vec::new();
        for (factor, length) in [(&self.left, self.rows), (&self.right, self.columns)] {
            let mut kept = try_zeroed::<f32>(format.rank() * length)?;
            kept.iter_mut().zip(factor).for_each(|(kept, value)| *kept = *value);
            bytes.extend(format.factors().quantize(&kept, Rounding::default())?);
        }
        let length = bytes.len();
        let mapping = Arc::new(Mapping::from_vec(bytes, "a matrix in memory"));
        let matrix = LowRank::new(&mapping, 0..length, format, &self.shape)?;
        matrix.verify_finite()?;
        Ok(matrix)
    }

    /// The bytes of the same, and the values that are read back.
    pub(super) fn encode(&self, format: LowRankFormat) -> Result<Encoded> {
        let matrix = self.matrix_of(format)?;
        let mut values = try_zeroed(matrix.numel())?;
        matrix.read_f32(0, &mut values)?;
        Ok(Encoded { bytes: matrix.mapping()[matrix.range()].to_vec(), values })
    }
}

#[cfg(all(test, feature = "build"))]
mod tests {
    use super::*;
    use crate::tensor::BlockFormat;

    /// A matrix of rank `rank`, of numbers that look random.
    fn matrix(rows: usize, columns: usize, rank: usize) -> Vec<f32> {
        let number = |seed: usize| (seed.wrapping_mul(2_654_435_761) % 1009) as f64 / 504.5 - 1.0;
        let value = |i: usize, j: usize| -> f64 {
            (0..rank).map(|k| number(31 * i + 7 * k + 1) * number(17 * j + 13 * k + 5) / (1.0 + k as f64)).sum()
        };
        (0..rows * columns).map(|at| value(at / columns, at % columns) as f32).collect()
    }

    fn error(values: &[f32], back: &[f32]) -> f64 {
        let sum = |f: &dyn Fn(usize) -> f64| (0..values.len()).map(f).sum::<f64>();
        let lost = sum(&|i| f64::from(values[i] - back[i]).powi(2));
        (lost / sum(&|i| f64::from(values[i]).powi(2))).sqrt()
    }

    #[test]
    fn a_matrix_of_that_rank_is_itself() {
        for (shape, rank) in [(vec![40, 90], 3), (vec![90, 40], 3), (vec![20, 3, 5, 5], 2)] {
            let columns: usize = shape[1..].iter().product();
            let values = matrix(shape[0], columns, rank);
            let directions = Directions::of(&values, &shape, 8).unwrap();
            let at = |rank, factors| {
                let format = LowRankFormat::new(rank, factors).unwrap();
                error(&values, &directions.encode(format).unwrap().values)
            };
            assert!(at(rank, BlockFormat::Q8) < 0.012, "{shape:?}: {}", at(rank, BlockFormat::Q8));
            assert!(at(rank, BlockFormat::Q4) < 0.15);
            assert!(at(rank - 1, BlockFormat::Q8) > 0.05, "a direction less loses it");
            assert!(at(8, BlockFormat::Q8) < 0.012, "what is not there is zero");
        }
    }

    #[test]
    fn nothing_has_no_directions() {
        let format = LowRankFormat::new(4, BlockFormat::Q4).unwrap();
        let encoded = Directions::of(&[0.0; 600], &[20, 30], 4).unwrap().encode(format).unwrap();
        assert!(encoded.values.iter().all(|&value| value == 0.0));
        assert_eq!(encoded.bytes.len(), format.bytes(20, 30).unwrap());
        assert!(Directions::of(&[0.0; 20], &[20], 4).is_err());
    }
}
