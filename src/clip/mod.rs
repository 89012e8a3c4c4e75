//! CLIP around the weights: the image encoder's architecture and graph, pixels in, class scores out.

pub mod arch;
mod classifier;
mod classify;
pub mod config;
pub mod dataset;
mod features;
pub mod graph;
pub mod head;
pub mod image_files;
mod lists;
pub mod preprocess;
mod table;
mod tensors;
#[cfg(feature = "text")]
pub mod text;
mod tower;
pub mod variant;

pub use arch::Arch;
pub use classify::Score;
pub use config::{ConfigSource, ImageHints, Origin, Property, TowerConfig, TowerOptions, TowerValue};
pub use dataset::{Dataset, HeadLabels, OtherNames, Split};
pub use head::{Head, class_names, class_tasks, head_tasks, softmax, top_k};
pub use image_files::ImageFiles;
pub use preprocess::{Interpolation, PixelFormat, Pixels, Preprocess, ResizeMode};
pub use variant::{Activation, ArchHints, Epsilon, Pooling, Variant};
