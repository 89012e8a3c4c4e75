//! ONNX models as data: the messages of the file format, users' own files, and nothing that runs them.

mod attributes;
mod bind;
mod bound;
mod byte_chain;
mod constant;
mod embedded;
pub(crate) mod emit;
mod extract;
mod file;
mod halves;
mod linear;
mod node;
pub(crate) mod own;
mod rewrite;
mod sniff;
mod sorted;
mod types;
mod wire;

pub use bind::{BindOptions, GraphMap, Mapped, bind, describe};
pub use bound::BoundGraph;
pub(crate) use bound::Stored;
pub use extract::{Extracted, ExtractedTensor, NameSource, extract};
pub use file::{OnnxFile, Port};
pub(crate) use types::{TensorType, type_name};
