//! The preparation of images, as callers, bundles and configurations say it.

use crate::error::{Error, Result};
use crate::preprocess::{CLIP_MEAN, CLIP_STD, Interpolation, Preprocess, ResizeMode};

/// The preparation of images, as far as it is known; `None` is not known here.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ImageHints {
    /// The mean that is subtracted from each channel (red, green, blue; between 0 and 1).
    pub mean: Option<[f32; 3]>,
    /// The standard deviation that each channel is divided by.
    pub std: Option<[f32; 3]>,
    /// The sides that are resized.
    pub resize: Option<ResizeMode>,
    /// The pixels that those sides are resized to; the input's side where nothing says so.
    pub edge: Option<usize>,
    /// The filter that resizes.
    pub interpolation: Option<Interpolation>,
    /// The value of pixels that an image leaves free.
    pub fill: Option<u8>,
}

impl ImageHints {
    /// The hints of OpenAI's towers, and of open_clip's where nothing else is said.
    pub fn clip() -> Self {
        Self {
            mean: Some(CLIP_MEAN),
            std: Some(CLIP_STD),
            resize: Some(ResizeMode::default()),
            edge: None,
            interpolation: Some(Interpolation::default()),
            fill: Some(0),
        }
    }

    /// The hints that give `preprocess`.
    pub fn of(preprocess: &Preprocess) -> Self {
        Self {
            mean: Some(preprocess.mean()),
            std: Some(preprocess.std()),
            resize: Some(preprocess.resize()),
            edge: Some(preprocess.edge()),
            interpolation: Some(preprocess.interpolation()),
            fill: Some(preprocess.fill()),
        }
    }

    /// These hints, and `other`'s where these leave something open.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            mean: self.mean.or(other.mean),
            std: self.std.or(other.std),
            resize: self.resize.or(other.resize),
            edge: self.edge.or(other.edge),
            interpolation: self.interpolation.or(other.interpolation),
            fill: self.fill.or(other.fill),
        }
    }

    /// The preparation for inputs of `size`×`size` pixels; what is open is CLIP's.
    ///
    /// # Errors
    /// As [`Preprocess::new`], [`Preprocess::with_mean_std`] and [`Preprocess::with_edge`].
    pub fn preprocess(&self, size: usize) -> Result<Preprocess> {
        let mean = self.mean.unwrap_or(CLIP_MEAN);
        let std = self.std.unwrap_or(CLIP_STD);
        Ok(Preprocess::new(size)?
            .with_mean_std(mean, std)?
            .with_resize(self.resize.unwrap_or_default())
            .with_edge(self.edge.unwrap_or(size))?
            .with_interpolation(self.interpolation.unwrap_or_default())
            .with_fill(self.fill.unwrap_or(0)))
    }
}

/// A filter by the name that open_clip, timm and torchvision have for it.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for any other.
pub(super) fn interpolation(name: &str) -> Result<Interpolation> {
    let known = Interpolation::ALL.into_iter().find(|known| known.to_string() == name);
    known.ok_or_else(|| {
        Error::unsupported("an interpolation that is not built in")
            .expected("bicubic, bilinear, nearest, box, hamming or lanczos")
            .got(format_args!("`{name}`"))
    })
}
