//! What an encoder is: its architecture with its configuration, read from the files around its weights, and its graph.

pub mod arch;
pub(crate) mod classifier;
pub mod config;
mod features;
mod form;
pub mod graph;
mod graph_alone;
mod image_size;
mod positions;
mod precisions;
mod published;
mod shapes;
#[cfg(feature = "text")]
pub mod text;
pub mod variant;

pub use arch::Arch;
pub use config::{ConfigSource, ImageHints, Origin, Property, TowerConfig, TowerOptions, TowerValue};
pub use image_size::{base_for_images, for_images};
pub use precisions::{LayerKind, LayerPrecisions};
pub use variant::{Activation, ArchHints, BlockForm, Epsilon, Pooling, Positions, Projection, Rotary, Tokens, Variant};
