//! BMP files: with and without a palette, run-length coded or not.
//!
//! The `image` crate has no palette's indices of fewer than 8 bits; Pillow keeps them.

use super::decoded::{Decoded, check_pixels, unpacked};
use crate::error::{Error, Result};
use crate::preprocess::pixels::PixelFormat;
use crate::tensor::try_zeroed;

/// The values of the header.
struct Header {
    width: usize,
    height: usize,
    /// Whether the first row is the top one.
    downwards: bool,
    bits: usize,
    compression: u32,
    /// Red, green, blue and alpha, where the file says where they lie.
    masks: [u32; 4],
    /// Its colours, the blue first, and the bytes of one.
    palette: usize,
    colours: usize,
    colour: usize,
    data: usize,
}

pub(super) fn decode(bytes: &[u8], max_pixels: usize) -> Result<Decoded> {
    let header = Header::read(bytes)?;
    check_pixels(header.width, header.height, max_pixels)?;
    match (header.bits, header.compression) {
        (1 | 4 | 8, 0) => header.indexed(bytes, None),
        (4, 2) | (8, 1) => header.indexed(bytes, Some(header.bits)),
        (16 | 24 | 32, 0 | 3) => header.direct(bytes),
        (bits, compression) => Err(Error::unsupported("a BMP image of this kind")
            .expected("1, 4, 8, 16, 24 or 32 bits per pixel, as they are or run-length coded")
            .got(format_args!("{bits} bits, compression {compression}"))),
    }
}

fn truncated() -> Error {
    Error::format("the BMP image is truncated")
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    let value = bytes.get(at..).and_then(|from| from.first_chunk());
    value.map(|&value| u16::from_le_bytes(value)).ok_or_else(truncated)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let value = bytes.get(at..).and_then(|from| from.first_chunk());
    value.map(|&value| u32::from_le_bytes(value)).ok_or_else(truncated)
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self> {
        let data = u32_at(bytes, 10)? as usize;
        let size = u32_at(bytes, 14)? as usize;
        let mut header = match size {
            12 => Self {
                width: u16_at(bytes, 18)?.into(),
                height: u16_at(bytes, 20)?.into(),
                downwards: false,
                bits: u16_at(bytes, 24)?.into(),
                compression: 0,
                masks: [0; 4],
                palette: 26,
                colours: 0,
                colour: 3,
                data,
            },
            40 | 52 | 56 | 64 | 108 | 124 => {
                let height = u32_at(bytes, 22)?.cast_signed();
                Self {
                    width: u32_at(bytes, 18)? as usize,
                    height: height.unsigned_abs() as usize,
                    downwards: height < 0,
                    bits: u16_at(bytes, 28)?.into(),
                    compression: u32_at(bytes, 30)?,
                    masks: [0; 4],
                    palette: 14 + size,
                    colours: u32_at(bytes, 46)? as usize,
                    colour: 4,
                    data,
                }
            }
            size => {
                return Err(Error::unsupported("a BMP image with an unknown header").got(format_args!("{size} bytes")));
            }
        };
        if header.width == 0 || header.height == 0 || header.width > i32::MAX as usize {
            let (width, height) = (header.width, header.height);
            return Err(Error::format("not a valid BMP image").got(format_args!("{width} × {height} pixels")));
        }
        if header.compression == 3 {
            // The shortest header has three masks behind it, and none for alpha.
            for (at, mask) in header.masks.iter_mut().enumerate().take(if size < 56 { 3 } else { 4 }) {
                *mask = u32_at(bytes, 54 + 4 * at)?;
            }
        }
        if header.colours == 0 && header.bits <= 8 {
            header.colours = 1 << header.bits;
        }
        if header.data == 0 || header.data == 14 + size && header.bits <= 8 {
            header.data = 14 + size + header.colours.min(256) * header.colour;
        }
        Ok(header)
    }

    fn pixels<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        bytes.get(self.data..).ok_or_else(truncated)
    }

    /// The rows as they lie in the file, the top one first.
    fn rows<'a>(&self, bytes: &'a [u8]) -> Result<Vec<&'a [u8]>> {
        let stride = (self.width * self.bits).div_ceil(32) * 4;
        let used = (self.width * self.bits).div_ceil(8);
        let pixels = self.pixels(bytes)?;
        if pixels.len() / stride < self.height - 1 {
            return Err(truncated());
        }
        let place = |y| if self.downwards { y } else { self.height - 1 - y };
        (0..self.height)
            .map(|y| pixels.get(place(y) * stride..)?.get(..used))
            .collect::<Option<_>>()
            .ok_or_else(truncated)
    }

    fn indexed(&self, bytes: &[u8], runs: Option<usize>) -> Result<Decoded> {
        let palette = bytes.get(self.palette..).unwrap_or(&[]).get(..self.colours.min(256) * self.colour);
        let palette: Vec<[u8; 3]> =
            palette.ok_or_else(truncated)?.chunks_exact(self.colour).map(|c| [c[2], c[1], c[0]]).collect();
        let (width, height) = (self.width, self.height);
        let indices = match runs {
            Some(bits) => self.run_lengths(self.pixels(bytes)?, bits)?,
            None => {
                let rows = self.rows(bytes)?;
                let mut indices = try_zeroed(width * height)?;
                for (row, out) in rows.into_iter().zip(indices.chunks_exact_mut(width)) {
                    match self.bits {
                        8 => out.copy_from_slice(row),
                        bits => out.copy_from_slice(&unpacked(row, width, 1, bits, row.len())?),
                    }
                }
                indices
            }
        };
        if self.bits == 1 && palette == [[0; 3], [255; 3]] {
            return Ok(Decoded::black_and_white(indices, width, height));
        }
        Ok(Decoded::with_palette(indices, width, height, &palette, self.colours > 2))
    }

    /// Run-length coded indices: pairs of a count and a value; a count of 0 escapes.
    fn run_lengths(&self, mut data: &[u8], bits: usize) -> Result<Vec<u8>> {
        let (width, height) = (self.width, self.height);
        // Four bytes pass over 255 rows; nothing else gets further with so few.
        if height / 255 > data.len() / 4 + 1 {
            return Err(truncated());
        }
        let mut indices: Vec<u8> = try_zeroed(width * height)?;
        let (mut x, mut y) = (0, 0);
        let mut put = |x: &mut usize, y: usize, index| {
            if *x < width && y < height {
                indices[(height - 1 - y) * width + *x] = index;
            }
            *x += 1;
        };
        let index = |value: u8, at: usize| match (bits, at % 2) {
            (8, _) => value,
            (_, 0) => value >> 4,
            _ => value & 15,
        };
        while y < height {
            match *data {
                [0, 0, ref rest @ ..] => (x, y, data) = (0, y + 1, rest),
                // What a row lacks is left at 0, but rows may not be missing.
                [0, 1, ..] if y + 1 == height && x >= width => break,
                [0, 1, ..] => return Err(truncated()),
                [0, 2, right, up, ref rest @ ..] => {
                    (x, y, data) = (x + usize::from(right), y + usize::from(up), rest);
                }
                [0, count, ref rest @ ..] => {
                    let length = (usize::from(count) * bits).div_ceil(8);
                    let values = rest.get(..length).ok_or_else(truncated)?;
                    (0..usize::from(count)).for_each(|at| put(&mut x, y, index(values[at * bits / 8], at)));
                    data = rest.get(length.next_multiple_of(2)..).unwrap_or(&[]);
                }
                [count, value, ref rest @ ..] => {
                    (0..usize::from(count)).for_each(|at| put(&mut x, y, index(value, at)));
                    data = rest;
                }
                _ => return Err(truncated()),
            }
        }
        Ok(indices)
    }

    fn direct(&self, bytes: &[u8]) -> Result<Decoded> {
        let (places, format) = self.places()?;
        let channels = format.channels();
        let rows = self.rows(bytes)?;
        let mut pixels = try_zeroed(self.width * self.height * channels)?;
        let rows = rows.into_iter().zip(pixels.chunks_exact_mut(self.width * channels));
        for (row, out) in rows {
            for (pixel, out) in row.chunks_exact(self.bits / 8).zip(out.chunks_exact_mut(channels)) {
                let value = pixel.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
                for (out, (shift, most)) in out.iter_mut().zip(places) {
                    *out = ((value >> shift & most) * 255 / most) as u8;
                }
            }
        }
        Ok(Decoded::Pixels { bytes: pixels, width: self.width, height: self.height, format })
    }

    /// The bit at which each channel begins in a pixel, and its largest value.
    fn places(&self) -> Result<([(u32, u32); 4], PixelFormat)> {
        let masks = match (self.bits, self.compression, self.masks) {
            (16, 0, _) => [0x7c00, 0x3e0, 0x1f, 0],
            (_, 0, _) => [0xff_0000, 0xff00, 0xff, 0],
            // So Pillow takes masks that say nothing.
            (32, _, [0, 0, 0, 0]) => [0xff_0000, 0xff00, 0xff, 0xff00_0000],
            (_, _, masks) => masks,
        };
        let format = if masks[3] == 0 { PixelFormat::Rgb8 } else { PixelFormat::Rgba8 };
        let place = |mask: u32| {
            let shift = mask.trailing_zeros();
            let most = mask.checked_shr(shift).unwrap_or(0);
            ((most & (most.wrapping_add(1))) == 0 && (1..=255).contains(&most)).then_some((shift, most))
        };
        let [red, green, blue] = [masks[0], masks[1], masks[2]].map(place);
        let alpha = if masks[3] == 0 { Some((0, 1)) } else { place(masks[3]) };
        match (red, green, blue, alpha) {
            (Some(red), Some(green), Some(blue), Some(alpha)) => Ok(([red, green, blue, alpha], format)),
            _ => Err(Error::unsupported("a BMP image whose channels are cut up")
                .expected("up to 8 bits side by side per channel")
                .got(format_args!("the masks {masks:08x?}"))),
        }
    }
}
