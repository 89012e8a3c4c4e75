//! CLIP around the weights: pixels in, class scores out.

pub mod dataset;
pub mod head;
pub mod preprocess;
mod tensors;
