//! PNG and JPEG files, decoded to what Pillow decodes them to: the mode decides how an image is resized.
#![forbid(unsafe_code)]

use std::io::Cursor;
use std::path::Path;

use png::{BitDepth, ColorType, Transformations};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{Interpolation, PixelFormat, Pixels, Preprocess};
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
    /// instead of scaling it, and JPEG, whose standard leaves the rounding to the decoder (measured on one photo
    /// before normalisation: at most 2 levels with full chroma, 4 with halved chroma, 0.2 on average). A JPEG with
    /// four channels (CMYK) becomes RGB before it is resized.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32, color: ColorType, depth: BitDepth, data: &[u8], palette: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == ColorType::Indexed {
            encoder.set_palette(palette.to_vec());
            encoder.set_trns(vec![0; palette.len() / 3]);
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        bytes
    }

    /// The 8-bit colours of the S×S crop.
    fn colours(size: usize, bytes: &[u8]) -> Vec<[u8; 3]> {
        let preprocess = Preprocess::new(size).unwrap().with_mean_std([0.0; 3], [1.0 / 255.0; 3]).unwrap();
        let mut out = vec![f32::NAN; preprocess.len()];
        preprocess.encoded(bytes, &mut out).unwrap();
        let area = size * size;
        (0..area).map(|at| [at, at + area, at + 2 * area].map(|at| out[at].round() as u8)).collect()
    }

    fn grays(size: usize, bytes: &[u8]) -> Vec<u8> {
        colours(size, bytes).iter().map(|rgb| rgb[0]).collect()
    }

    #[test]
    fn black_and_white_stays_so() {
        // Two rows of three pixels: 101, 010; the third column falls to the crop.
        let bytes = png(3, 2, ColorType::Grayscale, BitDepth::One, &[0b1010_0000, 0b0100_0000], &[]);
        assert_eq!(grays(2, &bytes), [255, 0, 0, 255]);
        // Enlarged, no grey appears between.
        assert!(grays(32, &bytes).iter().all(|&value| value == 0 || value == 255));
    }

    #[test]
    fn few_bits_of_gray_reach_from_black_to_white() {
        let bytes = png(2, 2, ColorType::Grayscale, BitDepth::Two, &[0b0001_0000, 0b1011_0000], &[]);
        assert_eq!(grays(2, &bytes), [0, 85, 170, 255]);
        let bytes = png(2, 2, ColorType::Grayscale, BitDepth::Four, &[0x0f, 0x18], &[]);
        assert_eq!(grays(2, &bytes), [0, 255, 17, 136]);
    }

    #[test]
    fn of_sixteen_bits_the_upper_eight_count() {
        let data = [0x12, 0xff, 0xab, 0x00, 0x00, 0x80, 0xff, 0xff];
        let bytes = png(2, 2, ColorType::Grayscale, BitDepth::Sixteen, &data, &[]);
        assert_eq!(grays(2, &bytes), [0x12, 0xab, 0, 0xff]);
    }

    #[test]
    fn a_palette_gives_its_colours_whatever_their_alpha() {
        let palette = [10, 20, 30, 40, 50, 60, 70, 80, 90];
        for (depth, data) in [(BitDepth::Eight, [0, 1, 2, 3].as_slice()), (BitDepth::Two, &[0b0001_0000, 0b1011_0000])]
        {
            let bytes = png(2, 2, ColorType::Indexed, depth, data, &palette);
            // The fourth colour does not exist.
            assert_eq!(colours(2, &bytes), [[10, 20, 30], [40, 50, 60], [70, 80, 90], [0; 3]]);
            assert!(colours(7, &bytes).iter().all(|rgb| *rgb == [0; 3] || palette.chunks(3).any(|known| known == rgb)));
        }
    }

    #[test]
    fn alpha_weighs_and_is_dropped() {
        // Left opaque black, right transparent white: where both mix, only black counts.
        let data = [0, 255, 255, 0, 0, 255, 255, 0];
        let bytes = png(2, 2, ColorType::GrayscaleAlpha, BitDepth::Eight, &data, &[]);
        assert_eq!(grays(2, &bytes), [0, 255, 0, 255], "not resized: nothing mixes");
        assert_eq!(grays(1, &bytes), [0]);
        let rgba: Vec<u8> = data.chunks(2).flat_map(|pixel| [pixel[0], pixel[0], pixel[0], pixel[1]]).collect();
        assert_eq!(grays(1, &png(2, 2, ColorType::Rgba, BitDepth::Eight, &rgba, &[])), [0]);
    }

    #[test]
    fn what_is_no_whole_image_is_refused() {
        use crate::ErrorKind::{Format, Unsupported};
        let preprocess = Preprocess::new(2).unwrap();
        let good = png(20, 20, ColorType::Rgb, BitDepth::Eight, &[7; 1200], &[]);
        let mut flipped = good.clone();
        flipped[50] ^= 1;
        let mut out = [0.5; 12];
        for (bytes, kind) in [
            (&good[..good.len() / 2], Format),
            (&good[..20], Format),
            (&flipped, Format),
            (b"\xff\xd8\xff\xe0", Format),
            (b"GIF89a", Unsupported),
            (b"", Unsupported),
        ] {
            let error = preprocess.encoded(bytes, &mut out).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
        }
        assert_eq!(out, [0.5; 12], "nothing is written");
        preprocess.encoded(&good, &mut out).unwrap();
        let error = preprocess.with_max_pixels(399).encoded(&good, &mut out).unwrap_err();
        assert!(error.to_string().contains("at most 399 pixels, got 20 × 20"), "{error}");
    }

    /// 60,000 × 60,000 in 45 bytes: the header must be enough to refuse it.
    #[test]
    fn a_bomb_is_not_decoded() {
        let mut bomb = png(1, 1, ColorType::Grayscale, BitDepth::Eight, &[0], &[]);
        bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
        // The header's checksum, so that it is the size that is refused.
        let checksum = crc32(&bomb[12..29]).to_be_bytes();
        bomb[29..33].copy_from_slice(&checksum);
        let error = Preprocess::new(1).unwrap().encoded(&bomb, &mut [0.0; 3]).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Unsupported, "{error}");
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
        })
    }
}
