//! PBM, PGM and PPM files, as text or bytes.
//!
//! The `image` crate scales samples in f32 and takes no comments within the data; Pillow's values are these.

use super::decoded::{Decoded, check_pixels, unpacked};
use crate::error::{Error, Result};
use crate::preprocess::pixels::PixelFormat;
use crate::tensor::try_zeroed;

/// The most digits of a number in such a file.
const MAX_DIGITS: usize = 10;

pub(super) fn decode(bytes: &[u8], max_pixels: usize) -> Result<Decoded> {
    let mut text = Text { bytes, at: 2 };
    let (width, height) = (text.number()?, text.number()?);
    if width == 0 || height == 0 {
        return Err(invalid().got(format_args!("{width} × {height} pixels")));
    }
    check_pixels(width, height, max_pixels)?;
    let kind = bytes[1] - b'0';
    if kind == 1 || kind == 4 {
        return decode_bits(text, width, height, kind == 1);
    }
    let most = text.number()?;
    if !(1..65536).contains(&most) {
        return Err(invalid().expected("a largest value of 1 to 65535").got(most));
    }
    let format = if kind == 2 || kind == 5 { PixelFormat::Gray8 } else { PixelFormat::Rgb8 };
    let count = width * height * format.channels();
    let wide = most > 255;
    let mut data = text.data();
    // A number in text is a digit at least, and something between it and the next one.
    let least = if kind < 4 { 2 * count - 1 } else { count << usize::from(wide) };
    if least > bytes.len() - text.at {
        return Err(truncated());
    }
    let mut samples: Vec<u8> = try_zeroed(count)?;
    for out in &mut samples {
        let value = match (kind, data) {
            (2 | 3, _) => text.number()?,
            (_, [high, low, rest @ ..]) if wide => {
                data = rest;
                usize::from(u16::from_be_bytes([*high, *low]))
            }
            (_, [value, rest @ ..]) if !wide => {
                data = rest;
                usize::from(*value)
            }
            _ => return Err(truncated()),
        };
        if value > most && kind < 4 {
            return Err(invalid().expected(format_args!("values up to {most}")).got(value));
        }
        *out = scaled(value, most, wide && format == PixelFormat::Gray8);
    }
    Ok(Decoded::Pixels { bytes: samples, width, height, format })
}

/// A sample in 8 bits. Of 16-bit grey the upper eight count, as in a PNG file.
fn scaled(value: usize, most: usize, wide_gray: bool) -> u8 {
    let scaled = |full: f64| (value as f64 / most as f64 * full).round_ties_even().min(full);
    if wide_gray { (scaled(65535.0) as u16 >> 8) as u8 } else { scaled(255.0) as u8 }
}

/// The samples of a file of bits, in which black is 1.
fn decode_bits(mut text: Text<'_>, width: usize, height: usize, digits: bool) -> Result<Decoded> {
    let mut samples = if digits {
        if width * height > text.bytes.len() - text.at {
            return Err(truncated());
        }
        let mut samples: Vec<u8> = try_zeroed(width * height)?;
        for sample in &mut samples {
            *sample = match text.start() {
                Some(b'0') => 0,
                Some(b'1') => 1,
                Some(_) => return Err(invalid().expected("0 or 1").got("another character")),
                None => return Err(truncated()),
            };
            text.at += 1;
        }
        samples
    } else {
        let stride = width.div_ceil(8);
        let data = text.data();
        if data.len() < stride * height {
            return Err(truncated());
        }
        unpacked(data, width, height, 1, stride)?
    };
    samples.iter_mut().for_each(|sample| *sample ^= 1);
    Ok(Decoded::black_and_white(samples, width, height))
}

fn invalid() -> Error {
    Error::format("not a valid PPM, PGM or PBM image")
}

fn truncated() -> Error {
    Error::format("the PPM, PGM or PBM image is truncated")
}

/// The text of a header, or of samples.
struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Text<'a> {
    /// The first byte that is neither white space nor a comment; [`Text::at`] is its place.
    fn start(&mut self) -> Option<u8> {
        loop {
            match *self.bytes.get(self.at)? {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'#' => {
                    let comment = self.bytes[self.at..].iter().position(|byte| matches!(byte, b'\n' | b'\r'))?;
                    self.at += comment;
                }
                byte => return Some(byte),
            }
        }
    }

    fn number(&mut self) -> Result<usize> {
        self.start().ok_or_else(truncated)?;
        let digits = self.bytes[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = std::str::from_utf8(&self.bytes[self.at..self.at + digits]).ok();
        let number = number.filter(|_| digits <= MAX_DIGITS).and_then(|number| number.parse().ok());
        self.at += digits;
        number.ok_or_else(|| invalid().expected("a number"))
    }

    /// The bytes after the white space behind the header.
    fn data(&self) -> &'a [u8] {
        self.bytes.get(self.at + 1..).unwrap_or(&[])
    }
}
