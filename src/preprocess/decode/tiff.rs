//! TIFF files: the first page, turned as its orientation says.

use std::io::Cursor;

use tiff::decoder::{Decoder, DecodingSampleType, Limits};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

use super::decoded::{DEFLATED, Decoded, LZW, check_data, check_pixels, unpacked, widen};
use crate::error::{Error, Result};
use crate::preprocess::pixels::PixelFormat;
use crate::tensor::try_zeroed;

/// The photometric interpretation of images with a palette, and that of grey ones whose black is 0.
const PALETTE: u16 = 3;
const GRAY: u16 = 1;
/// The kinds of a fourth channel: alpha that has been multiplied with the colours, and alpha that has not.
const PREMULTIPLIED: u16 = 1;
const ALPHA: u16 = 2;

/// Compressions, as their tag numbers them.
const UNCOMPRESSED: u16 = 1;
const PACK_BITS: u16 = 32773;

/// The most samples per pixel that are read.
const MAX_SAMPLES: usize = 8;

pub(super) fn decode(bytes: &[u8], max_pixels: usize) -> Result<Decoded> {
    let mut decoder = opened(bytes)?;
    let (width, height) = decoder.dimensions().map_err(fail)?;
    let (width, height) = (width as usize, height as usize);
    if width == 0 || height == 0 {
        return Err(Error::format("not a valid TIFF image").got(format_args!("{width} × {height} pixels")));
    }
    check_pixels(width, height, max_pixels)?;
    let number = |decoder: &mut Decoder<_>, tag, usual| {
        decoder.find_tag_unsigned(tag).map_err(fail).map(|value: Option<u16>| value.unwrap_or(usual))
    };
    if number(&mut decoder, Tag::FillOrder, 1)? != 1 {
        return Err(unsupported("its bits in reverse order"));
    }
    if decoder.find_tag(Tag::Unknown(0xc612)).map_err(fail)?.is_some() {
        return Err(Error::unsupported("not an image file that is read here").got("a camera's raw image (DNG)"));
    }
    // Cameras' raw files are TIFF files whose first page is a preview.
    if number(&mut decoder, Tag::NewSubfileType, 0)? & 1 == 1 {
        return Err(unsupported("a smaller copy of its image first, as a camera's raw file has"));
    }
    let orientation = number(&mut decoder, Tag::Orientation, 1)?;
    if number(&mut decoder, Tag::PhotometricInterpretation, GRAY)? == PALETTE {
        return palette(bytes, decoder, width, height, orientation);
    }
    let alpha = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).map_err(fail)?;
    let alpha = alpha.and_then(|kinds| kinds.first().copied());
    let color = decoder.colortype().map_err(fail)?;
    let (format, kept) = match (color, alpha) {
        (ColorType::Gray(1 | 2 | 4 | 8 | 16), _) => (PixelFormat::Gray8, 1),
        (ColorType::Multiband { bit_depth: 8, num_samples: 2 }, Some(ALPHA)) => (PixelFormat::GrayAlpha8, 2),
        (ColorType::RGB(8 | 16), _) | (ColorType::RGBA(8 | 16), Some(0)) => (PixelFormat::Rgb8, 3),
        (ColorType::RGBA(8 | 16), _) => (PixelFormat::Rgba8, 4),
        (ColorType::CMYK(8 | 16), _) => (PixelFormat::Cmyk8, 4),
        (color, _) => return Err(unsupported(&format!("{color:?} samples"))),
    };
    let bits = usize::from(color.bit_depth());
    let mut samples = samples(&mut decoder, bytes.len(), (width, height), bits, kept)?;
    if alpha == Some(PREMULTIPLIED) && format == PixelFormat::Rgba8 {
        samples.as_chunks_mut::<4>().0.iter_mut().for_each(divide);
    }
    if bits < 8 {
        widen(&mut samples, bits);
    }
    let (samples, width, height) = turned(samples, width, height, kept, orientation)?;
    if bits == 1 {
        return Ok(Decoded::black_and_white(samples, width, height));
    }
    Ok(Decoded::Pixels { bytes: samples, width, height, format })
}

fn opened(bytes: &[u8]) -> Result<Decoder<Cursor<&[u8]>>> {
    let mut limits = Limits::default();
    // A tag's values are allocated before they are read: no more of them than the file can hold. Data lies in it too.
    limits.decoding_buffer_size = limits.decoding_buffer_size.min(bytes.len().saturating_mul(64));
    limits.intermediate_buffer_size = bytes.len();
    Ok(Decoder::new(Cursor::new(bytes)).map_err(fail)?.with_limits(limits))
}

fn fail(error: TiffError) -> Error {
    match error {
        TiffError::UnsupportedError(why) => {
            Error::unsupported("a TIFF image of a kind that is not read").hint("Convert it to a PNG file").because(why)
        }
        TiffError::LimitsExceeded => Error::unsupported("a TIFF image whose parts are too large to decode"),
        error => Error::format("not a valid TIFF image").because(error),
    }
}

fn unsupported(what: &str) -> Error {
    Error::unsupported(format!("a TIFF image with {what}")).hint("Convert it to a PNG file")
}

/// The first `kept` samples of each pixel of a file of so many bytes, in 8 bits, fewer bits unpacked; of 16 bits the
/// upper eight.
fn samples<R: std::io::Read + std::io::Seek>(
    decoder: &mut Decoder<R>,
    file: usize,
    (width, height): (usize, usize),
    bits: usize,
    kept: usize,
) -> Result<Vec<u8>> {
    let planar = decoder.find_tag_unsigned::<u16>(Tag::PlanarConfiguration).map_err(fail)? == Some(2);
    let layout = decoder.image_buffer_layout().map_err(fail)?;
    let area = width * height;
    let wide = match layout.sample_type {
        Some(DecodingSampleType::U8) => 1,
        Some(DecodingSampleType::U16) => 2,
        _ => return Err(unsupported("samples that are not whole numbers from 0 on, of up to 16 bits")),
    };
    if layout.complete_len > area.saturating_mul(MAX_SAMPLES * wide) {
        return Err(unsupported("more than 8 samples per pixel"));
    }
    // Fax rows can all be one bit.
    let most = match decoder.find_tag_unsigned::<u16>(Tag::Compression).map_err(fail)?.unwrap_or(UNCOMPRESSED) {
        UNCOMPRESSED => 1,
        PACK_BITS => 64,
        5 => LZW,
        8 | 32946 => DEFLATED,
        _ => usize::MAX,
    };
    // Strips may lie over each other, but no honest file's do.
    check_data(layout.complete_len, file, most)?;
    let mut all: Vec<u8> = try_zeroed(layout.complete_len)?;
    decoder.read_image_bytes(&mut all).map_err(fail)?;
    if wide == 2 {
        // The decoder gives the machine's order of bytes.
        let upper = usize::from(cfg!(target_endian = "little"));
        all = all.as_chunks::<2>().0.iter().map(|sample| sample[upper]).collect();
    }
    if bits < 8 {
        return unpacked(&all, width, height, bits, (width * bits).div_ceil(8));
    }
    let present = all.len() / area;
    if present < kept {
        return Err(Error::format("not a valid TIFF image")
            .expected(format_args!("{kept} samples per pixel"))
            .got(present));
    }
    if present == kept && !(planar && kept > 1) {
        return Ok(all);
    }
    let mut samples: Vec<u8> = try_zeroed(area * kept)?;
    for (at, pixel) in samples.chunks_exact_mut(kept).enumerate() {
        for (channel, sample) in pixel.iter_mut().enumerate() {
            *sample = if planar { all[channel * area + at] } else { all[at * present + channel] };
        }
    }
    Ok(samples)
}

/// Divides a pixel's colours by its alpha, as Pillow does on reading.
fn divide(pixel: &mut [u8; 4]) {
    let [colours @ .., alpha] = pixel;
    for colour in colours {
        *colour = (u32::from(*colour) * 255).checked_div((*alpha).into()).unwrap_or(0).min(255) as u8;
    }
}

/// The `tiff` crate decodes no palettes: it is shown the indices as grey.
fn palette(
    bytes: &[u8],
    mut decoder: Decoder<Cursor<&[u8]>>,
    width: usize,
    height: usize,
    orientation: u16,
) -> Result<Decoded> {
    let map = decoder.find_tag_unsigned_vec::<u16>(Tag::ColorMap).map_err(fail)?;
    let map = map.ok_or_else(|| Error::format("a TIFF image with a palette has none"))?;
    let colours = map.len() / 3;
    let channel = |at: usize| (map[at] >> 8) as u8;
    let colours: Vec<[u8; 3]> = (0..colours).map(|at| [0, 1, 2].map(|c| channel(c * colours + at))).collect();

    let mut gray: Vec<u8> = Vec::new();
    gray.try_reserve_exact(bytes.len()).map_err(|_| Error::out_of_memory(bytes.len()))?;
    gray.extend_from_slice(bytes);
    let place = photometric(bytes).ok_or_else(|| Error::format("not a valid TIFF image"))?;
    let value = if bytes[0] == b'I' { GRAY.to_le_bytes() } else { GRAY.to_be_bytes() };
    gray[place..place + 2].copy_from_slice(&value);
    let mut decoder = opened(&gray)?;
    let ColorType::Gray(bits @ (1 | 2 | 4 | 8)) = decoder.colortype().map_err(fail)? else {
        return Err(unsupported("a palette's index in more than 8 bits or beside other samples"));
    };
    let indices = samples(&mut decoder, bytes.len(), (width, height), bits.into(), 1)?;
    let (indices, width, height) = turned(indices, width, height, 1, orientation)?;
    Ok(Decoded::with_palette(indices, width, height, &colours, false))
}

/// The place of the first page's photometric interpretation.
fn photometric(bytes: &[u8]) -> Option<usize> {
    let little = bytes.starts_with(b"II");
    let number = |at: usize, length: usize| -> Option<usize> {
        let bytes = bytes.get(at..at.checked_add(length)?)?;
        let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        let value = if little { bytes.iter().rev().fold(0, join) } else { bytes.iter().fold(0, join) };
        usize::try_from(value).ok()
    };
    // Large files have wider offsets, counts and entries.
    let large = number(2, 2)? == 43;
    let (first, count, entry) = if large { (number(8, 8)?, 8, 20) } else { (number(4, 4)?, 2, 12) };
    let tag = usize::from(Tag::PhotometricInterpretation.to_u16());
    let mut entries = (0..number(first, count)?).map(|i| first.checked_add(count)?.checked_add(i.checked_mul(entry)?));
    let at = entries.find_map(|at| match at.and_then(|at| number(at, 2)) {
        None => Some(None),
        Some(found) => (found == tag).then_some(at),
    })??;
    let value = at + entry - if large { 8 } else { 4 };
    number(value, 2).map(|_| value)
}

/// The pixels turned and mirrored as one of the eight orientations says.
fn turned(
    pixels: Vec<u8>,
    width: usize,
    height: usize,
    channels: usize,
    orientation: u16,
) -> Result<(Vec<u8>, usize, usize)> {
    let (across, down) = if orientation > 4 { (height, width) } else { (width, height) };
    if !(2..=8).contains(&orientation) {
        return Ok((pixels, width, height));
    }
    let mut out: Vec<u8> = try_zeroed(pixels.len())?;
    for (at, pixel) in out.chunks_exact_mut(channels).enumerate() {
        let (x, y) = (at % across, at / across);
        let (right, bottom) = (across - 1 - x, down - 1 - y);
        let (x, y) = match orientation {
            2 => (right, y),
            3 => (right, bottom),
            4 => (x, bottom),
            5 => (y, x),
            6 => (y, right),
            7 => (bottom, right),
            _ => (bottom, x),
        };
        pixel.copy_from_slice(&pixels[(y * width + x) * channels..][..channels]);
    }
    Ok((out, across, down))
}
