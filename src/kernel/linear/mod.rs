//! The linear kernel: `out = activation(A·Wᵀ + bias) + residual`, with W packed in f32, bf16 or int8.
//!
//! # The bit contract
//! With `a` a row of A and `w` a row of W, and every operation on f32 rounded once (ties to even):
//!
//! ```text
//! f32    sum = +0.0;  sum = fma(a[k], w[k], sum) for k ascending;  y = sum + bias
//! bf16   a and w are rounded to bf16 first;  sum = +0.0;
//!        sum = fma(a[2j], w[2j], fma(a[2j+1], w[2j+1], sum)) for j ascending;  y = sum + bias
//! int8   w: s = max|w| / 127, code = round(w · (127 / max|w|))
//!        a: range = max(a, 0) − min(a, 0), t = range / 255, zero = round(−min(a, 0) · (255 / range)),
//!           code = round(a · (255 / range)) + zero, held to 0 … 255
//!        y = fma(f32(Σ code_a·code_w − zero·Σ code_w), s·t, bias), the sums exact
//! then   out = activation(y) + residual
//! ```
//!
//! The activations are those of `math.rs`. Every instruction set gives these bits, whatever the number of threads and
//! rows, so a row's result does not depend on the others. For bf16, subnormal numbers may count as zero wherever they
//! occur. What is not finite in A or W makes results that are not; which, is outside the contract.
//!
//! # Where to read
//! `generic.rs` is the algorithm over any vector type, `scalar.rs` that type which makes it the specification;
//! `avx512.rs`, `avx2.rs` and `neon.rs` are the others. `layout.rs` says how packed weights lie in memory, `pack.rs` writes them,
//! `activations.rs` converts A, and `run.rs` shares the work out.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod entry;
mod generic;
mod layout;
mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
mod run;
mod scalar;
#[cfg(test)]
mod tests;

use crate::did_you_mean;
use crate::error::{Error, Result};

pub use layout::{ALIGNMENT, PackedLayout};
pub(crate) use pack::PanelPacker;
pub use pack::pack;
pub use run::{LinearJob, Pool, Scratch, linear};

/// The type of packed weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floats: the results of a product of matrices, to the last bits.
    #[default]
    F32,
    /// Weights and activations of 8 bits of precision in 16, sums in f32.
    Bf16,
    /// Weights of 8 bits with a scale per output, activations of 8 bits with a scale per row, exact sums.
    Int8,
}

impl Precision {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];

    /// `f32`, `bf16`, `int8`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// The number that graphs have for it.
    pub(crate) fn code(self) -> i64 {
        match self {
            Self::F32 => 0,
            Self::Bf16 => 1,
            Self::Int8 => 2,
        }
    }

    /// The precision of that number.
    pub(crate) fn of_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|precision| precision.code() == code)
    }

    /// The weights of an output in one step, of four bytes.
    pub(crate) fn per_step(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
            Self::Int8 => 4,
        }
    }
}

/// The function between a layer's sums and its results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// None.
    #[default]
    None,
    /// `x · sigmoid(1.702·x)`.
    QuickGelu,
    /// `½·x·(1 + erf(x/√2))`.
    Gelu,
    /// `½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
    TanhGelu,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|precision| precision.name() == name).ok_or_else(|| {
            Error::invalid("no such precision").expected("f32, bf16 or int8").got(did_you_mean::clipped(name))
        })
    }
}

impl Activation {
    /// The number that graphs have for it.
    pub(crate) fn code(self) -> i64 {
        match self {
            Self::None => 0,
            Self::QuickGelu => 1,
            Self::Gelu => 2,
            Self::TanhGelu => 3,
        }
    }

    /// The activation of that number.
    pub(crate) fn of_code(code: i64) -> Option<Self> {
        [Self::None, Self::QuickGelu, Self::Gelu, Self::TanhGelu].into_iter().find(|one| one.code() == code)
    }
}

/// The scale of a row of int8 activations: `value = scale · (code − zero)`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RowScale {
    scale: f32,
    inverse: f32,
    zero: i32,
}

impl RowScale {
    /// The scale of a row between these values; `least` is at most 0 and `greatest` at least 0.
    fn of_range(least: f32, greatest: f32, is_finite: bool) -> Self {
        /// A smaller range counts as zero: its reciprocal would overflow.
        const LEAST: f32 = 1e-35;

        let range = greatest - least;
        if !is_finite || !range.is_finite() {
            return Self { scale: f32::NAN, inverse: 0.0, zero: 0 };
        }
        if range < LEAST {
            return Self::default();
        }
        let inverse = 255.0 / range;
        Self { scale: range / 255.0, inverse, zero: (-least * inverse).round_ties_even() as i32 }
    }
}
