//! What an encoder's options say of the tower, and of the preparation of images.

use std::ffi::c_char;

use super::encoder::tb_encoder_options;
use super::handle;
use crate::error::{Error, Result};
use crate::preprocess::{Interpolation, ResizeMode};
use crate::tower::{Activation, ArchHints, ConfigSource, Epsilon, ImageHints, Pooling, TowerOptions};

/// x*sigmoid(1.702*x): OpenAI's models. As an option: what is read, and this where nothing says it.
pub const TB_ACTIVATION_QUICK_GELU: u32 = 0;
/// x*Phi(x): most models that open_clip trained.
pub const TB_ACTIVATION_GELU: u32 = 1;
/// GELU's approximation by tanh.
pub const TB_ACTIVATION_GELU_TANH: u32 = 2;
/// An option alone: TB_ACTIVATION_QUICK_GELU whatever the bundle or a configuration says.
pub const TB_ACTIVATION_QUICK_GELU_ALWAYS: u32 = 3;

/// What is read.
pub const TB_POOLING_AS_READ: u32 = 0;
/// The class token, normalised: nearly all published towers.
pub const TB_POOLING_CLASS_TOKEN: u32 = 1;
/// The mean of the patches' tokens, then normalised: CLIPA.
pub const TB_POOLING_MEAN_THEN_NORM: u32 = 2;
/// The patches' tokens normalised, then their mean.
pub const TB_POOLING_NORM_THEN_MEAN: u32 = 3;
/// The mean of the patches' tokens, neither normalised nor projected, so that an embedding is as long as the tower is
/// wide: what the classifier of CLIPForImageClassification takes.
pub const TB_POOLING_PATCH_MEAN: u32 = 4;

/// What is read.
pub const TB_RESIZE_AS_READ: u32 = 0;
/// The shorter side, and the centre is cropped.
pub const TB_RESIZE_SHORTEST: u32 = 1;
/// Both sides, whatever the ratio.
pub const TB_RESIZE_SQUASH: u32 = 2;
/// The longer side, and the rest is filled.
pub const TB_RESIZE_LONGEST: u32 = 3;

/// What is read.
pub const TB_INTERPOLATION_AS_READ: u32 = 0;
/// The pixel under the centre.
pub const TB_INTERPOLATION_NEAREST: u32 = 1;
/// The mean of the pixels covered.
pub const TB_INTERPOLATION_BOX: u32 = 2;
/// A triangle.
pub const TB_INTERPOLATION_BILINEAR: u32 = 3;
/// A windowed sinc that is as narrow as the box.
pub const TB_INTERPOLATION_HAMMING: u32 = 4;
/// Keys' cubic.
pub const TB_INTERPOLATION_BICUBIC: u32 = 5;
/// A windowed sinc of three lobes.
pub const TB_INTERPOLATION_LANCZOS: u32 = 6;

/// What is asked for, of the tower and of the preparation of images.
///
/// # Safety
/// As for [`handle::optional_text`], for every text; `mean` and `std` are NULL or three floats.
pub(super) unsafe fn options(options: &tb_encoder_options) -> Result<TowerOptions> {
    let arch = ArchHints {
        heads: (options.heads > 0).then_some(options.heads as usize),
        activation: activation(options.activation)?,
        norm_epsilon: (options.norm_epsilon != 0.0).then(|| Epsilon::new(options.norm_epsilon)).transpose()?,
        pooling: pooling(options.pooling)?,
    };
    // SAFETY: the caller's promise.
    let (mean, std) = unsafe { (channels(options.mean, "options->mean")?, channels(options.std, "options->std")?) };
    let images = ImageHints {
        mean,
        std,
        resize: resize(options.resize)?,
        edge: (options.resize_edge > 0).then_some(options.resize_edge),
        interpolation: interpolation(options.interpolation)?,
        fill: None,
    };
    // SAFETY: the caller's promise.
    let config = unsafe { config(options.config)? };
    Ok(TowerOptions { arch, images, config, has_graph: false })
}

/// # Safety
/// As for [`handle::optional_text`].
unsafe fn config(config: *const c_char) -> Result<ConfigSource> {
    // SAFETY: the caller's promise.
    Ok(match unsafe { handle::optional_text(config, "options->config")? } {
        None => ConfigSource::Beside,
        Some("none") => ConfigSource::Ignored,
        Some(path) => ConfigSource::File(path.into()),
    })
}

/// # Safety
/// `values` is NULL or three floats.
unsafe fn channels(values: *const f32, name: &str) -> Result<Option<[f32; 3]>> {
    if values.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let values = unsafe { handle::slice(values, 3, name)? };
    Ok(values.try_into().ok())
}

fn activation(number: u32) -> Result<Option<Activation>> {
    match number {
        TB_ACTIVATION_QUICK_GELU => Ok(None),
        TB_ACTIVATION_GELU => Ok(Some(Activation::Gelu)),
        TB_ACTIVATION_GELU_TANH => Ok(Some(Activation::GeluTanh)),
        TB_ACTIVATION_QUICK_GELU_ALWAYS => Ok(Some(Activation::QuickGelu)),
        _ => Err(Error::invalid("no such activation").expected("one of TB_ACTIVATION_…").got(number)),
    }
}

pub(super) fn activation_number(activation: Activation) -> u32 {
    match activation {
        Activation::QuickGelu => TB_ACTIVATION_QUICK_GELU,
        Activation::Gelu => TB_ACTIVATION_GELU,
        Activation::GeluTanh => TB_ACTIVATION_GELU_TANH,
    }
}

fn pooling(number: u32) -> Result<Option<Pooling>> {
    match number {
        TB_POOLING_AS_READ => Ok(None),
        TB_POOLING_CLASS_TOKEN => Ok(Some(Pooling::ClassToken)),
        TB_POOLING_MEAN_THEN_NORM => Ok(Some(Pooling::MeanThenNorm)),
        TB_POOLING_NORM_THEN_MEAN => Ok(Some(Pooling::NormThenMean)),
        TB_POOLING_PATCH_MEAN => Ok(Some(Pooling::PatchMean)),
        _ => Err(Error::invalid("no such pooling").expected("one of TB_POOLING_…").got(number)),
    }
}

pub(super) fn pooling_number(pooling: Pooling) -> u32 {
    match pooling {
        Pooling::ClassToken => TB_POOLING_CLASS_TOKEN,
        Pooling::MeanThenNorm => TB_POOLING_MEAN_THEN_NORM,
        Pooling::NormThenMean => TB_POOLING_NORM_THEN_MEAN,
        Pooling::PatchMean => TB_POOLING_PATCH_MEAN,
    }
}

fn resize(number: u32) -> Result<Option<ResizeMode>> {
    match number {
        TB_RESIZE_AS_READ => Ok(None),
        TB_RESIZE_SHORTEST => Ok(Some(ResizeMode::Shortest)),
        TB_RESIZE_SQUASH => Ok(Some(ResizeMode::Squash)),
        TB_RESIZE_LONGEST => Ok(Some(ResizeMode::Longest)),
        _ => Err(Error::invalid("no such resize mode").expected("one of TB_RESIZE_…").got(number)),
    }
}

pub(super) fn resize_number(mode: ResizeMode) -> u32 {
    match mode {
        ResizeMode::Shortest => TB_RESIZE_SHORTEST,
        ResizeMode::Squash => TB_RESIZE_SQUASH,
        ResizeMode::Longest => TB_RESIZE_LONGEST,
    }
}

fn interpolation(number: u32) -> Result<Option<Interpolation>> {
    match number {
        TB_INTERPOLATION_AS_READ => Ok(None),
        TB_INTERPOLATION_NEAREST => Ok(Some(Interpolation::Nearest)),
        TB_INTERPOLATION_BOX => Ok(Some(Interpolation::Box)),
        TB_INTERPOLATION_BILINEAR => Ok(Some(Interpolation::Bilinear)),
        TB_INTERPOLATION_HAMMING => Ok(Some(Interpolation::Hamming)),
        TB_INTERPOLATION_BICUBIC => Ok(Some(Interpolation::Bicubic)),
        TB_INTERPOLATION_LANCZOS => Ok(Some(Interpolation::Lanczos)),
        _ => Err(Error::invalid("no such interpolation").expected("one of TB_INTERPOLATION_…").got(number)),
    }
}

pub(super) fn interpolation_number(interpolation: Interpolation) -> u32 {
    match interpolation {
        Interpolation::Nearest => TB_INTERPOLATION_NEAREST,
        Interpolation::Box => TB_INTERPOLATION_BOX,
        Interpolation::Bilinear => TB_INTERPOLATION_BILINEAR,
        Interpolation::Hamming => TB_INTERPOLATION_HAMMING,
        Interpolation::Bicubic => TB_INTERPOLATION_BICUBIC,
        Interpolation::Lanczos => TB_INTERPOLATION_LANCZOS,
    }
}
