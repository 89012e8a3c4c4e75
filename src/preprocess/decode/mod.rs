//! Image files, decoded to what Pillow decodes them to: the mode decides how an image is resized.

mod bmp;
mod decoded;
mod gif;
mod jpeg;
mod kind;
mod png;
mod pnm;
mod tiff;
mod webp;

use std::path::Path;

use super::pixels::{PixelFormat, Pixels};
use super::resize::Interpolation;
use super::transform::Preprocess;
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};
use decoded::{Decoded, too_large};
use kind::Kind;

/// The largest file of an image that is read.
const MAX_FILE: u64 = 1 << 30;

impl Preprocess {
    /// Preprocesses the image file at `path` into `out`, [3, S, S] in row-major order: PNG, JPEG, WebP, GIF, BMP,
    /// TIFF, PPM, PGM or PBM. Which of them it is is told by its content, not its name.
    ///
    /// The result is open_clip's with Pillow, to the bit, with these exceptions: of 16-bit grey the upper eight bits
    /// count, where Pillow cuts it off at 255. As Pillow does, of an animation the first frame (of a PNG, the default
    /// image) and of several pages the first one is read; `tRNS` (a transparent colour, a palette's alpha) is ignored;
    /// an EXIF orientation is not applied, but a TIFF's own is.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when it cannot be read;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when it is none of these, or has more pixels than
    /// [`Preprocess::with_max_pixels`] allows or more than 1 GiB of bytes;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) when it is empty, truncated or corrupt; and those of
    /// [`Preprocess::pixels`].
    pub fn file(&self, path: impl AsRef<Path>, out: &mut [f32]) -> Result<()> {
        let path = path.as_ref();
        let length = std::fs::metadata(path).map_err(|e| Error::io("cannot open", path, e))?.len();
        if length > MAX_FILE {
            return Err(too_large(format!("{MAX_FILE} bytes"), format!("{length} bytes")).at(path));
        }
        // Read, not mapped: others rewrite image files at any time.
        let bytes = Mapping::open(path, MapMode::Read)?;
        self.encoded(&bytes, out).map_err(|e| e.at(path))
    }

    /// Preprocesses the content of an image file, as [`Preprocess::file`] does.
    ///
    /// # Errors
    /// Those of [`Preprocess::file`].
    pub fn encoded(&self, bytes: &[u8], out: &mut [f32]) -> Result<()> {
        self.check_out(out)?;
        match decode(bytes, self.max_pixels)? {
            Decoded::Pixels { bytes, width, height, format } => {
                self.pixels(Pixels::packed(&bytes, width, height, format), out)
            }
            Decoded::Indexed { indices, width, height, palette } => {
                let pixels = Pixels::packed(&indices, width, height, PixelFormat::Gray8);
                self.resized(&pixels, Interpolation::Nearest, |pixel| palette[usize::from(pixel[0])], out)
            }
        }
    }
}

fn decode(bytes: &[u8], max_pixels: usize) -> Result<Decoded> {
    match Kind::of(bytes)? {
        Kind::Png => png::decode(bytes, max_pixels),
        Kind::Jpeg => jpeg::decode(bytes, max_pixels),
        Kind::WebP => webp::decode(bytes, max_pixels),
        Kind::Gif => gif::decode(bytes, max_pixels),
        Kind::Bmp => bmp::decode(bytes, max_pixels),
        Kind::Tiff => tiff::decode(bytes, max_pixels),
        Kind::Pnm => pnm::decode(bytes, max_pixels),
    }
}

#[cfg(test)]
mod tests;
