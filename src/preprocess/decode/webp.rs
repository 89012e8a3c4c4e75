//! WebP files: of an animation the first frame.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use super::decoded::{Decoded, check_pixels};
use crate::error::{Error, Result};
use crate::preprocess::pixels::PixelFormat;
use crate::tensor::try_zeroed;

pub(super) fn decode(bytes: &[u8], max_pixels: usize) -> Result<Decoded> {
    let fail = |e: DecodingError| Error::format("not a valid WebP image").because(e);
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(fail)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    check_pixels(width, height, max_pixels)?;
    // Metadata is the only thing that this limits.
    decoder.set_memory_limit(bytes.len());
    let format = if decoder.has_alpha() { PixelFormat::Rgba8 } else { PixelFormat::Rgb8 };
    let mut pixels: Vec<u8> = try_zeroed(width * height * format.channels())?;
    decoder.read_image(&mut pixels).map_err(fail)?;
    Ok(Decoded::Pixels { bytes: pixels, width, height, format })
}
