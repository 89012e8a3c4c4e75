//! The way from an image of any shape to S×S pixels: which of its sides is resized to what, what is cut off, and what
//! is filled.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Encoders see a few hundred pixels per side; far more than this is a mistake, not a size.
const MAX_SIZE: usize = 8192;
/// The longer side after resizing, of which only S pixels are kept. Allows an aspect ratio of 299,593 : 1 at S = 224.
const MAX_SIDE: usize = 1 << 26;

/// The sides of an image that are resized to the edge ([`Preprocess::with_edge`](super::Preprocess::with_edge)):
/// open_clip's `resize_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ResizeMode {
    /// The shorter side; the longer one keeps the ratio, ⌊edge·long/short⌋.
    #[default]
    Shortest,
    /// Both sides, whatever the ratio.
    Squash,
    /// The longer side; the shorter one keeps the ratio, rounded half to even.
    Longest,
}

/// The filter that resizes: one of Pillow's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Interpolation {
    /// The pixel under the centre.
    Nearest,
    /// The mean of the pixels covered.
    Box,
    /// A triangle.
    Bilinear,
    /// A windowed sinc that is as narrow as the box.
    Hamming,
    /// Keys' cubic with a = −0.5.
    #[default]
    Bicubic,
    /// A sinc of three lobes, windowed by another.
    Lanczos,
}

impl Interpolation {
    /// Every filter.
    pub const ALL: [Self; 6] = [Self::Nearest, Self::Box, Self::Bilinear, Self::Hamming, Self::Bicubic, Self::Lanczos];
}

impl fmt::Display for ResizeMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shortest => "shortest",
            Self::Squash => "squash",
            Self::Longest => "longest",
        })
    }
}

impl fmt::Display for Interpolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nearest => "nearest",
            Self::Box => "box",
            Self::Bilinear => "bilinear",
            Self::Hamming => "hamming",
            Self::Bicubic => "bicubic",
            Self::Lanczos => "lanczos",
        })
    }
}

/// `size`, if it can be a side of an encoder's input.
pub(super) fn check_size(size: usize, error: &'static str) -> Result<usize> {
    if (1..=MAX_SIZE).contains(&size) {
        return Ok(size);
    }
    Err(Error::invalid(error).expected(format_args!("1 to {MAX_SIZE}")).got(size))
}

/// The overlap of the S×S input and the resized image, and the size of the latter.
pub(super) struct Geometry {
    pub(super) width: usize,
    pub(super) height: usize,
    /// The columns and rows of the resized image that are kept.
    pub(super) columns: Range<usize>,
    pub(super) rows: Range<usize>,
    /// The columns and rows of the input that are filled before the kept ones.
    pub(super) left: usize,
    pub(super) top: usize,
}

impl Geometry {
    /// The geometry of `width` × `height` pixels whose sides are resized to `edge` as `mode` says, and of which `size`
    /// × `size` are kept.
    pub(super) fn new(width: usize, height: usize, mode: ResizeMode, edge: usize, size: usize) -> Result<Self> {
        if width == 0 || height == 0 {
            return Err(Error::invalid("the image is empty").got(format_args!("{width} × {height} pixels")));
        }
        let (short, long) = (width.min(height), width.max(height));
        let (short, long) = match mode {
            ResizeMode::Shortest => (Some(edge), shared(edge, long, short)),
            ResizeMode::Squash => (Some(edge), Some(edge)),
            ResizeMode::Longest => {
                // As open_clip divides: twice, each time rounding to f64.
                let ratio = long as f64 / edge as f64;
                (rounded(short as f64 / ratio), rounded(long as f64 / ratio))
            }
        };
        let (Some(short), Some(long)) = (short, long) else {
            return Err(Error::invalid("the image is too elongated")
                .expected(match mode {
                    ResizeMode::Longest => {
                        format!("at least 1 pixel on the shorter side once the longer has {}", edge)
                    }
                    _ => format!("at most {MAX_SIDE} pixels on the longer side once the shorter has {}", edge),
                })
                .got(format_args!("{width} × {height} pixels")));
        };
        let (width, height) = if width <= height { (short, long) } else { (long, short) };
        let ((left, columns), (top, rows)) = (centred(width, size), centred(height, size));
        Ok(Self { width, height, columns, rows, left, top })
    }
}

/// ⌊`edge`·`long`/`short`⌋, where that is no more than a resized image may have.
fn shared(edge: usize, long: usize, short: usize) -> Option<usize> {
    let long = edge as u128 * long as u128 / short as u128;
    usize::try_from(long).ok().filter(|&long| long <= MAX_SIDE)
}

/// `value` rounded half to even, where any pixel is left.
fn rounded(value: f64) -> Option<usize> {
    Some(value.round_ties_even() as usize).filter(|&pixels| pixels > 0)
}

/// The number of `size` positions before an image of `extent` in their middle, and which of its own are kept.
fn centred(extent: usize, size: usize) -> (usize, Range<usize>) {
    match extent.checked_sub(size) {
        Some(beyond) => (0, half_to_even(beyond)..half_to_even(beyond) + size),
        None => ((size - extent) / 2, 0..extent),
    }
}

/// `n`/2, rounded half to even, as Python rounds.
pub(super) fn half_to_even(n: usize) -> usize {
    n / 2 + usize::from(n % 4 == 3)
}
