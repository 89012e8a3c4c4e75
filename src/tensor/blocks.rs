//! A tensor of quantised values.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::block::{BLOCK, BlockFormat, MAX_SCALE, scale_of};
use super::memory::checked_numel;
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

    /// The same blocks in this process's memory.
    ///
    /// # Errors
    /// As [`Mapping::read_at`].
    pub(super) fn in_memory(&self) -> Result<Self> {
        if !self.mapping.is_mapped() {
            return Ok(self.clone());
        }
        let bytes = self.mapping.read_at(self.offset..self.offset + self.nbytes())?.into_owned();
        let mapping = Arc::new(Mapping::from_vec(bytes, self.mapping.path()));
        Ok(Self { mapping, offset: 0, ..self.clone() })
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
        self.verify_scales(MAX_SCALE)
    }

    /// Whether no scale is larger than `most`, or no number.
    pub(super) fn verify_scales(&self, most: f32) -> Result<()> {
        let fits = |scale: f32| scale.abs() <= most;
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
