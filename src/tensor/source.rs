//! One parameter of a basis vector: a tensor, or blocks of quantised values.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::block::{BLOCK, BlockFormat, MAX_SCALE, scale_of};
use super::dense::Tensor;
use super::dtype::DType;
use super::memory::{checked_numel, try_zeroed};
use super::vector_format::VectorFormat;
use crate::error::{Error, Result};
use crate::mmap::Mapping;

/// Quantised values inside a [`Mapping`], which they keep alive: a contiguous tensor of a [`BlockFormat`]. Cloning
/// copies no data.
///
/// The blocks run through the tensor in row-major order without regard to its rows; the last one is whole too.
#[derive(Clone)]
pub struct Blocks {
    mapping: Arc<Mapping>,
    format: BlockFormat,
    /// The place of the first block, in bytes from the mapping's start.
    offset: usize,
    numel: usize,
    shape: Box<[usize]>,
}

impl Blocks {
    /// The blocks that fill `bytes` of the mapping exactly.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) when shape and range disagree or the range leaves the mapping.
    pub fn new(mapping: &Arc<Mapping>, bytes: Range<usize>, format: BlockFormat, shape: &[usize]) -> Result<Self> {
        let fail = |what: &str| Error::format(what.to_owned()).at(mapping.path());
        let numel = checked_numel(shape).ok_or_else(|| fail("a tensor's shape overflows"))?;
        let length = format.bytes(numel);
        if length.is_none() || length != bytes.end.checked_sub(bytes.start) {
            return Err(fail("a tensor's shape and bytes disagree")
                .expected(format_args!(
                    "{} bytes for {format} {shape:?}",
                    length.map_or("too many".to_owned(), |n| n.to_string())
                ))
                .got(format_args!("the range {bytes:?}")));
        }
        if bytes.end > mapping.len() {
            return Err(fail("a tensor lies outside its file").got(format_args!("the range {bytes:?}")));
        }
        Ok(Self { mapping: Arc::clone(mapping), format, offset: bytes.start, numel, shape: shape.into() })
    }

    /// The format of the values.
    pub fn format(&self) -> BlockFormat {
        self.format
    }

    /// The extent of every dimension; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.numel
    }

    /// The bytes that the blocks take.
    pub fn nbytes(&self) -> usize {
        self.numel.div_ceil(BLOCK) * self.format.block_bytes()
    }

    /// The bytes that the blocks are a view of.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// The place of the first block, in bytes from the mapping's start.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The blocks' bytes, at any alignment.
    pub fn bytes(&self) -> &[u8] {
        &self.mapping[self.offset..self.offset + self.nbytes()]
    }

    /// Every block's bytes, in order.
    fn blocks(&self) -> std::slice::ChunksExact<'_, u8> {
        self.bytes().chunks_exact(self.format.block_bytes())
    }

    /// Writes the elements `start..start + out.len()` of the row-major order into `out`, by the specification
    /// ([`BlockFormat::dequantize`]).
    ///
    /// # Panics
    /// When the range leaves the tensor.
    pub fn read_f32(&self, start: usize, mut out: &mut [f32]) {
        assert!(start.checked_add(out.len()).is_some_and(|end| end <= self.numel), "range outside the tensor");
        let mut skipped = start % BLOCK;
        for block in self.blocks().skip(start / BLOCK) {
            if out.is_empty() {
                return;
            }
            let values = &self.format.dequantize(block)[skipped..];
            let (now, later) = out.split_at_mut(values.len().min(out.len()));
            now.copy_from_slice(&values[..now.len()]);
            (out, skipped) = (later, 0);
        }
    }

    /// Whether every element is zero. Stops at the first block that is not.
    pub fn is_zero(&self) -> bool {
        let mut left = self.numel;
        self.blocks().all(|block| {
            let count = left.min(BLOCK);
            left -= count;
            scale_of(block) == 0.0 || self.format.dequantize(block)[..count].iter().all(|&value| value == 0.0)
        })
    }

    /// Whether every scale is a number that gives finite values.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format), with the first that is not.
    pub fn verify_finite(&self) -> Result<()> {
        let fits = |scale: f32| scale.abs() <= MAX_SCALE;
        match self.blocks().map(scale_of).enumerate().find(|&(_, scale)| !fits(scale)) {
            None => Ok(()),
            Some((block, scale)) => Err(Error::format("the scale of a block is not finite, or too large")
                .at(self.mapping.path())
                .got(format_args!("{scale} for the elements from {} on", block * BLOCK))),
        }
    }
}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blocks({} {:?})", self.format, self.shape)
    }
}

/// The elements of a basis vector for one parameter, as its file holds them.
#[derive(Clone, Debug)]
pub enum Source {
    /// Numbers one after another, of any float type.
    Dense(Tensor),
    /// Quantised.
    Blocks(Blocks),
}

impl Source {
    /// The extent of every dimension; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Dense(tensor) => tensor.shape(),
            Self::Blocks(blocks) => blocks.shape(),
        }
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.numel(),
            Self::Blocks(blocks) => blocks.numel(),
        }
    }

    /// The bytes that the elements take.
    pub fn nbytes(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.nbytes(),
            Self::Blocks(blocks) => blocks.nbytes(),
        }
    }

    /// The type of the elements; `None` for blocks.
    pub(crate) fn dtype(&self) -> Option<DType> {
        match self {
            Self::Dense(tensor) => Some(tensor.dtype()),
            Self::Blocks(_) => None,
        }
    }

    /// The bytes of the mapping that hold it, where they stand side by side.
    pub(crate) fn range(&self) -> Option<Range<usize>> {
        let start = match self {
            Self::Dense(tensor) if !tensor.is_contiguous() => return None,
            Self::Dense(tensor) => tensor.offset(),
            Self::Blocks(blocks) => blocks.offset(),
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
        }
    }

    /// The name of the data type or block format: `f32`, `bf16`, `q4`, …
    pub fn format_name(&self) -> &'static str {
        match self {
            Self::Dense(tensor) => tensor.dtype().name(),
            Self::Blocks(blocks) => blocks.format().name(),
        }
    }

    /// The bytes that it is a view of.
    pub fn mapping(&self) -> &Arc<Mapping> {
        match self {
            Self::Dense(tensor) => tensor.mapping(),
            Self::Blocks(blocks) => blocks.mapping(),
        }
    }

    /// Writes the elements `start..start + out.len()` of the row-major order into `out` as f32.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when they are no floats.
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
        }
    }

    /// The same elements in this process's memory ([`Tensor::in_memory`]).
    ///
    /// # Errors
    /// As [`Mapping::read_at`].
    pub fn in_memory(&self) -> Result<Self> {
        match self {
            Self::Dense(tensor) => tensor.in_memory().map(Self::Dense),
            Self::Blocks(blocks) if !blocks.mapping.is_mapped() => Ok(self.clone()),
            Self::Blocks(blocks) => {
                let bytes = blocks.mapping.read_at(blocks.offset..blocks.offset + blocks.nbytes())?.into_owned();
                let mapping = Arc::new(Mapping::from_vec(bytes, blocks.mapping.path()));
                Ok(Self::Blocks(Blocks { mapping, offset: 0, ..blocks.clone() }))
            }
        }
    }

    /// Whether every element is zero (−0.0 counts as zero). Stops at the first that is not.
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Dense(tensor) => tensor.is_zero(),
            Self::Blocks(blocks) => blocks.is_zero(),
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
