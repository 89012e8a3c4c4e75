//! The values that no shape tells of a model: read where they are written down, and never guessed in silence.
//!
//! Heads, activation, epsilon, pooling and the preparation of images come, in this order, from what the caller asks
//! for, the bundle, the configurations beside the weights ([`CONFIGS`]), and the published towers of that shape. What
//! is still open then is assumed to be OpenAI's, and said ([`TowerConfig::assumed`]). Each value has an [`Origin`].

mod files;
mod images;
mod keys;
mod open_clip;
mod preprocessor;
mod read;
mod resolve;
mod stated;
#[cfg(feature = "text")]
mod text;
mod timm;
mod transformers;
mod values;

#[cfg(test)]
mod tests;

pub(crate) use self::files::object;
pub use self::files::{CONFIGS, ConfigSource};
pub use self::images::ImageHints;
pub(super) use self::read::stated_side;
#[cfg(feature = "text")]
pub(super) use self::text::text_hints;
pub use self::values::{Origin, Property, TowerConfig, TowerOptions, TowerValue};
