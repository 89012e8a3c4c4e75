//! GIF files: the first frame, on a canvas of its transparent colour or of the palette's first.

use std::io::Cursor;

use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};

use super::decoded::{Decoded, LZW, check_data, check_pixels};
use crate::error::{Error, Result};
use crate::tensor::try_zeroed;

pub(super) fn decode(bytes: &[u8], max_pixels: usize) -> Result<Decoded> {
    let fail = |e: DecodingError| Error::format("not a valid GIF image").because(e);
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    // What is decoded goes into a buffer of ours, whose size is checked first.
    options.set_memory_limit(MemoryLimit::Unlimited);
    let mut decoder = options.read_info(Cursor::new(bytes)).map_err(fail)?;
    let screen = (usize::from(decoder.width()), usize::from(decoder.height()));
    let frame = decoder.next_frame_info().map_err(fail)?;
    let frame = frame.ok_or_else(|| Error::format("a GIF file without an image"))?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (across, down) = (usize::from(frame.width), usize::from(frame.height));
    let background = frame.transparent.unwrap_or(0);
    // A frame beyond the screen makes the image larger.
    let (width, height) = (screen.0.max(left + across), screen.1.max(top + down));
    check_pixels(width, height, max_pixels)?;
    if across == 0 || down == 0 {
        return Err(Error::format("a GIF image without pixels").got(format_args!("{across} × {down}")));
    }

    check_data(across * down, bytes.len(), LZW)?;
    let mut frame: Vec<u8> = try_zeroed(across * down)?;
    decoder.read_into_buffer(&mut frame).map_err(fail)?;
    let mut indices: Vec<u8> = try_zeroed(width * height)?;
    if background > 0 {
        indices.fill(background);
    }
    for (row, out) in frame.chunks_exact(across).zip(indices.chunks_exact_mut(width).skip(top)) {
        out[left..left + across].copy_from_slice(row);
    }
    let palette = decoder.palette().map_err(fail)?;
    Ok(Decoded::with_palette(indices, width, height, palette.as_chunks().0, true))
}
