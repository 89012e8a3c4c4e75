//! PNG and JPEG files, decoded to what Pillow decodes them to: the mode decides how an image is resized.
#![forbid(unsafe_code)]

use std::io::Cursor;
use std::path::Path;

use png::{BitDepth, ColorType, Transformations};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{Geometry, PixelFormat, Pixels, Preprocess, resample};
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};
use crate::tensor::try_zeroed;

/// A compressed image larger than this is not read at all.
const LARGEST_FILE: u64 = 1 << 30;

/// The sides that a JPEG's header can express.
const LONGEST_JPEG_SIDE: usize = 65_535;

impl Preprocess {
    /// Preprocesses the PNG or JPEG file at `path` into `out`, [3, S, S] in row-major order. Which of the two it is
    /// is told by its content, not its name.
    ///
    /// As Pillow's `open` does, an EXIF orientation is not applied. Of an animated PNG the default image counts, of
    /// a file with 16 bits a channel the upper eight. `tRNS` (a transparent colour, a palette's alpha) is ignored.
    /// Only two kinds are not equal to open_clip's result to the bit: 16-bit grey, which Pillow cuts off at 255
    /// instead of scaling it, and JPEG, whose standard leaves the rounding to the decoder; a JPEG with four channels
    /// (CMYK) moreover becomes RGB before it is resized.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when it cannot be read;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when it is neither, or has more pixels than
    /// [`Preprocess::with_max_pixels`] allows or more than 1 GiB of bytes;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) when it is truncated or corrupt; and those of
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

    /// The same as [`Preprocess::file`] for the content of such a file.
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
                let geometry = Geometry::new(width, height, self.size)?;
                let columns = resample::nearest(width, geometry.width, geometry.columns);
                let rows = resample::nearest(height, geometry.height, geometry.rows);
                let pixels = rows.iter().flat_map(|y| columns.iter().map(move |x| y * width + x));
                self.normalise(pixels.map(|at| palette[usize::from(indices[at])]), out);
                Ok(())
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
    /// One index a byte. Colours that the file does not define are black.
    Indexed {
        indices: Vec<u8>,
        width: usize,
        height: usize,
        palette: Box<[[u8; 3]; 256]>,
    },
}

fn decode(bytes: &[u8], max_pixels: usize) -> Result<Decoded> {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        decode_png(bytes, max_pixels)
    } else if bytes.starts_with(b"\xff\xd8\xff") {
        decode_jpeg(bytes, max_pixels)
    } else {
        Err(Error::unsupported("neither a PNG nor a JPEG image")
            .hint("Convert it, or decode it and hand over its pixels"))
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

fn decode_png(bytes: &[u8], max_pixels: usize) -> Result<Decoded> {
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
    let mut pixels: Vec<u8> = try_zeroed(length)?;
    reader.next_frame(&mut pixels).map_err(fail)?;
    let (format, bits) = match (color, depth) {
        (ColorType::Indexed, bits) => (None, bits as u8),
        // Pillow's mode "1": resized like a palette.
        (ColorType::Grayscale, BitDepth::One) => (None, 1),
        (ColorType::Grayscale, bits) => (Some(PixelFormat::Gray8), bits as u8),
        (ColorType::GrayscaleAlpha, _) => (Some(PixelFormat::GrayAlpha8), 8),
        (ColorType::Rgb, _) => (Some(PixelFormat::Rgb8), 8),
        (ColorType::Rgba, _) => (Some(PixelFormat::Rgba8), 8),
    };
    if bits < 8 {
        pixels = unpacked(&pixels, width, height, bits)?;
    }
    let Some(format) = format else {
        let palette = match (color, &reader.info().palette) {
            (ColorType::Grayscale, _) => [0, 0, 0, 255, 255, 255].as_slice(),
            (_, Some(palette)) => palette,
            (_, None) => return Err(Error::format("a PNG image with a palette has none")),
        };
        let mut colours = Box::new([[0; 3]; 256]);
        for (colour, &rgb) in colours.iter_mut().zip(palette.as_chunks().0) {
            *colour = rgb;
        }
        return Ok(Decoded::Indexed { indices: pixels, width, height, palette: colours });
    };
    if bits < 8 {
        let white = 255 / ((1u8 << bits) - 1);
        pixels.iter_mut().for_each(|value| *value *= white);
    }
    Ok(Decoded::Pixels { bytes: pixels, width, height, format })
}

/// One byte a sample from rows of `bits` (1, 2 or 4) bits a sample, the first in the highest bits, each row starting
/// at a byte.
fn unpacked(packed: &[u8], width: usize, height: usize, bits: u8) -> Result<Vec<u8>> {
    let mut samples = try_zeroed(width * height)?;
    let bits = usize::from(bits);
    let a_byte = 8 / bits;
    for (samples, packed) in samples.chunks_exact_mut(width).zip(packed.chunks_exact(width.div_ceil(a_byte))) {
        for (x, sample) in samples.iter_mut().enumerate() {
            *sample = packed[x / a_byte] << (x % a_byte * bits) >> (8 - bits);
        }
    }
    Ok(samples)
}

fn decode_jpeg(bytes: &[u8], max_pixels: usize) -> Result<Decoded> {
    let fail = |e: zune_jpeg::errors::DecodeErrors| {
        // The decoder's errors hold no source of their own, and are not made for sharing between threads.
        Error::format("not a valid JPEG image").because(e.to_string())
    };
    // Strict: a truncated image is an error, not a half that is grey.
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(LONGEST_JPEG_SIDE)
        .set_max_height(LONGEST_JPEG_SIDE);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(fail)?;
    let Some((width, height)) = decoder.dimensions() else {
        return Err(Error::format("a JPEG image without a size"));
    };
    check_pixels(width, height, max_pixels)?;
    let (format, wanted) = match decoder.input_colorspace() {
        Some(ColorSpace::Luma) => (PixelFormat::Gray8, ColorSpace::Luma),
        _ => (PixelFormat::Rgb8, ColorSpace::RGB),
    };
    decoder.set_options(options.jpeg_set_out_colorspace(wanted));
    let length = decoder.output_buffer_size().unwrap_or(0);
    if length != width * height * format.channels() {
        return Err(Error::unsupported("a JPEG image with channels that are not supported")
            .got(format_args!("{:?}", decoder.input_colorspace())));
    }
    let mut pixels: Vec<u8> = try_zeroed(length)?;
    decoder.decode_into(&mut pixels).map_err(fail)?;
    Ok(Decoded::Pixels { bytes: pixels, width, height, format })
}
