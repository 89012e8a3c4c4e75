//! The base within a bundle: in which form, and what that rounds.

use std::cell::Cell;

use super::measure::ratio;
use super::quantise::VectorFormat;
use crate::error::Result;
use crate::tensor::{Tensor, try_zeroed};

/// Elements of the base that are converted at a time.
const CHUNK: usize = 64 << 10;

/// The form in which a bundle keeps the base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BaseFormat {
    /// f32: bit for bit.
    F32,
    /// f16: half the bytes; exact for weights that were published as f16, as OpenAI's were.
    #[default]
    F16,
    /// bf16: half the bytes, less exact than f16, of f32's range.
    BF16,
    /// Not at all: the base is given when the bundle is opened, and checked by its fingerprint.
    LeftOut,
}

impl BaseFormat {
    pub(super) fn stored(self) -> Option<VectorFormat> {
        match self {
            Self::F32 => Some(VectorFormat::F32),
            Self::F16 => Some(VectorFormat::F16),
            Self::BF16 => Some(VectorFormat::BF16),
            Self::LeftOut => None,
        }
    }
}

/// Squared error and squared norm of the base's parameters so far.
#[derive(Clone, Copy, Default)]
pub(super) struct Rounding {
    error: f64,
    norm: f64,
}

impl Rounding {
    /// The relative error.
    pub(super) fn relative(self) -> f64 {
        ratio(self.error, self.norm).sqrt()
    }
}

/// Writes the tensor's values in `format`, chunk by chunk, and adds what that changes to `rounding`.
pub(super) fn convert(
    tensor: &Tensor,
    format: VectorFormat,
    rounding: &Cell<Rounding>,
    mut write: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut values = try_zeroed::<f32>(CHUNK.min(tensor.numel()))?;
    let mut sums = rounding.get();
    for start in (0..tensor.numel()).step_by(CHUNK) {
        let length = CHUNK.min(tensor.numel() - start);
        let values = &mut values[..length];
        tensor.read_f32(start, values)?;
        let encoded = format.encode(values)?;
        for (back, value) in encoded.values.iter().zip(values) {
            sums.error += f64::from(back - *value).powi(2);
            sums.norm += f64::from(*value).powi(2);
        }
        write(&encoded.bytes)?;
    }
    rounding.set(sums);
    Ok(())
}
