//! What the kernel reads, seen the same way whether dense or quantised.

use std::ops::Range;
use std::sync::Arc;

use super::strip::Format;
use crate::error::Result;
use crate::mmap::Mapping;
use crate::tensor::{Blocks, DType, Source, Tensor};

/// The base, or a term.
#[derive(Clone, Copy)]
pub(crate) enum Input<'a> {
    Dense(&'a Tensor),
    Blocks(&'a Blocks),
}

impl<'a> From<&'a Source> for Input<'a> {
    fn from(source: &'a Source) -> Self {
        match source {
            Source::Dense(tensor) => Self::Dense(tensor),
            Source::Blocks(blocks) => Self::Blocks(blocks),
        }
    }
}

impl<'a> Input<'a> {
    pub(super) fn shape(self) -> &'a [usize] {
        match self {
            Self::Dense(tensor) => tensor.shape(),
            Self::Blocks(blocks) => blocks.shape(),
        }
    }

    pub(crate) fn numel(self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.numel(),
            Self::Blocks(blocks) => blocks.numel(),
        }
    }

    pub(super) fn nbytes(self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.nbytes(),
            Self::Blocks(blocks) => blocks.nbytes(),
        }
    }

    pub(super) fn mapping(self) -> &'a Arc<Mapping> {
        match self {
            Self::Dense(tensor) => tensor.mapping(),
            Self::Blocks(blocks) => blocks.mapping(),
        }
    }

    /// The bytes of the mapping that hold it, where they stand side by side.
    pub(super) fn range(self) -> Option<Range<usize>> {
        let start = match self {
            Self::Dense(tensor) if !tensor.is_contiguous() => return None,
            Self::Dense(tensor) => tensor.offset(),
            Self::Blocks(blocks) => blocks.offset(),
        };
        Some(start..start + self.nbytes())
    }

    /// The bytes as a kernel can load them, and how; `None` where they must be converted first.
    pub(super) fn loadable(self) -> Option<(Format, &'a [u8])> {
        match self {
            Self::Dense(tensor) => {
                let format = match tensor.dtype() {
                    DType::F32 => Format::F32,
                    DType::F16 => Format::F16,
                    DType::BF16 => Format::BF16,
                    _ => return None,
                };
                Some((format, tensor.bytes()?))
            }
            Self::Blocks(blocks) => Some((Format::Blocks(blocks.format()), blocks.bytes())),
        }
    }

    /// As [`Source::read_f32`].
    pub(super) fn read_f32(self, start: usize, out: &mut [f32]) -> Result<()> {
        match self {
            Self::Dense(tensor) => tensor.read_f32(start, out),
            Self::Blocks(blocks) => {
                blocks.read_f32(start, out);
                Ok(())
            }
        }
    }
}
