//! The part of an encoder's options about the tower, and of the preparation of images.

use std::ffi::c_char;

use super::encoder::tb_encoder_options;
use super::{handle, tower};
use crate::error::Result;
use crate::tower::{Activation, ArchHints, ConfigSource, Epsilon, ImageHints, TowerOptions};

impl tb_encoder_options {
    /// The options that are asked for, of the tower and of the preparation of images.
    ///
    /// # Safety
    /// As for [`handle::optional_text`], for every text; `mean` and `std` are NULL or three floats.
    pub(super) unsafe fn tower(&self) -> Result<TowerOptions> {
        let arch = ArchHints {
            heads: (self.heads > 0).then_some(self.heads as usize),
            activation: activation(self.activation)?,
            norm_epsilon: (self.norm_epsilon != 0.0).then(|| Epsilon::new(self.norm_epsilon)).transpose()?,
            pooling: tower::POOLINGS.option(self.pooling)?,
            grid: None,
        };
        // SAFETY: the caller's promise.
        let (mean, std) = unsafe { (channels(self.mean, "options->mean")?, channels(self.std, "options->std")?) };
        let images = ImageHints {
            mean,
            std,
            resize: tower::RESIZE_MODES.option(self.resize)?,
            edge: (self.resize_edge > 0).then_some(self.resize_edge),
            interpolation: tower::INTERPOLATIONS.option(self.interpolation)?,
            fill: None,
        };
        // SAFETY: the caller's promise.
        let config = unsafe { config(self.config)? };
        Ok(TowerOptions { arch, images, config, has_graph: false })
    }
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

/// The activation that an option's constant names; the first one stands for what is read.
fn activation(number: u32) -> Result<Option<Activation>> {
    match number {
        tower::TB_ACTIVATION_QUICK_GELU => Ok(None),
        tower::TB_ACTIVATION_QUICK_GELU_ALWAYS => Ok(Some(Activation::QuickGelu)),
        number => tower::ACTIVATIONS.value(number).map(Some),
    }
}
