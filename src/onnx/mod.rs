//! ONNX models as data: the messages of the file format, users' own files, and nothing that runs them.

mod bind;
mod constant;
mod file;
pub mod proto;
pub(crate) mod stub;
mod rewrite;
mod rope;
mod wire;

pub use bind::{BindOptions, GraphMap, Mapped, bind, describe};
pub use file::{OnnxFile, Port};
