//! From an image to the encoder's input: open_clip's evaluation transform, to the bit.
//!
//! 1. Resize so that the shorter side is S, the other one ⌊S·long/short⌋: bicubic with antialiasing, in Pillow's
//!    8-bit arithmetic, **in the image's own mode**: a palette or black-and-white image is resized by nearest
//!    neighbour, one with alpha is premultiplied, resized and divided again. An image whose shorter side is S already
//!    is left alone.
//! 2. Cut S×S out of the middle, the offset rounded half to even.
//! 3. Make it RGB: grey is repeated, **alpha is dropped** (not blended with a background).
//! 4. Take (x/255 − mean)/std in f32, channels first.
//!
//! Models that say so in their configs resize other sides, to another edge or with another filter
//! ([`Preprocess::with_resize`], [`Preprocess::with_edge`], [`Preprocess::with_interpolation`]).
//!
//! That the order is this one, and not RGB first, was checked against tensors that open_clip made: for images with
//! a palette or with alpha the two differ by up to 1.8 and 0.13, while the one built here agrees in every bit.
//!
//! The image may be in memory already ([`Preprocess::pixels`]) or, with the feature `images`, in a file
//! ([`Preprocess::file`], [`Preprocess::encoded`]).

mod batch;
#[cfg(feature = "images")]
mod decode;
pub mod image_files;
mod names;
mod resample;
mod resize;

use std::ops::Range;

pub use batch::Readable;
pub use image_files::ImageFiles;
pub use names::is_image_name;
pub use resize::{Interpolation, ResizeMode};

use crate::error::{Error, Result};
use crate::tensor::try_zeroed;
use resample::{Axis, Filter};
use resize::{Geometry, check_size};

/// The mean of each channel (red, green, blue) that CLIP's inputs are freed of.
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// The standard deviation of each channel (red, green, blue) that CLIP's inputs are divided by.
#[allow(clippy::excessive_precision)] // The published digits.
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// Images of more pixels are refused unless [`Preprocess::with_max_pixels`] says otherwise: Pillow's limit.
#[cfg(feature = "images")]
const MAX_PIXELS: usize = 178_956_970;

/// The bytes of a pixel, one a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PixelFormat {
    /// Red, green, blue.
    Rgb8,
    /// Red, green, blue, alpha (not premultiplied). Alpha weighs the colours while resizing and is then dropped.
    Rgba8,
    /// Blue, green, red, as OpenCV and many cameras keep them.
    Bgr8,
    /// Blue, green, red, alpha; alpha as in [`PixelFormat::Rgba8`].
    Bgra8,
    /// Grey alone: the same as equal red, green and blue.
    Gray8,
    /// Grey and alpha; alpha as in [`PixelFormat::Rgba8`].
    GrayAlpha8,
    /// Cyan, magenta, yellow, black, 0 being none: resized so, and then made RGB without a colour profile.
    Cmyk8,
}

impl PixelFormat {
    /// Bytes a pixel.
    pub const fn channels(self) -> usize {
        match self {
            Self::Gray8 => 1,
            Self::GrayAlpha8 => 2,
            Self::Rgb8 | Self::Bgr8 => 3,
            Self::Rgba8 | Self::Bgra8 | Self::Cmyk8 => 4,
        }
    }

    /// A pixel's red, green and blue.
    fn rgb(self, pixel: &[u8]) -> [u8; 3] {
        match (self, pixel) {
            (Self::Cmyk8, &[c, m, y, k]) => [c, m, y].map(|ink| 255 - k - resample::multiply(ink, 255 - k)),
            (Self::Bgr8 | Self::Bgra8, &[b, g, r, ..]) => [r, g, b],
            (_, &[r, g, b, ..]) => [r, g, b],
            _ => [pixel[0]; 3],
        }
    }
}

/// An image in somebody else's memory.
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a> {
    /// Row after row, the top one first.
    pub data: &'a [u8],
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// Bytes from the start of a row to the start of the next: at least `width` × bytes a pixel.
    pub row_stride: usize,
    /// The bytes of a pixel.
    pub format: PixelFormat,
}

impl<'a> Pixels<'a> {
    /// An image whose rows follow each other without a gap.
    pub const fn packed(data: &'a [u8], width: usize, height: usize, format: PixelFormat) -> Self {
        Self { data, width, height, row_stride: width.saturating_mul(format.channels()), format }
    }

    /// Every pixel lies within the data; what follows relies on it.
    fn check(&self) -> Result<()> {
        let row = self.width.checked_mul(self.format.channels());
        // The last row needs no padding after it.
        if let Some(row) = row.filter(|&row| row > self.row_stride) {
            return Err(Error::invalid("row_stride is smaller than a row")
                .expected(format_args!("at least {row}"))
                .got(self.row_stride));
        }
        let needed = row.and_then(|row| self.height.saturating_sub(1).checked_mul(self.row_stride)?.checked_add(row));
        match needed {
            Some(needed) if needed <= self.data.len() => Ok(()),
            _ => Err(Error::invalid("an image's size and data disagree")
                .expected(format_args!(
                    "{} rows of {} {:?} pixels, {} bytes apart",
                    self.height, self.width, self.format, self.row_stride
                ))
                .got(format_args!("{} bytes", self.data.len()))),
        }
    }

    /// The pixels `columns` of row `y`, both within the image.
    fn row(&self, y: usize, columns: &Range<usize>) -> &'a [u8] {
        let channels = self.format.channels();
        let start = y * self.row_stride;
        &self.data[start + columns.start * channels..start + columns.end * channels]
    }
}

/// open_clip's evaluation transform for encoders with inputs of S×S pixels.
#[derive(Clone, Debug)]
pub struct Preprocess {
    size: usize,
    resize: ResizeMode,
    /// In pixels.
    edge: usize,
    interpolation: Interpolation,
    fill: u8,
    #[cfg(feature = "images")]
    max_pixels: usize,
    mean: [f32; 3],
    std: [f32; 3],
    /// The normalised value of each 8-bit value, by channel.
    normalised: [[f32; 256]; 3],
}

impl Preprocess {
    /// Inputs of `size` × `size` pixels, normalised with [`CLIP_MEAN`] and [`CLIP_STD`].
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
    fn resized(
        &self,
        pixels: &Pixels<'_>,
        interpolation: Interpolation,
        rgb: impl Fn(&[u8]) -> [u8; 3],
        out: &mut [f32],
    ) -> Result<()> {
        let geometry = Geometry::new(pixels.width, pixels.height, self)?;
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

    fn check_out(&self, out: &[f32]) -> Result<()> {
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

/// What must happen to an image with alpha before and after resizing.
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

#[cfg(test)]
mod tests;
