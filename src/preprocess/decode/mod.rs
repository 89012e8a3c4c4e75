//! Image files, decoded to what Pillow decodes them to: the mode decides how an image is resized.

mod bmp;
mod gif;
mod jpeg;
mod kind;
mod png;
mod pnm;
mod tiff;
mod webp;

use std::path::Path;

use super::{Interpolation, PixelFormat, Pixels, Preprocess};
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};
use crate::tensor::try_zeroed;
use kind::Kind;

/// A compressed image larger than this is not read at all.
const LARGEST_FILE: u64 = 1 << 30;

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
        if length > LARGEST_FILE {
            return Err(too_large(format!("{LARGEST_FILE} bytes"), format!("{length} bytes")).at(path));
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

/// An image as its file has it.
enum Decoded {
    Pixels {
        bytes: Vec<u8>,
        width: usize,
        height: usize,
        format: PixelFormat,
    },
    /// One index per byte. Colours that the file does not define are black.
    Indexed {
        indices: Vec<u8>,
        width: usize,
        height: usize,
        palette: Box<[[u8; 3]; 256]>,
    },
}

impl Decoded {
    /// An image with a palette. One whose every index is its own grey is grey, as in Pillow.
    fn with_palette(indices: Vec<u8>, width: usize, height: usize, colours: &[[u8; 3]], grays: bool) -> Self {
        let gray = |(index, colour): (usize, &[u8; 3])| colour.iter().all(|&value| usize::from(value) == index);
        if grays && colours.iter().enumerate().all(gray) {
            return Self::Pixels { bytes: indices, width, height, format: PixelFormat::Gray8 };
        }
        let mut palette = Box::new([[0; 3]; 256]);
        for (known, colour) in palette.iter_mut().zip(colours) {
            *known = *colour;
        }
        Self::Indexed { indices, width, height, palette }
    }

    /// An image whose samples are black (0) or white: Pillow's mode "1", resized like a palette.
    fn black_and_white(indices: Vec<u8>, width: usize, height: usize) -> Self {
        let mut palette = Box::new([[255; 3]; 256]);
        palette[0] = [0; 3];
        Self::Indexed { indices, width, height, palette }
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

fn too_large(limit: String, got: String) -> Error {
    Error::unsupported("the image is too large").expected(format_args!("at most {limit}")).got(got)
}

fn check_pixels(width: usize, height: usize, max_pixels: usize) -> Result<()> {
    if width.checked_mul(height).is_some_and(|pixels| pixels <= max_pixels) {
        return Ok(());
    }
    Err(too_large(format!("{max_pixels} pixels"), format!("{width} × {height}")))
}

/// One byte per sample from rows of `bits` (1, 2 or 4) bits per sample, the first in the highest bits, each row
/// starting `stride` bytes after the last.
fn unpacked(packed: &[u8], width: usize, height: usize, bits: usize, stride: usize) -> Result<Vec<u8>> {
    let mut samples = try_zeroed(width * height)?;
    let in_byte = 8 / bits;
    for (samples, packed) in samples.chunks_exact_mut(width).zip(packed.chunks(stride)) {
        for (sample, x) in samples.iter_mut().zip(0..) {
            let byte = packed.get(x / in_byte).ok_or_else(|| Error::format("an image's rows are cut off"))?;
            *sample = byte << (x % in_byte * bits) >> (8 - bits);
        }
    }
    Ok(samples)
}

/// Makes samples of `bits` bits reach from black to white.
fn widen(samples: &mut [u8], bits: usize) {
    let white = 255 / ((1u16 << bits) - 1) as u8;
    samples.iter_mut().for_each(|value| *value *= white);
}

#[cfg(test)]
mod tests;
