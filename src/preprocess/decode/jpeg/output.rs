//! From the channels' samples to pixels: subsampled channels are enlarged, and colours converted.

use super::super::decoded::Decoded;
use super::frame::{Component, Frame};
use super::scan;
use crate::error::Result;
use crate::preprocess::pixels::PixelFormat;
use crate::tensor::try_zeroed;

/// The way in which a channel is enlarged to the image's size.
enum Enlarge {
    /// Each sample is repeated: so often across, so often down.
    Repeat(usize, usize),
    /// Twice as wide, weighing neighbours 3 : 1.
    Across,
    /// Twice as high, weighing neighbours 3 : 1.
    Down,
    /// Twice as wide and as high, weighing neighbours 9 : 3 : 3 : 1.
    Both,
}

impl Enlarge {
    fn of(component: &Component, most: (usize, usize)) -> Self {
        let factors = (most.0 / component.factors.0, most.1 / component.factors.1);
        match factors {
            (2, 1) if component.width > 2 => Self::Across,
            (2, 2) if component.width > 2 => Self::Both,
            (1, 2) => Self::Down,
            (across, down) => Self::Repeat(across, down),
        }
    }

    /// Row `y` of the image.
    fn row(&self, component: &Component, y: usize, out: &mut [u8]) {
        let stride = component.across * 8;
        let row = |y: usize| &component.samples[y * stride..][..component.width];
        // The row that is next but one-half away, within the image.
        let (near, far) = match y % 2 {
            0 => (y / 2, (y / 2).saturating_sub(1)),
            _ => (y / 2, (y / 2 + 1).min(component.height - 1)),
        };
        match *self {
            Self::Repeat(1, down) => {
                let row = row(y / down);
                out[..row.len()].copy_from_slice(row);
            }
            Self::Repeat(across, down) => {
                for (out, &sample) in out.chunks_mut(across).zip(row(y / down)) {
                    out.fill(sample);
                }
            }
            Self::Across => {
                let row = row(y);
                across(component.width, |x| u32::from(row[x]), 2, [1, 2], out);
            }
            Self::Down => {
                let bias = if y.is_multiple_of(2) { 1 } else { 2 };
                for (out, (&near, &far)) in out.iter_mut().zip(row(near).iter().zip(row(far))) {
                    *out = ((u32::from(near) * 3 + u32::from(far) + bias) >> 2) as u8;
                }
            }
            Self::Both => {
                let (near, far) = (row(near), row(far));
                across(component.width, |x| u32::from(near[x]) * 3 + u32::from(far[x]), 4, [8, 7], out);
            }
        }
    }
}

/// Twice as many values as `width`: three quarters of the nearer and one of the farther, over 2^`bits`, the left and
/// the right one of each pair with its own bias. Beyond the outermost lie their like.
fn across(width: usize, value: impl Fn(usize) -> u32, bits: u32, bias: [u32; 2], out: &mut [u8]) {
    let (mut before, mut near) = (value(0), value(0));
    for (x, pair) in out.chunks_exact_mut(2).take(width).enumerate() {
        let after = value((x + 1).min(width - 1));
        pair[0] = ((near * 3 + before + bias[0]) >> bits) as u8;
        pair[1] = ((near * 3 + after + bias[1]) >> bits) as u8;
        (before, near) = (near, after);
    }
}

/// The meaning of a file's channels.
#[derive(Clone, Copy, PartialEq)]
enum Colours {
    Gray,
    Rgb,
    Ycc,
    Cmyk,
    Ycck,
}

impl Colours {
    /// The meaning that libjpeg gives the channels.
    fn of(frame: &Frame, jfif: bool, adobe: Option<u8>) -> Self {
        match (&*frame.components, adobe) {
            ([_], _) => Self::Gray,
            ([_, _, _], _) if jfif => Self::Ycc,
            ([_, _, _], Some(0)) => Self::Rgb,
            ([r, g, b], None) if [r.id, g.id, b.id] == *b"RGB" => Self::Rgb,
            ([_, _, _], _) => Self::Ycc,
            (_, None | Some(0)) => Self::Cmyk,
            _ => Self::Ycck,
        }
    }

    fn format(self) -> PixelFormat {
        match self {
            Self::Gray => PixelFormat::Gray8,
            Self::Rgb | Self::Ycc => PixelFormat::Rgb8,
            Self::Cmyk | Self::Ycck => PixelFormat::Cmyk8,
        }
    }
}

/// The pixels of a frame whose scans have all been read.
pub(super) fn assemble(mut frame: Frame, jfif: bool, adobe: Option<u8>) -> Result<Decoded> {
    let colours = Colours::of(&frame, jfif, adobe);
    let width = frame.width;
    let height = frame.height;
    let format = colours.format();
    for component in &mut frame.components {
        scan::finish(component)?;
    }
    let enlarge: Vec<_> = frame.components.iter().map(|component| Enlarge::of(component, frame.max_factors)).collect();
    // The enlarged row may be longer than the image by what fills its last sample.
    let mut rows = Vec::new();
    for _ in &frame.components {
        rows.push(try_zeroed::<u8>(width + 4)?);
    }
    let mut bytes: Vec<u8> = try_zeroed(width * height * format.channels())?;
    for (y, out) in bytes.chunks_exact_mut(width * format.channels()).enumerate() {
        for ((component, enlarge), row) in frame.components.iter().zip(&enlarge).zip(&mut rows) {
            enlarge.row(component, y, row);
        }
        convert(colours, &rows, out);
    }
    Ok(Decoded::Pixels { bytes, width, height, format })
}

/// A row of pixels as Pillow has them: grey, RGB, or CMYK, whose channels JPEG files hold inverted.
fn convert(colours: Colours, rows: &[Vec<u8>], out: &mut [u8]) {
    match (colours, rows) {
        (Colours::Ycc, [y, cb, cr]) => {
            for (pixel, ((&y, &cb), &cr)) in out.as_chunks_mut::<3>().0.iter_mut().zip(y.iter().zip(cb).zip(cr)) {
                *pixel = rgb(y, cb, cr);
            }
        }
        // The colours are converted to the inverse of CMY, and inverted once more.
        (Colours::Ycck, [y, cb, cr, k]) => {
            let inks = y.iter().zip(cb).zip(cr).zip(k);
            for (pixel, (((&y, &cb), &cr), &k)) in out.as_chunks_mut::<4>().0.iter_mut().zip(inks) {
                let [c, m, y] = rgb(y, cb, cr);
                *pixel = [c, m, y, 255 - k];
            }
        }
        _ => {
            let flip = if colours == Colours::Cmyk { 255 } else { 0 };
            for (x, pixel) in out.chunks_exact_mut(rows.len()).enumerate() {
                for (out, row) in pixel.iter_mut().zip(rows) {
                    *out = row[x] ^ flip;
                }
            }
        }
    }
}

/// Luma and two chroma channels as red, green and blue, with 16 fractional bits of the constants.
fn rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let half = 1 << 15;
    let red = y + ((91_881 * cr + half) >> 16);
    let green = y + ((-22_554 * cb - 46_802 * cr + half) >> 16);
    let blue = y + ((116_130 * cb + half) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}
