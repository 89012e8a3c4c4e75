//! taskbasis: many fine-tuned CLIP tasks from one compressed basis.

pub mod error;
pub mod kernel;
pub mod mmap;
pub mod tensor;

pub use error::{Error, ErrorKind, Result};
pub use mmap::{MapMode, Mapping};
pub use tensor::{DType, Tensor};
