//! taskbasis: many fine-tuned CLIP tasks from one compressed basis.

pub mod clip;
pub mod error;
pub mod mmap;
mod suggest;
pub mod tensor;

pub use error::{Error, ErrorKind, Result};
pub use mmap::{MapMode, Mapping};
pub use tensor::{DType, Tensor};
