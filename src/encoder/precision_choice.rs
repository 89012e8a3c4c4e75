//! The option that says which types the built graph's matrices are multiplied in.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::kernel::linear::Precision;
use crate::tower::LayerPrecisions;

/// The types that the built graph's matrices are multiplied in, on the CPU; f32 by default.
///
/// ```
/// use taskbasis::{EncoderOptions, Precision, PrecisionChoice};
///
/// let options = EncoderOptions { precision: Precision::Int8.into(), ..EncoderOptions::default() };
/// assert_eq!("auto".parse::<PrecisionChoice>()?, PrecisionChoice::Auto);
/// # Ok::<(), taskbasis::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PrecisionChoice {
    /// These.
    Layers(LayerPrecisions),
    /// The fastest that passed the gate when the bundle was packed; f32 where nothing was measured, or where what was
    /// measured is not what runs. [`Execution::precision_reason`](super::Execution::precision_reason) says which.
    Auto,
}

impl PrecisionChoice {
    /// What is known before a bundle is looked at: `Auto` is f32.
    pub(crate) fn known(self) -> LayerPrecisions {
        match self {
            Self::Layers(precisions) => precisions,
            Self::Auto => LayerPrecisions::default(),
        }
    }

    /// Whether f32 alone is asked for.
    pub(super) fn is_f32(self) -> bool {
        self == Self::default()
    }
}

impl Default for PrecisionChoice {
    fn default() -> Self {
        Self::Layers(LayerPrecisions::default())
    }
}

impl From<Precision> for PrecisionChoice {
    fn from(precision: Precision) -> Self {
        Self::Layers(precision.into())
    }
}

impl From<LayerPrecisions> for PrecisionChoice {
    fn from(precisions: LayerPrecisions) -> Self {
        Self::Layers(precisions)
    }
}

impl fmt::Display for PrecisionChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layers(precisions) => fmt::Display::fmt(precisions, f),
            Self::Auto => f.pad("auto"),
        }
    }
}

impl FromStr for PrecisionChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "auto" { Ok(Self::Auto) } else { text.parse().map(Self::Layers) }
    }
}
