//! Matrices of low rank: a product of two factors, each in blocks.
//!
//! What fine-tuning changes in a matrix is mostly of low rank: of a DINOv2 ViT-S/14, fine-tuned, 32 of 384 directions
//! in q4 take 0.53 bits per value and lose 48 % of the vector's length; two bits per value lose 30 %, one bit 53 %
//! (docs/bundle-format.md).
//!
//! ```text
//! value[i, j] = Σ_k left[k, i]·right[k, j]      k ascending from a sum of +0.0, fused, rounded once each
//! ```

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use super::block::BlockFormat;
use super::blocks::Blocks;
use super::memory::{checked_numel, try_zeroed};
use crate::error::{Error, Result};
use crate::mmap::Mapping;

/// The number of directions that are kept of a matrix, and the format of its two factors. Text has it as `r16`, whose
/// factors are in q4, or `r16q6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LowRankFormat {
    rank: u16,
    factors: BlockFormat,
}

impl LowRankFormat {
    /// The largest rank.
    pub const MAX_RANK: usize = 4096;

    /// `rank` directions, their factors in blocks of this format.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a rank of 0 or above
    /// [`LowRankFormat::MAX_RANK`].
    pub fn new(rank: usize, factors: BlockFormat) -> Result<Self> {
        match u16::try_from(rank) {
            Ok(small) if (1..=Self::MAX_RANK).contains(&rank) => Ok(Self { rank: small, factors }),
            _ => Err(Error::invalid("not a rank").expected(format_args!("1 to {}", Self::MAX_RANK)).got(rank)),
        }
    }

    /// The number of directions.
    pub fn rank(self) -> usize {
        self.rank.into()
    }

    /// The format of both factors.
    pub fn factors(self) -> BlockFormat {
        self.factors
    }

    /// Bytes of a matrix of so many rows and columns; `None` where that overflows.
    pub fn bytes(self, rows: usize, columns: usize) -> Option<usize> {
        self.factor_bytes(rows)?.checked_add(self.factor_bytes(columns)?)
    }

    /// Bytes of the factor of so many rows, or of so many columns.
    fn factor_bytes(self, length: usize) -> Option<usize> {
        self.factors.bytes(self.rank().checked_mul(length)?)
    }
}

impl fmt::Display for LowRankFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.factors {
            BlockFormat::Q4 => write!(f, "r{}", self.rank),
            factors => write!(f, "r{}{factors}", self.rank),
        }
    }
}

impl FromStr for LowRankFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = || {
            let rest = text.strip_prefix('r')?;
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (rank, factors) = rest.split_at(end);
            let factors = if factors.is_empty() { BlockFormat::Q4 } else { factors.parse().ok()? };
            Self::new(rank.parse().ok()?, factors).ok()
        };
        parsed().ok_or_else(|| {
            Error::invalid(format!("unknown format `{text}`"))
                .expected("a rank as in r16, or with a format as in r16q6")
        })
    }
}

/// The rows and columns of a tensor that is seen as a matrix: the first dimension, and all others; `None` for what has
/// fewer than two, or no elements.
pub(crate) fn matrix_of(shape: &[usize]) -> Option<(usize, usize)> {
    let (&rows, others) = shape.split_first().filter(|(_, others)| !others.is_empty())?;
    let columns = checked_numel(others)?;
    (rows > 0 && columns > 0).then_some((rows, columns))
}

/// A matrix of low rank inside a [`Mapping`], which it keeps alive. Cloning copies no data.
///
/// In memory lie the blocks of `left`, row-major [rank, rows], and behind them those of `right`, [rank, columns]. A
/// tensor of more dimensions is the matrix of its first one and all others.
#[derive(Clone)]
pub struct LowRank {
    format: LowRankFormat,
    left: Blocks,
    right: Blocks,
    shape: Box<[usize]>,
}

impl LowRank {
    /// Scales of a larger magnitude are refused when files are verified: 2⁴⁰. Whatever the codes and the rank, values
    /// are finite then.
    pub const MAX_SCALE: f32 = f32::from_bits((40 + 127) << 23);

    /// The factors that fill `bytes` of the mapping exactly.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) when shape and range disagree, the range leaves the mapping, or
    /// the shape has fewer than two dimensions.
    pub fn new(mapping: &Arc<Mapping>, bytes: Range<usize>, format: LowRankFormat, shape: &[usize]) -> Result<Self> {
        let fail = |what: &str| Error::format(what.to_owned()).at(mapping.path());
        let (rows, columns) =
            matrix_of(shape).ok_or_else(|| fail("not the shape of a matrix").got(format_args!("{shape:?}")))?;
        let middle = format.factor_bytes(rows).and_then(|length| bytes.start.checked_add(length));
        let middle = middle.filter(|&middle| middle <= bytes.end).ok_or_else(|| {
            fail("a tensor's shape and bytes disagree").got(format_args!("{format} {shape:?} in the range {bytes:?}"))
        })?;
        let rank = format.rank();
        Ok(Self {
            format,
            left: Blocks::new(mapping, bytes.start..middle, format.factors, &[rank, rows])?,
            right: Blocks::new(mapping, middle..bytes.end, format.factors, &[rank, columns])?,
            shape: shape.into(),
        })
    }

    /// The rank and the format of the factors.
    pub fn format(&self) -> LowRankFormat {
        self.format
    }

    /// The extent of every dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.rows() * self.columns()
    }

    /// The bytes that both factors take.
    pub fn nbytes(&self) -> usize {
        self.left.nbytes() + self.right.nbytes()
    }

    /// The left factor, [rank, rows].
    pub fn left(&self) -> &Blocks {
        &self.left
    }

    /// The right factor, [rank, columns].
    pub fn right(&self) -> &Blocks {
        &self.right
    }

    /// The extent of the first dimension.
    pub(crate) fn rows(&self) -> usize {
        self.left.shape()[1]
    }

    /// The elements of a row.
    pub(crate) fn columns(&self) -> usize {
        self.right.shape()[1]
    }

    /// The bytes that the factors are a view of.
    pub fn mapping(&self) -> &Arc<Mapping> {
        self.left.mapping()
    }

    /// The bytes of the mapping that hold both.
    pub(crate) fn range(&self) -> Range<usize> {
        self.left.offset()..self.right.offset() + self.right.nbytes()
    }

    /// Writes the elements `start..start + out.len()` of the row-major order into `out`: the specification of what
    /// every kernel computes.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory): the factors' values are needed meanwhile.
    ///
    /// # Panics
    /// When the range leaves the tensor.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) -> Result<()> {
        assert!(start.checked_add(out.len()).is_some_and(|end| end <= self.numel()), "range outside the tensor");
        if out.is_empty() {
            return Ok(());
        }
        let (rank, columns) = (self.format.rank(), self.columns());
        let (first, last) = (start / columns, (start + out.len() - 1) / columns);
        let mut right = try_zeroed(rank * columns)?;
        self.right.read_f32(0, &mut right);
        let mut left = try_zeroed(rank * (last - first + 1))?;
        for (k, values) in left.chunks_exact_mut(last - first + 1).enumerate() {
            self.left.read_f32(k * self.rows() + first, values);
        }
        let product = Product { left: &left, right: &right, columns, first, start };
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the instructions were just found.
            unsafe { product.write_fused(out) };
            return Ok(());
        }
        product.write(out);
        Ok(())
    }

    /// The same factors in this process's memory.
    ///
    /// # Errors
    /// As [`Mapping::read_at`].
    pub(crate) fn in_memory(&self) -> Result<Self> {
        if !self.mapping().is_mapped() {
            return Ok(self.clone());
        }
        let bytes = self.mapping().read_at(self.range())?.into_owned();
        let mapping = Arc::new(Mapping::from_vec(bytes, self.mapping().path()));
        Self::new(&mapping, 0..self.nbytes(), self.format, &self.shape)
    }

    /// Whether a factor is zero, and every element with it. It may be that others cancel out; that is not looked for.
    pub(crate) fn is_zero(&self) -> bool {
        self.left.is_zero() || self.right.is_zero()
    }

    /// Whether every scale is a number that gives finite values.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format), with the first that is not.
    pub fn verify_finite(&self) -> Result<()> {
        [&self.left, &self.right].into_iter().try_for_each(|factor| factor.verify_scales(Self::MAX_SCALE))
    }
}

impl fmt::Debug for LowRank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LowRank({} {:?})", self.format, self.shape)
    }
}

/// Some rows of a product.
struct Product<'a> {
    /// [rank, rows of the range], from the row `first` on.
    left: &'a [f32],
    /// [rank, columns].
    right: &'a [f32],
    columns: usize,
    first: usize,
    /// The first element that is wanted.
    start: usize,
}

impl Product<'_> {
    /// Compiled for a machine on which fusing is one instruction and no call.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn write_fused(&self, out: &mut [f32]) {
        self.write(out);
    }

    #[inline(always)]
    fn write(&self, mut out: &mut [f32]) {
        let Self { left, right, columns, first, start } = *self;
        let rows = left.len() / (right.len() / columns);
        let (mut row, mut column) = (start / columns, start % columns);
        while !out.is_empty() {
            let (now, later) = out.split_at_mut((columns - column).min(out.len()));
            now.fill(0.0);
            for (k, right) in right.chunks_exact(columns).enumerate() {
                let a = left[k * rows + row - first];
                for (sum, value) in now.iter_mut().zip(&right[column..]) {
                    *sum = f32::mul_add(a, *value, *sum);
                }
            }
            (out, row, column) = (later, row + 1, 0);
        }
    }
}
