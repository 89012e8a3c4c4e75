//! Resizing as Pillow resizes 8-bit images, to the bit, and only as much of it as the crop keeps.
//!
//! The filter, by default the bicubic one with a = −0.5, is widened by the scale where the image shrinks
//! (antialiasing). Its weights are computed in f64, normalised and rounded to fixed point with 22 fractional bits; the
//! horizontal pass comes first; both passes round to 8 bits. Each of these moves bits: `fast_image_resize`, with
//! 16-bit weights and the vertical pass first, gives 8 to 24 % of the values one level away, and more at hard edges.
//! Hence our own arithmetic.
//! Source: Pillow's `src/libImaging/Resample.c` and `Geometry.c`; compared with Pillow 9.5 and 12.2. 12.2 takes the
//! vertical pass first in images that are more than 100 times as high as wide, 13 wherever that is cheaper, mostly in
//! tall images; models from before them never saw that.

use std::f64::consts::PI;
use std::ops::Range;

use super::resize::Interpolation;
use crate::error::Result;
use crate::tensor::try_zeroed;

/// Fractional bits of a weight: 32, less 8 for the result and 2 for the filter's overshoot and its sign.
const PRECISION: u32 = 32 - 8 - 2;
/// One half, so that the shift that ends a sum rounds to the nearest.
const HALF: i32 = 1 << (PRECISION - 1);

/// A filter: a neighbour's weight by its distance.
#[derive(Clone, Copy)]
pub(super) struct Filter {
    weight: fn(f64) -> f64,
    /// The reach on either side of its centre, in pixels of the coarser of the two images.
    support: f64,
}

impl Filter {
    /// The filter of an interpolation; `None` where one pixel is taken as it is.
    pub(super) fn of(interpolation: Interpolation) -> Option<Self> {
        let (weight, support): (fn(f64) -> f64, f64) = match interpolation {
            Interpolation::Nearest => return None,
            Interpolation::Box => (covered, 0.5),
            Interpolation::Bilinear => (bilinear, 1.0),
            Interpolation::Hamming => (hamming, 1.0),
            Interpolation::Bicubic => (bicubic, 2.0),
            Interpolation::Lanczos => (lanczos, 3.0),
        };
        Some(Self { weight, support })
    }
}

fn covered(x: f64) -> f64 {
    if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 }
}

fn bilinear(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}

fn hamming(x: f64) -> f64 {
    let x = x.abs();
    // Pillow has its constants in f32.
    if x < 1.0 { sinc(x) * (f64::from(0.54f32) + f64::from(0.46f32) * (x * PI).cos()) } else { 0.0 }
}

fn lanczos(x: f64) -> f64 {
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

/// The bicubic filter (Keys) with a = −0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// An axis of the resizing: each kept output position is the weighted sum of neighbouring input positions.
pub(super) struct Axis {
    /// The input positions that any kept output position needs.
    pub(super) inputs: Range<usize>,
    /// Per output position: its first input, counted from `inputs.start`, and its weights' place.
    taps: Vec<(usize, Range<usize>)>,
    weights: Vec<i32>,
}

impl Axis {
    /// Resizing `input` positions to `output`, of which the range `kept` is wanted. None of the three is empty.
    pub(super) fn new(input: usize, output: usize, kept: Range<usize>, filter: Filter) -> Result<Self> {
        let scale = input as f64 / output as f64;
        let filter_scale = scale.max(1.0);
        let support = filter.support * filter_scale;
        let widest = support.ceil() as usize * 2 + 1;
        let per_pixel = 1.0 / filter_scale;

        let mut axis = Self { inputs: input..0, taps: Vec::new(), weights: Vec::new() };
        let mut exact: Vec<f64> = try_zeroed(widest)?;
        let room = widest.saturating_mul(kept.len());
        axis.weights.try_reserve_exact(room).map_err(|_| crate::Error::out_of_memory(room.saturating_mul(4)))?;
        for position in kept {
            let centre = (position as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(input);
            let exact = &mut exact[..end - first];
            let mut sum = 0.0;
            for (x, weight) in (first..).zip(exact.iter_mut()) {
                *weight = (filter.weight)((x as f64 - centre + 0.5) * per_pixel);
                sum += *weight;
            }
            // A box can fall between two pixels.
            let sum = if sum == 0.0 { 1.0 } else { sum };
            let start = axis.weights.len();
            // The cast truncates, so adding a half away from zero rounds half away from zero.
            axis.weights.extend(exact.iter().map(|weight| {
                let fixed = weight / sum * f64::from(1u32 << PRECISION);
                (fixed + 0.5f64.copysign(fixed)) as i32
            }));
            axis.taps.push((first, start..axis.weights.len()));
            axis.inputs = axis.inputs.start.min(first)..axis.inputs.end.max(end);
        }
        for (first, _) in &mut axis.taps {
            *first -= axis.inputs.start;
        }
        Ok(axis)
    }

    /// The horizontal pass of one row: `row` holds the pixels [`Axis::inputs`], `out` gets the kept ones.
    pub(super) fn resize_row<const CHANNELS: usize>(&self, row: &[u8], out: &mut [u8]) {
        let (row, _) = row.as_chunks::<CHANNELS>();
        let (out, _) = out.as_chunks_mut::<CHANNELS>();
        for (out, (first, weights)) in out.iter_mut().zip(&self.taps) {
            let mut sums = [HALF; CHANNELS];
            for (pixel, &weight) in row[*first..].iter().zip(&self.weights[weights.clone()]) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            *out = sums.map(clip);
        }
    }

    /// The vertical pass: `rows` holds the rows [`Axis::inputs`] of `width` bytes each, `out` gets the kept ones.
    pub(super) fn resize_columns(&self, rows: &[u8], width: usize, out: &mut [u8]) -> Result<()> {
        let mut sums: Vec<i32> = try_zeroed(width)?;
        for (out, (first, weights)) in out.chunks_exact_mut(width).zip(&self.taps) {
            sums.fill(HALF);
            for (row, &weight) in rows.chunks_exact(width).skip(*first).zip(&self.weights[weights.clone()]) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(value) * weight;
                }
            }
            for (out, &sum) in out.iter_mut().zip(&sums) {
                *out = clip(sum);
            }
        }
        Ok(())
    }
}

/// A sum of fixed-point products as an 8-bit value; the filter overshoots at edges.
fn clip(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// The input position of each kept output position under nearest-neighbour resizing.
///
/// Positions are found by adding the scale up, as Pillow does: its rounding errors decide the ties.
pub(super) fn nearest(input: usize, output: usize, kept: Range<usize>) -> Vec<usize> {
    let scale = input as f64 / output as f64;
    let mut position = scale * 0.5;
    for _ in 0..kept.start {
        position += scale;
    }
    kept.map(|_| {
        let nearest = (position as usize).min(input - 1);
        position += scale;
        nearest
    })
    .collect()
}

/// a·b/255, rounded, for 8-bit values.
pub(super) fn multiply(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    (((product >> 8) + product) >> 8) as u8
}

/// Colours times alpha, alpha being the last channel: a transparent pixel's colour must not bleed into others.
pub(super) fn premultiply<const CHANNELS: usize>(pixels: &mut [u8]) {
    for pixel in pixels.as_chunks_mut::<CHANNELS>().0 {
        if let [colours @ .., alpha] = pixel.as_mut_slice() {
            colours.iter_mut().for_each(|colour| *colour = multiply(*colour, *alpha));
        }
    }
}

/// Colours divided by alpha again, cut off at 255. Pixels of alpha 0 stay as they are.
pub(super) fn unpremultiply<const CHANNELS: usize>(pixels: &mut [u8]) {
    for pixel in pixels.as_chunks_mut::<CHANNELS>().0 {
        if let [colours @ .., alpha] = pixel.as_mut_slice()
            && *alpha > 0
        {
            let alpha = u32::from(*alpha);
            colours.iter_mut().for_each(|colour| *colour = (u32::from(*colour) * 255 / alpha).min(255) as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A product sum must fit 32 bits whatever the pixels are; the arithmetic relies on it.
    #[test]
    fn weights_sum_to_one_and_leave_room() {
        use Interpolation::{Bicubic, Bilinear, Box, Hamming, Lanczos};
        let inputs = [1, 2, 3, 4, 5, 7, 28, 61, 223, 224, 225, 1000, 4096, 100_003];
        for (input, interpolation) in
            inputs.into_iter().flat_map(|i| [Box, Bilinear, Hamming, Bicubic, Lanczos].map(|f| (i, f)))
        {
            for output in [1, 2, 3, 5, 32, 224, 336, 1000] {
                let axis = Axis::new(input, output, 0..output, Filter::of(interpolation).unwrap()).unwrap();
                assert_eq!(axis.taps.len(), output);
                for (first, weights) in &axis.taps {
                    let weights = &axis.weights[weights.clone()];
                    assert!(!weights.is_empty() && axis.inputs.start + first + weights.len() <= input);
                    let sum: i64 = weights.iter().map(|&w| i64::from(w)).sum();
                    assert!((sum - (1 << PRECISION)).unsigned_abs() <= weights.len() as u64, "{input} → {output}");
                    let reach: i64 = weights.iter().map(|&w| i64::from(w).abs()).sum();
                    assert!(reach * 255 + i64::from(HALF) < i64::from(i32::MAX), "{input} → {output}");
                }
            }
        }
    }

    fn filter() -> Filter {
        Filter::of(Interpolation::default()).unwrap()
    }

    #[test]
    fn the_same_size_is_the_same_image() {
        let axis = Axis::new(9, 9, 2..7, filter()).unwrap();
        let row: Vec<u8> = (0..27).map(|i| i * 9).collect();
        let mut out = [0; 15];
        axis.resize_row::<3>(&row[axis.inputs.start * 3..axis.inputs.end * 3], &mut out);
        assert_eq!(out, row[6..21]);
    }

    #[test]
    fn a_crop_needs_only_its_neighbourhood() {
        let axis = Axis::new(100_000, 22_400_000, 11_199_888..11_200_112, filter()).unwrap();
        assert!(axis.inputs.len() <= 6, "{:?}", axis.inputs);
        assert!(axis.inputs.contains(&50_000));
    }

    #[test]
    fn nearest_takes_the_pixel_under_the_centre() {
        assert_eq!(nearest(4, 2, 0..2), [1, 3]);
        assert_eq!(nearest(2, 4, 1..4), [0, 1, 1]);
        assert_eq!(nearest(1, 3, 0..3), [0, 0, 0]);
    }

    #[test]
    fn alpha_survives_a_round_trip_where_it_can() {
        let mut pixels = [200, 100, 50, 255, 200, 100, 50, 0, 255, 1, 0, 128];
        premultiply::<4>(&mut pixels);
        assert_eq!(pixels, [200, 100, 50, 255, 0, 0, 0, 0, 128, 1, 0, 128]);
        unpremultiply::<4>(&mut pixels);
        assert_eq!(pixels, [200, 100, 50, 255, 0, 0, 0, 0, 255, 1, 0, 128]);
    }
}
