//! One parameter of a basis vector: a tensor, blocks of quantised values, or a matrix of low rank.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::blocks::Blocks;
use super::dense::Tensor;
use super::dtype::DType;
use super::low_rank::LowRank;
use super::memory::try_zeroed;
use super::vector_format::VectorFormat;
use crate::error::Result;
use crate::mmap::Mapping;

/// The elements of a basis vector for one parameter, as its file holds them.
#[derive(Clone, Debug)]
pub enum Source {
    /// Numbers one after another, of any float type.
    Dense(Tensor),
    /// Quantised.
    Blocks(Blocks),
    /// A product of two factors.
    LowRank(LowRank),
}

impl Source {
    /// The extent of every dimension; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Dense(tensor) => tensor.shape(),
            Self::Blocks(blocks) => blocks.shape(),
            Self::LowRank(matrix) => matrix.shape(),
        }
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.numel(),
            Self::Blocks(blocks) => blocks.numel(),
            Self::LowRank(matrix) => matrix.numel(),
        }
    }

    /// The bytes that the elements take.
    pub fn nbytes(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.nbytes(),
            Self::Blocks(blocks) => blocks.nbytes(),
            Self::LowRank(matrix) => matrix.nbytes(),
        }
    }

    /// The type of the elements; `None` for blocks and factors.
    pub(crate) fn dtype(&self) -> Option<DType> {
        match self {
            Self::Dense(tensor) => Some(tensor.dtype()),
            Self::Blocks(_) | Self::LowRank(_) => None,
        }
    }

    /// The bytes of the mapping that hold it, where they stand side by side.
    pub(crate) fn range(&self) -> Option<Range<usize>> {
        let start = match self {
            Self::Dense(tensor) if !tensor.is_contiguous() => return None,
            Self::Dense(tensor) => tensor.offset(),
            Self::Blocks(blocks) => blocks.offset(),
            Self::LowRank(matrix) => return Some(matrix.range()),
        };
        Some(start..start + self.nbytes())
    }

    /// The bytes as a kernel can load them, and how; `None` where they must be converted first.
    pub(crate) fn loadable(&self) -> Option<(VectorFormat, &[u8])> {
        match self {
            Self::Dense(tensor) => {
                let format = match tensor.dtype() {
                    DType::F32 => VectorFormat::F32,
                    DType::F16 => VectorFormat::F16,
                    DType::BF16 => VectorFormat::BF16,
                    _ => return None,
                };
                Some((format, tensor.bytes()?))
            }
            Self::Blocks(blocks) => Some((VectorFormat::Blocks(blocks.format()), blocks.bytes())),
            Self::LowRank(_) => None,
        }
    }

    /// The name of the data type or block format: `f32`, `bf16`, `q4`, …; `low rank` for a product of factors.
    pub fn format_name(&self) -> &'static str {
        match self {
            Self::Dense(tensor) => tensor.dtype().name(),
            Self::Blocks(blocks) => blocks.format().name(),
            Self::LowRank(_) => "low rank",
        }
    }

    /// The bytes that it is a view of.
    pub fn mapping(&self) -> &Arc<Mapping> {
        match self {
            Self::Dense(tensor) => tensor.mapping(),
            Self::Blocks(blocks) => blocks.mapping(),
            Self::LowRank(matrix) => matrix.mapping(),
        }
    }

    /// Writes the elements `start..start + out.len()` of the row-major order into `out` as f32.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when they are no floats;
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) of a matrix of low rank.
    ///
    /// # Panics
    /// When the range leaves the tensor.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) -> Result<()> {
        match self {
            Self::Dense(tensor) => tensor.read_f32(start, out),
            Self::Blocks(blocks) => {
                blocks.read_f32(start, out);
                Ok(())
            }
            Self::LowRank(matrix) => matrix.read_f32(start, out),
        }
    }

    /// All elements as f32 in row-major order; borrowed where they are that already, else converted.
    ///
    /// # Errors
    /// As [`Source::read_f32`], and when memory is refused.
    pub fn to_f32(&self) -> Result<Cow<'_, [f32]>> {
        match self {
            Self::Dense(tensor) => tensor.to_f32(),
            Self::Blocks(blocks) => {
                let mut values = try_zeroed(blocks.numel())?;
                blocks.read_f32(0, &mut values);
                Ok(Cow::Owned(values))
            }
            Self::LowRank(matrix) => {
                let mut values = try_zeroed(matrix.numel())?;
                matrix.read_f32(0, &mut values)?;
                Ok(Cow::Owned(values))
            }
        }
    }

    /// The same elements in this process's memory ([`Tensor::in_memory`]).
    ///
    /// # Errors
    /// As [`Mapping::read_at`].
    pub fn in_memory(&self) -> Result<Self> {
        match self {
            Self::Dense(tensor) => tensor.in_memory().map(Self::Dense),
            Self::Blocks(blocks) => blocks.in_memory().map(Self::Blocks),
            Self::LowRank(matrix) => matrix.in_memory().map(Self::LowRank),
        }
    }

    /// Whether every element is zero (−0.0 counts as zero). Stops at the first that is not; of a matrix of low rank,
    /// whether a factor is zero.
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Dense(tensor) => tensor.is_zero(),
            Self::Blocks(blocks) => blocks.is_zero(),
            Self::LowRank(matrix) => matrix.is_zero(),
        }
    }

    /// Whether every element is finite.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format), with the first that is not.
    pub fn verify_finite(&self) -> Result<()> {
        match self {
            Self::Dense(tensor) => tensor.verify_finite(),
            Self::Blocks(blocks) => blocks.verify_finite(),
            Self::LowRank(matrix) => matrix.verify_finite(),
        }
    }
}

impl From<Tensor> for Source {
    fn from(tensor: Tensor) -> Self {
        Self::Dense(tensor)
    }
}

impl From<Blocks> for Source {
    fn from(blocks: Blocks) -> Self {
        Self::Blocks(blocks)
    }
}

impl From<LowRank> for Source {
    fn from(matrix: LowRank) -> Self {
        Self::LowRank(matrix)
    }
}
