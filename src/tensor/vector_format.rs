//! What kernels load as it is: floats and blocks.

use std::fmt;
use std::str::FromStr;

use super::block::{BLOCK, BlockFormat};
use crate::error::{Error, Result};

/// How the values of a basis vector, or of a base, are stored where a kernel loads them as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names say it all.
pub enum VectorFormat {
    F32,
    F16,
    BF16,
    /// In blocks of 64 values with a scale.
    Blocks(BlockFormat),
}

impl VectorFormat {
    /// Every format, the largest first.
    pub const ALL: [Self; 8] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Blocks(BlockFormat::Q8),
        Self::Blocks(BlockFormat::Q6),
        Self::Blocks(BlockFormat::Q4),
        Self::Blocks(BlockFormat::Q3),
        Self::Blocks(BlockFormat::Q2),
    ];

    /// `f32`, `f16`, `bf16`, `q8`, ….
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Blocks(format) => format.name(),
        }
    }

    /// About ‖s − ŝ‖ / ‖s‖ of a vector that is stored so: what real families lose (docs/bundle-format.md).
    pub fn usual_loss(self) -> f64 {
        match self {
            Self::F32 => 0.0,
            Self::F16 | Self::BF16 => 0.002,
            Self::Blocks(BlockFormat::Q8) => 0.0055,
            Self::Blocks(BlockFormat::Q6) => 0.022,
            Self::Blocks(BlockFormat::Q4) => 0.087,
            Self::Blocks(BlockFormat::Q3) => 0.17,
            Self::Blocks(BlockFormat::Q2) => 0.33,
        }
    }

    /// Bytes of `count` values; a last block that they do not fill counts whole.
    pub(crate) const fn bytes(self, count: usize) -> usize {
        match self {
            Self::F32 => 4 * count,
            Self::F16 | Self::BF16 => 2 * count,
            Self::Blocks(format) => count.div_ceil(BLOCK) * format.block_bytes(),
        }
    }
}

impl From<BlockFormat> for VectorFormat {
    fn from(format: BlockFormat) -> Self {
        Self::Blocks(format)
    }
}

impl fmt::Display for VectorFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for VectorFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|format| format.name()).collect();
            Error::invalid(format!("unknown format `{name}`")).expected(format_args!("one of {}", known.join(", ")))
        })
    }
}
