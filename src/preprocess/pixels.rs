//! Images as they are handed over: bytes, and what they mean.

use std::ops::Range;

use super::resample::multiply;
use crate::error::{Error, Result};

/// The bytes of a pixel, one per channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PixelFormat {
    /// Red, green, blue.
    Rgb8,
    /// Red, green, blue, alpha (not premultiplied). Alpha weighs the colours while resizing and is then dropped.
    Rgba8,
    /// Blue, green, red, as OpenCV and many cameras keep them.
    Bgr8,
    /// Blue, green, red, alpha; alpha as in [`PixelFormat::Rgba8`].
    Bgra8,
    /// Grey alone: the same as equal red, green and blue.
    Gray8,
    /// Grey and alpha; alpha as in [`PixelFormat::Rgba8`].
    GrayAlpha8,
    /// Cyan, magenta, yellow, black, 0 being none: resized so, and then made RGB without a colour profile.
    Cmyk8,
}

impl PixelFormat {
    /// Bytes per pixel.
    pub const fn channels(self) -> usize {
        match self {
            Self::Gray8 => 1,
            Self::GrayAlpha8 => 2,
            Self::Rgb8 | Self::Bgr8 => 3,
            Self::Rgba8 | Self::Bgra8 | Self::Cmyk8 => 4,
        }
    }

    /// A pixel's red, green and blue.
    pub(super) fn rgb(self, pixel: &[u8]) -> [u8; 3] {
        match (self, pixel) {
            (Self::Cmyk8, &[c, m, y, k]) => [c, m, y].map(|ink| 255 - k - multiply(ink, 255 - k)),
            (Self::Bgr8 | Self::Bgra8, &[b, g, r, ..]) => [r, g, b],
            (_, &[r, g, b, ..]) => [r, g, b],
            _ => [pixel[0]; 3],
        }
    }
}

/// An image in the caller's memory.
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a> {
    /// Row after row, the top one first.
    pub data: &'a [u8],
    /// The width in pixels.
    pub width: usize,
    /// The height in pixels.
    pub height: usize,
    /// Bytes from the start of a row to the start of the next: at least `width` × bytes per pixel.
    pub row_stride: usize,
    /// The bytes of a pixel.
    pub format: PixelFormat,
}

impl<'a> Pixels<'a> {
    /// An image whose rows follow each other without a gap.
    pub const fn packed(data: &'a [u8], width: usize, height: usize, format: PixelFormat) -> Self {
        Self { data, width, height, row_stride: width.saturating_mul(format.channels()), format }
    }

    /// Checks that every pixel lies within the data; the transform relies on it.
    pub(super) fn check(&self) -> Result<()> {
        let row = self.width.checked_mul(self.format.channels());
        // The last row needs no padding after it.
        if let Some(row) = row.filter(|&row| row > self.row_stride) {
            return Err(Error::invalid("row_stride is smaller than a row")
                .expected(format_args!("at least {row}"))
                .got(self.row_stride));
        }
        let needed = row.and_then(|row| self.height.saturating_sub(1).checked_mul(self.row_stride)?.checked_add(row));
        match needed {
            Some(needed) if needed <= self.data.len() => Ok(()),
            _ => Err(Error::invalid("an image's size and data disagree")
                .expected(format_args!(
                    "{} rows of {} {:?} pixels, {} bytes apart",
                    self.height, self.width, self.format, self.row_stride
                ))
                .got(format_args!("{} bytes", self.data.len()))),
        }
    }

    /// The pixels `columns` of row `y`, both within the image.
    pub(super) fn row(&self, y: usize, columns: &Range<usize>) -> &'a [u8] {
        let channels = self.format.channels();
        let start = y * self.row_stride;
        &self.data[start + columns.start * channels..start + columns.end * channels]
    }
}
