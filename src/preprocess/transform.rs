//! The transform: resize, crop, normalise.

use std::ops::Range;

use super::pixels::{PixelFormat, Pixels};
use super::resample::{self, Axis, Filter};
use super::resize::{Geometry, Interpolation, ResizeMode, check_size};
use crate::error::{Error, Result};
use crate::tensor::try_zeroed;

/// The mean of each channel (red, green, blue) that CLIP's inputs are freed of.
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// The standard deviation of each channel (red, green, blue) that CLIP's inputs are divided by.
#[allow(clippy::excessive_precision)] // The published digits.
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// Images of more pixels are refused unless [`Preprocess::with_max_pixels`] says otherwise: Pillow's limit.
#[cfg(feature = "images")]
const MAX_PIXELS: usize = 178_956_970;

/// open_clip's evaluation transform for encoders with inputs of S×S pixels.
#[derive(Clone, Debug)]
pub struct Preprocess {
    size: usize,
    resize: ResizeMode,
    /// The pixels that sides are resized to.
    edge: usize,
    interpolation: Interpolation,
    fill: u8,
    #[cfg(feature = "images")]
    pub(super) max_pixels: usize,
    mean: [f32; 3],
    std: [f32; 3],
    /// The normalised value of each 8-bit value, by channel.
    normalised: [[f32; 256]; 3],
}

impl Preprocess {
    /// A transform to inputs of `size` × `size` pixels, normalised with [`CLIP_MEAN`] and [`CLIP_STD`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when `size` is 0 or above 8192.
    pub fn new(size: usize) -> Result<Self> {
        Ok(Self {
            size: check_size(size, "the image size is out of range")?,
            resize: ResizeMode::default(),
            edge: size,
            interpolation: Interpolation::default(),
            fill: 0,
            #[cfg(feature = "images")]
            max_pixels: MAX_PIXELS,
            mean: CLIP_MEAN,
            std: CLIP_STD,
            normalised: normalised(&CLIP_MEAN, &CLIP_STD),
        })
    }

    /// Normalises with another mean and standard deviation (red, green, blue; of values between 0 and 1).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when one is not finite or a deviation is not
    /// above 0.
    pub fn with_mean_std(mut self, mean: [f32; 3], std: [f32; 3]) -> Result<Self> {
        if !mean.iter().chain(&std).all(|value| value.is_finite()) || !std.iter().all(|&value| value > 0.0) {
            return Err(Error::invalid("mean and standard deviation cannot be used")
                .expected("finite numbers, deviations above 0")
                .got(format_args!("mean {mean:?}, standard deviation {std:?}")));
        }
        (self.mean, self.std) = (mean, std);
        self.normalised = normalised(&mean, &std);
        Ok(self)
    }

    /// Files whose images have more pixels than this are refused before they are decoded. The default is
    /// 178,956,970, where Pillow suspects a decompression bomb.
    #[cfg(feature = "images")]
    #[must_use]
    pub fn with_max_pixels(mut self, max_pixels: usize) -> Self {
        self.max_pixels = max_pixels;
        self
    }

    /// Resizes other sides than the shorter one. What lies beyond S×S pixels is cut off around the centre; what is
    /// missing is filled ([`Preprocess::with_fill`]).
    #[must_use]
    pub fn with_resize(mut self, mode: ResizeMode) -> Self {
        self.resize = mode;
        self
    }

    /// Resizes to `edge` pixels, not to S: 256 of which 224 are kept, say. timm's `crop_pct` stands for
    /// ⌊S/`crop_pct`⌋, transformers' `size.shortest_edge` for itself.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when it is 0 or above 8192.
    pub fn with_edge(mut self, edge: usize) -> Result<Self> {
        self.edge = check_size(edge, "the edge to resize to is out of range")?;
        Ok(self)
    }

    /// Resizes with another filter than the bicubic one. Images with a palette, and black-and-white ones, are
    /// resized by nearest neighbour all the same, as Pillow resizes them.
    #[must_use]
    pub fn with_interpolation(mut self, interpolation: Interpolation) -> Self {
        self.interpolation = interpolation;
        self
    }

    /// Fills what a resized image leaves free of S×S pixels with `fill` in each of its own channels; the default is 0.
    /// Where an image has a palette, `fill` is an index, and where it is CMYK, 0 is white: so it is in open_clip.
    #[must_use]
    pub fn with_fill(mut self, fill: u8) -> Self {
        self.fill = fill;
        self
    }

    /// The sides that are resized.
    pub fn resize(&self) -> ResizeMode {
        self.resize
    }

    /// The pixels that the sides are resized to: S unless [`Preprocess::with_edge`] says otherwise.
    pub fn edge(&self) -> usize {
        self.edge
    }

    /// The filter that resizes.
    pub fn interpolation(&self) -> Interpolation {
        self.interpolation
    }

    /// The value of pixels that an image leaves free.
    pub fn fill(&self) -> u8 {
        self.fill
    }

    /// S, the side of the encoder's input in pixels.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The floats that one image takes: 3·S·S.
    pub fn len(&self) -> usize {
        3 * self.size * self.size
    }

    /// Always false: an input has at least one pixel.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The mean of each channel that is subtracted.
    pub fn mean(&self) -> [f32; 3] {
        self.mean
    }

    /// The standard deviation of each channel that is divided by.
    pub fn std(&self) -> [f32; 3] {
        self.std
    }

    /// Preprocesses one image into `out`, [3, S, S] in row-major order.
    ///
    /// Memory is taken for the part of the image that the crop keeps, never for the whole resized image.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when the image is empty, its size and data
    /// disagree, it is so elongated that its longer side would be resized beyond 2²⁶ pixels, or `out` has another
    /// length than [`Preprocess::len`]. `out` is not written then.
    pub fn pixels(&self, pixels: Pixels<'_>, out: &mut [f32]) -> Result<()> {
        self.check_out(out)?;
        pixels.check()?;
        self.resized(&pixels, self.interpolation, |pixel| pixels.format.rgb(pixel), out)
    }

    /// Resizes and crops a checked image, makes each pixel RGB with `rgb`, and normalises it into `out`.
    pub(super) fn resized(
        &self,
        pixels: &Pixels<'_>,
        interpolation: Interpolation,
        rgb: impl Fn(&[u8]) -> [u8; 3],
        out: &mut [f32],
    ) -> Result<()> {
        let geometry = Geometry::new(pixels.width, pixels.height, self.resize, self.edge, self.size)?;
        let cropped = match Filter::of(interpolation) {
            None => nearest(pixels, &geometry)?,
            Some(filter) => match pixels.format {
                PixelFormat::Gray8 => cropped::<1>(pixels, &geometry, filter, None),
                PixelFormat::GrayAlpha8 => cropped::<2>(pixels, &geometry, filter, Some(ALPHA_OF_2)),
                PixelFormat::Rgb8 | PixelFormat::Bgr8 => cropped::<3>(pixels, &geometry, filter, None),
                PixelFormat::Cmyk8 => cropped::<4>(pixels, &geometry, filter, None),
                PixelFormat::Rgba8 | PixelFormat::Bgra8 => cropped::<4>(pixels, &geometry, filter, Some(ALPHA_OF_4)),
            }?,
        };
        let channels = pixels.format.channels();
        if geometry.columns.len() * geometry.rows.len() < self.size * self.size {
            let fill = rgb(&[self.fill; 4][..channels]);
            self.normalise(std::iter::repeat_n(fill, self.size * self.size), &(0..self.size), 0, out);
        }
        let columns = geometry.left..geometry.left + geometry.columns.len();
        self.normalise(cropped.chunks_exact(channels).map(rgb), &columns, geometry.top, out);
        Ok(())
    }

    pub(super) fn check_out(&self, out: &[f32]) -> Result<()> {
        if out.len() == self.len() {
            return Ok(());
        }
        Err(Error::invalid("the output has the wrong length")
            .expected(format_args!("{} floats for [3, {1}, {1}]", self.len(), self.size))
            .got(out.len()))
    }

    /// Writes rows of red, green and blue as three planes of normalised floats: to the `columns`, from row `top` on.
    fn normalise(
        &self,
        mut pixels: impl Iterator<Item = [u8; 3]>,
        columns: &Range<usize>,
        top: usize,
        out: &mut [f32],
    ) {
        let (red, rest) = out.split_at_mut(self.size * self.size);
        let (green, blue) = rest.split_at_mut(self.size * self.size);
        let [reds, greens, blues] = &self.normalised;
        for row in (top..self.size).map(|y| y * self.size + columns.start..y * self.size + columns.end) {
            let row = red[row.clone()].iter_mut().zip(&mut green[row.clone()]).zip(&mut blue[row]);
            for (((red, green), blue), [r, g, b]) in row.zip(&mut pixels) {
                (*red, *green, *blue) = (reds[usize::from(r)], greens[usize::from(g)], blues[usize::from(b)]);
            }
        }
    }
}

fn normalised(mean: &[f32; 3], std: &[f32; 3]) -> [[f32; 256]; 3] {
    std::array::from_fn(|c| std::array::from_fn(|value| (value as f32 / 255.0 - mean[c]) / std[c]))
}

/// The steps before and after resizing an image with alpha.
struct Alpha {
    premultiply: fn(&mut [u8]),
    unpremultiply: fn(&mut [u8]),
}

const ALPHA_OF_2: Alpha =
    Alpha { premultiply: resample::premultiply::<2>, unpremultiply: resample::unpremultiply::<2> };
const ALPHA_OF_4: Alpha =
    Alpha { premultiply: resample::premultiply::<4>, unpremultiply: resample::unpremultiply::<4> };

/// The kept part of the image resized by nearest neighbour.
fn nearest(pixels: &Pixels<'_>, geometry: &Geometry) -> Result<Vec<u8>> {
    let channels = pixels.format.channels();
    let columns = resample::nearest(pixels.width, geometry.width, geometry.columns.clone());
    let rows = resample::nearest(pixels.height, geometry.height, geometry.rows.clone());
    let mut out: Vec<u8> = try_zeroed(columns.len() * rows.len() * channels)?;
    for (out, &y) in out.chunks_exact_mut(columns.len() * channels).zip(&rows) {
        let row = pixels.row(y, &(0..pixels.width));
        for (out, x) in out.chunks_exact_mut(channels).zip(&columns) {
            out.copy_from_slice(&row[x * channels..][..channels]);
        }
    }
    Ok(out)
}

/// The kept part of the resized image, pixels of `CHANNELS` bytes.
fn cropped<const CHANNELS: usize>(
    pixels: &Pixels<'_>,
    geometry: &Geometry,
    filter: Filter,
    alpha: Option<Alpha>,
) -> Result<Vec<u8>> {
    let width = geometry.columns.len() * CHANNELS;
    let mut out: Vec<u8> = try_zeroed(width * geometry.rows.len())?;
    if (pixels.width, pixels.height) == (geometry.width, geometry.height) {
        for (out, y) in out.chunks_exact_mut(width).zip(geometry.rows.clone()) {
            out.copy_from_slice(pixels.row(y, &geometry.columns));
        }
        return Ok(out);
    }

    let across = Axis::new(pixels.width, geometry.width, geometry.columns.clone(), filter)?;
    let down = Axis::new(pixels.height, geometry.height, geometry.rows.clone(), filter)?;
    let mut between: Vec<u8> = try_zeroed(width.saturating_mul(down.inputs.len()))?;
    let mut premultiplied: Vec<u8> = try_zeroed(if alpha.is_some() { across.inputs.len() * CHANNELS } else { 0 })?;
    for (between, y) in between.chunks_exact_mut(width).zip(down.inputs.clone()) {
        let mut row = pixels.row(y, &across.inputs);
        if let Some(alpha) = &alpha {
            premultiplied.copy_from_slice(row);
            (alpha.premultiply)(&mut premultiplied);
            row = &premultiplied;
        }
        across.resize_row::<CHANNELS>(row, between);
    }
    down.resize_columns(&between, width, &mut out)?;
    if let Some(alpha) = &alpha {
        (alpha.unpremultiply)(&mut out);
    }
    Ok(out)
}
