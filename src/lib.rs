//! taskbasis: many fine-tuned CLIP tasks from one compressed basis.

pub mod clip;
pub mod encoder;
pub mod error;
pub mod kernel;
pub mod mmap;
pub mod onnx;
pub mod tensor;

pub use clip::{Activation, Arch, ArchHints};
pub use encoder::{Encoder, EncoderOptions, Runtime, WeightSource};
pub use error::{Error, ErrorKind, Result};
pub use mmap::{MapMode, Mapping};
pub use tensor::{DType, Tensor};
