//! Block formats: blocks of 64 values, each a scale and 64 codes of 2 to 8 bits.
//!
//! # The layout
//! A block begins with its scale `d`, a bf16 (two bytes, little-endian). The codes `u_0 … u_63` follow, unsigned
//! integers cut into *planes* of 8, 4, 2 or 1 bits, the lowest bits first. A plane of P bits takes 8·P bytes: bits
//! `P·k … P·k + P − 1` of its byte `j` belong to code `8·P·k + j`. So a vector register of neighbouring bytes holds
//! neighbouring codes, whatever its width.
//!
//! ```text
//! value_i = d · (u_i − offset)        exact in f32: d has 8 significant bits, the difference at most 8
//! ```
//!
//! | format | bytes per block | bits per value | planes | offset | levels            |
//! | ------ | --------------- | -------------- | ------ | ------ | ----------------- |
//! | q8     | 66              | 8.25           | 8      | 128    | −128 … 127        |
//! | q6     | 50              | 6.25           | 4, 2   | 32     | −32 … 31          |
//! | q4     | 34              | 4.25           | 4      | 8      | −8 … 7            |
//! | q3     | 26              | 3.25           | 2, 1   | 4      | −4 … 3            |
//! | q2     | 18              | 2.25           | 2      | 1.5    | −1.5 −0.5 0.5 1.5 |
//!
//! # Why so
//! Measured as the relative error of the basis vectors of a small real family (`cargo bench --bench blocks` prints that
//! of the formats, `docs/bundle-format.md` has that of what was not taken too). A bit more per value halves the error,
//! which is the rate everything else is held against.
//! - *64 values*: blocks of 32 take 0.25 bits more and lower the error by 8 to 11 %, where bits would by 16 %; blocks
//!   of 128 save 0.125 bits, worth 9 %, for errors 3 % (q2) to 12 % (q8) higher.
//! - *Signed scales*: the levels reach one step further down than up, and the sign of the scale says to which side
//!   that is. It made q3 and q4 3 to 4 % better than levels that lie symmetrically, ±0.5, ±1.5, …; with two bits the
//!   symmetric ones are 5 % better, because a level for zero would leave three for the rest.
//! - *No minimum per block*: with one, two bits have 5 % less error for 0.25 bits.
//! - *bf16 scales*: an f16's smallest normal number is 6·10⁻⁵, and a q8 block of values up to 10⁻⁴ has a scale of 10⁻⁶:
//!   f16 would round it by per cents. A bf16 has every f32's range and rounds by 0.4 % at most, which nothing could
//!   measure.

use std::fmt;
use std::str::FromStr;

use half::bf16;

use super::memory::try_zeroed;
use crate::error::{Error, Result};

/// Values per block.
pub const BLOCK: usize = 64;

/// Scales of a larger magnitude, and values, are refused: 2¹²⁰. 128 times it still is a finite f32.
pub const MAX_SCALE: f32 = f32::from_bits((120 + 127) << 23);

/// Bytes of a scale.
pub(crate) const SCALE_BYTES: usize = 2;

/// The format of a block's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BlockFormat {
    /// Eight bits per value, 66 bytes per block.
    Q8,
    /// Six bits per value, 50 bytes per block.
    Q6,
    /// Four bits per value, 34 bytes per block.
    Q4,
    /// Three bits per value, 26 bytes per block.
    Q3,
    /// Two bits per value, 18 bytes per block.
    Q2,
}

impl BlockFormat {
    /// Every format, the largest first.
    pub const ALL: [Self; 5] = [Self::Q8, Self::Q6, Self::Q4, Self::Q3, Self::Q2];

    /// `q8`, `q6`, `q4`, `q3` or `q2`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q8 => "q8",
            Self::Q6 => "q6",
            Self::Q4 => "q4",
            Self::Q3 => "q3",
            Self::Q2 => "q2",
        }
    }

    /// Bits per code.
    pub const fn bits(self) -> usize {
        match self {
            Self::Q8 => 8,
            Self::Q6 => 6,
            Self::Q4 => 4,
            Self::Q3 => 3,
            Self::Q2 => 2,
        }
    }

    /// Bytes of one block: the scale and the codes.
    pub const fn block_bytes(self) -> usize {
        SCALE_BYTES + BLOCK / 8 * self.bits()
    }

    /// Bytes of `numel` values, whose last block is a whole one too; `None` where that overflows.
    pub const fn bytes(self, numel: usize) -> Option<usize> {
        numel.div_ceil(BLOCK).checked_mul(self.block_bytes())
    }

    /// The number that is subtracted from a code before it is multiplied by the scale.
    pub(crate) const fn offset(self) -> f32 {
        match self {
            Self::Q8 => 128.0,
            Self::Q6 => 32.0,
            Self::Q4 => 8.0,
            Self::Q3 => 4.0,
            Self::Q2 => 1.5,
        }
    }

    /// The planes' bits, the lowest first; 0 means no plane.
    pub(crate) const fn planes(self) -> [usize; 2] {
        match self {
            Self::Q8 => [8, 0],
            Self::Q6 => [4, 2],
            Self::Q4 => [4, 0],
            Self::Q3 => [2, 1],
            Self::Q2 => [2, 0],
        }
    }

    /// The values of one block: the specification of what every kernel computes.
    ///
    /// `d·u − d·offset` in one rounding is `d·(u − offset)` exactly, and +0.0 where that is zero.
    ///
    /// # Panics
    /// When `block` is not [`BlockFormat::block_bytes`] long.
    pub fn dequantize(self, block: &[u8]) -> [f32; BLOCK] {
        assert_eq!(block.len(), self.block_bytes(), "bytes of a block");
        let scale = scale_of(block);
        let mut codes = [0u8; BLOCK];
        let (mut planes, mut shift) = (&block[SCALE_BYTES..], 0);
        for bits in self.planes().into_iter().filter(|&bits| bits > 0) {
            let (plane, rest) = planes.split_at(8 * bits);
            for (i, code) in codes.iter_mut().enumerate() {
                let (k, j) = (i / plane.len(), i % plane.len());
                *code |= (plane[j] >> (bits * k) & (0xff >> (8 - bits))) << shift;
            }
            (planes, shift) = (rest, shift + bits);
        }
        codes.map(|code| f32::mul_add(scale, code.into(), scale * -self.offset()))
    }

    /// The blocks of `values`. A last block that they do not fill has codes of zero behind them.
    ///
    /// The bytes depend on the values alone, not on the machine. To do it chunk by chunk, cut at multiples of
    /// [`BLOCK`]. A scale below f32's normal numbers becomes zero.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a value that is not finite or larger than
    /// [`MAX_SCALE`]; [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub fn quantize(self, values: &[f32], rounding: Rounding) -> Result<Vec<u8>> {
        if let Some(i) = values.iter().position(|v| v.is_nan() || v.abs() > MAX_SCALE) {
            return Err(Error::invalid("a value cannot be quantised")
                .expected(format_args!("a finite number of at most {MAX_SCALE:e}"))
                .got(format_args!("{} at element {i}", values[i])));
        }
        let length = self.bytes(values.len()).ok_or_else(|| Error::out_of_memory(usize::MAX))?;
        let mut bytes = try_zeroed(length)?;
        for (values, block) in values.chunks(BLOCK).zip(bytes.chunks_exact_mut(self.block_bytes())) {
            self.pack(values, self.scale_for(values, rounding), block);
        }
        Ok(bytes)
    }

    /// Writes the scale and the nearest codes into a block of zeros.
    fn pack(self, values: &[f32], scale: f32, block: &mut [u8]) {
        let (head, mut planes) = block.split_at_mut(SCALE_BYTES);
        head.copy_from_slice(&bf16::from_f32(scale).to_le_bytes());
        let mut codes = [0u8; BLOCK];
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        for (code, &value) in codes.iter_mut().zip(values) {
            *code = self.code(value, inverse) as u8;
        }
        let mut shift = 0;
        for bits in self.planes().into_iter().filter(|&bits| bits > 0) {
            let (plane, rest) = planes.split_at_mut(8 * bits);
            for (i, code) in codes.iter().enumerate() {
                let (k, j) = (i / plane.len(), i % plane.len());
                plane[j] |= (code >> shift & (0xff >> (8 - bits))) << (bits * k);
            }
            (planes, shift) = (rest, shift + bits);
        }
    }

    /// The nearest code, as a float.
    #[inline(always)]
    fn code(self, value: f32, inverse: f32) -> f32 {
        /// Added and taken away again, it rounds what is small to a whole number, on every machine alike and in
        /// registers of any width.
        const ROUND: f32 = (3 << 22) as f32;

        let top = ((1 << self.bits()) - 1) as f32;
        let code = value * inverse + self.offset();
        // Not `clamp`, which does more for NaNs than a vector instruction.
        let code = if code > 0.0 { code } else { 0.0 };
        let code = if code < top { code } else { top };
        code + ROUND - ROUND
    }

    fn scale_for(self, values: &[f32], rounding: Rounding) -> f32 {
        let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let symmetric = match self {
            Self::Q2 => largest / 1.5,
            _ => largest / (self.offset() - 1.0),
        };
        let plain = to_scale(symmetric);
        if rounding == Rounding::Nearest || plain == 0.0 {
            return plain;
        }
        // Errors relative to one scale: the squares of small values would vanish.
        let squared_error = |fit: (f32, f32), scale: f32| fit.0 * (scale / plain) * (scale / plain);
        let mut best = (self.fit(values, plain).0, plain);
        let mut attempt = |scale: f32| {
            let scale = to_scale(scale);
            if scale == 0.0 {
                return 0.0;
            }
            let fit = self.fit(values, scale);
            if squared_error(fit, scale) < best.0 {
                best = (squared_error(fit, scale), scale);
            }
            fit.1
        };
        // From a grid of starts, each improved once. The steps are as fine as was still worth anything, and what clips
        // more than this never won. Even q8 gains: of a few scales that are nearly the same, one happens to suit the
        // values best.
        let (steps, highest, lowest) = match self {
            Self::Q8 => (8, 1.03, 0.985),
            Self::Q6 => (8, 1.0, 0.85),
            Self::Q4 => (10, 1.0, 0.6),
            Self::Q3 => (10, 0.95, 0.45),
            Self::Q2 => (12, 0.8, 0.25),
        };
        for step in 0..=steps {
            let part = highest - (highest - lowest) * step as f32 / steps as f32;
            for start in [symmetric * part, -symmetric * part] {
                // The levels of q2 are the same for both signs.
                if start > 0.0 || self != Self::Q2 {
                    let better = attempt(start);
                    attempt(better);
                }
            }
        }
        best.1
    }

    /// The squared error that a scale makes, in units of that scale, and the scale that would be best for the same
    /// codes (Σxq / Σq²).
    fn fit(self, values: &[f32], scale: f32) -> (f32, f32) {
        /// Sums kept apart, so that they fill registers.
        const LANES: usize = 8;

        let inverse = 1.0 / scale;
        let offset = self.offset();
        let (mut errors, mut products, mut squares) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
        let (chunks, rest) = values.as_chunks::<LANES>();
        for chunk in chunks {
            let levels = chunk.map(|value| self.code(value, inverse) - offset);
            let scaled = chunk.map(|value| value * inverse);
            for lane in 0..LANES {
                let error = scaled[lane] - levels[lane];
                errors[lane] += error * error;
                products[lane] += scaled[lane] * levels[lane];
                squares[lane] += levels[lane] * levels[lane];
            }
        }
        for (lane, value) in rest.iter().enumerate() {
            let level = self.code(*value, inverse) - offset;
            let scaled = value * inverse;
            errors[lane] += (scaled - level) * (scaled - level);
            products[lane] += scaled * level;
            squares[lane] += level * level;
        }
        let sum = |lanes: [f32; LANES]| lanes.iter().sum::<f32>();
        let (error, products, squares) = (sum(errors), sum(products), sum(squares));
        let better = if squares > 0.0 { scale * (products / squares) } else { scale };
        (error, better)
    }
}

/// The rule by which [`BlockFormat::quantize`] chooses a block's scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// The largest magnitude becomes the outermost level: fast, and no value is off by more than half a step.
    Nearest,
    /// The scale of the least squared error among some dozen tried, each improved for the codes it gives. What lies
    /// outermost may be clipped.
    #[default]
    LeastError,
}

/// A block's scale.
pub(crate) fn scale_of(block: &[u8]) -> f32 {
    bf16::from_le_bytes([block[0], block[1]]).to_f32()
}

/// The scale as it is stored; what is too small becomes zero, because its inverse might not be finite.
fn to_scale(scale: f32) -> f32 {
    let scale = bf16::from_f32(scale.clamp(-MAX_SCALE, MAX_SCALE)).to_f32();
    if scale.abs() < f32::MIN_POSITIVE { 0.0 } else { scale }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BlockFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| {
            Error::invalid(format!("unknown block format `{name}`")).expected("one of q8, q6, q4, q3, q2")
        })
    }
}
