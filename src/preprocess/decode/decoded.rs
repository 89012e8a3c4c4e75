//! Decoded images, and what the decoders share.

use crate::error::{Error, Result};
use crate::preprocess::pixels::PixelFormat;
use crate::tensor::try_zeroed;

/// The image in a file, in the form that the file has it in.
pub(super) enum Decoded {
    Pixels {
        bytes: Vec<u8>,
        width: usize,
        height: usize,
        format: PixelFormat,
    },
    /// Indices of one byte each. Colours that the file does not define are black.
    Indexed {
        indices: Vec<u8>,
        width: usize,
        height: usize,
        palette: Box<[[u8; 3]; 256]>,
    },
}

impl Decoded {
    /// An image with a palette. One whose every index is its own grey is grey, as in Pillow.
    pub(super) fn with_palette(
        indices: Vec<u8>,
        width: usize,
        height: usize,
        colours: &[[u8; 3]],
        grays: bool,
    ) -> Self {
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
    pub(super) fn black_and_white(indices: Vec<u8>, width: usize, height: usize) -> Self {
        let mut palette = Box::new([[255; 3]; 256]);
        palette[0] = [0; 3];
        Self::Indexed { indices, width, height, palette }
    }
}

pub(super) fn too_large(limit: String, got: String) -> Error {
    Error::unsupported("the image is too large").expected(format_args!("at most {limit}")).got(got)
}

pub(super) fn check_pixels(width: usize, height: usize, max_pixels: usize) -> Result<()> {
    if width.checked_mul(height).is_some_and(|pixels| pixels <= max_pixels) {
        return Ok(());
    }
    Err(too_large(format!("{max_pixels} pixels"), format!("{width} × {height}")))
}

/// The most bytes that one byte of Deflate's can be unpacked to.
pub(super) const DEFLATED: usize = 1032;
/// The most bytes that one byte of LZW's can be unpacked to: a code of at least 9 bits, or of 3 while there are few,
/// for at most 4,096 bytes.
pub(super) const LZW: usize = 4096;

/// Refuses an image whose samples are more bytes than all of its file can be unpacked to, `most` for each: before
/// memory is taken for them.
pub(super) fn check_data(samples: usize, file: usize, most: usize) -> Result<()> {
    if samples <= file.saturating_mul(most) {
        return Ok(());
    }
    Err(Error::format("the image is truncated, or smaller than its header says")
        .expected(format_args!("at least {} bytes for {samples} bytes of samples", samples.div_ceil(most)))
        .got(format_args!("{file} bytes")))
}

/// The samples, one byte each, of rows of `bits` (1, 2 or 4) bits per sample, the first in the highest bits, each row
/// starting `stride` bytes after the last.
pub(super) fn unpacked(packed: &[u8], width: usize, height: usize, bits: usize, stride: usize) -> Result<Vec<u8>> {
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
pub(super) fn widen(samples: &mut [u8], bits: usize) {
    let white = 255 / ((1u16 << bits) - 1) as u8;
    samples.iter_mut().for_each(|value| *value *= white);
}
