//! taskbasis: many fine-tuned CLIP tasks from one compressed basis.

pub mod checkpoint;
pub mod error;
pub mod mmap;
pub mod tensor;

pub use checkpoint::Checkpoint;
pub use error::{Error, ErrorKind, Result};
pub use mmap::{MapMode, Mapping};
pub use tensor::{DType, Tensor};
