//! PNG files.

use std::io::Cursor;

use png::{BitDepth, ColorType, Transformations};

use super::decoded::{DEFLATED, Decoded, check_data, check_pixels, too_large, unpacked, widen};
use crate::error::{Error, Result};
use crate::preprocess::pixels::PixelFormat;
use crate::tensor::try_zeroed;

pub(super) fn decode(bytes: &[u8], max_pixels: usize) -> Result<Decoded> {
    let fail = |e: png::DecodingError| match e {
        png::DecodingError::LimitsExceeded => Error::unsupported("a row of the PNG image is too long to decode"),
        e => Error::format("not a valid PNG image").because(e),
    };
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::STRIP_16);
    let header = decoder.read_header_info().map_err(fail)?;
    let (width, height) = (header.width as usize, header.height as usize);
    check_pixels(width, height, max_pixels)?;

    let mut reader = decoder.read_info().map_err(fail)?;
    let (color, depth) = reader.output_color_type();
    let length = reader.output_buffer_size().ok_or_else(|| too_large("the address space".into(), "more".into()))?;
    check_data(length, bytes.len(), DEFLATED)?;
    let mut pixels: Vec<u8> = try_zeroed(length)?;
    reader.next_frame(&mut pixels).map_err(fail)?;
    let format = match color {
        ColorType::Indexed | ColorType::Grayscale => PixelFormat::Gray8,
        ColorType::GrayscaleAlpha => PixelFormat::GrayAlpha8,
        ColorType::Rgb => PixelFormat::Rgb8,
        ColorType::Rgba => PixelFormat::Rgba8,
    };
    let bits = usize::from(depth as u8);
    if bits < 8 {
        pixels = unpacked(&pixels, width, height, bits, (width * bits).div_ceil(8))?;
    }
    match (color, &reader.info().palette) {
        (ColorType::Indexed, Some(palette)) => {
            return Ok(Decoded::with_palette(pixels, width, height, palette.as_chunks().0, false));
        }
        (ColorType::Indexed, None) => return Err(Error::format("a PNG image with a palette has none")),
        (_, _) if depth == BitDepth::One => return Ok(Decoded::black_and_white(pixels, width, height)),
        (_, _) => {}
    }
    if bits < 8 {
        widen(&mut pixels, bits);
    }
    Ok(Decoded::Pixels { bytes: pixels, width, height, format })
}
