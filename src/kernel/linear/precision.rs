//! The types of packed weights.

use std::fmt;
use std::str::FromStr;

use crate::did_you_mean;
use crate::error::{Error, Result};

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

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|precision| precision.name() == name).ok_or_else(|| {
            Error::invalid("no such precision").expected("f32, bf16 or int8").got(did_you_mean::clipped(name))
        })
    }
}
