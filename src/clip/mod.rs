//! CLIP around the weights: the image encoder's architecture and graph, pixels in, class scores out.

pub mod arch;
mod classify;
pub mod dataset;
pub mod graph;
pub mod head;
pub mod image_files;
pub mod preprocess;
mod tensors;
#[cfg(feature = "text")]
pub mod text;
mod tower;

pub use arch::{Activation, Arch, ArchHints};
pub use classify::Score;
pub use dataset::{Dataset, HeadLabels, OtherNames, Split};
pub use head::{Head, class_names, class_tasks, head_tasks, softmax, top_k};
pub use image_files::ImageFiles;
pub use preprocess::{PixelFormat, Pixels, Preprocess};
